"""The largest Hessian eigenvalue of every module's A and B at a method's start, relative to LoRA's:
the table by which 2602.04998 explains learning rates, on a model and solutions at hand.

Rank 128, alpha = r, float32, the mean loss of the solutions' tokens, Lanczos as in
`rlvr.analysis.curvature`. "gradient" is no method but the largest singular value of the gradient of
W: where B = 0, that of the mixed part of LoRA's Hessian, by A and B.

Values are written as they come, by model and examples, and one that is there is not computed again:
the command goes on where it was stopped. LoRA-GA starts from 2 r directions of a gradient:
`--kinds` leaves out narrower modules.
Run: python -m tests.benchmarks.curvature_table MODEL --examples 8 --json FILE
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor
from torch.nn import Parameter

from rlvr.adapters.merge import plain_name
from rlvr.analysis.curvature import hessian_product, lanczos, token_losses
from rlvr.analysis.stream import layer_of
from rlvr.config.adapter import ALL_LINEAR
from rlvr.config.sft import ExamplesConfig
from rlvr.config.train import AdapterConfig, ModelConfig
from rlvr.data.sft_examples import IGNORED, load_examples
from rlvr.policy.language_model import load_tokenizer
from rlvr.policy.packing import TokenRow
from rlvr.policy.policy import Policy, load_policy

METHODS = ("lora", "gradient", "dora", "init_ab", "milora", "pissa", "olora", "lora_ga")
PUBLISHED = {
    "init_ab": "1.75",
    "milora": "2.2",
    "pissa": "10 to 12",
    "olora": "60",
    "lora_ga": "60",
}
"""Medians relative to LoRA's. Source: 2602.04998, Qwen3-0.6B."""
RANK = 128
TOKENS = 4096
"""Positions of a loss whose graph is kept between products."""


def read_rows(
    path: str, data: str, max_len: int, count: int
) -> tuple[list[TokenRow], list[list[int]]]:
    """(solutions with their prompts, the same as whole sequences): the first `count` of the data
    with at most `max_len` tokens."""
    tokenizer = load_tokenizer(ModelConfig(path=path, max_len=max_len), path)
    config = ExamplesConfig(
        path=data, prompt_field="problem", response_field="solution", on_bad_row="skip"
    )
    rows = []
    for row in load_examples(config, tokenizer, max_len, seed=0).rows[:count]:
        num_prompt = row["labels"].count(IGNORED)
        rows.append(TokenRow(row["input_ids"][:num_prompt], row["input_ids"][num_prompt:]))
    return rows, [row.prompt_ids + row.response_ids for row in rows]


def load(args: argparse.Namespace, method: str, sequences: list[list[int]]) -> Policy:
    """The policy at the method's start, its attention differentiable twice. Modules of other kinds
    have no adapter: at a start that keeps W they change nothing."""
    model = ModelConfig(path=args.model, dtype="float32", max_len=args.max_len)
    adapter = AdapterConfig(method=method, rank=RANK, alpha=RANK, target_modules=args.kinds)
    policy = load_policy(model, adapter, args.model, 0, False, encode_rows=lambda _: sequences)
    policy.causal_lm.set_attn_implementation("sdpa")
    return policy


def adapted(policy: Policy, layers: Sequence[int]) -> dict[str, Any]:
    """The adapted modules in these layers, by their names in the plain model."""
    return {
        plain_name(name): module
        for name, module in policy.model.named_modules()
        if isinstance(module, BaseTunerLayer) and layer_of(f"{plain_name(name)}.") in layers
    }


def factors(module: Any) -> list[Parameter]:
    """A and B of a module; DoRA's magnitudes stay out."""
    return [
        parameter
        for key, parameter in module.named_parameters()
        if "lora_A.default" in key or "lora_B.default" in key
    ]


def gradient_norm(losses: Sequence[Callable[[], Tensor]], weight: Parameter) -> float:
    """The largest singular value of the gradient of W."""
    parts = [torch.autograd.grad(loss(), weight)[0] for loss in losses]
    return float(torch.linalg.matrix_norm(torch.stack(parts).sum(0), 2))


def measure(args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Eigenvalues by method and module."""
    rows, sequences = read_rows(args.model, args.data, args.max_len, max(args.examples, 64))
    rows = rows[: args.examples]
    num_tokens = sum(len(row.response_ids) for row in rows)
    on = f"{args.model}: {len(rows)} examples, {num_tokens} tokens of responses"
    kept = json.loads(args.json.read_text()) if args.json.exists() else {}
    values: dict[str, dict[str, float]] = kept.setdefault(on, {})
    print(on)
    for method in args.methods:
        policy = load(args, "lora" if method == "gradient" else method, sequences)
        done = values.setdefault(method, {})
        for name, module in adapted(policy, args.layers).items():
            if name in done:
                continue
            weight = module.get_base_layer().weight
            params = [weight] if method == "gradient" else factors(module)
            policy.model.requires_grad_(False)
            for parameter in params:  # these alone: every other one would enlarge the graph
                parameter.requires_grad_(True)
            losses = token_losses(policy, rows, TOKENS)
            if method == "gradient":
                done[name], said = gradient_norm(losses, weight), ""
            else:
                found = lanczos(hessian_product(losses, params), params)
                done[name] = found.value
                said = f"{found.iterations:3}" if found.converged else "not converged"
            args.json.write_text(json.dumps(kept, indent=1))
            print(f"{method:8} {name:40} {done[name]:10.4g} {said}", flush=True)
    return values


def summary(values: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    """A row per method and kind of module: median and quartiles of the ratios to LoRA's, where
    those are known."""
    rows = []
    lora = values.get("lora", {})
    for method, found in values.items():
        by_kind = defaultdict(list)
        for name in found.keys() & lora.keys():
            ratio = found[name] / lora[name]
            by_kind[name.rpartition(".")[2]].append(ratio)
            by_kind["all"].append(ratio)
        for kind, ratios in sorted(by_kind.items()):
            low, middle, high = np.quantile(ratios, (0.25, 0.5, 0.75)).tolist()
            rows.append(
                {"method": method, "kind": kind, "modules": len(ratios), "median": middle}
                | {"quartiles": [low, high]}
            )
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    """Prints every value as it comes, then the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--data", default="gsm8k_train_solutions.jsonl")
    parser.add_argument("--examples", type=int, default=8)
    parser.add_argument("--max-len", type=int, default=160, help="tokens; longer ones are left out")
    parser.add_argument("--layers", type=int, nargs="+", default=[3, 15, 27])
    parser.add_argument("--kinds", nargs="+", default=list(ALL_LINEAR), help="of modules")
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--json", type=Path, required=True)
    rows = summary(measure(parser.parse_args(argv)))
    for row in rows:
        low, high = row["quartiles"]
        said = PUBLISHED.get(row["method"], "") if row["kind"] == "all" else ""
        print(
            f"{row['method']:8} {row['kind']:10} {row['modules']:3}"
            f" {row['median']:8.3g} [{low:.3g}, {high:.3g}] {said}"
        )


if __name__ == "__main__":
    main()
