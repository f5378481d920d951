"""Where a run's numbers go: metrics.jsonl, rollouts/, and W&B when it works."""

from __future__ import annotations

import gzip
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlvr.metrics import is_known

if TYPE_CHECKING:
    from rlvr.config import TrainRecipe


class Tracker:
    """Appends every step to metrics.jsonl first, then to W&B. A W&B failure never stops a run."""

    def __init__(self, recipe: TrainRecipe, run_dir: Path, run_id: str, resumed_step: int) -> None:
        self._path = run_dir / "metrics.jsonl"
        self._forget_after(resumed_step)
        self._file = self._path.open("a", encoding="utf-8")
        self._wandb: Any = None
        mode = _wandb_mode(recipe.track.wandb)
        if mode != "disabled":
            self._start_wandb(recipe, run_dir, run_id, mode)

    def _forget_after(self, step: int) -> None:
        """Drops the lines of steps that a resumed run does again."""
        if self._path.exists():
            rows = [json.loads(line) for line in self._path.read_text().splitlines()]
            kept = [row for row in rows if row["step"] <= step]
            self._path.write_text("".join(json.dumps(row) + "\n" for row in kept))

    def _start_wandb(self, recipe: TrainRecipe, run_dir: Path, run_id: str, mode: str) -> None:
        """In `mode`, else offline, else not at all: a person is told, the run goes on."""
        os.environ.setdefault("WANDB_SILENT", "true")
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
                    settings=wandb.Settings(init_timeout=30, console="off"),
                )
                return
            except Exception as error:  # whatever W&B does, the run goes on
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                print(
                    f"W&B {attempt} failed: {reason}; metrics.jsonl has every number",
                    file=sys.stderr,
                )

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Writes one step. Names are those of METRICS and EVAL_METRICS."""
        unknown = [name for name in metrics if not is_known(name)]
        assert not unknown, f"{unknown}: not in METRICS"
        self._file.write(json.dumps({"step": step, **metrics}) + "\n")
        self._file.flush()
        if self._wandb is not None:
            try:
                self._wandb.log(metrics, step=step)
            except Exception as error:
                print(f"W&B stopped: {error}; metrics.jsonl goes on", file=sys.stderr)
                self._wandb = None

    def close(self) -> None:
        """Finishes the files and W&B."""
        self._file.close()
        if self._wandb is not None:
            try:
                self._wandb.finish()
            except Exception as error:
                print(f"W&B did not finish: {error}", file=sys.stderr)


def write_rollouts(run_dir: Path, step: int, rollouts: Sequence[dict[str, Any]]) -> None:
    """rollouts/step_N.jsonl.gz: prompt, response, reward, advantage, reason of each."""
    folder = run_dir / "rollouts"
    folder.mkdir(exist_ok=True)
    with gzip.open(folder / f"step_{step}.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(rollout) + "\n" for rollout in rollouts)


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
