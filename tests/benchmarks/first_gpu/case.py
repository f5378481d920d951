"""Random models and rows of published shapes, and the clock: the same for this project and trl."""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from rlvr.engines.engine import Response
from rlvr.policy.flops import ModelDims, Work, update_cost
from rlvr.policy.packing import TokenRow
from rlvr.sampling.rollouts import Group

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@dataclass(frozen=True, kw_only=True)
class Case:
    """Sizes of model and step; without arguments DeepSeek-R1-Distill-Qwen-1.5B's.

    median_len, sigma, max_len: of the log-normal response lengths. max_tokens: of a micro-batch.
    checkpointing: every n-th layer recomputed; None: all of them below 120 GiB of GPU memory.
    """

    model_type: str = "qwen2"
    hidden_size: int = 1536
    intermediate_size: int = 8960
    num_layers: int = 28
    num_heads: int = 12
    num_kv_heads: int = 2
    head_dim: int = 128
    vocab_size: int = 151_936
    num_groups: int = 8
    group_size: int = 8
    prompt_len: int = 200
    median_len: int = 3000
    sigma: float = 1.0
    max_len: int = 16_384
    max_tokens: int = 16_384
    rank: int = 32
    checkpointing: int | None = None
    dtype: str = "bfloat16"

    @property
    def recomputes(self) -> int:
        if self.checkpointing is not None or DEVICE.type == "cpu":
            return self.checkpointing or 0
        return int(torch.cuda.get_device_properties(0).total_memory < 120 * 2**30)


def _of_length(row_len: int, **shape: Any) -> Case:
    """Two rows of exactly so many tokens, one in a micro-batch, LoRA of rank 16: as the published
    numbers that docs/benchmarks.md names."""
    lengths: dict[str, Any] = {
        "prompt_len": 64,
        "max_len": row_len - 64,
        "median_len": row_len - 64,
        "sigma": 0.0,
    }
    step: dict[str, Any] = {
        "num_groups": 1,
        "group_size": 2,
        "max_tokens": row_len,
        "rank": 16,
        "checkpointing": 1,
    }
    return Case(model_type="qwen3", num_kv_heads=8, **shape, **lengths, **step)


_0_6B = {"hidden_size": 1024, "intermediate_size": 3072, "num_layers": 28, "num_heads": 16}
_4B = {"hidden_size": 2560, "intermediate_size": 9728, "num_layers": 36, "num_heads": 32}
CASES = {
    "1.5b": Case(),
    "0.6b_16k": _of_length(16_384, **_0_6B),
    "0.6b_65k": _of_length(65_536, **_0_6B),
    "4b_16k": _of_length(16_384, **_4B),
    "4b_65k": _of_length(65_536, **_4B),
}
TINY = Case(
    hidden_size=32,
    intermediate_size=64,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    vocab_size=128,
    num_groups=2,
    group_size=4,
    prompt_len=8,
    median_len=12,
    max_len=64,
    max_tokens=64,
    rank=4,
    dtype="float32",
)


def make_config(case: Case, dtype: torch.dtype) -> Any:
    """The transformers configuration, with an untied head."""
    from transformers import AutoConfig

    return AutoConfig.for_model(
        case.model_type,
        vocab_size=case.vocab_size,
        hidden_size=case.hidden_size,
        intermediate_size=case.intermediate_size,
        num_hidden_layers=case.num_layers,
        num_attention_heads=case.num_heads,
        num_key_value_heads=case.num_kv_heads,
        head_dim=case.head_dim,
        max_position_embeddings=2 * case.max_len,
        tie_word_embeddings=False,
        dtype=dtype,
    )


def make_model(case: Case, dtype: torch.dtype) -> Any:
    """A random model on the device."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    with torch.device(DEVICE):
        return AutoModelForCausalLM.from_config(make_config(case, dtype)).to(dtype)


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
            policy_version=0,
        )
        for i in range(case.num_groups)
    ]


def num_tokens(groups: Sequence[Group]) -> int:
    """Prompt and response tokens of all rows."""
    return sum(len(g.prompt_ids) + len(r.token_ids) for g in groups for r in g.responses)


def needed_flops(case: Case, groups: Sequence[Group], method: str) -> float:
    """FLOPs that an update of the rows needs, by the formula of a run's `perf/mfu`."""
    width, kv_width = case.num_heads * case.head_dim, case.num_kv_heads * case.head_dim
    dims = ModelDims(
        case.num_layers,
        case.hidden_size,
        case.intermediate_size,
        width,
        kv_width,
        case.vocab_size,
    )
    rows = [TokenRow(g.prompt_ids, r.token_ids) for g in groups for r in g.responses]
    is_full = method == "full"
    return update_cost(dims, 0, is_full, is_full)(Work.of(rows))


def timed(step: Callable[[], None], num_steps: int) -> list[float]:
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
    """The most GPU memory that this process has held, GiB; None without a GPU."""
    peak = torch.cuda.max_memory_allocated() / 2**30 if DEVICE.type == "cuda" else None
    return {"peak_gib": peak}


def memory_now() -> dict[str, float]:
    """GiB held by this process's tensors, kept by torch, and taken on the whole card, after garbage
    was collected; nothing without a GPU."""
    gc.collect()
    if DEVICE.type == "cpu":
        return {}
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info()
    sizes = (torch.cuda.memory_allocated(), torch.cuda.memory_reserved(), total - free)
    names = ("allocated_gib", "reserved_gib", "card_gib")
    return {name: round(size / 2**30, 2) for name, size in zip(names, sizes, strict=True)}
