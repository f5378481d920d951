"""Exchange with lm-evaluation-harness: what is exported has its form and comes back the same."""

import hashlib
import json

import pytest

from eval.formats.harness import export_samples, read_harness_samples
from eval.generations import read_generations
from eval.score import score

LOGGED_FIELDS = {
    "doc_id",
    "doc",
    "target",
    "arguments",
    "resps",
    "filtered_resps",
    "filter",
    "metrics",
    "doc_hash",
    "prompt_hash",
    "target_hash",
}


@pytest.fixture
def exported(sums_file, write_generations, random_kinds, verifier, tmp_path):
    path = write_generations(random_kinds(0))
    score(read_generations(path), verifier, benchmarks=[str(sums_file)], out=tmp_path / "out")
    (file,) = export_samples(tmp_path / "out", tmp_path / "harness")
    return path, file


def test_exported_rows_have_the_fields_and_metrics_of_its_logger(exported):
    _, file = exported
    assert file.name == "samples_sums_0.jsonl"
    rows = [json.loads(line) for line in file.open()]
    assert len(rows) == 12
    for row in rows:
        assert set(row) == LOGGED_FIELDS | set(row["metrics"])
        assert 0 <= row["exact_match"] <= 1
        assert len(row["resps"][0]) == len(row["filtered_resps"]) == 4
        assert row["target_hash"] == hashlib.sha256(row["target"].encode()).hexdigest()
    prompt = rows[0]["arguments"]["gen_args_0"]["arg_0"]
    assert prompt.startswith(rows[0]["doc"]["problem"])


def test_exported_rows_read_back_as_the_same_generations(exported, sums_file):
    path, file = exported
    given = {g.key: g.response for g in read_generations(path)}
    back = {g.key: g.response for g in read_harness_samples(file, f"sums={sums_file}")}
    assert back == given


def test_a_repeated_filter_is_read_once_and_ids_come_from_positions(tmp_path, sums_file):
    file = tmp_path / "samples_x.jsonl"
    row = {"doc_id": 2, "doc": {}, "resps": [["\\boxed{7}"]], "filter": "strict"}
    file.write_text(json.dumps(row) + "\n" + json.dumps(row | {"filter": "flexible"}) + "\n")
    (generation,) = read_harness_samples(file, f"sums={sums_file}")
    assert generation.key == ("sums", "sum-2", 0)


def test_another_file_is_refused(tmp_path, sums_file):
    file = tmp_path / "other.jsonl"
    file.write_text('{"id": 1}\n')
    with pytest.raises(ValueError, match=r"other.jsonl:1: no 'resps' and 'doc_id'"):
        list(read_harness_samples(file, str(sums_file)))
