"""Runs as a Slurm job array: one task per line of a file, `sbatch --wait`, outcomes from disk."""

from __future__ import annotations

import contextlib
import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rlvr.common.errors import ConfigError, RunError
from rlvr.compare.execution.task import Executor, RunOutcome, RunTask, lost, read_outcome
from rlvr.config.compare import ExecutorConfig

if TYPE_CHECKING:
    from rich.console import Console


@contextlib.contextmanager
def open_slurm(config: ExecutorConfig, folder: Path, _console: Console) -> Iterator[Executor]:
    """Job arrays of this Slurm cluster."""
    yield lambda tasks: submit(tasks, config, folder)


def submit(tasks: Sequence[RunTask], config: ExecutorConfig, folder: Path) -> list[RunOutcome]:
    """Submits the tasks as one array, waits for it, and reads what each left.

    Nodes must see the comparison's folder, data and model under the same paths. Interrupting this
    command leaves the array running; starting it again later takes what has finished.
    Raises: ConfigError without sbatch; RunError when it refuses the job.
    """
    if shutil.which("sbatch") is None:
        raise ConfigError('executor.kind = "slurm": no sbatch on PATH; run it on a login node')
    script = write_job(tasks, config, folder)
    done = subprocess.run(
        ["sbatch", "--wait", str(script)], capture_output=True, text=True, check=False
    )
    outcomes = [read_outcome(task) for task in tasks]
    # sbatch --wait also exits non-zero when one task of the array failed
    if done.returncode != 0 and not any(outcomes):
        reason = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[0]
        raise RunError(f"sbatch {script} ended with code {done.returncode}: {reason}")
    return [
        outcome or lost(task, f"its job left no outcome; see {folder}/logs")
        for task, outcome in zip(tasks, outcomes, strict=True)
    ]


def write_job(tasks: Sequence[RunTask], config: ExecutorConfig, folder: Path) -> Path:
    """Writes jobs/N.jsonl and the batch script jobs/N.sh that runs its lines; the script's path."""
    jobs = folder / "jobs"
    jobs.mkdir(parents=True, exist_ok=True)
    (folder / "logs").mkdir(exist_ok=True)
    number = len(list(jobs.glob("*.sh")))  # an array that still runs reads its own file
    lines = jobs.absolute() / f"{number}.jsonl"
    lines.write_text("".join(json.dumps(task.to_json()) + "\n" for task in tasks))
    last = len(tasks) - 1
    limit = f"%{config.parallel}" if config.parallel > 1 else ""
    options = [
        f"--job-name=rlvr-{folder.name}",
        f"--array=0-{last}{limit}",
        "--nodes=1",
        "--ntasks=1",  # sbatch wants a number of tasks beside --gpus-per-task
        f"--cpus-per-task={config.cpus}",
        f"--output={folder.absolute()}/logs/slurm-%A_%a.log",
        *([f"--gpus-per-task={config.gpus_per_run:g}"] if config.gpus_per_run else []),
        *config.sbatch_options,
    ]
    command = [
        sys.executable,
        "-m",
        "rlvr.compare.execution.worker",
        str(folder.absolute()),
        str(lines),
    ]
    script = jobs / f"{number}.sh"
    script.write_text(
        "#!/bin/bash\n"
        + "".join(f"#SBATCH {option}\n" for option in options)
        # relative paths of the recipe start at this folder
        + f"cd {shlex.quote(str(Path.cwd()))}\n"
        + f'exec {shlex.join(command)} "$SLURM_ARRAY_TASK_ID"\n'
    )
    return script
