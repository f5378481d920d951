"""Killable calls: a pool of worker processes in which every call has a deadline of its own.

One thread of the trainer owns every socket and every decision; callers only hand in jobs and wait,
without holding the interpreter's lock. Python threads cannot bound a call: arithmetic on huge
integers never lets another thread run, so what overruns is killed and its worker forked anew.
"""

import selectors
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from contextlib import suppress

from rewards.pool.process import Job, Outcome, PoolSettings, Task, Template, Worker

TEMPLATE_START_S = 120.0  # it imports sympy, maybe from a cold disk
FORK_S = 10.0
MAX_FAILED_STARTS = 3
MAX_STILLBORN = 200  # workers lost before their first call: memory_mib below what they start with
MAX_BATCH_CALLS = 16
MAX_BATCH_CHARS = 20_000  # far below SEND_BUFFER: sending must not block
CLOSE_S = 10.0
STALL_S = 0.25


class Pool:
    """Runs "module:function" on tuples of strings in worker processes; safe from any thread.

    Construction does not block: the template imports while the caller goes on. `events` counts
    kills (overruns), deaths (a worker ended by itself or from outside), recycled (by age, number or
    memory) and template_starts.
    """

    def __init__(self, settings: PoolSettings):
        self.settings = settings
        self.events: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._inbox: deque[Job] = deque()
        self._jobs: deque[Job] = deque()
        self._workers: set[Worker] = set()
        self._failed_starts = 0
        self._num_stillborn = 0
        self._error: str | None = None
        self._closing = False
        self._wake, self._woken = socket.socketpair()
        self._woken.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._woken, selectors.EVENT_READ, "wake")
        self._template = Template(self.settings)
        self._thread = threading.Thread(target=self._run, name="verifier-pool", daemon=True)
        self._thread.start()

    def map(self, calls: Sequence[tuple[str, ...]]) -> list[Outcome]:
        """Return the outcome of every call, in order.

        Raises RuntimeError when the pool is closed or its processes cannot be started.
        """
        if not calls:
            return []
        job = Job(calls)
        with self._lock:
            self._check()
            self._inbox.append(job)
        with suppress(OSError):  # closed meanwhile: then the pool's thread has let this job go
            self._wake.send(b"j")
        job.done.wait()
        if job.num_left:
            self._check()
        return [outcome for outcome in job.outcomes if outcome is not None]

    def worker_pids(self) -> list[int]:
        """Return the process ids of the workers that have said hello."""
        return [worker.pid for worker in list(self._workers) if worker.pid is not None]

    def template_pid(self) -> int:
        """Return the process id of the template that forks the workers."""
        return self._template.process.pid

    def close(self) -> None:
        """End every process; calls still running raise RuntimeError. Closing twice is harmless."""
        self._fail("the pool is closed")
        with suppress(OSError):
            self._wake.send(b"c")
        if threading.current_thread() is not self._thread:
            self._thread.join(CLOSE_S)

    def _fail(self, error: str) -> None:
        """Let the pool's thread end; the first error is the one that callers see."""
        with self._lock:
            self._closing = True
            self._error = self._error or error

    def _check(self) -> None:
        if self._error is not None:
            raise RuntimeError(self._error)

    # Everything below runs in the pool's own thread.

    def _run(self) -> None:
        try:
            self._fork_workers()
            while not self._closing:
                self._step()
        finally:
            self._end()

    def _step(self) -> None:
        self._take_jobs()
        num_busy = sum(bool(worker.tasks) for worker in self._workers)
        for worker in list(self._workers):
            if self._jobs and num_busy < self.settings.num_workers and worker.is_idle:
                num_busy += 1
                self._feed(worker)
        for key, _ in self._wait():
            if key.data == "wake":
                self._woken.recv(4096)
            elif key.data == "template":
                self._restart_template()
            elif key.data in self._workers:
                self._read(key.data)
        self._kill_overdue()

    def _wait(self) -> list[tuple[selectors.SelectorKey, int]]:
        """Events until the next deadline.

        When this thread itself wakes up far too late, the whole machine has stalled: no call is to
        blame, and the clocks of the running ones start again.
        """
        seconds = self._seconds_left()
        start_s = time.monotonic()
        events = self._selector.select(seconds)
        if seconds is not None and time.monotonic() - start_s > seconds + STALL_S:
            for worker in self._workers:
                if worker.tasks:
                    worker.tasks[0].begin()
        return events

    def _take_jobs(self) -> None:
        with self._lock:
            while self._inbox:
                self._jobs.append(self._inbox.popleft())

    def _feed(self, worker: Worker) -> None:
        """Send an idle worker its next calls; jobs take turns, so a small one need not wait."""
        job = self._jobs[0]
        # Half of a worker's fair share, so that a batch with a slow call leaves the rest to others.
        share = -(-len(job.todo) // (2 * self.settings.num_workers))
        batch: list[Task] = []
        num_chars = 0
        while job.todo and len(batch) < min(share, MAX_BATCH_CALLS):
            num_chars += sum(map(len, job.todo[0].call))
            if batch and num_chars > MAX_BATCH_CHARS:
                break
            batch.append(job.todo.popleft())
        self._jobs.popleft()
        if job.todo:
            self._jobs.append(job)
        # Only the first call's clock runs; the others wait inside the worker through no fault.
        batch[0].begin()
        try:
            worker.send(batch)
        except OSError:  # it died idle: no call of this batch is to blame
            self.events["deaths"] += 1
            self._replace(worker)

    def _read(self, worker: Worker) -> None:
        try:
            lines = worker.receive()
        except EOFError:
            self._lost(worker)
            return
        for line in lines:
            if worker.pid is None:
                self._hello(worker, line[0])
                continue
            status, retire, *values = line
            self._finish(worker.tasks.popleft(), status, values)
            worker.num_calls += 1
            if worker.tasks:
                worker.tasks[0].begin()
            if retire:
                break
        else:
            retire = self._is_worn(worker)
        if retire:
            self.events["recycled"] += 1
            self._replace(worker)

    def _hello(self, worker: Worker, pid: int) -> None:
        worker.pid = pid
        self._template.warm = True
        self._failed_starts = self._num_stillborn = 0

    def _is_worn(self, worker: Worker) -> bool:
        if worker.tasks or not worker.num_calls:
            return False
        age_s = time.monotonic() - worker.born_s
        return worker.num_calls >= self.settings.max_calls or age_s >= self.settings.max_age_s

    def _finish(self, task: Task, status: str, values: list[str]) -> None:
        task.pause()
        task.job.finish(task.index, Outcome(status, values, task.spent_s * 1e3))

    def _lost(self, worker: Worker) -> None:
        """A worker is gone. Its current call is tried once more, since the cause may be outside."""
        if worker.pid is None:
            self._num_stillborn += 1
            if self._num_stillborn > MAX_STILLBORN:
                self._fail("the verifier's workers die before their first call; is memory_mib low?")
        else:
            self.events["deaths"] += 1
        self._charge_death(worker)
        self._replace(worker)

    def _charge_death(self, worker: Worker) -> None:
        if not worker.tasks:
            return
        worker.tasks[0].num_deaths += 1
        if worker.tasks[0].num_deaths > 1:
            self._finish(worker.tasks.popleft(), "died", [])

    def _kill_overdue(self) -> None:
        now = time.monotonic()
        for worker in list(self._workers):
            if now < self._deadline(worker):
                continue
            if worker.pid is None:
                self._restart_template()
                return
            self.events["kills"] += 1
            task = worker.tasks.popleft()
            self._finish(task, "died" if task.num_deaths else "timeout", [])
            self._replace(worker)

    def _deadline(self, worker: Worker) -> float:
        if worker.pid is None:
            return worker.born_s + (FORK_S if self._template.warm else TEMPLATE_START_S)
        if not worker.tasks:
            return float("inf")
        task = worker.tasks[0]
        assert task.started_s is not None, "a worker holds a task that has not begun"
        return task.started_s + self.settings.timeout_s - task.spent_s

    def _seconds_left(self) -> float | None:
        first = min((self._deadline(worker) for worker in self._workers), default=float("inf"))
        return None if first == float("inf") else max(0.0, first - time.monotonic())

    def _replace(self, worker: Worker) -> None:
        self._drop(worker)
        self._fork(worker.pid or 0)

    def _drop(self, worker: Worker) -> None:
        """Kill a worker and put its unanswered calls first in line again."""
        self._workers.discard(worker)
        self._selector.unregister(worker.sock)
        worker.kill()
        while worker.tasks:
            task = worker.tasks.pop()
            task.pause()
            task.job.todo.appendleft(task)
            if task.job not in self._jobs:
                self._jobs.appendleft(task.job)

    def _fork(self, replaced_pid: int = 0) -> None:
        try:
            worker = self._template.fork(replaced_pid)
        except OSError:
            return  # the template is dead: its end of file is on its way and will restart all
        self._workers.add(worker)
        self._selector.register(worker.sock, selectors.EVENT_READ, worker)

    def _fork_workers(self) -> None:
        self.events["template_starts"] += 1
        self._selector.register(self._template.control, selectors.EVENT_READ, "template")
        for _ in range(self.settings.num_workers + self.settings.num_spares):
            self._fork()

    def _restart_template(self) -> None:
        """The template died or does not answer: start over with a new one and new workers."""
        self._selector.unregister(self._template.control)
        status = self._template.end()
        self._failed_starts += not self._template.warm
        if self._failed_starts >= MAX_FAILED_STARTS:
            self._fail(
                f"the verifier's template process ended with status {status} before its first "
                f"worker, {MAX_FAILED_STARTS} times in a row; its own message is on stderr"
            )
            return
        for worker in list(self._workers):
            self._charge_death(worker)
            worker.pid = None  # it dies with its template; its id may be another process's by now
            self._drop(worker)
        self._template = Template(self.settings)
        self._fork_workers()

    def _end(self) -> None:
        """Kill everything and let every waiting caller go."""
        self._fail("the verifier's pool thread has failed")
        jobs = {*self._inbox, *self._jobs}
        for worker in self._workers:
            jobs.update(task.job for task in worker.tasks)
            worker.kill()
        self._template.end()
        self._workers.clear()
        self._selector.close()
        self._wake.close()
        self._woken.close()
        for job in jobs:
            job.done.set()
