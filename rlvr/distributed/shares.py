"""How work is shared out: pure functions of lengths, the same on every rank."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")
P = TypeVar("P", bound="Tensor")


def shares(
    lengths: Sequence[float], num_ranks: int, loads: Sequence[float] | None = None
) -> list[list[int]]:
    """The indices of each rank's items, in order, so that the sums of lengths are about equal.

    The longest goes first, each to the rank with the least so far. loads: what each rank has
    already.
    Source: LPT scheduling, Graham 1969: the largest sum is at most 4/3 of the smallest possible.
    """
    parts: list[list[int]] = [[] for _ in range(num_ranks)]
    totals = list(loads or [0.0] * num_ranks)
    # sorted is stable, so that every rank deals ties alike
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        least = totals.index(min(totals))
        parts[least].append(i)
        totals[least] += lengths[i]
    return [sorted(part) for part in parts]


def in_order(dealt: Sequence[Sequence[int]], parts: Sequence[Sequence[T]]) -> list[T]:
    """Results back in the order of the items: parts[r] has one for each index in dealt[r]."""
    found = {
        i: one
        for indices, part in zip(dealt, parts, strict=True)
        for i, one in zip(indices, part, strict=True)
    }
    return [found[i] for i in range(len(found))]


def buckets(tensors: Sequence[P], max_elements: int) -> Iterator[list[P]]:
    """The tensors in order, in lists of at most `max_elements` elements or of one tensor."""
    bucket: list[P] = []
    num_elements = 0
    for tensor in tensors:
        if bucket and num_elements + tensor.numel() > max_elements:
            yield bucket
            bucket, num_elements = [], 0
        bucket.append(tensor)
        num_elements += tensor.numel()
    if bucket:
        yield bucket
