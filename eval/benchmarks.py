"""Finds, checks and reads the problems of benchmarks.

Problems are not part of this package (their licences differ). They are looked for in `RLVR_DATA`,
then in `../shared/data` from the current folder and from the project's, then on the hub where a
source is known.
"""

import difflib
import hashlib
import json
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

from eval.formats.answers import answers_of, behind
from eval.formats.jsonl import read_objects
from eval.records import BENCHMARKS, Benchmark, DataFile, HubSource

PROJECT_ROOT = Path(__file__).resolve().parents[1]

# MATH's own files write the level as "Level 3"
_LEVEL = re.compile(r"level\s*(\d+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Question:
    """One problem of a benchmark. subject and level where the data states them, else None. others:
    further answers, each as right as `answer`."""

    id: str
    problem: str
    answer: str
    subject: str | None = None
    level: str | None = None
    others: tuple[str, ...] = ()

    @property
    def answers(self) -> tuple[str, ...]:
        return (self.answer, *self.others)


@dataclass(frozen=True, slots=True)
class LoadedBenchmark:
    """A benchmark with its problems. found: a line that says where they were. sha256: per file."""

    benchmark: Benchmark
    questions: tuple[Question, ...]
    found: str
    sha256: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.benchmark.name


def resolve(spec: str) -> Benchmark:
    """The benchmark that a user named: a known name, `FILE.jsonl`, or `NAME=FILE.jsonl`.

    A file has one object per line with id, problem and answer. Raises ValueError for an unknown
    name, with the nearest known one.
    """
    if spec in BENCHMARKS:
        return BENCHMARKS[spec]
    name, equals, path = spec.rpartition("=")
    if equals or spec.endswith((".jsonl", ".jsonl.gz")):
        name = name or Path(path).name.removesuffix(".gz").removesuffix(".jsonl")
        file = DataFile(str(Path(path).expanduser()))
        known = BENCHMARKS.get(name)
        # a benchmark whose file is the user's to give; of the others this is another version
        if known is not None and known.needs_file:
            return replace(known, files=(file,))
        return Benchmark(name, (file,), None, "not stated", 1)
    near = difflib.get_close_matches(spec, BENCHMARKS, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise ValueError(
        f"unknown benchmark {spec!r}: {hint}known are {', '.join(BENCHMARKS)}; for your own "
        "problems give NAME=FILE.jsonl"
    )


def data_folders() -> list[Path]:
    """Where files for training and evaluation are looked for, in order: `RLVR_DATA`, then
    `../shared/data` from the current folder, then from the project's."""
    # an installed package has no data beside it, so the current folder is asked first
    places = [Path.cwd().parent, PROJECT_ROOT.parent]
    folders = [place / "shared" / "data" for place in places]
    if os.environ.get("RLVR_DATA"):
        folders.insert(0, Path(os.environ["RLVR_DATA"]).expanduser())
    return list(dict.fromkeys(folders))


def find_file(name: str) -> Path | None:
    """The data file at this path, or of this name in a data folder, or None."""
    path = Path(name).expanduser()
    if path.is_file() or path.is_absolute():
        return path if path.is_file() else None
    return next((d / name for d in data_folders() if (d / name).is_file()), None)


def load_benchmark(benchmark: str | Benchmark) -> LoadedBenchmark:
    """Reads and checks a benchmark, from files where they exist, else from the hub.

    Raises ValueError when the data is nowhere to be found, or has another count or sha256 than the
    record (both values are given), or a row lacks a field.
    """
    record = resolve(benchmark) if isinstance(benchmark, str) else benchmark
    paths = [find_file(file.name) for file in record.files]
    found = [path for path in paths if path is not None]
    # all files or none: half a benchmark from disk and half from the hub has no known sha256
    if len(found) < len(paths):
        return _load_hub(record)
    hashes, questions = [], []
    for file, path in zip(record.files, found, strict=True):
        content = path.read_bytes()
        hashes.append(hashlib.sha256(content).hexdigest())
        # files of one name differ between publishers; a score is of one of them
        if file.sha256 not in (None, hashes[-1]):
            raise ValueError(
                f"{record.name}: {path} has sha256 {hashes[-1]}, expected {file.sha256}; fetch the "
                "file again, or name your own version NAME=FILE.jsonl"
            )
        questions += _read_questions(path, record.fields)
    where = ", ".join(str(path) for path in found)
    return _checked(record, questions, f"file {where}", tuple(hashes))


def question_from(row: dict, fields: tuple[str, str, str], where: str) -> Question:
    """The question in a row; ValueError names `where` and the field that is missing."""
    values = [row.get(name) for name in fields]
    for name, value in zip(fields, values, strict=True):
        if value is None or str(value).strip() == "":
            have = ", ".join(row)
            raise ValueError(f"{where}: no {name!r}; the row has {have}")
    subject, level = _subject_and_level(row)
    try:
        answer, *others = answers_of(values[2], repr(fields[2]))
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    return Question(str(values[0]), str(values[1]), answer, subject, level, tuple(others))


def _read_questions(path: Path, fields: tuple[str, str, str]) -> list[Question]:
    rows = read_objects(path)
    return [question_from(row, fields, f"{path}:{number}") for number, row in rows]


def _checked(
    record: Benchmark, questions: list[Question], found: str, hashes: tuple[str, ...]
) -> LoadedBenchmark:
    if record.count not in (None, len(questions)) or not questions:
        expected = "at least 1" if record.count is None else record.count
        raise ValueError(
            f"{record.name}: {len(questions)} problems in {found}, expected {expected}"
        )
    seen: set[str] = set()
    for question in questions:
        if question.id in seen:
            raise ValueError(f"{record.name}: id {question.id!r} occurs twice in {found}")
        seen.add(question.id)
    return LoadedBenchmark(record, tuple(questions), found, hashes)


def _subject_and_level(row: dict) -> tuple[str | None, str | None]:
    """From fields of these names, else from `source` of the form `set:subject:level`."""
    subject, level = row.get("subject"), row.get("level")
    parts = [part.strip() for part in str(row.get("source", "")).split(":")]
    # "math:Algebra:Level 5" names a subject, "aime:difficulty 3" does not
    if subject is None and len(parts) > 1 and not re.match(r"(level|difficulty)\s*[\d.]", parts[1]):
        subject = parts[1]
    if level is None:
        match = next((m for part in parts[1:] if (m := _LEVEL.fullmatch(part))), None)
        level = match.group(1) if match else None
    return (
        str(subject) if subject not in (None, "") else None,
        str(level) if level not in (None, "") else None,
    )


def _load_hub(record: Benchmark) -> LoadedBenchmark:
    looked = ", ".join(str(d) for d in data_folders())
    needed = " and ".join(file.name for file in record.files)
    if record.needs_file:
        raise ValueError(
            f"{record.name}: needs a file, and {needed} is not in {looked}; give {record.name}="
            f"FILE.jsonl with the {record.count} problems, one object per line with id, problem and"
            " answer, or put it there"
        )
    if record.hub is None:
        raise ValueError(
            f"{record.name}: {needed} not found in {looked}, and no hub source is known for it; "
            "put the file there or set RLVR_DATA to its folder"
        )
    # imported late: it takes seconds, and a benchmark on disk needs none of it
    import datasets

    hub = record.hub
    try:
        rows = datasets.load_dataset(hub.repo, hub.config, split=hub.split, revision=hub.revision)
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"{record.name}: {needed} not found in {looked}, and the hub dataset {hub.repo} could "
            f"not be read ({reason}); set RLVR_DATA to the folder that holds it"
        ) from None
    questions = [_hub_question(record, hub, i, dict(row)) for i, row in enumerate(rows)]
    # the hub's Parquet bytes change when it is converted again; problems and answers do not
    content = json.dumps([[q.problem, q.answer] for q in questions]).encode()
    found = f"hub {hub.repo}, {hub.split}, revision {hub.revision}"
    return _checked(record, questions, found, (hashlib.sha256(content).hexdigest(),))


def _hub_question(record: Benchmark, hub: HubSource, index: int, row: dict) -> Question:
    answer = row.get(hub.answer_field, "")
    if hub.answer_after is not None:
        answer = behind(str(answer), hub.answer_after) or ""
    # the ids that the files have, so that a score from the hub pairs with one from a file
    stem = record.files[0].name.removesuffix(".jsonl").replace("_", "-")
    number = str(row[hub.id_field]) if hub.id_field else f"{stem}-{index:05d}"
    fields = {**row, "id": number.removesuffix(".json"), "answer": answer}
    fields["problem"] = row.get(hub.problem_field)
    return question_from(fields, ("id", "problem", "answer"), f"{hub.repo} row {index}")
