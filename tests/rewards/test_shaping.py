"""Shaping rewards by hand tables, invariances and the packages that have the same ones."""

import pytest
from trl.rewards import get_repetition_penalty_reward, get_soft_overlong_punishment

from rewards.shaping import (
    format_reward,
    length_rewards,
    overlong_penalty,
    repetition_penalty,
    weighted_sum,
)


@pytest.mark.parametrize(
    ("response_len", "penalty"),
    [(0, 0.0), (16_384, 0.0), (17_408, -0.25), (18_432, -0.5), (20_480, -1.0), (30_000, -1.0)],
)
def test_the_overlong_penalty_of_the_paper(response_len, penalty):
    assert overlong_penalty(response_len, max_len=20_480, cache_len=4_096) == penalty


def test_the_overlong_penalty_equals_trl():
    theirs = get_soft_overlong_punishment(max_completion_len=100, soft_punish_cache=20)
    lens = list(range(0, 130, 7))
    ours = [overlong_penalty(length, max_len=100, cache_len=20) for length in lens]
    assert ours == pytest.approx(theirs([[0] * length for length in lens]))


def test_an_overlong_cache_longer_than_the_response_is_refused():
    with pytest.raises(ValueError, match="cache_len = 200: must be between 1 and max_len = 100"):
        overlong_penalty(10, max_len=100, cache_len=200)


@pytest.mark.parametrize(
    ("response", "reward"),
    [
        ("<think>because</think>so 5", 1.0),
        (" \n<think>\nbecause\n</think>\n\\boxed{5}", 1.0),
        ("<think>because</think>", 0.0),
        ("<think> </think>5", 0.0),
        ("because</think>5", 0.0),
        ("Well, <think>because</think>5", 0.0),
        ("<think>a</think><think>b</think>5", 0.0),
        ("<think><think>a</think>5", 0.0),
        ("<think>a</think>5</think>", 0.0),
        ("</think>a<think>5", 0.0),
        ("5", 0.0),
        ("", 0.0),
    ],
)
def test_the_format_reward_wants_each_tag_once_around_the_reasoning(response, reward):
    assert format_reward(response) == reward


def test_the_format_reward_of_a_response_that_starts_inside():
    assert format_reward("because</think>5", opened_in_prompt=True) == 1.0
    assert format_reward("<think>because</think>5", opened_in_prompt=True) == 0.0


def test_length_rewards_favour_short_correct_responses():
    assert length_rewards([10, 20, 30, 10], [True, True, True, False]) == [0.5, 0.0, -0.5, 0.0]
    assert length_rewards([30, 25], [False, False]) == [-0.5, 0.0]
    assert length_rewards([7, 7, 7], [True, False, True]) == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("tokens", "penalty"),
    [([1, 2, 3, 4], 0.0), ([5] * 5, -0.75), ([1, 2, 1, 2, 1], -0.5), ([1], 0.0), ([], 0.0)],
)
def test_the_repetition_penalty_is_the_fraction_of_repeated_ngrams(tokens, penalty):
    assert repetition_penalty(tokens, ngram_len=2) == penalty
    (theirs,) = get_repetition_penalty_reward(ngram_size=2, max_penalty=-1.0)([tokens])
    assert repetition_penalty(tokens, ngram_len=2) == pytest.approx(theirs)


def test_a_weighted_sum_by_hand():
    rewards = {"correct": [1.0, 0.0, 1.0, 1.0], "format": [0.0, 1.0, 1.0, 1.0]}
    total = weighted_sum(rewards, {"correct": 1.0, "format": 0.5}, group_size=2)
    assert total == [1.0, 0.5, 1.5, 1.5]
    total = weighted_sum(
        rewards, {"correct": 1.0, "format": 0.5}, group_size=2, normalise=True, eps=0.0 + 1e-12
    )
    root = 0.5**0.5
    assert total == pytest.approx([root - root / 2, -root + root / 2, 0.0, 0.0])


def test_normalised_rewards_ignore_each_rewards_scale_and_shift_and_follow_a_permutation():
    correct, length = [1.0, 0.0, 0.0, 1.0], [3.0, 9.0, 4.0, 4.0]
    weights = {"a": 1.0, "b": 0.3}

    def total(a, b):
        return weighted_sum({"a": a, "b": b}, weights, group_size=4, normalise=True, eps=1e-12)

    plain = total(correct, length)
    assert total(correct, [100 * value - 7 for value in length]) == pytest.approx(plain)
    assert total(correct[::-1], length[::-1]) == pytest.approx(plain[::-1])


@pytest.mark.parametrize(
    ("rewards", "weights", "message"),
    [
        ({"a": [1.0, 2.0]}, {"b": 1.0}, "give one weight per reward"),
        ({"a": [1.0, 2.0, 3.0]}, {"a": 1.0}, "in whole groups"),
        ({"a": [1.0, 2.0], "b": [1.0]}, {"a": 1.0, "b": 1.0}, "in whole groups"),
    ],
)
def test_a_weighted_sum_of_what_does_not_fit_is_refused(rewards, weights, message):
    with pytest.raises(ValueError, match=message):
        weighted_sum(rewards, weights, group_size=2)
