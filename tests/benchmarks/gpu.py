"""The update on a GPU: tokens per second, MFU, padding and memory, against trl's GRPOTrainer.

Needs no network and no files: a random Qwen2 of DeepSeek-R1-Distill-Qwen-1.5B's shape in bfloat16,
random tokens, log-normal response lengths. Run: python -m tests.benchmarks.gpu [--json FILE]
[--methods lora full] [--checkpointing 0] [--compile] [--no-trl]; --tiny is a test of the script
itself, on any machine.

FLOPs are those that the rows need, each prompt of a group once, nothing recomputed or padded:
6 x (weights of the layers) x tokens + 6 x (weights of the head) x response tokens
+ 6 x layers x hidden size x sum over rows of length^2 (causal attention), the prompt's square once
per group. With adapters 4 replaces the first two 6: frozen weights get no gradient. MFU is that
over the seconds and the GPU's dense bfloat16 peak.
"""

import argparse
import gc
import json
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from rlvr.adapters import get_method
from rlvr.adapters.base import Setup
from rlvr.attention import use_packing
from rlvr.batch import StepBatch, make_batch
from rlvr.config import TrainRecipe
from rlvr.entropy import EntropyControl
from rlvr.policy import Policy
from rlvr.recipe import validate
from rlvr.rollout.engine import Response
from rlvr.sampler import Group
from rlvr.update import update

PEAK_FLOPS = {"H200": 989e12, "H100 PCIe": 756e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12}
"""Dense bfloat16 FLOP/s by a part of the GPU's name, from the vendor's data sheets."""
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@dataclass(frozen=True)
class Case:
    """Sizes of model and step. median_len, sigma, max_len: of the log-normal response lengths."""

    hidden_size: int = 1536
    intermediate_size: int = 8960
    num_layers: int = 28
    num_heads: int = 12
    num_kv_heads: int = 2
    vocab_size: int = 151_936
    num_groups: int = 8
    group_size: int = 8
    prompt_len: int = 200
    median_len: int = 3000
    sigma: float = 1.0
    max_len: int = 16_384
    max_tokens: int = 16_384
    dtype: str = "bfloat16"


TINY = Case(32, 64, 2, 4, 2, 128, 2, 4, 8, 12, 1.0, 64, 64, "float32")


def make_recipe(case: Case, method: str, args: argparse.Namespace) -> TrainRecipe:
    """DAPO, on-policy; LoRA of rank 32 on all seven modules, or all weights."""
    tree = {
        "model": {"path": "random", "dtype": case.dtype, "max_len": 2 * case.max_len},
        "data": {"path": "random.jsonl"},
        "rollout": {
            "prompts_per_step": case.num_groups,
            "group_size": case.group_size,
            "max_response_len": case.max_len,
        },
        "algorithm": {"preset": "dapo"},
        "adapter": {"method": method},
        "optim": {"lr": 1e-6},
        "train": {
            "steps": 1,
            "tokens_per_microbatch": case.max_tokens,
            "activation_checkpointing": args.checkpointing,
            "compile": args.compile,
        },
    }
    return validate(tree, TrainRecipe)


def make_model(case: Case, dtype: torch.dtype) -> Any:
    """A random Qwen2 with an untied head, on the device."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=case.vocab_size,
        hidden_size=case.hidden_size,
        intermediate_size=case.intermediate_size,
        num_hidden_layers=case.num_layers,
        num_attention_heads=case.num_heads,
        num_key_value_heads=case.num_kv_heads,
        max_position_embeddings=2 * case.max_len,
        tie_word_embeddings=False,
        dtype=dtype,
    )
    torch.manual_seed(0)
    with torch.device(DEVICE):
        return Qwen2ForCausalLM(config).to(dtype)


def make_groups(case: Case) -> list[Group]:
    """Groups of random tokens; half of each is right, so that every response is trained on."""
    draw = random.Random(0)

    def tokens(count: int) -> list[int]:
        return [draw.randrange(8, case.vocab_size) for _ in range(count)]

    def response() -> Response:
        length = min(case.max_len, 1 + int(case.median_len * draw.lognormvariate(0, case.sigma)))
        return Response(tokens(length), [-12.0] * length, length == case.max_len)

    rewards = [float(i % 2) for i in range(case.group_size)]
    reasons = ["correct" if r else "wrong" for r in rewards]
    return [
        Group(
            f"p{i}",
            tokens(case.prompt_len),
            [response() for _ in rewards],
            rewards,
            reasons,
            step=0,
        )
        for i in range(case.num_groups)
    ]


def needed_flops(case: Case, groups: Sequence[Group], method: str) -> float:
    """FLOPs of one update, as the module's text counts them."""
    size, wide = case.hidden_size, case.intermediate_size
    kv_size = size * case.num_kv_heads // case.num_heads
    layer_weights = 2 * size * size + 2 * size * kv_size + 3 * size * wide
    tokens, responses, squares = 0, 0, 0
    for group in groups:
        prompt = len(group.prompt_ids)
        lengths = [len(r.token_ids) for r in group.responses]
        tokens += prompt + sum(lengths)
        responses += sum(lengths)
        squares += prompt**2 + sum((prompt + n) ** 2 - prompt**2 for n in lengths)
    factor = 6 if method == "full" else 4
    dense = layer_weights * case.num_layers * tokens + case.vocab_size * size * responses
    return factor * dense + 6 * case.num_layers * size * squares


def measure_ours(
    case: Case, method: str, groups: Sequence[Group], args: argparse.Namespace
) -> dict[str, Any]:
    """Seconds of each update by this project, padding and peak memory."""
    recipe = make_recipe(case, method, args)
    found = get_method(recipe.adapter)
    base = make_model(case, getattr(torch, case.dtype))
    use_packing(base)
    model = found.apply(base, Setup(recipe.adapter, seed=0)).eval()
    dtype = getattr(torch, case.dtype)
    policy = Policy(model, None, found, recipe.adapter, dtype, DEVICE, "random")
    policy.set_checkpointing(recipe.train.activation_checkpointing)
    if recipe.train.compile:
        policy.compile_layers()
    optimizer = found.optimizer(model, recipe.adapter, recipe.optim)
    batch: StepBatch = make_batch(groups, policy, recipe)
    control = EntropyControl(recipe.algorithm)
    stats: dict[str, float] = {}

    def step() -> None:
        stats.update(update(policy, optimizer, batch, recipe, 0, control, lambda: None))

    seconds = timed(step, args.steps)
    return {"seconds": seconds, "padding_frac": stats["train/padding_frac"]} | peak_memory()


def measure_trl(
    case: Case, method: str, groups: Sequence[Group], args: argparse.Namespace
) -> dict[str, Any]:
    """The same by trl's own loss on the same rows, padded as trl pads a generation batch."""
    trainer = make_trainer(case, method, args)
    optimizer = torch.optim.AdamW(
        [p for p in trainer.model.parameters() if p.requires_grad], lr=1e-6, fused=True
    )
    inputs = padded_inputs(case, groups)
    num_rows, width = inputs["completion_ids"].shape[0], inputs["completion_ids"].shape[1]
    rows = max(1, case.max_tokens // (width + case.prompt_len))
    num_tokens = inputs["completion_mask"].sum()
    trainer.current_gradient_accumulation_steps = -(-num_rows // rows)
    trainer.args.steps_per_generation = trainer.current_gradient_accumulation_steps

    def step() -> None:
        for start in range(0, num_rows, rows):
            part = {name: value[start : start + rows] for name, value in inputs.items()}
            loss = trainer.compute_loss(trainer.model, part | {"num_items_in_batch": num_tokens})
            loss.backward()
        torch.nn.utils.clip_grad_norm_(
            [p for group in optimizer.param_groups for p in group["params"]], 1.0
        )
        optimizer.step()
        optimizer.zero_grad()

    seconds = timed(step, args.steps)
    real = sum(len(g.prompt_ids) + len(r.token_ids) for g in groups for r in g.responses)
    padding = 1 - real / (num_rows * (width + case.prompt_len))
    return {"seconds": seconds, "padding_frac": padding} | peak_memory()


def make_trainer(case: Case, method: str, args: argparse.Namespace) -> Any:
    """trl's GRPOTrainer around the same model, in training mode."""
    from datasets import Dataset
    from peft import LoraConfig
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast
    from trl import GRPOConfig, GRPOTrainer

    words = Tokenizer(models.WordLevel({"<pad>": 0, "<end>": 1, "w": 2}, unk_token="<pad>"))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="<end>"
    )
    half = case.dtype != "float32"
    modules = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    lora = LoraConfig(r=32, lora_alpha=64, target_modules=modules, task_type="CAUSAL_LM")
    config = GRPOConfig(
        output_dir="/tmp/trl_gpu_benchmark",
        per_device_train_batch_size=case.group_size,
        num_generations=case.group_size,
        max_completion_length=case.max_len,
        loss_type="dapo",
        epsilon_high=0.28,
        beta=0.0,
        bf16=half,
        use_cpu=DEVICE.type == "cpu",
        gradient_checkpointing=args.checkpointing > 0,
        report_to="none",
        disable_dropout=True,
    )
    # full fine-tuning by trl in mixed precision needs float32 weights, as ours keeps
    dtype = getattr(torch, case.dtype) if method == "lora" else torch.float32
    trainer: Any = GRPOTrainer(
        model=make_model(case, dtype),
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=config,
        train_dataset=Dataset.from_dict({"prompt": ["w"] * case.group_size}),
        processing_class=tokenizer,
        peft_config=lora if method == "lora" else None,
    )
    trainer.model.train()
    return trainer


def padded_inputs(case: Case, groups: Sequence[Group]) -> dict[str, torch.Tensor]:
    """One generation batch as trl holds it: every row as long as the longest."""
    rows = [(g.prompt_ids, r.token_ids) for g in groups for r in g.responses]
    width = max(len(response) for _, response in rows)
    completions = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for i, (_, response) in enumerate(rows):
        completions[i, : len(response)] = torch.tensor(response)
        mask[i, : len(response)] = 1
    prompts = torch.tensor([prompt for prompt, _ in rows])
    advantages = torch.tensor([2.0 * reward - 1 for g in groups for reward in g.rewards])
    inputs = {
        "prompt_ids": prompts,
        "prompt_mask": torch.ones_like(prompts),
        "completion_ids": completions,
        "completion_mask": mask,
        "advantages": advantages,
    }
    return {name: value.to(DEVICE) for name, value in inputs.items()}


def timed(step: Any, num_steps: int) -> list[float]:
    """Seconds of each step after one that is not counted."""
    seconds = []
    for _ in range(1 + num_steps):
        start = time.perf_counter()
        step()
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return seconds[1:]


def peak_memory() -> dict[str, float | None]:
    """The most GPU memory that this measurement has held, GiB; None without a GPU."""
    peak = torch.cuda.max_memory_allocated() / 2**30 if DEVICE.type == "cuda" else None
    return {"peak_gib": peak}


def clear() -> None:
    """Frees the last measurement's memory and forgets its peak."""
    gc.collect()
    if DEVICE.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table and writes it to --json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", help="file for the results")
    parser.add_argument("--methods", nargs="+", default=["full", "lora"], choices=["full", "lora"])
    parser.add_argument("--steps", type=int, default=3, help="updates measured")
    parser.add_argument(
        "--checkpointing", type=int, help="recompute every n-th layer; default: by GPU memory"
    )
    parser.add_argument("--compile", action="store_true", help="compile our decoder layers")
    parser.add_argument("--no-trl", action="store_true", help="measure ours only")
    parser.add_argument("--tiny", action="store_true", help="sizes for a test of this script")
    args = parser.parse_args(argv)
    if DEVICE.type == "cpu" and not args.tiny:
        parser.error("needs a CUDA device; --tiny runs anywhere")
    case, name = TINY if args.tiny else Case(), "CPU"
    if DEVICE.type == "cuda":
        properties = torch.cuda.get_device_properties(0)
        name = properties.name
        if args.checkpointing is None:
            args.checkpointing = int(properties.total_memory < 120 * 2**30)
    args.checkpointing = args.checkpointing or 0
    report(case, name, args)


def report(case: Case, name: str, args: argparse.Namespace) -> None:
    """Measures every method on both sides, and prints and writes what came out."""
    groups = make_groups(case)
    real = sum(len(g.prompt_ids) + len(r.token_ids) for g in groups for r in g.responses)
    sides = {"ours": measure_ours} | ({} if args.no_trl else {"trl": measure_trl})
    if "trl" in sides:
        try:
            import trl  # noqa: F401
        except ImportError as error:
            print(f"trl cannot be imported ({error}): measuring ours only")
            del sides["trl"]
    print(f"{name}, torch {torch.__version__}, {real} real tokens in {len(groups)} groups")
    print("method  side   seconds  tokens/s   MFU  padding  peak GiB")
    peak = next((flops for part, flops in PEAK_FLOPS.items() if part in name), None)
    results = []
    for method in args.methods:
        for side, measure in sides.items():
            clear()
            found = measure(case, method, groups, args)
            seconds = statistics.median(found["seconds"])
            mfu = needed_flops(case, groups, method) / seconds / peak if peak else None
            row = {"method": method, "side": side, "tokens_per_s": real / seconds, "mfu": mfu}
            results.append(row | found)
            shown = [f"{x:5.2f}" if x is not None else "    -" for x in (mfu, found["peak_gib"])]
            print(
                f"{method:6}  {side:5} {seconds:8.3f} {real / seconds:9.0f} {shown[0]}"
                f"   {found['padding_frac']:6.3f}     {shown[1]}"
            )
    if args.json:
        settings = {"checkpointing": args.checkpointing, "compile": args.compile}
        facts = {"device": name, "torch": torch.__version__, "case": asdict(case)} | settings
        with open(args.json, "w") as file:
            json.dump(facts | {"results": results}, file, indent=1)


if __name__ == "__main__":
    main()
