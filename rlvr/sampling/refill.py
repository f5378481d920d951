"""How many prompts a round asks for, from the fraction of groups that carried a signal lately."""

from __future__ import annotations

import math

FIRST_FRAC = 0.5
"""Assumed before anything was sampled; only the first rounds depend on it."""
MIN_FRAC = 1 / 3
"""Smallest fraction reckoned with: a policy that is lost on a batch should not cost more."""
MARGIN = 1.5
"""Standard deviations of the number of informative groups that are asked for beyond the mean."""
MEMORY = 0.8
"""Weight of what was known when a round is observed."""


def num_prompts(missing: int, informative_frac: float) -> int:
    """Prompts of the next round, so that one round mostly gives the `missing` groups.

    n prompts give n f informative groups on average, with variance n f (1 - f), which is about
    missing (1 - f). A second round takes as long as its longest response, and groups beyond the
    missing wait for the next step, so asking for more costs little.
    """
    frac = max(informative_frac, MIN_FRAC)
    return math.ceil((missing + MARGIN * math.sqrt(missing * (1 - frac))) / frac)


def updated_frac(known: float, num_informative: int, num_groups: int) -> float:
    """The fraction of informative groups after a round of num_groups."""
    return MEMORY * known + (1 - MEMORY) * num_informative / num_groups
