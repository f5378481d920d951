"""The documentation's table against the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rlvr import adapters
from rlvr.adapters import FAMILIES, METHODS
from rlvr.adapters.table import HEAD, reference_shape, row

TEXT = (Path(__file__).parents[3] / "docs" / "adapters.md").read_text()
TABLE = TEXT.partition(HEAD)[2].partition("\n\n")[0].strip().splitlines()
ROWS = {re.findall(r"`(\w+)`", line)[0]: line for line in TABLE}


def test_the_documentation_lists_exactly_the_methods_that_exist():
    assert list(ROWS) == list(METHODS)


def test_the_package_says_which_file_has_which_method():
    rows = [line.split(maxsplit=1) for line in str(adapters.__doc__).splitlines() if "    " in line]
    files = {family.__name__.rpartition(".")[2]: family.METHODS for family in FAMILIES}
    assert dict(rows) == {name: ", ".join(m.name for m in own) for name, own in files.items()}


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_the_documented_rows_are_the_real_ones(method):
    assert row(METHODS[method], reference_shape()) == ROWS[method]
