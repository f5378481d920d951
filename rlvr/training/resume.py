"""Checkpoints of a run, and the way back from one."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from rlvr.common.errors import ConfigError
from rlvr.common.log import get_logger
from rlvr.common.signals import never_stop
from rlvr.config.toml import load_recipe
from rlvr.config.train import TrainRecipe
from rlvr.distributed.world import World
from rlvr.policy.reference import load_reference, save_reference
from rlvr.runs.checkpoint import (
    STATE_FOLDER,
    NotWrittenError,
    intact_checkpoints,
    list_checkpoints,
    load_checkpoint,
    prune_checkpoints,
    save_checkpoint,
)
from rlvr.runs.folder import Run, check_same_code
from rlvr.runs.manifest import check_same_start
from rlvr.training.build import StartEngine, Training, build
from rlvr.training.evaluate import forget_evaluations
from rlvr.training.preflight import check, check_reachable
from rlvr.training.stages import go_to, was_reset
from rlvr.training.teacher import check_same_teacher

logger = get_logger(__name__)

GRACE_S = 30.0
"""Between SIGTERM and SIGKILL, where torchrun launched the run and was not told otherwise."""
COLLECTION_GRACE_S = 10.0
"""What collections under way are given once a signal has come; a checkpoint is due within 20 s."""


def save(training: Training, run: Run) -> Path:
    """Writes a checkpoint of where the run stands; deletes those that are not kept.

    Raises: NotWrittenError.
    """
    start, run.saved_s = time.perf_counter(), run.seconds
    # all ranks take part, as each has a shard; rank 0 writes
    with training.policy.gathered(training.optimizer, only_main=True):
        path = training.world.on_main(partial(_write, training, run))
    text = short_grace(time.perf_counter() - start, training.recipe.train.checkpoint_minutes)
    if text is not None and training.world.is_main:
        logger.warning(text)
    return path


def short_grace(seconds: float, checkpoint_minutes: float) -> str | None:
    """What to say of a checkpoint that took so long: a launcher may kill the run before a signal's
    checkpoint is written. None where it is fast, or a timer bounds what is lost then."""
    if seconds <= GRACE_S or checkpoint_minutes:
        return None
    return (
        f"a checkpoint takes {seconds:.0f} s, and torchrun kills {GRACE_S:.0f} s after SIGTERM:"
        " give it more (TORCH_ELASTIC_SHUTDOWN_TIMEOUT, Slurm's --signal=TERM@600), or bound what"
        " is lost by train.checkpoint_minutes"
    )


def _write(training: Training, run: Run) -> Path:
    policy, algorithm = training.policy, training.recipe.algorithm
    state = {
        "sampler": (run.sampler_state or training.sampler.snapshot()).to_tree(),
        "entropy": training.entropy.state(),
        "run_id": run.run_id,
        "seconds": run.seconds,
        # the keys of older checkpoints, so that both can be resumed
        "unlogged": run.pending and {"step": run.next_step, **run.pending},
        "num_skipped": run.num_skipped,
        "stage": training.stage,
    }
    path = save_checkpoint(
        run.folder,
        run.next_step,
        policy,
        training.optimizer,
        state,
        save_more=partial(save_reference, policy, algorithm, was_reset=was_reset(training)),
    )
    # after the new one is there: a full disk costs the new checkpoint, never the old one
    prune_checkpoints(run.folder, training.recipe.train.keep_checkpoints)
    return path


def checkpoint_and_stop(training: Training, run: Run, say: Callable[[str], None]) -> None:
    """Writes a checkpoint of a run that ends early, and says how to continue it."""
    # Before an update it is that of the last logged step, whose state the sampler has left behind:
    # the step is collected again. After it, rollouts collected ahead are kept.
    if run.pending is not None:
        run.sampler_state = training.sampler.snapshot()
    if run.sampler_state is not None:
        run.sampler_state.wait(COLLECTION_GRACE_S)
    training.sampler.close()
    try:
        path = save(training, run)
    except NotWrittenError as error:
        say(f"stopped; {error}, then go on with: rlvr train --resume {run.folder}")
    else:
        say(f"stopped; continue with: rlvr train --resume {run.folder} ({path})")


def restore(
    folder: Path,
    start_engine: StartEngine | None,
    world: World = World.alone(),
    safe_point: Callable[[], None] = never_stop,
) -> tuple[Training, Run]:
    """The parts and the position of a run as its newest intact checkpoint has them, or at step 0
    where none was written yet. Raises: ConfigError."""
    recipe = load_recipe(folder / "config.toml", [], TrainRecipe)
    checkpoints = world.on_main(partial(intact_checkpoints, folder))
    if not checkpoints and list_checkpoints(folder):
        raise ConfigError(f"{folder}: has no usable checkpoint; delete the folder and start again")
    # the machine may be another one than the run began on
    check(recipe, world)
    check_reachable(recipe)
    facts = json.loads((folder / "manifest.json").read_text())
    check_same_code(recipe, facts.get("own_code", {}))
    check_same_start(recipe.adapter.start_from, facts.get("start_from"))
    check_same_teacher(recipe, facts.get("teacher"))
    # as the run began, also one from before unclosed thinking was looked at
    closed = bool(facts.get("require_closed_think"))
    reward = recipe.reward.model_copy(update={"require_closed_think": closed})
    recipe = recipe.model_copy(update={"reward": reward})
    training = build(
        recipe,
        facts["model"],
        start_engine,
        [facts["data"]["sha256"], *(one["data"]["sha256"] for one in facts.get("stages", ()))],
        world=world,
        safe_point=safe_point,
    )
    run = _load(checkpoints[-1], training) if checkpoints else Run(folder, facts["run_id"])
    world.on_main(partial(forget_evaluations, folder, run.next_step))
    return training, run


def _load(checkpoint: Path, training: Training) -> Run:
    """Loads the checkpoint into the parts; the run as it stood there."""
    state = load_checkpoint(checkpoint, training.policy, training.optimizer)
    if state.get("stage"):  # none in a run begun before there were stages
        go_to(training, state["stage"])
    reference = training.policy, training.recipe.algorithm, checkpoint / STATE_FOLDER
    load_reference(*reference, was_reset(training))
    training.sampler.load_state(state["sampler"])
    training.entropy.load_state(state["entropy"])
    pending = dict(state.get("unlogged") or {})  # the first checkpoints had no such keys
    pending.pop("step", None)
    return Run(
        checkpoint.parent.parent,
        state["run_id"],
        state["step"],
        state["seconds"],
        pending=pending or None,
        num_skipped=state.get("num_skipped", 0),
        saved_s=state["seconds"],
    )
