"""`rlvr eval --model`: the command line. Without --model the words go to `eval.cli`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.cli import (
    Parser,
    add_format,
    add_think,
    add_verifier,
    eval_main,
    exit_code,
    make_verifier,
)
from eval.reports.tables import render
from rlvr.common.errors import ConfigError
from rlvr.common.log import get_logger

if TYPE_CHECKING:
    from eval.benchmarks import LoadedBenchmark
    from eval.generations import Generation, GenerationKey, GenerationLog
    from rlvr.evaluation.plan import PromptStyle, SamplingPlan
    from rlvr.evaluation.targets import Target

logger = get_logger(__name__)

LOG = "generations.jsonl.gz"
"""Where a target keeps its samples."""


def main(argv: Sequence[str]) -> int:
    """`rlvr eval ...`; the exit code: 0 done, 2 a user's error in one line."""
    # --model=M is one word
    if not any(word.split("=")[0] == "--model" for word in argv):
        return eval_main(argv)
    return exit_code("rlvr eval", lambda: _run(_parser().parse_args(argv)))


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="rlvr eval", description="Sample responses to benchmarks and score them.")
    _add_model(parser.add_argument_group("model").add_argument)
    _add_problems(parser.add_argument_group("problems").add_argument)
    _add_sampling(parser.add_argument_group("sampling").add_argument)
    _add_running(parser.add_argument_group("running").add_argument)
    add_format(parser)
    add_verifier(parser)
    add_think(parser)
    return parser


def _add_model(add: Callable[..., object]) -> None:
    add("--model", required=True, metavar="M", help="folder, checkpoint or hub id")
    text = "adapter folder on that model, again for more; none: the model itself"
    add("--adapter", action="append", default=[], metavar="A", help=text)
    add("--revision", help="hub revision of the model")
    add("--trust-remote-code", action="store_true", help="run the model's own code")
    types = ("auto", "float32", "bfloat16", "float16")
    text = "compute type (auto: as the model is stored)"
    add("--dtype", choices=types, default="auto", help=text)


def _add_problems(add: Callable[..., object]) -> None:
    text = "separated by commas; NAME=FILE.jsonl"
    add("--benchmarks", required=True, metavar="NAMES", help=text)
    add("--limit", type=int, metavar="N", help="the first N problems of each")
    text = "prompts and answer mode of a recipe or config.toml"
    add("--prompts-from", metavar="RECIPE", help=text)
    add("--chat-template", metavar="FILE", help="Jinja file (the tokenizer's own)")


def _add_sampling(add: Callable[..., object]) -> None:
    add("--samples", type=int, metavar="K", help="per problem (each benchmark's usual)")
    add("--temperature", type=float, default=0.6, help="0: greedy (0.6)")
    add("--top-p", type=float, default=0.95, help="nucleus mass (0.95)")
    add("--max-tokens", type=int, metavar="T", help="of a response (what fits, <= 32768)")
    text = "text of one token that ends a response too, again for more (the recipe's)"
    add("--stop", action="append", default=[], metavar="TOKEN", help=text)
    text = "such tokens by id (the recipe's)"
    add("--stop-token-ids", type=int, nargs="+", default=[], metavar="ID", help=text)
    add("--seed", type=int, default=0, help="of every sample (0)")


def _add_running(add: Callable[..., object]) -> None:
    add("--out", required=True, metavar="DIR", help="results; a second call continues")
    add("--engine", choices=("auto", "vllm", "transformers"), default="auto")
    text = "how vLLM serves LoRA adapters (auto: lora on a GPU, merged on a CPU)"
    add("--adapters-as", choices=("auto", "lora", "merged"), default="auto", help=text)
    add("--data-parallel", type=int, default=1, metavar="N", help="processes, one per GPU")
    add("--gpu-memory-utilization", type=float, default=0.9, metavar="F")
    add("--max-num-seqs", type=int, default=256, metavar="N", help="at a time")


def _run(args: argparse.Namespace) -> None:
    from rlvr.common.environment import set_environment

    _check(args)
    set_environment()
    from eval.benchmarks import load_benchmark
    from rlvr.evaluation.plan import read_style, wanted_keys
    from rlvr.evaluation.prepare import make_plan
    from rlvr.evaluation.targets import resolve

    names = [name.strip() for name in args.benchmarks.split(",") if name.strip()]
    loaded = [load_benchmark(name) for name in names]
    style, stops = read_style(args.prompts_from, args.chat_template)
    args.stop = [*args.stop, *stops.texts]
    args.stop_token_ids = [*args.stop_token_ids, *stops.ids]
    # the command line goes before the recipe
    args.answer_mode = args.answer_mode or style.answer_mode or "boxed"
    base, targets = resolve(args.model, args.adapter)
    keys = [key for b in loaded for key in wanted_keys(b, args.samples, args.limit)]
    folders = _folders(Path(args.out), targets)
    plan = make_plan(args, loaded, style, base, targets, keys)
    # before an engine pins this process to some cores
    with make_verifier(args, plan.require_closed_think) as verifier:
        logs = _sample(args, plan, style, folders)
        results = {}
        for target, folder, log in zip(targets, folders, logs, strict=True):
            results[target.name] = _score(log.path, keys, loaded, verifier, folder)
    _show(args, loaded, results, folders)


def _check(args: argparse.Namespace) -> None:
    for name in ("samples", "limit", "max_tokens", "data_parallel", "max_num_seqs"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise ConfigError(f"--{name.replace('_', '-')} {value}: at least 1")
    if args.temperature < 0:
        raise ConfigError(f"--temperature {args.temperature}: at least 0; 0 is greedy")
    if not 0 < args.top_p <= 1:
        raise ConfigError(f"--top-p {args.top_p}: lies in (0, 1]")
    # an average over equal responses would look like a precise one
    if args.temperature == 0 and args.samples != 1:
        raise ConfigError(
            f"--temperature 0 --samples {args.samples}: greedy samples of a problem are all the"
            " same; give --samples 1"
        )


def _sample(
    args: argparse.Namespace, plan: SamplingPlan, style: PromptStyle, folders: Sequence[Path]
) -> list[GenerationLog]:
    """The logs with every wanted response in them; nothing is loaded where they have all."""
    from eval.generations import GenerationLog
    from rlvr.evaluation.prepare import settings_of
    from rlvr.evaluation.workers import sample_all

    logs = [
        GenerationLog(folder / LOG, settings_of(plan, job.target, style, args.seed))
        for folder, job in zip(folders, plan.jobs, strict=True)
    ]
    plan = plan.without([log.done for log in logs])
    if plan.num_requests:
        sample_all(plan, logs, args.data_parallel)
    return logs


def _folders(out: Path, targets: Sequence[Target]) -> list[Path]:
    return [out] if len(targets) == 1 else [out / target.name for target in targets]


def _score(
    path: Path,
    keys: Sequence[GenerationKey],
    loaded: Sequence[LoadedBenchmark],
    verifier: Any,
    folder: Path,
) -> dict:
    """Scores the wanted responses, in the order of the problems however they came."""
    from eval.generations import read_generations
    from eval.score import score

    # the log has them in the order in which they ended
    place = {key: i for i, key in enumerate(keys)}
    found: list[Generation] = [g for g in read_generations(path) if g.key in place]
    found.sort(key=lambda generation: place[generation.key])
    return score(found, verifier, benchmarks=loaded, out=folder)


def _show(
    args: argparse.Namespace,
    loaded: Sequence[LoadedBenchmark],
    results: dict[str, dict],
    folders: Sequence[Path],
) -> None:
    from eval.reports.report import comparison_tables, results_tables

    for benchmark in loaded:
        logger.info(f"{benchmark.name}: {benchmark.found}")
    if len(results) == 1:
        (only,) = results.values()
        print(render(results_tables(only), args.format, only))
    else:
        from eval.compare import compare, read_result

        # all pairs: adapters on one base have no natural baseline
        report = compare([read_result(folder) for folder in folders], all_pairs=True)
        path = Path(args.out) / "comparison.json"
        path.write_text(json.dumps(report.to_json(), indent=1, ensure_ascii=False) + "\n", "utf-8")
        if args.format == "json":
            print(json.dumps({"results": results, "comparison": report.to_json()}, indent=1))
        else:
            for name, result in results.items():
                print(f"{name}\n\n{render(results_tables(result), args.format)}\n")
            print(render(comparison_tables(report), args.format))
    logger.info(f"written to {args.out}")
