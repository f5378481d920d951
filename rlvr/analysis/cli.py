"""`rlvr analyze`: what training did to the weights, as analysis.json and a table."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlvr.common.errors import ConfigError

if TYPE_CHECKING:
    from rlvr.analysis.analyze import Options

SHOWN = {
    "norm": "norm",
    "relative_norm": "relative",
    "rank90": "rank 90%",
    "stable_rank": "stable rank",
    "energy_top10": "energy top 10%",
    "changed_bf16_frac": "changed bf16",
    "sparsity": "sparsity",
}
"""Columns of the table: means over the modules of a kind."""


def main(argv: Sequence[str]) -> int:
    """`rlvr analyze ...`; the exit code. Raises: ConfigError."""
    args = _parser().parse_args(argv)
    options = _options(args)
    # imported late: --help must not wait for torch
    from rlvr.analysis.analyze import analyze, side_by_side

    found = [analyze(path, options) for path in args.checkpoints]
    facts = side_by_side(*found) if len(found) == 2 else found[0].facts
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "analysis.json"
    path.write_text(json.dumps(facts, indent=1))
    for one in found:
        _print_table(one.facts)
    print(path)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rlvr analyze", description="What training did to the weights of one or two runs."
    )
    add = parser.add_argument
    add(
        "checkpoints",
        nargs="+",
        type=Path,
        metavar="CHECKPOINT",
        help="an adapter or model folder, or a run (its newest checkpoint); two are compared",
    )
    add("-o", "--out", type=Path, required=True, help="folder for analysis.json")
    add("--base", help="the base's folder or hub id, where the checkpoint does not record it")
    add("--layers", help="only these transformer blocks, such as 0,13,27")
    add("--data", type=Path, help="JSONL of {prompt, response}, or a rollouts file")
    add("--max-rows", type=int, default=64, help="rows of --data that are used (64)")
    add("--curvature", action="store_true", help="largest Hessian eigenvalues on --data")
    add("--attention", action="store_true", help="entanglement of attention matrices on --data")
    add(
        "--multiple-choice",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="forgetting on JSONL of {question, choices, answer}",
    )
    add("--harness", action="store_true", help="forgetting by lm-evaluation-harness")
    add(
        "--samples",
        type=Path,
        nargs="+",
        default=[],
        metavar="PATH",
        help="diversity of rollouts or generations: files, or run folders",
    )
    add("--answer-mode", default="boxed", help="how answers are found in --samples (boxed)")
    return parser


def _options(args: argparse.Namespace) -> Options:
    """Raises: ConfigError for options that do not go together."""
    from rewards.extract import MODES
    from rlvr.analysis.analyze import Options

    if len(args.checkpoints) > 2:
        raise ConfigError(f"analyze: {len(args.checkpoints)} checkpoints; give one or two")
    needs_data = args.curvature or args.attention
    if needs_data and args.data is None:
        raise ConfigError(
            "--curvature and --attention look at texts: add --data FILE.jsonl with a prompt and a"
            " response per line"
        )
    for path in (*args.multiple_choice, *([args.data] if args.data else [])):
        if not path.is_file():
            raise ConfigError(f"{path}: no such file")
    if args.data is not None and not needs_data:
        raise ConfigError("--data: used by --curvature and --attention only; add one of them")
    if args.max_rows < 1:
        raise ConfigError(f"--max-rows {args.max_rows}: must be at least 1")
    if args.answer_mode not in MODES:
        raise ConfigError(f"--answer-mode {args.answer_mode}: it is one of {', '.join(MODES)}")
    args.layers = _layers(args.layers)
    # every field has an option of its name
    return Options(**{field.name: getattr(args, field.name) for field in fields(Options)})


def _layers(text: str | None) -> tuple[int, ...] | None:
    try:
        return None if text is None else tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"--layers {text}: give block numbers, such as 0,13,27") from None


def _print_table(facts: dict[str, Any]) -> None:
    from eval.reports.tables import Table, render

    rows = []
    for kind in dict.fromkeys(m["kind"] for m in facts["modules"]):
        same = [m for m in facts["modules"] if m["kind"] == kind]
        means = [sum(m[key] for m in same) / len(same) for key in SHOWN]
        rows.append((f"{kind} ({len(same)})", *(f"{mean:.3g}" for mean in means)))
    table = Table(facts["checkpoint"], ("module", *SHOWN.values()), tuple(rows))
    print(render([table], "text"))
