"""Rows of a training file, kept whole: a filtered copy differs only in what it lacks."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from eval.benchmarks import Question, find_file, question_from
from eval.contamination import ContaminationReport
from eval.formats.jsonl import read_objects


def read_rows(name: str) -> list[dict]:
    """The rows of a JSONL, JSONL.gz or Parquet file, by path or by name in the data folders."""
    path = find_file(name) or find_file(f"{name}.jsonl")
    if path is None:
        raise ValueError(f"{name}: no such file; give a JSONL or Parquet file of training rows")
    if path.suffix == ".parquet":
        from pyarrow import parquet

        return parquet.read_table(path).to_pylist()
    return [row for _, row in read_objects(path)]


def questions(rows: Sequence[dict], problem_field: str, answer_field: str) -> Iterator[Question]:
    """The rows as questions; a row without `id` is known by its number."""
    for number, row in enumerate(rows, start=1):
        named = {"id": f"row {number}", **row}
        yield question_from(named, ("id", problem_field, answer_field), f"row {number}")


def write_filtered(path: str, rows: Sequence[dict], dropped: set[int]) -> int:
    """Writes the rows that are not dropped as JSONL; returns their number."""
    kept = [row for i, row in enumerate(rows) if i not in dropped]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept)
    Path(path).write_text(text, "utf-8")
    return len(kept)


def write_pairs(path: str, report: ContaminationReport) -> None:
    """Writes every overlap, one object per line."""
    lines = (json.dumps(asdict(overlap), ensure_ascii=False) for overlap in report.overlaps)
    Path(path).write_text("".join(line + "\n" for line in lines), "utf-8")
