"""Files that are whole or absent: written beside, flushed to the disk, then renamed."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any, TextIO

DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}
"""Error numbers of a disk that is full, over quota, read-only or failing."""


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes or replaces the file at `path`; who reads meanwhile sees the old one or the new one.

    Raises: OSError; then the old one is still there, and nothing beside it.
    """
    data = content.encode() if isinstance(content, str) else content
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


class Lenient:
    """A text stream that drops what its disk cannot take: a full log stops nothing."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError as error:
            if error.errno not in DISK_ERRORS:
                raise
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            if error.errno not in DISK_ERRORS:
                raise

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
