"""Tables in every format."""

import csv
import io
import json

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
