"""Settings of a recipe that contradict each other. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rlvr.config.presets import USES_EQUAL_REWARDS

if TYPE_CHECKING:
    from rlvr.config.train import TrainRecipe


def contradictions(recipe: TrainRecipe) -> Iterator[str]:
    """What cannot hold together, one sentence each: the setting, the reason and the remedy."""
    for check in (
        _of_model,
        _of_engine,
        _of_truncated_sampling,
        _of_staleness,
        _of_behaviour,
        _of_batch,
        _of_reward,
        _of_eval,
    ):
        yield from check(recipe)


def _of_model(recipe: TrainRecipe) -> Iterator[str]:
    if (recipe.model.path is None) == (recipe.model.sft_recipe is None):
        yield "model.path: give exactly one of model.path and model.sft_recipe"
    if recipe.rollout.max_response_len >= recipe.model.max_len:
        yield (
            f"rollout.max_response_len = {recipe.rollout.max_response_len}: leaves no room for a"
            f" prompt in model.max_len = {recipe.model.max_len}; lower the first or raise that"
        )
    if recipe.adapter.dropout > 0:
        yield (
            f"adapter.dropout = {recipe.adapter.dropout}: the trainer's probabilities would"
            " differ from the engine's; set it to 0"
        )
    if recipe.algorithm.reference != "initial" and recipe.adapter.method != "full":
        yield (
            f'algorithm.reference = "{recipe.algorithm.reference}": with an adapter the reference'
            ' is the pristine base; set it to "initial" or adapter.method to "full"'
        )


def _of_engine(recipe: TrainRecipe) -> Iterator[str]:
    engine, servers = recipe.rollout.engine, list(recipe.rollout.servers)
    if engine == "vllm_server" and not servers:
        yield (
            'rollout.engine = "vllm_server": rollout.servers lists none; start them with rlvr serve'
            ' and give their addresses, ["http://127.0.0.1:8000"]'
        )
    if servers and engine != "vllm_server":
        yield (
            f'rollout.servers = {servers}: rollout.engine = "{engine}" does not ask them; set it to'
            ' "vllm_server" or leave them out'
        )
    if recipe.rollout.sleep and engine in ("vllm_server", "transformers"):
        yield (
            f'rollout.sleep = true: rollout.engine = "{engine}" shares no GPU with the update as'
            " vLLM in the trainer's process does; set it to false"
        )
    if recipe.rollout.sleep and recipe.rollout.mode == "async":
        yield (
            'rollout.sleep = true: with rollout.mode = "async" vLLM generates while the policy is'
            ' trained; set it to false, or rollout.mode to "sync"'
        )


def _truncates(recipe: TrainRecipe) -> bool:
    rollout = recipe.rollout
    return rollout.top_p < 1 or rollout.top_k > 0 or rollout.min_p > 0


def _of_truncated_sampling(recipe: TrainRecipe) -> Iterator[str]:
    if not _truncates(recipe):
        return
    if recipe.algorithm.mismatch != "none":
        yield (
            f'algorithm.mismatch = "{recipe.algorithm.mismatch}": biased when sampling is'
            " truncated (rollout.top_p, top_k or min_p); sample from the full distribution or"
            ' set it to "none"'
        )


def _trains_on_older(recipe: TrainRecipe) -> bool:
    """Whether a step may train on responses of an earlier step's weights."""
    may_keep = recipe.rollout.mode == "async" or recipe.sampling.dynamic
    return recipe.rollout.max_staleness > 0 and may_keep


def _of_staleness(recipe: TrainRecipe) -> Iterator[str]:
    is_async, staleness = recipe.rollout.mode == "async", recipe.rollout.max_staleness
    width = recipe.rollout.ranks_per_engine
    if is_async and width > 1:
        yield (
            f'rollout.mode = "async": not with rollout.tensor_parallel_size = {width}, whose ranks'
            " would wait for each other in an update and in generation at once; set it to 1, or"
            ' generate with rollout.engine = "vllm_server"'
        )
    if is_async and staleness < 1:
        yield (
            f"rollout.max_staleness = {staleness}: async rollouts are one step"
            ' old when they are trained on; set it to 1 or more, or rollout.mode to "sync"'
        )
    if _truncates(recipe) and _trains_on_older(recipe):
        yield (
            f"rollout.max_staleness = {staleness}: responses of older weights"
            " are weighed by the engine's probabilities, which truncated sampling (top_p,"
            ' top_k, min_p) renormalises; set it to 0 with rollout.mode = "sync", or sample'
            " from the full distribution"
        )


def _of_behaviour(recipe: TrainRecipe) -> Iterator[str]:
    algorithm, dtype = recipe.algorithm, recipe.model.dtype
    by_engine = algorithm.mismatch == "none" and _trains_on_older(recipe)
    if by_engine and algorithm.ratio != "token" and dtype != "float32":
        yield (
            f'algorithm.mismatch = "none": algorithm.ratio = "{algorithm.ratio}" would add up the'
            f" {dtype} rounding of the engine over each response of older weights; set it to"
            ' "tis", or rollout.max_staleness to 0 with rollout.mode = "sync"'
        )


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


def _of_reward(recipe: TrainRecipe) -> Iterator[str]:
    cache_len, longest = recipe.reward.overlong_cache_len, recipe.rollout.max_response_len
    if recipe.reward.overlong == "penalty" and not 0 < cache_len <= longest:
        yield (
            f"reward.overlong_cache_len = {cache_len}: must lie in"
            f" 1..rollout.max_response_len = {longest} for the soft"
            " penalty; DAPO takes a fifth of it"
        )


def cautions(recipe: TrainRecipe) -> Iterator[str]:
    """What works and is easily not meant, one sentence each: said once, when a run starts."""
    parts = ("format_weight", "length_weight", "repetition_weight")
    weights = {name: getattr(recipe.reward, name) for name in parts}
    given = ", ".join(f"reward.{name} = {value:g}" for name, value in weights.items() if value)
    if given and recipe.algorithm.advantage == "group_std":
        yield (
            f'{given}: algorithm.advantage = "group_std" scales every group to one standard'
            " deviation, so that where all are right, or all are wrong, this part trains as loudly"
            ' as correctness does, however small its weight; set the advantage to "group_mean" or'
            ' "batch_std" to keep the proportion'
        )


def _of_eval(recipe: TrainRecipe) -> Iterator[str]:
    if recipe.eval.every and recipe.eval.path is None and not recipe.eval.benchmarks:
        yield (
            f"eval.every = {recipe.eval.every}: there is nothing to score; set eval.path or"
            " eval.benchmarks"
        )
