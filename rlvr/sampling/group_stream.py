"""Groups under way in the engines of all ranks, each verified as soon as its responses are there.

Threads verify while the engine continues. Every decision depends on the tokens and the verdicts
alone, never on which came first: groups are handed out at fixed numbers of decoding steps (a tick),
with every verdict that is due by then.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self

from rlvr.common.seeds import sample_seed
from rlvr.distributed.shares import shares
from rlvr.engines.engine import Engine, Request, Response, SamplingParams
from rlvr.sampling.rollouts import EngineCost, Group, fields_of, response_of
from rlvr.sampling.trace import Row, Trace

if TYPE_CHECKING:
    from rlvr.data.problems import Problem
    from rlvr.distributed.world import World

TICK = 16
"""Decoding steps between two decisions on what to ask for next."""


@dataclass(frozen=True, slots=True)
class GroupRequest:
    """A group to sample: a problem (and its index), its prompt, and a seed per response.

    ended, begun: responses that earlier weights have finished or begun, by place in the group.
    """

    index: int
    problem: Problem
    prompt_ids: list[int]
    seeds: list[int]
    ended: dict[int, Response] = field(default_factory=dict)
    begun: dict[int, Response] = field(default_factory=dict)

    def requests(self) -> list[tuple[int, Request]]:
        """What is left to sample, with its place in the group."""
        return [
            (place, self._request(place, seed))
            for place, seed in enumerate(self.seeds)
            if place not in self.ended
        ]

    def _request(self, place: int, seed: int) -> Request:
        begun = self.begun.get(place)
        if begun is None or not begun.token_ids:
            return Request(self.prompt_ids, seed)
        # a generator that starts again with the response's seed would repeat its first draws
        going_on = sample_seed(seed, len(begun.token_ids))
        return Request(self.prompt_ids, going_on, begun.token_ids)

    def without_older(self, oldest: int) -> tuple[Self, int]:
        """(the request without responses that have tokens of weights before version `oldest`, which
        begin anew; how many these are)."""
        parts = {**self.ended, **self.begun}
        old = {place for place, one in parts.items() if one.spans and one.spans[0][0] < oldest}
        ended, begun = (
            {place: one for place, one in group.items() if place not in old}
            for group in (self.ended, self.begun)
        )
        seeds = [
            sample_seed(seed, oldest) if place in old else seed
            for place, seed in enumerate(self.seeds)
        ]
        return replace(self, seeds=seeds, ended=ended, begun=begun), len(old)

    def to_tree(self) -> dict[str, Any]:
        """JSON-ready; without what the problem's index gives."""
        return {
            "index": self.index,
            "seeds": self.seeds,
            "ended": {str(place): fields_of(one) for place, one in self.ended.items()},
            "begun": {str(place): fields_of(one) for place, one in self.begun.items()},
        }

    @classmethod
    def from_tree(
        cls, tree: dict[str, Any], problems: Sequence[Problem], prompts: Sequence[list[int]]
    ) -> Self:
        """The request that `to_tree` made the tree of."""
        index = tree["index"]
        ended, begun = (
            {int(place): response_of(one) for place, one in tree[name].items()}
            for name in ("ended", "begun")
        )
        return cls(index, problems[index], prompts[index], tree["seeds"], ended, begun)


class GroupStream:
    """Groups that are sampled by one version of the weights, from the first `add` to `close`.

    All methods but `close` have to be called on every rank, in the same order.
    """

    def __init__(
        self,
        engine: Engine,
        sampling: SamplingParams,
        judge: Callable[[GroupRequest, list[Response]], Group],
        safe_point: Callable[[], None],
        *,
        policy_version: int,
        num_threads: int,
        world: World,
        ranks_per_engine: int = 1,
        ends_early: bool = False,
        trace: Trace | None = None,
    ) -> None:
        """judge: called from num_threads threads. safe_point: called before the first decoding step
        and after every one; may raise. ends_early: whether the caller may pause or close while
        groups are running. trace: what is told when responses begin and end."""
        self._judge, self._version, self._world = judge, policy_version, world
        self._safe_point = world.synchronized_stop(safe_point, ranks_per_engine)
        self._width = ranks_per_engine
        self._loads = [0.0] * (world.size // ranks_per_engine)
        self._asked: dict[int, tuple[GroupRequest, int, float]] = {}
        self._num_asked = 0
        self._places: list[tuple[int, int]] = []
        self._trace, self._rows = trace or Trace(), list[Row]()
        self._responses: dict[int, dict[int, Response]] = {}
        self._judged: list[tuple[int, Future[Group]]] = []
        self._cost = EngineCost()
        # threads, not processes: they only wait for the verifier's worker processes
        self._threads = ThreadPoolExecutor(num_threads, "verify")
        self._session = engine.open(sampling)
        self._tick: float = TICK
        if self._session.by_clock:
            # a run repeats itself if nothing is decided before all is there
            self._tick = 1 if ends_early else math.inf

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def num_running(self) -> int:
        """Groups that have been asked for and not handed out, on all ranks."""
        return len(self._asked)

    def add(self, asked: Sequence[GroupRequest], expected_tokens: Sequence[float]) -> None:
        """Begins these groups, each on the engine that has the fewest expected tokens left."""
        dealt = shares(expected_tokens, len(self._loads), self._loads)
        teams = {i: team for team, part in enumerate(dealt) for i in part}
        mine = self._world.rank // self._width
        requests = []
        for i, (one, tokens) in enumerate(zip(asked, expected_tokens, strict=True)):
            number, self._num_asked = self._num_asked, self._num_asked + 1
            self._asked[number] = one, teams[i], tokens
            self._loads[teams[i]] += tokens
            if teams[i] == mine:
                requests += self._begin(number, one)
        # all at once: the transformers engine decodes together what is asked for together
        self._session.add(requests)

    def _begin(self, number: int, asked: GroupRequest) -> list[Request]:
        """What the engine has to sample of the group."""
        self._responses[number] = dict(asked.ended)
        left = asked.requests()
        self._places += [(number, place) for place, _ in left]
        self._rows += [
            self._trace.begin(number, place, self._cost.num_steps, len(request.begun_ids))
            for place, request in left
        ]
        self._judge_if_complete(number)
        return [request for _, request in left]

    def advance(self) -> list[tuple[int, GroupRequest, Group]]:
        """Decodes for a tick; the groups that are complete and judged by then, each with its
        number in the order asked. Raises: as `World.on_all_ranks`."""
        parts = self._world.on_all_ranks(self._advance)[:: self._width]
        # in the order asked: which ended first decides nothing
        done = sorted((pair for part in parts for pair in part), key=lambda pair: pair[0])
        found = []
        for number, group in done:
            asked, team, tokens = self._asked.pop(number)
            self._loads[team] -= tokens
            found.append((number, asked, group))
        return found

    def _advance(self) -> list[tuple[int, Group]]:
        """This rank's tick. Raises: EngineLost, and what safe_point raises."""
        self._safe_point()
        start = time.perf_counter()
        until = self._cost.num_steps + self._tick
        while self._session.num_running and self._cost.num_steps < until:
            finished = self._session.step()
            self._cost.num_steps += 1
            self._safe_point()
            for i, response in finished:
                self._rows[i].end("ended", self._cost.num_steps, len(response.token_ids))
                self._take(*self._places[i], response)
        generated = time.perf_counter()
        self._trace.tick(self._cost.num_steps)
        # waits for late verdicts: how fast they come decides nothing either
        groups = [(number, future.result()) for number, future in self._judged]
        self._judged.clear()
        self._cost.generate_s += generated - start
        self._cost.verify_s += time.perf_counter() - generated
        return groups

    def _take(self, number: int, place: int, piece: Response) -> None:
        begun = self._asked[number][0].begun.get(place)
        self._responses[number][place] = self._whole(begun, piece)
        self._cost.num_tokens += len(piece.token_ids)
        self._judge_if_complete(number)

    def _judge_if_complete(self, number: int) -> None:
        asked, responses = self._asked[number][0], self._responses[number]
        if len(responses) == len(asked.seeds):
            group = [response for _, response in sorted(responses.items())]
            self._judged.append((number, self._threads.submit(self._judge, asked, group)))
            del self._responses[number]

    def _whole(self, begun: Response | None, piece: Response) -> Response:
        """A response from its beginning, with the version that sampled each of its tokens."""
        if begun is None:
            return piece
        spans = [*begun.spans, (self._version, len(piece.token_ids))]
        return Response(
            begun.token_ids + piece.token_ids,
            begun.logprobs + piece.logprobs,
            piece.truncated,
            [span for span in spans if span[1]],
        )

    def pause(self) -> list[GroupRequest]:
        """Ends generation; the groups that were not handed out, with what there is of them."""
        parts = self._world.on_all_ranks(self._pause)[:: self._width]
        paused = {number: states for part in parts for number, states in part.items()}
        return [
            replace(asked, ended=paused[number][0], begun=paused[number][1])
            for number, (asked, _, _) in self._asked.items()
        ]

    def _pause(self) -> dict[int, tuple[dict[int, Response], dict[int, Response]]]:
        finished, unfinished = self._session.pause()
        begun: dict[int, dict[int, Response]] = {number: {} for number in self._responses}
        for i, piece in finished:
            number, place = self._places[i]
            self._responses[number][place] = self._dated(number, place, piece)
            self._rows[i].end("ended", self._cost.num_steps, len(piece.token_ids))
            self._cost.num_tokens += len(piece.token_ids)
        for i, piece in unfinished:
            number, place = self._places[i]
            self._rows[i].end("paused", self._cost.num_steps, len(piece.token_ids))
            begun[number][place] = self._dated(number, place, piece)
            self._cost.num_tokens += len(piece.token_ids)
        return {
            # their version has to stand in them: a later one goes on with the group
            number: ({k: self._dated_whole(one) for k, one in ended.items()}, begun[number])
            for number, ended in self._responses.items()
        }

    def _dated(self, number: int, place: int, piece: Response) -> Response:
        """As `_whole`, with the version also where there is only one."""
        begun = self._asked[number][0].begun.get(place)
        return self._dated_whole(self._whole(begun, piece))

    def _dated_whole(self, response: Response) -> Response:
        if response.spans or not response.token_ids:
            return response
        return replace(response, spans=[(self._version, len(response.token_ids))])

    def costs(self) -> list[EngineCost]:
        """What each engine has spent so far."""
        self._cost.cache_load = self._session.cache_load()
        return self._world.gather(self._cost)[:: self._width]

    def close(self) -> None:
        """Aborts what is running and ends the threads."""
        for row in self._rows:
            if row.end_s is None:
                row.end("aborted", self._cost.num_steps)
        self._session.close()
        self._threads.shutdown(cancel_futures=True)
