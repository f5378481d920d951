"""Where a run's numbers go: metrics.jsonl, rollouts/, trace/, and W&B when it works.

A disk that cannot take them never stops a run: lines wait for room, with a warning.
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlvr.common.files import write_whole
from rlvr.common.log import get_logger
from rlvr.runs.metrics import is_known
from rlvr.runs.reader import read_metrics

if TYPE_CHECKING:
    from rlvr.config.train import TrainRecipe

logger = get_logger(__name__)


class Tracker:
    """Appends every step to metrics.jsonl first, then to W&B. A W&B failure never stops a run."""

    def __init__(self, recipe: TrainRecipe, run_dir: Path, run_id: str, resumed_step: int) -> None:
        self._path = run_dir / "metrics.jsonl"
        self._forget_after(resumed_step)
        # unbuffered: a killed run keeps every step that was logged
        self._file = self._path.open("ab", buffering=0)
        self._size = self._path.stat().st_size
        self._waiting: dict[int, bytes] = {}
        self._wandb: Any = None
        mode = _wandb_mode(recipe.track.wandb)
        if mode != "disabled":
            self._start_wandb(recipe, run_dir, run_id, mode)

    def _forget_after(self, step: int) -> None:
        """Drops the lines of steps that a resumed run does again, and half-written ones."""
        if self._path.exists():
            kept = [row for row in read_metrics(self._path.parent) if row["step"] <= step]
            write_whole(self._path, "".join(json.dumps(row) + "\n" for row in kept))

    def _start_wandb(self, recipe: TrainRecipe, run_dir: Path, run_id: str, mode: str) -> None:
        """Starts W&B in `mode`, else offline, else not at all with a warning."""
        os.environ.setdefault("WANDB_SILENT", "true")
        # W&B's own default is 90 s, for which a cluster without internet would wait at every start
        wait_s = float(os.environ.get("WANDB_INIT_TIMEOUT", "30"))
        for attempt in dict.fromkeys((mode, "offline")):
            try:
                import wandb

                self._wandb = wandb.init(
                    project=recipe.track.project,
                    name=run_dir.name,
                    id=run_id if attempt == mode else f"{run_id}-offline",  # W&B holds a failed id
                    resume="allow",
                    mode=attempt,  # pyright: ignore[reportArgumentType]
                    dir=run_dir,
                    config=recipe.model_dump(mode="json"),
                    # a run of its own beside others of this process: "shared" comparisons
                    settings=wandb.Settings(
                        init_timeout=wait_s, console="off", reinit="create_new"
                    ),
                )
                if attempt == "online":
                    self._catch_up()
                return
            except Exception as error:  # whatever W&B raises, the run continues
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                logger.warning(f"W&B {attempt} failed: {reason}; metrics.jsonl has every number")

    def _catch_up(self) -> None:
        """Sends W&B the steps of metrics.jsonl that it lacks, as after an outage."""
        # W&B drops steps that come out of order, so only those beyond its last are sent
        next_step = self._wandb.step
        for row in read_metrics(self._path.parent):
            if row["step"] >= next_step:
                self._wandb.log({k: v for k, v in row.items() if k != "step"}, step=row["step"])

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Writes one step. Names are those of METRICS and EVAL_METRICS."""
        unknown = [name for name in metrics if not is_known(name)]
        assert not unknown, f"{unknown}: not in METRICS"
        self._waiting[step] = (json.dumps({"step": step, **metrics}) + "\n").encode()
        self._append()
        if self._wandb is not None:
            try:
                self._wandb.log(metrics, step=step)
            except Exception as error:
                logger.warning(f"W&B stopped: {error}; metrics.jsonl goes on")
                self._wandb = None

    def _append(self) -> None:
        """Writes the waiting lines: all of them, or none with a warning."""
        lines = b"".join(self._waiting.values())
        try:
            while lines:
                lines = lines[self._file.write(lines) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            # a line cut by a full disk would join the next one, and both were lost
            if self._path.stat().st_size > self._size:
                os.ftruncate(self._file.fileno(), self._size)
            first = min(self._waiting)
            logger.warning(f"{self._path} lacks steps from {first} on: {error}; make room")
        else:
            self._size += sum(map(len, self._waiting.values()))
            self._waiting.clear()

    def close(self) -> None:
        """Finishes the files and W&B."""
        if self._waiting:
            self._append()
        self._file.close()
        if self._wandb is not None:
            try:
                self._wandb.finish()
            except Exception as error:
                logger.warning(f"W&B did not finish: {error}")


def write_rollouts(run_dir: Path, step: int, rollouts: Sequence[dict[str, Any]]) -> None:
    """rollouts/step_N.jsonl.gz: prompt, response, reward, advantage, reason of each."""
    path = run_dir / "rollouts" / f"step_{step}.jsonl.gz"
    text = "".join(json.dumps(rollout) + "\n" for rollout in rollouts)
    try:
        path.parent.mkdir(exist_ok=True)
        # mtime=0: the files of a resumed run equal those of an undisturbed one
        write_whole(path, gzip.compress(text.encode(), mtime=0))
    except OSError as error:
        logger.warning(f"{path} is missing: {error}")


def write_trace(run_dir: Path, step: int, trace: dict[str, Any]) -> None:
    """trace/step_N.json: when the step's responses began and ended. Only of some steps."""
    if not is_traced(step):
        return
    path = run_dir / "trace" / f"step_{step}.json"
    try:
        path.parent.mkdir(exist_ok=True)
        write_whole(path, json.dumps(trace, separators=(",", ":")))
    except OSError as error:
        logger.warning(f"{path} is missing: {error}")


def is_traced(step: int) -> bool:
    """Whether a trace of the step is kept: of 1 to 9, 10, 20, ... 90, 100, 200, ..., so that there
    are nine for every power of ten."""
    return step > 0 and not str(step)[1:].strip("0")


def _wandb_mode(wanted: str) -> str:
    """auto: online with an API key, offline otherwise."""
    if wanted != "auto":
        return wanted
    if os.environ.get("WANDB_MODE"):
        return os.environ["WANDB_MODE"]
    return "online" if has_api_key() else "offline"


def has_api_key() -> bool:
    """Whether W&B has an API key, in the environment or in netrc."""
    netrc = Path.home() / ".netrc"
    known = netrc.is_file() and "api.wandb.ai" in netrc.read_text(errors="replace")
    return bool(os.environ.get("WANDB_API_KEY")) or known
