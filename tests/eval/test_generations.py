"""Generations files and the log that an interrupted run continues."""

import gzip
import json

import pytest

from eval.generations import Generation, GenerationLog, read_generations

SETTINGS = {"model": "tiny", "temperature": 0.6, "seed": 0}


def batch(problem, samples, text="\\boxed{1}"):
    return [Generation("sums", problem, s, text, 5, "stop") for s in samples]


def test_rows_without_numbers_are_numbered_per_problem(tmp_path):
    path = tmp_path / "g.jsonl"
    rows = [{"benchmark": "b", "id": i, "response": "r"} for i in ("x", "y", "x")]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    keys = [g.key for g in read_generations(path)]
    assert keys == [("b", "x", 0), ("b", "y", 0), ("b", "x", 1)]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"g.jsonl:1: not JSON"),
        ("[]", r"g.jsonl:1: needs one JSON object"),
        ('{"benchmark": "b", "id": "x"}', r"g.jsonl:1: 'response' must be a string, got None"),
        ('{"benchmark": "b", "id": 3, "response": "r"}', r"'id' must be a string, got 3"),
        ('{"benchmark": "b", "id": "x", "response": "r", "sample": -1}', "sample = -1"),
        ('{"benchmark": "b", "id": "x", "response": "r", "response_len": "9"}', "response_len"),
    ],
)
def test_a_bad_row_is_named_by_file_and_line(tmp_path, line, message):
    path = tmp_path / "g.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(ValueError, match=message):
        list(read_generations(path))


def test_a_sample_that_occurs_twice_is_refused(tmp_path):
    path = tmp_path / "g.jsonl"
    row = json.dumps({"benchmark": "b", "id": "x", "sample": 0, "response": "r"})
    path.write_text(f"{row}\n{row}\n")
    with pytest.raises(ValueError, match=r"g.jsonl:2: sample 0 of b x occurs twice"):
        list(read_generations(path))


def append(path, batches):
    log = GenerationLog(path, SETTINGS)
    return sum(log.append(generations) for generations in batches)


def test_a_log_returns_what_was_appended_and_skips_what_it_has(tmp_path):
    path = tmp_path / "g.jsonl.gz"
    batches = [batch("a", [0, 1]), batch("b", [0]), batch("a", [1, 2])]
    assert append(path, batches) == 4
    assert append(path, batches) == 0
    read = list(read_generations(path))
    assert read == batches[0] + batches[1] + batches[2][1:]


def test_a_log_cut_anywhere_continues_without_losing_or_repeating_a_sample(tmp_path):
    whole = tmp_path / "whole.jsonl.gz"
    wanted = [batch(p, [0, 1, 2], text=f"\\boxed{{{p * 50}}}") for p in ("a", "b", "c")]
    append(whole, wanted)
    content = whole.read_bytes()
    for cut in range(0, len(content), 7):
        path = tmp_path / f"cut{cut}.jsonl.gz"
        path.write_bytes(content[:cut])
        log = GenerationLog(path, SETTINGS)
        assert log.done <= {g.key for group in wanted for g in group}
        for group in wanted:
            log.append(group)
        assert path.read_bytes() == content


def test_other_settings_are_refused_with_both_values(tmp_path):
    path = tmp_path / "g.jsonl.gz"
    append(path, [batch("a", [0])])
    with pytest.raises(ValueError, match=r"sampled with temperature = 0.6, now 1.0"):
        GenerationLog(path, SETTINGS | {"temperature": 1.0})


def test_a_damaged_file_is_reported_in_one_line(tmp_path):
    path = tmp_path / "g.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"benchmark": "b", "id": "x", "response": "r"}\n')[:-9])
    with pytest.raises(ValueError, match="damaged"):
        list(read_generations(path))
