"""Problems of several sources: each source has its share at every step, in an order of its own."""

from collections import Counter
from typing import Any

import pytest

from rewards import Gold
from rlvr.config.train import SamplingConfig
from rlvr.data.problems import Problem
from rlvr.sampling.mixture import Mixture, make_selector
from rlvr.sampling.problem_selection import Selector

SIZES = (30, 6, 12)
GOLD = Gold.parse("7")


def problems(sizes=SIZES):
    return [
        Problem(f"{source}/{i}", (), "7", GOLD, str(i % 3), source=source)
        for source, size in enumerate(sizes)
        for i in range(size)
    ]


def mixture(weights=None, strategy: Any = "uniform", seed=3, **settings):
    config = SamplingConfig(strategy=strategy, **settings)
    return make_selector(problems(), config, 4, 10, seed, weights=weights)


def source_of(index):
    return next(s for s in range(3) if index < sum(SIZES[: s + 1]))


@pytest.mark.parametrize("strategy", ["uniform", "predictive", "curriculum"])
@pytest.mark.parametrize("weights", [(0.7, 0.2, 0.1), (1 / 3, 1 / 3, 1 / 3), (0.01, 0.98, 0.01)])
def test_every_source_has_its_share_after_every_pick(strategy, weights):
    picks, counts = mixture(weights, strategy), Counter()
    for step in range(60):
        for index, _ in picks.pick(5, step):
            counts[source_of(index)] += 1
        for source, weight in enumerate(weights):
            assert abs(counts[source] - weight * counts.total()) < 1.5


def test_without_weights_every_problem_is_drawn_once_before_any_is_drawn_twice():
    picks = mixture()
    drawn = [index for _ in range(12) for index, _ in picks.pick(8, 0)]
    assert sorted(drawn[:48]) == sorted(drawn[48:]) == list(range(48))
    assert drawn[:48] != drawn[48:]
    # and no source comes in one piece
    assert {source_of(index) for index in drawn[:8]} == {0, 1, 2}


def test_which_problem_comes_next_depends_on_the_seed_and_which_source_does_not():
    drawn = [[i for i, _ in mixture((0.5, 0.3, 0.2), seed=s).pick(40, 0)] for s in (3, 4, 3)]
    assert drawn[0] == drawn[2] != drawn[1]
    assert list(map(source_of, drawn[0])) == list(map(source_of, drawn[1]))


def test_it_does_not_matter_how_many_are_picked_at_once():
    one, many = mixture((0.5, 0.3, 0.2)), mixture((0.5, 0.3, 0.2))
    assert [pick for _ in range(40) for pick in one.pick(1, 0)] == many.pick(40, 0)


def test_a_problem_that_is_drawn_twice_has_another_number():
    picks = mixture((0.2, 0.6, 0.2)).pick(100, 0)
    assert len(set(picks)) == 100 > len({index for index, _ in picks})


@pytest.mark.parametrize("strategy", ["predictive", "curriculum"])
def test_what_is_learnt_of_a_source_stays_there(strategy):
    picks = mixture((0.5, 0.3, 0.2), strategy)
    before = picks.state()["sources"]
    picks.observe(SIZES[0] + 2, 3, 1, 0)
    after = picks.state()["sources"]
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, False, True]
    assert after[1]["pass_rates"] == [[2, 3.0, 1.0, 0]]


def test_one_source_is_drawn_as_it_was_before_there_were_several():
    config = SamplingConfig()
    alone = make_selector(problems((9,)), config, 4, 10, 3)
    assert isinstance(alone, Selector)
    assert not isinstance(alone, Mixture)
    assert alone.pick(30, 0) == Selector(config, 9, 4, 10, 3, levels=[0] * 9).pick(30, 0)
