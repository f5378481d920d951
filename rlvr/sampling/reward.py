"""Rewards of a group: verdicts, and the shaping of their responses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    from rlvr.config.train import RewardConfig
    from rlvr.engines.engine import Response


def shaped_rewards(
    config: RewardConfig,
    responses: Sequence[Response],
    verdicts: Sequence[Verdict],
    texts: Sequence[str],
    max_response_len: int,
    extra: Mapping[str, Sequence[float | None]] | None = None,
) -> list[float]:
    """One reward per response of a group: correctness plus the shaping that is on.

    texts: the decoded responses. extra: values of [[reward.extra]] by label; None counts as not
    judged. With reward.normalise every part is first brought to mean 0 and standard deviation 1
    within the group. A response that nobody judged gets 0, and the others the rewards that they
    would get in a group without it.
    """
    extra = extra or {}
    judged = [
        i
        for i, verdict in enumerate(verdicts)
        if verdict.reason not in UNJUDGED
        and all(values[i] is not None for values in extra.values())
    ]
    rewards = [0.0] * len(responses)
    if not judged:
        return rewards
    parts, weights = _parts(
        config,
        [responses[i] for i in judged],
        [verdicts[i] for i in judged],
        [texts[i] for i in judged],
        max_response_len,
    )
    for one in config.extra:
        parts[f"extra {one.label}"] = [extra[one.label][i] or 0.0 for i in judged]
        weights[f"extra {one.label}"] = one.weight
    size = len(judged)
    # the unjudged are out before anything is normalised: their 0 would shift the group's mean
    summed = weighted_sum(parts, weights, group_size=size, normalise=config.normalise)
    for i, reward in zip(judged, summed, strict=True):
        rewards[i] = reward
    return rewards


def _parts(
    config: RewardConfig,
    responses: Sequence[Response],
    verdicts: Sequence[Verdict],
    texts: Sequence[str],
    max_response_len: int,
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """([G] rewards, weight) of every part that is on, by name; every response was judged."""
    parts = {"answer": [config.correct if v.correct else config.incorrect for v in verdicts]}
    weights = {"answer": 1.0}
    lengths = [len(response.token_ids) for response in responses]
    if config.overlong == "penalty":
        cache_len = config.overlong_cache_len
        parts["overlong"] = [overlong_penalty(n, max_response_len, cache_len) for n in lengths]
        # DAPO adds it to the reward as it is (2503.14476 eq. 13)
        weights["overlong"] = 1.0
    if config.format_weight:
        opened = config.format_opened_in_prompt
        parts["format"] = [format_reward(text, opened_in_prompt=opened) for text in texts]
        weights["format"] = config.format_weight
    if config.length_weight:
        parts["length"] = length_rewards(lengths, [verdict.correct for verdict in verdicts])
        weights["length"] = config.length_weight
    if config.repetition_weight:
        parts["repetition"] = [
            repetition_penalty(r.token_ids, config.repetition_ngram_len) for r in responses
        ]
        weights["repetition"] = config.repetition_weight
    return parts, weights
