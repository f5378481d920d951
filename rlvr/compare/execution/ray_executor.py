"""Runs as tasks of an existing Ray cluster; a task whose worker is lost starts again elsewhere."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlvr.common.errors import ConfigError, first_line
from rlvr.compare.execution.execute import execute_logged
from rlvr.compare.execution.task import Executor, RunOutcome, RunTask, lost
from rlvr.config.compare import ExecutorConfig

if TYPE_CHECKING:
    from rich.console import Console


@contextlib.contextmanager
def open_ray(config: ExecutorConfig, folder: Path, _console: Console) -> Iterator[Executor]:
    """Connects to the cluster that RAY_ADDRESS names, or starts one on this machine.

    Every node must see the comparison's folder, the data and the model under the same paths: a run
    that starts again resumes from its last checkpoint. Raises: ConfigError without ray.
    """
    try:
        import ray
        from ray.exceptions import RayError
    except ImportError as error:
        raise ConfigError(
            "executor.kind = \"ray\": ray is not installed; pip install 'rlvr[ray]'"
        ) from error
    ours = not ray.is_initialized()  # a program that uses Ray itself keeps its cluster
    if ours:
        ray.init(log_to_driver=False, include_dashboard=False)
    remote = ray.remote(
        num_gpus=config.gpus_per_run, num_cpus=config.cpus, max_retries=config.max_retries
    )(_run)

    def run(tasks: Sequence[RunTask]) -> Iterator[RunOutcome]:
        place = str(folder.absolute())
        root = str(Path.cwd())
        # all of them at once: Ray starts each where there is room
        waiting = [remote.remote(json.dumps(task.to_json()), place, root) for task in tasks]
        for task, result in zip(tasks, waiting, strict=True):
            try:
                yield RunOutcome(**ray.get(result))
            except RayError as error:
                yield lost(task, f"Ray gave it up: {first_line(error)}")

    try:
        yield run
    finally:
        if ours:
            ray.shutdown()


def _run(text: str, folder: str, root: str) -> dict[str, Any]:
    """The body of a Ray task: one run in the worker's process, with an engine of its own.

    root: the folder that relative paths of the recipe start at.
    """
    import os

    from rlvr.common.environment import set_environment
    from rlvr.common.log import to_stderr
    from rlvr.compare.execution.warm_engine import WarmEngine

    os.chdir(root)
    set_environment()
    with contextlib.closing(WarmEngine()) as warm, to_stderr():
        return asdict(execute_logged(RunTask.from_json(json.loads(text)), warm, Path(folder)))
