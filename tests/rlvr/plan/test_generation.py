"""The plan's decoding steps: by hand in cases that can be computed, and beside a simulation that
plays the sampler's rules decoding step by decoding step."""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from dataclasses import replace
from typing import Any

import pytest

from rlvr.config.adapter import AdapterConfig
from rlvr.plan.generation import Workload, decoding, log_normal_lengths, longest_of
from rlvr.plan.hardware import Shape
from rlvr.plan.rates import Rates
from rlvr.plan.simulate import mean_of_slower, step_time
from rlvr.policy.flops import ModelDims

RATES = Rates(0.01, 0.001, 0.1, 0.5, 1e-3, 0.2, 1e-3, 0.3, 1.0, "by hand")
SHAPE = Shape(1000, 1000, ModelDims(2, 8, 16, 8, 4, 32), None, AdapterConfig())
TOLERANCE = 0.1
"""Of the formulas, as docs/plan.md states it."""


class Run:
    """A run's sampler in the simulation: which groups it has, and how many are under way."""

    def __init__(self, work: Workload, rng: random.Random) -> None:
        self.work, self.rng, self.have, self.open, self.first = work, rng, 0, 0, True

    def take(self) -> bool:
        """Whether the step ends at this tick; the next one begins then."""
        if self.have < self.work.groups or (self.open and not self.work.partial):
            return False
        self.have, self.first = self.have - self.work.groups, True
        return True

    def ask(self) -> list[list[int]]:
        """The rows of the groups asked for at a tick, by the rules of docs/sampling.md."""
        work, frac = self.work, 1 / self.work.groups_per_informative
        missing, wanted = work.groups - self.have, 0
        if missing > 0 and (work.partial or self.first or self.open * frac < missing):
            needed = work.groups if work.partial else missing
            wanted = math.ceil((needed + 1.5 * math.sqrt(needed * (1 - frac))) / frac)
        self.first, count = False, max(0, wanted - self.open)
        self.open += count
        return [self.rng.choices(work.lengths, k=work.group_size) for _ in range(count)]

    def ended(self) -> None:
        self.open -= 1
        self.have += self.rng.random() * self.work.groups_per_informative < 1


def simulated(work: Workload, slots: int, steps: int = 200) -> float:
    """Decoding steps of a training step of every run, on one engine. Runs wait for no other; the
    first steps, which fill the stream, are left out."""
    rng, now, taken, begin = random.Random(0), 0, 0, 0
    runs, groups = [Run(work, rng) for _ in range(work.runs)], list[list[Any]]()
    waiting, running = deque[tuple[int, int]](), list[tuple[int, int]]()

    def start() -> None:
        while waiting and len(running) < slots:
            number, length = waiting.popleft()
            heapq.heappush(running, (now + length, number))

    while taken < steps * work.runs:
        for run in runs:
            while run.take():
                taken += 1
                begin = now if taken <= 10 * work.runs else begin
            for rows in run.ask():
                groups.append([run, len(rows)])
                waiting.extend((len(groups) - 1, length) for length in rows)
        start()
        tick = math.inf if work.by_clock else now + 16
        while running and running[0][0] <= tick:
            now, number = heapq.heappop(running)
            groups[number][1] -= 1
            if not groups[number][1]:
                groups[number][0].ended()
            start()
        now = int(tick) if running and not work.by_clock else now
    return (now - begin) / (steps - 10)


LONG = log_normal_lengths(100, 1, 1000)
CASES = {
    "quickstart": (Workload(16, 8, 50, log_normal_lengths(40, 0.3, 96), 2.0), 256),
    "long tail": (Workload(40, 8, 50, LONG, 2.0), 1000),
    "few informative": (Workload(16, 8, 50, LONG, 1 / 0.35), 1000),
    "full slots": (Workload(16, 8, 50, LONG, 2.0), 64),
    "no refill": (Workload(16, 8, 50, LONG, 1.0), 1000),
}
WAYS = {
    "refill": {},
    "partial": {"partial": True},
    "servers": {"by_clock": True},
    "four runs": {"runs": 4},
    "four runs, partial": {"runs": 4, "partial": True},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", CASES)
def test_the_formulas_give_what_playing_the_sampler_gives(case, way):
    work, slots = CASES[case]
    work = replace(work, **WAYS[way])
    expected = simulated(work, slots)
    assert decoding(work, 1, slots).steps == pytest.approx(expected, rel=TOLERANCE)


def test_partial_rollouts_take_less_than_refills_and_those_less_than_a_tail_each():
    """The order of docs/sampling.md, where tails are long and slots are free."""
    work, slots = CASES["long tail"]
    partial, refill, clock = (
        decoding(replace(work, **words), 1, slots).steps
        for words in ({"partial": True}, {}, {"keeps_surplus": False, "by_clock": True})
    )
    assert partial < 0.6 * refill
    assert refill < 0.8 * clock


def test_equal_lengths_are_computed_by_hand():
    # 32 is two ticks; n = ceil((16 + 1.5 sqrt(16 * 0.5)) / 0.5) = ceil(40.49) groups under way
    work = Workload(16, 8, 50, (32,), 2.0, partial=True)
    assert decoding(work, 1, 1000).steps == pytest.approx(32 * 32 / 41)
    assert decoding(replace(work, groups_per_informative=1.0), 1, 1000).steps == 32
    # 256 rows of 32 tokens, 64 at a time
    assert decoding(work, 1, 64).steps == 256 * 32 / 64
    assert decoding(work, 2, 64).steps == 128 * 32 / 64, "two engines share them"
    assert decoding(replace(work, runs=4), 1, 64).steps == 4 * 256 * 32 / 64
    # what is paused, 256 * 32 / 128 rows, reads its prompt of 50 and 16 tokens again
    assert decoding(work, 1, 64).requests == pytest.approx(256 + 64 * (50 + 16) / 50)
    whole = Workload(16, 8, 50, (32,), 1.0)
    assert decoding(whole, 1, 1000).steps == 32
    assert decoding(whole, 1, 64).steps == 64
    assert decoding(whole, 1, 1000).steps_sd == 0
    late = replace(whole, groups_per_informative=2.0, keeps_surplus=False, by_clock=True)
    assert decoding(late, 1, 1000).steps == 32 + 32


def test_the_longest_of_several_is_an_expectation():
    assert longest_of((1, 3), 2, tick=1) == pytest.approx(0.25 * 1 + 0.75 * 3)
    assert longest_of((10, 20), 1, tick=16) == pytest.approx((16 + 32) / 2)
    assert longest_of((5, 9), 1000, tick=1) == pytest.approx(9)


def test_prompts_are_asked_for_late_by_the_reflection_principle():
    work = Workload(16, 8, 50, (32,), 2.0)
    # m + 1.5 sqrt(m / 2) = 16 at m = 12.29, and 1.5 sqrt(12.29 / 16) = 1.315
    tail = 0.0943  # of the normal distribution, beyond 1.315
    assert work.late_frac == pytest.approx(2 * tail, rel=2e-3)
    assert replace(work, by_clock=True).late_frac == pytest.approx(tail, rel=2e-3)
    assert replace(work, keeps_surplus=False).late_frac == 1
    assert replace(work, groups_per_informative=1.0).late_frac == 0
    assert replace(work, partial=True).late_frac == 0


def test_the_slower_of_two_is_on_average_later_than_either():
    assert mean_of_slower(10, 10, 2) == pytest.approx(10 + 2 / math.sqrt(2 * math.pi))
    assert mean_of_slower(10, 4, 0) == 10
    assert mean_of_slower(100, 10, 1) == pytest.approx(100)
    assert mean_of_slower(10, 100, 1) == pytest.approx(100)


def test_more_steps_ahead_come_closer_to_the_slower_of_both():
    work = Workload(8, 8, 50, LONG, 2.0)
    # both take about as long
    rates = replace(RATES, update_token_s=3.2e-3)

    def seconds(steps_ahead: int) -> float:
        ahead = replace(work, steps_ahead=steps_ahead)
        return step_time(ahead, rates, SHAPE, None, 2, 64, generating=1).step_s

    step = step_time(work, rates, SHAPE, None, 2, 64, generating=1)
    slower = max(step.rollout_s, step.verify_s, step.update_s) + step.sync_s + step.other_s
    found = [seconds(k) for k in (1, 2, 4, 10**6)]
    assert found == sorted(found, reverse=True)
    assert found[0] > found[2] >= slower
    assert found[3] == pytest.approx(slower, rel=1e-3)


def test_runs_that_share_an_engine_share_its_decoding_steps_and_nothing_else():
    alone = Workload(2, 3, 10, (7,), 1.0)
    # 6 rows of 7 tokens a run: 7 steps of 0.01 for all; 42 tokens, 6 prompts, 102 trained tokens
    own = 42 * 0.001 + 6 * 0.1 + 0.5 + 102 * 1e-3 + 0.2 + 0.3
    for runs in (1, 4):
        step = step_time(replace(alone, runs=runs), RATES, SHAPE, None, 1, 100)
        assert step.step_s == pytest.approx(7 * 0.01 + runs * own)
    full = step_time(replace(alone, runs=4), RATES, SHAPE, None, 1, 6)
    assert full.step_s == pytest.approx(4 * (7 * 0.01 + own)), "full slots leave nothing to share"
