"""float16 trains on the gradient that float32 has, at the weights of a step of a million tokens."""

import pytest
import torch

from rlvr.algorithm.entropy_control import EntropyControl
from rlvr.common.errors import ConfigError
from rlvr.config.toml import validate
from rlvr.config.train import TrainRecipe
from rlvr.engines.engine import Response
from rlvr.policy.loss_scale import LossScale
from rlvr.policy.policy import Policy, TokenRow, load_policy
from rlvr.runs.checkpoint import load_checkpoint, save_checkpoint
from rlvr.sampling.rollouts import Group
from rlvr.training.batch import UpdateConfig, make_batch
from rlvr.training.preflight import check
from rlvr.training.update import update
from tests.rlvr import small

LR = 2.0**20
"""So that plain gradient descent moves weights by far more than float32 rounds them."""
ADAPTERS = {"lora": {"method": "lora", "rank": 4}, "full": {"method": "full"}}
TOO_LARGE = 5e3
"""A reward whose gradient leaves float16 at first, and not at a 16th of the scale."""
LOSSES = {
    "token_mean": {"preset": "dapo", "advantage": "group_mean", "mismatch": "none"},
    "constant": {"preset": "dr_grpo", "mismatch": "none"},
}


@torch.no_grad()
def make_groups(policy: Policy, best: float = 1.0) -> list[Group]:
    """Four groups of drawn responses; the last one, all right, has a million tokens and no signal.

    It counts in the denominator and is never forwarded. best: the reward of one response.
    """
    draw = torch.Generator().manual_seed(1)
    groups = []
    for p in range(3):
        prompt = torch.randint(8, 300, (4 + p,), generator=draw).tolist()
        answers = [torch.randint(8, 300, (n,), generator=draw).tolist() for n in (9, 5, 17, 12)]
        logp_T = policy.logprobs([TokenRow(prompt, ids) for ids in answers], 1.0)[0]
        parts = logp_T.split([len(ids) for ids in answers])
        responses = [Response(i, x.tolist(), False) for i, x in zip(answers, parts, strict=True)]
        rewards = [best if p == 0 else 1.0, 0.0, 0.0, 1.0]
        groups.append(Group(f"p{p}", prompt, responses, rewards, ["correct"] * 4, 0))
    endless = Response([8] * 250_000, [0.0] * 250_000, False)
    return [*groups, Group("p3", [9], [endless] * 4, [1.0] * 4, ["correct"] * 4, 0)]


def load(folder, adapter: str, loss: str, dtype: str) -> tuple[TrainRecipe, Policy]:
    """Dr. GRPO divides by 16 rows of 62,500 tokens, a million too."""
    tree = small.recipe_tree(
        folder,
        folder / "none.jsonl",
        model={"dtype": dtype, "max_len": 70_000},
        rollout={"max_response_len": 62_500},
        algorithm=LOSSES[loss],
        optim={"max_grad_norm": 1e9},
    )
    recipe = validate(tree | {"adapter": ADAPTERS[adapter]}, TrainRecipe)
    model = recipe.model.model_copy(update={"max_len": 160})
    policy = load_policy(model, recipe.adapter, str(folder), 0, keep_reference=False)
    with torch.no_grad():  # else half of LoRA's gradient is 0
        for i, (name, p) in enumerate(policy.model.named_parameters()):
            if ".lora_" in name:
                p.normal_(std=0.05, generator=torch.Generator().manual_seed(i))
    return recipe, policy


def descend(recipe: TrainRecipe, policy: Policy, best: float = 1.0) -> tuple[dict, torch.Tensor]:
    """(metrics, the gradient that the update went along), by how far plain descent moved."""
    before = torch.cat([p.detach().flatten().clone() for p in policy.trainable])
    optimizer = torch.optim.SGD(policy.trainable, lr=LR)
    batch = make_batch(make_groups(policy, best), policy, UpdateConfig.of(recipe))
    entropy = EntropyControl(recipe.algorithm)
    metrics = update(policy, optimizer, batch, UpdateConfig.of(recipe), 0, entropy).metrics
    after = torch.cat([p.detach().flatten() for p in policy.trainable])
    return metrics, (before - after).double() / LR


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(a @ b / (a.norm() * b.norm()))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_the_gradient_of_a_million_tokens_is_that_of_float32(real_logits_policy, adapter, loss):
    _, exact = descend(*load(real_logits_policy, adapter, loss, "float32"))
    metrics, half = descend(*load(real_logits_policy, adapter, loss, "float16"))
    assert metrics["optim/skipped"] == 0
    assert cosine(half, exact) > 0.99
    assert float(half.norm() / exact.norm()) == pytest.approx(1, rel=0.02)
    assert metrics["optim/grad_norm"] == pytest.approx(float(exact.norm()), rel=0.02)
    assert 2**19 <= metrics["optim/loss_scale"] <= 2**20


def test_other_types_are_not_scaled(real_logits_policy):
    for dtype in ("float32", "bfloat16"):
        recipe, policy = load(real_logits_policy, "lora", "token_mean", dtype)
        metrics, _ = descend(recipe, policy)
        assert "optim/loss_scale" not in metrics
        assert policy.strategy.scale == 1


def test_an_overflow_skips_one_update_and_the_next_one_is_made(real_logits_policy):
    _, exact = descend(*load(real_logits_policy, "lora", "token_mean", "float32"), best=TOO_LARGE)
    recipe, policy = load(real_logits_policy, "lora", "token_mean", "float16")
    first, still = descend(recipe, policy, best=TOO_LARGE)
    assert first["optim/skipped"] == 1
    assert not still.any()
    second, moved = descend(recipe, policy, best=TOO_LARGE)
    assert second["optim/skipped"] == 0
    assert second["optim/loss_scale"] == first["optim/loss_scale"] / 16
    assert cosine(moved, exact) > 0.99


def test_the_scale_comes_back_after_a_hundred_good_updates_and_never_beyond():
    scale = LossScale()
    assert scale.factor([1e-6, 3e-6], [30, 10]) == 2.0**19  # mean 1.5e-6, 2^-19.3
    scale.observe(False)
    assert scale.factor([1e-6], [7]) == 2.0**16
    for _ in range(100):
        scale.observe(True)
    assert scale.factor([1e-6], [7]) == 2.0**17
    for _ in range(1000):
        scale.observe(True)
    assert scale.factor([1e-6], [7]) == 2.0**20


def test_a_resumed_run_goes_on_with_the_lowered_scale_bit_for_bit(real_logits_policy, tmp_path):
    recipe, policy = load(real_logits_policy, "lora", "token_mean", "float16")
    descend(recipe, policy, best=TOO_LARGE)
    optimizer = torch.optim.SGD(policy.trainable, lr=LR)
    folder = save_checkpoint(tmp_path, 1, policy, optimizer, {})
    went_on, _ = descend(recipe, policy)
    _, again = load(real_logits_policy, "lora", "token_mean", "float16")
    load_checkpoint(folder, again, torch.optim.SGD(again.trainable, lr=LR))
    resumed, _ = descend(recipe, again)
    assert resumed == went_on
    assert resumed["optim/loss_scale"] == 2.0**16
    for a, b in zip(policy.trainable, again.trainable, strict=True):
        assert torch.equal(a, b)


def test_a_penalty_of_the_method_keeps_its_weight_beside_a_scaled_loss(real_logits_policy):
    """AdaLoRA's penalty has a gradient of its own size, whatever the loss is multiplied by."""
    moves = []
    for dtype in ("float32", "float16"):
        tree = small.recipe_tree(
            real_logits_policy,
            real_logits_policy / "none.jsonl",
            model={"dtype": dtype},
            algorithm=LOSSES["token_mean"],
            optim={"max_grad_norm": 1e9},
        )
        adapter = {"method": "adalora", "rank": 4}
        recipe = validate(tree | {"adapter": adapter, "train": {"steps": 30}}, TrainRecipe)
        path = str(real_logits_policy)
        policy = load_policy(recipe.model, recipe.adapter, path, 0, False, num_updates=30)
        moves.append(descend(recipe, policy)[1])
    assert cosine(*moves) > 0.99
    assert float(moves[1].norm() / moves[0].norm()) == pytest.approx(1, rel=0.02)


def test_float16_under_deepspeed_is_refused_with_the_remedy(make_recipe, monkeypatch):
    from rlvr.distributed import zero
    from rlvr.distributed.world import World

    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setenv(zero.STAGE, "2")
    recipe = make_recipe(model={"dtype": "float16"}, rollout={"engine": "vllm"})
    with pytest.raises(ConfigError, match=r'model\.dtype = "float16": .* launch with .*fsdp2'):
        check(recipe, World(0, 2))
