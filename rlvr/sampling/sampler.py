"""The groups of a step: draws prompts, generates, verifies, and keeps the groups with a signal.

Dynamic sampling (DAPO, 2503.14476 sec. 3.2): prompts are drawn until there are P groups whose
rewards differ. Informative groups beyond P wait for the next step, as long as rollout.max_staleness
allows. With rollout.mode = "async" a step's groups are collected while the step before it updates.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from rlvr.common.errors import RunError
from rlvr.common.log import get_logger
from rlvr.common.seeds import sample_seed
from rlvr.common.signals import Stopped, never_stop
from rlvr.distributed.shares import in_order
from rlvr.distributed.world import World
from rlvr.engines.engine import Engine, EngineLost, Response, SamplingParams
from rlvr.sampling.background import BackgroundCollection
from rlvr.sampling.problem_selection import Selector, difficulty_levels
from rlvr.sampling.refill import FIRST_FRAC, num_prompts, updated_frac
from rlvr.sampling.reward import shaped_rewards
from rlvr.sampling.rollout_round import GroupRequest, run_round
from rlvr.sampling.rollouts import Group, RolloutStats, Round, StepRollouts, diagnose

if TYPE_CHECKING:
    from rewards import Verifier
    from rlvr.config.rollout import RolloutConfig
    from rlvr.config.train import RewardConfig, SamplingConfig, TrainConfig
    from rlvr.data.problems import Problem


logger = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class CollectRequest:
    """The collection for `step` by weights that `policy_version` steps have trained. safe_point:
    called after every decoding step; may raise."""

    step: int
    policy_version: int
    safe_point: Callable[[], None]


class NoSignalError(RunError):
    """No group carried a signal in all the rounds that the recipe allows."""


class Sampler:
    """Draws problems in a seeded order, epoch after epoch, and owns the groups not yet trained on:
    those left over, and those collected ahead."""

    def __init__(
        self,
        problems: Sequence[Problem],
        prompts: Sequence[list[int]],
        engine: Engine,
        verifier: Verifier,
        decode: Callable[[Sequence[int]], str],
        *,
        rollout: RolloutConfig,
        sampling: SamplingConfig,
        reward: RewardConfig,
        train: TrainConfig,
        shuffle: bool = True,
        world: World = World.alone(),
        safe_point: Callable[[], None] = never_stop,
    ) -> None:
        """prompts: token ids of each problem's prompt. decode: response tokens to text. safe_point:
        called after every decoding step; may raise to stop the run."""
        self._problems, self._prompts = problems, prompts
        self._engine, self._verifier, self._decode = engine, verifier, decode
        self._rollout, self._sampling, self._reward, self._train = rollout, sampling, reward, train
        self._world, self._safe_point = world, safe_point
        self._selector = Selector(
            sampling,
            len(problems),
            rollout.group_size,
            train.steps,
            train.seed,
            shuffle=shuffle,
            levels=difficulty_levels([problem.difficulty for problem in problems]),
        )
        self._used: Counter[str] = Counter()
        self._lengths: dict[str, float] = {}
        self._informative_frac = FIRST_FRAC
        self._surplus: list[Group] = []
        self._ahead: StepRollouts | None = None
        self._background: BackgroundCollection | None = None
        # one thread for the whole run: libraries keep state by thread, such as OpenMP its team
        self._thread = ThreadPoolExecutor(1, "rollout")

    def collect(self, step: int) -> StepRollouts:
        """The groups of one step: informative ones when sampling.dynamic, else whatever came. What
        was collected ahead is handed out.

        Raises: NoSignalError when not one informative group came in all rounds; what safe_point
        raises; EngineLost, then the sampler is as it was before.
        """
        if self._ahead is not None:
            rollouts, self._ahead = self._ahead, None
            return rollouts
        # a whole collection is done again: see RestartingEngine
        request = CollectRequest(step, step, self._safe_point)
        return self._engine.retry(partial(self._collect, request))

    @contextmanager
    def collecting_ahead(self, step: int) -> Iterator[None]:
        """With rollout.mode = "async", collects for `step` in a second thread, by weights that
        step - 1 steps have trained; else does nothing. `finish_ahead` has to follow.

        The block must leave the engine alone. A block that raises ends the collection.
        """
        if self._rollout.mode == "async" and step < self._train.steps:
            collect = partial(self._collect_aside, step)
            self._background = BackgroundCollection(self._thread, collect)
        try:
            yield
        except BaseException:
            if self._background is not None:
                self._background.cancel()
                self._background = None
            raise

    def finish_ahead(self) -> None:
        """Waits for what `collecting_ahead` has begun; the engine is idle then.

        A collection that an engine loses is done anew by `collect`: only then does another engine
        have weights to sample by. Raises: NoSignalError.
        """
        background, self._background = self._background, None
        if background is not None:
            with suppress(EngineLost):
                self._ahead = background.result(self._safe_point)

    def _collect_aside(self, step: int, safe_point: Callable[[], None]) -> StepRollouts:
        # the main thread gathers too, in an order of its own
        with self._world.side_channel():
            return self._collect(CollectRequest(step, step - 1, safe_point))

    def _collect(self, request: CollectRequest) -> StepRollouts:
        """Rounds of prompts until the step has its groups, or sampling.max_refills are used up.

        Raises: EngineLost, Stopped; then the sampler is as it was before.
        """
        wanted, max_rounds = self._rollout.prompts_per_step, 1 + self._sampling.max_refills
        with self._restored_on_failure():
            groups, stats = self._begin(request.step)
            while len(groups) < wanted and stats.num_rounds < max_rounds:
                missing = wanted - len(groups)
                asked = self._ask(self._num_prompts(missing), request.step)
                dealt, rounds = self._world.scatter_work(
                    asked,
                    self._expected_tokens(asked),
                    self._round_of(request, missing),
                    self._rollout.ranks_per_engine,
                )
                parts = in_order(dealt, [done.groups for done in rounds])
                # in the order requested, on every rank: all ranks have the same sampler state
                fresh = self._observe(asked, parts, request.step)
                stats.add(fresh, len(asked) * self._rollout.group_size, rounds)
                groups += self._usable(fresh)
            if len(groups) < wanted:
                self._say_short(request.step, groups, stats)
            groups, self._surplus = groups[:wanted], groups[wanted:]
            self._used.update(group.problem_id for group in groups)
            return StepRollouts(groups, stats.metrics(groups, request.step) | self._reuse())

    @contextmanager
    def _restored_on_failure(self) -> Iterator[None]:
        """A collection that did not come to its end leaves no trace, so that doing it again draws
        the same problems with the same seeds."""
        before = self.state()
        try:
            yield
        except (EngineLost, Stopped):
            self.load_state(before)
            raise

    def _begin(self, step: int) -> tuple[list[Group], RolloutStats]:
        """The groups left over from earlier steps that are young enough for this one."""
        oldest = step - self._rollout.max_staleness
        groups = [group for group in self._surplus if group.policy_version >= oldest]
        num_dropped = len(self._surplus) - len(groups)
        return groups, RolloutStats(num_stale=num_dropped * self._rollout.group_size)

    def _num_prompts(self, missing: int) -> int:
        return num_prompts(missing, self._informative_frac) if self._sampling.dynamic else missing

    def _ask(self, count: int, step: int) -> list[GroupRequest]:
        """The next problems, with the seed of every response."""
        seed, size = self._train.seed, self._rollout.group_size
        # `number` makes the seeds of a problem that is drawn twice in a step differ
        return [
            GroupRequest(
                index,
                self._problems[index],
                self._prompts[index],
                [sample_seed(seed, step, self._problems[index].id, number, i) for i in range(size)],
            )
            for index, number in self._selector.pick(count, step)
        ]

    def _expected_tokens(self, asked: Sequence[GroupRequest]) -> list[float]:
        """Expected tokens per group: the problem's last mean length, or the overall mean if it was
        never sampled."""
        known, size = self._lengths, self._rollout.group_size
        mean = sum(known.values()) / len(known) if known else self._rollout.max_response_len
        return [len(one.prompt_ids) + size * known.get(one.problem.id, mean) for one in asked]

    def _round_of(
        self, request: CollectRequest, missing: int
    ) -> Callable[[list[GroupRequest]], Round]:
        """run_round(asked) by this sampler's engine and verifier."""
        rollout = self._rollout
        return partial(
            run_round,
            engine=self._engine,
            sampling=SamplingParams(
                rollout.max_response_len,
                rollout.temperature,
                rollout.top_p,
                rollout.top_k,
                rollout.min_p,
                stop_token_ids=rollout.stop_token_ids,
            ),
            judge=partial(self._judge, request.policy_version),
            safe_point=self._world.synchronized_stop(request.safe_point, rollout.ranks_per_engine),
            num_threads=self._reward.num_workers,
            num_enough=missing if rollout.abort_stragglers else None,
        )

    def _judge(
        self, policy_version: int, request: GroupRequest, responses: list[Response]
    ) -> Group:
        texts = [self._decode(response.token_ids) for response in responses]
        verdicts = self._verifier.verify_many([(text, request.problem.golds) for text in texts])
        return Group(
            request.problem.id,
            request.prompt_ids,
            responses,
            shaped_rewards(
                self._reward, responses, verdicts, texts, self._rollout.max_response_len
            ),
            [str(verdict.reason) for verdict in verdicts],
            policy_version,
        )

    def _observe(
        self, asked: Sequence[GroupRequest], groups: Sequence[Group | None], step: int
    ) -> list[Group]:
        """The groups that were not aborted; learns lengths and pass rates from them."""
        fresh = []
        for one, group in zip(asked, groups, strict=True):
            if group is not None:
                self._lengths[group.problem_id] = group.num_tokens / self._rollout.group_size
                num_right = group.reasons.count("correct")
                num_wrong = sum(group.judged) - num_right
                self._selector.observe(one.index, num_right, num_wrong, step)
                fresh.append(group)
        return fresh

    def _usable(self, fresh: Sequence[Group]) -> list[Group]:
        """The groups that the step can train on."""
        if not self._sampling.dynamic:  # another round only for what nobody judged
            return [group for group in fresh if group.comparable]
        informative = [group for group in fresh if group.informative]
        self._informative_frac = updated_frac(self._informative_frac, len(informative), len(fresh))
        return informative

    def _say_short(self, step: int, groups: Sequence[Group], stats: RolloutStats) -> None:
        """Says that sampling.max_refills left the step short. Raises: NoSignalError when there is
        nothing to train on."""
        reason = diagnose(stats.fresh, stats.num_rounds)
        if not groups:
            raise NoSignalError(reason)
        if self._world.is_main:
            logger.warning(
                f"step {step + 1} has {len(groups)} of {self._rollout.prompts_per_step} groups"
                f" (sampling.max_refills): {reason}"
            )

    def _reuse(self) -> dict[str, float]:
        return {
            "sampler/problems_used_frac": len(self._used) / len(self._problems),
            "sampler/problem_used_max": float(max(self._used.values())),
        }

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
        self._ahead = state["ahead"] and StepRollouts.from_tree(state["ahead"])
