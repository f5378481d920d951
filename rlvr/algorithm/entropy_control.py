"""The coefficient of the entropy bonus: constant, or controlled towards a target entropy."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rlvr.config.algorithm import AlgorithmConfig


class EntropyControl:
    """The coefficient, updated after every optimizer step. With a target it is 0 before the first
    measurement, when nobody knows whether entropy is too low.

    Source: Skywork-OR1, 2505.22312 (adaptive entropy control).
    """

    def __init__(self, config: AlgorithmConfig) -> None:
        self._config, self._coef, self._entropy = config, config.entropy_coef, math.inf

    @property
    def coef(self) -> float:
        """Factor of the mean token entropy (nats) in the next optimizer step's loss."""
        target = self._config.entropy_target
        return self._coef if target is None or self._entropy <= target else 0.0

    @property
    def enabled(self) -> bool:
        """Whether entropy is part of the objective, even while the coefficient is 0."""
        return self._config.entropy_coef > 0 or self._config.entropy_target is not None

    def observe(self, entropy: float) -> None:
        """Adapts the coefficient to the mean token entropy (nats) of one optimizer step."""
        config = self._config
        if config.entropy_target is None:
            return
        sign = 1 if entropy <= config.entropy_target else -1
        moved = self._coef + sign * config.entropy_coef_step
        self._coef, self._entropy = min(max(moved, 0.0), config.entropy_coef_max), entropy

    def state(self) -> dict[str, float | None]:
        """Coefficient and last entropy, JSON-ready."""
        # JSON has no infinity
        return {"coef": self._coef, "entropy": None if math.isinf(self._entropy) else self._entropy}

    def load_state(self, state: dict[str, float | None]) -> None:
        """Continues from `state`."""
        coef, entropy = state["coef"], state["entropy"]
        assert coef is not None, state
        self._coef, self._entropy = coef, math.inf if entropy is None else entropy
