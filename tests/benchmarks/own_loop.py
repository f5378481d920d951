"""This project's own loop as one side of a comparison: `train_step`, nothing left out."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from tests.benchmarks.step_worker import Job, Step

if TYPE_CHECKING:
    from rlvr.sampling.rollouts import Group


def serve(job: Job, connection: Connection) -> None:
    """Builds a run's parts as `rlvr train` does and takes steps on demand (see Worker)."""
    import torch

    from rlvr.training.build import build
    from rlvr.training.step import train_step

    training = build(job.recipe, job.model_path)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    training.engine.syncer.sync()
    connection.send([])
    step = 0
    while (num_steps := connection.recv()) is not None:
        steps = []
        for _ in range(num_steps):
            start = time.perf_counter()
            result = train_step(training, step)
            seconds = time.perf_counter() - start
            steps.append(_step(seconds, result.metrics, result.rollouts.groups))
            step += 1
        connection.send(steps)
    training.close()


def _step(seconds: float, metrics: dict[str, float], groups: Sequence[Group]) -> Step:
    return Step(
        seconds,
        update_s=metrics["time/train_s"],
        generate_s=metrics["time/rollout_s"],
        verify_s=metrics["time/verify_s"],
        sync_s=metrics["time/sync_s"],
        response_lens=[len(r.token_ids) for group in groups for r in group.responses],
        num_tokens=sum(map(_num_tokens, groups)),
        num_trained=sum(_num_tokens(group) for group in groups if group.informative),
        padding_frac=metrics.get("train/padding_frac", 0.0),
        reward=statistics.fmean(reward for group in groups for reward in group.rewards),
    )


def _num_tokens(group: Group) -> int:
    """Prompt and response of every response."""
    return sum(len(group.prompt_ids) + len(r.token_ids) for r in group.responses)
