"""The loop: collect, update, sync, log, evaluate, checkpoint."""

from __future__ import annotations

import json
import resource
import secrets
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console

from rewards import Verifier
from rlvr.batch import StepBatch, make_batch
from rlvr.checkpoint import (
    STATE_FOLDER,
    NotWrittenError,
    intact_checkpoints,
    list_checkpoints,
    load_checkpoint,
    prune_checkpoints,
    save_checkpoint,
)
from rlvr.config import TrainRecipe
from rlvr.contamination import check_training_data
from rlvr.display import Display
from rlvr.evaluate import evaluate_step, forget_evaluations, is_best
from rlvr.manifest import finish_manifest, manifest
from rlvr.recipe import ConfigError, RunError, load_recipe
from rlvr.recover import with_engine
from rlvr.reference import follow, load_reference, save_reference
from rlvr.rollout.sync import SyncError
from rlvr.run_folder import check_same_recipe, held, make_folder, new_run_folder
from rlvr.schedule import lr_at
from rlvr.session import Session, StartEngine, build, check
from rlvr.skipped import check_streak, save_batch
from rlvr.stop import Stopped, StopRequest
from rlvr.summary import finish
from rlvr.track import Tracker, write_rollouts
from rlvr.update import update

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rlvr.finetune_config import FinetuneRecipe


MAX_VERIFIER_FAILURES = 0.01
"""Fraction of a step's verdicts above which timeouts and dead workers are an alarm."""


@dataclass
class Run:
    """A run folder and where it stands. next_step: steps finished so far.

    boundary: the sampler's state between the last two steps. unlogged: metrics of a step that has
    trained but is not closed, with its number as "step". num_skipped: steps in a row, up to now,
    whose loss or gradient was not finite.
    """

    folder: Path
    run_id: str
    next_step: int = 0
    seconds: float = 0.0
    boundary: dict[str, Any] = field(default_factory=dict)
    unlogged: dict[str, Any] | None = None
    num_skipped: int = 0


End = Callable[[int, dict[str, float]], bool]
"""Asked after every step with (steps finished, its metrics): whether the run ends there."""


def train(
    recipe: TrainRecipe,
    recipe_path: Path,
    console: Console,
    start_engine: StartEngine | None = None,
    end: End | None = None,
) -> Path:
    """Trains from step 0 in a new run folder and returns it. Raises: ConfigError, Stopped.

    end: ends the run before train.steps; it is evaluated there and can be resumed.
    """
    check(recipe)
    folder = new_run_folder(recipe, recipe_path)
    session = build(recipe, model_path(recipe, recipe_path, console), start_engine)
    run = Run(folder, run_id=secrets.token_hex(4))
    facts = manifest(
        recipe,
        session.policy,
        session.optimizer,
        session.data,
        session.engine.name,
        session.syncer.mode,
    )
    evaluated = [one.loaded for one in session.evals]
    facts["contamination"] = check_training_data(recipe, session.data.problems, evaluated)
    facts["run_id"] = run.run_id
    make_folder(folder, recipe, facts)
    with held(folder):
        return _drive(session, run, console, end)


def resume(
    folder: Path,
    console: Console,
    start_engine: StartEngine | None = None,
    end: End | None = None,
    same_as: TrainRecipe | None = None,
) -> Path:
    """Continues the run in `folder` from its newest checkpoint, or from the start where none was
    written yet. same_as: a recipe that must be the run's own. Raises: ConfigError, Stopped."""
    if not (folder / "config.toml").is_file():
        raise ConfigError(f"{folder}: not a run folder (no config.toml); give the folder of a run")
    if same_as is not None:
        check_same_recipe(folder, same_as)
    with held(folder):
        session, run = _restored(folder, start_engine)
        return _drive(session, run, console, end)


def _restored(folder: Path, start_engine: StartEngine | None) -> tuple[Session, Run]:
    """The session and the run as the newest intact checkpoint has them. Raises: ConfigError."""
    recipe = load_recipe(folder / "config.toml", [], TrainRecipe)
    if recipe.adapter.emulate_inplace_merge:
        raise ConfigError(
            f"{folder}: adapter.emulate_inplace_merge has moved its base, and checkpoints do not"
            " hold that; start the run again"
        )
    checkpoints = intact_checkpoints(folder)
    if not checkpoints and list_checkpoints(folder):
        raise ConfigError(f"{folder}: has no usable checkpoint; delete the folder and start again")
    check(recipe)
    facts = json.loads((folder / "manifest.json").read_text())
    session = build(recipe, facts["model"], start_engine, facts["data"]["sha256"])
    if not checkpoints:
        return session, Run(folder, facts["run_id"])
    state = load_checkpoint(checkpoints[-1], session.policy, session.optimizer)
    load_reference(session.policy, recipe.algorithm, checkpoints[-1] / STATE_FOLDER)
    session.sampler.load_state(state["sampler"])
    session.entropy.load_state(state["entropy"])
    forget_evaluations(folder, state["step"])
    run = Run(folder, state["run_id"], state["step"], state["seconds"])
    run.unlogged, run.num_skipped = state.get("unlogged"), state.get("num_skipped", 0)
    return session, run


def _drive(session: Session, run: Run, console: Console, end: End | None = None) -> Path:
    """The loop, with files, signals and the end around it."""
    recipe = session.recipe
    tracker = Tracker(recipe, run.folder, run.run_id, run.next_step)
    start = time.perf_counter() - run.seconds
    try:
        with StopRequest() as stop, Display(console, recipe.train.steps, run.next_step) as display:
            try:
                _steps(session, run, Loop(tracker, display, stop.check, end, start))
            except (Stopped, RunError) as error:
                run.seconds = time.perf_counter() - start
                if not isinstance(error, SyncError):  # then nobody knows which weights are right
                    _leave(session, run, display.say)
                raise
        run.seconds = time.perf_counter() - start
        num_bytes = session.syncer.num_bytes
        finish_manifest(run.folder / "manifest.json", session.policy, recipe.model, num_bytes)
        finish(session, run.folder, run.next_step, run.seconds, console)
        return run.folder
    finally:
        tracker.close()
        session.close()


@dataclass(frozen=True)
class Loop:
    """What the loop reports to, and asks after every step. start: perf_counter at the run's 0 s."""

    tracker: Tracker
    display: Display
    safe_point: Callable[[], None]
    end: End | None
    start: float


def _steps(session: Session, run: Run, loop: Loop) -> None:
    """Steps until the recipe or `end` says so. Raises: Stopped, RunError."""
    num_steps = session.recipe.train.steps
    run.boundary = session.sampler.state()
    with_engine(session, session.syncer.sync)
    if run.next_step == 0:
        _evaluate(session, run, loop)
    ended = False
    while not ended and (run.unlogged is not None or run.next_step < num_steps):
        if run.unlogged is None:
            run.boundary = session.sampler.state()
            metrics = one_step(session, run, loop.safe_point)
            run.next_step += 1
            run.unlogged = {**metrics, "step": run.next_step}
        ended = _close_step(session, run, loop)


def _close_step(session: Session, run: Run, loop: Loop) -> bool:
    """Evaluates, logs and saves what the step has trained; whether it was the last."""
    recipe, step = session.recipe, run.next_step
    metrics = {name: value for name, value in (run.unlogged or {}).items() if name != "step"}
    run.seconds = time.perf_counter() - loop.start
    ended = loop.end is not None and loop.end(step, metrics)
    last = ended or step == recipe.train.steps
    if last or _is_due(recipe.eval.every, step):
        metrics |= _evaluate(session, run, loop)
    loop.tracker.log(step, metrics)
    loop.display.step(step, metrics)
    run.unlogged = None
    run.num_skipped = run.num_skipped + 1 if metrics["optim/skipped"] else 0
    run.boundary = session.sampler.state()
    if last or _is_due(recipe.train.checkpoint_every, step) or is_best(run.folder, step):
        try:
            _save(session, run, run.boundary)
        except NotWrittenError as error:
            if last:
                raise
            loop.display.say(f"{error}; training goes on")
    check_streak(run.num_skipped)
    return last


def _evaluate(session: Session, run: Run, loop: Loop) -> dict[str, float]:
    return with_engine(
        session,
        lambda: evaluate_step(
            session, run.folder, run.next_step, loop.display.say, loop.safe_point
        ),
    )


def _leave(session: Session, run: Run, say: Callable[[str], None]) -> None:
    """A checkpoint of where the run stands, before it ends early."""
    state = run.boundary
    if run.unlogged is not None:  # the policy has moved since
        run.next_step, state = run.unlogged["step"], session.sampler.state()
    try:
        path = _save(session, run, state)
    except NotWrittenError as error:
        say(f"stopped; {error}, then go on with: rlvr train --resume {run.folder}")
    else:
        say(f"stopped; continue with: rlvr train --resume {run.folder} ({path})")


def one_step(session: Session, run: Run, safe_point: Callable[[], None]) -> dict[str, float]:
    """One step of the algorithm and its metrics.

    Source: the loop of GRPO, 2402.03300 algorithm 1, with DAPO's dynamic sampling, 2503.14476.
    `ahead` does something in async mode only.
    """
    recipe, step = session.recipe, run.next_step
    lr = lr_at(step, recipe.optim, recipe.train.steps)
    for group in session.optimizer.param_groups:
        group["lr"] = lr * group.get("lr_ratio", 1.0)
    with _timed() as step_s:
        sampler, before = session.sampler, session.sampler.state()
        collected = with_engine(
            session,
            lambda: sampler.collect(step, session.engine, session.verifier, safe_point),
            undo=lambda: sampler.load_state(before),
        )
        ahead = session.sampler.ahead(step + 1, session.engine, session.verifier)
        with ahead as wait_s, _timed() as train_s:
            batch = make_batch(collected.groups, session.policy, recipe)
            stats = update(
                session.policy, session.optimizer, batch, recipe, step, session.entropy, safe_point
            )
            follow(session.policy, recipe.algorithm, step + 1)
            run.unlogged = {**collected.metrics, **stats, "step": step + 1}
        with _timed() as sync_s:
            synced = with_engine(session, session.syncer.sync)
    write_rollouts(run.folder, step + 1, _sample_rollouts(session, batch))
    if stats["optim/skipped"]:
        save_batch(run.folder, step + 1, batch)
    own = {
        "optim/lr": lr,
        "time/train_s": train_s[0],
        "time/wait_s": wait_s[0],
        "time/sync_s": sync_s[0],
        "time/step_s": step_s[0],
        "train/tokens_per_s": stats.pop("train/tokens", 0.0) / train_s[0],
        "memory/peak_gib": _peak_gib(),
        "sync/bytes": float(synced.num_bytes),
        "sync/logprob_error": synced.logprob_error,
    }
    return own | stats | _verifier_metrics(session.verifier) | collected.metrics


@contextmanager
def _timed() -> Iterator[list[float]]:
    """Seconds spent in the block, in the list's only place."""
    spent, start = [0.0], time.perf_counter()
    yield spent
    spent[0] = time.perf_counter() - start


def _verifier_metrics(verifier: Verifier) -> dict[str, float]:
    """Where the step's verdicts came from; failures of ours above 1% are an alarm."""
    stats = verifier.stats(reset=True)
    if stats.failure_frac > MAX_VERIFIER_FAILURES:
        print(
            f"verifier: {stats.failure_frac:.1%} of this step's verdicts are failures of ours"
            f" ({stats.reasons}); raise reward.timeout_s or reward.num_workers",
            file=sys.stderr,
        )
    return {
        "verify/failure_frac": stats.failure_frac,
        "verify/kills": float(stats.kills),
        "verify/p50_ms": stats.p50_ms,
        "verify/p99_ms": stats.p99_ms,
    }


def _peak_gib() -> float:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _sample_rollouts(session: Session, batch: StepBatch) -> list[dict[str, Any]]:
    """The step's first groups, up to track.rollouts_per_step responses, with their advantages."""
    size = session.recipe.rollout.group_size
    count = -(-session.recipe.track.rollouts_per_step // size)
    return [
        {
            "problem_id": group.problem_id,
            "prompt": session.policy.tokenizer.decode(group.prompt_ids),
            "response": session.decode(response.token_ids),
            "reward": reward,
            "advantage": advantage,
            "reason": reason,
            "response_len": len(response.token_ids),
            "truncated": response.truncated,
        }
        for group, row in zip(batch.groups[:count], batch.advantages[:count], strict=True)
        for response, reward, reason, advantage in zip(
            group.responses, group.rewards, group.reasons, row, strict=True
        )
    ]


def _save(session: Session, run: Run, sampler_state: dict[str, Any]) -> Path:
    state = {
        "sampler": sampler_state,
        "entropy": session.entropy.state(),
        "run_id": run.run_id,
        "seconds": run.seconds,
        "unlogged": run.unlogged,
        "num_skipped": run.num_skipped,
    }
    path = save_checkpoint(
        run.folder,
        run.next_step,
        session.policy,
        session.optimizer,
        state,
        save_more=lambda inner: save_reference(session.policy, session.recipe.algorithm, inner),
    )
    prune_checkpoints(run.folder, session.recipe.train.keep_checkpoints)
    return path


def _is_due(every: int, step: int) -> bool:
    return every > 0 and step % every == 0


def model_path(recipe: TrainRecipe | FinetuneRecipe, recipe_path: Path, console: Console) -> str:
    """The policy's folder or hub id; runs the warm start first when the recipe names one."""
    if recipe.model.path is not None:
        return recipe.model.path
    from rlvr.sft import run_sft
    from rlvr.sft_config import SftConfig

    assert recipe.model.sft_recipe is not None
    path = Path(recipe.model.sft_recipe)
    if not path.is_absolute() and not path.exists():
        path = recipe_path.parent / path
    return str(run_sft(load_recipe(path, [], SftConfig)))
