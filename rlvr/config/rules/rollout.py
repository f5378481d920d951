"""What generation and the batch of a step demand of each other."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from rlvr.config.presets import USES_EQUAL_REWARDS
from rlvr.config.rollout import refused_args
from rlvr.config.rules.objective import trains_on_older, truncates
from rlvr.config.train import TrainRecipe


def _of_engine(recipe: TrainRecipe) -> Iterator[str]:
    rollout = recipe.rollout
    if rollout.engine == "vllm_server" and not rollout.servers:
        yield (
            'rollout.engine = "vllm_server": rollout.servers lists none; start them with rlvr serve'
            ' and give their addresses, ["http://127.0.0.1:8000"]'
        )
    if rollout.sleep and rollout.mode == "async":
        yield (
            'rollout.sleep = true: with rollout.mode = "async" vLLM generates while the policy is'
            ' trained; set it to false, or rollout.mode to "sync"'
        )


def _of_staleness(recipe: TrainRecipe) -> Iterator[str]:
    is_async, staleness = recipe.rollout.mode == "async", recipe.rollout.max_staleness
    ahead = recipe.rollout.steps_ahead if is_async else 0
    width = recipe.rollout.ranks_per_engine
    if is_async and width > 1:  # collectives of two threads would meet in one process group
        yield (
            f'rollout.mode = "async": not with rollout.tensor_parallel_size = {width}, whose ranks'
            " would wait for each other in an update and in generation at once; set it to 1, or"
            ' generate with rollout.engine = "vllm_server"'
        )
    if staleness < ahead:
        yield (
            f"rollout.max_staleness = {staleness}: async rollouts are as many steps old as"
            f" rollout.steps_ahead says; set it to {ahead} or more, or rollout.mode to"
            ' "sync"'
        )
    # tokens that one step leaves to the next are one step older than those it samples
    least = 1 + ahead
    if recipe.rollout.partial and staleness < least:
        yield (
            f"rollout.max_staleness = {staleness}: with rollout.partial responses go on by newer"
            f" weights; set it to {least} or more, or partial to false"
        )
    if recipe.rollout.partial and recipe.rollout.abort_stragglers:
        yield (
            "rollout.abort_stragglers = true: rollout.partial keeps the responses that it would"
            " abort; turn one of them off"
        )
    if truncates(recipe) and trains_on_older(recipe):
        yield (
            f"rollout.max_staleness = {staleness}: responses of older weights"
            " are weighed by the engine's probabilities, which truncated sampling (top_p,"
            ' top_k, min_p) renormalises; set it to 0 with rollout.mode = "sync", or sample'
            " from the full distribution"
        )


def _of_engine_args(recipe: TrainRecipe) -> Iterator[str]:
    yield from refused_args(recipe.rollout.engine_args)


def _of_batch(recipe: TrainRecipe) -> Iterator[str]:
    if recipe.algorithm.advantage in USES_EQUAL_REWARDS and recipe.sampling.dynamic:
        yield (
            "sampling.dynamic = true: drops the groups whose rewards are all equal, which"
            f' algorithm.advantage = "{recipe.algorithm.advantage}" learns from; set it to false,'
            ' or the advantage to "batch_std"'
        )
    if recipe.rollout.abort_stragglers and not recipe.sampling.dynamic:
        yield (
            "rollout.abort_stragglers = true: without sampling.dynamic every group is wanted;"
            " turn one off or the other on"
        )
    if recipe.optim.updates_per_step > recipe.rollout.prompts_per_step:
        yield (
            f"optim.updates_per_step = {recipe.optim.updates_per_step}: more than"
            f" rollout.prompts_per_step = {recipe.rollout.prompts_per_step} groups; lower it"
        )


def _of_halves(recipe: TrainRecipe) -> Iterator[str]:
    train = recipe.train
    if train.replay is not None and train.rollouts_only:
        yield (
            f"train.replay = {train.replay!r}: trains without generating, and train.rollouts_only"
            " generates without training; leave one out"
        )
    if train.rollouts_only and recipe.teacher.is_given:
        yield (
            "train.rollouts_only = true: trains nothing that a teacher would score; remove"
            " [teacher], or set it to false"
        )
    if train.rollouts_only and train.profile_steps:
        yield (
            f"train.profile_steps = {list(train.profile_steps)}: profiles the update and the sync,"
            " and train.rollouts_only has neither; leave one out"
        )


ROLLOUT_RULES: tuple[Callable[[TrainRecipe], Iterator[str]], ...] = (
    _of_engine,
    _of_staleness,
    _of_engine_args,
    _of_batch,
    _of_halves,
)
