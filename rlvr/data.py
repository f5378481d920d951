"""Datasets to problems: a JSONL, JSON or Parquet file, a hub dataset, or generated problems.

Every row is read once, when the run starts: the gold answer is parsed, the prompt is rendered
with the
chat template and measured. What cannot be used is an error that names the row, or is counted.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rewards import Gold
from rlvr.config import DataConfig
from rlvr.recipe import ConfigError

FILE_TYPES = {".jsonl": "json", ".json": "json", ".parquet": "parquet"}
GENERATED = "generated:"


@dataclass(frozen=True, slots=True)
class Problem:
    """One verifiable problem. prompt: chat messages; answer: the gold as written; gold: parsed;
    difficulty: as the dataset gives it, or empty."""

    id: str
    prompt: tuple[dict[str, str], ...]
    answer: str
    gold: Gold
    difficulty: str = ""


@dataclass(frozen=True, slots=True)
class Dataset:
    """Problems and where they came from. sha256 is over ids, prompts and answers in order."""

    problems: tuple[Problem, ...]
    source: str
    sha256: str
    num_skipped: int


def load_problems(config: DataConfig, section: str = "data") -> Dataset:
    """The problems that `config` names. `section` is the recipe's section, for errors.

    Raises: ConfigError for a missing source or field, an unusable row, or no rows at all.
    """
    rows, source = read_rows(config, section)
    problems, num_skipped = [], 0
    for number, row in enumerate(rows, start=1):
        if config.limit is not None and number > config.limit:
            break
        try:
            problems.append(_problem(row, number, config))
        except ValueError as error:
            if config.on_bad_row == "error":
                raise ConfigError(
                    f"{section}.path = {config.path!r}, row {number}: {error};"
                    f' mend it or set data.on_bad_row = "skip"'
                ) from error
            num_skipped += 1
    if not problems:
        raise ConfigError(
            f"{section}.path = {config.path!r}: no usable problem ({num_skipped} rows skipped);"
            " check the file and data.problem_field, data.answer_field"
        )
    digest = hashlib.sha256()
    for problem in problems:
        digest.update(json.dumps([problem.id, problem.prompt, problem.answer]).encode())
    return Dataset(tuple(problems), source, digest.hexdigest(), num_skipped)


def encode_prompts(
    dataset: Dataset, tokenizer: Any, config: DataConfig, max_prompt_len: int, section: str = "data"
) -> tuple[Dataset, list[list[int]]]:
    """The dataset and its prompts' token ids, a generation prompt appended.

    Raises: ConfigError for a prompt longer than `max_prompt_len` tokens, unless such rows are
    skipped,
    and for a tokenizer without a chat template.
    """
    template = Path(config.chat_template).read_text() if config.chat_template else None
    if template is None and tokenizer.chat_template is None:
        raise ConfigError(
            "model.path: its tokenizer has no chat template; set data.chat_template to a Jinja file"
        )
    kept, prompts, num_long = [], [], 0
    for problem in dataset.problems:
        ids = tokenizer.apply_chat_template(
            list(problem.prompt),
            chat_template=template,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=False,
        )
        if len(ids) <= max_prompt_len:
            kept.append(problem)
            prompts.append(list(ids))
        elif config.on_bad_row == "error":
            raise ConfigError(
                f"{section}.path = {config.path!r}, problem {problem.id}: its prompt has"
                f" {len(ids)} tokens, the limit is {max_prompt_len}; raise model.max_len or"
                ' data.max_prompt_len, lower rollout.max_response_len, or data.on_bad_row = "skip"'
            )
        else:
            num_long += 1
    if not kept:
        raise ConfigError(
            f"{section}.path = {config.path!r}: every prompt is longer than {max_prompt_len}"
            " tokens; raise model.max_len or data.max_prompt_len"
        )
    skipped = dataset.num_skipped + num_long
    return Dataset(tuple(kept), dataset.source, dataset.sha256, skipped), prompts


def _problem(row: dict[str, Any], number: int, config: DataConfig) -> Problem:
    text = field_value(row, config.problem_field, "data.problem_field")
    answer = field_value(row, config.answer_field, "data.answer_field")
    answer = "" if answer is None else str(answer).strip()
    if not answer:
        raise ValueError(f"{config.answer_field} is empty")
    if not text or not isinstance(text, str | list):
        raise ValueError(
            f"{config.problem_field} is empty or neither a text nor a list of messages"
        )
    if isinstance(text, list):
        messages = [{"role": str(m["role"]), "content": str(m["content"])} for m in text]
    else:
        content = config.prompt_template.replace("{problem}", text)
        messages = [{"role": "user", "content": content}]
    if config.system_prompt is not None:
        messages.insert(0, {"role": "system", "content": config.system_prompt})
    problem_id = (
        number if config.id_field is None else field_value(row, config.id_field, "data.id_field")
    )
    difficulty = ""
    if config.difficulty_field is not None:
        difficulty = str(field_value(row, config.difficulty_field, "data.difficulty_field"))
    return Problem(str(problem_id), tuple(messages), answer, Gold.parse(answer), difficulty)


def field_value(row: dict[str, Any], name: str, setting: str) -> Any:
    """The row's value at a dotted name. Raises: ConfigError that names `setting` and the fields."""
    value: Any = row
    for part in name.split("."):
        if not isinstance(value, dict) or part not in value:
            raise ConfigError(
                f"{setting} = {name!r}: no such field; the data has {', '.join(map(str, row))}"
            )
        value = value[part]
    return value


def read_rows(config: DataConfig, section: str) -> tuple[Iterator[dict[str, Any]], str]:
    """(rows, source) of the file, hub dataset or generator that data.path names."""
    if config.path.startswith(GENERATED):
        return _generated_rows(config, section), config.path
    if config.levels is not None:
        raise ConfigError(
            f"{section}.levels = {config.levels}: only generated problems have levels"
        )
    suffix = Path(config.path).suffix
    if suffix not in FILE_TYPES:
        return _hub_rows(config, section)
    for setting, value in (("split", config.split), ("name", config.name)):
        if value is not None:
            raise ConfigError(f"{section}.{setting} = {value!r}: a file has none; remove it")
    path = find_data_file(config.path, section)
    return (_jsonl_rows(path, section) if suffix == ".jsonl" else _table_rows(path, section)), str(
        path
    )


def find_data_file(name: str, section: str = "data") -> Path:
    """`name` as given, else in $RLVR_DATA, else in ../shared/data. Raises: ConfigError."""
    places = [Path(name)]
    if not Path(name).is_absolute():
        folders = [os.environ.get("RLVR_DATA"), "../shared/data"]
        places += [Path(folder) / name for folder in folders if folder]
    for place in places:
        if place.is_file():
            return place
    searched = ", ".join(str(place) for place in places)
    raise ConfigError(
        f"{section}.path = {name!r}: no such file (looked at {searched}); correct the path or set"
        " RLVR_DATA to the folder that holds it"
    )


def _jsonl_rows(path: Path, section: str) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise ConfigError(
                    f"{section}.path = {str(path)!r}, line {number}: not JSON: {error}"
                ) from error
            if not isinstance(row, dict):
                raise ConfigError(f"{section}.path = {str(path)!r}, line {number}: not an object")
            yield row


def _table_rows(path: Path, section: str) -> Iterator[dict[str, Any]]:
    import datasets
    from datasets.exceptions import DatasetsError

    try:
        yield from datasets.load_dataset(
            FILE_TYPES[path.suffix], data_files=str(path), split="train", streaming=True
        )
    except (DatasetsError, ValueError) as error:
        raise ConfigError(f"{section}.path = {str(path)!r}: cannot be read: {error}") from error


def _hub_rows(config: DataConfig, section: str) -> tuple[Iterator[dict[str, Any]], str]:
    import datasets
    from datasets.exceptions import DatasetsError

    split = config.split or "train"
    try:
        table: Any = datasets.load_dataset(config.path, config.name, split=split)
    except (OSError, ValueError, DatasetsError) as error:
        reason = str(error).splitlines()[0][:200]
        raise ConfigError(
            f"{section}.path = {config.path!r}: not a .jsonl, .json or .parquet file, and the hub"
            f" gave no such dataset ({reason}); correct it or download it first"
        ) from error
    return iter(table), f"{config.path}[{split}]"


def _generated_rows(config: DataConfig, section: str) -> Iterator[dict[str, Any]]:
    from rlvr import word_problems

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
    rows = word_problems.generate(
        split, config.limit, seed=0, levels=config.levels or word_problems.LEVELS
    )
    return (dict(row) for row in rows)
