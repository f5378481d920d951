"""Scoring generations: files, metrics, what is missing, and that equal samples score equally."""

import gzip
import json
from itertools import islice

import pytest

from eval.benchmarks import load_benchmark
from eval.formats.samples_file import read_samples
from eval.generations import Generation, read_generations
from eval.records import BENCHMARKS
from eval.reports.report import results_tables
from eval.score import score


def test_scores_match_the_kinds_of_responses_written(
    sums_file, write_generations, verifier, tmp_path
):
    kinds = [["right", "spelled", "wrong", "wrong too"]] * 6 + [["silent", "wrong"] * 2] * 6
    path = write_generations(kinds, response_len=40, finish_reason="length")
    out = tmp_path / "out"
    results = score(read_generations(path), verifier, benchmarks=[str(sums_file)], out=out)
    sums = results["benchmarks"]["sums"]
    assert sums["avg@k"]["value"] == pytest.approx(0.25)
    assert sums["avg@4"] == sums["avg@k"]
    assert sums["pass@k"]["value"] == 0.5
    assert sums["pass@2"]["value"] == pytest.approx(0.5 * 5 / 6)
    assert sums["maj@k"]["value"] == pytest.approx(0.25)
    assert sums["maj@k"]["ties"] == 6
    assert sums["unique_answers"]["value"] == pytest.approx(1.5)
    assert sums["reasons"]["no_answer"]["count"] == 12
    assert sums["truncated_frac"]["value"] == 1.0
    assert (sums["length"]["mean"]["value"], sums["length"]["unit"]) == (40, "tokens")
    assert sums["by_level"]["2"]["problems"] == 4
    assert set(sums["by_subject"]) == {"even", "odd"}
    assert json.loads((out / "results.json").read_text()) == results


def test_a_guess_is_named_with_what_it_scores(sums_file, verifier):
    loaded = load_benchmark(str(sums_file))
    ids = [question.id for question in loaded.questions]
    # 7 is right for one problem of twelve; two of its responses are written in another way
    said = ["7"] * 7 + ["14/2"] * 2 + ["12", "15", "200"]
    guesses = [Generation("sums", i, 0, f"\\boxed{{{a}}}") for i, a in zip(ids, said, strict=True)]
    results = score(guesses, verifier, benchmarks=[loaded])
    top = results["benchmarks"]["sums"]["top_answer_frac"]
    assert (top["answer"], top["value"]) == ("7", pytest.approx(7 / 12))
    assert top["right_frac"]["value"] == pytest.approx(1 / 12)
    notes = " ".join(results_tables(results)[0].notes)
    assert "sums: 58% of the responses answer 7, which is right for 8.3% of the problems" in notes
    silent = [Generation("sums", i, 0, "We add.") for i in ids]
    results = score(silent, verifier, benchmarks=[loaded])
    top = results["benchmarks"]["sums"]["top_answer_frac"]
    assert (top["answer"], top["value"], top["right_frac"]["value"]) == (None, 0.0, 0.0)
    assert "guesses" not in " ".join(results_tables(results)[0].notes)


def test_every_sample_is_written_once_with_its_verdict(
    sums_file, write_generations, random_kinds, verifier, tmp_path
):
    path = write_generations(random_kinds(0))
    score(read_generations(path), verifier, benchmarks=[str(sums_file)], out=tmp_path / "out")
    rows = list(read_samples(tmp_path / "out"))
    given = list(read_generations(path))
    assert [(r["benchmark"], r["id"], r["sample"]) for r in rows] == [g.key for g in given]
    assert [r["response"] for r in rows] == [g.response for g in given]
    assert all(r["correct"] == (r["reason"] == "correct") for r in rows)


def test_scoring_twice_or_in_chunks_or_in_another_order_changes_nothing(
    sums_file, write_generations, random_kinds, verifier, tmp_path, monkeypatch, digest
):
    generations = list(read_generations(write_generations(random_kinds(1))))
    loaded = load_benchmark(str(sums_file))
    for name in ("a", "b"):
        score(generations, verifier, benchmarks=[loaded], out=tmp_path / name)
    for file in ("results.json", "samples.jsonl.gz", "problems.jsonl"):
        assert digest(tmp_path / "a" / file) == digest(tmp_path / "b" / file)
    monkeypatch.setattr("eval.score.CHUNK", 5)
    turned = score(reversed(generations), verifier, benchmarks=[loaded])
    assert turned == json.loads((tmp_path / "a" / "results.json").read_text())


def test_the_live_number_equals_the_number_from_the_file(
    sums_file, write_generations, random_kinds, verifier
):
    path = write_generations(random_kinds(2))
    generations = list(read_generations(path))
    live = score(iter(generations), verifier, benchmarks=[load_benchmark(str(sums_file))])
    offline = score(read_generations(path), verifier, benchmarks=[str(sums_file)])
    assert live == offline


def test_problems_without_samples_are_counted_as_missing(
    sums_file, write_generations, random_kinds, verifier
):
    path = write_generations(random_kinds(3, problems=9))
    results = score(read_generations(path), verifier, benchmarks=[str(sums_file)])
    sums = results["benchmarks"]["sums"]
    assert sums["missing"] == {"count": 3, "ids": ["sum-9", "sum-10", "sum-11"]}
    assert sums["problems"] == 9
    assert "sums (9 of 12 problems, k = 4)" in results["overall"]["avg@k"]["formed"]


def test_asking_for_more_samples_than_a_problem_has_is_refused_and_writes_nothing(
    sums_file, write_generations, random_kinds, verifier, tmp_path
):
    path, out = write_generations(random_kinds(4)), tmp_path / "out"
    with pytest.raises(ValueError, match=r"12 of 12 problems have fewer than 5 samples \(sum-0"):
        score(read_generations(path), verifier, benchmarks=[str(sums_file)], samples=5, out=out)
    assert list(out.iterdir()) == []
    results = score(read_generations(path), verifier, benchmarks=[str(sums_file)], samples=2)
    assert results["benchmarks"]["sums"]["samples"] == 24


@pytest.mark.parametrize(
    ("benchmark", "message"),
    [("sums", "sums has no problem 'sum-12'"), ("summs", "unknown benchmark 'summs'")],
)
def test_unknown_problems_and_benchmarks_are_named(
    sums_file, write_generations, random_kinds, verifier, benchmark, message, tmp_path
):
    path = write_generations(random_kinds(5, problems=13), benchmark=benchmark)
    chosen = [str(sums_file)] if benchmark == "sums" else []
    with pytest.raises(ValueError, match=message):
        score(read_generations(path), verifier, benchmarks=chosen, out=tmp_path / "out")
    assert not (tmp_path / "out" / "samples.jsonl.gz").exists()
    assert not (tmp_path / "out" / "samples.jsonl.gz.partial").exists()


def test_a_file_without_generations_for_the_benchmark_is_refused(
    sums_file, write_generations, random_kinds, verifier
):
    path = write_generations(random_kinds(6), benchmark="others")
    with pytest.raises(ValueError, match="no generations for sums"):
        score(read_generations(path), verifier, benchmarks=[str(sums_file)])


def test_overall_averages_say_how_they_were_formed(
    sums_file, write_generations, random_kinds, verifier, tmp_path
):
    generations = list(read_generations(write_generations(random_kinds(7))))
    few = list(islice(generations, 8))
    other = [Generation("others", *g.key[1:], g.response) for g in few]
    chosen = [str(sums_file), f"others={sums_file}"]
    results = score([*generations, *other], verifier, benchmarks=chosen)
    values = [results["benchmarks"][name]["avg@k"]["value"] for name in ("sums", "others")]
    overall = results["overall"]
    assert overall["avg@k"]["value"] == pytest.approx(sum(values) / 2)
    assert overall["avg@k_problems"]["value"] == pytest.approx(
        (12 * values[0] + 2 * values[1]) / 14
    )
    assert "unweighted mean" in overall["avg@k"]["formed"]
    assert "14 problems" in overall["avg@k_problems"]["formed"]


def test_samples_file_is_ordinary_gzip(
    sums_file, write_generations, random_kinds, verifier, tmp_path
):
    path = write_generations(random_kinds(8))
    score(read_generations(path), verifier, benchmarks=[str(sums_file)], out=tmp_path)
    with gzip.open(tmp_path / "samples.jsonl.gz", "rt") as file:
        assert len(file.readlines()) == 48


@pytest.mark.usefixtures("real_data")
def test_right_and_wrong_responses_to_every_real_benchmark_score_one_and_zero(verifier):
    for name in BENCHMARKS.keys() - {"math", "aime26"}:
        loaded = load_benchmark(name)
        right = [Generation(name, q.id, 0, f"So \\boxed{{{q.answer}}}.") for q in loaded.questions]
        wrong = [Generation(name, q.id, 1, "So \\boxed{-987654321}.") for q in loaded.questions]
        result = score([*right, *wrong], verifier, benchmarks=[loaded])["benchmarks"][name]
        assert result["avg@k"]["value"] == pytest.approx(0.5, abs=0.001)
        assert result["maj@k"]["ties"] >= 0.999 * len(loaded.questions)
