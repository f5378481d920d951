"""How a run outlives what breaks: another engine, a checkpoint of where it stands, the way back."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from rlvr.common.errors import ConfigError
from rlvr.config.toml import load_recipe
from rlvr.config.train import TrainRecipe
from rlvr.distributed import ranks, sharding
from rlvr.engines.engine import EngineLost, refusal
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
from rlvr.runs.folder import Run
from rlvr.training.build import StartEngine, build
from rlvr.training.evaluate import forget_evaluations
from rlvr.training.preflight import check, check_reachable

if TYPE_CHECKING:
    from rlvr.training.build import Session

MAX_RESTARTS = 3
"""Engines started one after another for the same work before the run stops."""

R = TypeVar("R")


def with_engine(session: Session, work: Callable[[], R]) -> R:
    """What `work` gives. When the engine dies in it, another one is started, gets the weights, is
    checked, and `work` is done again.

    One rank of several starts none: the end of vLLM in a process is that of its process group.
    Raises: EngineLost after MAX_RESTARTS engines; SyncError when one serves other weights.
    """
    if ranks.size() > 1:
        return work()
    reason: EngineLost | None = None
    for _ in range(1 + MAX_RESTARTS):
        try:
            if reason is not None:
                print(f"the engine died: {reason}; starting another", file=sys.stderr)
                session.restart_engine()
            return work()
        except EngineLost as error:
            reason = error
    raise EngineLost(f"the engine died {1 + MAX_RESTARTS} times in a row: {reason}") from reason


def first_sync(session: Session) -> None:
    """Gives the engine the policy's weights for the first time.

    An engine that fails at that would fail so again, and no run that is resumed gets further: no
    other one is started. Raises: ConfigError with its reason; SyncError.
    """
    try:
        session.syncer.sync()
    except EngineLost as error:
        recipe, mode = session.recipe, session.syncer.mode
        raise refusal(str(error), recipe.rollout.engine, mode) from error


def save(session: Session, run: Run) -> Path:
    """Writes a checkpoint of where the run stands; deletes those that are not kept.

    Raises: NotWrittenError.
    """
    state = {
        "sampler": run.boundary,
        "entropy": session.entropy.state(),
        "run_id": run.run_id,
        "seconds": run.seconds,
        "unlogged": run.unlogged,
        "num_skipped": run.num_skipped,
    }
    policy, optimizer = session.policy, session.optimizer

    def write() -> Path:
        path = save_checkpoint(
            run.folder,
            run.next_step,
            policy,
            optimizer,
            state,
            save_more=lambda inner: save_reference(policy, session.recipe.algorithm, inner),
        )
        prune_checkpoints(run.folder, session.recipe.train.keep_checkpoints)
        return path

    with sharding.gathered(policy, optimizer, only_main=True):
        return ranks.from_main(write)


def leave(session: Session, run: Run, say: Callable[[str], None]) -> None:
    """A checkpoint of a run that ends early, and what continues it."""
    if run.unlogged is not None:  # the policy has moved since the boundary
        run.next_step, run.boundary = run.unlogged["step"], session.sampler.state()
    try:
        path = save(session, run)
    except NotWrittenError as error:
        say(f"stopped; {error}, then go on with: rlvr train --resume {run.folder}")
    else:
        say(f"stopped; continue with: rlvr train --resume {run.folder} ({path})")


def restore(folder: Path, start_engine: StartEngine | None) -> tuple[Session, Run]:
    """The session and the run as the newest intact checkpoint has them, or at step 0 where none was
    written yet. Raises: ConfigError."""
    recipe = load_recipe(folder / "config.toml", [], TrainRecipe)
    checkpoints = ranks.from_main(lambda: intact_checkpoints(folder))
    if not checkpoints and list_checkpoints(folder):
        raise ConfigError(f"{folder}: has no usable checkpoint; delete the folder and start again")
    check(recipe)
    check_reachable(recipe)
    facts = json.loads((folder / "manifest.json").read_text())
    session = build(recipe, facts["model"], start_engine, facts["data"]["sha256"])
    run = _load(checkpoints[-1], session) if checkpoints else Run(folder, facts["run_id"])
    ranks.from_main(lambda: forget_evaluations(folder, run.next_step))
    return session, run


def _load(checkpoint: Path, session: Session) -> Run:
    """Puts the session where the checkpoint is; the run that was there."""
    state = load_checkpoint(checkpoint, session.policy, session.optimizer)
    load_reference(session.policy, session.recipe.algorithm, checkpoint / STATE_FOLDER)
    session.sampler.load_state(state["sampler"])
    session.entropy.load_state(state["entropy"])
    return Run(
        checkpoint.parent.parent,
        state["run_id"],
        state["step"],
        state["seconds"],
        unlogged=state.get("unlogged"),
        num_skipped=state.get("num_skipped", 0),
    )
