"""From verdicts to the rewards that advantages are made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rewards import Verdict
    from rlvr.config import TrainRecipe
    from rlvr.rollout.engine import Response


def shaped_rewards(
    recipe: TrainRecipe, responses: Sequence[Response], verdicts: Sequence[Verdict]
) -> list[float]:
    """One reward per response: correct or incorrect, plus the soft overlong penalty if it is on."""
    config = recipe.reward
    rewards = [config.correct if verdict.correct else config.incorrect for verdict in verdicts]
    if config.overlong != "penalty":
        return rewards
    longest, cache = recipe.rollout.max_response_len, config.overlong_cache_len
    return [
        reward + overlong_penalty(len(response.token_ids), longest, cache)
        for reward, response in zip(rewards, responses, strict=True)
    ]


def overlong_penalty(response_len: int, max_len: int, cache_len: int) -> float:
    """0 up to max_len - cache_len tokens, then linearly down to -1 at max_len.

    Source: DAPO, 2503.14476 eq. 13.
    """
    over = response_len - (max_len - cache_len)
    return -min(max(over / cache_len, 0.0), 1.0)
