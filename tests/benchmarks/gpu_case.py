"""The GPU benchmark's policy, rows and clock, for this project and for trl alike."""

import gc
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from rlvr.engines.engine import Response
from rlvr.sampling.rollouts import Group

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
            policy_version=0,
        )
        for i in range(case.num_groups)
    ]


def needed_flops(case: Case, groups: Sequence[Group], method: str) -> float:
    """FLOPs of one update, as tests/benchmarks/gpu.py counts them."""
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
    """The most GPU memory that this measurement has held, GiB; None without a GPU."""
    peak = torch.cuda.max_memory_allocated() / 2**30 if DEVICE.type == "cuda" else None
    return {"peak_gib": peak}


def clear() -> None:
    """Frees the last measurement's memory and forgets its peak."""
    gc.collect()
    if DEVICE.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
