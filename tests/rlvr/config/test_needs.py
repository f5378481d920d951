"""Every field of every recipe is always read, or is refused where it would not be."""

import re
from functools import reduce

import pytest
from pydantic import BaseModel

from rlvr.common.errors import ConfigError
from rlvr.config.compare import CompareRecipe
from rlvr.config.needs import NEEDS, ignored, resolved
from rlvr.config.presets import PRESETS
from rlvr.config.sft import FinetuneRecipe
from rlvr.config.toml import dump_toml, load_recipe, toml_text, validate
from rlvr.config.train import TrainRecipe
from rlvr.config.warm_start import WarmStartRecipe

MINIMAL = {
    TrainRecipe: {
        "model.path": "policy",
        "data.path": "rows.jsonl",
        "optim.lr": 1e-3,
        "train.steps": 2,
    },
    FinetuneRecipe: {
        "model.path": "policy",
        "data.path": "rows.jsonl",
        "data.prompt_field": "q",
        "data.response_field": "a",
        "optim.lr": 1e-3,
    },
    CompareRecipe: {
        "compare.name": "c",
        "compare.base": "base.toml",
        "budget.steps": 2,
        "methods.lora.lr": 1e-3,
    },
}

ALWAYS = {
    TrainRecipe: """
        model.path model.sft_recipe model.dtype model.max_len model.trust_remote_code
        data.path data.source data.problem_field data.answer_field data.answer_after data.id_field
        data.system_prompt data.prompt_template data.chat_template data.max_prompt_len
        data.max_per_answer data.on_bad_row
        rollout.engine rollout.mode rollout.partial rollout.abort_stragglers
        rollout.prompts_per_step rollout.group_size rollout.max_response_len
        rollout.stop rollout.stop_token_ids
        rollout.temperature rollout.top_p rollout.top_k rollout.min_p rollout.sync_tolerance
        sampling.strategy sampling.dynamic sampling.max_refills
        reward.answer_mode reward.require_closed_think reward.correct reward.incorrect
        reward.timeout_s reward.num_workers reward.overlong reward.format_weight
        reward.length_weight reward.repetition_weight reward.extra reward.normalise
        algorithm.preset algorithm.advantage algorithm.ratio algorithm.clip algorithm.aggregation
        algorithm.kl_beta algorithm.entropy_coef algorithm.entropy_target algorithm.mismatch
        algorithm.geometric_mask algorithm.off_policy_mask algorithm.top_entropy_quantile
        algorithm.cov teacher.path teacher.servers
        optim.name optim.lr optim.betas optim.eps optim.weight_decay optim.schedule
        optim.warmup_steps optim.max_grad_norm optim.updates_per_step
        train.steps train.seed train.tokens_per_microbatch train.activation_checkpointing
        train.compile train.checkpoint_every train.checkpoint_minutes
        train.keep_checkpoints train.replay train.rollouts_only train.profile_steps
        train.num_threads
        eval.path eval.benchmarks
        track.to track.rollouts_per_step track.save_all_rollouts run.dir run.name stage
    """,
    FinetuneRecipe: """
        model.path model.sft_recipe model.dtype model.max_len model.trust_remote_code
        data.path data.split data.loss data.chat_template data.on_bad_row data.limit data.held_out
        optim.name optim.lr optim.betas optim.eps optim.weight_decay optim.schedule
        optim.warmup_steps optim.max_grad_norm optim.updates_per_step
        train.epochs train.batch_size train.rows_per_microbatch train.packing
        train.activation_checkpointing train.seed train.log_every train.num_threads
        run.dir run.name run.merge
    """,
    WarmStartRecipe: """
        data.num_problems data.levels data.stop_early data.wrong_operation data.slip
        train.lr train.batch_size train.warmup_steps train.weight_decay train.max_grad_norm
        train.seed train.num_threads
        model.hidden_size model.num_layers model.num_heads model.num_kv_heads
        model.intermediate_size model.vocab_size model.context_len run.name
    """,
    CompareRecipe: """
        compare.name compare.base compare.dir compare.seeds compare.match compare.allow_unmatched
        methods budget.steps budget.tokens budget.seconds budget.flops settings
        find.seeds find.precision find.steps find.signal find.num_points find.max_points find.prior
        find.reference_lr find.min_r2 find.rules.max_kl find.rules.max_kl_step
        find.rules.min_reward_frac find.rules.max_grad_norm_ratio
        dense.min_lr dense.max_lr dense.seeds prune executor.kind
    """,
}
"""What is read whatever the others are. optim.updates_per_step of a supervised recipe is refused by
a rule of its own; sampling.max_refills bounds the rounds for what nobody judged too."""

KL = {"algorithm.kl_beta": 0.1}
COV_KL = {"algorithm.cov": "kl", "optim.updates_per_step": 2}
SCORED = {"eval.benchmarks": ["aime24"]}
GENERATED = {"data.path": "generated:word_problems", "data.limit": 9}

SEVERAL = {"data.path": None, "data.source": [{"path": "a.jsonl"}, {"path": "b.jsonl"}]}

CASES = [
    (TrainRecipe, "model.revision", {"model.path": None, "model.sft_recipe": "s.toml"}, {}),
    (TrainRecipe, "data.name", GENERATED, {}),
    (TrainRecipe, "data.levels", {}, GENERATED),
    (TrainRecipe, "data.split data.limit", SEVERAL, {}),
    (TrainRecipe, "optim.decay_frac", {}, {"optim.schedule": "wsd"}),
    (TrainRecipe, "data.difficulty_field sampling.discount sampling.explore_frac"
     " sampling.max_reuse", {}, {"sampling.strategy": "curriculum"}),
    (TrainRecipe, "data.shuffle", {"sampling.strategy": "predictive"}, {}),
    (TrainRecipe, "rollout.servers rollout.server_wait_s", {}, {"rollout.engine": "vllm_server"}),
    (TrainRecipe, "rollout.steps_ahead", {}, {"rollout.mode": "async"}),
    (TrainRecipe, "rollout.max_staleness", {"sampling.dynamic": False}, {}),
    (TrainRecipe, "rollout.max_staleness", {"sampling.dynamic": False},
     {"sampling.dynamic": False, "rollout.mode": "async"}),
    (TrainRecipe, "rollout.max_staleness", {"sampling.dynamic": False},
     {"sampling.dynamic": False, "rollout.partial": True}),
    (TrainRecipe, "rollout.sync rollout.kv_cache_gib rollout.engine_args"
     " rollout.max_num_seqs rollout.tensor_parallel_size", {"rollout.engine": "transformers"},
     {"rollout.engine": "vllm_server"}),
    (TrainRecipe, "rollout.sync_rounding", {"rollout.engine": "transformers"}, {}),
    (TrainRecipe, "rollout.sync_rounding", {"rollout.sync": "adapter"}, {"rollout.sync": "merged"}),
    (TrainRecipe, "rollout.sync_rounding", {"model.dtype": "float32"}, {}),
    (TrainRecipe, "rollout.sync_rounding", {"model.dtype": "float16"}, {}),
    (TrainRecipe, "rollout.sleep rollout.gpu_memory_utilization",
     {"rollout.engine": "transformers"}, {}),
    (TrainRecipe, "rollout.sleep rollout.gpu_memory_utilization",
     {"rollout.engine": "vllm_server"}, {"rollout.engine": "vllm"}),
    (TrainRecipe, "reward.overlong_cache_len", {"reward.overlong": "mask"},
     {"reward.overlong": "penalty"}),
    (TrainRecipe, "reward.format_opened_in_prompt", {}, {"reward.format_weight": 0.1}),
    (TrainRecipe, "reward.repetition_ngram_len", {}, {"reward.repetition_weight": 0.1}),
    (TrainRecipe, "algorithm.clip_low algorithm.clip_high", {"algorithm.clip": "none"},
     {"algorithm.clip": "cispo"}),
    (TrainRecipe, "algorithm.clip_low algorithm.clip_high", {"algorithm.preset": "sapo"},
     {"algorithm.preset": "gmpo"}),
    (TrainRecipe, "algorithm.clip_delta", {"algorithm.clip": "geometric"}, {}),
    (TrainRecipe, "algorithm.pass_k", {}, {"algorithm.advantage": "pass_at_k"}),
    (TrainRecipe, "algorithm.cov_frac algorithm.cov_range", {}, {"algorithm.cov": "clip"}),
    (TrainRecipe, "algorithm.cov_range", COV_KL, {"algorithm.cov": "clip"}),
    (TrainRecipe, "algorithm.cov_kl_coef", {"algorithm.cov": "clip"}, COV_KL),
    (TrainRecipe, "algorithm.soft_tau_pos algorithm.soft_tau_neg", {},
     {"algorithm.preset": "sapo"}),
    (TrainRecipe, "algorithm.kl_estimator algorithm.kl_in algorithm.kl_unbiased"
     " algorithm.reference", {}, KL),
    (TrainRecipe, "algorithm.kl_unbiased", KL | {"algorithm.kl_in": "reward"},
     {"algorithm.preset": "grpo"}),
    (TrainRecipe, "algorithm.reference_every", KL | {"algorithm.reference": "ema"},
     KL | {"algorithm.reference": "anchor"}),
    (TrainRecipe, "algorithm.reference_decay", KL, KL | {"algorithm.reference": "ema"}),
    (TrainRecipe, "algorithm.entropy_coef_step algorithm.entropy_coef_max",
     {"algorithm.entropy_coef": 0.1}, {"algorithm.entropy_target": 0.3}),
    (TrainRecipe, "algorithm.mismatch_level algorithm.mismatch_cap",
     {"algorithm.mismatch": "none"}, {"algorithm.mismatch": "mask"}),
    (TrainRecipe, "teacher.weight teacher.kind", {}, {"teacher.path": "teacher"}),
    (TrainRecipe, "teacher.weight teacher.kind", {}, {"teacher.servers": ["http://h:1"]}),
    (TrainRecipe, "eval.name eval.split eval.problem_field eval.answer_field eval.answer_after",
     SCORED, {"eval.path": "rows.jsonl"}),
    (TrainRecipe, "eval.name", {"eval.path": "generated:word_problems"}, {"eval.path": "a/b"}),
    (TrainRecipe, "eval.levels", {"eval.path": "rows.jsonl"},
     {"eval.path": "generated:word_problems"}),
    (TrainRecipe, "eval.limit eval.samples eval.samples_by_set eval.max_len eval.temperature"
     " eval.top_p eval.every eval.best_metric", {}, SCORED),
    (TrainRecipe, "eval.limit eval.samples eval.samples_by_set eval.max_len eval.temperature"
     " eval.top_p eval.every eval.best_metric", {}, {"eval.path": "rows.jsonl"}),
    (TrainRecipe, "eval.top_p", SCORED | {"eval.temperature": 0.0},
     SCORED | {"eval.temperature": 0.6}),
    (TrainRecipe, "track.wandb", {"track.to": ["mlflow"]}, {"track.to": ["mlflow", "wandb"]}),
    (TrainRecipe, "track.project", {"track.wandb": "disabled"}, {"track.wandb": "offline"}),
    (TrainRecipe, "track.project", {"track.to": ["tensorboard"]}, {"track.to": ["trackio"]}),
    (TrainRecipe, "track.project", {"track.wandb": "disabled"},
     {"track.wandb": "disabled", "track.to": ["wandb", "mlflow"]}),
    (TrainRecipe, "track.wandb track.project", {"track.to": ["tensorboard"]}, {"track.to": []}),
    (FinetuneRecipe, "model.revision", {"model.path": None, "model.sft_recipe": "s.toml"}, {}),
    (FinetuneRecipe, "optim.decay_frac", {}, {"optim.schedule": "wsd"}),
    (FinetuneRecipe, "data.name data.prompt_field data.response_field data.messages_field",
     GENERATED, {}),
    (FinetuneRecipe, "data.response_template data.answer_field", GENERATED, {}),
    (FinetuneRecipe, "data.response_template data.answer_field", {"data.messages_field": "talk"},
     {}),
    (FinetuneRecipe, "data.system_prompt data.prompt_template", {"data.messages_field": "talk"},
     {}),
    (CompareRecipe, "budget.max_steps", {}, {"budget.steps": None, "budget.tokens": 1e6}),
    (CompareRecipe, "find.last_frac", {"find.signal": "accuracy"}, {"find.signal": "reward"}),
    (CompareRecipe, "find.prior_power find.prior_rows", {"find.prior": "none"}, {}),
    (CompareRecipe, "executor.parallel", {"executor.kind": "ray"}, {"executor.kind": "slurm"}),
    (CompareRecipe, "executor.runs_per_engine", {}, {"executor.kind": "shared"}),
    (CompareRecipe, "executor.gpus_per_run executor.cpus_per_run", {}, {"executor.kind": "ray"}),
    (CompareRecipe, "executor.max_retries", {"executor.kind": "slurm"}, {"executor.kind": "ray"}),
    (CompareRecipe, "executor.sbatch_options", {}, {"executor.kind": "slurm"}),
]  # fmt: skip
"""(recipe, settings, what leaves them unread, what has them read)."""
ROWS = [
    pytest.param(kind, key, off, on, id=f"{kind.__name__}-{key}-{number}")
    for number, (kind, keys, off, on) in enumerate(CASES)
    for key in keys.split()
]
VALUES = {
    "data.levels": [2],
    "eval.levels": [2],
    "data.limit": 5,
    "eval.limit": 5,
    "eval.samples_by_set": {"heldout": 4},
    "eval.max_len": 64,
    "algorithm.clip_delta": 3.0,
    "algorithm.kl_unbiased": False,
}
"""Given where the default is None and a text is no value."""


def tree_of(settings):
    tree = {}
    for key, value in settings.items():
        *sections, name = key.split(".")
        if value is not None:
            reduce(lambda inner, part: inner.setdefault(part, {}), sections, tree)[name] = value
    return tree


def keys_of(kind, prefix=""):
    for name, field in kind.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel) and name != "adapter":
            yield from keys_of(inner, f"{prefix}{name}.")
        elif name != "adapter":  # what a method ignores stands with the method
            yield prefix + name


def default_of(kind, key):
    *sections, name = key.split(".")
    section = reduce(lambda inner, part: inner.model_fields[part].annotation, sections, kind)
    default = section.model_fields[name].default
    return VALUES.get(key, "x" if default is None else default)


@pytest.mark.parametrize("kind", ALWAYS, ids=lambda kind: kind.__name__)
def test_every_field_of_every_section_is_in_the_table_or_always_read(kind):
    needing, always = set(NEEDS.get(kind, {})), ALWAYS[kind].split()
    assert sorted(needing | set(always)) == sorted(keys_of(kind))
    assert len(always) == len(set(always) - needing)


def test_the_cases_below_have_every_row_of_the_table():
    assert {(kind, key) for kind, table in NEEDS.items() for key in table} == {
        tuple(row.values[:2]) for row in ROWS
    }


@pytest.mark.parametrize(("kind", "key", "off", "on"), ROWS)
def test_what_nothing_reads_is_refused_even_at_its_default(kind, key, off, on):
    value = default_of(kind, key)
    tree = tree_of(MINIMAL[kind] | {key: value} | off)
    said = dict(ignored(kind.model_validate(tree)))[key]
    assert re.fullmatch(rf"{key} = .+: would be ignored with.+; remove it", said)
    with pytest.raises(ConfigError, match="would be ignored"):
        validate(tree, kind)
    read = kind.model_validate(tree_of(MINIMAL[kind] | {key: value} | on))
    assert key not in dict(ignored(read))


@pytest.mark.parametrize("preset", PRESETS)
def test_what_a_preset_fills_in_is_not_given(preset):
    tree = tree_of(MINIMAL[TrainRecipe] | {"algorithm.preset": preset})
    recipe = validate(tree, TrainRecipe)
    assert recipe.algorithm.model_fields_set == {"preset"}
    assert PRESETS[preset].items() <= recipe.algorithm.model_dump().items()


def test_a_message_names_what_switches_the_setting_off():
    def said(**settings):
        tree = tree_of(
            MINIMAL[TrainRecipe] | {k.replace("__", "."): v for k, v in settings.items()}
        )
        return next(message for _, message in ignored(TrainRecipe.model_validate(tree)))

    assert said(algorithm__soft_tau_pos=1.0) == (
        'algorithm.soft_tau_pos = 1.0: would be ignored with algorithm.clip = "ppo"; remove it'
    )
    assert said(rollout__max_staleness=0, sampling__dynamic=False) == (
        'rollout.max_staleness = 0: would be ignored with rollout.mode = "sync" and'
        " rollout.partial = false and"
        " sampling.dynamic = false; remove it"
    )
    assert said(eval__samples=4) == (
        "eval.samples = 4: would be ignored without eval.path and eval.benchmarks; remove it"
    )


@pytest.mark.parametrize("preset", PRESETS)
def test_a_resolved_recipe_keeps_defaults_that_are_read_and_reads_back_equal(preset, tmp_path):
    recipe = validate(tree_of(MINIMAL[TrainRecipe] | {"algorithm.preset": preset}), TrainRecipe)
    tree, path = resolved(recipe), tmp_path / "config.toml"
    assert tree["rollout"]["temperature"] == 1.0
    assert "servers" not in tree["rollout"]
    assert ("soft_tau_pos" in tree["algorithm"]) == (preset == "sapo")
    path.write_text(dump_toml(recipe))
    assert load_recipe(path, [], TrainRecipe) == recipe


def test_a_run_of_a_version_that_kept_every_setting_is_read_as_it_was_meant(tmp_path):
    recipe = validate(tree_of(MINIMAL[TrainRecipe] | {"algorithm.preset": "gpg"}), TrainRecipe)
    path = tmp_path / "config.toml"
    path.write_text(toml_text(recipe.model_dump(mode="json", exclude_none=True)))
    with pytest.raises(ConfigError, match="would be ignored"):  # a user's file of this name
        load_recipe(path, [], TrainRecipe)
    (tmp_path / "manifest.json").write_text("{}")
    assert load_recipe(path, [], TrainRecipe) == recipe
    again = load_recipe(path, ["--sampling.strategy", "predictive"], TrainRecipe)
    assert "shuffle" not in again.data.model_fields_set
    with pytest.raises(ConfigError, match=r"soft_tau_pos = 2\.0: would be ignored"):
        load_recipe(path, ["--algorithm.soft_tau_pos", "2.0"], TrainRecipe)
