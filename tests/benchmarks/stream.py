"""What one stream of rollouts saves: rounds of prompts against continuous refill and partial
rollouts, counted in decoding steps; runs that share an engine against one after another; and how
far async rollouts hide the update.

The long-tailed recipe with the real vLLM: every step needs 8 groups of 16 that carry a signal, as
about half of them do, and the engine has room for all that is asked for. The three ways take turns
on one engine, with weights that stay as they are, so the counts hold on any machine. For the
overlap, vLLM is a server on one core and the trainer has another.
Run: python -m tests.benchmarks.stream [--quick] [--json FILE]
"""

import argparse
import json
import math
import os
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TypeVar

from rewards import Verifier
from rlvr.compare.execution.warm_engine import WarmEngine
from rlvr.config.toml import load_recipe
from rlvr.config.train import TrainRecipe
from rlvr.data.problems import encode_prompts, load_problems
from rlvr.engines.server.key import VARIABLE
from rlvr.runs.reader import read_metrics
from rlvr.sampling import group_stream, refill
from rlvr.sampling.sampler import Sampler
from rlvr.training.build import Training, build, make_sampler
from rlvr.warm_start.policy_path import model_path
from tests.benchmarks.runs import train, words
from tests.benchmarks.shared_runs import ratios
from tests.rlvr.engines.serving import KEY, ServerProcess

T = TypeVar("T")

RECIPE = Path(__file__).parents[2] / "recipes" / "long_tailed.toml"
WAYS = ("rounds", "refill", "partial")
HALF = {"rollout.group_size": 16, "rollout.prompts_per_step": 8, "rollout.max_num_seqs": 512}
"""With 8 responses a third of the groups carries a signal, and with 256 places for them it is the
places that decide how long a step takes, not its longest response."""


@contextmanager
def rounds() -> Iterator[None]:
    """The sampler as it was before there was a stream: as many prompts as are expected to be
    needed, and more when all of these have ended."""
    before = refill.MARGIN, group_stream.TICK
    refill.MARGIN, group_stream.TICK = 0.0, math.inf  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        refill.MARGIN, group_stream.TICK = before


def start(engine: WarmEngine, settings: Mapping[str, object]) -> Training:
    recipe = load_recipe(RECIPE, words({"rollout.engine": "vllm", **settings}), TrainRecipe)
    training = build(recipe, model_path(recipe, RECIPE), engine)
    training.engine.syncer.sync()
    return training


def decoding_steps(num_steps: int) -> dict[str, float]:
    """Decoding steps per training step of each way, after two steps that fill the stream."""
    with closing(WarmEngine()) as engine:
        training = start(engine, HALF)
        recipe = training.recipe
        data, prompts = encode_prompts(
            load_problems(recipe.data),
            training.policy.tokenizer,
            recipe.data,
            recipe.model.max_len - recipe.rollout.max_response_len,
        )
        with Verifier(answer_mode=recipe.reward.answer_mode, num_workers=1) as verifier:
            samplers: dict[str, Sampler] = {}
            for way in WAYS:
                rollout = recipe.rollout.model_copy(update={"partial": way == "partial"})
                one = recipe.model_copy(update={"rollout": rollout})
                samplers[way] = make_sampler(
                    one, data.problems, prompts, training.engine, verifier, training.policy.decode
                )
            found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
            for step in range(2 + num_steps):
                for way in WAYS:
                    with rounds() if way == "rounds" else nullcontext():
                        metrics = samplers[way].collect(step).metrics
                    if step >= 2:
                        found[way].append(metrics)
        training.close()
    for way, rows in found.items():
        mean = partial(mean_of, rows)
        print(
            f"{way:8} {mean('rollout/decoding_steps'):8.0f} decoding steps,"
            f" {mean('sampler/refills'):5.1f} refills,"
            f" {mean('sampler/informative_frac'):5.2f} informative,"
            f" lag {mean('policy/lag_mean'):.2f}",
            flush=True,
        )
    return {way: mean_of(rows, "rollout/decoding_steps") for way, rows in found.items()}


def mean_of(rows: Sequence[dict[str, float]], name: str) -> float:
    """The mean over the steps that have the metric."""
    return statistics.fmean(row[name] for row in rows if name in row)


def overlap(num_steps: int) -> float:
    """Seconds of an async step over those of generation and update one after the other; medians of
    each mode's run, without its first step."""
    cores = sorted(os.sched_getaffinity(0))[:2]
    os.environ[VARIABLE] = KEY
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        server = ServerProcess(RECIPE, Path(folder) / "server.log", OMP_NUM_THREADS="1")
        on_core(cores[0], server.start)
        try:
            server.wait()
            for mode in ("sync", "async"):
                settings = {
                    "rollout.engine": "vllm_server",
                    "rollout.servers": json.dumps([server.url]),
                    "rollout.mode": mode,
                    "rollout.prompts_per_step": 16,
                    "train.steps": 1 + num_steps,
                    "train.checkpoint_every": 0,
                }
                begin = partial(train, RECIPE.name, Path(folder), mode, settings)
                rows = read_metrics(on_core(cores[1], begin))
                seconds[mode] = statistics.median(row["time/step_s"] for row in rows[1:])
                print(f"{mode:5} {seconds[mode]:.1f} s a step", flush=True)
        finally:
            server.kill()
    return seconds["async"] / seconds["sync"]


def on_core(core: int, start: Callable[[], T]) -> T:
    """What `start` gives; the processes that it starts stay on the core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        return start()
    finally:
        os.sched_setaffinity(0, before)


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table and writes it to --json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="file for the results")
    parser.add_argument("--quick", action="store_true", help="in at most 15 minutes")
    args = parser.parse_args(argv)
    num_steps = 6 if args.quick else 20
    steps = decoding_steps(num_steps)
    result: dict[str, object] = {
        "decoding_steps": steps,
        "refill_steps_ratio": steps["refill"] / steps["rounds"],
        "partial_steps_ratio": steps["partial"] / steps["rounds"],
    }
    write(args.json, result)
    result |= ratios(4 if args.quick else 20)
    write(args.json, result)
    result["overlap_ratio"] = overlap(num_steps)
    write(args.json, result)


def write(path: Path | None, result: dict[str, object]) -> None:
    """Prints what is known so far, and writes it where a file is asked for."""
    print(json.dumps(result, indent=1), flush=True)
    if path:
        path.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
