"""Datasets to problems: files, a hub dataset, or generated problems.

Every row is read once, when the run starts: the gold answer is parsed, the prompt is rendered with
the chat template and measured. What cannot be used is an error that names the row, or is counted.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from eval.formats.answers import answers_of
from rewards import Gold
from rlvr.common.errors import ConfigError
from rlvr.config.data import DataConfig
from rlvr.data.chat import (
    Messages,
    check_template,
    prompt_ids,
    read_messages,
    read_template,
    refusal,
    with_system,
)
from rlvr.data.rows import data_files, field_value, read_rows


@dataclass(frozen=True, slots=True)
class Problem:
    """One verifiable problem. prompt: chat messages; answer: the gold as written; gold: parsed;
    difficulty: as the dataset gives it, or empty; others: further golds, each as right as `gold`;
    row: the dataset's row, where it was asked for; source: the number of its source, from 0.
    """

    id: str
    prompt: tuple[dict[str, str], ...]
    answer: str
    gold: Gold
    difficulty: str = ""
    others: tuple[Gold, ...] = ()
    row: dict[str, Any] | None = None
    source: int = 0

    @property
    def golds(self) -> Gold | tuple[Gold, ...]:
        """What the verifier is given: the gold, or all of which any counts."""
        return (self.gold, *self.others) if self.others else self.gold


@dataclass(frozen=True, slots=True)
class Dataset:
    """Problems and where they came from. sha256 is over ids, prompts and answers in order.
    sources: where there are several of them, what each gave before prompts were measured."""

    problems: tuple[Problem, ...]
    source: str
    sha256: str
    num_skipped: int
    sources: tuple[Dataset, ...] = ()


def load_problems(config: DataConfig, section: str = "data", *, keep_rows: bool = False) -> Dataset:
    """The problems that `config` names, those of several sources one source after the other.
    `section` is the recipe's section, for errors. keep_rows: with the rows that they came from.

    Raises: ConfigError for a missing source or field, an unusable row, or no rows at all.
    """
    read_template(config.chat_template)
    if not config.source:
        return _load(config, section, keep_rows)
    places = [f"{section}.source.{number}" for number in range(len(config.source))]
    _refuse_file_twice(config, places)
    sources, problems = [], list[Problem]()
    for number, (part, place, label) in enumerate(
        zip(config.parts, places, config.labels, strict=True)
    ):
        loaded = _load(part, place, keep_rows)
        sources.append(loaded)
        problems += [
            # ids are unique within a source only
            replace(problem, id=f"{label}/{problem.id}", source=number)
            for problem in loaded.problems
        ]
    found = "; ".join(one.source for one in sources)
    skipped = sum(one.num_skipped for one in sources)
    return Dataset(tuple(problems), found, _sha256(problems), skipped, tuple(sources))


def _refuse_file_twice(config: DataConfig, places: Sequence[str]) -> None:
    """Raises: ConfigError where two sources, two patterns perhaps, have a file in common."""
    seen: dict[Path, str] = {}
    for part, place in zip(config.parts, places, strict=True):
        # resolved: a link, or a path through .., names the same file
        for path in {path.resolve() for path in data_files(part, place)}:
            first = seen.setdefault(path, place)
            if first != place:
                raise ConfigError(
                    f"{place}.path = {part.path!r}: {path} is in {first} too; name every file once"
                )


def _load(config: DataConfig, section: str, keep_rows: bool) -> Dataset:
    """The problems of one source."""
    rows, source = read_rows(config, section)
    problems, num_skipped, seen = [], 0, dict[str, int]()
    same_answer: Counter[str] = Counter()
    for number, row in enumerate(rows, start=1):
        # rows, not problems: skipping a bad row must not shift which rows a limit takes
        if config.limit is not None and number > config.limit:
            break
        try:
            problem = _problem(row, number, config, seen, _owner(section))
        except ValueError as error:
            if config.on_bad_row == "error":
                after = f' set {_owner(section)}.answer_after = "####",'
                after = after if "behind '####'" in str(error) else ""
                raise ConfigError(
                    f"{section}.path = {config.path!r}, row {number}: {error};{after}"
                    f' mend it or set data.on_bad_row = "skip"'
                ) from error
            num_skipped += 1
            continue
        same_answer[problem.answer] += 1
        if config.max_per_answer is None or same_answer[problem.answer] <= config.max_per_answer:
            problems.append(replace(problem, row=row) if keep_rows else problem)
    if not problems:
        owner = _owner(section)
        raise ConfigError(
            f"{section}.path = {config.path!r}: no usable problem ({num_skipped} rows skipped);"
            f" check the file and {owner}.problem_field, {owner}.answer_field"
        )
    return Dataset(tuple(problems), source, _sha256(problems), num_skipped)


def _owner(section: str) -> str:
    """The section whose field names a source of `section` is read with."""
    return section if section.startswith("data.source") else "data"


def _sha256(problems: Sequence[Problem]) -> str:
    # over what the run uses, not over the file: another format of the same rows is the same data
    digest = hashlib.sha256()
    for problem in problems:
        answer = [problem.answer, *(gold.text for gold in problem.others)]
        # a list only where there are several: runs made before there were have the same hash
        written = answer if problem.others else problem.answer
        digest.update(json.dumps([problem.id, problem.prompt, written]).encode())
    return digest.hexdigest()


def encode_prompts(
    dataset: Dataset, tokenizer: Any, config: DataConfig, max_prompt_len: int, section: str = "data"
) -> tuple[Dataset, list[list[int]]]:
    """The dataset and its prompts' token ids, a generation prompt appended.

    Raises: ConfigError for a prompt longer than `max_prompt_len` tokens, unless such rows are
    skipped, for a source of which none is left, and for a tokenizer without a chat template.
    """
    template = read_template(config.chat_template)
    check_template(tokenizer, template, "set data.chat_template to a Jinja file")
    parts, several = config.parts, bool(dataset.sources)
    places = [f"{section}.source.{i}" if several else section for i in range(len(parts))]
    kept, prompts, refused = [], [], ""
    num_kept = [0] * len(parts)
    for problem in dataset.problems:
        part, place = parts[problem.source], places[problem.source]
        try:
            ids = prompt_ids(tokenizer, template, problem.prompt)
        except ValueError as error:
            reason = refusal(f"problem {problem.id}: {error}", part.system_prompt is not None)
            refused = f"{place}.path = {part.path!r}, {reason}"
            if config.on_bad_row == "error":
                raise ConfigError(refused) from error
            continue
        if len(ids) <= max_prompt_len:
            kept.append(problem)
            prompts.append(ids)
            num_kept[problem.source] += 1
        elif config.on_bad_row == "error":
            longest = "eval.max_len" if section == "eval" else "rollout.max_response_len"
            raise ConfigError(
                f"{place}.path = {part.path!r}, problem {problem.id}: its prompt has"
                f" {len(ids)} tokens, the limit is {max_prompt_len}; raise model.max_len or"
                f' data.max_prompt_len, lower {longest}, or data.on_bad_row = "skip"'
            )
    for part, place, count in zip(parts, places, num_kept, strict=True):
        if not count:
            raise ConfigError(
                refused
                or f"{place}.path = {part.path!r}: every prompt is longer than {max_prompt_len}"
                " tokens; raise model.max_len or data.max_prompt_len"
            )
    skipped = dataset.num_skipped + len(dataset.problems) - len(kept)
    return replace(dataset, problems=tuple(kept), num_skipped=skipped), prompts


def _problem(
    row: dict[str, Any], number: int, config: DataConfig, seen: dict[str, int], section: str
) -> Problem:
    """seen: row numbers of the ids so far. Raises: ValueError for what cannot be used."""
    text = field_value(row, config.problem_field, f"{section}.problem_field")
    answer = field_value(row, config.answer_field, f"{section}.answer_field")
    answers = answers_of(answer, config.answer_field, config.answer_after)
    gold, *others = map(Gold.parse, answers)
    problem_id = str(number)
    if config.id_field is not None:
        problem_id = str(field_value(row, config.id_field, f"{section}.id_field"))
    if seen.setdefault(problem_id, number) != number:
        raise ValueError(
            f"{config.id_field} = {problem_id!r} is the id of row {seen[problem_id]} too; leave"
            f" {section}.id_field out to number rows"
        )
    difficulty = ""
    if config.difficulty_field is not None:
        difficulty = str(field_value(row, config.difficulty_field, f"{section}.difficulty_field"))
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
