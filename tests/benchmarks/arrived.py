"""What share of an update reaches an engine in bfloat16, by method and by the way it goes there.

One decoder layer of half the 1.5B's width with random weights (standard deviation 0.02, norms 1) in
bfloat16, trained by AdamW at 1e-5 on a policy gradient: fixed drawn tokens with an advantage of +1
or -1 each row. Everything is computed by rlvr's own syncs; only the engine's forward pass is
replaced by transformers in float32, so that nothing but the weights differs.

    python -m tests.benchmarks.arrived --json arrived.json
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlvr.adapters.merge import merged_weights, plain_name
from rlvr.config.train import AdapterConfig, ModelConfig, OptimConfig
from rlvr.engines.weights.arrival import meant_and_served
from rlvr.engines.weights.cast import Cast
from rlvr.engines.weights.fidelity import Merged, adapter_frac
from rlvr.policy.policy import Policy, TokenRow, load_policy
from tests.benchmarks.facts import facts

METHODS = ("lora", "dora", "miss", "vera", "ia3", "ln_tuning")
STEPS = (1, 10, 100)
LR = 1e-5
VOCABULARY, NUM_ROWS, ROWS_PER_STEP, ROW_LEN = 512, 64, 16, 8
State = dict[str, Tensor]


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table and writes it to --json."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path, help="file for the results")
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--steps", nargs="+", type=int, default=list(STEPS))
    parser.add_argument("--hidden", type=int, default=768, help="width; 35/6 of it in the MLP")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        _write_base(Path(folder), args.hidden)
        rows = [row for name in args.methods for row in measure(folder, name, args.steps)]
    print(table(rows))
    if args.json:
        args.json.write_text(json.dumps({"results": rows} | facts(argv), indent=1))


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown."""
    lines = [
        "| method | way | steps | arrived_frac | share | moved, nats | off, nats |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for r in rows:
        numbers = f"{r['frac']:.3g} | {r['share']:.3f} | {r['moved']:.1e} | {r['off']:.1e}"
        lines.append(f"| `{r['method']}` | {r['way']} | {r['steps']} | {numbers} |")
    return "\n".join(lines)


def _write_base(folder: Path, hidden: int) -> None:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from rlvr.data import word_problems
    from rlvr.warm_start.tiny_model import build_tokenizer

    torch.manual_seed(0)
    shape = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        intermediate_size=hidden * 35 // 6,
        num_hidden_layers=1,
        num_attention_heads=12,
        num_key_value_heads=2,
        tie_word_embeddings=False,
    )
    Qwen2ForCausalLM(shape).to(torch.bfloat16).save_pretrained(folder)
    texts = [row["problem"] for row in word_problems.generate("sft", 300, seed=0)]
    build_tokenizer(texts).save_pretrained(folder)


def measure(folder: str, method: str, steps: Sequence[int]) -> Iterator[dict[str, Any]]:
    """A row for every way of the method after each of these numbers of updates."""
    model = ModelConfig(path=folder, dtype="bfloat16", max_len=64)
    policy = load_policy(model, AdapterConfig(method=method), folder, 0, keep_reference=False)
    base = {k: v.float() for k, v in merged_weights(policy.model, everything=True, adapted=False)}
    fracs = Merged(policy)
    optimizer = policy.method.optimizer(policy.model, policy.adapter, OptimConfig(lr=LR))
    data = _rows()
    before = _logprobs(folder, {}, data)
    for step in range(1, max(steps) + 1):
        _update(policy, optimizer, data, step)
        if step not in steps:
            continue
        meant = {name: value.float() for name, value in policy.engine_weights()}
        wanted = _logprobs(folder, meant, data)
        for way, frac, arrived in _ways(policy, fracs, base, step):
            yield {
                "method": method,
                "way": way,
                "steps": step,
                "frac": frac,
                "share": _share(arrived, meant, base),
                "moved": float((wanted - before).abs().mean()),
                "off": float((_logprobs(folder, arrived, data) - wanted).abs().mean()),
            }


def _rows() -> tuple[list[TokenRow], Tensor]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(8, VOCABULARY // 2, (NUM_ROWS, 2 * ROW_LEN), generator=generator).tolist()
    signs = torch.where(torch.arange(NUM_ROWS) % 2 == 0, 1.0, -1.0)
    return [TokenRow(row[:ROW_LEN], row[ROW_LEN:]) for row in ids], signs


def _update(policy: Policy, optimizer: Any, data: tuple[list[TokenRow], Tensor], step: int) -> None:
    rows, signs = data
    taken = [(ROWS_PER_STEP * step + i) % NUM_ROWS for i in range(ROWS_PER_STEP)]
    logp_T = policy.logprobs([rows[i] for i in taken], 1.0)[0]
    (-(logp_T * signs[taken].repeat_interleave(ROW_LEN)).mean()).backward()
    optimizer.step()
    optimizer.zero_grad()


@torch.no_grad()
def _ways(
    policy: Policy, fracs: Merged, base: State, step: int
) -> Iterator[tuple[str, float, State]]:
    """(way, sync/arrived_frac, the weights that the engine then computes with)."""
    for rounding in ("nearest", "stochastic"):
        cast = Cast(torch.bfloat16, rounding, step=step)
        sent = dict(fracs.watch(policy.engine_weights(), cast))
        yield rounding, fracs.frac, {k: v.bfloat16().float() for k, v in sent.items()}
    if "adapter" in policy.method.syncs:
        from rlvr.adapters.export import low_rank_layers

        served = {}
        for name, layer in low_rank_layers(policy.model).items():
            _, (a, b) = meant_and_served(policy, layer)
            weight = f"{plain_name(name)}.weight"
            served[weight] = base[weight] + b.float() @ a.float()
        yield "adapter", adapter_frac(policy), served


def _share(arrived: State, meant: State, base: State) -> float:
    """Projection of what arrived on what was meant: 1 where it arrived on average."""
    both = [(arrived[n] - base[n], meant[n] - base[n]) for n in arrived.keys() & meant.keys()]
    along = sum(float((a * m).double().sum()) for a, m in both)
    return along / sum(float(m.double().square().sum()) for _, m in both)


@torch.no_grad()
def _logprobs(folder: str, weights: State, data: tuple[list[TokenRow], Tensor]) -> Tensor:
    """[T] of all responses, by transformers in float32 with these weights instead of the base's."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.load_state_dict(weights, strict=False)
    ids = torch.tensor([row.prompt_ids + row.response_ids for row in data[0]])
    logits = model(ids).logits[:, ROW_LEN - 1 : -1].log_softmax(dim=-1)
    return logits.gather(2, ids[:, ROW_LEN:].unsqueeze(2)).flatten()


if __name__ == "__main__":
    main()
