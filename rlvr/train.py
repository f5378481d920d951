"""The loop: collect, update, sync, log, evaluate, checkpoint."""

from __future__ import annotations

import json
import resource
import secrets
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console

from rewards import Verifier
from rlvr import ranks, sharding
from rlvr.batch import StepBatch, make_batch
from rlvr.checkpoint import (
    STATE_FOLDER,
    intact_checkpoints,
    load_checkpoint,
    prune_checkpoints,
    save_checkpoint,
)
from rlvr.config import TrainRecipe
from rlvr.contamination import check_training_data
from rlvr.display import Display
from rlvr.evaluate import evaluate_step, forget_evaluations, is_best
from rlvr.manifest import finish_manifest, manifest
from rlvr.recipe import ConfigError, dump_toml, load_recipe
from rlvr.reference import follow, load_reference, save_reference
from rlvr.schedule import lr_at
from rlvr.session import Session, StartEngine, build, check
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
    """A run folder and where it stands. next_step: steps finished so far."""

    folder: Path
    run_id: str
    next_step: int = 0
    seconds: float = 0.0


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
    folder = ranks.from_main(lambda: new_run_folder(recipe, recipe_path))
    session = build(recipe, model_path(recipe, recipe_path, console), start_engine)
    run = Run(folder, run_id=secrets.token_hex(4))
    facts = _facts(session)
    ranks.from_main(lambda: _make_folder(folder, recipe, facts))
    return _drive(session, run, console, end)


def _make_folder(folder: Path, recipe: TrainRecipe, facts: dict[str, Any]) -> None:
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text(dump_toml(recipe))
    (folder / "manifest.json").write_text(json.dumps(facts, indent=1))


def _facts(session: Session) -> dict[str, Any]:
    """What manifest.json says."""
    facts = manifest(
        session.recipe,
        session.policy,
        session.optimizer,
        session.data,
        session.engine.name,
        session.syncer.mode,
    )
    evaluated = [one.loaded for one in session.evals]
    facts |= {"num_ranks": ranks.size(), "sharded": bool(session.policy.roots)}
    facts["contamination"] = check_training_data(session.recipe, session.data.problems, evaluated)
    return facts


def resume(
    folder: Path,
    console: Console,
    start_engine: StartEngine | None = None,
    end: End | None = None,
) -> Path:
    """Continues the run in `folder` from its newest checkpoint. Raises: ConfigError, Stopped."""
    if not (folder / "config.toml").is_file():
        raise ConfigError(f"{folder}: not a run folder (no config.toml); give the folder of a run")
    recipe = load_recipe(folder / "config.toml", [], TrainRecipe)
    if recipe.adapter.emulate_inplace_merge:
        raise ConfigError(
            f"{folder}: adapter.emulate_inplace_merge has moved its base, and checkpoints do not"
            " hold that; start the run again"
        )
    checkpoints = intact_checkpoints(folder)
    if not checkpoints:
        raise ConfigError(f"{folder}: has no usable checkpoint; delete the folder and start again")
    check(recipe)
    facts = json.loads((folder / "manifest.json").read_text())
    session = build(recipe, facts["model"], start_engine)
    state = load_checkpoint(checkpoints[-1], session.policy, session.optimizer)
    load_reference(session.policy, recipe.algorithm, checkpoints[-1] / STATE_FOLDER)
    session.sampler.load_state(state["sampler"])
    session.entropy.load_state(state["entropy"])
    if ranks.is_main():
        forget_evaluations(folder, state["step"])
    run = Run(folder, state["run_id"], state["step"], state["seconds"])
    return _drive(session, run, console, end)


def _drive(session: Session, run: Run, console: Console, end: End | None = None) -> Path:
    """The loop, with files, signals and the end around it."""
    recipe = session.recipe
    tracker = Tracker(recipe, run.folder, run.run_id, run.next_step) if ranks.is_main() else None
    start = time.perf_counter() - run.seconds
    try:
        with StopRequest() as stop, Display(console, recipe.train.steps, run.next_step) as display:
            ranks.together(session.syncer.sync)
            if run.next_step == 0:
                evaluate_step(session, run.folder, 0, display.say)
            while run.next_step < recipe.train.steps:
                before = session.sampler.state()
                try:
                    metrics = one_step(session, run, stop.check)
                except Stopped:
                    run.seconds = time.perf_counter() - start
                    path = _save(session, run, before)
                    display.say(
                        f"stopped; continue with: rlvr train --resume {run.folder} ({path})"
                    )
                    raise
                run.next_step += 1
                run.seconds = time.perf_counter() - start
                ended = end is not None and end(run.next_step, metrics)
                last = ended or run.next_step == recipe.train.steps
                if last or _is_due(recipe.eval.every, run.next_step):
                    metrics |= evaluate_step(session, run.folder, run.next_step, display.say)
                if tracker is not None:
                    tracker.log(run.next_step, metrics)
                    display.step(run.next_step, metrics)
                is_due = last or _is_due(recipe.train.checkpoint_every, run.next_step)
                if is_due or ranks.from_main(partial(is_best, run.folder, run.next_step)):
                    _save(session, run, session.sampler.state())
                if last:
                    break
        run.seconds = time.perf_counter() - start
        if sharding.takes_part(session.policy):
            num_bytes = session.syncer.num_bytes
            finish_manifest(run.folder / "manifest.json", session.policy, recipe.model, num_bytes)
        if tracker is not None:
            finish(session, run.folder, run.next_step, run.seconds, console)
        return run.folder
    finally:
        if tracker is not None:
            tracker.close()
        session.close()


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
        collected = session.sampler.collect(step, session.engine, session.verifier, safe_point)
        ahead = session.sampler.ahead(step + 1, session.engine, session.verifier)
        with ahead as wait_s, _timed() as train_s:
            batch = make_batch(collected.groups, session.policy, recipe)
            stats = update(
                session.policy, session.optimizer, batch, recipe, step, session.entropy, safe_point
            )
            follow(session.policy, recipe.algorithm, step + 1)
        with _timed() as sync_s:
            synced = ranks.together(session.syncer.sync)
    if ranks.is_main():
        write_rollouts(run.folder, step + 1, _sample_rollouts(session, batch))
    own = {
        "optim/lr": lr,
        "time/train_s": train_s[0],
        "time/wait_s": wait_s[0],
        "time/sync_s": sync_s[0],
        "time/step_s": step_s[0],
        "train/tokens_per_s": stats.pop("train/tokens", 0.0) / train_s[0],
        "memory/peak_gib": max(ranks.gather(_peak_gib())),
        "sync/bytes": float(session.syncer.num_bytes),
        "sync/logprob_error": max(one.logprob_error for one in synced),
    }
    return own | stats | _verifier_metrics(session.verifier) | collected.metrics


@contextmanager
def _timed() -> Iterator[list[float]]:
    """Seconds spent in the block, in the list's only place."""
    spent, start = [0.0], time.perf_counter()
    yield spent
    spent[0] = time.perf_counter() - start


def _verifier_metrics(verifier: Verifier) -> dict[str, float]:
    """Where the step's verdicts came from; failures of ours above 1% are an alarm.

    Fractions and times are those of the rank that had the most trouble.
    """
    parts = ranks.gather(verifier.stats(reset=True))
    stats = max(parts, key=lambda part: part.failure_frac)
    if stats.failure_frac > MAX_VERIFIER_FAILURES and ranks.is_main():
        print(
            f"verifier: {stats.failure_frac:.1%} of this step's verdicts are failures of ours"
            f" ({stats.reasons}); raise reward.timeout_s or reward.num_workers",
            file=sys.stderr,
        )
    return {
        "verify/failure_frac": stats.failure_frac,
        "verify/kills": float(sum(part.kills for part in parts)),
        "verify/p50_ms": max(part.p50_ms for part in parts),
        "verify/p99_ms": max(part.p99_ms for part in parts),
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
    }
    policy, optimizer = session.policy, session.optimizer

    def save() -> Path:
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
        return ranks.from_main(save)


def _is_due(every: int, step: int) -> bool:
    return every > 0 and step % every == 0


def new_run_folder(recipe: TrainRecipe, recipe_path: Path) -> Path:
    """The run's folder, not yet made. Raises: ConfigError when it exists."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    default = f"{recipe_path.stem}-{recipe.adapter.method}-seed{recipe.train.seed}-{stamp}"
    folder = Path(recipe.run.dir) / (recipe.run.name or default)
    if folder.exists():
        raise ConfigError(
            f"run.name = {folder.name!r}: {folder} exists; continue it with rlvr train --resume"
            f" {folder}, or take another name"
        )
    if shutil.disk_usage(_existing(folder)).free < 2**28:
        raise ConfigError(f"run.dir = {recipe.run.dir!r}: less than 0.25 GiB free; make room")
    return folder


def _existing(path: Path) -> Path:
    return path if path.exists() else _existing(path.absolute().parent)


def model_path(recipe: TrainRecipe | FinetuneRecipe, recipe_path: Path, console: Console) -> str:
    """The policy's folder or hub id; runs the warm start first when the recipe names one."""
    if recipe.model.path is not None:
        return recipe.model.path
    from rlvr.sft import run_sft, sft_path
    from rlvr.sft_config import SftConfig

    assert recipe.model.sft_recipe is not None
    path = Path(recipe.model.sft_recipe)
    if not path.is_absolute() and not path.exists():
        path = recipe_path.parent / path
    config = load_recipe(path, [], SftConfig)
    if ranks.size() > 1 and not sft_path(config).is_dir():
        raise ConfigError(
            f"model.sft_recipe = {str(path)!r}: its warm start is made in one process; run rlvr sft"
            f" {path} first"
        )
    return str(run_sft(config))
