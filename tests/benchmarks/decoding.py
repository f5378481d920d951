"""Decoding on a CPU by inverse transform sampling, against vLLM's own sampler.

One engine with a model of a real vocabulary, 64 responses at a time; the samplers alternate. The
log-probabilities that both give for the logits of one step are compared too.
Run: python -m tests.benchmarks.decoding MODEL [--json FILE]
"""

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoTokenizer

from rlvr.config.train import TrainRecipe
from rlvr.engines.engine import Request, SamplingParams
from rlvr.engines.vllm_local import VllmEngine

SEQUENCES = 64


def make_engine(path: str) -> tuple[VllmEngine, Any]:
    """An engine for the model, and vLLM's module that draws its tokens."""
    recipe = TrainRecipe.model_validate(
        {
            "model": {"path": path, "max_len": 512, "dtype": "float32"},
            "data": {"path": "none"},
            "optim": {"lr": 1e-5},
            "train": {"steps": 1},
            "rollout": {"engine": "vllm", "max_num_seqs": SEQUENCES},
        }
    )
    engine = VllmEngine(recipe.model, recipe.rollout, path, max_lora_rank=None)
    runner = engine._llm.collective_rpc(lambda worker: worker.model_runner)[0]
    return engine, runner.sampler.topk_topp_sampler


def make_requests(path: str) -> list[Request]:
    """Responses to one problem, with seeds of their own."""
    prompt = AutoTokenizer.from_pretrained(path)(
        "Tom has 12 apples and buys 30 more. How many apples does he have now?"
    )["input_ids"]
    return [Request(prompt, seed) for seed in range(SEQUENCES)]


def tokens_per_s(engine: VllmEngine, requests: Sequence[Request], length: int) -> float:
    """Tokens per second of responses that are up to `length` long, after the prompts."""
    session, num_tokens = engine.open(SamplingParams(length, 0.8)), -len(requests)
    session.add(requests)
    session.step()  # reads the prompts, and draws the first token of each
    start = time.perf_counter()
    while session.num_running:
        num_tokens += sum(len(response.token_ids) for _, response in session.step())
    return num_tokens / (time.perf_counter() - start)


def logprob_difference(engine: VllmEngine, sampler: Any, requests: Sequence[Request]) -> float:
    """Largest difference, nats, between the log-probabilities of both for one step's logits."""
    seen: list[torch.Tensor] = []
    ours = sampler.forward

    def kept(logits: torch.Tensor, *rest: Any) -> Any:
        seen.append(logits.clone())
        return ours(logits, *rest)

    sampler.forward = kept
    engine.generate(requests, SamplingParams(2))
    sampler.forward = ours
    both = [draw(seen[-1].clone(), {}, None, None)[1] for draw in (ours, sampler.forward_cpu)]
    sampler.forward = ours
    return float((both[0] - both[1]).abs().max())


def main(argv: Sequence[str] | None = None) -> None:
    """Prints tokens/s of both after the prompts, and the median of their ratio, pair by pair."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--json", help="file for the results")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--length", type=int, default=48, help="tokens of a response")
    args = parser.parse_args(argv)
    engine, sampler = make_engine(args.model)
    requests = make_requests(args.model)
    ways = {"inverse transform": sampler.forward, "exponential": sampler.forward_cpu}
    difference = logprob_difference(engine, sampler, requests)

    def speed(way: str) -> float:
        sampler.forward = ways[way]
        return tokens_per_s(engine, requests, args.length)

    speed("exponential")
    pairs = [tuple(map(speed, ways)) for _ in range(args.repeats)]
    ratios = [ours / theirs for ours, theirs in pairs]
    result = {
        "tokens_per_s": {
            way: statistics.median(column)
            for way, column in zip(ways, zip(*pairs, strict=True), strict=True)
        },
        "speed_ratio": statistics.median(ratios),
        "speed_ratios": ratios,
        "logprob_difference": difference,
    }
    engine.close()
    print(json.dumps(result, indent=1))
    if args.json:
        with open(args.json, "w") as file:
            json.dump(result, file, indent=1)


if __name__ == "__main__":
    main()
