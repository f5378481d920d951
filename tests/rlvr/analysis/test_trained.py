"""Curvature, attention and multiple choice on a real tiny policy, against slow references."""

import importlib.util
import json

import pytest
import torch
from torch import nn

from rlvr.analysis.entanglement import profile
from rlvr.analysis.forgetting import (
    Choice,
    read_choices,
    run_harness,
    score_choices,
    summarise,
)
from rlvr.analysis.trained import attention_profiles, curvature, load_trained, read_token_rows
from rlvr.common.errors import ConfigError

WORDS = "Tom has 5 apples and buys 12 more so he has 17 apples now".split()


@pytest.fixture(scope="module")
def adapted(make_checkpoint, tiny_policy):
    """A rank-1 LoRA on q_proj, loaded from disk."""
    _, folder = make_checkpoint(method="lora", rank=1, target_modules=["q_proj"])
    return load_trained(folder, tiny_policy)


@pytest.fixture(scope="module")
def rows(adapted, tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    lines = [{"prompt": " ".join(WORDS[: 4 + i]), "response": " ".join(WORDS)} for i in range(4)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert len(read_token_rows(path, adapted.tokenizer, 3)) == 3
    return read_token_rows(path, adapted.tokenizer, 10)


def test_the_whole_is_at_least_its_largest_module(adapted, rows):
    found = curvature(adapted, rows)
    assert len(found["modules"]) == 3
    assert found["whole"] >= 0.98 * max(found["modules"].values())


def test_attention_profiles_are_those_of_the_models_own_matrices(adapted, rows):
    found = attention_profiles(adapted, rows, layers=[2])
    assert [f["layer"] for f in found] == [2]
    length = 2 ** ((len(found[0]["cuts"]) + 1) // 2)
    assert length <= min(map(len, rows)) < 2 * length
    ids = torch.tensor([(r.prompt_ids + r.response_ids)[:length] for r in rows])
    with torch.no_grad():
        maps = adapted.causal_lm(ids, output_attentions=True).attentions[2]
    assert torch.allclose(maps.sum(-1), torch.ones(maps.shape[:-1]), atol=1e-5)
    slow = [profile(head).entropy for row in maps for head in row]
    expected = [sum(column) / len(slow) for column in zip(*slow, strict=True)]
    assert found[0]["entropy"] == pytest.approx(expected, abs=1e-5)


def test_choices_are_scored_by_their_own_tokens(adapted):
    """The reference scores one choice at a time from raw logits."""
    pool = [" ".join(WORDS[i : i + n]) for i in range(6) for n in (1, 3, 6)]
    questions = [Choice(f"{WORDS[i]} {i} ?", pool[i : i + 4], 0) for i in range(12)]
    best = []
    for question in questions:
        scores = []
        for choice in question.choices:
            prompt = adapted.tokenizer(question.question)["input_ids"]
            ids = adapted.tokenizer(f"{question.question} {choice}")["input_ids"]
            assert ids[: len(prompt)] == prompt
            with torch.no_grad():
                logits = adapted.causal_lm(torch.tensor([ids])).logits[0, :-1]
            logp = nn.functional.log_softmax(logits, dim=-1)
            picked = logp[range(len(prompt) - 1, len(ids) - 1), ids[len(prompt) :]]
            scores.append(float(picked.sum()) / len(choice))
        best.append(scores.index(max(scores)))
    assert len(set(best)) > 1
    right = [Choice(q.question, q.choices, b) for q, b in zip(questions, best, strict=True)]
    assert score_choices(adapted, right, max_tokens=60) == [1] * 12
    wrong = [Choice(q.question, q.choices, (q.answer + 1) % 4) for q in right]
    assert score_choices(adapted, wrong) == [0] * 12


def test_question_files_are_read_or_refused_by_line(tmp_path):
    path = tmp_path / "q.jsonl"
    good = [
        {"question": "a?", "choices": ["x", "y"], "answer": 1},
        {"question": "b?", "choices": ["x", "y"], "answer": "x"},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in good))
    assert [choice.answer for choice in read_choices(path)] == [1, 0]
    for row in (
        {"question": "a?", "choices": ["x"], "answer": 0},
        {"question": "a?", "choices": ["x", "y"], "answer": 2},
        {"question": "a?", "choices": ["x", "y"], "answer": "z"},
        {"choices": ["x", "y"], "answer": 0},
    ):
        path.write_text(json.dumps(good[0]) + "\n" + json.dumps(row) + "\n")
        with pytest.raises(ConfigError, match=r"q\.jsonl:2"):
            read_choices(path)


def test_the_mean_over_tasks_weighs_tasks_alike():
    found = summarise({"big": [1.0] * 30 + [0.0] * 10, "small": [0.0, 1.0, 0.0, 0.0]})
    assert found["big"]["value"] == 0.75
    assert found["mean"]["value"] == pytest.approx(0.5)
    low, high = found["mean"]["ci95"]
    assert low < 0.5 < high


def test_without_the_harness_the_remedy_is_named(adapted):
    if importlib.util.find_spec("lm_eval") is not None:
        pytest.skip("lm-evaluation-harness is installed")
    with pytest.raises(ConfigError, match="pip install lm_eval"):
        run_harness(adapted)


def test_the_harness_scores_questions_as_we_do(adapted, tmp_path):
    """A task of its own form on a local file: no download."""
    pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed")
    words = [" ".join(WORDS[i : i + n]) for i in range(6) for n in (1, 3, 6)]
    questions = [Choice(f"{WORDS[i]} {i} ?", words[i : i + 4], i % 4) for i in range(12)]
    rows = [{"question": q.question, "choices": q.choices, "answer": q.answer} for q in questions]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {
        "task": "apples",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "q.jsonl")}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{answer}}",
        "metric_list": [{"metric": "acc_norm"}],
    }
    (tmp_path / "apples.yaml").write_text(json.dumps(task))  # JSON is YAML
    found = run_harness(adapted, {"apples": "acc_norm"}, include_path=tmp_path)
    assert found["apples"] == score_choices(adapted, questions)
