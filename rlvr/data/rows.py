"""The rows that data.path names: of files, a folder, a hub dataset, a function or the generator."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from eval.benchmarks import data_folders, find_file
from rlvr.common.errors import ConfigError, first_line
from rlvr.common.own_code import is_reader, load_own
from rlvr.config.data import DataConfig
from rlvr.data import tables

GENERATED = "generated:"


def field_value(row: dict[str, Any], name: str, setting: str) -> Any:
    """The row's value at a dotted name; a field that has dots in its own name comes first.

    Raises: ConfigError that names `setting` and the fields.
    """
    # the first meaning: a field called "a.b" wins over b inside a
    for value in _values(row, name):
        return value
    raise ConfigError(
        f"{setting} = {name!r}: no such field; the data has {', '.join(map(str, row))}; name one"
    )


def _values(value: Any, name: str) -> Iterator[Any]:
    """What the name may mean, the longest field names first."""
    if not isinstance(value, dict):
        return
    if name in value:
        yield value[name]
    parts = name.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        head = ".".join(parts[:cut])
        if head in value:
            yield from _values(value[head], ".".join(parts[cut:]))


def read_rows(config: DataConfig, section: str) -> tuple[Iterator[dict[str, Any]], str]:
    """(rows, source) of the file, folder, hub dataset or generator that data.path names."""
    path = _path(config, section)
    if path.startswith(GENERATED):
        return _generated_rows(config, section), path
    if is_reader(path):
        _refuse_parts(config, section, "a function of your own")
        return _named(_own_rows(path), config, section), path
    if config.levels is not None:
        raise ConfigError(
            f"{section}.levels = {config.levels}: only generated problems have levels"
        )
    if tables.is_saved(path):
        return _named(tables.read_saved(path, config.split), config, section), path
    if _is_shards(config):
        return _named(tables.read_shards(path), config, section), path
    if tables.kind_of(path) is None and not tables.is_pattern(path):
        if tables.is_other_file(path):
            raise ConfigError(
                f"{section}.path = {path!r}: not one of {', '.join(tables.READERS)};"
                f" {tables.CONVERT}"
            )
        return _hub_rows(config, section)
    _refuse_parts(config, section, "a file")
    paths = data_files(config, section)
    rows = (row for one in paths for row in tables.read_file(one))
    return _named(rows, config, section), ", ".join(map(str, paths))


def _path(config: DataConfig, section: str) -> str:
    assert config.path is not None, f"{section}: several sources are read one by one"
    return config.path


def _is_shards(config: DataConfig) -> bool:
    """Whether data.path is a folder of files read here; datasets knows about splits."""
    return config.split is None and config.name is None and tables.is_shards(str(config.path))


def data_files(config: DataConfig, section: str = "data") -> list[Path]:
    """The files that data.path names; none of a hub dataset, a generator or a function.

    Raises: ConfigError for a file that is not there, or a folder that cannot be read.
    """
    path = _path(config, section)
    if path.startswith(GENERATED) or is_reader(path):
        return []
    if _is_shards(config):
        try:
            return tables.shards(path)
        except ValueError as error:
            raise ConfigError(f"{section}.path = {path!r}: {error}") from error
    if tables.is_pattern(path):
        # brackets may be part of a file's own name; where there is none, this says where it looked
        return tables.matching(path) or [find_data_file(path, section)]
    return [] if tables.kind_of(path) is None else [find_data_file(path, section)]


def _refuse_parts(config: DataConfig, section: str, source: str) -> None:
    for setting, value in (("split", config.split), ("name", config.name)):
        if value is not None:
            raise ConfigError(f"{section}.{setting} = {value!r}: {source} has none; remove it")


def _own_rows(name: str) -> Iterator[dict[str, Any]]:
    """What the user's function gives. Raises: ValueError for what is not a row."""
    for number, row in enumerate(load_own(name)(), start=1):
        if not isinstance(row, dict):
            raise ValueError(f"row {number} is a {type(row).__name__}, not a dict")
        yield row


def _named(
    rows: Iterator[dict[str, Any]], config: DataConfig, section: str
) -> Iterator[dict[str, Any]]:
    """The rows; what reading them raises names the setting."""
    try:
        # rows are read as they are asked for, so that is where a reader raises
        yield from rows
    except (ValueError, OSError) as error:
        raise ConfigError(f"{section}.path = {config.path!r}: {error}") from error


def find_data_file(name: str, section: str = "data") -> Path:
    """`name` as given, else in the data folders. Raises: ConfigError."""
    found = find_file(name)
    if found is not None:
        return found
    folders = [] if Path(name).is_absolute() else data_folders()
    searched = ", ".join(map(str, [Path(name), *(folder / name for folder in folders)]))
    raise ConfigError(
        f"{section}.path = {name!r}: no such file (looked at {searched}); correct the path or set"
        " RLVR_DATA to the folder that holds it"
    )


def _hub_rows(config: DataConfig, section: str) -> tuple[Iterator[dict[str, Any]], str]:
    import datasets
    from datasets.exceptions import DatasetsError

    split = config.split or "train"
    try:
        table: Any = datasets.load_dataset(_path(config, section), config.name, split=split)
    except (OSError, ValueError, DatasetsError) as error:
        reason = first_line(error)
        raise ConfigError(
            f"{section}.path = {config.path!r}: not a {', '.join(tables.READERS)} file, and the hub"
            f" gave no such dataset ({reason}); correct it or download it first"
        ) from error
    return iter(table), f"{config.path}[{split}]"


def _generated_rows(config: DataConfig, section: str) -> Iterator[dict[str, Any]]:
    from rlvr.data import word_problems

    if config.path != f"{GENERATED}word_problems":
        raise ConfigError(
            f"{section}.path = {config.path!r}: did you mean {GENERATED}word_problems?"
        )
    if config.limit is None:
        raise ConfigError(f"{section}.limit: missing; say how many problems to generate")
    split = config.split or "train"
    if split not in word_problems.SPLITS:
        raise ConfigError(
            f"{section}.split = {split!r}: it is one of {', '.join(word_problems.SPLITS)}"
        )
    # not train.seed: runs of every seed train on the same problems
    rows = word_problems.generate(
        split, config.limit, seed=0, levels=config.levels or word_problems.LEVELS
    )
    return (dict(row) for row in rows)
