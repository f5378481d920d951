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


def test_the_documentation_lists_exactly_the_methods_that_exist():
    assert list(ROWS) == list(METHODS)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_the_documented_rows_are_the_real_ones(method):
    assert row(METHODS[method], reference_shape()) == ROWS[method]
