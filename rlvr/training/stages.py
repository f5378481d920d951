"""The stages of a run: what changes where one begins, at a step boundary."""

from __future__ import annotations

from rlvr.common.log import get_logger
from rlvr.data.problems import Dataset
from rlvr.engines.restarting import RestartingEngine
from rlvr.runs.folder import Run
from rlvr.sampling.sampler import Sampler
from rlvr.training.build import Training, make_sampler

logger = get_logger(__name__)


def begin_due(training: Training, run: Run) -> None:
    """Begins the stage that is due after the run's finished steps, if one is.

    Nothing is collected ahead over the boundary. Groups left over and responses cut off belong to
    the settings before: they are dropped.
    """
    number = training.stage + 1
    if number == len(training.stages) or training.stages[number].at_step != run.next_step:
        return
    training.sampler.drain()
    go_to(training, number)
    stage = training.stages[number]
    if stage.reset_reference:
        training.policy.reset_reference()
    if stage.reset_optimizer:
        method, policy = training.policy.method, training.policy
        training.optimizer = method.optimizer(policy.model, policy.adapter, training.recipe.optim)
    # a checkpoint from here on belongs to this stage
    run.sampler_state = training.sampler.snapshot()
    if training.world.is_main:
        logger.info(f"stage {number} of {len(training.stages) - 1} begins at step {run.next_step}")


def go_to(training: Training, number: int) -> None:
    """Puts the stage's recipe, problems and sampler in place; weights and optimizer stay. The order
    of problems goes on where they are the same."""
    old, stage, later = training.sampler, training.stages[number], training.stages[number + 1 :]
    # without an engine there are no stages: a rule refuses them
    assert isinstance(old, Sampler)
    assert isinstance(training.engine, RestartingEngine)
    new = make_sampler(
        stage.recipe,
        stage.data.problems,
        stage.prompts,
        training.engine,
        training.verifier,
        training.policy.decode,
        extra=training.extra,
        world=training.world,
        safe_point=training.safe_point,
        end=later[0].at_step if later else None,
    )
    if _problems(training.data) == _problems(stage.data):
        new.load_state(old.state() | {"surplus": [], "paused": [], "ahead": []})
    new.weight_metrics = old.weight_metrics
    old.close()
    training.recipe, training.data, training.stage = stage.recipe, stage.data, number
    training.sampler = new


def _problems(data: Dataset) -> list[tuple[str, str]]:
    return [(problem.id, problem.answer) for problem in data.problems]


def was_reset(training: Training) -> bool:
    """Whether a stage so far has made a later policy the reference."""
    return any(stage.reset_reference for stage in training.stages[: training.stage + 1])
