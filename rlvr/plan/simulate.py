"""The seconds of one step: generation, then the update, or both at once."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

from rlvr.common.gpus import Gpu
from rlvr.plan.generation import Decoding, Workload, decoding
from rlvr.plan.hardware import Shape
from rlvr.plan.rates import Rates, all_reduce_s


@dataclass(frozen=True, slots=True)
class StepTime:
    """Seconds of a step's phases, of all runs that share the engine; binds: what to relieve
    first."""

    rollout_s: float
    verify_s: float
    update_s: float
    all_reduce_s: float
    sync_s: float
    other_s: float
    step_s: float
    binds: str


def rollout_s(work: Workload, rates: Rates, devices: int, slots: int) -> tuple[float, float]:
    """(seconds until the slowest engine is done, seconds that the longest responses take alone), of
    a step of every run.

    Devices that share an engine share its steps evenly; what they tell each other is not counted.
    """
    done = _decoding(work, devices, slots)
    step_s, seq_s = (s / work.engine_devices for s in (rates.decode_step_s, rates.decode_seq_s))
    seconds = done.steps * step_s + done.tokens * seq_s + done.requests * rates.request_s
    return seconds, done.longest * (step_s + seq_s)


def _decoding(work: Workload, devices: int, slots: int) -> Decoding:
    return decoding(work, max(1, devices // work.engine_devices), slots)


def step_time(
    work: Workload,
    rates: Rates,
    shape: Shape,
    gpu: Gpu | None,
    devices: int,
    slots: int,
    generating: int | None = None,
) -> StepTime:
    """A step on `devices`: all generate, then all train; or `generating` of them generate the next
    batches while the others train on this one. Runs that share an engine generate together, and
    train one after the other."""
    trainers = devices - generating if generating else devices
    rollout, tail = rollout_s(work, rates, generating or devices, slots)
    verify = work.runs * work.num_rollouts * rates.verify_pair_s
    update = rates.update_s + work.update_tokens * rates.update_token_s / trainers
    update, sync, other = (work.runs * s for s in (update, rates.sync_s, rates.other_s))
    # gradients are float32
    reduced = work.runs * all_reduce_s(gpu, 4 * shape.trainable, trainers)
    trained = update + reduced
    # verification goes on while other responses are generated
    sampled = max(rollout, verify)
    total = sampled + trained
    if generating:
        spread = _decoding(work, generating, slots).steps_sd * rates.decode_step_s
        sd = spread / work.engine_devices / work.steps_ahead**0.5
        total = mean_of_slower(sampled, trained, sd)
    costs = {
        # it binds where more engines would hardly help
        "the longest response": tail if rollout < 1.5 * tail else 0.0,
        "generation": rollout,
        "verification": verify,
        "the update": update,
        "the all-reduce": reduced,
        "sync and fixed costs": sync + other,
    }
    if costs["the longest response"]:
        costs["generation"] = 0.0
    binds = max(costs, key=lambda name: costs[name])
    step_s = total + sync + other
    return StepTime(rollout, verify, update, reduced, sync, other, step_s, binds)


def mean_of_slower(sampled: float, trained: float, sd: float) -> float:
    """The mean of max(X, trained), X normal around `sampled`.

    With k steps ahead an update waits only for what k collections are late together: X is their
    mean, and sd that of one over sqrt(k). Source: Clark 1961, "The greatest of a finite set of
    random variables", equation 2, with one of the two fixed.
    """
    if sd == 0:
        return max(sampled, trained)
    unit = NormalDist()
    z = (sampled - trained) / sd
    return trained + (sampled - trained) * unit.cdf(z) + sd * unit.pdf(z)


def best_split(
    work: Workload, rates: Rates, shape: Shape, gpu: Gpu | None, devices: int, slots: int
) -> tuple[int, StepTime] | None:
    """(devices that generate, step time) of the fastest asynchronous split; None for one device."""
    splits = [
        (k, step_time(work, rates, shape, gpu, devices, slots, generating=k))
        # engines by their full number of devices; one at least is left to train
        for k in range(work.engine_devices, devices, work.engine_devices)
    ]
    return min(splits, key=lambda split: split[1].step_s) if splits else None
