"""How many prompts a step asks for, from the fraction of groups that carried a signal lately."""

from __future__ import annotations

import math

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
