"""Tables in every format."""

import csv
import io
import json
from pathlib import Path

import pytest

from eval.reports.tables import FORMATS, Table, percent, render

TABLE = Table("Scores_1", ("name", "100%"), (("a|b", "1.0 [0.5, 1.5]"), ("c&d", "2")), ("A note.",))


def test_csv_reads_back_to_the_same_cells():
    rows = list(csv.reader(io.StringIO(render([TABLE], "csv"))))
    assert rows == [list(TABLE.columns), *map(list, TABLE.rows)]


def test_markdown_escapes_bars_and_keeps_its_columns():
    lines = render([TABLE], "md").splitlines()
    assert "| a\\|b | 1.0 [0.5, 1.5] |" in lines
    assert "| --- | ---: |" in lines
    assert lines[-1] == "A note."


def test_latex_escapes_its_special_characters():
    text = render([TABLE], "latex")
    assert "c\\&d & 2 \\\\" in text
    assert "name & 100\\% \\\\" in text
    assert text.splitlines()[0] == "% Scores\\_1"


def test_text_shows_every_cell_whole():
    text = render([TABLE], "text")
    assert all(cell in text for row in TABLE.rows for cell in row)
    assert text.endswith("A note.")


def test_json_gives_the_data_and_an_unknown_format_is_refused():
    assert json.loads(render([TABLE], "json", {"x": 1})) == {"x": 1}
    with pytest.raises(ValueError, match=f"choose one of {', '.join(FORMATS)}"):
        render([TABLE], "html")


def test_empty_tables_are_left_out():
    assert render([Table("none", ("a",), ())], "text") == ""


def test_percent_shows_the_interval_or_a_dash():
    assert percent({"value": 0.4333, "ci95": [0.371, 0.498]}) == "43.3 [37.1, 49.8]"
    assert percent(None) == "-"


LONG = Table(
    "What every method of the study trains, and how that reaches the engine",
    ("name", "trains", "paper"),
    (
        ("lora", "A (r x in) and B (out x r) of every target module", "2106.09685"),
        ("full", "all weights but input and output embeddings (float32 master copy)", ""),
    ),
)


@pytest.mark.parametrize("width", [30, 60, 80, 100, 200])
def test_on_a_terminal_no_line_is_longer_and_no_word_is_broken(width, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    text = render([LONG], "text")
    assert max(map(len, text.removeprefix(LONG.title).splitlines())) <= width
    words = [
        word for row in (*LONG.rows, LONG.columns[1:]) for cell in row for word in cell.split()
    ]
    assert set(words) <= set(text.replace(":", " ").split())


def test_a_table_without_a_terminal_has_lines_of_any_length(monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    text = render([LONG], "text")
    assert all(cell in text for row in LONG.rows for cell in row)
    assert sum(LONG.rows[1][1] in line for line in text.splitlines()) == 1


def test_numbers_stand_at_the_right_and_texts_at_the_left(monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    rows = (("a", "1.0 [0.5, 1.5]", "x"), ("b", "-", "longer"), ("c", "+2", ""))
    lines = render([Table("", ("name", "value", "text"), rows)], "text").splitlines()
    assert [line.split("  ")[-1].strip() for line in lines[-3:]] == ["x", "longer", "+2"]
    ends = [
        line.index(cell) + len(cell)
        for line, cell in zip(lines[-3:], ("1.5]", " -", "+2"), strict=True)
    ]
    assert len(set(ends)) == 1


def test_every_table_of_a_command_is_one_of_these():
    """A table of rich's own breaks words where its columns are too narrow."""
    root = Path(__file__).parents[2]
    files = [path for name in ("rewards", "eval", "rlvr") for path in (root / name).rglob("*.py")]
    own = {str(path.relative_to(root)) for path in files if "rich.table" in path.read_text()}
    # the live table of a run has numbers only, and a test of its width
    assert own == {"eval/reports/tables.py", "rlvr/runs/display.py"}
