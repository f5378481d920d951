"""Picks the next problems: in order, or those whose groups will most likely carry a signal.

Every problem has a Beta(a, b) posterior of its pass rate: the mean of its difficulty level as the
prior, plus its own verdicts, discounted by the steps since, because the policy changes.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rlvr.common.seeds import sample_seed

if TYPE_CHECKING:
    from rlvr.config.train import SamplingConfig

Floats = NDArray[np.float64]
PRIOR_STRENGTH = 0.6
"""a + b before any verdict. Below 1 most mass lies at the ends: most problems are always or never
solved, few lie between."""


def informative_probability(a_N: Floats, b_N: Floats, group_size: int) -> Floats:
    """[N] probability that group_size responses are neither all right nor all wrong.

    With pass rate p ~ Beta(a, b) it is 1 - E[p^G] - E[(1 - p)^G].
    """
    # E[p^G] of a Beta is a product of G factors; no gamma functions, and exact for large a + b
    k_G = np.arange(group_size)[:, None]
    all_right_N = ((a_N + k_G) / (a_N + b_N + k_G)).prod(axis=0)
    all_wrong_N = ((b_N + k_G) / (a_N + b_N + k_G)).prod(axis=0)
    return 1 - all_right_N - all_wrong_N


def difficulty_levels(difficulties: Sequence[str]) -> list[int]:
    """Each problem's level from 0: one per distinct value, or ten of equal size if there are more
    than twenty distinct numbers."""
    distinct = {text: level for level, text in enumerate(sorted(set(difficulties)))}
    if len(distinct) > 20:
        try:
            numbers = np.asarray([float(text) for text in difficulties])
        except ValueError:  # words: each is a level, however many there are
            pass
        else:
            cuts = np.quantile(numbers, np.linspace(0.1, 0.9, 9))
            return np.searchsorted(cuts, numbers, side="right").tolist()
    return [distinct[text] for text in difficulties]


class PassRates:
    """Beta posterior of N problems' pass rates, with one learned mean per difficulty level."""

    def __init__(self, levels: Sequence[int], discount: float) -> None:
        """levels: each problem's difficulty level, from 0; all 0 where there are none. discount:
        fraction of a verdict's weight that remains after one step."""
        self._level_N = np.asarray(levels)
        self._discount = discount
        self._right_N = np.zeros(len(levels))
        self._wrong_N = np.zeros(len(levels))
        self._step_N = np.zeros(len(levels), dtype=np.int64)

    def observe(self, index: int, num_right: int, num_wrong: int, step: int) -> None:
        """Adds one group's verdicts."""
        # discounted here and not every step: most problems are not touched in most steps
        kept = self._discount ** (step - int(self._step_N[index]))
        self._right_N[index] = kept * self._right_N[index] + num_right
        self._wrong_N[index] = kept * self._wrong_N[index] + num_wrong
        self._step_N[index] = step

    def posterior(self, step: int) -> tuple[Floats, Floats]:
        """([N] a, [N] b) as of `step`."""
        kept_N = self._discount ** (step - self._step_N)
        right_N, wrong_N = kept_N * self._right_N, kept_N * self._wrong_N
        num_levels = int(self._level_N.max()) + 1
        seen_N = np.maximum(right_N + wrong_N, 1e-12)
        # a level's mean counts every problem once, however often it was sampled: frequent ones are
        # those that the strategy likes, and would bias it
        met_N = (self._right_N + self._wrong_N > 0).astype(np.float64)
        rate_L = np.bincount(self._level_N, met_N * right_N / seen_N, num_levels)
        count_L = np.bincount(self._level_N, met_N, num_levels)
        # one half-solved problem is added to each level, which has a mean before it has verdicts
        mean_N = ((rate_L + 0.5) / (count_L + 1))[self._level_N]
        return PRIOR_STRENGTH * mean_N + right_N, PRIOR_STRENGTH * (1 - mean_N) + wrong_N

    def state(self) -> list[list[float]]:
        """[index, right, wrong, step] of every problem with verdicts, JSON-ready."""
        met = np.nonzero(self._right_N + self._wrong_N)[0]
        columns = (met, self._right_N[met], self._wrong_N[met], self._step_N[met])
        return [list(row) for row in zip(*(c.tolist() for c in columns), strict=True)]

    def load_state(self, rows: Sequence[Sequence[float]]) -> None:
        """Continues from `state`, forgetting what was observed since."""
        for known_N in (self._right_N, self._wrong_N, self._step_N):
            known_N.fill(0)
        for index, right, wrong, step in rows:
            i = int(index)
            self._right_N[i], self._wrong_N[i], self._step_N[i] = right, wrong, int(step)


class Selector:
    """Picks problems by sampling.strategy; a function of the seed and of what it has observed.

    uniform: a new random order in every epoch. predictive: highest probability of an informative
    group. curriculum: pass rate nearest to a target that falls from 0.8 to 0.2 over the run. The
    last two take sampling.explore_frac of the problems at random, and pick no problem again before
    num_problems / max_reuse others: none is used more than about max_reuse times the mean.
    """

    def __init__(
        self,
        config: SamplingConfig,
        num_problems: int,
        group_size: int,
        num_steps: int,
        seed: int,
        *,
        shuffle: bool = True,
        levels: Sequence[int] | None = None,
    ) -> None:
        self._config, self._num_problems = config, num_problems
        self._group_size, self._num_steps = group_size, num_steps
        self._seed, self._shuffle = seed, shuffle
        self._rates = PassRates(levels or [0] * num_problems, config.discount)
        self._last_draw_N = np.full(num_problems, -1, dtype=np.int64)
        self._num_drawn = 0
        self._epoch: tuple[int, list[int]] = (-1, [])

    @property
    def num_drawn(self) -> int:
        """Problems picked so far."""
        return self._num_drawn

    def pick(self, count: int, step: int) -> list[tuple[int, int]]:
        """(index of a problem, number of picks before it), `count` times."""
        if self._config.strategy == "uniform":
            return [self._next_in_order() for _ in range(count)]
        picked: list[tuple[int, int]] = []
        while len(picked) < count:
            for index in self._best(min(count - len(picked), self._num_problems), step):
                picked.append((index, self._num_drawn))
                self._last_draw_N[index] = self._num_drawn
                self._num_drawn += 1
        return picked

    def observe(self, index: int, num_right: int, num_wrong: int, step: int) -> None:
        """Learns from the verdicts of one group of a picked problem."""
        if self._config.strategy != "uniform":
            self._rates.observe(index, num_right, num_wrong, step)

    def _best(self, count: int, step: int) -> list[int]:
        """Distinct problems that rested long enough: the best by score, some at random."""
        # a new generator from the number of picks: nothing but that number has to be saved
        draw = np.random.default_rng(sample_seed(self._seed, "pick", self._num_drawn))
        rest = min(int(self._num_problems / self._config.max_reuse), self._num_problems - count)
        met_N = self._last_draw_N >= 0
        free = np.nonzero(~met_N | (self._num_drawn - self._last_draw_N > rest))[0]
        free = draw.permutation(free)  # ties, as between unused problems, are broken at random
        num_random = int(draw.binomial(count, self._config.explore_frac))
        score = self._score(step)[free[num_random:]]
        # stable, as every platform has to pick the same
        order = np.argsort(-score, kind="stable")[: count - num_random]
        return [*free[:num_random].tolist(), *free[num_random:][order].tolist()]

    def _score(self, step: int) -> Floats:
        a_N, b_N = self._rates.posterior(step)
        if self._config.strategy == "predictive":
            return informative_probability(a_N, b_N, self._group_size)
        target = 0.8 - 0.6 * step / max(self._num_steps - 1, 1)
        return -np.abs(a_N / (a_N + b_N) - target)

    def _next_in_order(self) -> tuple[int, int]:
        epoch, place = divmod(self._num_drawn, self._num_problems)
        if self._epoch[0] != epoch:
            order = list(range(self._num_problems))
            if self._shuffle:
                random.Random(sample_seed(self._seed, "epoch", epoch)).shuffle(order)
            self._epoch = (epoch, order)
        self._num_drawn += 1
        return self._epoch[1][place], self._num_drawn - 1

    def state(self) -> dict[str, Any]:
        """Everything that the next `pick` depends on, JSON-ready."""
        met = np.nonzero(self._last_draw_N >= 0)[0]
        last = zip(met.tolist(), self._last_draw_N[met].tolist(), strict=True)
        return {
            "num_drawn": self._num_drawn,
            "last_draw": [list(pair) for pair in last],
            "pass_rates": self._rates.state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continues from `state`, forgetting what was picked since."""
        self._num_drawn = state["num_drawn"]
        self._last_draw_N.fill(-1)
        for index, number in state["last_draw"]:
            self._last_draw_N[index] = number
        self._rates.load_state(state["pass_rates"])
