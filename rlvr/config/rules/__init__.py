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
from rlvr.config.rules.objective import OBJECTIVE_RULES
from rlvr.config.rules.rollout import ROLLOUT_RULES
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


def _of_data(recipe: TrainRecipe) -> Iterator[str]:
    yield from data_faults(recipe.data, recipe.sampling.strategy)


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


def _of_stages(recipe: TrainRecipe) -> Iterator[str]:
    if recipe.stage and recipe.train.replay is not None:
        yield "stage: train.replay takes its steps from another run; remove one of them"
    steps = [stage.at_step for stage in recipe.stage]
    if steps != sorted(set(steps)) or (steps and steps[-1] >= recipe.train.steps):
        end = recipe.train.steps
        yield f"stage.at_step = {steps}: give ascending steps below train.steps = {end}"
        return
    # each is judged with the changes of those before it, so only where they have an order
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
    # _of_stages is among them and gives nothing: `then` has no stages
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
    template = data.response_template
    if "{response}" not in template:
        yield f"data.response_template = {template!r}: lacks {{response}}; add it"
    if ("{answer}" in template) != (data.answer_field is not None):
        yield (
            f"data.answer_field = {data.answer_field!r}, data.response_template = {template!r}:"
            " {answer} in the template and the field it stands for belong together; give both or"
            " neither"
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
        *OBJECTIVE_RULES,
        _of_model,
        *ROLLOUT_RULES,
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
