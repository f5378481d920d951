"""Hands the policy's weights to the engine after every update, and proves that they arrived."""

from __future__ import annotations

import math
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, astuple, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rlvr.adapters.base import Method, Sync
from rlvr.common.errors import RunError
from rlvr.common.log import get_logger
from rlvr.distributed.world import World
from rlvr.engines.engine import Engine
from rlvr.engines.weights.arrival import Arrival, Expected, compare, expected
from rlvr.engines.weights.cast import Cast
from rlvr.engines.weights.fidelity import Merged, adapter_frac
from rlvr.policy.policy import Policy, TokenRow

if TYPE_CHECKING:
    from rlvr.config.train import RolloutConfig

logger = get_logger(__name__)

TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.5, torch.float16: 0.1}
"""Largest difference of a token's log-probability (nats) that rounding alone usually makes, by
compute type: beyond it a run in float32 stops, one in 16 bits is warned. See `stop_tolerance`."""


PROBE_ROWS, PROBE_LEN = 4, 64
"""The probe: this many training prompts, cut to this many tokens."""

GROWTH, MIN_MEAN = 3.0, 0.5
"""A warning is due when the mean difference is this many times that of the first sync, and this
fraction of `TOLERANCE`: rounding alone makes 0.13 nats in bfloat16 as logits grow (200 updates)."""


class SyncError(RunError):
    """The engine serves other weights than it was given, or computes something else with them."""


@dataclass(frozen=True, slots=True)
class SyncStats:
    """num_bytes handed over. arrived_frac: see `fidelity`. logprob_error: absolute difference
    between the engine's and the trainer's log-probabilities of the probe's tokens (nats): the
    largest, the mean and the 99th percentile. Each is that of the rank with the largest."""

    num_bytes: int
    arrived_frac: float
    logprob_error: float
    logprob_error_mean: float
    logprob_error_p99: float

    def metrics(self) -> dict[str, float]:
        """sync/bytes and the others, by name."""
        return {
            "sync/bytes": float(self.num_bytes),
            **{f"sync/{k}": v for k, v in asdict(self).items() if k != "num_bytes"},
        }


@dataclass(frozen=True, slots=True)
class Staged:
    """A copy of one version of the weights, on its way to the engine.

    weights: merged ones, by name. folder: the adapter's. scores: the policy's log-probabilities of
    the probe [T].
    """

    weights: Sequence[tuple[str, Tensor]]
    folder: tempfile.TemporaryDirectory[str] | None
    arrived_frac: float
    expected: Expected
    scores: Tensor


def stop_tolerance(rollout: RolloutConfig, dtype: torch.dtype) -> float:
    """The largest difference of a log-probability (nats) that does not stop a run.

    No difference does in 16 bits unless the recipe sets one: rounding makes differences of any
    size, which say nothing about whether weights arrived.
    """
    if rollout.sync_tolerance is not None:
        return rollout.sync_tolerance
    return TOLERANCE[dtype] if dtype == torch.float32 else math.inf


def choose_mode(rollout: RolloutConfig, policy: Policy) -> Sync:
    """The sync mode of the run."""
    return mode_of(rollout, policy.method, policy.device.type == "cpu")


def mode_of(rollout: RolloutConfig, method: Method, on_cpu: bool) -> Sync:
    """The sync mode of a run of this method on a CPU or a GPU."""
    wanted = rollout.sync
    if not method.syncs:
        return "none"
    if wanted == "auto":
        # on a CPU responses come at 0.8 of the speed beside an adapter (docs/benchmarks.md)
        slow_adapter = on_cpu and "merged" in method.syncs
        return "merged" if slow_adapter else method.syncs[0]
    return wanted


class Syncer:
    """Hands the policy's weights to the engine, reads them back, and compares both on a probe."""

    def __init__(
        self,
        rollout: RolloutConfig,
        policy: Policy,
        engine: Engine,
        mode: Sync,
        prompts: Sequence[list[int]],
        world: World = World.alone(),
        seed: int = 0,
    ) -> None:
        """policy: at step 0. prompts: token ids, the first few of which are the probe. seed: of
        stochastic rounding. num_bytes and arrived_frac are those of the last sync."""
        self.mode: Sync = mode
        self.num_bytes, self.arrived_frac = 0, 1.0
        # transformers generates with the policy's own tensors
        is_cast = engine.name != "transformers" and policy.dtype != torch.float32
        self._cast = Cast(policy.dtype, rollout.sync_rounding, seed) if is_cast else None
        self._merged = Merged(policy) if is_cast and mode == "merged" else None
        self._policy, self._engine, self._world = policy, engine, world
        self._tolerance = stop_tolerance(rollout, policy.dtype)
        self._probe = [ids[:PROBE_LEN] for ids in prompts[:PROBE_ROWS]]
        self._is_proven = False
        self._first_mean: float | None = None
        self._told: set[str] = set()

    def use(self, engine: Engine) -> None:
        """Hands over to this engine from now on."""
        self._engine, self._is_proven = engine, False

    def sync(self, step: int | None = None) -> SyncStats:
        """Wakes the engine, hands over what changed, then checks that it arrived.

        step: number of finished steps; a fiftieth of the modules is read back, by its turn. All of
        them without it (then it is the last one given), and the first time that this engine is
        given weights.
        Raises on every rank: SyncError, with every module that did not arrive, or when
        log-probabilities differ by more than `stop_tolerance` although all did.
        """
        return self._on_all_ranks(partial(self._give, step), self._scores)

    def stage(self, step: int) -> Staged:
        """A copy of the policy's weights after `step` steps, which `deliver` hands over later."""
        self._begin(step)
        weights, folder = [], None
        if self.mode == "merged":
            weights = [(name, _copy(value)) for name, value in self._merged_weights()]
        elif self.mode == "adapter":
            folder = self._adapter_folder()
        frac = self._arrived_frac()
        due = expected(self._policy, self.mode, step, cast=self._cast)
        due = Expected(due.names, [(name, _copy(value)) for name, value in due.weights])
        return Staged(weights, folder, frac, due, self._scores())

    def deliver(self, staged: Staged) -> SyncStats:
        """As `sync`, of weights that `stage` has copied; may run beside an update."""
        return self._on_all_ranks(partial(self._give_staged, staged), lambda: staged.scores)

    def _on_all_ranks(
        self, give: Callable[[], tuple[str, ...]], scores: Callable[[], Tensor]
    ) -> SyncStats:
        # two parts: ranks that share an engine score together, so all of them have to get there
        unread = self._world.on_all_ranks(give)[self._world.rank]
        stats = self._world.on_all_ranks(lambda: self._measure(unread, scores()))
        return SyncStats(*(max(of_ranks) for of_ranks in zip(*map(astuple, stats), strict=True)))

    def _begin(self, step: int | None) -> None:
        if self._cast is not None and step is not None:
            self._cast = replace(self._cast, step=step)

    def _give(self, step: int | None) -> tuple[str, ...]:
        """Hands this rank's engine the weights; as `_prove`."""
        self._engine.wake()
        self._begin(step)
        self.num_bytes = self._hand_over()
        unread = self._prove(step if self._is_proven else None)
        self._is_proven = True
        return unread

    def _give_staged(self, staged: Staged) -> tuple[str, ...]:
        self.arrived_frac = staged.arrived_frac
        if staged.folder is not None:
            with staged.folder as folder:
                self.num_bytes = self._engine.load_adapter(Path(folder))
        else:
            self.num_bytes = self._engine.load_weights(iter(staged.weights))
        return self._judge_arrival(compare(staged.expected, self._engine))

    def _measure(self, unread: Sequence[str], scores: Tensor) -> SyncStats:
        """This rank's numbers. Raises: SyncError."""
        error = self._differences(scores)
        stats = SyncStats(
            self.num_bytes,
            self.arrived_frac,
            float(error.max()),
            float(error.mean()),
            float(torch.quantile(error, 0.99)),
        )
        self._judge(stats, unread)
        return stats

    def prove(self) -> None:
        """Reads back all that the last sync handed over. Raises: SyncError, on every rank."""
        self._world.on_all_ranks(partial(self._prove, None))

    def check(self) -> float:
        """Largest difference between the engine's and the trainer's log-probabilities (nats)."""
        return float(self._differences(self._scores()).max())

    def _hand_over(self) -> int:
        if self.mode == "none":
            return 0
        if self.mode == "adapter":
            with self._adapter_folder() as folder:
                self.arrived_frac = self._arrived_frac()
                return self._engine.load_adapter(Path(folder))
        weights = self._merged_weights()
        try:
            return self._engine.load_weights(weights)
        finally:
            # an engine that fails leaves the stream half read: other ranks still gather with us
            deque(weights, maxlen=0)
            self.arrived_frac = self._arrived_frac()

    def _merged_weights(self) -> Iterator[tuple[str, Tensor]]:
        weights = self._policy.engine_weights()
        if self._merged is not None and self._cast is not None:
            weights = self._merged.watch(weights, self._cast)
        return weights

    def _adapter_folder(self) -> tempfile.TemporaryDirectory[str]:
        """The adapter in a folder that never reaches a disk: vLLM takes adapters from folders."""
        memory = Path("/dev/shm") if Path("/dev/shm").is_dir() else None
        folder = tempfile.TemporaryDirectory(prefix="rlvr-adapter-", dir=memory)
        self._policy.save_for_engine(Path(folder.name))
        return folder

    def _arrived_frac(self) -> float:
        """Of the weights that were streamed, or are in the adapter, last."""
        if self._merged is not None:
            return self._merged.frac
        if self._cast is None or self.mode != "adapter":
            return 1.0
        with self._policy.gathered():
            return adapter_frac(self._policy)

    def _prove(self, step: int | None) -> tuple[str, ...]:
        """The modules that the engine does not let be read back. Raises: SyncError."""
        if self.mode == "none":
            name = self._policy.method.name
            self._tell("none", f"{name} hands no weights over, so none are read back")
            return ()
        due = expected(self._policy, self.mode, step, cast=self._cast)
        return self._judge_arrival(compare(due, self._engine))

    def _judge_arrival(self, found: Arrival) -> tuple[str, ...]:
        """The modules that were not read back. Raises: SyncError."""
        if found.differing:
            raise SyncError(f"after the sync, {explain(found)}")
        if found.unread:
            self._tell(
                "unread",
                f"the engine does not let {len(found.unread)} of {len(found.modules)} modules be"
                f" read back ({found.unread[0]}, ...): whether they arrive is not proved",
            )
        return found.unread

    def _judge(self, stats: SyncStats, unread: Sequence[str]) -> None:
        """Warns or, where that is no rounding, raises: SyncError."""
        usual = TOLERANCE[self._policy.dtype]
        error, mean = stats.logprob_error, stats.logprob_error_mean
        # without a proof, what rounding cannot make on the mean token speaks
        if not error <= self._tolerance or not math.isfinite(error) or (unread and mean > usual):
            allowed = self._tolerance if math.isfinite(self._tolerance) else usual
            raise SyncError(
                f"after the sync, engine and trainer differ by {error:.3g} nats on fixed tokens"
                f" (mean {mean:.3g}, tolerance {allowed:g}); {_cause(unread)}"
            )
        if self._first_mean is None:
            self._first_mean = mean
        if stats.logprob_error_p99 > usual:
            self._tell(
                "rounding",
                f"engine and trainer differ by {stats.logprob_error_p99:.3g} nats at the 99th"
                f" percentile of fixed tokens, more than rounding usually makes ({usual:g}); the"
                " weights have arrived",
            )
        if mean > max(GROWTH * self._first_mean, MIN_MEAN * usual):
            self._tell(
                "drift",
                "engine and trainer have drifted apart: on fixed tokens they differ by"
                f" {mean:.3g} nats on average, {self._first_mean:.3g} at the first sync; the"
                " weights have arrived",
            )

    def _tell(self, kind: str, text: str) -> None:
        """A warning, once of each kind."""
        if kind not in self._told and self._world.is_main:
            logger.warning(f"sync: {text}")
        self._told.add(kind)

    def _scores(self) -> Tensor:
        """[T] the policy's log-probabilities of the probe's tokens."""
        return _score(self._policy, self._probe)

    def _differences(self, scores: Tensor) -> Tensor:
        """[T] absolute differences to the engine's log-probabilities of the probe (nats)."""
        theirs = torch.tensor([p for part in self._engine.score(self._probe) for p in part])
        return (scores - theirs).abs().float()


def _cause(unread: Sequence[str]) -> str:
    if unread:
        return f"the weights of {len(unread)} modules could not be read back: report the model"
    return (
        "every weight has arrived, so the engine computes this model differently: report it, or set"
        ' rollout.engine = "transformers"; raise rollout.sync_tolerance only if this is rounding'
    )


def explain(found: Arrival) -> str:
    """Which modules have other weights in the engine than in the policy, all by name."""
    names, of = ", ".join(found.differing), len(found.modules)
    if len(found.differing) == of > 1:
        return f"the engine ignored the whole update: it holds other weights in all {of}: {names}"
    if len(found.differing) == 1:
        return f"the engine serves {names} without its update: it holds other weights there"
    return f"the engine holds other weights in {len(found.differing)} of {of} modules: {names}"


def _copy(value: Tensor) -> Tensor:
    """In CPU memory: the GPU's is the update's."""
    # on a CPU `to` without a copy would give the tensor that the update changes
    return value.detach().to("cpu", copy=True)


@torch.no_grad()
def _score(policy: Policy, sequences: Sequence[list[int]]) -> torch.Tensor:
    # as the engine scores: every token after the first
    rows = [TokenRow(ids[:1], ids[1:]) for ids in sequences]
    return policy.logprobs(rows, temperature=1.0)[0].cpu()
