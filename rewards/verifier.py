"""Judge responses: extract, decide exactly in process where possible, send the rest to workers."""

import os
import threading
import weakref
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache
from itertools import islice
from time import perf_counter
from typing import TYPE_CHECKING, Any

from rewards.counters import Counters, VerifierStats
from rewards.extract import MODES, extract
from rewards.gold import Gold
from rewards.types import Reason, Ruling, Verdict

if TYPE_CHECKING:
    from rewards.pool.pool import Pool
    from rewards.pool.process import Outcome

GOLD_CACHE = 16_384  # more than the prompts of several steps, each judged group_size times

_live: "weakref.WeakSet[Verifier]" = weakref.WeakSet()
_pool_lock = threading.Lock()


class Verifier:
    """Judges responses against golds; bounded in time and memory, safe from any thread.

    answer_mode: where the answer stands, one of boxed, answer_line, hash, last_number; nothing else
    is tried. require_closed_think: the prompt ends in `<think>`, so a response has an answer only
    after its `</think>`, and one that was cut off before it has none. timeout_s: wall time that a
    worker may spend on one pair, counted from the moment it starts on it; then it is killed.
    num_workers: worker processes, by default half of the processors this process may use, between 2
    and 16. memory_mib: memory that a worker may add. max_calls, max_age_s: when a worker is
    replaced by a fresh one.

    The worker pool starts in the background at construction: make the verifier before an inference
    engine pins this process to some processors. It ends with `close`, with the `with` block, or
    with the process, however that ends.
    """

    def __init__(
        self,
        *,
        answer_mode: str = "boxed",
        require_closed_think: bool = False,
        timeout_s: float = 1.0,
        num_workers: int | None = None,
        memory_mib: int = 512,
        max_calls: int = 20_000,
        max_age_s: float = 1800.0,
    ):
        if answer_mode not in MODES:
            raise ValueError(f"answer_mode = {answer_mode!r}: choose one of {', '.join(MODES)}")
        if not 0 < timeout_s < float("inf"):  # nan is neither
            raise ValueError(
                f"timeout_s = {timeout_s}: a pair needs some time, and not all; set it to 1.0"
            )
        if num_workers is not None and num_workers < 1:
            raise ValueError(f"num_workers = {num_workers}: at least 1 is needed; leave it out")
        self.answer_mode, self.require_closed_think = answer_mode, require_closed_think
        self._pool_settings: dict[str, Any] = {
            "target": "rewards.judging.in_worker:judge_texts",
            "warm_up": "rewards.judging.in_worker:warm_up",
            "num_workers": num_workers or default_num_workers(),
            "timeout_s": timeout_s,
            "memory_mib": memory_mib,
            "max_calls": max_calls,
            "max_age_s": max_age_s,
        }
        # Imported here: they are half of the import time, and many importers never verify.
        from rewards.judging.judge import judge_fast

        self._judge_fast = judge_fast
        self._known: dict[tuple[str, str], Ruling] = {}
        self._counters = Counters()
        self._events_before: Counter[str] = Counter()
        self._closed = False
        self._pool: Pool | None = None
        self._start_pool()
        _live.add(self)

    def _start_pool(self) -> "Pool":
        # Imported here, as above: sockets and subprocesses take the other half.
        from rewards.pool.pool import Pool, PoolSettings

        self._pool = Pool(PoolSettings(**self._pool_settings))
        self._finalizer = weakref.finalize(self, self._pool.close)
        return self._pool

    def verify(self, response: str, gold: Gold | str | tuple[Gold | str, ...]) -> Verdict:
        """Return the verdict on one response."""
        return self.verify_many([(response, gold)])[0]

    def verify_many(
        self, pairs: Iterable[tuple[str, Gold | str | tuple[Gold | str, ...]]]
    ) -> list[Verdict]:
        """Return one verdict per (response, gold), in order.

        Equal answers to equal golds are judged once, and what a worker has judged is remembered
        (timeouts are not). Any gold of a tuple counts: the verdict is correct if one of them is
        met, else a failure of ours if one failed, since it might have been the right one.
        A gold that is a string and cannot be understood gives the reason gold_invalid.
        Raises RuntimeError after close, or when the worker processes cannot be started at all.
        """
        if self._closed:
            raise RuntimeError("this verifier is closed; make a new one")
        asked = list(pairs)
        flat = [
            (response, gold)
            for response, golds in asked
            for gold in (golds if isinstance(golds, tuple) else (golds,))
        ]
        found = self._verify_each(flat)
        if any(isinstance(golds, tuple) for _, golds in asked):
            each = iter(found)
            found = [
                best(list(islice(each, len(golds)))) if isinstance(golds, tuple) else next(each)
                for _, golds in asked
            ]
        self._counters.add(found)
        return found

    def _verify_each(self, pairs: Iterable[tuple[str, Gold | str]]) -> list[Verdict]:
        verdicts: list[Verdict] = []
        slow: dict[tuple[str, str], list[tuple[int, float]]] = {}
        for response, gold in pairs:
            start = perf_counter()
            answer, ruling, gold_text = self._judge_here(response, gold)
            ms = (perf_counter() - start) * 1e3
            if ruling is None:
                slow.setdefault((answer or "", gold_text), []).append((len(verdicts), ms))
                ruling = NOT_JUDGED
            verdicts.append(verdict_of(ruling, answer, ms))
        if slow:
            self._judge_in_workers(slow, verdicts)
        return verdicts

    def _judge_here(self, response: str, gold: Gold | str) -> tuple[str | None, Ruling | None, str]:
        """Return the answer, its ruling if this process can decide it, and the gold's text."""
        try:
            parsed = parse_gold(gold) if isinstance(gold, str) else gold
            if parsed is None:
                return None, Ruling(Reason.GOLD_INVALID, "gold"), str(gold)
            answer, reason, stage = extract(response, self.answer_mode, self.require_closed_think)
            if answer is None:
                return None, Ruling(reason or Reason.NO_ANSWER, stage), parsed.text
            return answer, self._judge_fast(answer, parsed), parsed.text
        except Exception as error:  # a fault of ours on foreign text: counted, never `wrong`
            return None, Ruling(Reason.WORKER_DIED, f"error:{type(error).__name__}"), ""

    def _judge_in_workers(
        self, slow: dict[tuple[str, str], list[tuple[int, float]]], verdicts: list[Verdict]
    ) -> None:
        # A list first: the loop takes items out of the dict that it looks through.
        for call in [call for call in slow if call in self._known]:
            for place, ms in slow.pop(call):
                verdicts[place] = verdict_of(self._known[call], call[0], ms)
        if not slow:
            return
        with _pool_lock:  # after a fork the first thread that needs a pool starts it
            pool = self._pool or self._start_pool()
        outcomes = pool.map(list(slow))
        for (call, places), outcome in zip(slow.items(), outcomes, strict=True):
            ruling = ruling_of(outcome)
            # A timeout may be the machine's fault, so it is judged again next time.
            if outcome.status == "done" and len(self._known) < KNOWN_PAIRS:
                self._known[call] = ruling
            for place, ms in places:
                verdicts[place] = verdict_of(ruling, call[0], ms + outcome.ms)

    def stats(self, *, reset: bool = False) -> VerifierStats:
        """Counts since the last reset; with reset=True the next call counts from here."""
        events = Counter(self._pool.events if self._pool is not None else {})
        stats = self._counters.snapshot(events - self._events_before)
        if reset:
            self._counters.reset()
            self._events_before = events
        return stats

    def close(self) -> None:
        """End the worker processes. Closing twice is harmless."""
        self._closed = True
        self._finalizer()

    def __enter__(self) -> "Verifier":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


KNOWN_PAIRS = 65_536  # a run meets the same wrong answers again and again
NOT_JUDGED = Ruling(Reason.WORKER_DIED, "pool")
OUTCOME_RULINGS = {
    "timeout": Ruling(Reason.TIMEOUT, "pool"),
    "died": NOT_JUDGED,
    "memory": Ruling(Reason.TOO_LARGE, "memory"),
    "depth": Ruling(Reason.TOO_LARGE, "depth"),
}


def ruling_of(outcome: "Outcome") -> Ruling:
    """Return the ruling that the end of a worker's call means for the pair."""
    if outcome.status == "done":
        reason, stage = outcome.values
        return Ruling(Reason(reason), stage)
    if outcome.status == "error":
        return Ruling(Reason.WORKER_DIED, f"error:{outcome.values[0]}")
    return OUTCOME_RULINGS[outcome.status]


def best(verdicts: list[Verdict]) -> Verdict:
    """Return the best of one response's verdicts by several golds, with the time of all."""
    ranks = {Reason.CORRECT: 0, Reason.TIMEOUT: 1, Reason.WORKER_DIED: 1, Reason.GOLD_INVALID: 3}
    chosen = min(verdicts, key=lambda verdict: ranks.get(verdict.reason, 2))
    return replace(chosen, ms=sum(verdict.ms for verdict in verdicts))


def verdict_of(ruling: Ruling, answer: str | None, ms: float) -> Verdict:
    """Return the verdict that a ruling on the answer gives."""
    reason, stage = ruling
    return Verdict(reason is Reason.CORRECT, reason, answer, stage, ms)


@lru_cache(maxsize=GOLD_CACHE)
def parse_gold(text: str) -> Gold | None:
    """Return the parsed gold; None for one that cannot be understood."""
    try:
        return Gold.parse(text)
    except ValueError:
        return None


def default_num_workers() -> int:
    """Return half of the number of processors this process may use, between 2 and 16."""
    if hasattr(os, "sched_getaffinity"):
        num_cpus = len(os.sched_getaffinity(0))
    else:
        num_cpus = os.cpu_count() or 1
    return max(2, min(16, num_cpus // 2))


def _forget_pools_after_fork() -> None:
    """A forked child has no pool thread and must not speak on its parent's sockets."""
    global _pool_lock
    # A thread of the parent may have held the lock, and no thread is left to release it.
    _pool_lock = threading.Lock()
    for verifier in _live:
        verifier._finalizer.detach()
        verifier._pool = None


os.register_at_fork(after_in_child=_forget_pools_after_fork)
