"""Posterior, choice and reuse of problems; the simulation reaches its goals."""

import itertools
import json
from collections import Counter

import numpy as np
import pytest

from rlvr.config.train import SamplingConfig
from rlvr.sampling.problem_selection import (
    PassRates,
    Selector,
    difficulty_levels,
    informative_probability,
)
from tests.benchmarks.sampling import simulate


def selector(strategy, num_problems=40, **settings):
    config = SamplingConfig(strategy=strategy, **settings)
    return Selector(config, num_problems, group_size=4, num_steps=10, seed=3)


def test_informative_probability_by_hand():
    # Uniform rate: E[p^4] = E[(1 - p)^4] = 1 / 5. Beta(2, 1): E[p^2] = 1 / 2, E[(1 - p)^2] = 1 / 6.
    assert informative_probability(np.ones(1), np.ones(1), 4) == pytest.approx(3 / 5)
    assert informative_probability(np.full(1, 2.0), np.ones(1), 2) == pytest.approx(1 / 3)


def test_informative_probability_equals_drawing_from_the_posterior():
    draw = np.random.default_rng(0)
    p = draw.beta(0.7, 2.5, 400_000)
    expected = (1 - p**8 - (1 - p) ** 8).mean()
    got = informative_probability(np.full(1, 0.7), np.full(1, 2.5), 8)
    assert got == pytest.approx(expected, abs=2e-3)


def test_verdicts_fade_with_the_steps_since():
    rates = PassRates([0, 0], discount=0.5)
    rates.observe(0, 4, 0, step=0)
    a_then, b_then = rates.posterior(0)
    a_later, b_later = rates.posterior(2)
    assert a_then[0] - a_later[0] == pytest.approx(3.0)
    assert b_then[0] == b_later[0]
    rates.observe(0, 0, 4, step=2)
    assert rates.state() == [[0, 1.0, 4.0, 2]]


def test_a_problem_never_met_is_judged_by_its_level():
    rates = PassRates([0, 0, 1, 1], discount=1.0)
    rates.observe(0, 8, 0, step=0)
    rates.observe(2, 0, 8, step=0)
    a, b = rates.posterior(1)
    assert a[1] / (a[1] + b[1]) == pytest.approx(0.75)
    assert a[3] / (a[3] + b[3]) == pytest.approx(0.25)


def test_difficulties_become_levels():
    assert difficulty_levels(["", ""]) == [0, 0]
    assert difficulty_levels(["hard", "easy", "hard"]) == [1, 0, 1]
    levels = difficulty_levels([str(i / 7) for i in range(100)])
    assert Counter(levels) == dict.fromkeys(range(10), 10)
    assert levels == sorted(levels)


def test_uniform_meets_every_problem_once_an_epoch_in_a_new_order():
    choose = selector("uniform")
    first, second = ([i for i, _ in choose.pick(40, step)] for step in (0, 1))
    assert sorted(first) == sorted(second) == list(range(40))
    assert first != second


@pytest.mark.parametrize("strategy", ["predictive", "curriculum"])
def test_no_problem_comes_back_before_the_others_had_their_share(strategy):
    choose = selector(strategy, max_reuse=2.0)
    picks = [i for step in range(30) for i, _ in choose.pick(8, step)]
    last = {}
    for place, index in enumerate(picks):
        assert place - last.get(index, -100) > 20
        last[index] = place


def test_predictive_prefers_problems_that_are_sometimes_solved():
    choose = selector("predictive", explore_frac=0.0, max_reuse=40.0)
    for index in range(40):
        choose.observe(index, 2 if index < 10 else 4 * (index % 2), 2 if index < 10 else 0, 0)
    assert {i for i, _ in choose.pick(10, 1)} == set(range(10))


def test_curriculum_goes_from_often_to_seldom_solved():
    choose = selector("curriculum", explore_frac=0.0, max_reuse=40.0)
    for index in range(40):
        choose.observe(index, index, 40 - index, 0)
    early = [i for i, _ in choose.pick(5, 0)]
    late = [i for i, _ in choose.pick(5, 9)]
    assert min(early) > max(late)


def test_more_problems_than_there_are_can_be_asked_for():
    assert Counter(i for i, _ in selector("predictive").pick(100, 0)).most_common(1)[0][1] == 3


@pytest.mark.parametrize("strategy", ["uniform", "predictive", "curriculum"])
def test_a_saved_selector_goes_on_with_the_same_choices(strategy):
    def steps(choose, numbers):
        for step in numbers:
            picks = choose.pick(6, step)
            for index, _ in picks:
                choose.observe(index, index % 5, 4 - index % 5, step)
            yield picks

    whole, first = selector(strategy), selector(strategy)
    expected = list(steps(whole, range(8)))
    done = list(steps(first, range(4)))
    second = selector(strategy)
    second.load_state(json.loads(json.dumps(first.state())))
    assert done + list(steps(second, range(4, 8))) == expected
    numbers = [number for picks in expected for _, number in picks]
    assert numbers == list(itertools.islice(itertools.count(), 48))


def test_the_simulated_cost_is_at_most_0_7_of_uniform_without_wearing_a_problem_out():
    uniform = simulate("uniform", 2_000, 0, None)
    predictive = simulate("predictive", 2_000, 0, None)
    assert predictive["groups_per_informative"] <= 0.7 * uniform["groups_per_informative"]
    assert predictive["used_max_over_mean"] <= 4
