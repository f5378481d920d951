"""Loss scaling for float16, whose numbers vanish below 6e-8 and end at 65504.

torch.amp.GradScaler starts from one constant, where the weight of a token differs by 1e4 between
steps of a hundred and of a million tokens; grows until it overflows, which here costs a step of
rollouts; and decides on each rank alone, where parts of a gradient lie on several.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

NUM_GOOD = 100
"""Updates in a row without an overflow after which the scale is doubled."""

DROP = 4
"""Powers of two that an overflow takes from the scale: three of them in a row end a run."""


class LossScale:
    """Picks the power of two that multiplies an update's loss, and that divides its gradients.

    It brings the mean weight of a token in the loss to about 1, in the middle of float16's range,
    less what overflows have taken. The same on all ranks, and as exact as float32 allows.
    """

    def __init__(self) -> None:
        self._exponent, self._num_good = 0, 0

    def factor(self, weights: Sequence[float], lengths: Sequence[int]) -> float:
        """The factor for rows of these tokens' weights in the loss and lengths, of all ranks."""
        total = math.fsum(w * n for w, n in zip(weights, lengths, strict=True))
        # a power of two: it changes no digit of what it multiplies
        return 2.0 ** (self._exponent - round(math.log2(total / sum(lengths))))

    def observe(self, finite: bool) -> None:
        """Takes in whether the gradient of an update was finite."""
        if not finite:
            self._exponent, self._num_good = self._exponent - DROP, 0
            return
        self._num_good += 1
        if self._num_good >= NUM_GOOD:
            # at 0 the mean weight is 1 already: higher only comes nearer to overflow
            self._exponent, self._num_good = min(0, self._exponent + 1), 0

    def state(self) -> dict[str, int]:
        """JSON-ready."""
        return {"exponent": self._exponent, "num_good": self._num_good}

    def load_state(self, state: dict[str, int]) -> None:
        """Continues from `state`."""
        self._exponent, self._num_good = state["exponent"], state["num_good"]
