"""Decoding steps of a training step's rollouts: by formulas over sampled response lengths."""

from __future__ import annotations

import functools
import heapq
import math
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from rlvr.sampling.group_stream import TICK
from rlvr.sampling.refill import MARGIN, MIN_FRAC, num_prompts

NUM_DRAWS = 8
"""Times that lengths are drawn for a step; what it takes is the mean."""
LATE_AT = 0.7
"""Fraction of a step's groups that have ended when prompts are asked for late, where they are."""


@dataclass(frozen=True, slots=True)
class Workload:
    """One step's work. groups_per_informative: groups generated for one that is trained on.

    tokens_per_row: that the update computes, of a response, where a run has shown it: prompts are
    shared and groups without a signal left out. None: prompt and response. engine_devices: that
    share one engine. partial: unfinished responses go on in the next step. keeps_surplus: groups
    beyond those needed wait for the next step. by_clock: nothing is asked for before all has ended
    (servers). steps_ahead: that async rollouts may be ahead. runs: that share an engine; each has
    this work, and none waits for another.
    """

    groups: int
    group_size: int
    prompt_len: float
    lengths: tuple[int, ...]
    groups_per_informative: float
    tokens_per_row: float | None = None
    engine_devices: int = 1
    partial: bool = False
    keeps_surplus: bool = True
    by_clock: bool = False
    steps_ahead: int = 1
    runs: int = 1

    @property
    def informative_frac(self) -> float:
        return 1 / self.groups_per_informative

    @property
    def num_groups(self) -> float:
        """Prompts that one run asks for in a step, on average: no informative group is lost."""
        return self.groups * self.groups_per_informative

    @property
    def num_rollouts(self) -> int:
        """Responses of one run's step."""
        return math.ceil(self.num_groups) * self.group_size

    @property
    def mean_len(self) -> float:
        return sum(self.lengths) / len(self.lengths)

    @property
    def update_tokens(self) -> float:
        """Of one run."""
        row = self.tokens_per_row or self.prompt_len + self.mean_len
        return self.groups * self.group_size * row

    @property
    def late_frac(self) -> float:
        """Steps of a run that wait for prompts asked for late.

        For m missing groups those are asked for that give m + MARGIN sqrt(m (1 - f)) on average,
        which in the long run is P. As they end, what is expected is a random walk that ends with
        variance P (1 - f): below m with probability 1 - Phi(z), z = MARGIN sqrt(m / P), and below m
        at any time with twice that (the reflection principle).
        """
        if self.partial or self.groups_per_informative <= 1:
            return 0.0
        if not self.keeps_surplus or self.informative_frac < MIN_FRAC:
            return 1.0
        c = MARGIN * math.sqrt(1 - self.informative_frac)
        root = (math.sqrt(c * c + 4 * self.groups) - c) / 2  # of m
        z = MARGIN * root / math.sqrt(self.groups)
        return math.erfc(z / math.sqrt(2)) / (2 if self.by_clock else 1)


@dataclass(frozen=True, slots=True)
class Decoding:
    """What one engine does for a step, mean and sd over steps: decoding steps of the slowest,
    tokens, prompts read (one of the mean length counts 1), and the longest response (tokens)."""

    steps: float
    steps_sd: float
    tokens: float
    requests: float
    longest: float


def log_normal_lengths(
    median: float, sigma: float, longest: int, count: int = 4096
) -> tuple[int, ...]:
    """Response lengths in tokens, cut off at `longest`; the same in every call."""
    rng = random.Random(0)
    return tuple(
        # the parameter mu is the logarithm of the median
        max(1, min(longest, round(rng.lognormvariate(math.log(median), sigma))))
        for _ in range(count)
    )


def decoding_steps(lengths: Sequence[int], slots: int) -> tuple[int, int]:
    """(steps with at least one sequence, tokens) of an engine that runs `slots` at a time."""
    return max(_ends(lengths, slots), default=0), sum(lengths)


def _ends(lengths: Sequence[int], slots: int) -> list[int]:
    """The decoding step at which each ends; they start in the order given, as slots come free."""
    running, ends, now = list[int](), [], 0
    for length in lengths:
        if len(running) == slots:
            # in the place of the one that ends first
            now = heapq.heappop(running)
        heapq.heappush(running, now + length)
        ends.append(now + length)
    return ends


@functools.lru_cache(maxsize=256)
def decoding(work: Workload, engines: int, slots: int) -> Decoding:
    """What each of `engines` engines does for a step of every run."""
    if work.partial:
        return _stream(work, engines, slots)
    # every plan sees the same responses, so that plans compare
    rng = random.Random(1)
    num_groups, late_frac = max(1, round(work.num_groups)), work.late_frac
    steps, squares, longest = [], [], []
    for _ in range(NUM_DRAWS):
        groups = [rng.choices(work.lengths, k=work.group_size) for _ in range(num_groups)]
        ends = sorted(_group_ends(groups, engines, slots))
        late = _group_ends(_late_groups(work, rng), engines, slots)
        begin = ends[-1] if work.by_clock else ends[int(LATE_AT * num_groups)]
        whole, delayed = ends[-1], max(ends[-1], begin + max(late))
        steps.append((1 - late_frac) * whole + late_frac * delayed)
        squares.append((1 - late_frac) * whole**2 + late_frac * delayed**2)
        longest.append(max(map(max, groups)))
    mean = statistics.fmean(steps)
    # of more engines than groups the rest stand idle
    share = work.runs * work.num_groups * work.group_size / min(engines, num_groups)
    tokens = share * work.mean_len
    return Decoding(
        # other runs decode in a run's tail
        max(mean, tokens / slots) if work.runs > 1 else mean,
        math.sqrt(max(0.0, statistics.fmean(squares) - mean**2)),
        tokens,
        share,
        statistics.fmean(longest),
    )


def _group_ends(groups: Sequence[Sequence[int]], engines: int, slots: int) -> list[int]:
    """When each group ends, dealt out to engines in turn."""
    found = []
    for engine in range(min(engines, len(groups))):
        own = groups[engine::engines]
        ends = _ends([length for group in own for length in group], slots)
        size = len(own[0])
        found += [max(ends[i * size : (i + 1) * size]) for i in range(len(own))]
    return found


def _late_groups(work: Workload, rng: random.Random) -> list[list[int]]:
    """Groups asked for late: MARGIN standard deviations of what is missing then."""
    frac = max(work.informative_frac, MIN_FRAC)
    missing = (1 - LATE_AT) * work.groups
    count = max(1, round(MARGIN * math.sqrt(missing * (1 - frac)) / frac))
    return [rng.choices(work.lengths, k=work.group_size) for _ in range(count)]


def _stream(work: Workload, engines: int, slots: int) -> Decoding:
    """With partial rollouts nothing waits for a longest response: num_prompts(P) groups of a run
    are always under way, each for as long as its longest response takes, which is taken at a tick;
    or slots are full."""
    under_way = num_prompts(work.groups, work.informative_frac)
    rate = work.num_groups * longest_of(work.lengths, work.group_size) / under_way
    rows = work.runs * work.num_groups * work.group_size / engines
    tokens = rows * work.mean_len
    steps = max(rate, tokens / slots)
    # what is paused is read again by the new weights: a token of a random row has E[L^2] / 2 E[L]
    # before it
    begun = sum(n * n for n in work.lengths) / sum(work.lengths) / 2
    again = tokens / steps * (1 + begun / work.prompt_len)
    sd = steps * math.sqrt((1 - work.informative_frac) / work.groups)
    return Decoding(steps, sd, tokens, rows + again, 0.0)


def longest_of(lengths: Sequence[int], count: int, tick: int = TICK) -> float:
    """The mean of the longest of `count` lengths drawn from these, each taken at the next tick: the
    sum over the sorted l_i of l_i ((i / n)^count - ((i - 1) / n)^count)."""
    n = len(lengths)
    whole = sorted(math.ceil(length / tick) * tick for length in lengths)
    return sum(
        length * (((i + 1) / n) ** count - (i / n) ** count) for i, length in enumerate(whole)
    )
