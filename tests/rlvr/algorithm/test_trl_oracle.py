"""Advantages, loss and gradient equal trl's own trainers', run on the same tokens and rewards."""

from dataclasses import replace

import pytest
import torch
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer
from trl.experimental.gmpo import GMPOConfig, GMPOTrainer

from rlvr.policy.policy import TokenRow, load_policy
from rlvr.training.batch import UpdateConfig, make_batch
from rlvr.training.rows import make_rows, micro_batches
from rlvr.training.update import accumulate
from rlvr.training.update_stats import SUMS
from tests.rlvr.cases import make_groups, make_recipe

SHARED = {
    "grpo": ({"preset": "grpo"}, {"loss_type": "grpo", "beta": 0.04}),
    "grpo_without_kl": ({"preset": "grpo", "kl_beta": 0.0}, {"loss_type": "grpo"}),
    "grpo_unbiased_kl": (
        {"preset": "grpo", "kl_beta": 0.1, "kl_unbiased": True},
        {"loss_type": "grpo", "beta": 0.1, "use_bias_correction_kl": True},
    ),
    "grpo_batch_std": (
        {"preset": "grpo", "kl_beta": 0.0, "advantage": "batch_std"},
        {"loss_type": "grpo", "scale_rewards": "batch"},
    ),
    "dapo": ({"preset": "dapo"}, {"loss_type": "dapo", "epsilon_high": 0.28}),
    "dapo_with_kl": (
        {"preset": "dapo", "kl_beta": 0.1},
        {"loss_type": "dapo", "epsilon_high": 0.28, "beta": 0.1},
    ),
    "dapo_masking_truncated": (
        {"preset": "dapo"},
        {"loss_type": "dapo", "epsilon_high": 0.28, "mask_truncated_completions": True},
    ),
    "dapo_dual_clip": (
        {"preset": "dapo", "clip_delta": 1.5},
        {"loss_type": "dapo", "epsilon_high": 0.28, "delta": 1.5},
    ),
    "dapo_entropy_bonus": (
        {"preset": "dapo", "entropy_coef": 0.1},
        {"loss_type": "dapo", "epsilon_high": 0.28, "entropy_coef": 0.1},
    ),
    "dapo_top_entropy": (
        {"preset": "dapo", "top_entropy_quantile": 0.4},
        {"loss_type": "dapo", "epsilon_high": 0.28, "top_entropy_quantile": 0.4},
    ),
    "dr_grpo": ({"preset": "dr_grpo"}, {"loss_type": "dr_grpo", "scale_rewards": "none"}),
    "dr_grpo_with_kl": (
        {"preset": "dr_grpo", "kl_beta": 0.1},
        {"loss_type": "dr_grpo", "scale_rewards": "none", "beta": 0.1},
    ),
    "bnpo": ({"preset": "bnpo"}, {"loss_type": "bnpo"}),
    "gspo": (
        {"preset": "gspo"},
        {
            "loss_type": "grpo",
            "importance_sampling_level": "sequence",
            "epsilon": 3e-4,
            "epsilon_high": 4e-4,
        },
    ),
    "gspo_wide": (
        {"preset": "gspo", "clip_low": 0.5, "clip_high": 0.5},
        {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon": 0.5},
    ),
    "cispo": ({"preset": "cispo"}, {"loss_type": "cispo", "epsilon_high": 5.0}),
    "sapo": ({"preset": "sapo"}, {"loss_type": "sapo"}),
    "gmpo": ({"preset": "gmpo"}, {}),
    "rloo": ({"preset": "rloo", "kl_beta": 0.0}, {"beta": 0.0}),
}
"""Our [algorithm] section and trl's configuration that say the same."""

TRAINERS = {"gmpo": (GMPOTrainer, GMPOConfig), "rloo": (RLOOTrainer, RLOOConfig)}
GRPO = (GRPOTrainer, GRPOConfig)


def trl_settings(folder, groups, kind, settings):
    common = {
        "output_dir": str(folder),
        "per_device_train_batch_size": sum(len(g.responses) for g in groups),
        "gradient_accumulation_steps": 1,
        "num_generations": len(groups[0].responses),
        "max_completion_length": 12,
        "use_cpu": True,
        "report_to": "none",
        "bf16": False,
        "disable_dropout": True,
        "beta": 0.0,
        "gradient_checkpointing": False,
    }
    if kind is not RLOOTrainer:
        common["use_bias_correction_kl"] = False
    if kind is GRPOTrainer:
        common["epsilon"] = 0.2
    return common | settings


def replaying(kind, groups):
    """trl's trainer class with generation replaced by the groups' own tokens."""

    class Replaying(kind):
        def _generate(self, prompts):
            responses = [r for g in groups for r in g.responses]
            ids = [r.token_ids for r in responses]
            prompt_ids = [g.prompt_ids for g in groups for _ in g.responses]
            logprobs = [r.logprobs for r in responses] if self.use_vllm else None
            texts = self.processing_class.batch_decode(ids)
            if issubclass(kind, RLOOTrainer):
                return prompt_ids, ids, texts
            return prompt_ids, ids, None, texts, logprobs, {}, None, None

    return Replaying


def trl_step(recipe, groups, folder, settings, trainer=GRPO, *, off_policy=False, engine=False):
    """(advantages [N], loss, gradient by name) of trl's trainer on these groups.

    off_policy: the engine's log-probabilities are the old ones. engine: trl believes that they came
    from vLLM and corrects the mismatch.
    """
    kind, config = trainer
    rewards = [reward for g in groups for reward in g.rewards]
    trainer = replaying(kind, groups)(
        model=recipe.model.path,
        reward_funcs=lambda completions, **_: rewards,
        args=config(**trl_settings(folder, groups, kind, settings)),
        train_dataset=Dataset.from_dict({"prompt": ["w2"] * len(groups)}),
    )
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    if trainer.ref_model is not None:
        move(trainer.ref_model)
    trainer.use_vllm = engine
    rows = [{"prompt": "w2"} for g in groups for _ in g.responses]
    inputs = trainer._generate_and_score_completions(rows)
    if off_policy:
        old = [torch.tensor(r.logprobs) for g in groups for r in g.responses]
        inputs["old_per_token_logps"] = torch.nn.utils.rnn.pad_sequence(old, batch_first=True)
        inputs["old_logps"] = inputs["old_per_token_logps"].sum(1)
    loss = trainer.compute_loss(trainer.model, inputs)
    loss.backward()
    return inputs["advantages"], float(loss.detach()), gradient(trainer.model)


def our_step(recipe, groups, *, off_policy=False):
    """The same three from this project's own update, in several micro-batches."""
    policy = load_policy(recipe.model, recipe.adapter, recipe.model.path, 0, keep_reference=True)
    move(policy.reference)
    config = UpdateConfig.of(recipe)
    batch = make_batch(groups, policy, config)
    coef = recipe.algorithm.entropy_coef
    rows = make_rows(batch, config, step=1 if off_policy else 0, entropy_on=coef > 0)
    num_tokens = sum(len(row.tokens.response_ids) for row in rows)
    sums = dict.fromkeys(SUMS, 0.0)
    for part in micro_batches(policy, rows, 40):
        accumulate(policy, part, config, coef / num_tokens, sums)
    values = torch.tensor([value for group in batch.advantages_PG for value in group])
    return values, float(sums["loss"]), gradient(policy.model)


def gradient(model):
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@torch.no_grad()
def move(model):
    """Moves a reference away from the policy, the same way every time."""
    draw = torch.Generator().manual_seed(3)
    for parameter in model.parameters():
        parameter += 0.05 * torch.randn(parameter.shape, generator=draw)


def assert_equal(ours, theirs):
    torch.testing.assert_close(ours[0], theirs[0].float(), atol=1e-6, rtol=1e-6)
    assert ours[1] == pytest.approx(theirs[1], abs=1e-6, rel=1e-6)
    assert ours[2].keys() == theirs[2].keys()
    difference = sum((value - theirs[2][name]).square().sum() for name, value in ours[2].items())
    assert difference**0.5 <= 1e-5 * sum(g.square().sum() for g in theirs[2].values()) ** 0.5


@pytest.mark.parametrize("off_policy", [False, True], ids=["on_policy", "off_policy"])
@pytest.mark.parametrize("name", SHARED)
def test_a_preset_equals_trl_in_advantages_loss_and_gradient(name, off_policy, tmp_path):
    (section, settings), groups = SHARED[name], make_groups()
    overlong = "mask" if settings.get("mask_truncated_completions") else "none"
    recipe = make_recipe(algorithm=section | {"mismatch": "none"}, reward={"overlong": overlong})
    theirs = trl_step(
        recipe, groups, tmp_path, settings, TRAINERS.get(name, GRPO), off_policy=off_policy
    )
    assert_equal(our_step(recipe, groups, off_policy=off_policy), theirs)


def test_rloo_with_the_kl_in_the_reward_equals_trl(tmp_path):
    recipe = make_recipe(algorithm={"preset": "rloo", "mismatch": "none"})
    policy = load_policy(recipe.model, recipe.adapter, recipe.model.path, 0, keep_reference=False)
    scored = [score(policy, group) for group in make_groups()]
    theirs = trl_step(recipe, scored, tmp_path, {"beta": 0.05}, TRAINERS["rloo"])
    assert_equal(our_step(recipe, scored), theirs)


@torch.no_grad()
def score(policy, group):
    """The group as an engine that equals the policy would have sampled it."""
    responses = [
        replace(
            r, logprobs=policy.logprobs([TokenRow(group.prompt_ids, r.token_ids)], 1.0)[0].tolist()
        )
        for r in group.responses
    ]
    return replace(group, responses=responses)


MISMATCHES = {
    "token_truncate": {"mismatch": "tis", "mismatch_level": "token"},
    "token_mask": {"mismatch": "mask", "mismatch_level": "token"},
    "sequence_truncate": {"mismatch": "tis", "mismatch_level": "sequence"},
    "sequence_mask": {"mismatch": "mask", "mismatch_level": "sequence"},
}


@pytest.mark.parametrize("mask", [None, 0.02])
@pytest.mark.parametrize("mode", MISMATCHES)
def test_a_mismatch_correction_equals_trl_in_loss_and_gradient(mode, mask, tmp_path):
    settings = {
        "loss_type": "dapo",
        "epsilon_high": 0.28,
        "vllm_importance_sampling_mode": mode,
        "vllm_importance_sampling_clip_max": 2.0,
        "vllm_importance_sampling_clip_min": 0.5 if mode.endswith("mask") else None,
        "off_policy_mask_threshold": mask,
    }
    groups = make_groups()
    algorithm = {"preset": "dapo"} | ({"off_policy_mask": mask} if mask else {})
    recipe = make_recipe(algorithm=algorithm | MISMATCHES[mode])
    theirs = trl_step(recipe, groups, tmp_path, settings, engine=True)
    assert_equal(our_step(recipe, groups), theirs)
