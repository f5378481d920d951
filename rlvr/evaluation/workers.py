"""Runs a plan in this process or in one process per GPU, and keeps what comes in the logs."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait

from eval.generations import Generation, GenerationLog
from rewards.pool.worker import die_with
from rlvr.common.errors import ConfigError, RunError
from rlvr.common.files import lenient_output
from rlvr.common.log import get_logger, to_stderr
from rlvr.common.signals import StickyInterrupt
from rlvr.evaluation.plan import SamplingPlan

logger = get_logger(__name__)

FLUSH_S, FLUSH_ROWS = 2.0, 256
"""What a kill can cost: the responses of so many seconds, or so many responses."""


def sample_all(plan: SamplingPlan, logs: Sequence[GenerationLog], num_processes: int) -> None:
    """Appends every response of the plan to the log of its job. logs: one per job.

    Raises: ConfigError, RunError.
    """
    source = sample_in_processes(plan, num_processes) if num_processes > 1 else sample_here(plan)
    keep(source, plan, logs)


def keep(
    source: Iterable[tuple[int, Generation]], plan: SamplingPlan, logs: Sequence[GenerationLog]
) -> None:
    """Appends (job number, generation) pairs to the logs as they come, with a line of progress."""
    progress = Progress(plan.num_requests, sum(len(log.done) for log in logs))
    waiting: list[list[Generation]] = [[] for _ in logs]
    flushed = time.monotonic()
    try:
        with StickyInterrupt() as interrupt:
            for job, generation in source:
                waiting[job].append(generation)
                progress.add(generation)
                # after the row is queued, so that an interrupted run keeps it
                interrupt.check()
                now = time.monotonic()
                if now - flushed > FLUSH_S or sum(map(len, waiting)) >= FLUSH_ROWS:
                    _flush(waiting, logs)
                    flushed = now
    finally:
        _flush(waiting, logs)
        progress.close()


def _flush(waiting: list[list[Generation]], logs: Sequence[GenerationLog]) -> None:
    for rows, log in zip(waiting, logs, strict=True):
        log.append(rows)
        rows.clear()


def sample_here(plan: SamplingPlan, speaks: bool = True) -> Iterator[tuple[int, Generation]]:
    """(job number, generation) of everything in the plan, sampled in this process."""
    from rlvr.evaluation.serving import TargetServer

    order = [i for i, job in enumerate(plan.jobs) if job.keys]
    # transformers' models first: vLLM reserves the GPU's memory until the end
    order.sort(key=lambda i: plan.jobs[i].target.kind != "live")
    server = TargetServer(plan, speaks)
    try:
        for i in order:
            for generation in server.sample(plan.jobs[i]):
                yield i, generation
    finally:
        server.close()


def sample_in_processes(plan: SamplingPlan, count: int) -> Iterator[tuple[int, Generation]]:
    """The same by `count` processes, each with a GPU of its own, or a share of the CPU cores."""
    # CUDA cannot be used in a forked process
    context = multiprocessing.get_context("spawn")
    devices = _devices(count)
    workers, pipes = [], []
    try:
        for rank in range(count):
            receiving, sending = context.Pipe(duplex=False)
            worker = context.Process(target=_work, args=(plan.shard(rank, count), rank, sending))
            # around its start: libraries in the worker read them when they are imported
            with _environment(devices[rank]):
                worker.start()
            # the worker's own copy stays open: the pipe ends when the worker does
            sending.close()
            workers.append(worker)
            pipes.append(receiving)
        while pipes:
            for pipe in wait(pipes):
                assert isinstance(pipe, Connection)
                try:
                    message = pipe.recv()
                except EOFError:
                    pipes.remove(pipe)
                    continue
                if isinstance(message, Exception):
                    raise message
                yield message
        for rank, worker in enumerate(workers):
            worker.join()
            if worker.exitcode:
                raise RunError(f"evaluation process {rank} ended with code {worker.exitcode}")
    finally:
        for worker in workers:
            worker.kill()
            worker.join()


def _work(plan: SamplingPlan, rank: int, sending: Connection) -> None:
    """Samples one process's shard and sends it to the parent, until that is gone."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    assert parent.pid is not None
    # an orphan would hold its GPU until somebody finds it
    die_with(parent.pid)
    try:
        with lenient_output(), to_stderr():
            for message in sample_here(plan, speaks=rank == 0):
                sending.send(message)
    except (ConfigError, RunError) as error:
        sending.send(error)


def _devices(count: int) -> list[dict[str, str]]:
    """Environment variables of each process: its GPU, or its number of threads."""
    import torch

    if torch.cuda.is_available():
        shown = os.environ.get("CUDA_VISIBLE_DEVICES")
        # the devices that a job is given need not begin at 0
        numbers = shown.split(",") if shown else [str(i) for i in range(torch.cuda.device_count())]
        if len(numbers) < count:
            raise ConfigError(f"--data-parallel {count}: there are {len(numbers)} GPUs; lower it")
        return [{"CUDA_VISIBLE_DEVICES": numbers[rank]} for rank in range(count)]
    threads = str(max(1, len(os.sched_getaffinity(0)) // count))
    return [{"OMP_NUM_THREADS": threads, "CUDA_VISIBLE_DEVICES": ""}] * count


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Sets environment variables inside the block, for the processes started in it."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


class Progress:
    """Says on standard error how far it is and what is left: twice a second to a person, every 30 s
    to a file."""

    def __init__(self, total: int, already: int) -> None:
        self._total, self._done, self._tokens = total, 0, 0
        self._start = self._said = time.monotonic()
        self._to_person = sys.stderr.isatty()
        if already:
            logger.info(f"{already} responses are there already, {total} to go")

    def add(self, generation: Generation) -> None:
        """Counts one response."""
        self._done += 1
        self._tokens += generation.response_len or 0
        now = time.monotonic()
        if now - self._said > (0.5 if self._to_person else 30):
            self._said = now
            self._show(now - self._start)

    def _show(self, seconds: float) -> None:
        left = seconds / self._done * (self._total - self._done)
        line = (
            f"{self._done} of {self._total} responses, {self._tokens / seconds:.0f} tokens/s,"
            f" about {_duration(left)} left"
        )
        if self._to_person:
            print(f"\r{line} ", end="", file=sys.stderr, flush=True)
        else:
            logger.info(line)

    def close(self) -> None:
        """Leaves the totals on the screen."""
        seconds = time.monotonic() - self._start
        if self._to_person:
            print(file=sys.stderr)
        logger.info(
            f"{self._done} responses, {self._tokens} tokens sampled in {_duration(seconds)}"
        )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return (
        f"{hours} h {minutes} min"
        if hours
        else f"{minutes} min {rest} s"
        if minutes
        else f"{rest} s"
    )
