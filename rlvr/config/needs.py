"""Settings that matter only beside certain others: given where nothing reads them, refused.

A setting that is not in NEEDS always matters; a test goes through every field of every recipe. The
settings of [adapter] are not here: which of them a method reads stands with the method.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from functools import reduce
from typing import Any

from pydantic import BaseModel

from rlvr.common.own_code import is_own
from rlvr.config.compare import CompareRecipe
from rlvr.config.sft import FinetuneRecipe
from rlvr.config.train import TrainRecipe

Clause = Mapping[str, Callable[[Any], bool]]
"""Other settings with a test of their values, any one of which has to pass."""
Table = Mapping[str, tuple[Clause, ...]]
"""A setting, and the clauses that must all hold for it to be read."""


def _among(*values: object) -> Callable[[Any], bool]:
    return lambda value: value in values


def _other_than(*values: object) -> Callable[[Any], bool]:
    return lambda value: value not in values


def _lists(*values: str) -> Callable[[Any], bool]:
    """For a setting that is a list: whether one of the values is in it, or nothing at all: an empty
    list turns off what a recipe has set up, and says nothing about its settings."""
    return lambda listed: not listed or any(value in listed for value in values)


def _clips(*values: str) -> Callable[[Any], bool]:
    # a function of the user's own may read any setting of the section
    return lambda value: value in values or is_own(value)


def _above_zero(value: float) -> bool:
    return value > 0


# () is none, too, where a setting is a list
_is_absent, _is_there = _among(None, ()), _other_than(None, ())


def _is_generated(path: str | None) -> bool:
    return (path or "").startswith("generated:")


def _is_loaded(path: str | None) -> bool:
    return path is not None and not _is_generated(path)


_CLIPPED = {"algorithm.clip": _clips("ppo", "cispo", "geometric", "binary_tv", "binary_kl")}
_SOFT = {"algorithm.clip": _clips("soft")}
_KL = {"algorithm.kl_beta": _above_zero}
_ENTROPY_TARGET = {"algorithm.entropy_target": _is_there}
_TAUGHT = {"teacher.path": _is_there, "teacher.servers": _is_there}
_MISMATCH = {"algorithm.mismatch": _other_than("none")}
_CHOSEN = {"sampling.strategy": _other_than("uniform")}
# "auto" counts as vLLM: a recipe is the same on machines with and without it
_VLLM = {"rollout.engine": _other_than("transformers")}
# `rlvr serve` gives a server most of its GPU, whatever the recipe leaves to the trainer
_IN_PROCESS = {"rollout.engine": _among("auto", "vllm")}
_SERVERS = {"rollout.engine": _among("vllm_server")}
_EVALUATED = {"eval.path": _is_there, "eval.benchmarks": _is_there}
_HELD_OUT = {"eval.path": _is_there}

_SHARED: Table = {
    "model.revision": ({"model.path": _is_there},),
    "data.name": ({"data.path": _is_loaded},),
    "optim.decay_frac": ({"optim.schedule": _among("wsd")},),
}

_TRAIN: Table = {
    "data.split": ({"data.path": _is_there},),
    "data.limit": ({"data.path": _is_there},),
    "data.levels": ({"data.path": _is_generated},),
    "data.difficulty_field": (_CHOSEN,),
    "data.shuffle": ({"sampling.strategy": _among("uniform")},),
    "rollout.servers": (_SERVERS,),
    "rollout.server_wait_s": (_SERVERS,),
    "rollout.steps_ahead": ({"rollout.mode": _among("async")},),
    # without dynamic sampling no group is left over from a step for a later one
    "rollout.max_staleness": (
        {
            "rollout.mode": _among("async"),
            "rollout.partial": _among(True),
            "sampling.dynamic": _among(True),
        },
    ),
    "rollout.sync": (_VLLM,),
    "rollout.sync_rounding": (
        _VLLM,
        {"rollout.sync": _among("auto", "merged")},
        {"model.dtype": _among("bfloat16")},
    ),
    "rollout.gpu_memory_utilization": (_IN_PROCESS,),
    "rollout.sleep": (_IN_PROCESS,),
    "rollout.kv_cache_gib": (_VLLM,),
    "rollout.engine_args": (_VLLM,),
    "rollout.max_num_seqs": (_VLLM,),
    "rollout.tensor_parallel_size": (_VLLM,),
    "sampling.discount": (_CHOSEN,),
    "sampling.explore_frac": (_CHOSEN,),
    "sampling.max_reuse": (_CHOSEN,),
    "reward.overlong_cache_len": ({"reward.overlong": _among("penalty")},),
    "reward.format_opened_in_prompt": ({"reward.format_weight": _above_zero},),
    "reward.repetition_ngram_len": ({"reward.repetition_weight": _above_zero},),
    "algorithm.pass_k": ({"algorithm.advantage": _among("pass_at_k")},),
    "algorithm.cov_frac": ({"algorithm.cov": _other_than("none")},),
    "algorithm.cov_range": ({"algorithm.cov": _among("clip")},),
    "algorithm.cov_kl_coef": ({"algorithm.cov": _among("kl")},),
    "algorithm.clip_low": (_CLIPPED,),
    "algorithm.clip_high": (_CLIPPED,),
    "algorithm.clip_delta": ({"algorithm.clip": _clips("ppo")},),
    "algorithm.soft_tau_pos": (_SOFT,),
    "algorithm.soft_tau_neg": (_SOFT,),
    "algorithm.kl_estimator": (_KL,),
    "algorithm.kl_in": (_KL,),
    "algorithm.kl_unbiased": (_KL, {"algorithm.kl_in": _among("loss")}),
    "algorithm.reference": (_KL,),
    "algorithm.reference_every": (_KL, {"algorithm.reference": _among("anchor")}),
    "algorithm.reference_decay": (_KL, {"algorithm.reference": _among("ema")}),
    "algorithm.entropy_coef_step": (_ENTROPY_TARGET,),
    "algorithm.entropy_coef_max": (_ENTROPY_TARGET,),
    "algorithm.mismatch_level": (_MISMATCH,),
    "algorithm.mismatch_cap": (_MISMATCH,),
    "teacher.weight": (_TAUGHT,),
    "teacher.kind": (_TAUGHT,),
    "eval.name": ({"eval.path": _is_loaded},),
    "eval.split": (_HELD_OUT,),
    "eval.problem_field": (_HELD_OUT,),
    "eval.answer_field": (_HELD_OUT,),
    "eval.answer_after": (_HELD_OUT,),
    "eval.levels": ({"eval.path": _is_generated},),
    "eval.limit": (_EVALUATED,),
    "eval.samples": (_EVALUATED,),
    "eval.samples_by_set": (_EVALUATED,),
    "eval.max_len": (_EVALUATED,),
    "eval.temperature": (_EVALUATED,),
    "eval.top_p": (_EVALUATED, {"eval.temperature": _above_zero}),
    "eval.every": (_EVALUATED,),
    "eval.best_metric": (_EVALUATED,),
    # "disabled" is true whatever the other trackers are
    "track.wandb": ({"track.to": _lists("wandb"), "track.wandb": _among("disabled")},),
    "track.project": (
        {"track.to": _lists("wandb", "trackio", "mlflow")},
        {"track.wandb": _other_than("disabled"), "track.to": _lists("trackio", "mlflow")},
    ),
}

_WRITTEN = {"data.path": _is_loaded}
_PROMPTED = {"data.messages_field": _is_absent}

_FINETUNE: Table = {
    "data.prompt_field": (_WRITTEN,),
    "data.response_field": (_WRITTEN,),
    "data.response_template": (_WRITTEN, _PROMPTED),
    "data.answer_field": (_WRITTEN, _PROMPTED),
    "data.messages_field": (_WRITTEN,),
    "data.system_prompt": (_PROMPTED,),
    "data.prompt_template": (_PROMPTED,),
}

_CLUSTER = {"executor.kind": _among("ray", "slurm")}
_CURVATURE = {"find.prior": _among("curvature")}

_COMPARE: Table = {
    "budget.max_steps": ({"budget.steps": _is_absent},),
    "find.last_frac": ({"find.signal": _among("reward")},),
    "find.prior_power": (_CURVATURE,),
    "find.prior_rows": (_CURVATURE,),
    "executor.parallel": ({"executor.kind": _among("local", "slurm")},),
    "executor.runs_per_engine": ({"executor.kind": _among("shared")},),
    "executor.gpus_per_run": (_CLUSTER,),
    "executor.cpus_per_run": (_CLUSTER,),
    "executor.max_retries": ({"executor.kind": _among("ray")},),
    "executor.sbatch_options": ({"executor.kind": _among("slurm")},),
}

NEEDS: Mapping[type[BaseModel], Table] = {
    TrainRecipe: {**_SHARED, **_TRAIN},
    FinetuneRecipe: {**_SHARED, **_FINETUNE},
    CompareRecipe: _COMPARE,
}
"""For each kind of recipe its settings that are not always read, and what they need."""


def ignored(recipe: BaseModel) -> Iterator[tuple[str, str]]:
    """(setting, message with the remedy) for every setting that is given and that nothing reads.

    Given is what the recipe or an override writes, also where it is the default's value; what a
    preset fills in is not.
    """
    for key, clause in _unread(recipe):
        section, name = _place(recipe, key)
        if name in section.model_fields_set:
            value = json.dumps(getattr(section, name))
            yield key, f"{key} = {value}: would be ignored {_state(recipe, clause)}; remove it"


def resolved(recipe: BaseModel) -> dict[str, Any]:
    """The JSON-ready settings that are read, given or not: what config.toml keeps of a recipe."""
    # TOML has no null
    tree = recipe.model_dump(mode="json", exclude_none=True)
    for key, _ in _unread(recipe):
        drop(tree, key)
    return tree


def drop(tree: dict[str, Any], key: str) -> None:
    """Removes section.name from nested dicts, if it is there."""
    *sections, name = key.split(".")
    reduce(lambda inner, section: inner.get(section, {}), sections, tree).pop(name, None)


def _unread(recipe: BaseModel) -> Iterator[tuple[str, Clause]]:
    """The settings that nothing reads, each with the first clause that does not hold."""
    for key, clauses in NEEDS.get(type(recipe), {}).items():
        for clause in clauses:
            if not any(test(_value(recipe, other)) for other, test in clause.items()):
                yield key, clause
                break


def _place(recipe: BaseModel, key: str) -> tuple[BaseModel, str]:
    *sections, name = key.split(".")
    return reduce(getattr, sections, recipe), name


def _value(recipe: BaseModel, key: str) -> Any:
    section, name = _place(recipe, key)
    return getattr(section, name)


def _state(recipe: BaseModel, clause: Clause) -> str:
    """The clause's settings as they are: 'with a.b = 1 and c.d = false', 'without e.f'."""
    values = {key: _value(recipe, key) for key in clause}
    absent = [key for key, value in values.items() if _is_absent(value)]
    there = [f"{key} = {json.dumps(value)}" for key, value in values.items() if key not in absent]
    parts = [("with", there), ("without", absent)]
    return " and ".join(f"{word} {' and '.join(keys)}" for word, keys in parts if keys)
