"""Data-parallel training: which process this is, and what the processes tell each other.

One process (rank) per GPU, started by `accelerate launch` or torchrun. All ranks hold the same
sampler state, and the same parameters and optimizer state or, sharded, each its part of one copy
(rlvr.distributed.sharding); each generates its share of the prompts and trains on its share of the
rows.
Nothing here does anything in a process that stands alone.
"""

from __future__ import annotations

import importlib.util
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from rlvr.common.errors import ConfigError, RunError
from rlvr.common.signals import Stopped

if TYPE_CHECKING:
    from torch import nn

T = TypeVar("T")
R = TypeVar("R")

TIMEOUT = timedelta(minutes=30)
"""How long a rank waits for the others before it gives up: above the longest round of rollouts."""
BUCKET_ELEMENTS = 1 << 26
"""Gradient elements summed at a time: 256 MiB in float32."""
REFUSED = {
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
}
"""What accelerate's launcher sets for what is not supported."""


@dataclass(frozen=True, slots=True)
class _World:
    """This process among the others. objects: a gloo group, for what lies in CPU memory; aside:
    another, for `aside`. teams: such groups of neighbours only, by their number."""

    rank: int
    size: int
    objects: Any
    aside: Any
    teams: dict[int, Any] = field(default_factory=dict)

    def team(self, width: int) -> Any:
        """The group of this rank and its neighbours; all ranks make theirs at the same time."""
        if width == self.size:
            return self.objects
        if width not in self.teams:
            from torch import distributed

            starts = range(0, self.size, width)
            teams = [list(range(start, start + width)) for start in starts]
            groups = [distributed.new_group(team, TIMEOUT, "gloo") for team in teams]
            self.teams[width] = groups[self.rank // width]
        return self.teams[width]


@dataclass(frozen=True, slots=True)
class _Failure:
    """What a rank could not do; kind(argument) is the exception to raise elsewhere."""

    kind: type[Exception]
    argument: int | str


class Alone(RunError):
    """The other ranks are gone."""


_world: _World | None = None
_here = threading.local()


def join() -> None:
    """Joins the processes that a launcher started together; a lone process stays alone.

    Raises: ConfigError for a launcher setting that is not supported.
    """
    global _world
    launched = "LOCAL_RANK" in os.environ and os.environ.get("WORLD_SIZE", "1") != "1"
    if _world is not None or not launched:
        return
    for flag, name in REFUSED.items():
        if os.environ.get(flag, "").lower() == "true":
            raise ConfigError(
                f"accelerate's configuration asks for {name}, which is not supported; launch with"
                " recipes/accelerate/ddp.yaml, or fsdp2.yaml where the policy is too large"
            )
    uses_deepspeed = os.environ.get("ACCELERATE_USE_DEEPSPEED", "").lower() == "true"
    if uses_deepspeed and importlib.util.find_spec("deepspeed") is None:
        raise ConfigError(
            "accelerate's configuration asks for DeepSpeed, which is not installed; pip install"
            " 'rlvr[deepspeed]', or launch with recipes/accelerate/fsdp2.yaml"
        )
    import torch
    from accelerate import PartialState
    from torch import distributed

    state = PartialState(cpu=not torch.cuda.is_available(), timeout=TIMEOUT)
    objects, aside = (distributed.new_group(backend="gloo", timeout=TIMEOUT) for _ in range(2))
    _world = _World(state.process_index, state.num_processes, objects, aside)


def leave() -> None:
    """Waits for the others and takes leave of them, so that no rank is missed by another."""
    global _world
    if _world is None:
        return
    from torch import distributed

    if distributed.is_initialized():  # vLLM's end has ended it before
        gather(None)
        distributed.destroy_process_group()
    _world = None


def rank() -> int:
    """The number of this process, from 0."""
    return 0 if _world is None else _world.rank


def size() -> int:
    """How many processes train together."""
    return 1 if _world is None else _world.size


def local_size() -> int:
    """How many of them run on this machine."""
    return 1 if _world is None else int(os.environ.get("LOCAL_WORLD_SIZE", _world.size))


def is_main() -> bool:
    """Whether this process is the one that writes and prints."""
    return rank() == 0


@contextmanager
def aside() -> Iterator[None]:
    """Inside the block, in a second thread, ranks speak past what their main threads tell each
    other. For `gather` and what is made of it."""
    _here.is_aside = True
    try:
        yield
    finally:
        _here.is_aside = False


def gather(value: T) -> list[T]:
    """The value of every rank, by rank. Raises: Alone when another rank is gone."""
    if _world is None:
        return [value]
    from torch import distributed

    group = _world.aside if getattr(_here, "is_aside", False) else _world.objects
    parts: list[Any] = [None] * _world.size
    try:
        distributed.all_gather_object(parts, value, group=group)
    except RuntimeError as error:
        _lost(error)
    return parts


def _lost(error: RuntimeError) -> NoReturn:
    reason = str(error).splitlines()[0][:200]
    raise Alone(
        f"rank {rank()} of {size()} lost the other ranks ({reason}); the first rank to fail says"
        " why, above"
    ) from error


def together(work: Callable[[], T]) -> list[T]:
    """What `work` gives on every rank, by rank.

    Raises on every rank, when one of them raised it: Stopped, ConfigError or RunError; anything
    else ends that process, and its launcher the others.
    """
    if _world is None:
        return [work()]
    value, mine, failure = None, None, None
    try:
        value = work()
    except Stopped as stopped:
        mine, failure = stopped, _Failure(Stopped, stopped.signum)
    except (ConfigError, RunError) as error:
        mine, failure = error, _Failure(type(error), str(error))
    parts: list[tuple[Any, _Failure | None]] = gather((value, failure))
    failures = [(i, part[1]) for i, part in enumerate(parts) if part[1] is not None]
    if failures:
        _raise(failures, mine)
    return [part[0] for part in parts]


def _raise(failures: Sequence[tuple[int, _Failure]], mine: Exception | None) -> NoReturn:
    """The same failure on every rank: a true one before a signal's."""
    at, failure = min(failures, key=lambda pair: pair[1].kind is Stopped)
    if at == rank() and mine is not None:
        raise mine
    if failure.kind is Stopped:
        raise Stopped(int(failure.argument))
    raise failure.kind(f"rank {at} of {size()}: {failure.argument}")


def agreed(safe_point: Callable[[], None], width: int) -> Callable[[], None]:
    """A safe point that stops `width` neighbouring ranks or none of them: they need each other.

    All of them have to call it equally often. Raises: Stopped; Alone when another rank is gone.
    """
    if _world is None or width == 1:
        return safe_point
    import torch
    from torch import distributed

    group = _world.team(width)

    def check() -> None:
        signum = torch.zeros(1, dtype=torch.int64)
        try:
            safe_point()
        except Stopped as stopped:
            signum += stopped.signum
        try:
            distributed.all_reduce(signum, distributed.ReduceOp.MAX, group)
        except RuntimeError as error:
            _lost(error)
        if signum:
            raise Stopped(int(signum))

    return check


def from_main(work: Callable[[], T]) -> T:
    """What `work`, done by rank 0 alone, gives there. Raises: as `together`."""
    if _world is None:
        return work()
    return together(lambda: work() if is_main() else None)[0]  # pyright: ignore[reportReturnType]


def spread(
    items: Sequence[T],
    lengths: Sequence[float],
    work: Callable[[list[T]], R],
    width: int = 1,
) -> tuple[list[list[int]], list[R]]:
    """Shares items out by their lengths to teams of `width` ranks: (indices, work(items)) by team.

    The ranks of a team do the same work, together. Raises: as `together`.
    """
    dealt = shares(lengths, size() // width)
    mine = [items[i] for i in dealt[rank() // width]]
    return dealt, together(lambda: work(mine))[::width]


def in_order(dealt: Sequence[Sequence[int]], parts: Sequence[Sequence[T]]) -> list[T]:
    """What was shared out, back in order: parts[r] has one for each index in dealt[r]."""
    found = {
        i: one
        for indices, part in zip(dealt, parts, strict=True)
        for i, one in zip(indices, part, strict=True)
    }
    return [found[i] for i in range(len(found))]


def balanced(lengths: Sequence[int]) -> list[int]:
    """The indices of this rank's share of items of these lengths, in order; see `shares`."""
    return shares(lengths, size())[rank()]


def shares(lengths: Sequence[float], num_ranks: int) -> list[list[int]]:
    """The indices of each rank's items, in order, so that the sums of lengths are about equal.

    The longest goes first, each to the rank with the least so far.
    Source: LPT scheduling, Graham 1969: the largest sum is at most 4/3 of the smallest possible.
    """
    parts: list[list[int]] = [[] for _ in range(num_ranks)]
    loads = [0.0] * num_ranks
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        least = loads.index(min(loads))
        parts[least].append(i)
        loads[least] += lengths[i]
    return [sorted(part) for part in parts]


def sum_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Every parameter's gradient becomes its sum over the ranks, in float32.

    None where every rank has none. Raises: Alone when another rank is gone.
    """
    if _world is None:
        return
    for bucket in _buckets(parameters):
        _sum_bucket(bucket)


def _buckets(parameters: Sequence[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """The parameters in order, at most BUCKET_ELEMENTS or one of them at a time."""
    bucket: list[nn.Parameter] = []
    num_elements = 0
    for parameter in parameters:
        if bucket and num_elements + parameter.numel() > BUCKET_ELEMENTS:
            yield bucket
            bucket, num_elements = [], 0
        bucket.append(parameter)
        num_elements += parameter.numel()
    if bucket:
        yield bucket


def _sum_bucket(bucket: Sequence[nn.Parameter]) -> None:
    """One all-reduce of the bucket's gradients and, behind them, of who has one."""
    import torch
    from torch import distributed

    device = bucket[0].device
    sizes = [p.numel() for p in bucket]
    flat = torch.zeros(sum(sizes) + len(bucket), device=device)
    *parts, has = flat.split([*sizes, len(bucket)])
    for i, (parameter, part) in enumerate(zip(bucket, parts, strict=True)):
        if parameter.grad is not None:
            part.copy_(parameter.grad.flatten())
            has[i] = 1
    try:
        distributed.all_reduce(flat)
    except RuntimeError as error:
        _lost(error)
    for parameter, part, count in zip(bucket, parts, has.tolist(), strict=True):
        if parameter.grad is not None:
            parameter.grad.copy_(part.view_as(parameter))
        elif count:
            parameter.grad = part.view_as(parameter).to(parameter.dtype, copy=True)


def copy_from_main(model: nn.Module) -> None:
    """Every parameter and buffer becomes rank 0's: what was drawn or decomposed may differ."""
    if _world is None:
        return
    from torch import distributed

    for tensor in [*model.parameters(), *model.buffers()]:
        value = tensor.detach().contiguous()
        distributed.broadcast(value, src=0)
        tensor.detach().copy_(value)
