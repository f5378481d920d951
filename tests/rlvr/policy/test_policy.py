from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from rlvr.common.errors import ConfigError
from rlvr.policy.language_model import load_base
from rlvr.policy.policy import Policy, TokenRow, load_policy
from rlvr.runs.checkpoint import (
    NotWrittenError,
    damage,
    list_checkpoints,
    load_checkpoint,
    save_checkpoint,
)

ROWS = [
    TokenRow([5, 6, 7], [8, 9]),
    TokenRow([10, 11], [12, 13, 14, 15, 16]),
    TokenRow([20] * 9, [21]),
]


def make_policy(recipe, **options) -> Policy:
    return load_policy(
        recipe.model, recipe.adapter, recipe.model.path, seed=0, keep_reference=True, **options
    )


def plain_logprobs(model, rows: list[TokenRow], temperature: float) -> torch.Tensor:
    """One row at a time, full logits: the slow reference."""
    parts = []
    for row in rows:
        ids = torch.tensor([row.prompt_ids + row.response_ids])
        logp = (model(input_ids=ids).logits[0].float() / temperature).log_softmax(-1)
        at = torch.arange(len(row.prompt_ids) - 1, len(row) - 1)
        parts.append(logp[at, torch.tensor(row.response_ids)])
    return torch.cat(parts)


def train_a_little(policy: Policy, steps: int = 3) -> torch.optim.Optimizer:
    optimizer = torch.optim.AdamW(policy.trainable, lr=1e-2)
    for _ in range(steps):
        policy.logprobs(ROWS, 1.0)[0].sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return optimizer


@torch.no_grad()
def test_logprobs_of_packed_rows_equal_one_row_at_a_time(make_recipe):
    policy = make_policy(make_recipe())
    for temperature in (1.0, 0.7):
        logp, entropy = policy.logprobs(ROWS, temperature)
        expected = plain_logprobs(policy.model, ROWS, temperature)
        torch.testing.assert_close(logp, expected, atol=1e-5, rtol=0)
        assert (entropy > 0).all()


@torch.no_grad()
def test_step_zero_is_the_base_policy_and_the_reference_stays_there(make_recipe):
    for adapter in ({"method": "lora", "rank": 4}, {"method": "full"}):
        recipe = make_recipe(adapter=adapter) if adapter["method"] == "lora" else None
        recipe = recipe or full_recipe(make_recipe)
        policy = make_policy(recipe)
        base = AutoModelForCausalLM.from_pretrained(recipe.model.path)
        expected = plain_logprobs(base, ROWS, 1.0)
        torch.testing.assert_close(policy.logprobs(ROWS, 1.0)[0], expected, atol=1e-5, rtol=0)
        with torch.enable_grad():
            train_a_little(policy)
        moved = (policy.logprobs(ROWS, 1.0)[0] - expected).abs().max()
        assert moved > 0.1
        reference = policy.reference_logprobs(ROWS, 1.0)
        torch.testing.assert_close(reference, expected, atol=1e-5, rtol=0)


def full_recipe(make_recipe):
    from rlvr.config.train import AdapterConfig

    return make_recipe().model_copy(update={"adapter": AdapterConfig(method="full")})


@torch.no_grad()
def test_a_saved_lora_loads_with_peft_as_it_is(make_recipe, tmp_path):
    policy = make_policy(make_recipe())
    with torch.enable_grad():
        optimizer = train_a_little(policy)
    folder = save_checkpoint(tmp_path, 3, policy, optimizer, {})
    base = AutoModelForCausalLM.from_pretrained(policy.path)
    loaded = PeftModel.from_pretrained(base, folder)
    expected = policy.logprobs(ROWS, 1.0)[0]
    torch.testing.assert_close(plain_logprobs(loaded, ROWS, 1.0), expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_saved_full_policy_loads_with_transformers_as_it_is(make_recipe, tmp_path):
    policy = make_policy(full_recipe(make_recipe))
    with torch.enable_grad():
        optimizer = train_a_little(policy)
    folder = save_checkpoint(tmp_path, 3, policy, optimizer, {})
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    expected = policy.logprobs(ROWS, 1.0)[0]
    torch.testing.assert_close(plain_logprobs(loaded, ROWS, 1.0), expected, atol=1e-5, rtol=0)


def test_a_checkpoint_has_its_name_only_while_it_is_whole(make_recipe, tmp_path):
    policy, listed = make_policy(make_recipe()), []
    optimizer = train_a_little(policy)

    def look(_folder: Path) -> None:
        listed.append(list_checkpoints(tmp_path))

    def fail(_folder: Path) -> None:
        raise OSError("No space left on device")

    folder = save_checkpoint(tmp_path, 1, policy, optimizer, {}, save_more=look)
    assert listed == [[]], "half-way through"
    with pytest.raises(NotWrittenError, match="No space left"):
        save_checkpoint(tmp_path, 1, policy, optimizer, {"other": 1}, save_more=fail)
    assert [path.name for path in folder.parent.iterdir()] == ["step_1"]
    assert damage(folder) is None, "the old one is as it was"


@pytest.mark.parametrize("method", ["lora", "full"])
def test_training_continues_from_a_checkpoint_bit_for_bit(make_recipe, tmp_path, method):
    recipe = make_recipe() if method == "lora" else full_recipe(make_recipe)
    policy = make_policy(recipe)
    optimizer = train_a_little(policy, steps=2)
    folder = save_checkpoint(tmp_path, 2, policy, optimizer, {"kept": [1, 2]})
    again = make_policy(recipe)
    other = torch.optim.AdamW(again.trainable, lr=1e-2)
    assert load_checkpoint(folder, again, other)["kept"] == [1, 2]
    for one, opt in ((policy, optimizer), (again, other)):
        one.logprobs(ROWS, 1.0)[0].sum().backward()
        opt.step()
    for a, b in zip(policy.trainable, again.trainable, strict=True):
        assert torch.equal(a, b)


def test_a_model_that_cannot_be_loaded_is_named(make_recipe, tmp_path):
    for path in (tmp_path / "nothing", tmp_path):
        recipe = make_recipe(model={"path": str(path)})
        with pytest.raises(ConfigError, match="no model can be loaded"):
            make_policy(recipe)
    with pytest.raises(ConfigError, match=r"model\.max_len = 100000"):
        make_policy(make_recipe(model={"max_len": 100000}))


class Seen(Exception):
    """What transformers was asked for."""


def test_weights_are_read_straight_to_the_gpu_that_they_are_for(make_recipe, monkeypatch):
    """Else every rank of a machine has the whole model in CPU memory first."""
    recipe = make_recipe()

    def read(*_: object, **options: object) -> None:
        raise Seen(options["device_map"])

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", read)
    device = torch.device("cuda", 1)
    with pytest.raises(Seen) as seen:
        load_base(recipe.model, recipe.model.path, device)
    assert seen.value.args == ({"": device},)
