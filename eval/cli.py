"""`rlvr eval` on stored generations, `rlvr eval compare`, `rlvr eval export`."""

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NoReturn

from eval.reports.tables import FORMATS, render

if TYPE_CHECKING:
    from eval.generations import Generation

EVAL_HELP = """\
rlvr eval --model M ...          sample and score benchmarks; see rlvr eval --model M --help
rlvr eval --generations FILE     score stored generations, {"benchmark","id","response"} per line
rlvr eval compare DIR DIR ...    paired comparison of scored folders, the first being the baseline
rlvr eval export DIR --out DIR   samples files as lm-evaluation-harness or lighteval writes them
"""


class Parser(argparse.ArgumentParser):
    """A parser that reports a wrong option in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\n")


def eval_main(argv: Sequence[str]) -> int:
    """`rlvr eval ...` without a model; the exit code: 0 done, 2 a user's error in one line."""
    commands = {"compare": _compare_main, "export": _export_main}
    if argv and argv[0] in commands:
        prog = f"rlvr eval {argv[0]}"
        return exit_code(prog, lambda: commands[argv[0]](prog, argv[1:]))
    return exit_code("rlvr eval", lambda: _score_main("rlvr eval", argv))


def exit_code(prog: str, command: Callable[[], None]) -> int:
    """0 when the command is done, 2 after a user's error, which is printed in one line."""
    try:
        command()
    except (ValueError, OSError) as error:
        print(f"{prog}: error: {error}", file=sys.stderr)
        return 2
    except SystemExit as stop:  # argparse: an unknown option, or --help
        return int(stop.code or 0)
    return 0


def _score_main(prog: str, argv: Sequence[str]) -> None:
    args = _score_parser(prog).parse_args(argv)
    if args.samples is not None and args.samples < 1:
        raise ValueError(f"--samples {args.samples}: score at least 1")

    # imported late, here and below: --help must not wait for numpy
    from eval.reports.report import results_tables
    from eval.score import score

    generations = _read_any(args)
    # an imported file is of the one benchmark that was named with it
    named = args.benchmarks or args.from_harness or args.from_lighteval or ""
    chosen = [name.strip() for name in named.split(",") if name.strip()]
    start = time.perf_counter()
    with make_verifier(args, bool(args.require_closed_think)) as verifier:
        results = score(
            generations,
            verifier,
            benchmarks=chosen,
            samples=args.samples,
            out=args.out,
            progress=_progress(start),
        )
    count = sum(r["samples"] for r in results["benchmarks"].values())
    seconds = time.perf_counter() - start
    print(render(results_tables(results), args.format, results))
    # beside the table: standard output may be piped as JSON or CSV
    print(f"{count} responses in {seconds:.1f} s ({count / seconds:.0f}/s)", file=sys.stderr)
    for name, r in results["benchmarks"].items():
        print(f"{name}: {r['source']['found']}", file=sys.stderr)
    if args.out:
        print(f"written to {args.out}", file=sys.stderr)


def _score_parser(prog: str) -> Parser:
    parser = Parser(
        prog=prog, epilog=EVAL_HELP, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--generations", metavar="FILE", required=True, help="JSONL, or JSONL.gz")
    add(
        "--from-harness",
        metavar="BENCHMARK",
        help="FILE is a samples file of lm-evaluation-harness on this benchmark",
    )
    add(
        "--from-lighteval",
        metavar="BENCHMARK",
        help="FILE is a Parquet details file of lighteval on this benchmark",
    )
    add(
        "--benchmarks",
        metavar="NAMES",
        help="score only these, separated by commas; your own problems as NAME=FILE.jsonl",
    )
    add("--samples", type=int, metavar="K", help="the first K samples per problem")
    add("--out", metavar="DIR", help="folder for results.json and samples.jsonl.gz")
    add_format(parser)
    add_verifier(parser)
    add_think(parser)
    return parser


def _read_any(args: argparse.Namespace) -> "Iterator[Generation]":
    """The generations of --generations, in the form that the options name."""
    from eval.formats.harness import read_harness_samples
    from eval.generations import read_generations
    from eval.lighteval import read_details

    if args.from_harness:
        return read_harness_samples(args.generations, args.from_harness)
    if args.from_lighteval:
        return read_details(args.generations, args.from_lighteval)
    return read_generations(args.generations)


def _compare_main(prog: str, argv: Sequence[str]) -> None:
    parser = Parser(prog=prog, description="Paired comparison of scored folders.")
    parser.add_argument("folders", nargs="+", metavar="DIR", help="folders written with --out")
    parser.add_argument("--all-pairs", action="store_true", help="not only against the first")
    parser.add_argument("--seed", type=int, default=0, help="of the resampling (default: 0)")
    add_format(parser)
    args = parser.parse_args(argv)

    from eval.compare import compare, read_result
    from eval.reports.report import comparison_tables

    results = [read_result(folder) for folder in args.folders]
    report = compare(results, all_pairs=args.all_pairs, seed=args.seed)
    print(render(comparison_tables(report), args.format, report.to_json()))


def _export_main(prog: str, argv: Sequence[str]) -> None:
    parser = Parser(
        prog=prog, description="Samples as lm-evaluation-harness or lighteval has them."
    )
    parser.add_argument("folder", metavar="DIR", help="folder written with --out")
    parser.add_argument("--out", required=True, metavar="DIR", help="where the files go")
    parser.add_argument("--to", choices=("harness", "lighteval"), default="harness")
    args = parser.parse_args(argv)

    from eval.formats.harness import export_samples
    from eval.lighteval import export_details

    write = export_details if args.to == "lighteval" else export_samples
    for path in write(args.folder, args.out):
        print(path)


def add_format(parser: argparse.ArgumentParser) -> None:
    """Adds --format."""
    parser.add_argument("--format", choices=FORMATS, default="text", help="(default: text)")


def add_verifier(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the verifier."""
    parser.add_argument("--answer-mode", metavar="MODE", help="where answers stand (boxed)")
    parser.add_argument("--timeout", type=float, default=1.0, metavar="S", help="per pair (1.0)")
    parser.add_argument("--workers", type=int, metavar="N", help="verifier processes")


def add_think(parser: argparse.ArgumentParser) -> None:
    """Adds --require-closed-think, None where it is not given."""
    parser.add_argument(
        "--require-closed-think",
        action=argparse.BooleanOptionalAction,
        help="pay only what follows a </think>, for prompts that end in <think>",
    )


def make_verifier(args: argparse.Namespace, require_closed_think: bool = False):
    """The verifier that the options of `add_verifier` ask for."""
    from rewards import Verifier

    return Verifier(
        answer_mode=args.answer_mode or "boxed",
        require_closed_think=require_closed_think,
        timeout_s=args.timeout,
        num_workers=args.workers,
    )


def _progress(start: float) -> Callable[[int], None] | None:
    """Shows a running count on a terminal."""
    # a log would get one line of carriage returns
    if not sys.stderr.isatty():
        return None

    def show(count: int) -> None:
        rate = count / max(time.perf_counter() - start, 1e-9)
        print(f"\r{count} responses scored, {rate:.0f}/s ", end="", file=sys.stderr, flush=True)

    return show
