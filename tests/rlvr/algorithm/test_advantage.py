"""Advantage estimators against hand tables and invariances."""

import itertools
import math
import random
import statistics

import pytest

from rlvr.algorithm.advantage import ESTIMATORS, advantages, is_informative
from rlvr.config.presets import USES_EQUAL_REWARDS

# Group one: rewards 1, 0, 0, 1 (mean 1/2, variance 1/3); group two: all wrong.
REWARDS = [[1.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0]]
LENGTHS = [[1, 2, 3, 4], [5, 5, 5, 5]]
STD = (1 / 3) ** 0.5 + 1e-4
# All eight rewards: mean 1/4, sum of squares 2 - 8/16 = 3/2, over 7.
STEP_STD = (1.5 / 7) ** 0.5 + 1e-4

HAND = {
    "group_std": [[0.5 / STD, -0.5 / STD, -0.5 / STD, 0.5 / STD], [0] * 4],
    "group_mean": [[0.5, -0.5, -0.5, 0.5], [0] * 4],
    "leave_one_out": [[2 / 3, -2 / 3, -2 / 3, 2 / 3], [0] * 4],
    "length_weighted": [[0.5, -0.5, -0.5, 0.5], [0] * 4],  # baseline (1 + 4) / 10
    "batch_std": [[0.5 / STEP_STD, -0.5 / STEP_STD, -0.5 / STEP_STD, 0.5 / STEP_STD], [0] * 4],
    "batch": [
        [0.75 / STEP_STD, -0.25 / STEP_STD, -0.25 / STEP_STD, 0.75 / STEP_STD],
        [-0.25 / STEP_STD] * 4,
    ],
    "informative_scaled": [[1, -1, -1, 1], [0] * 4],  # twice R - mean: one group in two differs
    "over_mean": [[1, -1, -1, 1], [0] * 4],
    "pass_at_k": [[1, -1, -1, 1], [0] * 4],  # of 1: R - mean over the std with G
    "none": [[0] * 4, [0] * 4],
}


def flat(groups):
    return [value for group in groups for value in group]


@pytest.mark.parametrize("name", ESTIMATORS)
def test_an_estimator_gives_the_values_worked_out_by_hand(name):
    got = advantages(REWARDS, LENGTHS, name)
    assert flat(got) == pytest.approx(flat(HAND[name]), abs=1e-12)


def test_a_long_response_pulls_the_length_weighted_baseline():
    (got,) = advantages([[1.0, 0.0]], [[9, 1]], "length_weighted")
    assert got == pytest.approx([0.1, -0.9])


def test_leave_one_out_is_the_reward_minus_the_mean_of_the_others():
    rewards = [0.3, -1.0, 2.5, 0.0, 0.1]
    (got,) = advantages([rewards], [[1] * 5], "leave_one_out")
    slow = [r - (sum(rewards) - r) / 4 for r in rewards]
    assert got == pytest.approx(slow)


def best_of_sets(rewards, k):
    """Advantages of pass@k training, set by set."""
    sets = list(itertools.combinations(range(len(rewards)), k))
    best = {chosen: max(rewards[i] for i in chosen) for chosen in sets}
    mean, std = statistics.mean(best.values()), statistics.pstdev(best.values())
    own = [statistics.mean(best[s] for s in sets if i in s) for i in range(len(rewards))]
    return [(x - mean) / std if std else 0.0 for x in own]


@pytest.mark.parametrize("k", [1, 2, 3, 5, 6])
@pytest.mark.parametrize(
    "rewards",
    [[1, 0, 0, 1, 0, 0], [1, 1, 1, 1, 0, 0], [0, 0, 0, 0, 0, 1], [0.3, -1, 2.5, 0.3, 0, 0.1]],
)
def test_pass_at_k_is_what_all_sets_of_k_give(rewards, k):
    (got,) = advantages([rewards], [[1] * 6], "pass_at_k", pass_k=k)
    assert got == pytest.approx(best_of_sets(rewards, k), abs=1e-12)


def test_pass_at_k_of_right_and_wrong_is_the_papers_closed_form():
    size, wrong, k = 8, 6, 4
    (got,) = advantages([[1.0] * 2 + [0.0] * 6], [[1] * 8], "pass_at_k", pass_k=k)
    mean = 1 - math.comb(wrong, k) / math.comb(size, k)
    std = math.sqrt(mean * (1 - mean))
    low = 1 - mean - math.comb(wrong - 1, k - 1) / math.comb(size - 1, k - 1)
    assert got == pytest.approx([(1 - mean) / std] * 2 + [low / std] * 6)


def test_a_group_smaller_than_k_has_no_advantages():
    assert advantages([[1.0, 0.0]], [[1, 1]], "pass_at_k", pass_k=4) == [[0.0, 0.0]]


def test_over_mean_is_on_average_the_cut_off_gradient_of_the_log_likelihood():
    """Over all groups of a problem solved with probability p: the gradient of log p is that of p
    times the sum over j of (1 - p)^j; the group's own mean as the baseline costs the last term."""
    p, size = 0.3, 5
    expected = 0.0
    for outcome in itertools.product([0.0, 1.0], repeat=size):
        (found,) = advantages([outcome], [[1] * size], "over_mean")
        chance = math.prod(p if r else 1 - p for r in outcome)
        scores = [1 / p if r else -1 / (1 - p) for r in outcome]  # d log P(outcome) / dp
        expected += chance * sum(a * s for a, s in zip(found, scores, strict=True)) / size
    assert expected == pytest.approx(sum((1 - p) ** j for j in range(size - 1)))


SHIFTED = [name for name in ESTIMATORS if name != "over_mean"]  # of rewards of 0 and 1


@pytest.mark.parametrize("name", SHIFTED)
def test_adding_a_constant_to_every_reward_changes_nothing(name):
    shifted = [[r + 1000.0 for r in group] for group in REWARDS]
    before, after = advantages(REWARDS, LENGTHS, name), advantages(shifted, LENGTHS, name)
    assert flat(after) == pytest.approx(flat(before), abs=1e-9)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_permuting_a_group_permutes_its_advantages(name):
    draw = random.Random(0)
    rewards = [[draw.random() for _ in range(6)] for _ in range(3)]
    lengths = [[draw.randrange(1, 9) for _ in range(6)] for _ in range(3)]
    order = [4, 2, 0, 5, 1, 3]
    before = advantages(rewards, lengths, name)
    after = advantages(
        [[group[i] for i in order] for group in rewards],
        [[group[i] for i in order] for group in lengths],
        name,
    )
    for group, permuted in zip(before, after, strict=True):
        assert permuted == pytest.approx([group[i] for i in order])


@pytest.mark.parametrize("name", sorted(set(USES_EQUAL_REWARDS) - {"none"}))
def test_an_estimator_that_refuses_dynamic_sampling_learns_from_equal_rewards(name):
    got = advantages([[1.0] * 3, [0.0] * 3, [0.0, 1.0, 0.0]], [[1] * 3] * 3, name)
    assert min(got[0]) > 0
    assert max(got[1]) < 0


@pytest.mark.parametrize("name", sorted(set(ESTIMATORS) - set(USES_EQUAL_REWARDS)))
def test_a_group_without_signal_gets_exactly_zero(name):
    got = advantages([[0.1] * 7, [0.0, 1.0]], [list(range(1, 8)), [1, 2]], name)
    assert got[0] == [0.0] * 7


def test_groups_may_differ_in_size():
    got = advantages([[1.0, 0.0], [1.0, 0.0, 0.0]], [[1, 1], [1, 1, 1]], "group_mean")
    assert flat(got) == pytest.approx([0.5, -0.5, 2 / 3, -1 / 3, -1 / 3])


def test_informative_means_that_rewards_differ_whatever_their_mean():
    assert is_informative([0.5, -0.5])
    assert not is_informative([0.5, 0.5])
