"""`rlvr data check`: the evaluation problems in a training file, and the file without them."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from eval.benchmarks import Question, find_file, load_benchmark, question_from
from eval.cli import Parser, add_format, add_verifier, exit_code, make_verifier
from eval.contamination import check_contamination
from eval.reports.report import contamination_table
from eval.reports.tables import render
from rlvr.common.log import get_logger
from rlvr.config.toml import load_recipe
from rlvr.config.train import DataConfig, TrainRecipe
from rlvr.data import tables
from rlvr.data.chat import read_messages
from rlvr.data.contamination import questions_of
from rlvr.data.problems import load_problems
from rlvr.data.rows import read_rows

logger = get_logger(__name__)


def main(argv: Sequence[str]) -> int:
    """`rlvr data check TRAIN --against BENCH ...`; the exit code: 0 done, 2 a user's error."""
    return exit_code("rlvr data check", lambda: _check(_parser().parse_args(argv)))


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="rlvr data", description="Find evaluation problems in a training set.")
    parser.add_argument("command", choices=["check"])
    add = parser.add_argument
    kinds = f"a {', '.join(tables.READERS)} file, a pattern or folder of them"
    add("train", metavar="TRAIN", help=f"{kinds}, or RECIPE.toml: all that it trains on")
    add("--against", nargs="+", required=True, metavar="BENCH", help="benchmarks")
    add("--problem-field", help="of files: text or list of messages (default: problem)")
    add("--answer-field", help="of files (default: answer)")
    add("--pairs", metavar="FILE", help="write every overlap to this JSONL file")
    add("--filtered", metavar="FILE", help="write the rows that are clean")
    add("--every-pair", action="store_true", help="also drop near rows with another answer")
    add_format(parser)
    add_verifier(parser)
    return parser


def _check(args: argparse.Namespace) -> None:
    rows, train = _training_set(args)
    names = [name for item in args.against for name in item.split(",") if name]
    with make_verifier(args) as verifier:
        report = check_contamination(train, [load_benchmark(n) for n in names], verifier)
    print(render([contamination_table(report)], args.format, report.summary()))
    if args.pairs:
        _write_lines(args.pairs, [asdict(overlap) for overlap in report.overlaps])
    if args.filtered:
        dropped = report.contaminated_rows(every_pair=args.every_pair)
        # rows as they were read, so that the copy differs only in what it lacks
        kept = [row for i, row in enumerate(rows) if i not in dropped]
        _write_lines(args.filtered, kept)
        logger.info(f"{len(kept)} of {len(rows)} rows written to {args.filtered}")


def _training_set(args: argparse.Namespace) -> tuple[list[dict[str, Any]], Iterator[Question]]:
    """(rows as they were read, the same as questions). Raises: ValueError."""
    if not args.train.endswith(".toml"):
        rows = read_training_rows(args.train)
        fields = (args.problem_field or "problem", args.answer_field or "answer")
        return rows, questions(rows, *fields)
    for name in ("problem_field", "answer_field"):
        if getattr(args, name) is not None:
            option = f"--{name.replace('_', '-')}"
            raise ValueError(f"{option}: {args.train} names the fields of its data; leave it out")
    data = load_recipe(args.train, [], TrainRecipe).data
    if args.filtered and data.source:
        raise ValueError(
            f"--filtered: {args.train} has several sources, whose rows do not go into one file;"
            " give each file by itself"
        )
    problems = load_problems(data, keep_rows=True).problems
    return [problem.row or {} for problem in problems], questions_of(problems, data)


def read_training_rows(name: str) -> list[dict[str, Any]]:
    """The rows of a file, by path or by name in the data folders, or of all that a pattern or a
    folder names. Raises: ValueError."""
    path = find_file(name) or find_file(f"{name}.jsonl")
    if path is not None:
        return list(tables.read_file(path))
    if not tables.is_pattern(name) and not tables.is_shards(name):
        raise ValueError(f"{name}: no such file; give a JSONL or Parquet file of training rows")
    return list(read_rows(DataConfig(path=name), "data")[0])


def questions(
    rows: Sequence[dict[str, Any]], problem_field: str, answer_field: str
) -> Iterator[Question]:
    """The rows as questions; a row without `id` is known by its number.

    The text of a list of messages is the user's last turn. Raises: ValueError with the row.
    """
    for number, row in enumerate(rows, start=1):
        where, named = f"row {number}", {"id": f"row {number}", **row}
        if isinstance(row.get(problem_field), list):
            try:
                turns = read_messages(row[problem_field], problem_field)
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from error
            asked = [turn["content"] for turn in turns if turn["role"] == "user"]
            named[problem_field] = asked[-1] if asked else None
        yield question_from(named, ("id", problem_field, answer_field), where)


def _write_lines(path: str, rows: Sequence[dict[str, Any]]) -> None:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    Path(path).write_text(text, "utf-8")
