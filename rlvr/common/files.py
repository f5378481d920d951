"""Atomic writes, and output streams that a full disk or a closed pipe does not break."""

from __future__ import annotations

import contextlib
import errno
import gzip
import json
import logging
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

logger = logging.getLogger(__name__)

DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}
"""Error numbers of a disk that is full, over quota, read-only or failing."""


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes or replaces the file at `path` atomically: readers see the old content or the new.

    Raises: OSError; the old file is then unchanged and nothing is left beside it.
    """
    data = content.encode() if isinstance(content, str) else content
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # some file systems rename before they write the content
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes the rows as packed JSON lines; a disk that cannot take them costs a warning."""
    text = "".join(json.dumps(row) + "\n" for row in rows)
    try:
        path.parent.mkdir(exist_ok=True)
        # mtime=0: the files of a resumed run equal those of an undisturbed one
        write_whole(path, gzip.compress(text.encode(), mtime=0))
    except OSError as error:
        logger.warning(f"{path} is missing: {error}")


class Lenient:
    """A text stream that drops what its disk cannot take or its reader has left: neither a full log
    nor a pipe whose reader has ended stops a run."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError as error:
            self._drop(error)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._drop(error)

    def _drop(self, error: OSError) -> None:
        """Raises the error unless the run can do without what was written."""
        if error.errno == errno.EPIPE:  # what is in the buffer would fail again when Python ends
            sink = os.open(os.devnull, os.O_WRONLY)
            os.dup2(sink, self._stream.fileno())
            os.close(sink)
        elif error.errno not in DISK_ERRORS:
            raise error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def lenient_output() -> Iterator[None]:
    """Inside the block, standard output and error are `Lenient`."""
    with contextlib.ExitStack() as stack:
        if sys.stdout is not None:
            stack.enter_context(contextlib.redirect_stdout(Lenient(sys.stdout)))
        if sys.stderr is not None:
            stack.enter_context(contextlib.redirect_stderr(Lenient(sys.stderr)))
        yield
