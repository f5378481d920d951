"""The loop: collect, update, sync, log, evaluate, checkpoint."""

from __future__ import annotations

import resource
import secrets
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from rich.console import Console

from rewards import Verifier
from rlvr.algorithm.lr_schedule import lr_at
from rlvr.common.errors import ConfigError, RunError
from rlvr.common.signals import StickyInterrupt, Stopped, StopRequest
from rlvr.config.rules import cautions
from rlvr.config.train import TrainRecipe
from rlvr.data.absolute_paths import absolute
from rlvr.data.chat import read_template
from rlvr.data.contamination import check_training_data
from rlvr.distributed import ranks, sharding
from rlvr.engines.stop_tokens import missing_end
from rlvr.policy.reference import follow
from rlvr.runs.checkpoint import NotWrittenError
from rlvr.runs.folder import (
    Run,
    check_same_recipe,
    create_run_folder,
    lock_run_folder,
    reserve_run_folder,
)
from rlvr.runs.manifest import finish_manifest, manifest
from rlvr.runs.tracker import Tracker, write_rollouts
from rlvr.training.batch import StepBatch, make_batch
from rlvr.training.build import Session, StartEngine, build
from rlvr.training.display import Display
from rlvr.training.evaluate import evaluate_step, is_best
from rlvr.training.preflight import check, check_reachable
from rlvr.training.resume import first_sync, leave, restore, save, with_engine
from rlvr.training.skipped_steps import check_streak, save_batch
from rlvr.training.summary import finish
from rlvr.training.update import update
from rlvr.warm_start.policy_path import model_path

if TYPE_CHECKING:
    from collections.abc import Iterator


T = TypeVar("T")

MAX_VERIFIER_FAILURES = 0.01
"""Fraction of a step's verdicts above which timeouts and dead workers are an alarm."""


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
    recipe = absolute(recipe)
    check(recipe)
    check_reachable(recipe)
    for caution in cautions(recipe) if ranks.is_main() else ():
        print(f"caution: {caution}", file=sys.stderr)
    with _by_main(lambda: reserve_run_folder(recipe, recipe_path)) as folder:
        run = Run(folder, run_id=secrets.token_hex(4))
        with StickyInterrupt() as interrupt:
            session = build(recipe, model_path(recipe, recipe_path, ranks.world), start_engine)
            facts = _facts(session) | {"run_id": run.run_id}
            _go_on(interrupt, session)
        ranks.from_main(lambda: create_run_folder(folder, recipe, facts))
        return _drive(session, run, console, end)


@contextmanager
def _by_main(hold: Callable[[], AbstractContextManager[T]]) -> Iterator[T]:
    """A run folder that is ours: rank 0 holds it for all."""
    with ExitStack() as stack:
        yield ranks.from_main(lambda: stack.enter_context(hold()))


def _go_on(interrupt: StickyInterrupt, session: Session) -> None:
    """Raises: KeyboardInterrupt when one came while loading; then the session is closed."""
    try:
        interrupt.check()
    except KeyboardInterrupt:
        session.close()
        raise


def _facts(session: Session) -> dict[str, Any]:
    """manifest.json as far as it is known before the first step."""
    recipe = session.recipe
    facts = manifest(
        recipe,
        session.policy,
        session.optimizer,
        session.data,
        session.engine.name,
        session.syncer.mode,
    )
    evaluated = [one.loaded for one in session.evals]
    facts["turn_end_missing"] = missing_end(
        session.policy.causal_lm.generation_config,
        session.policy.tokenizer,
        read_template(recipe.data.chat_template),
        recipe.rollout.stop_token_ids,
    )
    facts |= {"num_ranks": ranks.size(), "sharded": session.policy.strategy.is_sharded}
    facts["contamination"] = ranks.from_main(
        lambda: check_training_data(recipe, session.data.problems, evaluated)
    )
    return facts


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
    with _by_main(lambda: lock_run_folder(folder)):
        with StickyInterrupt() as interrupt:
            session, run = restore(folder, start_engine)
            _go_on(interrupt, session)
        return _drive(session, run, console, end)


def _drive(session: Session, run: Run, console: Console, end: End | None = None) -> Path:
    """The loop, with files, signals and the end around it."""
    recipe = session.recipe
    tracker = Tracker(recipe, run.folder, run.run_id, run.next_step) if ranks.is_main() else None
    start = time.perf_counter() - run.seconds
    try:
        with StopRequest() as stop, Display(console, recipe.train.steps, run.next_step) as display:
            try:
                _steps(session, run, Loop(tracker, display, stop.check, end, start))
            except (Stopped, RunError) as error:
                run.seconds = time.perf_counter() - start
                if not isinstance(error, ranks.Alone):  # nobody is there to gather weights
                    leave(session, run, display.say)
                raise
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


@dataclass(frozen=True)
class Loop:
    """What the loop reports to, and asks after every step. tracker: rank 0's. start: perf_counter
    at the run's 0 s."""

    tracker: Tracker | None
    display: Display
    safe_point: Callable[[], None]
    end: End | None
    start: float


def _steps(session: Session, run: Run, loop: Loop) -> None:
    """Steps until the recipe or `end` says so. Raises: Stopped, RunError."""
    num_steps = session.recipe.train.steps
    run.boundary = session.sampler.state()
    first_sync(session)
    if run.next_step == 0:
        _evaluate(session, run, loop)
    ended = False
    while not ended and (run.unlogged is not None or run.next_step < num_steps):
        if run.unlogged is None:
            metrics = one_step(session, run, loop.safe_point)
            run.next_step += 1
            run.unlogged = {"step": run.next_step, **metrics}
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
    if loop.tracker is not None:
        loop.tracker.log(step, metrics)
    loop.display.step(step, metrics)
    run.unlogged = None
    run.num_skipped = run.num_skipped + 1 if metrics["optim/skipped"] else 0
    run.boundary = session.sampler.state()
    due = last or _is_due(recipe.train.checkpoint_every, step)
    if due or ranks.from_main(partial(is_best, run.folder, step)):
        with_engine(session, session.syncer.prove)
        try:
            save(session, run)
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
        collected = with_engine(
            session,
            lambda: session.sampler.collect(step, session.engine, session.verifier, safe_point),
        )
        session.engine.sleep()
        ahead = session.sampler.ahead(step + 1, session.engine, session.verifier, safe_point)
        with ahead as wait_s, _timed() as train_s:
            batch = make_batch(collected.groups, session.policy, recipe)
            stats = update(
                session.policy, session.optimizer, batch, recipe, step, session.entropy, safe_point
            )
            num_tokens = stats.pop("train/tokens", 0.0)
            follow(session.policy, recipe.algorithm, step + 1)
            run.unlogged = {"step": step + 1, **stats, **collected.metrics}
        with _timed() as sync_s:
            sync = partial(session.syncer.sync, step + 1)
            synced = with_engine(session, sync)
    if ranks.is_main():
        write_rollouts(run.folder, step + 1, _sample_rollouts(session, batch))
        if stats["optim/skipped"]:
            save_batch(run.folder, step + 1, batch)
    own = {
        "optim/lr": lr,
        "time/train_s": train_s[0],
        "time/wait_s": wait_s[0],
        "time/sync_s": sync_s[0],
        "time/step_s": step_s[0],
        "train/tokens_per_s": num_tokens / train_s[0],
        "memory/peak_gib": max(ranks.gather(_peak_gib())),
        "sync/bytes": float(session.syncer.num_bytes),
        "sync/logprob_error": synced.logprob_error,
        "sync/logprob_error_mean": synced.logprob_error_mean,
        "sync/logprob_error_p99": synced.logprob_error_p99,
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
            "reward": reward if known else None,  # nobody judged it
            "advantage": advantage,
            "reason": reason,
            "response_len": len(response.token_ids),
            "truncated": response.truncated,
        }
        for group, row in zip(batch.groups[:count], batch.advantages[:count], strict=True)
        for response, reward, reason, known, advantage in zip(
            group.responses, group.rewards, group.reasons, group.judged, row, strict=True
        )
    ]


def _is_due(every: int, step: int) -> bool:
    return every > 0 and step % every == 0
