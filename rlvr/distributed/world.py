"""Data-parallel training: this process among those that train together.

One process (rank) per GPU, started by `accelerate launch` or torchrun. Every rank has the same
sampler state, generates its share of the prompts and trains on its share of the rows. Whether it
has the whole policy or a shard of it is up to rlvr.distributed.strategy.
"""

from __future__ import annotations

import importlib.util
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from rlvr.common.errors import ConfigError, RunError, first_line
from rlvr.common.signals import Stopped
from rlvr.distributed.shares import buckets, shares

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


class LostRanksError(RunError):
    """The other ranks are gone."""


@dataclass(frozen=True, slots=True)
class _Failure:
    """An exception raised on one rank; kind(argument) makes it again on the others."""

    kind: type[Exception]
    argument: int | str


@dataclass(eq=False, slots=True)
class World:
    """This process, number `rank` of the `size` that train together, `local_size` of them on this
    machine. A lone process answers every call by itself.

    All ranks have to make the same calls in the same order. They raise LostRanksError when another
    rank is gone.
    """

    rank: int
    size: int
    local_size: int = 1
    # Objects travel by gloo: nccl would pickle them through GPU memory. Two groups, because the
    # calls of two threads would interleave differently on different ranks in one.
    _main_group: Any = None
    _side_group: Any = None
    _team_groups: dict[int, Any] = field(default_factory=dict)
    _side_threads: set[int] = field(default_factory=set)

    @classmethod
    def alone(cls) -> World:
        """The world of one process."""
        return cls(rank=0, size=1)

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes and prints."""
        return self.rank == 0

    @contextmanager
    def side_channel(self) -> Iterator[None]:
        """Inside the block, this thread gathers over a second process group, so that it cannot
        interleave with the main thread's collectives."""
        thread = threading.get_ident()
        self._side_threads.add(thread)
        try:
            yield
        finally:
            self._side_threads.discard(thread)

    def gather(self, value: T) -> list[T]:
        """The value of every rank, by rank."""
        if self.size == 1:
            return [value]
        from torch import distributed

        is_aside = threading.get_ident() in self._side_threads
        group = self._side_group if is_aside else self._main_group
        parts: list[Any] = [None] * self.size
        try:
            distributed.all_gather_object(parts, value, group=group)
        except RuntimeError as error:
            self._raise_lost(error)
        return parts

    def on_all_ranks(self, work: Callable[[], T]) -> list[T]:
        """The results of `work` on every rank, by rank.

        Raises on every rank what one of them raised, if that is Stopped, ConfigError or RunError;
        anything else ends that process, and its launcher the others.
        """
        if self.size == 1:
            return [work()]
        value, mine, failure = None, None, None
        try:
            value = work()
        except Stopped as stopped:
            mine, failure = stopped, _Failure(Stopped, stopped.signum)
        except (ConfigError, RunError) as error:
            mine, failure = error, _Failure(type(error), str(error))
        # a failure travels like a result: a rank that raised at once would leave the rest waiting
        parts: list[tuple[Any, _Failure | None]] = self.gather((value, failure))
        failures = [(i, part[1]) for i, part in enumerate(parts) if part[1] is not None]
        if failures:
            self._raise_one(failures, mine)
        return [part[0] for part in parts]

    def on_main(self, work: Callable[[], T]) -> T:
        """The result of `work` on rank 0, where alone it runs. Raises: as `on_all_ranks`."""
        if self.size == 1:
            return work()
        return self.on_all_ranks(lambda: work() if self.is_main else None)[0]  # pyright: ignore[reportReturnType]

    def _raise_one(
        self, failures: Sequence[tuple[int, _Failure]], mine: Exception | None
    ) -> NoReturn:
        """Raises one failure on every rank; an error takes precedence over a signal."""
        at, failure = min(failures, key=lambda pair: pair[1].kind is Stopped)
        if at == self.rank and mine is not None:
            raise mine  # with its traceback
        if failure.kind is Stopped:
            raise Stopped(int(failure.argument))
        raise failure.kind(f"rank {at} of {self.size}: {failure.argument}")

    def _raise_lost(self, error: RuntimeError) -> NoReturn:
        reason = first_line(error)
        raise LostRanksError(
            f"rank {self.rank} of {self.size} lost the other ranks ({reason}); the first rank to"
            " fail says why, above"
        ) from error

    def scatter_work(
        self,
        items: Sequence[T],
        lengths: Sequence[float],
        work: Callable[[list[T]], R],
        width: int = 1,
    ) -> tuple[list[list[int]], list[R]]:
        """Shares items out by their lengths to teams of `width` ranks: (indices, work(items)), both
        by team.

        The ranks of a team do the same work, together. Raises: as `on_all_ranks`.
        """
        dealt = shares(lengths, self.size // width)
        mine = [items[i] for i in dealt[self.rank // width]]
        return dealt, self.on_all_ranks(partial(work, mine))[::width]

    def my_share(self, lengths: Sequence[int]) -> list[int]:
        """The indices of this rank's share of items of these lengths, in order; see `shares`."""
        return shares(lengths, self.size)[self.rank]

    def synchronized_stop(self, safe_point: Callable[[], None], width: int) -> Callable[[], None]:
        """A safe point that stops `width` neighbouring ranks or none of them: they need each other.

        All of them have to call it equally often. Raises: Stopped.
        """
        if self.size == 1 or width == 1:
            return safe_point
        import torch
        from torch import distributed

        group = self._team_group(width)

        def check() -> None:
            # a tensor, not a pickled object: this runs after every decoding step
            signum = torch.zeros(1, dtype=torch.int64)
            try:
                safe_point()
            except Stopped as stopped:
                signum += stopped.signum
            try:
                distributed.all_reduce(signum, distributed.ReduceOp.MAX, group)
            except RuntimeError as error:
                self._raise_lost(error)
            if signum:
                raise Stopped(int(signum))

        return check

    def _team_group(self, width: int) -> Any:
        """The gloo group of this rank and its neighbours."""
        if width == self.size:
            return self._main_group
        if width not in self._team_groups:
            from torch import distributed

            # every rank has to create every group, also those that it is not in
            starts = range(0, self.size, width)
            teams = [list(range(start, start + width)) for start in starts]
            groups = [distributed.new_group(team, TIMEOUT, "gloo") for team in teams]
            self._team_groups[width] = groups[self.rank // width]
        return self._team_groups[width]

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Replaces every parameter's gradient by its sum over the ranks, in float32; by None where
        every rank has none."""
        if self.size == 1:
            return
        for bucket in buckets(parameters, BUCKET_ELEMENTS):
            try:
                _sum_bucket(bucket)
            except RuntimeError as error:
                self._raise_lost(error)

    def copy_from_main(self, model: nn.Module) -> None:
        """Overwrites every parameter and buffer with rank 0's: random draws and decompositions may
        differ between devices."""
        if self.size == 1:
            return
        from torch import distributed

        for tensor in [*model.parameters(), *model.buffers()]:
            # collectives refuse tensors that are not contiguous
            value = tensor.detach().contiguous()
            distributed.broadcast(value, src=0)
            tensor.detach().copy_(value)

    def shutdown(self) -> None:
        """Waits for all ranks, then destroys the process group, so that no rank exits while another
        still needs it."""
        if self.size == 1:
            return
        from torch import distributed

        if distributed.is_initialized():  # vLLM's end has ended it before
            self.gather(None)
            distributed.destroy_process_group()


def join_world() -> World:
    """The processes that a launcher started together; a lone process without a launcher.

    Raises: ConfigError for a launcher setting that is not supported.
    """
    if "LOCAL_RANK" not in os.environ or os.environ.get("WORLD_SIZE", "1") == "1":
        return World.alone()
    for flag, name in REFUSED.items():
        if launcher_sets(flag):
            raise ConfigError(
                f"accelerate's configuration asks for {name}, which is not supported; launch with"
                " recipes/accelerate/ddp.yaml, or fsdp2.yaml where the policy is too large"
            )
    has_deepspeed = importlib.util.find_spec("deepspeed") is not None
    if launcher_sets("ACCELERATE_USE_DEEPSPEED") and not has_deepspeed:
        raise ConfigError(
            "accelerate's configuration asks for DeepSpeed, which is not installed; pip install"
            " 'rlvr[deepspeed]', or launch with recipes/accelerate/fsdp2.yaml"
        )
    import torch
    from accelerate import PartialState
    from torch import distributed

    state = PartialState(cpu=not torch.cuda.is_available(), timeout=TIMEOUT)
    size = state.num_processes
    main, side = (distributed.new_group(backend="gloo", timeout=TIMEOUT) for _ in range(2))
    local_size = int(os.environ.get("LOCAL_WORLD_SIZE", size))
    return World(state.process_index, size, local_size, main, side)


def launcher_sets(name: str, default: str = "false") -> bool:
    """Whether an environment variable, as accelerate's launcher writes them, is true."""
    return os.environ.get(name, default).lower() == "true"


def _sum_bucket(bucket: Sequence[nn.Parameter]) -> None:
    """All-reduces the bucket's gradients and, behind them, how many ranks have each."""
    import torch
    from torch import distributed

    device = bucket[0].device
    sizes = [p.numel() for p in bucket]
    # One tensor for all: a collective per LoRA factor would be hundreds of small messages. The
    # counts keep a gradient of None, which the optimizer skips, apart from one of zeros.
    flat = torch.zeros(sum(sizes) + len(bucket), device=device)
    *parts, counts = flat.split([*sizes, len(bucket)])
    for i, (parameter, part) in enumerate(zip(bucket, parts, strict=True)):
        if parameter.grad is not None:
            part.copy_(parameter.grad.flatten())
            counts[i] = 1
    distributed.all_reduce(flat)
    for parameter, part, count in zip(bucket, parts, counts.tolist(), strict=True):
        if parameter.grad is not None:
            parameter.grad.copy_(part.view_as(parameter))
        elif count:
            parameter.grad = part.view_as(parameter).to(parameter.dtype, copy=True)
