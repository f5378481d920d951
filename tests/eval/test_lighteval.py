"""Details files: what is written is read back, and files of lighteval's own form are understood."""

import json

import pytest
from pyarrow import Table, parquet

from eval.cli import eval_main
from eval.generations import read_generations
from eval.lighteval import export_details, read_details
from eval.score import score


def test_details_come_back_as_the_same_generations(
    sums_file, write_generations, random_kinds, verifier, tmp_path
):
    path = write_generations(random_kinds(0))
    spec = f"sums={sums_file}"
    score(read_generations(path), verifier, benchmarks=[spec], out=tmp_path / "scored")
    (details,) = export_details(tmp_path / "scored", tmp_path / "out")
    assert details.name.startswith("details_sums|0_")
    back = [(g.id, g.sample, g.response) for g in read_details(details, spec)]
    assert back == [(g.id, g.sample, g.response) for g in read_generations(path)]
    (row, *_) = parquet.read_table(details).to_pylist()
    assert set(row) == {"doc", "metric", "model_response"}


def test_problems_are_found_by_their_text_and_lengths_by_their_tokens(sums_file, tmp_path):
    query = "Solve. A shelf holds $3$ red books and 7 blue ones; how many in all? Box it."
    response = {"text": ["\\boxed{10}", "eleven"], "output_tokens": [[1, 2, 3], [4]]}
    row = {"doc": {"query": query, "id": "0"}, "metric": {}, "model_response": response}
    parquet.write_table(Table.from_pylist([row | {"metric": {"a": 1.0}}]), tmp_path / "d.parquet")
    first, second = read_details(tmp_path / "d.parquet", f"sums={sums_file}")
    assert (first.id, first.sample, first.response, first.response_len) == (
        "sum-3",
        0,
        "\\boxed{10}",
        3,
    )
    assert second.sample == 1
    row["doc"]["query"] = "Something else."
    parquet.write_table(Table.from_pylist([row | {"metric": {"a": 1.0}}]), tmp_path / "e.parquet")
    with pytest.raises(ValueError, match="holds no problem of sums"):
        list(read_details(tmp_path / "e.parquet", f"sums={sums_file}"))


@pytest.mark.process
def test_the_commands_write_and_read_details(
    sums_file, write_generations, random_kinds, verifier, tmp_path, capsys
):
    path, spec = write_generations(random_kinds(3)), f"sums={sums_file}"
    scored = score(read_generations(path), verifier, benchmarks=[spec], out=tmp_path / "scored")
    words = ("export", str(tmp_path / "scored"), "--out", str(tmp_path), "--to", "lighteval")
    assert eval_main(words) == 0
    details = capsys.readouterr().out.strip()
    words = ("--generations", details, "--from-lighteval", spec, "--format", "json")
    assert eval_main(words) == 0
    back = json.loads(capsys.readouterr().out)["benchmarks"]["sums"]
    assert back["avg@k"] == scored["benchmarks"]["sums"]["avg@k"]
    assert back["maj@k"] == scored["benchmarks"]["sums"]["maj@k"]
