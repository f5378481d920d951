"""The page as a file: what is on it, that it needs nothing else, and the command's errors."""

import json
import re
from pathlib import Path

import pytest

from rlvr.cli import main
from rlvr.report.folder import Source, read_source
from rlvr.report.page import page_data, safe_json
from rlvr.runs.reader import RunData
from tests.rlvr.report.folders import (
    healthy_rows,
    lr_find,
    recipe,
    write_analysis,
    write_comparison,
    write_run,
    write_trace,
)


def sections_of(page: Path) -> dict[str, dict]:
    text = page.read_text()
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert data is not None
    return {section["id"]: section for section in json.loads(data[1])["sections"]}


def titles(section):
    return [block.get("title") or block.get("caption") for block in section["blocks"]]


def test_a_run_has_every_section_for_which_there_is_data(tmp_path, page_of):
    sections = sections_of(page_of(write_run(tmp_path / "run")))
    assert list(sections) == [
        "summary",
        "diagnosis",
        "learning",
        "signal",
        "length",
        "policy",
        "cost",
        "timeline",
        "rollouts",
        "settings",
    ]
    assert titles(sections["learning"]) == ["Mean reward of sampled responses", "Held-out accuracy"]


def test_a_run_that_has_just_begun_has_only_what_is_known(tmp_path):
    run = RunData("new", healthy_rows(1), recipe())
    data = page_data(Source(tmp_path, {"new": run}, None, [], {}), [[]])
    names = [section["id"] for section in data["sections"]]
    assert "rollouts" not in names
    empty = page_data(Source(tmp_path, {"new": RunData("new")}, None, [], {}), [[]])
    assert [section["id"] for section in empty["sections"]] == ["summary"]


def test_a_timeline_shows_the_last_traced_step_and_two_earlier_ones(tmp_path):
    folder = write_run(tmp_path / "run", rows=healthy_rows(40), steps_with_rollouts=0)
    for step in (3, 4, 20):
        write_trace(folder, step)
    write_trace(folder, 40, num_rows=1000, state="running")
    blocks = [
        section["blocks"]
        for section in page_data(read_source(folder), [[]])["sections"]
        if section["id"] == "timeline"
    ]
    last, earlier = blocks[0]
    assert last["title"] == "Step 40"
    assert earlier["summary"] == "Earlier: step 3, step 1"
    assert len(last["rows"]) == 320
    assert "1000 responses: 664 ended, 3 continued and ended, 333 running on" in last["note"]
    assert last["rows"] == sorted(last["rows"])
    first = earlier["blocks"][1]
    assert first["title"] == "Step 1"
    assert first["phases"] == [["update", 6.0, 9.0], ["sync", 9.2, 9.9]]
    assert first["rows"][:3] == [(0.0, 1 + 4 * i / 24, 1) for i in range(3)], "cut off at the begin"
    assert sum(kind == 2 for _, _, kind in first["rows"]) == 8
    idle = {"seconds": 3, "phases": [], "ticks": [], "columns": [], "rows": []}
    for text in (
        json.dumps(idle),
        "",
        "[1]",
        '{"seconds": 3}',
        '{"seconds": 3, "columns": ["a"], "rows": [[1, 2]]}',
    ):
        (folder / "trace" / "step_40.json").write_text(text)
        data = page_data(read_source(folder), [[]])
        timeline = next(one for one in data["sections"] if one["id"] == "timeline")
        assert [block.get("title") for block in timeline["blocks"]] == ["Step 20", None]


def test_a_comparison_shows_result_table_forest_curves_rates_and_differences(tmp_path, page_of):
    sections = sections_of(page_of(write_comparison(tmp_path / "c", num_steps=12)))
    result = json.dumps(sections["result"])
    assert "not distinguishable" in result
    assert "allow_unmatched" in result
    assert "Methods" in titles(sections["methods"])
    forest = sections["pairs"]["blocks"][0]
    row = next(row for row in forest["rows"] if row[0] == "full - lora")
    assert row[1:4] == [9.0, 5.0, 13.0]
    assert row[5] is True  # Holm's p is below 0.05
    assert next(row for row in forest["rows"] if row[0] == "full - dora")[5] is False
    reward = sections["learning"]["blocks"][0]["series"]
    assert [series["name"] for series in reward] == ["lora", "dora", "pissa", "full"]
    assert all(series["band"] for series in reward)
    parabola = sections["learning-rates"]["blocks"][0]
    assert parabola["marks"][0]["x"] == 0.002
    assert parabola["marks"][0]["span"] == pytest.approx([0.002 / 1.3, 0.0026], rel=1e-4)
    fitted = next(s for s in parabola["series"] if s["name"] == "quadratic fit")["points"]
    assert max(fitted, key=lambda p: p[1])[0] == pytest.approx(0.002, rel=0.05)
    differences = {row[0] for row in sections["differences"]["blocks"][0]["rows"]}
    assert {"optim.lr", "adapter.method", "train.seed"} <= differences
    assert "rollout.group_size" not in differences
    assert {"spectra", "entanglement", "forgetting", "rollouts", "settings"} <= set(sections)


def test_failed_runs_and_missing_numbers_do_not_break_a_comparison(tmp_path, page_of):
    folder = write_comparison(tmp_path / "c", num_seeds=1, num_steps=8)
    tree = json.loads((folder / "comparison.json").read_text())
    method = tree["methods"][0]
    method |= {"accuracy": None, "gain": None, "tokens": None, "sync_bytes": None, "rank": None}
    method["runs"] = [{"seed": 0, "run": "runs/none", "status": "failed", "steps": 0}]
    tree |= {"pairs": [], "sentences": [], "pruned": [], "lr_finds": [{**lr_find("a", 1e-3)}]}
    tree["lr_finds"][0] |= {"fit": None, "prior": None, "warnings": ["every rate diverged"]}
    (folder / "comparison.json").write_text(json.dumps(tree))
    sections = sections_of(page_of(folder))
    assert "pairs" not in sections
    assert "every rate diverged" in json.dumps(sections["learning-rates"])


def test_a_rate_outside_the_interval_of_the_vertex_is_pointed_out(tmp_path, page_of):
    find = lr_find("dora", 1e-3) | {"chosen_lr": 1e-4, "chosen_by": "best measured"}
    (tmp_path / "lr_find-dora.json").write_text(json.dumps(find))
    section = sections_of(page_of(tmp_path))["learning-rates"]
    assert "may be too low" in json.dumps(section)


def test_an_analysis_folder_and_analyses_from_elsewhere_are_shown(tmp_path, page_of):
    analysis = write_analysis(tmp_path / "spectra")
    sections = sections_of(page_of(analysis))
    assert list(sections) == ["spectra", "entanglement", "forgetting"]
    run, out = write_run(tmp_path / "run"), tmp_path / "both.html"
    assert main(["report", str(run), "-o", str(out), "--analysis", str(analysis)]) == 0
    assert {"learning", "spectra"} <= set(sections_of(out))


def test_the_file_asks_for_nothing_and_lets_nothing_else_run(tmp_path, page_of):
    text = page_of(write_run(tmp_path / "run")).read_text()
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    assert policy is not None
    assert policy[1].startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy[1]
    assert "connect-src" not in policy[1]
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", text)
    assert "innerHTML" not in text
    assert "@import" not in text


def test_json_in_the_page_cannot_leave_its_tag():
    hostile = "</script><!--<script>\u2028&\ud800"
    text = safe_json({"a": hostile})
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text)["a"].startswith("</script><!--<script>\u2028&")
    text.encode("utf-8")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "no such folder"),
        (["."], "neither a run"),
        ([".", "--port", "1"], "belongs to --live"),
        ([".", "--live", "-o", "x.html"], "writes no file"),
        (["run", "-o", "missing/x.html"], "take another path"),
        (["run", "--analysis", "run"], "no analysis.json"),
        (["run", "--live", "--port", "99999999"], "take another"),
    ],
)
def test_mistakes_end_with_code_2_and_one_line(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "run", steps_with_rollouts=0)
    assert main(["report", *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


@pytest.mark.process
def test_the_command_imports_no_torch(tmp_path):
    import subprocess
    import sys

    run = write_run(tmp_path / "run", steps_with_rollouts=1)
    code = (
        "import sys; from rlvr.cli import main; main(sys.argv[1:]);"
        " print([m for m in ('torch', 'scipy', 'transformers') if m in sys.modules])"
    )
    words = ["report", str(run), "-o", str(tmp_path / "r.html")]
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_assets_are_named_in_the_package_settings(pytestconfig):
    import tomllib

    tree = tomllib.loads((pytestconfig.rootpath / "pyproject.toml").read_text())
    assert tree["tool"]["setuptools"]["package-data"]["rlvr.report"] == ["assets/*"]


def test_an_unreadable_run_is_still_a_page(tmp_path, page_of):
    folder = write_run(tmp_path / "run", steps_with_rollouts=0)
    for name in ("manifest.json", "config.toml", "summary.json"):
        (folder / name).write_text("{ not whole")
    assert "learning" in sections_of(page_of(folder))
    assert read_source(folder).runs["run"].manifest == {}
