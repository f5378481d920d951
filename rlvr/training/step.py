"""One step of the algorithm: collect, batch, update, sync."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch

from rewards import Verifier
from rlvr.algorithm.lr_schedule import lr_at
from rlvr.common.log import get_logger
from rlvr.distributed.world import World
from rlvr.policy.flops import peak_flops
from rlvr.policy.policy import Policy
from rlvr.policy.reference import update_reference
from rlvr.runs.profiling import StepMemory
from rlvr.sampling.replay import NoEngine, Replay
from rlvr.sampling.rollouts import StepRollouts
from rlvr.training.batch import StepBatch, UpdateConfig, batch_advantages, make_batch
from rlvr.training.build import Training
from rlvr.training.update import update
from rlvr.training.update_stats import UpdateStats

logger = get_logger(__name__)

MAX_VERIFIER_FAILURES = 0.01
"""Fraction of a step's verdicts above which timeouts and dead workers are an alarm."""


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step sampled, what it trained on, its metrics by name, and what this rank's engine did
    meanwhile (`rlvr.sampling.trace`)."""

    rollouts: StepRollouts
    batch: StepBatch
    stats: UpdateStats
    metrics: dict[str, float]
    trace: dict[str, Any]


class StepTimer:
    """Seconds of a step's phases, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Times the block and names it in a profile; one that raises is not recorded."""
        start = time.perf_counter()
        with torch.profiler.record_function(f"rlvr: {name}"):
            yield
        self.seconds[name] = time.perf_counter() - start


def _keep_nothing(_metrics: dict[str, float]) -> None:
    """For callers that need not know when the policy has moved."""


def train_step(
    training: Training,
    step: int,
    on_update: Callable[[dict[str, float]], None] = _keep_nothing,
    profiler: AbstractContextManager[None] | None = None,
) -> StepResult:
    """One step of GRPO (2402.03300, algorithm 1) with DAPO's dynamic sampling (2503.14476).

    step: finished ones so far. on_update: given the metrics known so far as soon as the policy has
    moved. What raises before that leaves the policy as it was; what raises after it (a signal, an
    engine that cannot be restarted, a failed sync) leaves a step that must not be trained again.
    profiler: entered around all but the collection.
    """
    if training.recipe.train.rollouts_only:
        return _only_collect(training, step, on_update)
    recipe, policy, timer = training.recipe, training.policy, StepTimer()
    memory, trace = StepMemory(), training.sampler.trace
    config = UpdateConfig.of(recipe)
    begin = time.perf_counter()
    lr = _set_lr(training, step)  # a function of the step: nothing to save or to restore
    with timer.phase("step"):
        rollouts = training.sampler.collect(step)  # P informative groups of G responses
        training.engine.sleep()  # its GPU memory is the update's now; the sync wakes it
        # with rollout.mode = "async" the next steps' rollouts are generated beside the update
        training.sampler.collect_ahead(step)
        with profiler or nullcontext():
            with timer.phase("train"), trace.phase("update"), memory.update():
                batch = make_batch(rollouts.groups, policy, config, training.teacher)
                stats = update(
                    policy,
                    training.optimizer,
                    batch,
                    config,
                    step,
                    training.entropy,
                    training.safe_point,
                )
                update_reference(policy, recipe.algorithm, step + 1)
                on_update(stats.metrics | rollouts.metrics)
            with timer.phase("wait"):
                training.sampler.wait_for_next()
            with timer.phase("sync"):
                synced = _sync(training, step + 1)
    metrics = {
        "optim/lr": lr,
        **_step_metrics(timer.seconds, stats),
        **memory.metrics(training.world, training.engine.held_gib()),
        **_utilisation(policy, stats, timer.seconds["train"]),
        **stats.metrics,
        **_verifier_metrics(training.world, training.verifier),
        **rollouts.metrics,
        **synced,
    }
    return StepResult(rollouts, batch, stats, metrics, trace.take(begin))


def _only_collect(
    training: Training, step: int, on_update: Callable[[dict[str, float]], None]
) -> StepResult:
    """The step without its update and its sync. Its groups count as sampled by weights of step 0,
    which they are."""
    timer, begin = StepTimer(), time.perf_counter()
    with timer.phase("step"):
        rollouts = training.sampler.collect(step)
        training.sampler.collect_ahead(step)
    groups = [
        replace(
            group,
            policy_version=0,
            responses=[replace(response, spans=[]) for response in group.responses],
        )
        for group in rollouts.groups
    ]
    rollouts = StepRollouts(groups, rollouts.metrics)
    batch = StepBatch(groups, batch_advantages(groups, training.recipe.algorithm), None)
    metrics = {
        "optim/skipped": 0.0,
        "time/step_s": timer.seconds["step"],
        **_verifier_metrics(training.world, training.verifier),
        **rollouts.metrics,
    }
    on_update(metrics)
    return StepResult(
        rollouts, batch, UpdateStats(0, 0, {}, 0.0), metrics, training.sampler.trace.take(begin)
    )


def _set_lr(training: Training, step: int) -> float:
    lr = lr_at(step, training.recipe.optim, training.recipe.train.steps)
    for group in training.optimizer.param_groups:
        group["lr"] = lr * group.get("lr_ratio", 1.0)  # LoRA+ trains B faster than A
    return lr


def _sync(training: Training, num_steps: int) -> dict[str, float]:
    """Gives the engine the policy's weights after num_steps steps, and the metrics of that.

    While collections are under way the weights wait behind them, at a cost in host memory. Their
    metrics are then those of the steps that they sample.
    """
    engine, sampler = training.engine, training.sampler
    if isinstance(engine, NoEngine) or isinstance(sampler, Replay):
        return {}
    if training.recipe.rollout.steps_ahead == 1:  # the engine is idle
        with sampler.trace.phase("sync"):
            return engine.sync(num_steps).metrics()
    syncer = engine.syncer
    staged = syncer.stage(num_steps)
    sampler.enqueue(lambda: syncer.deliver(staged).metrics())
    return {}


def _step_metrics(seconds: dict[str, float], stats: UpdateStats) -> dict[str, float]:
    return {
        "time/train_s": seconds["train"],
        "time/wait_s": seconds["wait"],
        "time/sync_s": seconds["sync"],
        "time/step_s": seconds["step"],
        "train/tokens_per_s": stats.num_tokens / seconds["train"],
    }


def _utilisation(policy: Policy, stats: UpdateStats, seconds: float) -> dict[str, float]:
    """perf/tflops_per_s, where the operations of the update can be counted, and perf/mfu, where
    the peak of the GPUs is known too."""
    if not stats.flops:
        return {}
    per_rank = stats.flops / seconds / policy.strategy.world.size
    peak = peak_flops(policy.device, policy.dtype)
    metrics = {"perf/tflops_per_s": per_rank / 1e12}
    return metrics if peak is None else metrics | {"perf/mfu": per_rank / peak}


def _verifier_metrics(world: World, verifier: Verifier) -> dict[str, float]:
    """Where the step's verdicts came from; failures of ours above 1% are an alarm.

    Fractions and times are those of the rank that had the most trouble.
    """
    # reset: the pool counts on, and a step's fractions should be its own
    parts = world.gather(verifier.stats(reset=True))
    stats = max(parts, key=lambda part: part.failure_frac)
    if stats.failure_frac > MAX_VERIFIER_FAILURES and world.is_main:
        logger.warning(
            f"verifier: {stats.failure_frac:.1%} of this step's verdicts are failures of ours"
            f" ({stats.reasons}); raise reward.timeout_s or reward.num_workers"
        )
    return {
        "verify/failure_frac": stats.failure_frac,
        "verify/kills": float(sum(part.kills for part in parts)),
        "verify/p50_ms": max(part.p50_ms for part in parts),
        "verify/p99_ms": max(part.p99_ms for part in parts),
    }
