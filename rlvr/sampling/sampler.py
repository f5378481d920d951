"""Which prompts next: draws, generates, verifies, and keeps the groups that carry a signal.

Dynamic sampling (DAPO, 2503.14476 sec. 3.2): prompts are drawn until P groups whose rewards differ
are there. Informative groups beyond P wait for the next step, as long as rollout.max_staleness
allows. With rollout.mode = "async" a step's groups are collected while the step before it updates.
"""

from __future__ import annotations

import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rlvr.common.errors import RunError
from rlvr.common.seeds import sample_seed
from rlvr.common.signals import Stopped, settle
from rlvr.distributed import ranks
from rlvr.engines.engine import Engine, EngineLost, Response, Sampling
from rlvr.sampling.problem_selection import Selector, difficulty_levels
from rlvr.sampling.reward import shaped_rewards
from rlvr.sampling.rollout_round import Asked, run_round
from rlvr.sampling.rollouts import Collected, Group, Round, Tally, diagnose

if TYPE_CHECKING:
    from rewards import Verifier
    from rlvr.config.train import TrainRecipe
    from rlvr.data.problems import Problem


@dataclass(frozen=True, slots=True)
class Job:
    """The collection for `step`, by weights that have finished `version` steps. safe_point: called
    after every decoding step; may raise."""

    step: int
    version: int
    engine: Engine
    verifier: Verifier
    safe_point: Callable[[], None]


class Cancelled(RunError):
    """What was collected ahead is no longer wanted."""


class NoSignalError(RunError):
    """No group carried a signal in all the rounds that the recipe allows."""


class Sampler:
    """Draws problems in a seeded order, epoch after epoch, and owns the groups not yet trained on:
    those left over, and those collected ahead."""

    def __init__(
        self,
        recipe: TrainRecipe,
        problems: Sequence[Problem],
        prompts: Sequence[list[int]],
        decode: Callable[[Sequence[int]], str],
    ) -> None:
        """prompts: token ids of each problem's prompt. decode: response tokens to text."""
        self._recipe, self._problems, self._prompts = recipe, problems, prompts
        self._decode = decode
        self._selector = Selector(
            recipe.sampling,
            len(problems),
            recipe.rollout.group_size,
            recipe.train.steps,
            recipe.train.seed,
            shuffle=recipe.data.shuffle,
            levels=difficulty_levels([problem.difficulty for problem in problems]),
        )
        self._used: Counter[str] = Counter()
        self._lengths: dict[str, float] = {}
        self._informative_frac = 0.5
        self._surplus: list[Group] = []
        self._ahead: Collected | None = None
        self._thread = ThreadPoolExecutor(1, "rollout")

    def collect(
        self, step: int, engine: Engine, verifier: Verifier, safe_point: Callable[[], None]
    ) -> Collected:
        """The groups of one step: informative ones when sampling.dynamic, else whatever came. What
        was collected ahead is handed out.

        safe_point is called after every decoding step and may raise to stop the run.
        Raises: NoSignalError when not one informative group came in all rounds; EngineLost, then
        the sampler is as it was before.
        """
        if self._ahead is not None:
            collected, self._ahead = self._ahead, None
            return collected
        return self._collect(Job(step, step, engine, verifier, safe_point))

    @contextmanager
    def ahead(
        self, step: int, engine: Engine, verifier: Verifier, safe_point: Callable[[], None]
    ) -> Iterator[list[float]]:
        """With rollout.mode = "async", collects for `step` while the block runs, by weights that
        have finished step - 1 steps; else nothing. The block must leave the engine alone.

        Gives a list whose only element is, at the end, the seconds that the block had to be waited
        after. A block that raises stops the collection at its next decoding step and loses it; so
        does a safe_point that raises, once the collection was given GRACE_S more. An engine that
        dies loses it too: `collect` does it anew. Raises: NoSignalError, what safe_point does.
        """
        waited = [0.0]
        if self._recipe.rollout.mode == "sync" or step >= self._recipe.train.steps:
            yield waited
            return
        ends: list[Exception] = []

        def go_on() -> None:
            if ends:
                raise ends[0]

        job = Job(step, step - 1, engine, verifier, go_on)
        future = self._thread.submit(self._collect_aside, job)
        try:
            yield waited
            start = time.perf_counter()
            settle(future, safe_point, ends)
            with suppress(EngineLost):
                self._ahead = future.result()
            waited[0] = time.perf_counter() - start
        except BaseException:
            ends.append(Cancelled("the update has failed"))
            wait([future])
            raise

    def _collect_aside(self, job: Job) -> Collected:
        with ranks.aside():
            return self._collect(job)

    def _collect(self, job: Job) -> Collected:
        before = self.state()
        try:
            return self._gather(job)
        except (EngineLost, Stopped):
            self.load_state(before)
            raise

    def _gather(self, job: Job) -> Collected:
        wanted = self._recipe.rollout.prompts_per_step
        oldest = job.step - self._recipe.rollout.max_staleness
        groups = [group for group in self._surplus if group.step >= oldest]
        size = self._recipe.rollout.group_size
        tally = Tally(num_stale=(len(self._surplus) - len(groups)) * size)
        while len(groups) < wanted and tally.num_rounds <= self._recipe.sampling.max_refills:
            fresh = self._round(job, wanted - len(groups), tally)
            if not self._recipe.sampling.dynamic:  # another round only for what nobody judged
                groups += [group for group in fresh if group.comparable]
                continue
            groups += [group for group in fresh if group.informative]
            self._learn_fraction(fresh)
        if len(groups) < wanted:
            self._say_short(job.step, groups, tally)
        groups, self._surplus = groups[:wanted], groups[wanted:]
        self._used.update(group.problem_id for group in groups)
        used = {
            "sampler/problems_used_frac": len(self._used) / len(self._problems),
            "sampler/problem_used_max": float(max(self._used.values())),
        }
        return Collected(groups, tally.metrics(groups, job.step) | used)

    def _say_short(self, step: int, groups: Sequence[Group], tally: Tally) -> None:
        """The bound on refills was hit. Raises: NoSignalError when there is nothing to train on."""
        reason = diagnose(tally.fresh, tally.num_rounds)
        if not groups:
            raise NoSignalError(reason)
        wanted = self._recipe.rollout.prompts_per_step
        if not ranks.is_main():
            return
        print(
            f"step {step + 1} has {len(groups)} of {wanted} groups (sampling.max_refills):"
            f" {reason}",
            file=sys.stderr,
        )

    def _num_prompts(self, missing: int) -> int:
        if not self._recipe.sampling.dynamic:
            return missing
        return math.ceil(missing / max(self._informative_frac, 1 / 3))

    def _learn_fraction(self, fresh: Sequence[Group]) -> None:
        now = sum(group.informative for group in fresh) / len(fresh)
        self._informative_frac = 0.8 * self._informative_frac + 0.2 * now

    def _round(self, job: Job, missing: int, tally: Tally) -> list[Group]:
        """One round of prompts, shared out over the ranks: whole groups, without those that were
        aborted."""
        rollout = self._recipe.rollout
        asked = self._ask(self._num_prompts(missing), job.step)
        dealt, rounds = ranks.spread(
            asked,
            self._expected_tokens(asked),
            lambda mine: self._generate(job, mine, missing),
            rollout.ranks_per_engine,
        )
        groups = ranks.in_order(dealt, [done.groups for done in rounds])
        fresh = []
        for one, group in zip(asked, groups, strict=True):
            if group is not None:
                self._lengths[group.problem_id] = group.num_tokens / rollout.group_size
                num_right = group.reasons.count("correct")
                num_wrong = sum(group.judged) - num_right
                self._selector.observe(one.index, num_right, num_wrong, job.step)
                fresh.append(group)
        tally.add(fresh, len(asked) * rollout.group_size, rounds)
        return fresh

    def _expected_tokens(self, asked: Sequence[Asked]) -> list[float]:
        """Of each group: responses as long as they were last time, or, unmet, as the mean."""
        rollout, met = self._recipe.rollout, self._lengths
        mean = sum(met.values()) / len(met) if met else rollout.max_response_len
        size = rollout.group_size
        return [len(one.prompt_ids) + size * met.get(one.problem.id, mean) for one in asked]

    def _generate(self, job: Job, asked: list[Asked], missing: int) -> Round:
        rollout = self._recipe.rollout
        sampling = Sampling(
            rollout.max_response_len,
            rollout.temperature,
            rollout.top_p,
            rollout.top_k,
            rollout.min_p,
            stop_token_ids=rollout.stop_token_ids,
        )
        safe_point = ranks.agreed(job.safe_point, rollout.ranks_per_engine)
        safe_point()
        return run_round(
            asked,
            job.engine,
            sampling,
            lambda one, responses: self._judge(job, one, responses),
            safe_point,
            num_threads=self._recipe.reward.num_workers,
            num_enough=missing if rollout.abort_stragglers else None,
        )

    def _ask(self, num_prompts: int, step: int) -> list[Asked]:
        """The next problems, with the seed of every response."""
        seed, size = self._recipe.train.seed, self._recipe.rollout.group_size
        return [
            Asked(
                index,
                self._problems[index],
                self._prompts[index],
                [sample_seed(seed, step, self._problems[index].id, number, i) for i in range(size)],
            )
            for index, number in self._selector.pick(num_prompts, step)
        ]

    def _judge(self, job: Job, one: Asked, responses: list[Response]) -> Group:
        texts = [self._decode(response.token_ids) for response in responses]
        verdicts = job.verifier.verify_many([(text, one.problem.golds) for text in texts])
        return Group(
            one.problem.id,
            one.prompt_ids,
            responses,
            shaped_rewards(self._recipe, responses, verdicts, texts),
            [str(verdict.reason) for verdict in verdicts],
            job.version,
        )

    def problem_uses(self) -> dict[str, int]:
        """How many problems were trained on 0, 1, 2, ... times so far."""
        counts = Counter(self._used.values())
        counts[0] = len(self._problems) - len(self._used)
        return {str(times): counts[times] for times in sorted(counts)}

    def state(self) -> dict[str, Any]:
        """Everything that the next `collect` depends on, JSON-ready."""
        return {
            "selector": self._selector.state(),
            "used": dict(self._used),
            "lengths": dict(self._lengths),
            "informative_frac": self._informative_frac,
            "surplus": [group.to_tree() for group in self._surplus],
            "ahead": self._ahead and self._ahead.to_tree(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continues from `state`."""
        self._selector.load_state(state["selector"])
        self._used = Counter(state["used"])
        self._lengths = dict(state.get("lengths", {}))  # a run begun before they were kept
        self._informative_frac = state["informative_frac"]
        self._surplus = [Group.from_tree(group) for group in state["surplus"]]
        self._ahead = state["ahead"] and Collected.from_tree(state["ahead"])
