"""The GPU benchmark's own script, on a model small enough for any machine."""

import json

import pytest

from tests.benchmarks import gpu
from tests.benchmarks.gpu_case import Case, make_groups, needed_flops


def test_the_script_measures_both_sides_on_the_same_rows(tmp_path, capsys):
    path = tmp_path / "gpu.json"
    gpu.main(["--tiny", "--steps", "1", "--json", str(path)])
    results = json.loads(path.read_text())["results"]
    assert [(r["method"], r["side"]) for r in results] == [
        (method, side) for method in ("full", "lora") for side in ("ours", "trl")
    ]
    for ours, theirs in zip(results[::2], results[1::2], strict=True):
        assert ours["tokens_per_s"] > 0
        assert ours["padding_frac"] < 0.2 < theirs["padding_frac"]
    assert "padding" in capsys.readouterr().out


def test_the_flops_of_one_group_are_those_counted_by_hand():
    case = Case(4, 8, 3, 2, 1, 10, num_groups=1, group_size=2, prompt_len=5, max_len=1)
    groups = make_groups(case)  # prompt 5, two responses of one token
    layer = 2 * 16 + 2 * 8 + 3 * 32
    dense = layer * 3 * 7 + 10 * 4 * 2
    attention = 6 * 3 * 4 * (25 + 11 + 11)
    assert needed_flops(case, groups, "full") == pytest.approx(6 * dense + attention)
    assert needed_flops(case, groups, "lora") == pytest.approx(4 * dense + attention)
