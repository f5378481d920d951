"""From verdicts to the rewards that advantages are made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rewards.shaping import (
    format_reward,
    length_rewards,
    overlong_penalty,
    repetition_penalty,
    weighted_sum,
)

if TYPE_CHECKING:
    from rewards import Verdict
    from rlvr.config import TrainRecipe
    from rlvr.rollout.engine import Response


def shaped_rewards(
    recipe: TrainRecipe,
    responses: Sequence[Response],
    verdicts: Sequence[Verdict],
    texts: Sequence[str],
) -> list[float]:
    """One reward per response, whole groups in order: correctness plus the shaping that is on.

    texts: the decoded responses. With reward.normalise every part is first brought to mean 0 and
    standard deviation 1 within its group.
    """
    config = recipe.reward
    parts = {"answer": [config.correct if v.correct else config.incorrect for v in verdicts]}
    weights = {"answer": 1.0}
    if config.overlong == "penalty":
        longest, cache = recipe.rollout.max_response_len, config.overlong_cache_len
        parts["overlong"] = [overlong_penalty(len(r.token_ids), longest, cache) for r in responses]
        weights["overlong"] = 1.0
    if config.format_weight:
        parts["format"] = [
            format_reward(text, opened_in_prompt=config.format_opened_in_prompt) for text in texts
        ]
        weights["format"] = config.format_weight
    if config.length_weight:
        parts["length"] = _by_group(recipe.rollout.group_size, responses, verdicts)
        weights["length"] = config.length_weight
    if config.repetition_weight:
        parts["repetition"] = [
            repetition_penalty(r.token_ids, config.repetition_ngram_len) for r in responses
        ]
        weights["repetition"] = config.repetition_weight
    if len(parts) == 1 and not config.normalise:
        return parts["answer"]
    return weighted_sum(
        parts, weights, group_size=recipe.rollout.group_size, normalise=config.normalise
    )


def _by_group(size: int, responses: Sequence[Response], verdicts: Sequence[Verdict]) -> list[float]:
    lengths = [len(r.token_ids) for r in responses]
    correct = [v.correct for v in verdicts]
    return [
        reward
        for start in range(0, len(lengths), size)
        for reward in length_rewards(lengths[start : start + size], correct[start : start + size])
    ]
