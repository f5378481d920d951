"""Where responses end: at the model's ends, at stop tokens of the recipe, at a chat turn's end."""

from __future__ import annotations

import gzip
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from rewards import Verifier
from rlvr.cli import main
from rlvr.common.errors import ConfigError
from rlvr.config.sft import FinetuneRecipe
from rlvr.config.toml import validate
from rlvr.data.problems import encode_prompts, load_problems
from rlvr.engines.stop_tokens import ends_of, missing_end, notices, with_stops
from rlvr.engines.transformers import TransformersEngine
from rlvr.evaluation.problem_sets import eval_sets, held_out_data
from rlvr.policy.policy import TokenRow, load_policy
from rlvr.report.diagnosis.signal import truncation
from rlvr.runs.reader import RunData
from rlvr.sft.finetune import finetune
from rlvr.training.batch import UpdateConfig, make_batch
from rlvr.training.build import make_sampler
from rlvr.training.evaluate import sample_responses
from rlvr.training.rows import make_rows
from tests.rlvr.engines.engine_cases import assert_ends_at_a_stop_token

PAD, END = 0, 1


@pytest.fixture(scope="module")
def tokenizer(tiny_policy):
    return AutoTokenizer.from_pretrained(tiny_policy)


@pytest.fixture(scope="module")
def base_policy(tiny_policy, tmp_path_factory) -> Path:
    """A base model: its settings and tokenizer end with <|pad|>, its template's turns <|end|>."""
    folder = tmp_path_factory.mktemp("base") / "policy"
    shutil.copytree(tiny_policy, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.eos_token = "<|pad|>"
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|end|>"]})
    tokenizer.save_pretrained(folder)
    GenerationConfig(eos_token_id=[PAD, PAD], pad_token_id=PAD).save_pretrained(folder)
    return folder


def collect(recipe, policy, verifier):
    """The groups of one step of the recipe, with its stops resolved."""
    recipe = recipe.model_copy(update={"rollout": with_stops(recipe.rollout, policy.tokenizer)})
    data, prompts = encode_prompts(load_problems(recipe.data), policy.tokenizer, recipe.data, 100)
    engine = TransformersEngine(policy)
    sampler = make_sampler(recipe, data.problems, prompts, engine, verifier, policy.decode)
    return sampler.collect(0).groups


@pytest.fixture(scope="module")
def live(make_recipe):
    """(recipe whose responses stop at two ordinary tokens, its policy, the groups of one step)."""
    recipe = make_recipe(
        rollout={"stop": ["7"], "stop_token_ids": [300]}, sampling={"dynamic": False}
    )
    policy = load_policy(recipe.model, recipe.adapter, recipe.model.path, 0, keep_reference=False)
    with Verifier(answer_mode="last_number", num_workers=1) as verifier:
        return recipe, policy, collect(recipe, policy, verifier)


def test_transformers_ends_a_response_at_a_stop_token(live):
    assert_ends_at_a_stop_token(TransformersEngine(live[1]))


def test_training_rollouts_end_at_stop_tokens_and_keep_them(live, tokenizer):
    _, _, groups = live
    stops = {*tokenizer("7")["input_ids"], 300, END}
    responses = [r for group in groups for r in group.responses]
    stopped = [r for r in responses if not r.truncated]
    assert any(r.token_ids[-1] == 300 or r.token_ids[-1] != END for r in stopped)
    for r in responses:
        assert not stops & set(r.token_ids[:-1])
        assert (r.token_ids[-1] in stops) == (not r.truncated)
        assert len(r.logprobs) == len(r.token_ids)


@torch.no_grad()
def test_log_probabilities_up_to_the_stop_are_those_of_the_plain_model(live, tiny_policy):
    """By an own forward of an own copy of the model, a row at a time, nothing packed or cached."""
    _, policy, groups = live
    model = AutoModelForCausalLM.from_pretrained(tiny_policy, dtype=torch.float32)
    stopped = [(g, r) for g in groups for r in g.responses if not r.truncated][:6]
    assert stopped
    for group, response in stopped:
        ids = torch.tensor([group.prompt_ids + response.token_ids])
        logp = model(ids).logits[0].log_softmax(-1)
        first = len(group.prompt_ids)
        expected = [float(logp[i - 1, ids[0, i]]) for i in range(first, ids.shape[1])]
        assert response.logprobs == pytest.approx(expected, abs=1e-4)
        row = TokenRow(group.prompt_ids, response.token_ids)
        ours = policy.logprobs([row], 1.0)[0]
        assert ours.tolist() == pytest.approx(expected, abs=1e-4)


def test_the_stop_token_is_trained_on_and_a_stopped_response_is_not_masked_as_truncated(live):
    recipe, policy, groups = live
    recipe = recipe.model_copy(
        update={"reward": recipe.reward.model_copy(update={"overlong": "mask"})}
    )
    rewards = [float(i % 2) for i in range(recipe.rollout.group_size)]
    groups = [replace(group, rewards=rewards) for group in groups]
    config = UpdateConfig.of(recipe)
    rows = make_rows(make_batch(groups, policy, config), config, step=0)
    responses = [r for group in groups for r in group.responses]
    whole = [r.token_ids for r in responses if not r.truncated]
    assert 0 < len(whole) < len(responses)
    assert [row.tokens.response_ids for row in rows] == whole


def test_evaluation_in_a_run_stops_where_training_does(make_recipe, live, tokenizer, tmp_path):
    (tmp_path / "held.jsonl").write_text('{"id": "a", "problem": "What is 7?", "answer": "7"}\n')
    recipe = make_recipe(
        rollout={"stop_token_ids": list(range(len(tokenizer)))},
        eval={"path": str(tmp_path / "held.jsonl"), "samples": 3},
    )
    config = held_out_data(recipe)
    assert config is not None
    held_out = encode_prompts(load_problems(config), tokenizer, config, 100)
    sets = eval_sets(recipe, held_out, [], tokenizer)
    responses = [r for _, r in sample_responses(recipe, sets, TransformersEngine(live[1]))]
    assert [len(r.token_ids) for r in responses] == [1, 1, 1]
    assert not any(r.truncated for r in responses)


def test_rlvr_eval_stops_at_the_tokens_given_and_at_the_recipes(
    write_recipe, tiny_policy, tokenizer, tmp_path
):
    """Every token is a stop: one token a response."""
    (tmp_path / "mine.jsonl").write_text('{"id": "a", "problem": "What is 7?", "answer": "7"}\n')
    words = ["eval", "--model", str(tiny_policy), "--benchmarks", str(tmp_path / "mine.jsonl")]
    words += ["--samples", "3", "--engine", "transformers", "--max-tokens", "9", "--workers", "1"]
    ids = list(range(len(tokenizer)))
    recipe = write_recipe(rollout={"stop_token_ids": ids[1:], "stop": [tokenizer.decode([0])]})
    for name, more in (
        ("given", ["--stop-token-ids", *map(str, ids)]),
        ("recipes", ["--prompts-from", str(recipe)]),
    ):
        assert main([*words, "--out", str(tmp_path / name), *more]) == 0
        with gzip.open(tmp_path / name / "generations.jsonl.gz", "rt") as file:
            rows = [json.loads(line) for line in file]
        assert [(r["response_len"], r["finish_reason"]) for r in rows] == [(1, "stop")] * 3
    assert main([*words, "--out", str(tmp_path / "given")]) == 2, "other samples than are there"


BAD_STOPS = [
    ({"stop": ["not one token"]}, r"rollout.stop = 'not one token': \d+ tokens of this tokenizer"),
    ({"stop": [""]}, "rollout.stop = '': 0 tokens"),
    ({"stop_token_ids": [100_000]}, "rollout.stop_token_ids = 100000: the tokenizer has"),
]


@pytest.mark.parametrize(("rollout", "message"), BAD_STOPS)
def test_a_stop_that_no_engine_can_keep_is_refused(make_recipe, tokenizer, rollout, message):
    with pytest.raises(ConfigError, match=message):
        with_stops(make_recipe(rollout=rollout).rollout, tokenizer)


def test_a_negative_stop_id_is_refused(make_recipe):
    with pytest.raises(ConfigError, match=r"stop_token_ids.*greater than or equal to 0"):
        make_recipe(rollout={"stop_token_ids": [-1]})


def test_stops_are_resolved_once_and_the_same_again(make_recipe, tokenizer):
    recipe = make_recipe(rollout={"stop": ["<|end|>", "7"], "stop_token_ids": [9, END]})
    once = with_stops(recipe.rollout, tokenizer)
    assert once.stop_token_ids == (9, END, tokenizer("7")["input_ids"][0])
    assert with_stops(once, tokenizer) == once


def test_the_ends_are_those_of_vllm_the_settings_and_the_tokenizers(tokenizer):
    for eos, ends in ((None, {END}), (7, {7, END}), ([7, 8], {7, 8, END})):
        assert ends_of(GenerationConfig(eos_token_id=eos), tokenizer) == ends


def test_a_turns_end_that_ends_no_response_is_said_with_the_remedy(
    make_recipe, base_policy, tokenizer
):
    base = AutoTokenizer.from_pretrained(base_policy)
    settings = GenerationConfig.from_pretrained(base_policy)
    recipe = make_recipe()
    (line,) = notices(recipe, settings, base, [[5, 6]])
    assert 'set rollout.stop = ["<|end|>"]' in line
    rollout = with_stops(make_recipe(rollout={"stop": ["<|end|>"]}).rollout, base)
    assert notices(recipe.model_copy(update={"rollout": rollout}), settings, base, [[5, 6]]) == []
    assert notices(recipe, GenerationConfig(eos_token_id=PAD), tokenizer, [[5, 6]]) == []


@pytest.mark.parametrize(
    ("prompt", "settings", "said"),
    [
        ("Say it.<think>\n", {"format_weight": 0.5}, "set reward.format_opened_in_prompt = true"),
        ("Say it.", {"format_weight": 0.5, "format_opened_in_prompt": True}, "prompt = false"),
        ("<think>", {"format_weight": 0.5, "format_opened_in_prompt": True}, None),
        ("Say it.", {"format_weight": 0.5}, None),
        ("<think>", {}, None),
    ],
)
def test_a_think_tag_that_the_format_reward_counts_otherwise_is_said(
    make_recipe, tokenizer, prompt, settings, said
):
    recipe = make_recipe(reward=settings)
    ids = tokenizer(prompt)["input_ids"]
    lines = notices(recipe, GenerationConfig(eos_token_id=END), tokenizer, [ids])
    assert len(lines) == (said is not None)
    assert said is None or said in lines[0]


def test_the_report_names_the_missing_end_before_a_longer_limit():
    rows = [{"step": i, "rollout/truncated_frac": 1.0} for i in range(1, 5)]
    plain = truncation(RunData("r", rows))
    unended = truncation(RunData("r", rows, manifest={"turn_end_missing": "<|end|>"}))
    assert plain is not None
    assert unended is not None
    assert "raise rollout.max_response_len" in plain.remedy[0]
    assert 'set rollout.stop = ["<|end|>"]' in unended.remedy[0]
    assert not any(remedy.startswith("raise") for remedy in unended.remedy)


def test_a_fine_tuned_base_model_ends_where_its_template_does(base_policy, tmp_path):
    tree = {
        "model": {"path": str(base_policy), "dtype": "float32", "max_len": 128},
        "data": {"path": "generated:word_problems", "limit": 8},
        "optim": {"lr": 1e-3},
        "train": {"batch_size": 8, "num_threads": 1},
        "run": {"dir": str(tmp_path), "name": "run"},
    }
    base = AutoTokenizer.from_pretrained(base_policy)
    before = GenerationConfig.from_pretrained(base_policy)
    assert missing_end(before, base, None, ()) == "<|end|>"
    folder = finetune(validate(tree, FinetuneRecipe), Path("r.toml"), Console(quiet=True))
    saved = GenerationConfig.from_pretrained(folder / "checkpoints/step_1")
    assert saved.eos_token_id == [PAD, END]
    model = AutoModelForCausalLM.from_pretrained(folder / "checkpoints/step_1")
    assert model.generation_config.eos_token_id == [PAD, END]
    assert missing_end(saved, base, None, ()) is None


def test_a_run_says_at_its_start_and_in_its_manifest_that_a_turns_end_is_missing(
    write_recipe, base_policy, capsys, tmp_path
):
    recipe = write_recipe(
        model={"path": str(base_policy)},
        data={"path": "generated:word_problems", "limit": 20},
        train={"steps": 1},
        sampling={"dynamic": False},
    )
    assert main(["train", str(recipe)]) == 0
    assert 'set rollout.stop = ["<|end|>"]' in capsys.readouterr().err
    manifest = json.loads((tmp_path / "runs/run/manifest.json").read_text())
    assert manifest["turn_end_missing"] == "<|end|>"
