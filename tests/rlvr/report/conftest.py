"""A real browser for the tests that need one, and pages of constructed folders."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rlvr.report.cli import report_main
from tests.rlvr.report import chromium as chromium_module


@pytest.fixture(scope="session")
def chromium(tmp_path_factory) -> Iterator[chromium_module.Chromium]:
    """One headless Chromium for all tests."""
    if chromium_module.EXECUTABLE is None:
        pytest.skip("needs chromium on PATH")
    browser = chromium_module.Chromium(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture(scope="session")
def page_of(tmp_path_factory) -> Callable[[Path], Path]:
    """Writes the report about a folder, as the command does."""

    def write(folder: Path) -> Path:
        path = tmp_path_factory.mktemp("page") / "report.html"
        assert report_main([str(folder), "-o", str(path)]) == 0
        return path

    return write
