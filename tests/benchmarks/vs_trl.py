"""Seconds per optimizer step: this project's loop against trl 1.16's GRPOTrainer, side by side.

The same policy, problems in the same order, group size, temperature, lengths, verifier and loss
(DAPO's), for LoRA (rank 32, all seven modules) and full fine-tuning. Each side has a process of its
own with its own real vLLM; they take turns in blocks, A B A B, and the first step of every block is
not counted. Dynamic sampling is off, so that both get the same number of rollouts per step, and the
learning rate is so small that the lengths stay as they are.

    python -m tests.benchmarks.vs_trl --json vs_trl.json
    python -m tests.benchmarks.vs_trl --reward --seeds 0 1 2 --steps 30 --json reward.json
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read by both processes at their start

from rich.console import Console
from rich.table import Table

from rlvr.config.toml import load_recipe
from rlvr.config.train import TrainRecipe
from tests.benchmarks import own_loop, trl_peer
from tests.benchmarks.facts import facts
from tests.benchmarks.step_worker import Job, Step, Worker

ROOT = Path(__file__).resolve().parents[2]
CASES: dict[str, tuple[str, int]] = {
    "long_tailed": ("recipes/long_tailed.toml", 40),
    "short": ("recipes/quickstart.toml", 64),
}
"""Recipe and prompts per step of each case."""
GROUP_SIZE = 8
METHODS = ("lora", "full")
SIDES = {"ours": own_loop.serve, "trl": trl_peer.serve}
ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "WANDB_MODE": "disabled",
}
TRL_PASSES = (2, 8, 32)
"""Forward passes that trl's step is split into, to try: which is fastest depends on the caches."""
FROZEN_LR = 1e-7


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table and writes it to --json."""
    args = _parser().parse_args(argv)
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    console = Console(width=120)
    measure = compare_rewards if args.reward else compare_speed
    results = []
    for case in args.cases:
        for method in args.methods:
            results.append({"method": method, "case": case} | measure(case, method, args))
            console.print(json.dumps(results[-1]), soft_wrap=True)
    console.print(_table(results, REWARD_COLUMNS if args.reward else SPEED_COLUMNS))
    if args.json:
        args.json.write_text(json.dumps({"results": results} | facts(argv), indent=1))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path, help="file for the results")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--blocks", type=int, default=2, help="turns of each side")
    parser.add_argument("--steps", type=int, help="measured steps per turn (5); with --reward: 30")
    parser.add_argument("--prompts", type=int, help="prompts per step, for a smaller machine")
    parser.add_argument("--quick", action="store_true", help="smoke: 1 turn, 1 step, 4 prompts")
    parser.add_argument("--model", help="folder of another policy than the recipe's")
    parser.add_argument("--reward", action="store_true", help="compare final rewards, not speed")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of --reward")
    parser.add_argument(
        "--trl-passes",
        type=int,
        nargs="+",
        default=TRL_PASSES,
        help="forward passes of trl's step; of several numbers, the fastest is taken",
    )
    parser.add_argument(
        "--trl-correction", action="store_true", help="trl corrects for vLLM's probabilities too"
    )
    return parser


def make_job(
    case: str, method: str, args: argparse.Namespace, trl_passes: int, seed: int = 0
) -> Job:
    """What both sides are told. Warms the policy up first where it is not cached."""
    from rlvr.warm_start.policy_path import model_path

    recipe_name, num_prompts = CASES[case]
    num_prompts = args.prompts or (4 if args.quick else num_prompts)
    settings: dict[str, Any] = {
        "adapter.method": f'"{method}"',
        "rollout.prompts_per_step": num_prompts,
        "rollout.group_size": GROUP_SIZE,
        "rollout.max_num_seqs": num_prompts * GROUP_SIZE,  # as trl sets up its engine
        "sampling.dynamic": "false",
        "data.shuffle": "false",
        "track.wandb": '"disabled"',
        "train.seed": seed,
        "train.steps": 10_000,
    }
    if not args.reward:
        settings["optim.lr"] = FROZEN_LR
    words = chain.from_iterable((f"--{key}", str(value)) for key, value in settings.items())
    recipe = load_recipe(ROOT / recipe_name, list(words), TrainRecipe)
    path = args.model or model_path(recipe, ROOT / recipe_name)
    return Job(recipe, path, trl_passes, args.trl_correction)


def compare_speed(case: str, method: str, args: argparse.Namespace) -> dict[str, Any]:
    """Medians over the measured steps of all turns, and their ratios."""
    choices = args.trl_passes[:1] if args.quick else args.trl_passes
    jobs = [make_job(case, method, args, number) for number in choices]
    seconds = [_trl_seconds(job) for job in jobs] if len(jobs) > 1 else [0.0]
    job = jobs[seconds.index(min(seconds))]
    num_blocks, num_steps = (1, 1) if args.quick else (args.blocks, args.steps or 5)
    blocks: dict[str, list[list[Step]]] = {side: [] for side in SIDES}
    with Worker(SIDES["ours"], job) as ours, Worker(SIDES["trl"], job) as trl:
        for number in range(num_blocks):
            for side, worker in (("ours", ours), ("trl", trl)):
                worker.take(1 if number else 2)
                blocks[side].append(worker.take(num_steps))
    steps = {side: list(chain.from_iterable(turns)) for side, turns in blocks.items()}
    lens = sorted(chain.from_iterable(step.response_lens for s in steps.values() for step in s))
    result: dict[str, Any] = {
        "step_speedup": _ratio(steps, "seconds"),
        "update_speedup": _ratio(steps, "update_s"),
        "update_speedup_per_trained_token": _ratio(steps, "update_s_per_trained_token"),
        "step_speedup_by_turn": [
            _ratio({"ours": a, "trl": b}, "seconds")
            for a, b in zip(blocks["ours"], blocks["trl"], strict=True)
        ],
        "num_rollouts": len(steps["ours"][0].response_lens),
        "response_len": {"median": _at(lens, 0.5), "p95": _at(lens, 0.95), "max": lens[-1]},
        "trl_passes": job.trl_passes,
        "trl_seconds_by_passes": dict(zip(choices, seconds, strict=True)),
        "trl_correction": job.trl_correction,
    }
    return result | {side: summary(taken) for side, taken in steps.items()}


def _trl_seconds(job: Job) -> float:
    """Of one of trl's steps, after the first."""
    with Worker(SIDES["trl"], job) as worker:
        worker.take(1)
        return round(statistics.median(step.seconds for step in worker.take(3)), 3)


def summary(steps: Sequence[Step]) -> dict[str, Any]:
    """One side's medians over its steps; lengths over all of its responses.

    tokens_per_s: real tokens, prompt and response, of all rollouts per second of the step.
    trained_frac: share of them that the update looked at. padding_frac: of the update's passes.
    """

    def median(value: Callable[[Step], float]) -> float:
        return round(statistics.median(map(value, steps)), 4)

    lens = sorted(chain.from_iterable(step.response_lens for step in steps))
    return {
        "step_s": median(lambda step: step.seconds),
        "update_s": median(lambda step: step.update_s),
        "generate_s": median(lambda step: step.generate_s),
        "verify_s": median(lambda step: step.verify_s),
        "sync_s": median(lambda step: step.sync_s),
        "tokens_per_s": median(lambda step: step.num_tokens / step.seconds),
        "trained_frac": median(lambda step: step.num_trained / step.num_tokens),
        "padding_frac": median(lambda step: step.padding_frac),
        "response_len_median": _at(lens, 0.5),
        "response_len_p95": _at(lens, 0.95),
        "reward": median(lambda step: step.reward),
        "num_steps": len(steps),
    }


def _ratio(steps: dict[str, list[Step]], part: str) -> float:
    """How many times longer trl's median is."""
    ours, trl = (statistics.median(getattr(step, part) for step in steps[side]) for side in SIDES)
    return round(trl / ours, 3)


def _at(ordered: Sequence[int], quantile: float) -> int:
    return ordered[round(quantile * (len(ordered) - 1))]


def compare_rewards(case: str, method: str, args: argparse.Namespace) -> dict[str, Any]:
    """Mean reward of the last 5 steps on both sides for every seed, and the difference.

    The interval is Student's over seeds; the seeds' policies start alike and see the same problems.
    """
    from scipy import stats

    num_steps = 2 if args.quick else args.steps or 30
    finals: dict[str, list[float]] = {side: [] for side in SIDES}
    curves: dict[str, list[list[float]]] = {side: [] for side in SIDES}
    for seed in args.seeds:
        job = make_job(case, method, args, args.trl_passes[0], seed)
        for side, serve in SIDES.items():
            with Worker(serve, job) as worker:
                rewards = [step.reward for step in worker.take(num_steps)]
            curves[side].append([round(reward, 4) for reward in rewards])
            finals[side].append(statistics.fmean(rewards[-5:]))
    differences = [a - b for a, b in zip(finals["ours"], finals["trl"], strict=True)]
    result: dict[str, Any] = {
        "steps": num_steps,
        "seeds": args.seeds,
        "lr": job.recipe.optim.lr,
        "difference": round(statistics.fmean(differences), 4),
        "difference_ci95": None,
    }
    if len(differences) > 1:
        error = float(stats.sem(differences))
        half = error * float(stats.t.ppf(0.975, len(differences) - 1))
        bounds = (result["difference"] - half, result["difference"] + half)
        result["difference_ci95"] = [round(bound, 4) for bound in bounds]
        result["within_noise"] = bounds[0] <= 0 <= bounds[1]
    for side in SIDES:
        result[side] = {
            "first": round(statistics.fmean(curve[0] for curve in curves[side]), 4),
            "final": round(statistics.fmean(finals[side]), 4),
            "final_by_seed": [round(value, 4) for value in finals[side]],
            "rewards": curves[side],
        }
    return result


SPEED_COLUMNS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "case": lambda r: r["case"],
    "method": lambda r: r["method"],
    "rollouts": lambda r: r["num_rollouts"],
    "length, median / p95": lambda r: "{median} / {p95}".format(**r["response_len"]),
    "step, s: ours / trl": lambda r: f"{r['ours']['step_s']:.2f} / {r['trl']['step_s']:.2f}",
    "times": lambda r: f"{r['step_speedup']:.2f}",
    "update, s: ours / trl": lambda r: f"{r['ours']['update_s']:.2f} / {r['trl']['update_s']:.2f}",
    "times ": lambda r: f"{r['update_speedup']:.2f}",
    "tokens/s: ours / trl": lambda r: (
        f"{r['ours']['tokens_per_s']:.0f} / {r['trl']['tokens_per_s']:.0f}"
    ),
    "padding: ours / trl": lambda r: (
        f"{r['ours']['padding_frac']:.2f} / {r['trl']['padding_frac']:.2f}"
    ),
}
REWARD_COLUMNS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "case": lambda r: r["case"],
    "method": lambda r: r["method"],
    "seeds": lambda r: len(r["seeds"]),
    "start": lambda r: f"{r['ours']['first']:.3f} / {r['trl']['first']:.3f}",
    "final: ours / trl": lambda r: f"{r['ours']['final']:.3f} / {r['trl']['final']:.3f}",
    "difference": lambda r: f"{r['difference']:+.3f}",
    "95% interval": lambda r: str(r["difference_ci95"]),
}


def _table(results: Sequence[dict[str, Any]], columns: dict[str, Callable[..., Any]]) -> Table:
    table = Table(*columns)
    for row in results:
        table.add_row(*(str(cell(row)) for cell in columns.values()))
    return table


if __name__ == "__main__":
    main(sys.argv[1:])
