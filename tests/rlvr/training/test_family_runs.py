"""The table of docs/models.md is what real runs show."""

import re
from pathlib import Path

import pytest

from rlvr.common.errors import ConfigError
from rlvr.config.train import AdapterConfig, ModelConfig
from rlvr.engines.vllm_local import VllmEngine
from rlvr.engines.weights.sync import Syncer
from rlvr.policy.policy import load_policy
from tests.rlvr import small
from tests.rlvr.engines.engine_cases import PROMPTS, SAMPLING, requests
from tests.rlvr.families import FAMILIES, write_family
from tests.rlvr.family_runs import HEAD, TABLE, measure, recipe_of

TEXT = (Path(__file__).parents[3] / "docs" / "models.md").read_text()
LINES = TEXT.partition(HEAD)[2].partition("\n\n")[0].strip().splitlines()
ROWS = {re.findall(r"`(\w+)`", line)[0]: line for line in LINES}


@pytest.mark.parametrize("family", TABLE)
def test_the_table_says_whose_rows_are_packed(folder_of, family):
    adapter = AdapterConfig(method="lora", rank=4, target_modules=FAMILIES[family][2])
    path = str(folder_of(family))
    model = ModelConfig(path=path, dtype="float32", max_len=64)
    packed = load_policy(model, adapter, path, 0, keep_reference=False).packs_rows
    assert list(ROWS) == list(TABLE)
    assert ROWS[family].split(" | ")[1:3] == [TABLE[family], "yes" if packed else "no"]


@pytest.mark.slow
@pytest.mark.engine
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("family", TABLE)
def test_every_row_of_the_table_is_what_its_runs_show(tmp_path, family):
    assert measure(family, tmp_path).row(family) == ROWS[family]


@pytest.mark.engine
def test_llama_is_served_with_an_adapter_while_prompts_are_scored(tmp_path):
    """vLLM on CPU wraps Llama's head for adapters, by which several scored prompts would end it."""
    folder = write_family("llama", tmp_path / "model", hidden_size=64)
    data = small.write_problems(tmp_path / "digits.jsonl")
    recipe = recipe_of(folder, data, tmp_path, "lora", ["q_proj"], engine="vllm")
    engine = VllmEngine(recipe.model, recipe.rollout, str(folder), 8)
    try:
        policy = load_policy(recipe.model, recipe.adapter, str(folder), 0, keep_reference=False)
        for parameter in policy.trainable:
            parameter.data += 0.05
        stats = Syncer(recipe.rollout, policy, engine, "adapter", PROMPTS).sync()
        assert stats.logprob_error < 1e-3
        session = engine.open(SAMPLING)
        session.add(requests(3))
        beside = engine.score(PROMPTS)
        session.close()
        for found, alone in zip(beside, engine.score(PROMPTS), strict=True):
            assert found == pytest.approx(alone, abs=1e-4)
        adapter = recipe.adapter.model_copy(update={"target_modules": ["lm_head"]})
        on_head = load_policy(recipe.model, adapter, str(folder), 0, keep_reference=False)
        with pytest.raises(ConfigError, match=r"no adapter on lm_head; set it to .merged."):
            Syncer(recipe.rollout, on_head, engine, "adapter", PROMPTS).sync()
    finally:
        engine.close()
