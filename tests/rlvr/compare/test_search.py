"""The curvature of methods on a tiny policy, and a whole search from the command line."""

import json

import pytest

from rlvr.cli import main
from rlvr.common.errors import RunError
from rlvr.compare.learning_rate.curvature import correct_rows, largest_eigenvalue
from rlvr.compare.learning_rate.transfer import PastSearch, recall
from rlvr.policy.packing import TokenRow

ROWS = [TokenRow([5 + i, 9, 30 + i], [40 + i, 50, 60 + 2 * i, 7][: 2 + i % 3]) for i in range(8)]


def test_the_curvature_does_not_depend_on_how_rows_are_split_over_micro_batches(make_recipe):
    whole = largest_eigenvalue(make_recipe(train={"tokens_per_microbatch": 4096}), ROWS)
    parts = largest_eigenvalue(make_recipe(train={"tokens_per_microbatch": 30}), ROWS)
    assert parts == pytest.approx(whole, rel=0.01)


def test_a_larger_scale_of_the_update_means_more_curvature_and_a_smaller_rate(make_recipe):
    lora = largest_eigenvalue(make_recipe(), ROWS)
    rslora = largest_eigenvalue(make_recipe(adapter={"method": "rslora"}), ROWS)
    assert 2 < rslora / lora < 4.2, "between the scale (2) and its square (4) at rank 4"


def test_a_policy_that_is_never_right_has_no_prior_and_says_so(make_recipe):
    recipe = make_recipe(reward={"answer_mode": "boxed"})
    with pytest.raises(RunError, match="correct responses"):
        correct_rows(recipe, 8)


def test_a_search_from_the_command_line_leaves_its_points_and_takes_them_again(
    write_comparison, capsys, monkeypatch, tmp_path
):
    monkeypatch.setenv("RLVR_CACHE", str(tmp_path / "cache"))
    text = '[methods.lora]\n[find]\nseeds = [0]\nnum_points = 3\nmax_points = 3\nprior = "none"\n'
    recipe = write_comparison(text, budget="steps = 1")
    assert main(["lr-find", str(recipe)]) == 0
    said = capsys.readouterr().out
    assert "lora: lr" in said
    assert "best measured" in said
    folder = tmp_path / "runs" / "cmp"
    tree = json.loads((folder / "lr_find-lora.json").read_text())
    assert [point["lr"] for point in tree["points"]] == [5.623e-05, 1e-4, 1.778e-4]
    assert tree["chosen_by"] == "best measured", "three points of one seed have no error to judge"
    assert tree["warnings"]
    times = {path: path.stat().st_mtime_ns for path in folder.glob("runs/*/metrics.jsonl")}
    assert len(times) == 3
    assert main(["lr-find", str(recipe)]) == 0
    assert {p: p.stat().st_mtime_ns for p in folder.glob("runs/*/metrics.jsonl")} == times
    assert recall(tmp_path / "cache" / "lr_finds.jsonl") == [], "only fitted rates are kept"
    assert main(["lr-find", str(recipe), "--methods", "dora"]) == 2


def test_earlier_searches_are_shown_beside_a_new_one(open_written, capsys, monkeypatch, tmp_path):
    from rich.console import Console

    from rlvr.compare.learning_rate.find import conclude
    from rlvr.compare.learning_rate.search import report_find
    from rlvr.compare.learning_rate.transfer import remember, store_path
    from rlvr.compare.results import RatePoint

    monkeypatch.setenv("RLVR_CACHE", str(tmp_path / "cache"))
    comparison = open_written("[methods.lora]\n", budget="steps = 20")
    for rank in (2, 8, 16, 32):
        remember(PastSearch("lora", 4e-3 / rank**0.5, rank, 16, 20, 7, 128), store_path())
    points = [
        RatePoint(10 ** (k / 4), s, 0.5 - 0.02 * (k + 11) ** 2 + 1e-4 * (k % 3) * s, 20, None)
        for k in range(-14, -8)
        for s in (0, 1)
    ]
    found = conclude("lora", "lora", 4, None, points, comparison.recipe.find)
    report_find(comparison, "lora", found, Console(width=200))
    said = capsys.readouterr().out
    assert "power law from 4 searches: lr = 0.004 rank^-0.50; here 0.002" in said
    assert "outside the fitted range: num_params" in said
    assert "muTransfer" in said
    assert len(recall(store_path(), "lora")) == 5
