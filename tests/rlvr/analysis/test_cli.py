"""`rlvr analyze` as a user runs it."""

import json

import pytest

from rlvr.cli import main

KEYS = {
    "checkpoint",
    "base",
    "method",
    "modules",
    "others",
    "by_layer",
    "curvature",
    "entanglement",
    "forgetting",
    "diversity",
}
MODULE_KEYS = {
    "name",
    "layer",
    "kind",
    "shape",
    "norm",
    "relative_norm",
    "rank90",
    "stable_rank",
    "energy",
    "energy_top10",
    "principal_angles_deg",
    "changed_bf16_frac",
    "sparsity",
    "singular_values",
}


@pytest.fixture(scope="module")
def lora_folder(make_checkpoint):
    return make_checkpoint(method="lora", rank=4)[1]


@pytest.fixture
def questions(tmp_path):
    path = tmp_path / "apples.jsonl"
    rows = [{"question": f"{i}?", "choices": ["a", "b c"], "answer": i % 2} for i in range(6)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_one_checkpoint_gives_the_agreed_file(lora_folder, tmp_path, capsys):
    assert main(["analyze", str(lora_folder), "-o", str(tmp_path)]) == 0
    facts = json.loads((tmp_path / "analysis.json").read_text())
    assert facts.keys() >= KEYS
    assert len(facts["modules"]) == 21
    assert all(module.keys() >= MODULE_KEYS for module in facts["modules"])
    assert all(1 <= module["rank90"] <= 4 for module in facts["modules"])
    assert [layer["layer"] for layer in facts["by_layer"]] == [0, 1, 2]
    norms = [m["norm"] ** 2 for m in facts["modules"] if m["layer"] == 1]
    assert facts["by_layer"][1]["norm"] == pytest.approx(sum(norms) ** 0.5)
    assert {e["what"] for e in facts["entanglement"]} == {"update q_proj", "update v_proj"}
    assert "q_proj (3)" in capsys.readouterr().out


def test_everything_at_once(lora_folder, questions, tmp_path):
    data = tmp_path / "data.jsonl"
    rows = [
        {"prompt": f"Tom has {i} apples.", "response": f"He has {i} \\boxed{{{i}}}", "id": "1"}
        for i in range(4)
    ]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["--layers", "0", "--data", data, "--curvature", "--attention", "--samples", data]
    words += ["--multiple-choice", questions, "-o", tmp_path]
    assert main(["analyze", str(lora_folder), *map(str, words)]) == 0
    facts = json.loads((tmp_path / "analysis.json").read_text())
    assert len(facts["curvature"]["modules"]) == 7
    assert {e["layer"] for e in facts["entanglement"]} == {0}
    assert "attention" in {e["what"] for e in facts["entanglement"]}
    assert facts["forgetting"].keys() == {"apples", "mean", "before"}
    assert facts["diversity"]["unique_answers_frac"]["value"] == 1.0


def test_two_checkpoints_are_compared_module_by_module(make_checkpoint, lora_folder, tmp_path):
    _, full = make_checkpoint(method="full")
    words = ["--base", json.loads((lora_folder / "adapter_config.json").read_text())]
    words[1] = words[1]["base_model_name_or_path"]
    assert main(["analyze", str(lora_folder), str(full), *words, "-o", str(tmp_path)]) == 0
    facts = json.loads((tmp_path / "analysis.json").read_text())
    first, second = facts["modules"][0], {m["name"]: m for m in facts["other"]["modules"]}
    difference = facts["difference"]["modules"][0]
    assert difference["name"] == first["name"]
    assert difference["rank90"] == second[first["name"]]["rank90"] - first["rank90"] > 0
    assert len(difference["shared_angles_deg"]) == 4


def test_a_checkpoint_against_itself_shares_its_directions(lora_folder, tmp_path):
    assert main(["analyze", str(lora_folder), str(lora_folder), "-o", str(tmp_path)]) == 0
    for module in json.loads((tmp_path / "analysis.json").read_text())["difference"]["modules"]:
        assert module["norm"] == 0
        assert max(module["shared_angles_deg"]) < 0.1


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--curvature"], "--data"),
        (["--layers", "first"], "--layers"),
        (["--max-rows", "0"], "--max-rows"),
        (["--answer-mode", "guess"], "--answer-mode"),
        (["--multiple-choice", "absent.jsonl"], "absent.jsonl"),
        (["--samples", "absent"], "absent"),
        (["--base", "absent/absent"], "--base"),
    ],
)
def test_a_users_mistake_is_one_line(lora_folder, tmp_path, capsys, words, named):
    assert main(["analyze", str(lora_folder), "-o", str(tmp_path), *words]) == 2
    error = capsys.readouterr().err
    assert named in error
    assert error.count("\n") == 1
