"""How many prompts a step asks for, from the fraction of groups that carried a signal lately."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rlvr.config.rollout import RolloutConfig, SamplingConfig
    from rlvr.sampling.rollouts import Group, RolloutStats

FIRST_FRAC = 0.5
"""Assumed before anything was sampled; only the first steps depend on it."""
MIN_FRAC = 1 / 3
"""Smallest fraction reckoned with: a policy that is lost on a batch should not cost more."""
MARGIN = 1.5
"""Standard deviations of the number of informative groups that are asked for beyond the mean."""
MEMORY = 0.8
"""Weight of what was known when a step is observed."""


def num_prompts(missing: int, informative_frac: float, keeps_surplus: bool = True) -> int:
    """Prompts that mostly give the `missing` groups without asking again.

    n prompts give n f informative groups on average, with variance n f (1 - f), which is about
    missing (1 - f). What is asked for later takes another response's length, and groups beyond the
    missing wait for the next step, so asking for more costs little. keeps_surplus: whether they may
    wait; else the mean is asked for.
    """
    frac = max(informative_frac, MIN_FRAC)
    margin = MARGIN if keeps_surplus else 0.0
    return math.ceil((missing + margin * math.sqrt(missing * (1 - frac))) / frac)


def updated_frac(known: float, num_informative: int, num_groups: int) -> float:
    """The fraction of informative groups after a step that sampled num_groups."""
    return MEMORY * known + (1 - MEMORY) * num_informative / num_groups


class Refill:
    """Decides which groups a step can train on, and how many prompts to ask for."""

    def __init__(self, rollout: RolloutConfig, sampling: SamplingConfig) -> None:
        self._rollout, self._sampling = rollout, sampling
        self.informative_frac = FIRST_FRAC

    def is_usable(self, group: Group) -> bool:
        """Whether a step can train on it; without dynamic sampling on all that was judged."""
        return group.informative if self._sampling.dynamic else group.comparable

    def num_more(self, missing: int, num_running: int, stats: RolloutStats) -> int:
        """Prompts to ask for now, so that what is running is what is expected to be needed; counts
        them."""
        is_first = stats.num_asked == 0
        if missing <= 0:
            wanted = 0
        elif self._rollout.partial:
            # what outlives this step is the next one's: as much as a whole step needs keeps running
            wanted = self._num_prompts(self._rollout.prompts_per_step)
        elif is_first or num_running * self._usable_frac < missing:
            wanted = self._num_prompts(missing)
        else:
            wanted = 0
        count = max(0, wanted - num_running)
        if not is_first:
            # the first prompts of a step are no refill
            left = self._sampling.max_refills * self._rollout.prompts_per_step - stats.num_refills
            count = min(count, left)
            stats.num_refills += count
        stats.num_asked += count * self._rollout.group_size
        return count

    @property
    def _usable_frac(self) -> float:
        return max(self.informative_frac, MIN_FRAC) if self._sampling.dynamic else 1.0

    def _num_prompts(self, missing: int) -> int:
        if not self._sampling.dynamic:
            return missing
        return num_prompts(missing, self.informative_frac, self._rollout.max_staleness > 0)

    def observe(self, fresh: Sequence[Group]) -> None:
        """Learns from the groups that a step has sampled."""
        if fresh:
            count = sum(group.informative for group in fresh)
            self.informative_frac = updated_frac(self.informative_frac, count, len(fresh))
