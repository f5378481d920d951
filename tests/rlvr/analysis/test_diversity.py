"""Unique outputs and answers, counted by hand."""

import gzip
import itertools
import json

import pytest

from rlvr.analysis.diversity import diversity, read_groups, unique_among
from rlvr.common.errors import ConfigError


def test_the_expectation_equals_drawing_every_subset():
    values = list("aabbbcd")
    for n in range(1, 8):
        drawn = [len(set(subset)) for subset in itertools.combinations(values, n)]
        assert unique_among(values, n) == pytest.approx(sum(drawn) / len(drawn))


def test_outputs_and_answers_are_counted_apart():
    groups = [
        [r"so \boxed{4}", r"hence \boxed{4}", r"hence \boxed{4} ", r"\boxed{5}"],
        [r"\boxed{1}"] * 4,
        ["no idea"],  # a single sample says nothing about diversity
    ]
    found = diversity(groups)
    assert (found["samples"], found["problems"]) == (4, 2)
    assert found["unique_outputs_frac"]["value"] == pytest.approx((3 / 4 + 1 / 4) / 2)
    assert found["unique_answers_frac"]["value"] == pytest.approx((2 / 4 + 1 / 4) / 2)
    low, high = found["unique_outputs_frac"]["ci95"]
    assert low < 0.5 < high


def test_rollouts_and_generations_are_read_by_problem(tmp_path):
    run = tmp_path / "run"
    (run / "rollouts").mkdir(parents=True)
    rows = [{"problem_id": p, "response": f"{p}{i}"} for p in "ab" for i in range(2)]
    for step in (1, 2):
        with gzip.open(run / "rollouts" / f"step_{step}.jsonl.gz", "wt") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    generations = tmp_path / "generations.jsonl"
    lines = [{"benchmark": b, "id": "1", "response": b} for b in ("x", "y", "x")]
    generations.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert len(read_groups([run])) == 4
    assert sorted(read_groups([generations])) == [["x", "x"], ["y"]]


def test_what_cannot_be_read_is_named(tmp_path):
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"response": "x"}\n')
    with pytest.raises(ConfigError, match="line 1"):
        read_groups([bad])
    with pytest.raises(ConfigError, match="no rollouts"):
        read_groups([tmp_path / "nothing"])
    with pytest.raises(ConfigError, match="two samples"):
        diversity([["only one"]])
