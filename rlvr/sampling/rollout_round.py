"""One round of prompts, verified while it is generated.

As soon as a group's responses are there, threads verify it while the engine continues, so a round
takes about the longer of the two. Every decision depends on the tokens and the verdicts alone:
groups come back in the order requested, and where stragglers may be aborted, the round waits for
every verdict that could decide it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlvr.engines.engine import Engine, Request, Response, SamplingParams
from rlvr.sampling.rollouts import Group, Round

if TYPE_CHECKING:
    from rlvr.data.problems import Problem


@dataclass(frozen=True, slots=True)
class GroupRequest:
    """A group to sample: a problem (and its index), its prompt, and a seed per response."""

    index: int
    problem: Problem
    prompt_ids: list[int]
    seeds: list[int]


def run_round(
    asked: Sequence[GroupRequest],
    engine: Engine,
    sampling: SamplingParams,
    judge: Callable[[GroupRequest, list[Response]], Group],
    safe_point: Callable[[], None],
    *,
    num_threads: int,
    num_enough: int | None = None,
) -> Round:
    """Generates and judges one group per element of `asked`.

    judge: called from num_threads threads. safe_point: called before the first decoding step and
    after every one; may raise. num_enough: abort what is still running once that many groups are
    informative; None waits for all.
    """
    safe_point()
    requests = [Request(one.prompt_ids, seed) for one in asked for seed in one.seeds]
    places = [(i, k) for i, one in enumerate(asked) for k in range(len(one.seeds))]
    responses: list[dict[int, Response]] = [{} for _ in asked]
    judged: dict[int, Future[Group]] = {}
    start = time.perf_counter()
    # threads, not processes: they only wait for the verifier's worker processes
    threads = ThreadPoolExecutor(num_threads, "verify")
    try:
        with closing(engine.stream(requests, sampling)) as stream:
            for finished in stream:
                safe_point()
                num_judged = len(judged)
                for place, response in finished:
                    i, k = places[place]
                    responses[i][k] = response
                    if len(responses[i]) == len(asked[i].seeds):
                        group = [response for _, response in sorted(responses[i].items())]
                        judged[i] = threads.submit(judge, asked[i], group)
                if num_enough and len(judged) > num_judged and _enough(judged.values(), num_enough):
                    break
        generated = time.perf_counter()
        groups = [judged[i].result() if i in judged else None for i in range(len(asked))]
    finally:
        threads.shutdown(cancel_futures=True)
    verify_s = time.perf_counter() - generated
    return Round(groups, generated - start, verify_s, engine.cache_load)


def _enough(judged: Collection[Future[Group]], wanted: int) -> bool:
    """Whether `wanted` of these groups are informative; waits while that is undecided.

    Counting only what is judged by now would abort at a step that depends on the verifier's speed.
    """
    count, waiting = 0, []
    for future in judged:
        if future.done():
            count += future.result().informative
        else:
            waiting.append(future)
    while count < wanted <= count + len(waiting):
        count += waiting.pop().result().informative
    return count >= wanted
