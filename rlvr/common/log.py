"""Messages to people, by Python's logging: every record carries its rank and its run.

Only the command line shows them (`to_stderr`). A program that calls `rlvr.training.loop.train`
finds them under the logger "rlvr" and filters, formats or silences them as it likes.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from contextvars import ContextVar
from typing import NamedTuple


class _Run(NamedTuple):
    name: str
    one_of_several: bool


_NO_RUN = _Run("", one_of_several=False)
_run: ContextVar[_Run] = ContextVar("run", default=_NO_RUN)


def get_logger(name: str) -> logging.Logger:
    """The logger of a module. Its records have `rank` (from 0) and `run` (the run folder's name, or
    "" outside a run) for every handler's format."""
    logger = logging.getLogger(name)
    logger.addFilter(_add_context)  # a filter on "rlvr" would not see the records of its children
    return logger


def _add_context(record: logging.LogRecord) -> bool:
    record.rank = int(os.environ.get("RANK", "0"))
    record.run = _run.get().name
    return True


@contextlib.contextmanager
def of_run(name: str, one_of_several: bool = False) -> Iterator[None]:
    """Records made in the block belong to the run `name`.

    one_of_several: a comparison's; then its name stands before the message on standard error.
    """
    token = _run.set(_Run(name, one_of_several or _run.get().one_of_several))
    try:
        yield
    finally:
        _run.reset(token)


@contextlib.contextmanager
def to_stderr() -> Iterator[None]:
    """Inside the block, messages from INFO up go to standard error, one line each."""
    logger = logging.getLogger("rlvr")
    before = logger.handlers[:], logger.level, logger.propagate
    logger.handlers[:] = [_StderrHandler()]  # not added: a block inside a block would say all twice
    logger.setLevel(logging.INFO)
    logger.propagate = False  # a library that calls basicConfig would print every line again
    try:
        yield
    finally:
        logger.handlers[:], level, logger.propagate = before
        logger.setLevel(level)


class _StderrHandler(logging.StreamHandler):
    """Writes to what sys.stderr is at the moment: the live display and `lenient_output` swap it."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self):  # pyright: ignore[reportIncompatibleVariableOverride]
        return sys.stderr

    def format(self, record: logging.LogRecord) -> str:
        """The message as it is, after "[run, rank]" where there are several of them."""
        run = _run.get()
        places = [run.name] if run.one_of_several else []
        if os.environ.get("WORLD_SIZE", "1") != "1":
            places.append(f"rank {os.environ.get('RANK', '0')}")
        return f"[{', '.join(places)}] {record.getMessage()}" if places else record.getMessage()
