"""Decoding on a CPU beside an adapter: tokens multiplied by adapter, against vLLM's own way, which
copies the adapter for every token, and against the model without one.

One engine with a LoRA of rank 32 on all linear layers, 64 responses at a time; the three alternate.
Run: python -m tests.benchmarks.adapter_decoding MODEL [--json FILE]
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

from rlvr.config.train import TrainRecipe
from rlvr.engines.vllm_local import VllmEngine
from rlvr.policy.policy import load_policy
from tests.benchmarks.decoding import SEQUENCES, make_requests, tokens_per_s

RANK = 32
OWN = PunicaWrapperCPU.add_lora_linear


def main(argv: Sequence[str] | None = None) -> None:
    """Prints tokens/s of each way after the prompts, and the medians of ratios, turn by turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--json", type=Path, help="file for the results")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--length", type=int, default=48, help="tokens of a response")
    args = parser.parse_args(argv)
    recipe = TrainRecipe.model_validate(
        {
            "model": {"path": args.model, "max_len": 512, "dtype": "float32"},
            "data": {"path": "none"},
            "adapter": {"method": "lora", "rank": RANK},
            "optim": {"lr": 1e-5},
            "train": {"steps": 1},
            "rollout": {"engine": "vllm", "sync": "adapter", "max_num_seqs": SEQUENCES},
        }
    )
    policy = load_policy(recipe.model, recipe.adapter, args.model, 0, keep_reference=False)
    for parameter in policy.trainable:
        torch.nn.init.normal_(parameter, std=0.01)
    engine = VllmEngine(recipe.model, recipe.rollout, args.model, max_lora_rank=RANK)
    ours = PunicaWrapperCPU.add_lora_linear
    with tempfile.TemporaryDirectory() as folder:
        policy.save_for_engine(Path(folder))
        engine.load_adapter(Path(folder))
    adapter = engine._adapter
    requests = make_requests(args.model)
    ways = {"by adapter": (ours, adapter), "vLLM's": (OWN, adapter), "no adapter": (ours, None)}

    def speed(way: str) -> float:
        PunicaWrapperCPU.add_lora_linear, engine._adapter = ways[way]
        return tokens_per_s(engine, requests, args.length)

    speed("by adapter")
    turns = [{way: speed(way) for way in ways} for _ in range(args.repeats)]
    engine.close()
    result = {
        "tokens_per_s": {way: statistics.median(turn[way] for turn in turns) for way in ways},
        "of_vllms": statistics.median(turn["by adapter"] / turn["vLLM's"] for turn in turns),
        "of_no_adapter": statistics.median(
            turn["by adapter"] / turn["no adapter"] for turn in turns
        ),
    }
    print(json.dumps(result, indent=1))
    if args.json:
        args.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
