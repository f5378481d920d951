"""Count verdicts by reason and stage, and measure their latency, between two resets."""

import threading
from collections import Counter, deque
from dataclasses import dataclass

from rewards.types import Reason, Verdict

FAILURES = (Reason.TIMEOUT, Reason.WORKER_DIED)
"""Reasons that say nothing about the response: it was not judged. More than 1% is an alarm.

too_large is not among them: the cost guard has judged that no sensible answer looks like this.
"""

UNJUDGED = frozenset({*FAILURES, Reason.GOLD_INVALID})
"""Reasons of a response that nobody judged, right or wrong: it earns no reward at all."""

FOLD_AT = 4096  # verdicts that wait uncounted, in memory
MAX_TIMES = 65_536


@dataclass(frozen=True)
class VerifierStats:
    """The verdicts and the events of the worker pool since the last reset.

    num_verdicts: verdicts given. reasons, stages: verdicts per reason and per deciding stage.
    failure_frac: timeout and worker_died over all verdicts but gold_invalid. p50_ms, p99_ms: of
    Verdict.ms, over the last 65,536 verdicts. kills: overruns ended by force. deaths: workers that
    died otherwise. recycled: workers replaced for age, number of calls or memory. template_starts:
    starts of the process that forks the workers; more than one means that it died.
    """

    num_verdicts: int
    reasons: dict[str, int]
    stages: dict[str, int]
    failure_frac: float
    p50_ms: float
    p99_ms: float
    kills: int
    deaths: int
    recycled: int
    template_starts: int


class Counters:
    """Counts verdicts from any thread; adding them costs next to nothing."""

    def __init__(self):
        self._lock = threading.Lock()
        self._recent: deque[Verdict] = deque()  # appending is atomic and needs no lock
        self.reset()

    def add(self, verdicts: list[Verdict]) -> None:
        """Count the verdicts, at once or, as long as they are few, with the next snapshot."""
        self._recent.extend(verdicts)
        if len(self._recent) >= FOLD_AT:
            with self._lock:
                self._fold()

    def reset(self) -> None:
        """Forget every verdict."""
        with self._lock:
            self._recent.clear()
            self._reasons: Counter[str] = Counter()
            self._stages: Counter[str] = Counter()
            self._times_ms: deque[float] = deque(maxlen=MAX_TIMES)

    def _fold(self) -> None:
        # only those there by now: other threads go on appending
        for _ in range(len(self._recent)):
            verdict = self._recent.popleft()
            self._reasons[verdict.reason.value] += 1
            self._stages[verdict.stage] += 1
            self._times_ms.append(verdict.ms)

    def snapshot(self, pool_events: Counter[str]) -> VerifierStats:
        """Return the counts since the last reset, with those of the pool's events."""
        with self._lock:
            self._fold()
            reasons, stages = dict(self._reasons), dict(self._stages)
            times_ms = sorted(self._times_ms)
        # a row with a broken gold is never judged: it would only dilute the rate
        num_judged = sum(reasons.values()) - reasons.get(Reason.GOLD_INVALID.value, 0)
        num_failures = sum(reasons.get(reason.value, 0) for reason in FAILURES)
        return VerifierStats(
            num_verdicts=sum(reasons.values()),
            reasons=reasons,
            stages=stages,
            failure_frac=num_failures / num_judged if num_judged else 0.0,
            p50_ms=quantile(times_ms, 0.50),
            p99_ms=quantile(times_ms, 0.99),
            kills=pool_events["kills"],
            deaths=pool_events["deaths"],
            recycled=pool_events["recycled"],
            template_starts=pool_events["template_starts"],
        )


def quantile(ordered: list[float], fraction: float) -> float:
    """Return the smallest value that `fraction` of the values do not exceed; 0 for no values."""
    if not ordered:
        return 0.0
    # nearest rank: the ceiling of fraction * n, counted from 0
    return ordered[max(0, -int(-fraction * len(ordered) // 1) - 1)]
