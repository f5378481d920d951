"""`rlvr merge`: a checkpoint as one plain folder, and what rounding it took."""

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlvr.cli import main
from rlvr.common.errors import ConfigError
from rlvr.config.adapter import AdapterConfig
from rlvr.policy.policy import Policy, load_policy
from rlvr.runs.merge import merge

IDS = torch.tensor([[9, 40, 77, 120, 8]])


def saved(make_recipe, folder, **adapter) -> Policy:
    """A policy whose trained numbers have moved, saved in the folder."""
    recipe = make_recipe()
    config = AdapterConfig.model_validate(adapter)
    policy = load_policy(recipe.model, config, recipe.model.path, 0, False)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in policy.trainable:
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    policy.save(folder)
    return policy


@torch.no_grad()
def logits(model) -> torch.Tensor:
    return model(IDS).logits.float()


def test_a_merged_folder_is_a_plain_model_that_answers_as_the_policy(make_recipe, tmp_path, capsys):
    policy = saved(make_recipe, tmp_path / "saved", method="lora", rank=4)
    assert main(["merge", str(tmp_path / "saved"), "-o", str(tmp_path / "float32")]) == 0
    assert "float32, every weight as it was trained" in capsys.readouterr().out
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "float32").eval()
    torch.testing.assert_close(logits(merged), logits(policy.causal_lm), atol=2e-5, rtol=0)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "float32")
    assert tokenizer.chat_template == policy.tokenizer.chat_template
    ends = policy.causal_lm.generation_config.eos_token_id
    assert merged.generation_config.eos_token_id == ends
    rounded = merge(tmp_path / "saved", tmp_path / "half", "bfloat16")
    exact, half = (load_file(tmp_path / name / "model.safetensors") for name in ("float32", "half"))
    assert {value.dtype for value in half.values()} == {torch.bfloat16}
    error = sum(float((half[n].float() - exact[n]).double().square().sum()) for n in exact) ** 0.5
    norm = sum(float(value.double().square().sum()) for value in exact.values()) ** 0.5
    assert rounded.weights == pytest.approx(error / norm, rel=1e-6)
    assert rounded.update is not None
    assert rounded.update > rounded.weights > 1e-4


def test_what_cannot_be_merged_and_where_something_is_already_are_refused(make_recipe, tmp_path):
    saved(make_recipe, tmp_path / "saved", method="prefix_tuning")
    with pytest.raises(ConfigError, match="cannot be merged"):
        merge(tmp_path / "saved", tmp_path / "out")
    with pytest.raises(ConfigError, match="exists; give a new folder"):
        merge(tmp_path / "saved", tmp_path)
