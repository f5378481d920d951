"""JSON lines, read in one way everywhere: a line ends at a line feed, and nowhere else.

`str.splitlines` also splits at U+2028, U+0085, U+000B, U+000C and U+001C to U+001E, which may stand
inside a JSON string, so a row of foreign text would fall into halves that are not JSON.
"""

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

GZIP = b"\x1f\x8b"
"""The first bytes of a file compressed with gzip."""


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """(line number, text) of the non-blank lines of a UTF-8 file, compressed with gzip or not; a
    byte order mark at its start is left out."""
    # by its content: tools write gzip under any name
    with path.open("rb") as raw:
        packed = raw.read(2) == GZIP
    # newline: text mode would also split at a lone carriage return inside a string
    options: dict[str, Any] = {"encoding": "utf-8-sig", "newline": "\n"}
    with gzip.open(path, "rt", **options) if packed else path.open(**options) as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield number, line


def read_values(path: Path) -> Iterator[tuple[int, Any]]:
    """(line number, value) of every non-blank line. Raises: ValueError with file and line."""
    try:
        for number, line in read_lines(path):
            yield number, _value(line, f"{path}:{number}")
    except (EOFError, zlib.error, gzip.BadGzipFile, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a whole UTF-8 file of JSON lines ({error})") from None


def read_objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, object) of every non-blank line. Raises: ValueError with file and line."""
    for number, value in read_values(path):
        if not isinstance(value, dict):
            raise ValueError(f"{path}:{number}: needs one JSON object per line")
        yield number, value


def whole_objects(lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """The objects among the lines of a file that may be damaged; other lines are skipped."""
    for line in lines:
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            yield value


def _value(line: str, where: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: not JSON ({error.msg})") from None
    except RecursionError:
        raise ValueError(f"{where}: not JSON (nested too deeply)") from None
