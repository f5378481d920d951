"""Advantages, loss and gradient equal trl's own trainers', run on the same tokens and rewards."""

import pytest
import torch
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from rlvr.advantage import advantages
from rlvr.policy import load_policy
from rlvr.update import _accumulate, make_rows, micro_batches

SHARED = {
    "grpo": ({"preset": "grpo"}, {"loss_type": "grpo", "beta": 0.04}),
    "grpo_without_kl": ({"preset": "grpo", "kl_beta": 0.0}, {"loss_type": "grpo", "beta": 0.0}),
    "dapo": ({"preset": "dapo"}, {"loss_type": "dapo", "epsilon_high": 0.28, "beta": 0.0}),
    "dapo_with_kl": (
        {"preset": "dapo", "kl_beta": 0.1},
        {"loss_type": "dapo", "epsilon_high": 0.28, "beta": 0.1},
    ),
    "dr_grpo": (
        {"preset": "dr_grpo"},
        {"loss_type": "dr_grpo", "scale_rewards": "none", "beta": 0.0},
    ),
    "dr_grpo_with_kl": (
        {"preset": "dr_grpo", "kl_beta": 0.1},
        {"loss_type": "dr_grpo", "scale_rewards": "none", "beta": 0.1},
    ),
}
"""Our [algorithm] section and trl's configuration that say the same."""


def trl_settings(folder, groups, **settings):
    return {
        "output_dir": str(folder),
        "per_device_train_batch_size": sum(len(g.responses) for g in groups),
        "gradient_accumulation_steps": 1,
        "num_generations": len(groups[0].responses),
        "max_completion_length": 12,
        "use_cpu": True,
        "report_to": "none",
        "bf16": False,
        "disable_dropout": True,
        "epsilon": 0.2,
        "gradient_checkpointing": False,
        "use_bias_correction_kl": False,
    } | settings


def replaying(kind, groups):
    """trl's trainer class with generation replaced by the groups' own tokens."""

    class Replaying(kind):
        def _generate(self, prompts):
            responses = [r for g in groups for r in g.responses]
            ids = [r.token_ids for r in responses]
            prompt_ids = [g.prompt_ids for g in groups for _ in g.responses]
            logprobs = [r.logprobs for r in responses] if self.use_vllm else None
            texts = self.processing_class.batch_decode(ids)
            return prompt_ids, ids, None, texts, logprobs, {}, None, None

    return Replaying


def trl_step(recipe, groups, folder, settings, *, off_policy=False, engine=False, kind=GRPOTrainer):
    """(advantages [N], loss, gradient by name) of trl's trainer on these groups.

    off_policy: the engine's log-probabilities are the old ones. engine: trl believes that they came
    from vLLM and corrects the mismatch.
    """
    rewards = [reward for g in groups for reward in g.rewards]
    trainer = replaying(kind, groups)(
        model=recipe.model.path,
        reward_funcs=lambda completions, **_: rewards,
        args=GRPOConfig(**trl_settings(folder, groups, **settings)),
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
        inputs["old_per_token_logps"] = padded(
            [torch.tensor(r.logprobs) for g in groups for r in g.responses]
        )
    loss = trainer.compute_loss(trainer.model, inputs)
    loss.backward()
    return inputs["advantages"], float(loss.detach()), gradient(trainer.model)


def our_step(recipe, groups, *, off_policy=False):
    """The same three from this project's own update, in several micro-batches."""
    policy = load_policy(recipe.model, recipe.adapter, recipe.model.path, 0, keep_reference=True)
    move(policy.reference)
    sums = {"loss": 0.0, "padded": 0.0, "real": 0.0, "ratio_max": 0.0}
    rows = make_rows(groups, recipe, step=1 if off_policy else 0)
    for batch in micro_batches(rows, 40):
        _accumulate(policy, batch, recipe, sums)
    values = advantages([g.rewards for g in groups], recipe.algorithm.advantage)
    flat = torch.tensor([value for group in values for value in group])
    return flat, sums["loss"], gradient(policy.model)


def padded(rows):
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)


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
    for name, value in ours[2].items():
        torch.testing.assert_close(value, theirs[2][name], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("off_policy", [False, True], ids=["on_policy", "off_policy"])
@pytest.mark.parametrize("name", SHARED)
def test_a_preset_equals_trl_in_advantages_loss_and_gradient(
    name, off_policy, make_recipe, groups, tmp_path
):
    section, settings = SHARED[name]
    recipe = make_recipe(algorithm=section | {"mismatch": "none"})
    ours = our_step(recipe, groups, off_policy=off_policy)
    assert_equal(ours, trl_step(recipe, groups, tmp_path, settings, off_policy=off_policy))
