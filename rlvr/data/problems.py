"""Datasets to problems: files, a hub dataset, or generated problems.

Every row is read once, when the run starts: the gold answer is parsed, the prompt is rendered with
the chat template and measured. What cannot be used is an error that names the row, or is counted.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from eval.benchmarks import data_folders, find_file
from eval.formats.answers import answers_of
from rewards import Gold
from rlvr.common.errors import ConfigError
from rlvr.common.own_code import is_reader, load_own
from rlvr.config.train import DataConfig
from rlvr.data import tables
from rlvr.data.chat import (
    Messages,
    check_template,
    prompt_ids,
    read_messages,
    read_template,
    refusal,
    with_system,
)

GENERATED = "generated:"


@dataclass(frozen=True, slots=True)
class Problem:
    """One verifiable problem. prompt: chat messages; answer: the gold as written; gold: parsed;
    difficulty: as the dataset gives it, or empty; others: further golds, each as right as `gold`;
    row: the dataset's row, where it was asked for.
    """

    id: str
    prompt: tuple[dict[str, str], ...]
    answer: str
    gold: Gold
    difficulty: str = ""
    others: tuple[Gold, ...] = ()
    row: dict[str, Any] | None = None

    @property
    def golds(self) -> Gold | tuple[Gold, ...]:
        """What the verifier is given: the gold, or all of which any counts."""
        return (self.gold, *self.others) if self.others else self.gold


@dataclass(frozen=True, slots=True)
class Dataset:
    """Problems and where they came from. sha256 is over ids, prompts and answers in order."""

    problems: tuple[Problem, ...]
    source: str
    sha256: str
    num_skipped: int


def load_problems(config: DataConfig, section: str = "data", *, keep_rows: bool = False) -> Dataset:
    """The problems that `config` names. `section` is the recipe's section, for errors. keep_rows:
    with the rows that they came from.

    Raises: ConfigError for a missing source or field, an unusable row, or no rows at all.
    """
    read_template(config.chat_template)
    rows, source = read_rows(config, section)
    problems, num_skipped, seen = [], 0, dict[str, int]()
    for number, row in enumerate(rows, start=1):
        # rows, not problems: skipping a bad row must not shift which rows a limit takes
        if config.limit is not None and number > config.limit:
            break
        try:
            problem = _problem(row, number, config, seen)
            problems.append(replace(problem, row=row) if keep_rows else problem)
        except ValueError as error:
            if config.on_bad_row == "error":
                after = ' set data.answer_after = "####",' if "behind '####'" in str(error) else ""
                raise ConfigError(
                    f"{section}.path = {config.path!r}, row {number}: {error};{after}"
                    f' mend it or set data.on_bad_row = "skip"'
                ) from error
            num_skipped += 1
    if not problems:
        raise ConfigError(
            f"{section}.path = {config.path!r}: no usable problem ({num_skipped} rows skipped);"
            " check the file and data.problem_field, data.answer_field"
        )
    # over what the run uses, not over the file: another format of the same rows is the same data
    digest = hashlib.sha256()
    for problem in problems:
        answer = [problem.answer, *(gold.text for gold in problem.others)]
        # a list only where there are several: runs made before there were have the same hash
        written = answer if problem.others else problem.answer
        digest.update(json.dumps([problem.id, problem.prompt, written]).encode())
    return Dataset(tuple(problems), source, digest.hexdigest(), num_skipped)


def encode_prompts(
    dataset: Dataset, tokenizer: Any, config: DataConfig, max_prompt_len: int, section: str = "data"
) -> tuple[Dataset, list[list[int]]]:
    """The dataset and its prompts' token ids, a generation prompt appended.

    Raises: ConfigError for a prompt longer than `max_prompt_len` tokens, unless such rows are
    skipped,
    and for a tokenizer without a chat template.
    """
    template = read_template(config.chat_template)
    check_template(tokenizer, template, "set data.chat_template to a Jinja file")
    kept, prompts, num_long, refused = [], [], 0, ""
    for problem in dataset.problems:
        try:
            ids = prompt_ids(tokenizer, template, problem.prompt)
        except ValueError as error:
            reason = refusal(f"problem {problem.id}: {error}", config.system_prompt is not None)
            refused = f"{section}.path = {config.path!r}, {reason}"
            if config.on_bad_row == "error":
                raise ConfigError(refused) from error
            num_long += 1
            continue
        if len(ids) <= max_prompt_len:
            kept.append(problem)
            prompts.append(ids)
        elif config.on_bad_row == "error":
            longest = "eval.max_len" if section == "eval" else "rollout.max_response_len"
            raise ConfigError(
                f"{section}.path = {config.path!r}, problem {problem.id}: its prompt has"
                f" {len(ids)} tokens, the limit is {max_prompt_len}; raise model.max_len or"
                f' data.max_prompt_len, lower {longest}, or data.on_bad_row = "skip"'
            )
        else:
            num_long += 1
    if not kept:
        raise ConfigError(
            refused
            or f"{section}.path = {config.path!r}: every prompt is longer than {max_prompt_len}"
            " tokens; raise model.max_len or data.max_prompt_len"
        )
    skipped = dataset.num_skipped + num_long
    return Dataset(tuple(kept), dataset.source, dataset.sha256, skipped), prompts


def _problem(row: dict[str, Any], number: int, config: DataConfig, seen: dict[str, int]) -> Problem:
    """seen: row numbers of the ids so far. Raises: ValueError for what cannot be used."""
    text = field_value(row, config.problem_field, "data.problem_field")
    answer = field_value(row, config.answer_field, "data.answer_field")
    answers = answers_of(answer, config.answer_field, config.answer_after)
    gold, *others = map(Gold.parse, answers)
    problem_id = str(number)
    if config.id_field is not None:
        problem_id = str(field_value(row, config.id_field, "data.id_field"))
    if seen.setdefault(problem_id, number) != number:
        raise ValueError(
            f"{config.id_field} = {problem_id!r} is the id of row {seen[problem_id]} too; leave"
            " data.id_field out to number rows"
        )
    difficulty = ""
    if config.difficulty_field is not None:
        difficulty = str(field_value(row, config.difficulty_field, "data.difficulty_field"))
    prompt = _prompt(text, config)
    return Problem(problem_id, tuple(prompt), answers[0], gold, difficulty, tuple(others))


def _prompt(text: Any, config: DataConfig) -> Messages:
    if not text or not isinstance(text, str | list) or (isinstance(text, str) and text.isspace()):
        raise ValueError(
            f"{config.problem_field} is empty or neither a text nor a list of messages"
        )
    if isinstance(text, str):
        # str.format would trip over the braces of LaTeX
        content = config.prompt_template.replace("{problem}", text)
        return with_system(
            [{"role": "user", "content": content}], config.system_prompt, config.problem_field
        )
    messages = read_messages(text, config.problem_field)
    if messages[-1]["role"] == "assistant":
        raise ValueError(
            f"{config.problem_field} ends with the assistant's turn, which is for the policy to"
            " give; end it with the user's"
        )
    return with_system(messages, config.system_prompt, config.problem_field)


def field_value(row: dict[str, Any], name: str, setting: str) -> Any:
    """The row's value at a dotted name; a field that has dots in its own name comes first.

    Raises: ConfigError that names `setting` and the fields.
    """
    # the first meaning: a field called "a.b" wins over b inside a
    for value in _values(row, name):
        return value
    raise ConfigError(
        f"{setting} = {name!r}: no such field; the data has {', '.join(map(str, row))}"
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
    """(rows, source) of the file, hub dataset or generator that data.path names."""
    if config.path.startswith(GENERATED):
        return _generated_rows(config, section), config.path
    if is_reader(config.path):
        _refuse_parts(config, section, "a function of your own")
        return _named(_own_rows(config.path), config, section), config.path
    if config.levels is not None:
        raise ConfigError(
            f"{section}.levels = {config.levels}: only generated problems have levels"
        )
    if tables.is_saved(config.path):
        return _named(tables.read_saved(config.path, config.split), config, section), config.path
    if tables.kind_of(config.path) is None and not tables.is_pattern(config.path):
        if tables.is_other_file(config.path):
            raise ConfigError(
                f"{section}.path = {config.path!r}: not one of {', '.join(tables.READERS)};"
                f" {tables.CONVERT}"
            )
        return _hub_rows(config, section)
    _refuse_parts(config, section, "a file")
    paths = [find_data_file(config.path, section)] if not tables.is_pattern(config.path) else []
    # brackets may be part of a file's own name; where there is none, this says where it looked
    paths = paths or tables.matching(config.path) or [find_data_file(config.path, section)]
    rows = (row for path in paths for row in tables.read_file(path))
    return _named(rows, config, section), ", ".join(map(str, paths))


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
        table: Any = datasets.load_dataset(config.path, config.name, split=split)
    except (OSError, ValueError, DatasetsError) as error:
        reason = str(error).splitlines()[0][:200]
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
    rows = word_problems.generate(
        split, config.limit, seed=0, levels=config.levels or word_problems.LEVELS
    )
    return (dict(row) for row in rows)
