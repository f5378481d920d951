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
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from rlvr.common.errors import RunError
from rlvr.common.log import get_logger
from rlvr.common.seeds import sample_seed
from rlvr.common.signals import Stopped, never_stop
from rlvr.distributed.world import World
from rlvr.engines.engine import Engine, EngineLost, Response, SamplingParams
from rlvr.sampling.background import BackgroundCollection
from rlvr.sampling.group_stream import GroupRequest, GroupStream
from rlvr.sampling.problem_selection import Selector, difficulty_levels
from rlvr.sampling.refill import Refill
from rlvr.sampling.reward import shaped_rewards
from rlvr.sampling.rollouts import Group, RolloutStats, StepRollouts, diagnose
from rlvr.sampling.trace import Trace

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
        self.trace = Trace()
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
        self._refill = Refill(rollout, sampling)
        self._surplus: list[Group] = []
        self._paused: list[GroupRequest] = []
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
        """Groups until the step has those it wants, or sampling.max_refills are used up.

        Raises: EngineLost, Stopped; then the sampler is as it was before.
        """
        step, wanted = request.step, self._rollout.prompts_per_step
        with self._restored_on_failure(), self._open(request) as stream:
            groups, paused, stats = self._begin(step)
            done: list[tuple[int, Group]] = []
            num_usable = len(groups)
            stream.add(paused, self._expected_tokens(paused))
            while True:
                if num_usable >= wanted and (self._ends_early or not stream.num_running):
                    break
                more = self._refill.num_more(wanted - num_usable, stream.num_running, stats)
                asked = self._ask(more, step)
                stream.add(asked, self._expected_tokens(asked))
                if not stream.num_running:
                    break
                ended = self._observe(stream.advance(), step)
                num_usable += sum(self._refill.is_usable(group) for _, group in ended)
                done += ended
            if self._rollout.partial:
                self._paused = stream.pause()
                stats.num_paused = sum(len(one.seeds) for one in self._paused)
            stats.costs = stream.costs()
        # in the order requested, whatever ended first: long responses count as much as short ones
        stats.fresh = [group for _, group in sorted(done, key=itemgetter(0))]
        groups += [group for group in stats.fresh if self._refill.is_usable(group)]
        self._refill.observe(stats.fresh)
        if len(groups) < wanted:
            self._say_short(step, groups, stats)
        groups, self._surplus = groups[:wanted], groups[wanted:]
        self._used.update(group.problem_id for group in groups)
        return StepRollouts(groups, stats.metrics(groups, step) | self._reuse())

    @property
    def _ends_early(self) -> bool:
        """Whether a step that has its groups leaves what is running, instead of waiting for it."""
        return self._rollout.partial or self._rollout.abort_stragglers

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

    def _begin(self, step: int) -> tuple[list[Group], list[GroupRequest], RolloutStats]:
        """(groups left over from earlier steps that are young enough, groups to go on with)."""
        oldest = step - self._rollout.max_staleness
        groups = [group for group in self._surplus if group.policy_version >= oldest]
        num_stale = (len(self._surplus) - len(groups)) * self._rollout.group_size
        paused = []
        for one in self._paused:
            young, num_dropped = one.without_older(oldest)
            num_stale += num_dropped
            paused.append(young)
        num_continued = sum(len(one.seeds) for one in paused)
        return groups, paused, RolloutStats(num_stale=num_stale, num_continued=num_continued)

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

    def _open(self, request: CollectRequest) -> GroupStream:
        """A stream of groups by this sampler's engine and verifier."""
        rollout = self._rollout
        return GroupStream(
            self._engine,
            SamplingParams(
                rollout.max_response_len,
                rollout.temperature,
                rollout.top_p,
                rollout.top_k,
                rollout.min_p,
                stop_token_ids=rollout.stop_token_ids,
            ),
            partial(self._judge, request.policy_version),
            request.safe_point,
            policy_version=request.policy_version,
            num_threads=self._reward.num_workers,
            world=self._world,
            ranks_per_engine=rollout.ranks_per_engine,
            ends_early=self._ends_early,
            trace=self.trace,
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
            min([policy_version, *(one.spans[0][0] for one in responses if one.spans)]),
        )

    def _observe(
        self, ended: Sequence[tuple[int, GroupRequest, Group]], step: int
    ) -> list[tuple[int, Group]]:
        """The groups; learns lengths and pass rates from them."""
        for _, asked, group in ended:
            self._lengths[group.problem_id] = group.num_tokens / self._rollout.group_size
            num_right = group.reasons.count("correct")
            self._selector.observe(asked.index, num_right, sum(group.judged) - num_right, step)
        return [(number, group) for number, _, group in ended]

    def _say_short(self, step: int, groups: Sequence[Group], stats: RolloutStats) -> None:
        """Says that sampling.max_refills left the step short. Raises: NoSignalError when there is
        nothing to train on."""
        reason = diagnose(stats.fresh)
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
            "informative_frac": self._refill.informative_frac,
            "surplus": [group.to_tree() for group in self._surplus],
            "paused": [one.to_tree() for one in self._paused],
            "ahead": self._ahead and self._ahead.to_tree(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continues from `state`."""
        self._selector.load_state(state["selector"])
        self._used = Counter(state["used"])
        self._lengths = dict(state.get("lengths", {}))  # a run begun before they were kept
        self._refill.informative_frac = state["informative_frac"]
        self._surplus = [Group.from_tree(group) for group in state["surplus"]]
        self._paused = [
            GroupRequest.from_tree(one, self._problems, self._prompts)
            for one in state.get("paused", ())  # a run begun before there were any
        ]
        self._ahead = state["ahead"] and StepRollouts.from_tree(state["ahead"])
