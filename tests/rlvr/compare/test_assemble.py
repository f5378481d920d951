"""What comparison.json and its page say of runs that were evaluated on several sets."""

import json
from dataclasses import replace
from statistics import fmean

import numpy as np
import pytest

from rlvr.common.errors import RunError
from rlvr.compare.assemble import assemble
from rlvr.compare.fairness import Fairness
from rlvr.compare.results import RunResult, read_guesses, read_scores
from rlvr.compare.text import markdown

FAIR = Fairness((), (), (), {})
TEXT = "[methods.lora]\nlr = 1e-3\n[methods.full]\nlr = 1e-4\n"


def runs_of(comparison, label, right, rng):
    """Two finished runs: `right` of aime24's 10 problems, half of the 200 held-out ones."""

    def scores(share):
        return {
            "heldout": (rng.random(200) < 0.5).astype(float).tolist(),
            "aime24": (rng.random((10, 32)) < share).mean(axis=1).tolist(),
        }

    return [
        RunResult(
            seed, 1e-3, comparison.folder / f"{label}-{seed}", "finished", "", 2,
            scores(0.1), scores(right), None, 0.0, 0.0, 0.0, 0.0, 7, (),
        )
        for seed in (0, 1)
    ]  # fmt: skip


@pytest.fixture
def made(open_written):
    """(comparison, results)."""
    comparison, rng = open_written(TEXT), np.random.default_rng(0)
    results = {"lora": runs_of(comparison, "lora", 0.9, rng),
               "full": runs_of(comparison, "full", 0.3, rng)}  # fmt: skip
    return comparison, results


def test_a_set_of_10_problems_weighs_as_one_of_200(made):
    comparison, results = made
    tree = assemble(comparison, FAIR, {"lora": 1e-3, "full": 1e-4}, results, [])
    assert tree["metric"] == "eval/accuracy_mean"
    assert tree["sets"] == {"heldout": 200, "aime24": 10}
    for method in tree["methods"]:
        own = results[method["label"]]
        sets = {name: fmean(fmean(run.after[name]) for run in own) for name in tree["sets"]}
        assert method["accuracy"]["value"] == pytest.approx(fmean(sets.values()))
        by_set = {name: found["value"] for name, found in method["accuracy_by_set"].items()}
        assert by_set == pytest.approx(sets)
        for entry, run in zip(method["runs"], own, strict=True):
            assert entry["accuracies"] == {name: fmean(run.after[name]) for name in sets}
            assert entry["accuracy"] == pytest.approx(fmean(entry["accuracies"].values()))
    (pair,) = tree["pairs"]
    assert pair["difference"]["value"] == pytest.approx(0.3, abs=0.1), "0.6 on one set of two"
    assert "lora is ahead of full" in pair["text"]
    assert "mean of avg@k over heldout, aime24" in tree["sentences"][0]
    page = markdown(tree)
    assert "| method | heldout (200 problems) | aime24 (10 problems) |" in page


def test_one_set_is_said_as_before(made):
    comparison, results = made
    one = {
        label: [
            replace(
                run,
                before={"heldout": run.before["heldout"]},
                after={"heldout": run.after["heldout"]},
            )
            for run in runs
        ]
        for label, runs in results.items()
    }
    tree = assemble(comparison, FAIR, {"lora": 1e-3, "full": 1e-4}, one, [])
    assert tree["metric"] == "eval/accuracy"
    assert not any("mean of avg@k" in sentence for sentence in tree["sentences"])
    assert "heldout (200" not in markdown(tree)


def test_runs_on_other_problems_are_not_mixed(made):
    comparison, results = made
    old = replace(results["full"][1], after={"heldout": [0.0] * 200})
    results["full"][1] = old
    with pytest.raises(RunError, match="evaluated on 200 problems of heldout, others on"):
        assemble(comparison, FAIR, {"lora": 1e-3, "full": 1e-4}, results, [])


def test_a_run_that_guesses_is_named(made, tmp_path):
    comparison, results = made
    (tmp_path / "eval").mkdir()
    top = {"value": 0.42, "answer": "1", "right_frac": {"value": 0.077}}
    sets = {"heldout": {"top_answer_frac": top}, "aime24": {"top_answer_frac": None}, "old": {}}
    tree = {"fractions": [], "results": {"benchmarks": sets}}
    (tmp_path / "eval" / "step_2.json").write_text(json.dumps(tree))
    assert read_guesses(tmp_path, 3) == ()
    results["lora"][1] = replace(results["lora"][1], guesses=read_guesses(tmp_path, 2))
    tree = assemble(comparison, FAIR, {"lora": 1e-3, "full": 1e-4}, results, [])
    (said,) = [sentence for sentence in tree["sentences"] if "guesses" in sentence]
    assert said == (
        "lora, seed 1, guesses: on heldout 42% of the responses answer 1, which is right for"
        " 7.7% of the problems."
    )
    assert said in markdown(tree)


def test_an_evaluation_from_before_there_were_sets_has_its_first(tmp_path):
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval" / "step_2.json").write_text('{"fractions": [1.0, 0.0]}')
    assert read_scores(tmp_path, 2) == {"heldout": [1.0, 0.0]}
    assert read_scores(tmp_path, 3) is None
