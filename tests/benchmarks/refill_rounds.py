"""Rounds of prompts that a step takes, by the sampler itself over an engine that throws dice.

A group carries a signal with a given probability, whatever its problem; everything else, from the
choice of problems to the verdicts, is what a run uses.
"""

import statistics
from collections.abc import Callable, Sequence
from typing import cast
from unittest.mock import patch

import numpy as np

from rewards import Gold, Verifier
from rlvr.config.toml import validate
from rlvr.config.train import TrainRecipe
from rlvr.data.problems import Problem
from rlvr.engines.engine import Engine, Request, Response, SamplingParams
from rlvr.sampling import refill
from rlvr.sampling.rollouts import StepRollouts
from rlvr.training.build import make_sampler

GROUPS, GROUP_SIZE, STEPS = 16, 2, 300
FRACTIONS = (0.3, 0.5, 0.7, 0.9)


class Dice:
    """What the sampler uses of an engine: answers a group's first prompt rightly with probability
    `frac`, all others wrongly, and everything that it is asked in one decoding step."""

    by_clock = False

    def __init__(self, frac: float, seed: int) -> None:
        self._frac, self._draw = frac, np.random.default_rng(seed)
        self._waiting: list[int] = []
        self._num_asked = 0

    def open(self, _sampling: SamplingParams) -> "Dice":
        self._num_asked = 0
        return self

    def add(self, requests: Sequence[Request]) -> None:
        self._waiting += range(self._num_asked, self._num_asked + len(requests))
        self._num_asked += len(requests)

    @property
    def num_running(self) -> int:
        return len(self._waiting)

    def step(self) -> list[tuple[int, Response]]:
        places, self._waiting = self._waiting, []
        return [(one, Response([int(self._is_right(one))], [0.0], False)) for one in places]

    def close(self) -> None:
        pass

    def cache_load(self) -> None:
        pass

    def retry(self, work: Callable[[], StepRollouts]) -> StepRollouts:
        return work()

    def _is_right(self, place: int) -> bool:
        return place % GROUP_SIZE == 0 and self._draw.random() < self._frac


def simulate(frac: float, seed: int, steps: int = STEPS) -> dict[str, float]:
    """Means per step of a run in which `frac` of the groups carry a signal."""
    recipe = validate(
        {
            "model": {"path": "none"},
            "data": {"path": "none.jsonl"},
            "optim": {"lr": 1e-3},
            "train": {"steps": steps, "seed": seed},
            "rollout": {"prompts_per_step": GROUPS, "group_size": GROUP_SIZE},
            "reward": {"num_workers": 1},
        },
        TrainRecipe,
    )
    gold = Gold.parse("1")
    problems = [Problem(str(i), (), "1", gold) for i in range(2_000)]
    with Verifier(num_workers=1) as verifier:
        prompts = [[1]] * len(problems)
        engine = cast("Engine", Dice(frac, seed))
        sampler = make_sampler(recipe, problems, prompts, engine, verifier, _text)
        rows = [sampler.collect(step).metrics for step in range(steps)]
    # a decoding step answers a round; a step of training that the surplus fills asks for nothing
    rounds = [row["rollout/decoding_steps"] for row in rows]
    asked = sum(row.get("rollout/responses", 0) for row in rows) / GROUP_SIZE
    stale = sum(row["rollout/stale_dropped"] for row in rows) / GROUP_SIZE
    return {
        "rounds": statistics.fmean(rounds),
        "more_than_one": statistics.fmean(count > 1 for count in rounds),
        "prompts": asked / steps,
        "stale": stale / steps,
    }


def _text(token_ids: Sequence[int]) -> str:
    return f"\\boxed{{{token_ids[0]}}}"


def table(seeds: Sequence[int]) -> list[dict]:
    """Prints rounds and prompts per step, asking for the mean alone and with the margin."""
    print("\ninformative  margin  rounds/step  steps with several  prompts/step  groups too old")
    rows = []
    for frac in FRACTIONS:
        for margin in (0.0, refill.MARGIN):
            with patch.object(refill, "MARGIN", margin):
                runs = [simulate(frac, seed) for seed in seeds]
            row = {key: statistics.fmean(run[key] for run in runs) for key in runs[0]}
            rows.append({"informative_frac": frac, "margin": margin} | row)
            print(
                f"{frac:11.1f} {margin:7.1f} {row['rounds']:12.2f} {row['more_than_one']:19.2f}"
                f" {row['prompts']:13.1f} {row['stale']:15.2f}"
            )
    return rows
