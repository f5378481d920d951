"""Combinations of settings that cannot work, judged by the recipe alone. Imports no torch.

What depends on this machine, the adapter method or the number of processes is judged in
`rlvr.training.preflight`; the range of a single number stands at its field.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from pydantic import BaseModel, ValidationError

from rlvr.common.errors import ConfigError
from rlvr.common.nested import flatten
from rlvr.config.compare import UNITS, CompareRecipe
from rlvr.config.data import data_faults
from rlvr.config.needs import ignored
from rlvr.config.presets import USES_EQUAL_REWARDS
from rlvr.config.rollout import refused_args
from rlvr.config.sft import FinetuneRecipe
from rlvr.config.train import TrainRecipe
from rlvr.config.warm_start import WarmStartRecipe


def check_rules(recipe: BaseModel) -> None:
    """Refuses settings that would be ignored or that contradict each other.

    Raises: ConfigError, one line with the setting, the reason and the remedy.
    """
    for _, reason in ignored(recipe):
        raise ConfigError(reason)
    for rule in RULES.get(type(recipe), ()):
        for reason in rule(recipe):
            raise ConfigError(reason)


def _of_source(recipe: TrainRecipe | FinetuneRecipe) -> Iterator[str]:
    if (recipe.model.path is None) == (recipe.model.sft_recipe is None):
        yield "model.path: give exactly one of model.path and model.sft_recipe"
    template = recipe.data.prompt_template
    if "{problem}" not in template:
        yield f"data.prompt_template = {template!r}: lacks {{problem}}; add it"


def _of_profile(recipe: TrainRecipe) -> Iterator[str]:
    beyond = [step for step in recipe.train.profile_steps if step > recipe.train.steps]
    if beyond:
        yield (
            f"train.profile_steps = {list(recipe.train.profile_steps)}: the run has"
            f" {recipe.train.steps} steps, no {beyond[0]}; leave it out or raise train.steps"
        )


def _of_halves(recipe: TrainRecipe) -> Iterator[str]:
    train = recipe.train
    if train.replay is not None and train.rollouts_only:
        yield (
            f"train.replay = {train.replay!r}: trains without generating, and train.rollouts_only"
            " generates without training; leave one out"
        )
    if train.rollouts_only and train.profile_steps:
        yield (
            f"train.profile_steps = {list(train.profile_steps)}: profiles the update and the sync,"
            " and train.rollouts_only has neither; leave one out"
        )


def _of_data(recipe: TrainRecipe) -> Iterator[str]:
    yield from data_faults(recipe.data, recipe.sampling.strategy)


def _of_algorithm(recipe: TrainRecipe) -> Iterator[str]:
    config = recipe.algorithm
    if config.clip == "geometric" and config.ratio != "token":
        yield (
            f'algorithm.ratio = "{config.ratio}": clip = "geometric" takes the mean over the'
            ' response itself; set algorithm.ratio = "token"'
        )
    if config.clip_delta is not None and config.clip_delta <= 1 + config.clip_high:
        yield (
            f"algorithm.clip_delta = {config.clip_delta}: must lie above 1 + clip_high ="
            f" {1 + config.clip_high:g}; 3 is usual"
        )
    if config.entropy_target is not None and config.entropy_coef > config.entropy_coef_max:
        yield (
            f"algorithm.entropy_coef = {config.entropy_coef}: above entropy_coef_max ="
            f" {config.entropy_coef_max}; lower it or raise that"
        )


def _of_reference(recipe: TrainRecipe) -> Iterator[str]:
    config = recipe.algorithm
    if config.kl_in == "loss" and config.kl_estimator == "k1" and not config.kl_unbiased:
        yield (
            "algorithm.kl_unbiased = false: k1 in the loss has a gradient of 0 on average; set"
            ' it to true, kl_estimator to "k2" or "k3", or kl_in to "reward"'
        )
    if config.kl_in == "loss" and config.kl_estimator == "k2" and config.kl_unbiased:
        yield (
            "algorithm.kl_unbiased = true: k2 has the KL's gradient without the factor and with"
            ' it another; remove it or set kl_estimator to "k1" or "k3"'
        )
    if config.reference != "initial" and recipe.adapter.method != "full":
        yield (
            f'algorithm.reference = "{config.reference}": moves with adapter.method = "full" alone;'
            ' set it to "initial", or the method to "full"'
        )


def _of_model(recipe: TrainRecipe) -> Iterator[str]:
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
    for name in ("geometric_mask", "off_policy_mask"):
        if getattr(recipe.algorithm, name) is not None:
            yield (
                f"algorithm.{name}: compares with the engine's probabilities, which truncated"
                " sampling (rollout.top_p, top_k or min_p) renormalises; sample from the full"
                " distribution or remove it"
            )


def _trains_on_older(recipe: TrainRecipe) -> bool:
    """Whether a step may train on responses of an earlier step's weights."""
    rollout = recipe.rollout
    may_keep = rollout.mode == "async" or rollout.partial or recipe.sampling.dynamic
    return recipe.rollout.max_staleness > 0 and may_keep


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
    if _truncates(recipe) and _trains_on_older(recipe):
        yield (
            f"rollout.max_staleness = {staleness}: responses of older weights"
            " are weighed by the engine's probabilities, which truncated sampling (top_p,"
            ' top_k, min_p) renormalises; set it to 0 with rollout.mode = "sync", or sample'
            " from the full distribution"
        )


def _of_engine_args(recipe: TrainRecipe) -> Iterator[str]:
    yield from refused_args(recipe.rollout.engine_args)


def _of_behaviour(recipe: TrainRecipe) -> Iterator[str]:
    algorithm, dtype = recipe.algorithm, recipe.model.dtype
    # a token's ratio carries the rounding once; over a response of 1,000 tokens it adds up
    by_engine = algorithm.mismatch == "none" and _trains_on_older(recipe)
    if by_engine and algorithm.ratio != "token" and dtype != "float32":
        yield (
            f'algorithm.mismatch = "none": algorithm.ratio = "{algorithm.ratio}" would add up the'
            f" {dtype} rounding of the engine over each response of older weights; set it to"
            ' "tis", or rollout.max_staleness to 0 with rollout.mode = "sync"'
        )


def _of_estimator(recipe: TrainRecipe) -> Iterator[str]:
    algorithm, reward = recipe.algorithm, recipe.reward
    shaped = reward.format_weight or reward.length_weight or reward.repetition_weight
    plain = (reward.correct, reward.incorrect) == (1, 0) and not (shaped or reward.extra)
    in_reward = algorithm.kl_beta and algorithm.kl_in == "reward"
    is_binary = plain and not in_reward and reward.overlong != "penalty" and not reward.normalise
    if algorithm.advantage == "over_mean" and not is_binary:
        yield (
            'algorithm.advantage = "over_mean": divides by the mean reward, which has to be the'
            " share of right responses: reward.correct = 1, incorrect = 0, no other part of the"
            ' reward, no KL in it; remove those, or set the advantage to "group_mean"'
        )
    if algorithm.advantage == "pass_at_k" and algorithm.pass_k >= recipe.rollout.group_size:
        yield (
            f"algorithm.pass_k = {algorithm.pass_k}: a group of rollout.group_size ="
            f" {recipe.rollout.group_size} has one such set at most, and no advantages; lower the"
            " first or raise that"
        )
    if algorithm.cov == "kl" and recipe.optim.updates_per_step == 1:
        yield (
            'algorithm.cov = "kl": in the first update of a step no token has drifted, and there'
            ' is no second; set optim.updates_per_step to 2 or more, or cov to "clip"'
        )


def _of_teacher(recipe: TrainRecipe) -> Iterator[str]:
    teacher, algorithm = recipe.teacher, recipe.algorithm
    if not teacher.is_given:
        if algorithm.advantage == "none":
            yield (
                'algorithm.advantage = "none": trains nothing without a teacher; give teacher.path'
                ' or teacher.servers, or set it to "group_std"'
            )
        return
    if teacher.path is not None and teacher.servers:
        yield "teacher.path: give one of teacher.path and teacher.servers, not both; remove one"
    for url in sorted(set(teacher.servers) & set(recipe.rollout.servers)):
        yield (
            f"teacher.servers: {url} is among rollout.servers and takes the policy's weights; start"
            " another with rlvr serve"
        )
    if algorithm.ratio in ("sequence", "trajectory"):
        yield (
            f'algorithm.ratio = "{algorithm.ratio}": one ratio for a whole response, and a'
            ' teacher\'s advantage is of a token; set it to "token" or "sequence_token"'
        )
    if algorithm.clip == "geometric":
        yield (
            'algorithm.clip = "geometric": one gain for a whole response, and a teacher\'s'
            ' advantage is of a token; set it to "ppo"'
        )
    if algorithm.advantage == "none" and algorithm.kl_beta and algorithm.kl_in == "reward":
        yield (
            'algorithm.kl_in = "reward": would be ignored with algorithm.advantage = "none"; set it'
            ' to "loss", or algorithm.kl_beta to 0'
        )
    if teacher.servers and recipe.rollout.temperature != 1:
        yield (
            f"rollout.temperature = {recipe.rollout.temperature:g}: vLLM scores prompts at"
            " temperature 1 only; set it to 1, or take teacher.path instead of teacher.servers"
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
    reward, longest = recipe.reward, recipe.rollout.max_response_len
    if reward.correct <= reward.incorrect:
        yield (
            f"reward.correct = {reward.correct}: must be above reward.incorrect ="
            f" {reward.incorrect}; a correct answer has to pay"
        )
    labels = [one.label for one in reward.extra]
    for label in sorted({label for label in labels if labels.count(label) > 1}):
        yield f"reward.extra.name: two are called {label}; give one of them another name"
    if reward.overlong == "penalty" and not 0 < reward.overlong_cache_len <= longest:
        yield (
            f"reward.overlong_cache_len = {reward.overlong_cache_len}: must lie in"
            f" 1..rollout.max_response_len = {longest} for the soft"
            " penalty; DAPO takes a fifth of it"
        )


def _of_stages(recipe: TrainRecipe) -> Iterator[str]:
    if recipe.stage and recipe.train.replay is not None:
        yield "stage: train.replay takes its steps from another run; remove one of them"
    steps = [stage.at_step for stage in recipe.stage]
    if steps != sorted(set(steps)) or (steps and steps[-1] >= recipe.train.steps):
        end = recipe.train.steps
        yield f"stage.at_step = {steps}: give ascending steps below train.steps = {end}"
        return
    for number, stage in enumerate(recipe.stage, start=1):
        for reason in _of_stage(recipe, number):
            yield f"stage at step {stage.at_step}: {reason}"


def _of_stage(recipe: TrainRecipe, number: int) -> Iterator[str]:
    stage = recipe.stage[number - 1]
    try:
        then = recipe.in_stage(number)
    except ValidationError as error:
        first = error.errors()[0]
        what = "unknown setting" if first["type"] == "extra_forbidden" else first["msg"]
        yield f"{'.'.join(map(str, first['loc']))} = {first['input']!r}: {what}; correct it"
        return
    yield from stage.refused()
    if not (stage.changes or stage.reset_reference or stage.reset_optimizer):
        yield "changes nothing; remove it"
    if stage.reset_reference and not then.algorithm.kl_beta:
        yield "reset_reference = true: algorithm.kl_beta = 0 has no reference policy; remove it"
    if recipe.eval.sets and then.eval_len != recipe.eval_len:
        yield (
            f"rollout.max_response_len = {then.rollout.max_response_len}: evaluations would be of"
            " other lengths than before; set eval.max_len"
        )
    # what an earlier stage has given may rest, what this one gives is meant to be read
    given = flatten(stage.changes)
    yield from (reason for key, reason in ignored(then) if key in given)
    for rule in RULES[TrainRecipe]:
        yield from rule(then)


def _of_eval(recipe: TrainRecipe) -> Iterator[str]:
    config, sets = recipe.eval, recipe.eval.sets
    name, _, metric = config.best_metric.rpartition("/")
    known = ("avg@k", "pass@k", "maj@k", "format_rate")
    whole = ("accuracy", "accuracy_mean") if len(sets) > 1 else ("accuracy",)
    if config.best_metric not in whole and (name not in sets or metric not in known):
        yield (
            f"eval.best_metric = {config.best_metric!r}: it is {' or '.join(whole)}, or one of"
            f" {', '.join(sets) or 'no set'} with /{', /'.join(known)}"
        )
    for name in (config.samples_by_set or {}).keys() - set(sets):
        yield (
            f"eval.samples_by_set.{name}: no such set is evaluated; name one of"
            f" {', '.join(sets) or 'no set'}"
        )
    if config.max_len is not None and config.max_len >= recipe.model.max_len:
        yield (
            f"eval.max_len = {config.max_len}: leaves no room for a prompt in model.max_len ="
            f" {recipe.model.max_len}; lower the first or raise that"
        )


def _of_supervision(recipe: FinetuneRecipe) -> Iterator[str]:
    if recipe.model.dtype == "float16":
        yield (
            'model.dtype = "float16": supervised training has no loss scaling; take "bfloat16"'
            ' or "float32"'
        )
    if recipe.optim.updates_per_step != 1:
        yield (
            f"optim.updates_per_step = {recipe.optim.updates_per_step}: a supervised step is one"
            " update; remove it"
        )
    if recipe.train.batch_size % recipe.train.micro:
        yield (
            f"train.rows_per_microbatch = {recipe.train.micro}: must divide train.batch_size ="
            f" {recipe.train.batch_size}"
        )


def _of_examples(recipe: FinetuneRecipe) -> Iterator[str]:
    data = recipe.data
    pair = (data.prompt_field, data.response_field)
    if data.messages_field and any(pair):
        yield (
            f"data.messages_field = {data.messages_field!r}: one format only; remove it, or"
            " data.prompt_field and data.response_field"
        )
    if not data.generated and not data.messages_field and not all(pair):
        yield (
            "data.prompt_field: say what the examples are: give data.prompt_field and"
            " data.response_field, or data.messages_field"
        )


def _of_shape(recipe: WarmStartRecipe) -> Iterator[str]:
    model = recipe.model
    if model.hidden_size % model.num_heads or model.num_heads % model.num_kv_heads:
        yield (
            f"model.num_heads = {model.num_heads}: must divide model.hidden_size ="
            f" {model.hidden_size} and be a multiple of model.num_kv_heads = {model.num_kv_heads}"
        )


def _of_comparison(recipe: CompareRecipe) -> Iterator[str]:
    units = [unit for unit in UNITS if getattr(recipe.budget, unit) is not None]
    steps, prune = recipe.budget.steps, recipe.prune
    if len(units) != 1:
        yield (
            f"budget: {' and '.join(units) or 'nothing'} given; give exactly one of steps,"
            " tokens, seconds and flops"
        )
    if recipe.find.steps is None and steps is None and recipe.wants_find:
        yield "find.steps: missing; the budget is not in steps, so say how many"
    if prune is None:
        return
    rungs = list(prune.rungs)
    if rungs != sorted(set(rungs)) or rungs[0] < 1:
        yield f"prune.rungs = {rungs}: give ascending steps, e.g. [5, 10]"
    if steps is None:
        yield "prune.rungs: pruning needs a budget in steps; set budget.steps"
    elif rungs[-1] >= steps:
        yield f"prune.rungs = {rungs}: must end below budget.steps = {steps}"


RULES: dict[type[BaseModel], tuple[Callable[[Any], Iterator[str]], ...]] = {
    TrainRecipe: (
        _of_source,
        _of_data,
        _of_profile,
        _of_halves,
        _of_algorithm,
        _of_reference,
        _of_model,
        _of_engine,
        _of_truncated_sampling,
        _of_staleness,
        _of_engine_args,
        _of_behaviour,
        _of_estimator,
        _of_teacher,
        _of_batch,
        _of_reward,
        _of_eval,
        _of_stages,
    ),
    FinetuneRecipe: (_of_source, _of_supervision, _of_examples),
    WarmStartRecipe: (_of_shape,),
    CompareRecipe: (_of_comparison,),
}
"""For each kind of recipe the rules that it has to keep; a rule gives what breaks it."""


def cautions(recipe: TrainRecipe) -> Iterator[str]:
    """Settings that work and are easily not meant, one sentence each; logged when a run starts."""
    parts = ("format_weight", "length_weight", "repetition_weight")
    weights = {name: getattr(recipe.reward, name) for name in parts}
    weights |= {f"extra {one.label}": one.weight for one in recipe.reward.extra}
    given = ", ".join(f"reward.{name} = {value:g}" for name, value in weights.items() if value)
    advantage = recipe.algorithm.advantage
    if given and advantage in ("group_std", "pass_at_k"):
        yield (
            f'{given}: algorithm.advantage = "{advantage}" scales every group to one standard'
            " deviation, so that where all are right, or all are wrong, this part trains as loudly"
            ' as correctness does, however small its weight; set the advantage to "group_mean" or'
            ' "batch_std" to keep the proportion'
        )
