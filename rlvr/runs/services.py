"""Experiment trackers by name: W&B's page, and TensorBoard, Trackio and MLflow by accelerate."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rlvr.common.errors import ConfigError
from rlvr.common.log import get_logger
from rlvr.common.nested import flatten
from rlvr.config.toml import dump_toml
from rlvr.runs.wandb_page import start_wandb

if TYPE_CHECKING:
    from rlvr.config.train import TrainRecipe

logger = get_logger(__name__)


class Service(Protocol):
    """A tracker that has been started. takes_report: whether `attach` does anything."""

    title: str
    takes_report: bool

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """One step's metrics."""
        ...

    def attach(self, path: Path) -> None:
        """Keeps a file beside the metrics."""
        ...

    def finish(self) -> None:
        """Sends what is left, and ends."""
        ...


class AccelerateService:
    """One of accelerate's trackers, started. name_of: a metric's name as the tracker takes it."""

    def __init__(
        self, title: str, tracker: Any, name_of: Callable[[str], str] = lambda name: name
    ) -> None:
        import torch
        from accelerate import PartialState

        PartialState(cpu=not torch.cuda.is_available())  # accelerate's messages ask for it
        self.title, self._tracker, self._name_of = title, tracker, name_of
        self.takes_report = hasattr(tracker, "log_artifact")
        tracker.main_process_only = False  # only our rank 0 has one
        tracker.start()

    def store(self, config: Mapping[str, Any]) -> None:
        """Keeps settings, by section.key."""
        self._tracker.store_init_configuration(config)

    def log(self, step: int, metrics: Mapping[str, float | str]) -> None:
        """One step's values; a text where the tracker has room for it."""
        named = {self._name_of(name): value for name, value in metrics.items()}
        self._tracker.log(named, step=step)

    def attach(self, path: Path) -> None:
        """Keeps the file as an artifact of the run."""
        if self.takes_report:
            self._tracker.log_artifact(str(path))

    def finish(self) -> None:
        """Ends the run."""
        self._tracker.finish()


def _tensorboard(recipe: TrainRecipe, run_dir: Path, _run_id: str, step: int) -> Service:
    """Event files in RUN/tensorboard. A resumed run writes another one, and TensorBoard forgets the
    steps that are done again."""
    from accelerate.tracking import TensorBoardTracker

    # TensorBoard hides events from purge_step on; `step` is the last that stays
    tracker = TensorBoardTracker("tensorboard", run_dir, purge_step=step + 1)
    service = AccelerateService("TensorBoard", tracker)
    # hyperparameters would be a run of their own in TensorBoard's list, with every resume one more
    service.log(step, {"recipe": f"```toml\n{dump_toml(recipe)}```"})
    return service


def _trackio(recipe: TrainRecipe, run_dir: Path, run_id: str, _step: int) -> Service:
    """A run of Trackio's local database, or of TRACKIO_SPACE_ID. Trackio knows runs by name: the
    folder's with the run's id. Steps that are done again are there twice."""
    from accelerate.tracking import TrackioTracker

    tracker = TrackioTracker(
        recipe.track.project,
        name=f"{run_dir.name}-{run_id}",
        resume="allow",
        config=recipe.model_dump(mode="json"),
        # else Trackio shows its dashboard inside a notebook
        embed=False,
    )
    return AccelerateService("Trackio", tracker)


RUN_ID_TAG = "rlvr_run_id"
"""The tag by which a resumed run is found in MLflow, which gives runs ids of its own."""


def _mlflow(recipe: TrainRecipe, run_dir: Path, run_id: str, _step: int) -> Service:
    """A run of MLFLOW_TRACKING_URI, else of MLflow's default place. Steps that are done again are
    there twice."""
    import mlflow  # pyright: ignore[reportMissingImports]
    from accelerate.tracking import MLflowTracker

    found = mlflow.search_runs(
        filter_string=f"tags.{RUN_ID_TAG} = '{run_id}'",
        # in accelerate's tracker MLFLOW_EXPERIMENT_NAME goes before track.project
        search_all_experiments=True,
        # the default is a table of pandas
        output_format="list",
    )
    mine = found[0].info.run_id if found else None
    tracker = MLflowTracker(recipe.track.project, run_name=run_dir.name, run_id=mine)
    service = AccelerateService("MLflow", tracker, _mlflow_name)
    # a resumed run has both; MLflow lets no parameter change
    if mine is None:
        mlflow.set_tag(RUN_ID_TAG, run_id)
        service.store(flatten(recipe.model_dump(mode="json")))
    return service


def _mlflow_name(name: str) -> str:
    """pass_at_k for pass@k: MLflow refuses other characters than these."""
    return re.sub(r"[^\w\-. :/]", "_", name.replace("@", "_at_"))


SERVICES: dict[str, Callable[[TrainRecipe, Path, str, int], Service | None]] = {
    "wandb": start_wandb,
    "tensorboard": _tensorboard,
    "trackio": _trackio,
    "mlflow": _mlflow,
}
"""By the names of track.to, which are those of the packages: what starts each for (recipe, run
folder, run id, steps already done)."""


def check_trackers(recipe: TrainRecipe) -> None:
    """Raises: ConfigError for a tracker whose package is not installed."""
    for name in recipe.track.to:
        if name == "wandb" and recipe.track.wandb == "disabled":
            continue
        if importlib.util.find_spec(name) is None:
            raise ConfigError(
                f'track.to names "{name}": it is not installed; pip install {name}'
                " (\"pip install 'rlvr[trackers]'\" for all of them), or leave it out"
            )


def start_services(
    recipe: TrainRecipe, run_dir: Path, run_id: str, resumed_step: int
) -> list[Service]:
    """The trackers of track.to that start; says which do not, and why."""
    started = []
    for name in dict.fromkeys(recipe.track.to):
        try:
            service = SERVICES[name](recipe, run_dir, run_id, resumed_step)
        except Exception as error:  # a server that does not answer raises anything
            logger.warning(f"track.to: {name} failed: {error}; metrics.jsonl has every number")
            continue
        if service is not None:
            started.append(service)
    return started
