"""Rows of data files, each read so that a value comes as the file has it."""

from __future__ import annotations

import csv
import glob
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from eval.formats.jsonl import GZIP, read_lines

Rows = Iterator[dict[str, Any]]

CONVERT = "datasets.load_dataset(...).to_json('rows.jsonl') writes one that is"
"""How a file of another kind becomes one that can be read."""
OTHER = {".txt", ".xlsx", ".xls", ".arrow", ".feather", ".zip", ".zst", ".xz", ".bz2", ".tar"}
"""Endings of files that no hub dataset is named after."""


def kind_of(path: str) -> str | None:
    """The ending that says how a file is read, in lower case and without .gz; None: not a file."""
    suffixes = [suffix.lower() for suffix in Path(path).suffixes]
    packed = bool(suffixes) and suffixes[-1] == ".gz"
    # packed counts as 1: the ending before .gz
    last = suffixes[-1 - packed] if len(suffixes) > packed else ""
    return last if last in READERS and not (packed and last == ".parquet") else None


def is_file(path: str) -> bool:
    """Whether this names files that can be read, which have no splits."""
    return kind_of(path) is not None or is_pattern(path) or is_shards(path)


def is_other_file(path: str) -> bool:
    """Whether this is a file, by its ending or because it is there, that cannot be read."""
    return Path(path).suffix.lower() in OTHER or Path(path).is_file()


def is_pattern(path: str) -> bool:
    return glob.has_magic(path)


def matching(pattern: str) -> list[Path]:
    """The files of a pattern, in order of their names."""
    return [Path(name) for name in sorted(glob.glob(pattern, recursive=True))]


# as words alone: latest.jsonl is no test, training.jsonl no train
_SPLIT = re.compile(r"(?<![a-z0-9])(train|test|valid|dev|eval|heldout)(?:ation|uation)?(?![a-z])")


def is_shards(path: str) -> bool:
    """Whether this is a folder of data files, all of one split.

    Not one that `datasets` knows more about: with a card, with folders inside, with files of
    several splits by their names, or written by save_to_disk.
    """
    if not Path(path).is_dir() or is_saved(path):
        return False
    inside = _visible(path)
    splits = {found for one in inside for found in _SPLIT.findall(one.name.lower())}
    is_known = any(one.is_dir() or one.name == "README.md" for one in inside)
    return not is_known and len(splits) <= 1


def shards(folder: str) -> list[Path]:
    """The data files of a folder, in order of their names.

    Raises: ValueError where there is none, where one is no data file, or where formats differ.
    """
    files = _visible(folder)
    if not files:
        raise ValueError(f"{folder} is empty; put data files there ({', '.join(READERS)})")
    pattern = f"or name a pattern such as {Path(folder) / '*.jsonl'}"
    kinds = {path: kind_of(str(path)) for path in files}
    for path, kind in kinds.items():
        if kind is None:
            raise ValueError(f"{path} is no data file; move it out of the folder, {pattern}")
    if len(set(kinds.values())) > 1:
        found = " and ".join(sorted({str(kind) for kind in kinds.values()}))
        raise ValueError(f"{folder} holds {found} files; keep one format there, {pattern}")
    plain = {str(path) for path in files}
    for path in plain:
        if f"{path}.gz" in plain:
            raise ValueError(f"{path} lies there twice, packed and not; remove one of the two")
    return files


def _visible(folder: str) -> list[Path]:
    """The contents of a folder without hidden files and markers such as _SUCCESS."""
    return sorted(one for one in Path(folder).iterdir() if one.name[0] not in "._")


def read_shards(folder: str) -> Rows:
    """The rows of a folder's data files. Raises: ValueError, also for a file without rows."""
    for path in shards(folder):
        rows = read_file(path)
        first = next(rows, None)
        if first is None:
            raise ValueError(f"{path} has no rows; remove it, or fetch it again")
        yield first
        yield from rows


def read_file(path: Path) -> Rows:
    """The file's rows. Raises: ValueError with the reason, and the line where there is one."""
    kind = kind_of(str(path))
    if kind is None:
        raise ValueError(f"{path}: not one of {', '.join(READERS)}; {CONVERT}")
    return READERS[kind](path)


def _jsonl(path: Path) -> Rows:
    try:
        for number, line in read_lines(path):
            yield _object(line, f"{path}, line {number}")
    except (EOFError, zlib.error) as error:
        raise ValueError(f"{path}: damaged ({error}); make it again") from error


def _object(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:  # brackets nested too deeply
        raise ValueError(f"{where}: not JSON: {error}") from error
    if not isinstance(row, dict):
        raise ValueError(f"{where}: not an object")
    return row


def _json(path: Path) -> Rows:
    """A list of objects, an object of columns, or JSON lines in a .json file.

    Not through datasets, which hands a column of mixed types over as strings of JSON.
    """
    try:
        tree = json.loads(_content(path))
    except json.JSONDecodeError as error:
        # several values one after the other: JSON lines under the wrong ending
        if not error.msg.startswith("Extra data"):
            raise ValueError(f"{path}: not JSON ({error})") from error
        yield from _jsonl(path)
        return
    columns = tree.values() if isinstance(tree, dict) else ()
    if isinstance(tree, dict) and tree and all(isinstance(c, list) for c in columns):
        if len({len(column) for column in columns}) > 1:
            raise ValueError(f"{path}: its columns have different lengths; give a list of objects")
        tree = [dict(zip(tree, values, strict=True)) for values in zip(*columns, strict=True)]
    if isinstance(tree, dict):
        tree = [tree]
    if not isinstance(tree, list):
        raise ValueError(f"{path}: not a list of objects")
    for number, row in enumerate(tree, start=1):
        if not isinstance(row, dict):
            raise ValueError(f"{path}, row {number}: not an object")
        yield row


def _content(path: Path) -> str:
    data = path.read_bytes()
    try:
        # -sig: spreadsheets write a byte order mark, which would be part of the first name
        return (gzip.decompress(data) if data.startswith(GZIP) else data).decode("utf-8-sig")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a whole UTF-8 file ({error})") from error


def _csv(path: Path) -> Rows:
    """Texts only: nothing is taken for a number or a missing value."""
    # no sniffing: it takes a comma in LaTeX for a separator now and then
    delimiter = "\t" if kind_of(str(path)) == ".tsv" else ","
    # newline="": line breaks inside quotes stay as they are
    reader = csv.DictReader(io.StringIO(_content(path), newline=""), delimiter=delimiter)
    try:
        for row in reader:
            # csv puts fields beyond the header under None, and None in place of missing ones
            if None in row or None in row.values():
                raise ValueError(f"{path}, line {reader.line_num}: more or fewer fields than names")
            yield dict(row)
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: {error}") from error


def _parquet(path: Path) -> Rows:
    import datasets
    from datasets.exceptions import DatasetsError

    try:
        # streaming, as datasets would write a copy of the file into its cache otherwise
        yield from datasets.load_dataset(
            "parquet", data_files=str(path), split="train", streaming=True
        )
    except (DatasetsError, ValueError) as error:
        raise ValueError(f"{path}: cannot be read: {error}") from error


READERS = {
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".json": _json,
    ".csv": _csv,
    ".tsv": _csv,
    ".parquet": _parquet,
}
"""Readers by ending; all but Parquet may be compressed with gzip."""


def is_saved(path: str) -> bool:
    """Whether the folder was written by save_to_disk."""
    return any((Path(path) / name).is_file() for name in ("state.json", "dataset_dict.json"))


def read_saved(path: str, split: str | None) -> Rows:
    """The rows of a folder written by save_to_disk. Raises: ValueError."""
    import datasets

    found: Any = datasets.load_from_disk(path)
    if not isinstance(found, datasets.DatasetDict):
        if split is not None:
            raise ValueError(f"{path}: has no splits; remove split = {split!r}")
        return iter(found)
    splits: Any = dict(found)
    wanted = split or "train"
    if wanted not in splits:
        raise ValueError(f"{path}: has no split {wanted!r}, only {', '.join(map(str, splits))}")
    return iter(splits[wanted])
