"""From verdicts to the rewards that advantages are made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rewards.counters import UNJUDGED
from rewards.shaping import (
    format_reward,
    length_rewards,
    overlong_penalty,
    repetition_penalty,
    weighted_sum,
)

if TYPE_CHECKING:
    from rewards import Verdict
    from rlvr.config.train import TrainRecipe
    from rlvr.engines.engine import Response


def shaped_rewards(
    recipe: TrainRecipe,
    responses: Sequence[Response],
    verdicts: Sequence[Verdict],
    texts: Sequence[str],
) -> list[float]:
    """One reward per response, whole groups in order: correctness plus the shaping that is on.

    texts: the decoded responses. With reward.normalise every part is first brought to mean 0 and
    standard deviation 1 within its group. A response that nobody judged gets 0, and the others what
    they would get without it.
    """
    size = recipe.rollout.group_size
    rewards = [0.0] * len(responses)
    for start in range(0, len(responses), size):
        group = range(start, start + size)
        known = [i for i in group if verdicts[i].reason not in UNJUDGED]
        if not known:
            continue
        judged = _of_group(
            recipe,
            [responses[i] for i in known],
            [verdicts[i] for i in known],
            [texts[i] for i in known],
        )
        for i, reward in zip(known, judged, strict=True):
            rewards[i] = reward
    return rewards


def _of_group(
    recipe: TrainRecipe,
    responses: Sequence[Response],
    verdicts: Sequence[Verdict],
    texts: Sequence[str],
) -> list[float]:
    """One reward per response of a group, all of them judged."""
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
        lengths, correct = [len(r.token_ids) for r in responses], [v.correct for v in verdicts]
        parts["length"] = length_rewards(lengths, correct)
        weights["length"] = config.length_weight
    if config.repetition_weight:
        parts["repetition"] = [
            repetition_penalty(r.token_ids, config.repetition_ngram_len) for r in responses
        ]
        weights["repetition"] = config.repetition_weight
    if len(parts) == 1 and not config.normalise:
        return parts["answer"]
    return weighted_sum(parts, weights, group_size=len(responses), normalise=config.normalise)
