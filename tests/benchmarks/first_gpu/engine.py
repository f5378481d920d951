"""vLLM beside the trainer, on a random model of the 1.5B's shape."""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from rlvr.engines.engine import Engine, Request, SamplingParams
from tests.benchmarks.first_gpu.case import (
    CASES,
    DEVICE,
    TINY,
    make_groups,
    make_model,
    memory_now,
)
from tests.benchmarks.first_gpu.report import Report, Skip, need
from tests.rlvr import small

if TYPE_CHECKING:
    from rlvr.config.train import TrainRecipe
    from rlvr.policy.policy import Policy

LOGIT_STD = 6.0
"""A pretrained model's logits reach 15 to 30, where 16 bits round by up to 0.06."""


def write_model(folder: Path, tiny: bool) -> Path:
    """A random policy with logits as large as a pretrained model's, and a tokenizer beside it."""
    if tiny:
        return small.write_policy(folder, LOGIT_STD)
    from transformers import GenerationConfig

    from rlvr.data import word_problems
    from rlvr.warm_start import tiny_model

    model, case = make_model(CASES["1.5b"], torch.bfloat16), CASES["1.5b"]
    texts = [row["problem"] for row in word_problems.generate("sft", 300, seed=0)]
    tokenizer = tiny_model.build_tokenizer(texts, context_len=case.max_len)
    ids = torch.arange(64, device=DEVICE).unsqueeze(0)
    with torch.no_grad():
        model.lm_head.weight *= LOGIT_STD / float(model(ids).logits.float().std())
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    model.generation_config = GenerationConfig(**ends)
    for name, value in ends.items():
        setattr(model.config, name, value)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_recipe(folder: Path, tiny: bool, method: str, sync: str) -> TrainRecipe:
    """A recipe over the model in `folder` with vLLM in this process."""
    from rlvr.config.toml import validate
    from rlvr.config.train import TrainRecipe

    sizes = {"dtype": "float32", "max_len": 160} if tiny else {"dtype": "bfloat16", "max_len": 2048}
    rollout = {"engine": "vllm", "sync": sync, "max_response_len": 32 if tiny else 1024}
    rollout |= {"kv_cache_gib": 1} if tiny else {"gpu_memory_utilization": 0.3}
    tree = small.recipe_tree(
        folder,
        small.write_problems(folder / "problems.jsonl"),
        model=sizes,
        rollout=rollout,
        optim={"lr": 1e-5},
    )
    rank = 4 if tiny else 32
    tree["adapter"] = {"method": method} | ({} if method == "full" else {"rank": rank})
    return validate(tree, TrainRecipe)


def probe(report: Report, tiny: bool, method: str) -> None:
    """A sync at step 0, the sampled tokens under both, decoding speed, and a sync after an update
    with everything read back. lora: as an adapter; else merged weights."""
    need("vllm")
    _need_gpu(tiny)
    from rlvr.engines.weights.arrival import compare, expected
    from rlvr.engines.weights.sync import Syncer
    from rlvr.policy.policy import load_policy
    from rlvr.training.build import new_engine

    mode = "adapter" if method == "lora" else "merged"
    with tempfile.TemporaryDirectory() as temporary:
        folder = write_model(Path(temporary) / "policy", tiny)
        recipe = make_recipe(folder, tiny, method, mode)
        policy = load_policy(recipe.model, recipe.adapter, str(folder), 0, keep_reference=False)
        start = time.perf_counter()
        engine = new_engine(recipe, policy, use_vllm=True, mode=mode)
        report(engine_start_s=time.perf_counter() - start, **memory_now())
        prompts = _prompts(8 if tiny else 256)
        syncer = Syncer(recipe.rollout, policy, engine, mode, prompts)
        stats = asdict(syncer.sync())
        report(sync=stats)
        sampled = sampled_difference(policy, engine, prompts[:64], 16 if tiny else 256)
        report(sampled=sampled)
        speed = decoding_speed(engine, prompts, 16 if tiny else 512)
        report(decoded_tokens_per_s=speed)
        _move(policy, prompts[:8])
        stats = asdict(syncer.sync(1))
        found = compare(expected(policy, mode, everything=True), engine)
        report(
            sync_after_update=stats,
            arrival={name: list(names) for name, names in asdict(found).items()},
            headline=", ".join(
                f"{name} {sampled[name]:.2g}" for name in ("kl", "mean", "p99", "max")
            )
            + f" nats; {speed:,.0f} tokens/s decoded; of {len(found.modules)} modules"
            f" {len(found.differing)} differ, {len(found.unread)} cannot be read",
        )
        engine.close()
    if found.differing:
        raise RuntimeError(f"other weights in the engine: {', '.join(found.differing[:8])}")


def _need_gpu(tiny: bool) -> None:
    if DEVICE.type == "cpu" and not tiny:
        raise Skip("no CUDA device")


def _prompts(count: int) -> list[list[int]]:
    """Random tokens of the tiny tokenizer; other lengths, so that rows of a batch differ."""
    draw = random.Random(0)
    return [[draw.randrange(8, 300) for _ in range(16 + i % 32)] for i in range(count)]


@torch.no_grad()
def sampled_difference(
    policy: Policy, engine: Engine, prompts: Sequence[list[int]], max_len: int
) -> dict[str, Any]:
    """How far both are apart on tokens that the engine has sampled (nats): kl (k3, engine to
    trainer), mean, p99 and max of the absolute differences, and the tokens that differ most."""
    from rlvr.policy.packing import TokenRow

    requests = [Request(prompt, seed) for seed, prompt in enumerate(prompts)]
    responses = engine.generate(requests, SamplingParams(max_len=max_len))
    ours = [
        policy.logprobs([TokenRow(prompt, response.token_ids)], 1.0)[0].float().cpu()
        for prompt, response in zip(prompts, responses, strict=True)
    ]
    theirs = torch.tensor([p for response in responses for p in response.logprobs])
    apart = torch.cat(ours) - theirs
    places = [
        (n, i) for n, response in enumerate(responses) for i in range(len(response.token_ids))
    ]
    worst = apart.abs().topk(min(8, len(apart))).indices.tolist()
    return {
        "tokens": len(apart),
        "kl": float((apart.exp() - 1 - apart).mean()),
        "mean": float(apart.abs().mean()),
        "p99": float(torch.quantile(apart.abs(), 0.99)),
        "max": float(apart.abs().max()),
        "worst": [
            {
                "token": responses[places[k][0]].token_ids[places[k][1]],
                "position": places[k][1],
                "engine": float(theirs[k]),
                "trainer": float(theirs[k] + apart[k]),
            }
            for k in worst
        ],
    }


def decoding_speed(engine: Engine, prompts: Sequence[list[int]], max_len: int) -> float:
    """Tokens per second of sampling one response to each prompt."""
    requests = [Request(prompt, seed) for seed, prompt in enumerate(prompts)]
    start = time.perf_counter()
    responses = engine.generate(requests, SamplingParams(max_len=max_len))
    return sum(len(r.token_ids) for r in responses) / (time.perf_counter() - start)


def _move(policy: Policy, prompts: Sequence[list[int]]) -> None:
    """One step of AdamW at 1e-5."""
    from rlvr.policy.packing import TokenRow

    optimizer = torch.optim.AdamW(policy.trainable, lr=1e-5)
    policy.logprobs([TokenRow(p[:1], p[1:]) for p in prompts], 1.0)[0].mean().backward()
    optimizer.step()


def switch(report: Report, tiny: bool) -> None:
    """lora, dora and full one after another with the engine that `rlvr compare` keeps warm, an
    update and two syncs each; memory at work and when all is closed."""
    need("vllm")
    _need_gpu(tiny)
    from rlvr.compare.execution.warm_engine import WarmEngine

    rows: list[dict[str, Any]] = []
    warm = WarmEngine()
    with tempfile.TemporaryDirectory() as temporary:
        folder = write_model(Path(temporary) / "policy", tiny)
        rows.append({"after": "the model was written", **memory_now()})
        for method in ("lora", "dora", "full"):
            sync = "adapter" if method == "lora" else "merged"
            recipe = make_recipe(folder, tiny, method, sync)
            rows.append({"after": f"{method} at work", **one_update(recipe, tiny, warm)})
            rows.append({"after": f"{method} closed", **memory_now()})
            report(rows=rows)
        warm.close()
    rows.append({"after": "the engine closed", **memory_now()})
    held = [f"{row['after']} {row['card_gib']}" for row in rows if "card_gib" in row]
    report(rows=rows, headline=f"GiB on the card: {', '.join(held)}" if held else "three methods")


def one_update(recipe: TrainRecipe, tiny: bool, start_engine: Any) -> dict[str, Any]:
    """A sync, an update on random rows, another sync; its numbers and the memory held then."""
    from rlvr.training.batch import UpdateConfig, make_batch
    from rlvr.training.build import build
    from rlvr.training.update import update

    start = time.perf_counter()
    training = build(recipe, str(recipe.model.path), start_engine)
    built_s = time.perf_counter() - start
    training.engine.syncer.sync()
    case = replace(CASES["1.5b"], num_groups=2, group_size=4, median_len=200, max_len=400)
    config = UpdateConfig.of(recipe)
    batch = make_batch(make_groups(TINY if tiny else case), training.policy, config)
    update(training.policy, training.optimizer, batch, config, 0, training.entropy)
    stats = training.engine.sync(1)
    found = {"built_s": built_s, "sync": asdict(stats)} | memory_now()
    training.close()
    return found
