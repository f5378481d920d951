"""`rlvr verify`: judge JSON lines on standard input."""

import argparse
import json
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import BinaryIO, NoReturn, TextIO

from rewards.extract import MODES
from rewards.types import Reason, Verdict
from rewards.verifier import Verifier

BATCH_LINES = 512  # judged together: enough for every worker, few enough to stream
EPILOG = """\
input:  one JSON object per line with "response" and "gold"; other fields are kept
output: for every line, in order, the same object plus "correct", "reason", "answer", "stage", "ms"

A gold that cannot be understood has the reason gold_invalid. A line without a usable response or
gold is reported on standard error by its number; its output line has the stage "input". Blank
lines are skipped. Exit status: 0, or 2 when an option is wrong.
"""


class Parser(argparse.ArgumentParser):
    """Reports a wrong option in one line."""

    def error(self, message: str) -> NoReturn:
        """Exit with status 2 and the message, without argparse's usage text."""
        self.exit(2, f"{self.prog}: {message}\n")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command's options."""
    parser = Parser(
        prog="rlvr verify",
        description="Judge responses against golds: rlvr verify < in.jsonl > out.jsonl",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--answer-mode",
        choices=MODES,
        default="boxed",
        help="where the answer stands (default: boxed)",
    )
    parser.add_argument(
        "--require-closed-think",
        action="store_true",
        help="the prompts end in <think>: pay only what follows a </think>",
    )
    parser.add_argument(
        "--timeout", type=float, default=1.0, metavar="S", help="seconds per pair (default: 1.0)"
    )
    parser.add_argument(
        "--workers", type=int, metavar="N", help="worker processes (default: half the processors)"
    )
    return parser


def main(
    argv: Sequence[str] | None = None,
    stdin: BinaryIO | None = None,
    stdout: TextIO | None = None,
    stderr: TextIO | None = None,
) -> int:
    """Run the command and return its exit status. Raises SystemExit(2) on a wrong option."""
    parser = build_parser()
    options = parser.parse_args(argv)
    try:
        verifier = Verifier(
            answer_mode=options.answer_mode,
            require_closed_think=options.require_closed_think,
            timeout_s=options.timeout,
            num_workers=options.workers,
        )
    except ValueError as error:
        parser.error(str(error))
    with verifier:
        try:
            # bytes in: a line that is no UTF-8 is reported by its number and stops nothing
            verify_lines(
                verifier, stdin or sys.stdin.buffer, stdout or sys.stdout, stderr or sys.stderr
            )
        except BrokenPipeError:  # the reader has seen enough: leave without a traceback
            os.dup2(os.open(os.devnull, os.O_WRONLY), (stdout or sys.stdout).fileno())
    return 0


@dataclass(frozen=True)
class Row:
    """An input line: its object, and why it cannot be judged, if it cannot."""

    number: int
    fields: dict
    gold: str = ""
    reason: Reason | None = None
    problem: str = ""


def verify_lines(verifier: Verifier, lines: Iterable[bytes], out: TextIO, problems: TextIO) -> None:
    """Write one line to out for every line that is not blank, a batch at a time."""
    numbered = ((number, line) for number, line in enumerate(lines, 1) if line.strip())
    while batch := [read_row(number, line) for number, line in islice(numbered, BATCH_LINES)]:
        good = [row for row in batch if row.reason is None]
        pairs = [(row.fields["response"], row.gold) for row in good]
        verdicts = dict(zip((row.number for row in good), verifier.verify_many(pairs), strict=True))
        for row in batch:
            if row.reason is not None:
                print(f"line {row.number}: {row.problem}", file=problems)
            verdict = verdicts.get(row.number) or Verdict(
                False, row.reason or Reason.NO_ANSWER, None, "input", 0.0
            )
            fields = row.fields | asdict(verdict) | {"ms": round(verdict.ms, 4)}
            out.write(json.dumps(fields) + "\n")
        out.flush()


def read_row(number: int, line: bytes) -> Row:
    """Return the line as a row; one that cannot be judged says why."""
    fields, reason = {"line": number}, Reason.GOLD_INVALID
    try:
        read = json.loads(line, parse_float=WrittenFloat, parse_constant=no_number)
    # RecursionError: json reads brackets in brackets recursively
    except (ValueError, RecursionError) as error:
        return Row(number, fields, reason=reason, problem=f"not JSON: {error}")
    if not isinstance(read, dict):
        problem = f"a JSON object is needed, this is {type(read).__name__}"
        return Row(number, fields, reason=reason, problem=problem)
    fields, gold, response = read, read.get("gold"), read.get("response")
    # bool is a kind of int in Python: `"gold": true` is a slip and not the number 1.
    if not isinstance(gold, str | int | float) or isinstance(gold, bool):
        problem = f'"gold" must be a string or a number, this is {type(gold).__name__}'
        return Row(number, fields, reason=reason, problem=problem)
    if not isinstance(response, str):
        problem = f'"response" must be a string, this is {type(response).__name__}'
        return Row(number, fields, reason=Reason.NO_ANSWER, problem=problem)
    return Row(number, fields, gold.text if isinstance(gold, WrittenFloat) else str(gold))


class WrittenFloat(float):
    """A JSON number with a point or an exponent that keeps its text: 2.50 is not 2.5."""

    text: str

    def __new__(cls, text: str) -> "WrittenFloat":
        number = super().__new__(cls, text)
        if number in (float("inf"), float("-inf")):
            raise ValueError(f"{text} is too large for a JSON number; write it as a string")
        number.text = text
        return number


def no_number(name: str) -> float:
    """Refuse NaN and Infinity, which Python reads although JSON does not know them."""
    raise ValueError(f"{name} is no JSON number")
