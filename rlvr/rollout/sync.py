"""From the policy to the engine after every update, and the proof that it arrived."""

from __future__ import annotations

import tempfile
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from rlvr.adapters.base import Method, Sync
from rlvr.adapters.merge import adapter_off
from rlvr.policy import Policy, TokenRow
from rlvr.recipe import ConfigError, RunError
from rlvr.rollout.engine import Engine
from rlvr.rollout.inplace import InplaceMerge

if TYPE_CHECKING:
    from rlvr.config import TrainRecipe

TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.5, torch.float16: 0.1}
"""Largest accepted difference of a token's log-probability (nats), by compute type."""


PROBE_ROWS, PROBE_LEN = 4, 64
"""The probe: this many training prompts, cut to this many tokens."""


class SyncError(RunError):
    """Engine and trainer disagree about the policy."""


@dataclass(frozen=True, slots=True)
class SyncStats:
    """num_bytes handed over; logprob_error: largest absolute difference on the probe (nats)."""

    num_bytes: int
    logprob_error: float


def check_mode(recipe: TrainRecipe, method: Method) -> None:
    """Raises: ConfigError for a sync mode that the method does not have."""
    wanted = recipe.rollout.sync
    if wanted != "auto" and wanted not in method.syncs:
        others = " or ".join(f'"{mode}"' for mode in ("auto", *method.syncs))
        raise ConfigError(
            f'rollout.sync = "{wanted}": {method.name} cannot be handed over so; take {others}'
        )


def choose_mode(recipe: TrainRecipe, policy: Policy) -> Sync:
    """The sync mode of the run."""
    return mode_of(recipe, policy.method, policy.device.type == "cpu")


def mode_of(recipe: TrainRecipe, method: Method, on_cpu: bool) -> Sync:
    """The sync mode of a run of this method on a CPU or a GPU."""
    wanted = recipe.rollout.sync
    if not method.syncs:
        return "none"
    if wanted == "auto":
        # on CPU, LoRA kernels generate 5 to 10 times slower than merged weights
        slow_adapter = on_cpu and "merged" in method.syncs
        moving_base = recipe.adapter.emulate_inplace_merge
        return "merged" if slow_adapter or moving_base else method.syncs[0]
    return wanted


class Syncer:
    """Hands the policy's weights to the engine and scores a fixed probe with both."""

    def __init__(
        self,
        recipe: TrainRecipe,
        policy: Policy,
        engine: Engine,
        mode: Sync,
        prompts: Sequence[list[int]],
    ) -> None:
        """num_bytes: of the last sync. prompts: token ids, the first few of which are the probe."""
        self.mode: Sync = mode
        self.num_bytes = 0
        self._policy, self._engine = policy, engine
        emulate = recipe.adapter.emulate_inplace_merge
        self._inplace = InplaceMerge(policy.model) if emulate else None
        self._tolerance = recipe.rollout.sync_tolerance or TOLERANCE[policy.dtype]
        self._probe = [ids[:PROBE_LEN] for ids in prompts[:PROBE_ROWS]]

    def use(self, engine: Engine) -> None:
        """Hands over to this engine from now on."""
        self._engine = engine

    def sync(self) -> SyncStats:
        """Wakes the engine, hands over what changed, then checks it.

        Raises: SyncError, with the module at fault, when a log-probability differs by more than the
        tolerance.
        """
        self._engine.wake()
        if self.mode == "adapter":
            memory = Path("/dev/shm") if Path("/dev/shm").is_dir() else None
            with tempfile.TemporaryDirectory(prefix="rlvr-adapter-", dir=memory) as folder:
                self._policy.save_adapter(Path(folder))
                num_bytes = self._engine.load_adapter(Path(folder))
        elif self.mode == "none":
            num_bytes = 0
        else:
            weights = self._policy.engine_weights()
            try:
                num_bytes = self._engine.load_weights(weights)
            finally:
                deque(weights, maxlen=0)  # what is left: other ranks may wait for a part of it
        self.num_bytes = num_bytes
        error = self.check()
        if not error <= self._tolerance:
            raise SyncError(
                f"after the sync, engine and trainer differ by {error:.3g} nats on fixed tokens"
                f" (tolerance {self._tolerance:g}); {self._culprit(error)}"
            )
        if self._inplace is not None:
            self._inplace.cycle()
        return SyncStats(num_bytes, error)

    def check(self) -> float:
        """Largest difference between the engine's and the trainer's log-probabilities (nats)."""
        ours = _score(self._policy, self._probe)
        theirs = torch.tensor([p for part in self._engine.score(self._probe) for p in part])
        return float((ours - theirs).abs().max())

    def _culprit(self, error: float) -> str:
        """Which module the engine serves without its update: leaving it out explains the error."""
        from peft import PeftModel
        from peft.tuners.tuners_utils import BaseTunerLayer

        if self._policy.holding.parts_weights:
            return "with the policy in one piece, recipes/accelerate/ddp.yaml, the module is named"
        if not isinstance(self._policy.model, PeftModel):
            return "set rollout.sync_tolerance only if this is rounding; else report the model"
        theirs = torch.tensor([p for part in self._engine.score(self._probe) for p in part])
        layers = [
            (name, module)
            for name, module in self._policy.model.named_modules()
            if isinstance(module, BaseTunerLayer)
        ]
        for name, layer in layers:
            layer.enable_adapters(False)
            left = float((_score(self._policy, self._probe) - theirs).abs().max())
            layer.enable_adapters(True)
            if left < 0.1 * error:
                return f"the engine serves {name} without its update"
        with adapter_off(self._policy.model):
            left = float((_score(self._policy, self._probe) - theirs).abs().max())
        if left < 0.1 * error:
            return "the engine serves the base model: it ignored the whole update"
        return "no single module explains it"


@torch.no_grad()
def _score(policy: Policy, sequences: Sequence[list[int]]) -> torch.Tensor:
    rows = [TokenRow(ids[:1], ids[1:]) for ids in sequences]
    return policy.logprobs(rows, temperature=1.0)[0].cpu()
