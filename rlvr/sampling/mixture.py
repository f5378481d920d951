"""Picks problems from several sources, each by a selector of its own, in given shares."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rlvr.common.seeds import sample_seed
from rlvr.sampling.problem_selection import Selector, difficulty_levels

if TYPE_CHECKING:
    from rlvr.config.train import SamplingConfig
    from rlvr.data.problems import Problem


class Mixture:
    """Picks from sources by weight: the next problem is of the source that is furthest behind its
    share of all picks so far. Every source is then near its share at every step, and which source
    comes next is a function of the number of picks: nothing else has to be saved.

    Epochs, pass rates and the curriculum are each source's own: its levels of difficulty need not
    mean what another's mean.
    """

    def __init__(
        self,
        members: Sequence[Sequence[int]],
        selectors: Sequence[Selector],
        weights: Sequence[float],
    ) -> None:
        """members: for each source the indices of its problems. weights: shares, adding up to 1."""
        self._members, self._selectors, self._weights = members, selectors, weights
        self._place = {i: (s, k) for s, own in enumerate(members) for k, i in enumerate(own)}

    def pick(self, count: int, step: int) -> list[tuple[int, int]]:
        """(index of a problem, number of picks of its source before it), `count` times."""
        order = self._next_sources(count)
        picked = [
            # one call per source: predictive and curriculum pick distinct problems within a call
            iter(selector.pick(order.count(source), step))
            for source, selector in enumerate(self._selectors)
        ]
        drawn = ((source, *next(picked[source])) for source in order)
        return [(self._members[source][index], number) for source, index, number in drawn]

    def _next_sources(self, count: int) -> list[int]:
        """The sources of the next picks."""
        num_drawn = [selector.num_drawn for selector in self._selectors]
        order = []
        # shares of the picks with the next one: without it no source is behind at the start
        for total in range(sum(num_drawn) + 1, sum(num_drawn) + count + 1):
            behind = [w * total - n for w, n in zip(self._weights, num_drawn, strict=True)]
            order.append(behind.index(max(behind)))
            num_drawn[order[-1]] += 1
        return order

    def observe(self, index: int, num_right: int, num_wrong: int, step: int) -> None:
        """Learns from the verdicts of one group of a picked problem."""
        source, place = self._place[index]
        self._selectors[source].observe(place, num_right, num_wrong, step)

    def state(self) -> dict[str, Any]:
        """Everything that the next `pick` depends on, JSON-ready."""
        return {"sources": [selector.state() for selector in self._selectors]}

    def load_state(self, state: dict[str, Any]) -> None:
        """Continues from `state`, forgetting what was picked since."""
        for selector, saved in zip(self._selectors, state["sources"], strict=True):
            selector.load_state(saved)


def make_selector(
    problems: Sequence[Problem],
    config: SamplingConfig,
    group_size: int,
    num_steps: int,
    seed: int,
    *,
    shuffle: bool = True,
    weights: Sequence[float] | None = None,
) -> Selector | Mixture:
    """What picks among the problems: one selector, or one per source. weights: the share of every
    source; None gives each the share that it has of the problems."""

    def selector(own: Sequence[Problem], own_seed: int) -> Selector:
        levels = difficulty_levels([problem.difficulty for problem in own])
        given = (config, len(own), group_size, num_steps, own_seed)
        return Selector(*given, shuffle=shuffle, levels=levels)

    num_sources = 1 + max(problem.source for problem in problems)
    if num_sources == 1:
        # the run's own seed: one [[data.source]] is drawn from as data.path is
        return selector(problems, seed)
    members: list[list[int]] = [[] for _ in range(num_sources)]
    for index, problem in enumerate(problems):
        members[problem.source].append(index)
    selectors = [
        # else two sources of one size would be drawn from in the same order
        selector([problems[index] for index in own], sample_seed(seed, "source", source))
        for source, own in enumerate(members)
    ]
    return Mixture(members, selectors, weights or [len(own) / len(problems) for own in members])
