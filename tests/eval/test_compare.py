"""Paired comparison of scored folders."""

import pytest

from eval.compare import OVERALL, compare, read_result
from eval.generations import Generation, read_generations
from eval.pvalues import holm
from eval.score import score


@pytest.fixture
def scored(sums_file, write_generations, verifier, tmp_path):
    """Scores kinds under a name; problems 0 to 5 count again as a second benchmark."""

    def run(name, kinds):
        first = list(read_generations(write_generations(kinds)))
        again = [Generation("other", *g.key[1:], g.response) for g in first if g.id < "sum-6"]
        chosen = [str(sums_file), f"other={sums_file}"]
        score([*first, *again], verifier, benchmarks=chosen, out=tmp_path / name)
        return read_result(tmp_path / name)

    return run


def test_a_difference_has_its_interval_its_p_value_and_its_wins(scored):
    base = scored("base", [["right", "wrong"]] * 12)
    better = scored("better", [["right", "right"]] * 9 + [["right", "wrong"]] * 2 + [["wrong"] * 2])
    report = compare([base, better])
    sums = next(c for c in report.comparisons if c.benchmark == "sums")
    assert (sums.wins, sums.ties, sums.losses) == (9, 2, 1)
    assert sums.difference.value == pytest.approx((9 * 0.5 - 0.5) / 12)
    assert sums.difference.lo < sums.difference.value < sums.difference.hi
    assert sums.p.exact
    assert sums.p.value == pytest.approx(2 * 11 / 2**10)
    assert sums.samples_ci95[0] <= sums.difference.value <= sums.samples_ci95[1]
    assert "each against base" in report.family


def test_holm_runs_over_every_comparison_but_the_one_that_repeats_data(scored, random_kinds):
    results = [scored(f"run{i}", random_kinds(i)) for i in range(3)]
    for all_pairs, pairs in ((False, 2), (True, 3)):
        report = compare(results, all_pairs=all_pairs)
        family = [c for c in report.comparisons if c.benchmark != OVERALL]
        assert len(family) == 2 * pairs
        assert [c.p_holm for c in family] == holm([c.p.value for c in family])
        assert all(c.p_holm is None for c in report.comparisons if c.benchmark == OVERALL)


def test_subjects_and_levels_split_the_same_problems(scored, random_kinds):
    report = compare([scored("a", random_kinds(1)), scored("b", random_kinds(2))])
    sums = [c for c in report.parts if c.benchmark == "sums"]
    assert {c.part for c in sums} == {
        "subject even",
        "subject odd",
        "level 1",
        "level 2",
        "level 3",
    }
    whole = next(c for c in report.comparisons if c.benchmark == "sums")
    levels = [c for c in sums if c.part.startswith("level")]
    weighted = sum(c.difference.value * c.num_problems for c in levels) / 12
    assert weighted == pytest.approx(whole.difference.value)


def test_the_per_problem_table_holds_every_result(scored, random_kinds):
    report = compare([scored("a", random_kinds(1)), scored("b", random_kinds(2))])
    rows = [r for r in report.per_problem if r["benchmark"] == "sums"]
    assert len(rows) == 12
    assert set(rows[0]["avg@k"]) == {"a", "b"}
    assert rows[0]["level"] == "1"


def test_results_over_different_problems_are_refused(scored):
    a = scored("a", [["right"]] * 12)
    b = scored("b", [["right"]] * 8)
    with pytest.raises(ValueError, match="a has 12 problems and b 8; 'sum-10' is in one"):
        compare([a, b])


def test_one_result_or_an_unscored_folder_is_refused(scored, tmp_path):
    with pytest.raises(ValueError, match="at least two results"):
        compare([scored("a", [["right"]] * 12)])
    with pytest.raises(ValueError, match="score generations there first"):
        read_result(tmp_path / "nothing")


def test_folders_of_the_same_name_are_told_apart(scored):
    a = scored("a", [["right"]] * 12)
    assert compare([a, a]).names == ("a", "a#2")
