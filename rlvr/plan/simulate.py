"""One step, simulated: generation with continuous batching, then the update, or both at once."""

from __future__ import annotations

import functools
import heapq
import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from rlvr.common.gpus import Gpu
from rlvr.plan.hardware import Shape
from rlvr.plan.rates import Rates, all_reduce_s
from rlvr.sampling.refill import num_prompts

NUM_STEPS = 24
"""Steps that are simulated: whether one needs a second round is a matter of chance."""
MAX_ROUNDS = 9


@dataclass(frozen=True, slots=True)
class Workload:
    """One step's work. groups_per_informative: groups generated for one that is trained on.

    tokens_per_row: that the update computes, of a response, where a run has shown it: prompts are
    shared and groups without a signal left out. None: prompt and response. engine_devices: that
    share one engine.
    """

    groups: int
    group_size: int
    prompt_len: float
    lengths: Sequence[int]
    groups_per_informative: float
    tokens_per_row: float | None = None
    engine_devices: int = 1

    @property
    def rounds(self) -> list[list[int]]:
        """Prompts of every round of every simulated step."""
        return refill_rounds(self.groups, 1 / self.groups_per_informative)

    @property
    def num_rollouts(self) -> int:
        return math.ceil(self.groups * self.groups_per_informative) * self.group_size

    @property
    def mean_len(self) -> float:
        return sum(self.lengths) / len(self.lengths)

    @property
    def update_tokens(self) -> float:
        row = self.tokens_per_row or self.prompt_len + self.mean_len
        return self.groups * self.group_size * row


@dataclass(frozen=True, slots=True)
class StepTime:
    """Seconds of a step's phases; binds: what to relieve first."""

    rollout_s: float
    verify_s: float
    update_s: float
    all_reduce_s: float
    sync_s: float
    other_s: float
    step_s: float
    binds: str


def log_normal_lengths(median: float, sigma: float, longest: int, count: int = 4096) -> list[int]:
    """Response lengths in tokens, cut off at `longest`; the same in every call."""
    rng = random.Random(0)
    return [
        max(1, min(longest, round(rng.lognormvariate(math.log(median), sigma))))
        for _ in range(count)
    ]


@functools.cache
def refill_rounds(groups: int, informative_frac: float) -> list[list[int]]:
    """Prompts of the rounds of NUM_STEPS steps: a step asks until it has its groups, and leaves
    those beyond to the next."""
    rng, have, steps = random.Random(2), 0, []
    for _ in range(NUM_STEPS):
        rounds: list[int] = []
        while have < groups and len(rounds) < MAX_ROUNDS:
            rounds.append(num_prompts(groups - have, informative_frac))
            have += sum(rng.random() < informative_frac for _ in range(rounds[-1]))
        have = max(0, have - groups)
        steps.append(rounds)
    return steps


def decoding_steps(lengths: Sequence[int], slots: int) -> tuple[int, int]:
    """(steps with at least one sequence, tokens) of an engine that runs `slots` at a time."""
    # when each running sequence ends; requests start in the order given, as slots come free
    ends, now = [], 0
    for length in lengths:
        if len(ends) == slots:
            now = heapq.heappop(ends)
        heapq.heappush(ends, now + length)
    return (max(ends) if ends else 0), sum(lengths)


def rollout_s(work: Workload, rates: Rates, devices: int, slots: int) -> tuple[float, float]:
    """(seconds until the slowest engine is done, seconds that the longest responses take alone), of
    a step's rounds one after another, mean over the simulated steps."""
    steps = work.rounds
    sizes = Counter(size for rounds in steps for size in rounds)
    slowest, tail = 0.0, 0.0
    for size, count in sizes.items():
        # every plan sees the same responses, so that plans compare
        chosen = random.Random(1).choices(work.lengths, k=size * work.group_size)
        seconds, alone = _round_s(work, chosen, rates, devices, slots)
        slowest, tail = slowest + count * seconds, tail + count * alone
    return slowest / len(steps), tail / len(steps)


def _round_s(
    work: Workload, lengths: Sequence[int], rates: Rates, devices: int, slots: int
) -> tuple[float, float]:
    """As `rollout_s`, of one round of these responses.

    Devices that share an engine share its steps evenly; what they tell each other is not counted.
    """
    engines = max(1, devices // work.engine_devices)
    step_s = rates.decode_step_s / work.engine_devices
    seq_s = rates.decode_seq_s / work.engine_devices
    slowest, tail = 0.0, 0.0
    for engine in range(min(engines, len(lengths))):
        own = lengths[engine::engines]
        steps, tokens = decoding_steps(own, slots)
        seconds = steps * step_s + tokens * seq_s
        seconds += len(own) * rates.request_s
        alone = max(own) * (step_s + seq_s)
        slowest, tail = max((slowest, tail), (seconds, alone))
    return slowest, tail


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
    batch while the others train on this one."""
    trainers = devices - generating if generating else devices
    rollout, tail = rollout_s(work, rates, generating or devices, slots)
    verify = work.num_rollouts * rates.verify_pair_s
    update = rates.update_s + work.update_tokens * rates.update_token_s / trainers
    # gradients are float32
    reduced = all_reduce_s(gpu, 4 * shape.trainable, trainers)
    trained = update + reduced
    fixed = rates.sync_s + rates.other_s
    # verification goes on while other responses are generated
    sampled = max(rollout, verify)
    total = fixed + (max(sampled, trained) if generating else sampled + trained)
    costs = {
        # it binds where more engines would hardly help
        "the longest response": tail if rollout < 1.5 * tail else 0.0,
        "generation": rollout,
        "verification": verify,
        "the update": update,
        "the all-reduce": reduced,
        "sync and fixed costs": fixed,
    }
    if costs["the longest response"]:
        costs["generation"] = 0.0
    binds = max(costs, key=lambda name: costs[name])
    return StepTime(rollout, verify, update, reduced, rates.sync_s, rates.other_s, total, binds)


def best_split(
    work: Workload, rates: Rates, shape: Shape, gpu: Gpu | None, devices: int, slots: int
) -> tuple[int, StepTime] | None:
    """(devices that generate, step time) of the fastest asynchronous split; None for one device."""
    splits = [
        (k, step_time(work, rates, shape, gpu, devices, slots, generating=k))
        for k in range(work.engine_devices, devices, work.engine_devices)
    ]
    return min(splits, key=lambda split: split[1].step_s) if splits else None
