"""A run from its start or its last checkpoint to its end: steps, evaluations, log, checkpoints."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console

from rlvr.common.errors import ConfigError, RunError
from rlvr.common.log import get_logger, of_run
from rlvr.common.signals import StickyInterrupt, Stopped, StopRequest
from rlvr.config.rules import cautions
from rlvr.config.train import TrainRecipe
from rlvr.data.absolute_paths import absolute
from rlvr.data.chat import read_template
from rlvr.data.contamination import check_training_data, num_repeated
from rlvr.distributed.world import LostRanksError, World
from rlvr.engines.engine import EngineLost, refusal
from rlvr.engines.stop_tokens import missing_end
from rlvr.runs.checkpoint import NotWrittenError, refuse_damaged, with_found_start
from rlvr.runs.display import Display
from rlvr.runs.folder import (
    Run,
    check_same_recipe,
    create_run_folder,
    lock_run_folder,
    own_code,
    reserve_run_folder,
)
from rlvr.runs.manifest import data_facts, finish_manifest, manifest
from rlvr.runs.profiling import profiled
from rlvr.runs.tracker import Tracker, write_rollouts, write_trace
from rlvr.sampling.replay import tokenizer_sha256, write_groups
from rlvr.training.batch import StepBatch
from rlvr.training.build import Stage, StartEngine, Training, build
from rlvr.training.evaluate import evaluate_step, is_best
from rlvr.training.preflight import check, check_reachable
from rlvr.training.resume import checkpoint_and_stop, restore, save
from rlvr.training.skipped_steps import check_streak, save_batch
from rlvr.training.stages import begin_due
from rlvr.training.step import StepResult, train_step
from rlvr.training.summary import finish
from rlvr.warm_start.policy_path import model_path

T = TypeVar("T")

logger = get_logger(__name__)

End = Callable[[int, dict[str, float]], bool]
"""Asked after every step with (steps finished, its metrics): whether the run ends there."""

PageOf = Callable[[Path], str]
"""Gives the report about a finished run's folder, as HTML, for the trackers."""


def train(
    recipe: TrainRecipe,
    recipe_path: Path,
    console: Console,
    start_engine: StartEngine | None = None,
    end: End | None = None,
    world: World = World.alone(),
    page_of: PageOf | None = None,
) -> Path:
    """Trains from step 0 in a new run folder and returns it. Raises: ConfigError, Stopped.

    end: ends the run before train.steps; it is evaluated there and can be resumed.
    """
    recipe = with_found_start(absolute(recipe))
    check(recipe, world)
    check_reachable(recipe)
    if recipe.adapter.start_from is not None:
        refuse_damaged(Path(recipe.adapter.start_from))
    for caution in cautions(recipe) if world.is_main else ():
        logger.warning(f"caution: {caution}")
    with _on_main(world, reserve_run_folder(recipe, recipe_path)) as folder, of_run(folder.name):
        run, stop = Run(folder, run_id=secrets.token_hex(4)), StopRequest()
        with StickyInterrupt() as interrupt:
            path = model_path(recipe, recipe_path, world)
            training = build(recipe, path, start_engine, world=world, safe_point=stop.check)
            facts = _facts(training) | {"run_id": run.run_id}
            _check_interrupt(interrupt, training)
        # only now: what cannot start leaves no run behind
        world.on_main(partial(create_run_folder, folder, recipe, facts))
        return _drive(training, run, console, stop, end, page_of)


def resume(
    folder: Path,
    console: Console,
    start_engine: StartEngine | None = None,
    end: End | None = None,
    same_as: TrainRecipe | None = None,
    world: World = World.alone(),
    page_of: PageOf | None = None,
) -> Path:
    """Continues the run in `folder` from its newest checkpoint, or from the start where none was
    written yet. same_as: a recipe that must be the run's own. Raises: ConfigError, Stopped."""
    if not (folder / "config.toml").is_file():
        raise ConfigError(f"{folder}: not a run folder (no config.toml); give the folder of a run")
    if same_as is not None:
        check_same_recipe(folder, with_found_start(same_as))
    stop = StopRequest()
    with _on_main(world, lock_run_folder(folder)), of_run(folder.name):
        with StickyInterrupt() as interrupt:
            training, run = restore(folder, start_engine, world, stop.check)
            _check_interrupt(interrupt, training)
        return _drive(training, run, console, stop, end, page_of)


@contextmanager
def _on_main(world: World, context: AbstractContextManager[T]) -> Iterator[T]:
    """Enters the context on rank 0, and gives what it gives there to all: one run folder."""
    with ExitStack() as stack:
        yield world.on_main(partial(stack.enter_context, context))


def _check_interrupt(interrupt: StickyInterrupt, training: Training) -> None:
    """Raises: KeyboardInterrupt when one came while loading; then the run's parts are closed."""
    try:
        interrupt.check()
    except KeyboardInterrupt:
        training.close()
        raise


def _facts(training: Training) -> dict[str, Any]:
    """manifest.json as far as it is known before the first step."""
    recipe, policy = training.recipe, training.policy
    facts = manifest(
        recipe,
        policy,
        training.optimizer,
        training.data,
        training.engine.name,
        training.engine.syncer.mode,
    )
    facts["turn_end_missing"] = missing_end(
        policy.causal_lm.generation_config,
        policy.tokenizer,
        read_template(recipe.data.chat_template),
        recipe.rollout.stop_token_ids,
    )
    facts["require_closed_think"] = recipe.reward.require_closed_think
    facts["own_code"] = own_code(recipe)
    facts["teacher"] = training.teacher and training.teacher.facts()
    facts["tokenizer_sha256"] = tokenizer_sha256(policy.tokenizer)
    facts |= {"num_ranks": training.world.size, "sharded": policy.strategy.is_sharded}
    if training.data.sources:
        facts["data"]["num_repeated"] = training.world.on_main(
            partial(num_repeated, training.data.problems, recipe.data)
        )
    facts["contamination"] = _contamination(training, training.stages[0])
    facts["stages"] = [
        {
            "at_step": stage.at_step,
            "data": data_facts(stage.data),
            "contamination": _contamination(training, stage)
            if stage.recipe.data != recipe.data
            else facts["contamination"],
        }
        for stage in training.stages[1:]
    ]
    return facts


def _contamination(training: Training, stage: Stage) -> dict[str, Any] | None:
    evaluated = [one.loaded for one in training.evals]
    check = partial(check_training_data, stage.recipe, stage.data.problems, evaluated)
    return training.world.on_main(check)


@dataclass(frozen=True)
class Reporting:
    """What the loop reports to, and asks after every step. tracker: rank 0's. start: perf_counter
    at the run's 0 s."""

    tracker: Tracker | None
    display: Display
    end: End | None
    start: float


def _drive(
    training: Training,
    run: Run,
    console: Console,
    stop: StopRequest,
    end: End | None,
    page_of: PageOf | None,
) -> Path:
    """All steps that are left, with the tracker, signals and the run's end around them."""
    recipe, is_main = training.recipe, training.world.is_main
    tracker = Tracker(recipe, run.folder, run.run_id, run.next_step) if is_main else None
    start = time.perf_counter() - run.seconds
    try:
        with stop, Display(console, recipe.train.steps, run.next_step) as display:
            try:
                run_steps(training, run, Reporting(tracker, display, end, start))
            except (Stopped, RunError) as error:
                run.seconds = time.perf_counter() - start
                # a checkpoint gathers weights from all ranks
                if not isinstance(error, LostRanksError):
                    checkpoint_and_stop(training, run, display.say)
                raise
        run.seconds = time.perf_counter() - start
        if training.policy.strategy.takes_part:
            num_bytes = training.engine.syncer.num_bytes
            path = run.folder / "manifest.json"
            finish_manifest(path, training.policy, recipe.model, num_bytes)
        if tracker is not None:
            finish(training, run.folder, run.next_step, run.seconds, console)
            if page_of is not None:
                tracker.attach_report(page_of)
        return run.folder
    finally:
        if tracker is not None:
            tracker.close()
        training.close()


def run_steps(training: Training, run: Run, reporting: Reporting) -> None:
    """Steps until the recipe or `end` ends the run. Raises: Stopped, RunError."""
    num_steps = training.recipe.train.steps
    # what a checkpoint holds if a signal comes before the first step is done
    run.sampler_state = training.sampler.snapshot()
    _first_sync(training, run.next_step)
    if run.next_step == 0:
        _evaluate(training, run, reporting)
    ended = False
    while not ended and (run.pending is not None or run.next_step < num_steps):
        # a run that was stopped after an update resumes with the rest of that step
        if run.pending is None:
            begin_due(training, run)
            profiler = _profiler(training, run)
            result = train_step(training, run.next_step, run.update_done, profiler)
            run.pending = result.metrics  # those that `update_done` had, and the sync's
            if training.world.is_main:
                _write_step(training, run, result)
        ended = _finish_step(training, run, reporting)


def _profiler(training: Training, run: Run) -> AbstractContextManager[None] | None:
    """What keeps a trace of the next step; None where none is wanted."""
    step = run.next_step + 1
    if step not in training.recipe.train.profile_steps:
        return None
    return profiled(run.folder, step, training.world.rank)


def _first_sync(training: Training, num_steps: int) -> None:
    """Gives the engine the policy's weights for the first time, after num_steps finished steps.

    Not retried: an engine that fails at that would fail so again, and no run that is resumed gets
    further. Raises: ConfigError with its reason; SyncError.
    """
    syncer = training.engine.syncer
    try:
        training.sampler.weight_metrics = syncer.sync(num_steps).metrics()
    except EngineLost as error:
        raise refusal(str(error), training.recipe.rollout.engine, syncer.mode) from error


def _finish_step(training: Training, run: Run, reporting: Reporting) -> bool:
    """Evaluates, logs and saves what the step has trained; whether it was the last."""
    recipe, step, metrics = training.recipe, run.next_step, dict(run.pending or {})
    run.seconds = time.perf_counter() - reporting.start
    ended = reporting.end is not None and reporting.end(step, metrics)
    # a run that `end` stops is scored where it stops, as one that has all its steps
    last = ended or step == recipe.train.steps
    if last or _is_due(recipe.eval.every, step):
        training.sampler.drain()
        metrics |= _evaluate(training, run, reporting)
    if reporting.tracker is not None:
        reporting.tracker.log(step, metrics)
    reporting.display.step(step, metrics)
    # The step is in the log. From here on a checkpoint is the start of the next one, with the
    # sampler's state before that collects.
    run.pending = None
    run.num_skipped = run.num_skipped + 1 if metrics["optim/skipped"] else 0
    run.sampler_state = training.sampler.snapshot()
    due = last or _is_due(recipe.train.checkpoint_every, step)
    # rank 0 decides: clocks differ
    if due or training.world.on_main(partial(_is_wanted, run, recipe.train.checkpoint_minutes)):
        training.sampler.drain()
        # a sync reads back a sample of the modules; weights that are kept were all served
        training.engine.prove()
        try:
            save(training, run)
        except NotWrittenError as error:
            if last:
                raise
            reporting.display.say(f"{error}; training goes on")
    check_streak(run.num_skipped)
    return last


def _is_due(every: int, step: int) -> bool:
    return every > 0 and step % every == 0


def _is_wanted(run: Run, minutes: float) -> bool:
    """Whether a checkpoint is written that is not due by steps: the best, or after `minutes`."""
    is_late = 0 < 60 * minutes <= run.seconds - run.saved_s
    return is_late or is_best(run.folder, run.next_step)


def _evaluate(training: Training, run: Run, reporting: Reporting) -> dict[str, float]:
    say = reporting.display.say
    return training.engine.retry(partial(evaluate_step, training, run.folder, run.next_step, say))


def _write_step(training: Training, run: Run, result: StepResult) -> None:
    """Writes the step's sample of rollouts, its trace, its batch where an update was skipped."""
    rows = _sample_rollouts(training, result.batch)
    write_rollouts(run.folder, run.next_step, rows)
    if training.recipe.track.save_all_rollouts:
        write_groups(run.folder, run.next_step, result.rollouts)
    write_trace(run.folder, run.next_step, result.trace)
    if result.stats.num_skipped:
        save_batch(run.folder, run.next_step, result.batch)


def _sample_rollouts(training: Training, batch: StepBatch) -> list[dict[str, Any]]:
    """The step's first groups, up to track.rollouts_per_step responses, with their advantages."""
    recipe, policy = training.recipe, training.policy
    count = -(-recipe.track.rollouts_per_step // recipe.rollout.group_size)
    return [
        {
            "problem_id": group.problem_id,
            "prompt": policy.tokenizer.decode(group.prompt_ids),
            "response": policy.decode(response.token_ids),
            "reward": reward if known else None,  # nobody judged it
            "advantage": advantage,
            "reason": reason,
            **(
                {"extra": {k: values[i] for k, values in group.extra.items()}}
                if group.extra
                else {}
            ),
            "response_len": len(response.token_ids),
            "truncated": response.truncated,
        }
        for group, advantages_G in zip(
            batch.groups[:count], batch.advantages_PG[:count], strict=True
        )
        for i, (response, reward, reason, known, advantage) in enumerate(
            zip(
                group.responses,
                group.rewards,
                group.reasons,
                group.judged,
                advantages_G,
                strict=True,
            )
        )
    ]
