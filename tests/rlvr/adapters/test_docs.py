"""The documentation's table against the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rlvr.adapters import METHODS
from rlvr.adapters.table import HEAD, reference_shape, row

TEXT = (Path(__file__).parents[3] / "docs" / "adapters.md").read_text()
TABLE = TEXT.partition(HEAD)[2].partition("\n\n")[0].strip().splitlines()
ROWS = {re.findall(r"`(\w+)`", line)[0]: line for line in TABLE}
BLOCKS = {"boft"}  # its layers cannot be made without memory


def test_the_documentation_lists_exactly_the_methods_that_exist():
    assert list(ROWS) == list(METHODS)


@pytest.mark.slow
@pytest.mark.parametrize("method", sorted(METHODS.keys() - BLOCKS))
def test_the_documented_rows_are_the_real_ones(method):
    assert row(METHODS[method], reference_shape()) == ROWS[method]


def test_the_documented_count_of_boft_follows_its_formula():
    modules = [(1536, 1536)] * 2 + [(1536, 256)] * 2 + [(1536, 8960)] * 2 + [(8960, 1536)]
    expected = 28 * sum(4 * inputs + outputs for inputs, outputs in modules)
    assert ROWS["boft"].endswith(f"| {expected:,} |")
