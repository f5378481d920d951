"""Compute rewards beside correctness from lengths, texts and tokens, and add them up."""

import math
import re
import statistics
from collections.abc import Mapping, Sequence

THINK = re.compile(r"\s*<think>(.*?)</think>(.*)", re.DOTALL)
TAG = re.compile(r"</?think>")


def overlong_penalty(response_len: int, max_len: int, cache_len: int) -> float:
    """Return 0 up to max_len - cache_len tokens, then linear down to -1 at max_len, -1 beyond.

    Source: DAPO, arXiv 2503.14476, eq. 13 (there max_len 20,480 and cache_len 4,096).
    """
    if not 0 < cache_len <= max_len:
        raise ValueError(
            f"cache_len = {cache_len}: must be between 1 and max_len = {max_len}; "
            f"the paper's ratio would be {max(1, max_len // 5)}"
        )
    return min(0.0, max(-1.0, (max_len - cache_len - response_len) / cache_len))


def format_reward(response: str, *, opened_in_prompt: bool = False) -> float:
    """Return 1 for a response of the form `<think>reasoning</think>answer`, else 0.

    Each tag stands exactly once, in this order; nothing but white space comes before, and neither
    the reasoning nor the answer is blank. opened_in_prompt: the prompt ends in `<think>` already,
    so the response starts inside.
    Source: DeepSeek-R1, arXiv 2501.12948, section 2.2.2. There the answer stands in `<answer>`
    tags; here the verifier's answer_mode says where it stands.
    """
    match = THINK.fullmatch("<think>" + response if opened_in_prompt else response)
    if match is None:
        return 0.0
    reasoning, answer = match.groups()
    # the pattern ends at the first closing tag, so any other tag is one too many
    whole = reasoning.strip() and answer.strip() and not TAG.search(reasoning + answer)
    return 1.0 if whole else 0.0


def length_rewards(response_lens: Sequence[int], correct: Sequence[bool]) -> list[float]:
    """Return the rewards of one group, from +0.5 for the shortest response to -0.5 for the longest.

    A wrong response gets at most 0; a group of equal lengths gets 0 throughout.
    Source: Kimi k1.5, arXiv 2501.12599, section 2.3.3.
    """
    shortest, longest = min(response_lens), max(response_lens)
    if shortest == longest:
        return [0.0] * len(response_lens)
    rewards = [0.5 - (length - shortest) / (longest - shortest) for length in response_lens]
    return [
        reward if right else min(0.0, reward)
        for reward, right in zip(rewards, correct, strict=True)
    ]


def repetition_penalty(tokens: Sequence[int], ngram_len: int = 20) -> float:
    """Return minus the fraction of the response's n-grams that repeat an earlier one: 0 to -1.

    Shorter responses than one n-gram get 0.
    Source: arXiv 2502.03373, algorithm 1. There every token of a repeated n-gram is penalised on
    its own; here the response gets one number, because the advantage is one per response.
    """
    num_ngrams = len(tokens) - ngram_len + 1
    if num_ngrams < 1:
        return 0.0
    distinct = {tuple(tokens[start : start + ngram_len]) for start in range(num_ngrams)}
    return len(distinct) / num_ngrams - 1.0


def weighted_sum(
    rewards: Mapping[str, Sequence[float]],
    weights: Mapping[str, float],
    *,
    group_size: int,
    normalise: bool = False,
    eps: float = 1e-4,
) -> list[float]:
    """Return one reward per response, the weighted sum of several, responses ordered by group.

    normalise: first shift and scale every reward to mean 0 and standard deviation 1 (n - 1 in the
    denominator, plus eps) within its group, so that a reward with a wide range does not drown the
    others; a reward that is constant within a group adds 0 there.
    Source: GDPO, arXiv 2601.05242, before its batch-level normalisation, which belongs to the
    advantage.
    """
    if rewards.keys() != weights.keys():
        raise ValueError(
            f"rewards {sorted(rewards)} and weights {sorted(weights)}: give one weight per reward"
        )
    lens = {len(values) for values in rewards.values()}
    if len(lens) != 1 or lens.pop() % group_size:
        raise ValueError(
            f"group_size = {group_size}: every reward needs one value per response, in whole "
            f"groups, but there are { {name: len(values) for name, values in rewards.items()} }"
        )
    columns = []
    for name, values in rewards.items():
        column = normalised(values, group_size, eps) if normalise else values
        columns.append([weights[name] * value for value in column])
    # fsum: the order in which rewards are named changes nothing
    return [math.fsum(row) for row in zip(*columns, strict=True)]


def normalised(values: Sequence[float], group_size: int, eps: float) -> list[float]:
    """Return each value minus its group's mean, over its group's standard deviation plus eps."""
    result = []
    for start in range(0, len(values), group_size):
        group = values[start : start + group_size]
        mean = statistics.fmean(group)
        # stdev raises for a single value
        spread = statistics.stdev(group) if group_size > 1 else 0.0
        result.extend((value - mean) / (spread + eps) for value in group)
    return result
