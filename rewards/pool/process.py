"""Start, feed and end the template process and its workers: the trainer's side of both."""

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import NamedTuple

# Not `-m`: the fresh interpreter must first search where this one does, whatever its own folder is.
BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from rewards.pool.worker import template_main; template_main(sys.argv[2], int(sys.argv[3]))"
)
# A pool thread of BLAS would not survive the fork, and the processors are the workers'.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
SPAWN = struct.Struct("!q")
"""A request to fork: the process id of the worker that the new one replaces, or 0."""

SEND_BUFFER = 1 << 20
RECEIVE_SIZE = 1 << 16


@dataclass(frozen=True)
class PoolSettings:
    """What is called, by how many processes, within which bounds.

    target: "module:function", called with strings and returning a sequence of strings.
    warm_up: "module:function", called in the template, and again in each worker before its first
        call, so that the pages it touches are its own by then. warm_up_words: what it is called
        with.
    num_workers: calls that run at the same time. num_spares: further workers that wait, so that a
        killed one is replaced at once.
    timeout_s: wall time per call, counted from the moment a worker starts on it; the pool kills,
        the worker itself only bounds its processor time.
    memory_mib: memory that a worker may add to what it starts with.
    max_calls, max_age_s: a worker is replaced by a fresh one after that many calls or seconds.
    """

    target: str
    warm_up: str | None = None
    warm_up_words: tuple[str, ...] = ()
    num_workers: int = 2
    num_spares: int = 1
    timeout_s: float = 1.0
    memory_mib: int = 512
    max_calls: int = 20_000
    max_age_s: float = 1800.0


class Outcome(NamedTuple):
    """The end of a call.

    status: done, memory, depth or error (see worker.run_call), timeout, or died (twice in a row).
    values: the strings that the target returned. ms: time that workers spent on the call.
    """

    status: str
    values: list[str]
    ms: float


class Job:
    """Calls submitted together, and their outcomes in the same order once `done` is set."""

    def __init__(self, calls: Sequence[tuple[str, ...]]):
        self.calls = calls
        self.todo = deque(Task(self, index) for index in range(len(calls)))
        self.outcomes: list[Outcome | None] = [None] * len(calls)
        self.num_left = len(calls)
        self.done = threading.Event()

    def finish(self, index: int, outcome: Outcome) -> None:
        """Enter the outcome of one call; the last one wakes the caller."""
        self.outcomes[index] = outcome
        self.num_left -= 1
        if self.num_left == 0:
            self.done.set()


@dataclass(eq=False)
class Task:
    """A call on its way: the time workers have spent on it, and how often one died with it."""

    job: Job
    index: int
    started_s: float | None = None
    spent_s: float = 0.0
    num_deaths: int = 0

    @property
    def call(self) -> tuple[str, ...]:
        """The strings that the target is called with."""
        return self.job.calls[self.index]

    def begin(self) -> None:
        """Start the call's clock."""
        self.started_s = time.monotonic()

    def pause(self) -> None:
        """Stop the call's clock; a call that is tried again has only the rest of its time."""
        if self.started_s is not None:
            self.spent_s += time.monotonic() - self.started_s
            self.started_s = None


class Template:
    """A fresh interpreter that has imported the heavy packages and forks workers on request.

    Starting it does not block: requests wait in its socket until its imports are done. It leaves
    the terminal's process group, so Ctrl-C reaches the trainer only, and ends when its socket
    closes.
    """

    def __init__(self, settings: PoolSettings):
        self.control, theirs = socket.socketpair()
        arguments = [json.dumps(sys.path), json.dumps(asdict(settings)), str(os.getpid())]
        with theirs:
            # our copy of their end closes behind this: a dead template is an end of file here
            self.process = subprocess.Popen(
                [sys.executable, "-c", BOOT, *arguments],
                stdin=theirs.fileno(),
                # what a library prints must not fall among the verdicts of `rlvr verify`
                stdout=subprocess.DEVNULL,
                process_group=0,  # else Ctrl-C in the terminal would kill the verifier first
                env=os.environ | ONE_THREAD,
            )
        self.warm = False

    def fork(self, replaced_pid: int = 0) -> "Worker":
        """Ask for a worker and return it at once; raises OSError when the template has died."""
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                socket.send_fds(self.control, [SPAWN.pack(replaced_pid)], [theirs.fileno()])
        except OSError:
            ours.close()
            raise
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        ours.setblocking(False)
        return Worker(ours)

    def end(self) -> int:
        """Kill the template if it still lives; its workers die with it. Returns its exit status."""
        self.control.close()
        self.process.kill()
        return self.process.wait()


@dataclass(eq=False)
class Worker:
    """A forked worker: its socket, and the tasks it was sent and has not answered, in order."""

    sock: socket.socket
    pid: int | None = None
    tasks: deque[Task] = field(default_factory=deque)
    born_s: float = field(default_factory=time.monotonic)
    num_calls: int = 0
    unread: bytes = b""

    @property
    def is_idle(self) -> bool:
        """Whether the worker has started and has nothing to do."""
        return self.pid is not None and not self.tasks

    def send(self, tasks: list[Task]) -> None:
        """Send calls; raises OSError when the worker has died."""
        payload = json.dumps([task.call for task in tasks], ensure_ascii=False)
        data = payload.encode("utf-8", "surrogatepass") + b"\n"
        self.tasks.extend(tasks)
        # The socket does not block: a part sent would leave the worker with half a line.
        if self.sock.send(data) != len(data):
            raise BlockingIOError(f"a worker's socket did not take {len(data)} bytes at once")

    def receive(self) -> list[list]:
        """Return the whole lines that have arrived, parsed; raises EOFError for a dead worker."""
        try:
            data = self.sock.recv(RECEIVE_SIZE)
        except ConnectionError:
            data = b""
        if not data:
            raise EOFError
        *lines, self.unread = (self.unread + data).split(b"\n")
        return [json.loads(line) for line in lines]

    def kill(self) -> None:
        """End the worker at once. Its id stays reserved until the template is told to reap it."""
        if self.pid is not None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        self.sock.close()
