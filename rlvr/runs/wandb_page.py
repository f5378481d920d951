"""The page of a run on W&B: metrics over the step, the rollouts of every step, the report."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlvr.common.errors import first_line
from rlvr.common.log import get_logger
from rlvr.runs.metrics import METRICS
from rlvr.runs.reader import read_metrics, read_rollouts, rollout_files

if TYPE_CHECKING:
    from rlvr.config.train import TrainRecipe

logger = get_logger(__name__)

COLUMNS = "step problem_id prompt response reward advantage reason response_len truncated".split()
"""Of the table of rollouts, before `extra`: the step's number and keys of rollouts/step_N."""
MAX_INCREMENTS = 90
"""Times that a run adds to the table: W&B's page shows the newest 100 increments of one."""


def start_wandb(
    recipe: TrainRecipe, run_dir: Path, run_id: str, resumed_step: int
) -> WandbPage | None:
    """The run's page, by track.wandb: online, else offline, else none, with a warning for each that
    failed; None where it is disabled."""
    mode = _wandb_mode(recipe.track.wandb)
    if mode == "disabled":
        return None
    os.environ.setdefault("WANDB_SILENT", "true")
    # W&B's own default is 90 s, for which a cluster without internet would wait at every start
    wait_s = float(os.environ.get("WANDB_INIT_TIMEOUT", "30"))
    for attempt in dict.fromkeys((mode, "offline")):
        try:
            import wandb

            run = wandb.init(
                project=recipe.track.project,
                name=run_dir.name,
                id=run_id if attempt == mode else f"{run_id}-offline",  # W&B holds a failed id
                resume="allow",
                mode=attempt,  # pyright: ignore[reportArgumentType]
                dir=run_dir,
                config=recipe.model_dump(mode="json"),
                # a run of its own beside others of this process: "shared" comparisons
                settings=wandb.Settings(init_timeout=wait_s, console="off", reinit="create_new"),
            )
            page = WandbPage(run, run_dir, recipe.train.steps, resumed_step)
            if attempt == "online":
                page.catch_up()
            return page
        except Exception as error:  # whatever W&B raises, the run continues
            reason = first_line(error)
            logger.warning(f"W&B {attempt} failed: {reason}; metrics.jsonl has every number")
    return None


class WandbPage:
    """A started run of W&B. num_steps: of the whole run. last_step: the last that was logged."""

    title = "W&B"
    takes_report = True

    def __init__(self, run: Any, run_dir: Path, num_steps: int, last_step: int) -> None:
        self._run, self._run_dir = run, run_dir
        self._table: Any = None
        # rounded up: rounded down, a run could add more often than MAX_INCREMENTS
        self._every = -(-num_steps // MAX_INCREMENTS)
        self._last_step = last_step
        # an offline run knows nothing of those before it: its table begins with all that is there
        self._shown_step = 0
        run.define_metric("step", hidden=True)
        for section in sorted({name.partition("/")[0] for name in METRICS}):
            run.define_metric(f"{section}/*", step_metric="step")

    def catch_up(self) -> None:
        """Sends the steps of metrics.jsonl that W&B lacks, as after an outage."""
        # W&B drops steps that come out of order, so only those beyond its last are sent
        self._last_step = self._shown_step = self._run.step - 1  # step: of the next log()
        for row in read_metrics(self._run_dir):
            if row["step"] > self._last_step:
                self.log(row["step"], {k: v for k, v in row.items() if k != "step"})

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """One step: its metrics, and its rollouts or those of several steps where there are many
        steps."""
        self._run.log({"step": step, **metrics}, step=step)
        self._last_step = step
        if step - self._shown_step >= self._every:
            self._show_rollouts()

    def _show_rollouts(self) -> None:
        """Adds the rollouts on disk that the table lacks."""
        import wandb

        files = rollout_files(self._run_dir)
        wanted = [n for n in files if self._shown_step < n <= self._last_step]
        rows = [table_row(n, rollout) for n in wanted for rollout in read_rollouts(files[n])]
        # before the attempt: rows that W&B did not take are not tried again at every step
        self._shown_step = self._last_step
        if not rows:
            return
        try:
            if self._table is None:
                # any other table is replaced by the next one under its name
                self._table = wandb.Table([*COLUMNS, "extra"], log_mode="INCREMENTAL")
            for row in rows:
                self._table.add_data(*row)
            with _staged_in(self._run_dir):
                self._run.log({"rollouts": self._table}, step=self._last_step)
        except OSError as error:
            logger.warning(f"W&B takes no rollouts: {error}; rollouts/ has them")

    def attach(self, path: Path) -> None:
        """Adds the file as an artifact of the run."""
        import wandb

        artifact = wandb.Artifact(f"report-{self._run.id}", type="report")
        with _staged_in(self._run_dir):
            artifact.add_file(str(path))
            self._run.log_artifact(artifact)

    def finish(self) -> None:
        """Sends what is left."""
        if self._last_step > self._shown_step:
            self._show_rollouts()
        self._run.finish()


@contextmanager
def _staged_in(run_dir: Path) -> Iterator[None]:
    """W&B keeps the files of artifacts, until they are synced, in the run folder instead of under
    the home folder, unless WANDB_DATA_DIR says where."""
    if os.environ.get("WANDB_DATA_DIR"):
        yield
        return
    os.environ["WANDB_DATA_DIR"] = str((run_dir / "wandb").absolute())
    try:
        yield
    finally:
        del os.environ["WANDB_DATA_DIR"]


def table_row(step: int, rollout: Mapping[str, Any]) -> list[Any]:
    """A row of the table of rollouts. extra: the values of [[reward.extra]], as JSON."""
    extra = rollout.get("extra")
    values = [rollout.get(name) for name in COLUMNS[1:]]
    return [step, *values, None if extra is None else json.dumps(extra)]


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
