"""One vLLM for the runs of a file."""

from collections.abc import Iterator

import pytest

from rlvr.compare.execution.warm_engine import WarmEngine


@pytest.fixture(scope="module")
def warm_engine() -> Iterator[WarmEngine]:
    """Starts with the first run that it is given."""
    engine = WarmEngine()
    yield engine
    engine.close()
