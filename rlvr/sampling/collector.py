"""The groups of one step: draws prompts, generates, verifies, and keeps the groups with a signal.

Dynamic sampling (DAPO, 2503.14476 sec. 3.2): prompts are drawn until there are P groups whose
rewards differ. Informative groups beyond P wait for the next step, as long as rollout.max_staleness
allows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from rlvr.common.errors import RunError
from rlvr.common.log import get_logger
from rlvr.common.seeds import sample_seed
from rlvr.distributed.world import World
from rlvr.engines.engine import Engine, Response, SamplingParams
from rlvr.sampling.group_stream import GroupRequest, GroupStream
from rlvr.sampling.mixture import make_selector
from rlvr.sampling.refill import Refill
from rlvr.sampling.reward import shaped_rewards
from rlvr.sampling.rollouts import Group, RolloutStats, StepRollouts, diagnose
from rlvr.sampling.trace import Trace

if TYPE_CHECKING:
    from rewards import Verifier
    from rlvr.config.rollout import RolloutConfig
    from rlvr.config.train import RewardConfig, SamplingConfig, TrainConfig
    from rlvr.data.problems import Problem
    from rlvr.sampling.extra import ExtraRewards

logger = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class CollectRequest:
    """The collection for `step` by weights that `policy_version` steps have trained. safe_point:
    called after every decoding step; may raise."""

    step: int
    policy_version: int
    safe_point: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Collected:
    """A step's rollouts, and the collector's state after them."""

    rollouts: StepRollouts
    state: dict[str, Any]


class NoSignalError(RunError):
    """No group carried a signal in all the rounds that the recipe allows."""


class Collector:
    """Draws problems in a seeded order, epoch after epoch, and owns the groups left over from the
    steps so far."""

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
        weights: Sequence[float] | None = None,
        extra: ExtraRewards | None = None,
        world: World = World.alone(),
    ) -> None:
        """prompts: token ids of each problem's prompt. decode: response tokens to text. weights:
        the share of every source, where there are several."""
        self._problems, self._prompts = problems, prompts
        self._engine, self._verifier, self._decode = engine, verifier, decode
        self._extra = extra
        self._rollout, self._sampling, self._reward, self._train = rollout, sampling, reward, train
        self._world, self.trace = world, Trace()
        given = (sampling, rollout.group_size, train.steps, train.seed)
        self._selector = make_selector(problems, *given, shuffle=shuffle, weights=weights)
        self._used: Counter[str] = Counter()
        self._lengths: dict[str, float] = {}
        self._refill = Refill(rollout, sampling)
        self._surplus: list[Group] = []
        self._paused: list[GroupRequest] = []

    def collect(self, request: CollectRequest) -> Collected:
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
        rollouts = StepRollouts(groups, stats.metrics(groups, step) | self._reuse())
        return Collected(rollouts, self.state())

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
        except Exception:
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
        given = (request.problem, responses, texts, verdicts)
        extra = {} if self._extra is None else self._extra.judge(*given)
        return Group(
            request.problem.id,
            request.prompt_ids,
            responses,
            shaped_rewards(
                self._reward, responses, verdicts, texts, self._rollout.max_response_len, extra
            ),
            [str(verdict.reason) for verdict in verdicts],
            # the first span is the oldest; without spans the present version sampled all of it
            min([policy_version, *(one.spans[0][0] for one in responses if one.spans)]),
            extra,
        )

    def _observe(
        self, ended: Sequence[tuple[int, GroupRequest, Group]], step: int
    ) -> list[tuple[int, Group]]:
        """The groups; learns lengths and pass rates from them."""
        for _, asked, group in ended:
            self._lengths[group.problem_id] = group.num_tokens / self._rollout.group_size
            judged = zip(group.reasons, group.judged, strict=True)
            num_right = sum(known and reason == "correct" for reason, known in judged)
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
        """Everything that the next collection depends on, JSON-ready."""
        return {
            "selector": self._selector.state(),
            "used": dict(self._used),
            "lengths": dict(self._lengths),
            "informative_frac": self._refill.informative_frac,
            "surplus": [group.to_tree() for group in self._surplus],
            "paused": [one.to_tree() for one in self._paused],
        }

    def load_state(self, tree: dict[str, Any]) -> None:
        """Continues from the state that `state` made the tree of."""
        self._selector.load_state(tree["selector"])
        self._used = Counter(tree["used"])
        self._lengths = dict(tree.get("lengths", {}))  # a run begun before they were kept
        self._refill.informative_frac = tree["informative_frac"]
        self._surplus = [Group.from_tree(group) for group in tree["surplus"]]
        self._paused = [
            GroupRequest.from_tree(one, self._problems, self._prompts)
            for one in tree.get("paused", ())  # a run begun before there were any
        ]
