"""What reads users' text, or grows with a run, takes time in proportion: exponents below 1.3."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from eval.benchmarks import Question, load_benchmark
from eval.contamination import check_contamination, grams
from eval.formats.samples_file import read_samples
from eval.generations import Generation, GenerationLog, read_generations, write_generations
from eval.score import score
from rewards import Reason, Verdict
from rlvr.config.toml import parse_overrides, read_tree
from rlvr.config.train import DataConfig, SamplingConfig, TrainRecipe
from rlvr.data.check import questions, read_training_rows
from rlvr.data.problems import load_problems
from rlvr.distributed.shares import shares
from rlvr.policy.packing import TokenRow, buckets, lines, pack
from rlvr.report.rollouts import groups_of
from rlvr.runs.reader import read_metrics, read_rollouts
from rlvr.sampling.problem_selection import Selector, difficulty_levels
from tests.growth import exponent, work

Make = Callable[[Path, int], Callable[[], Any]]


class Judging:
    """Judges by equal text: the verifier's own growth has tests of its own."""

    answer_mode = "boxed"

    def verify_many(self, pairs: Any) -> list[Verdict]:
        return [Verdict(False, Reason.WRONG, text[-3:], "text", 0.0) for text, _ in pairs]


def jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def problems(size: int, words: int = 30) -> list[dict[str, Any]]:
    draw = random.Random(0)
    return [
        {
            "id": f"p{i}",
            "problem": " ".join(f"w{draw.randrange(5000)}" for _ in range(words)),
            "answer": str(i),
        }
        for i in range(size)
    ]


def generations(size: int, length: int = 20) -> list[Generation]:
    return [Generation("b", f"p{i // 4}", i % 4, "x" * length) for i in range(size)]


def reader(read: Callable[[Path], Any], rows: Callable[[int], list[Any]]) -> Make:
    return lambda folder, size: partial(read, jsonl(folder / f"{size}.jsonl", rows(size)))


def checked(folder: Path, size: int) -> Callable[[], Any]:
    benchmark = load_benchmark(str(jsonl(folder / "bench.jsonl", problems(20))))
    given = [Question(**row) for row in problems(size)]
    return lambda: check_contamination(given, [benchmark], Judging())


def plain(size: int) -> list[dict[str, Any]]:
    return [{"benchmark": "b", "id": f"p{i}", "response": "x"} for i in range(size)]


def reopened(folder: Path, size: int) -> Callable[[], Any]:
    path = folder / f"log{size}.jsonl.gz"
    GenerationLog(path, {})
    path.write_bytes(b"".join(gzip.compress(json.dumps(r).encode() + b"\n") for r in plain(size)))
    return lambda: GenerationLog(path, {})


def rollouts(folder: Path, size: int) -> Callable[[], Any]:
    path = folder / f"rollouts{size}.jsonl.gz"
    draw = random.Random(0)
    with gzip.open(path, "wt") as file:
        for i in range(size):
            text = "".join(chr(draw.randrange(33, 126)) for _ in range(5000))
            row = {"problem_id": f"p{i // 8}", "prompt": "p", "response": text}
            file.write(json.dumps(row) + "\n")
    return lambda: groups_of(read_rollouts(path))


def logged(folder: Path, size: int) -> Callable[[], Any]:
    run = folder / f"run{size}"
    run.mkdir()
    jsonl(run / "metrics.jsonl", [{"step": i, "reward/mean": 0.5} for i in range(size)])
    return lambda: read_metrics(run)


def scored(folder: Path, size: int) -> Callable[[], Any]:
    bench = load_benchmark(f"b={jsonl(folder / f's{size}.jsonl', problems(size // 4))}")
    given = generations(size)
    return lambda: score(given, Judging(), benchmarks=[bench])  # pyright: ignore


def samples(folder: Path, size: int) -> Callable[[], Any]:
    made = folder / f"samples{size}"
    made.mkdir()
    rows = [{"id": str(i), "response": "x" * 50} for i in range(size)]
    with gzip.open(made / "samples.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return lambda: list(read_samples(made))


def picked(strategy: Any) -> Make:
    def make(_: Path, size: int) -> Callable[[], Any]:
        selector = Selector(SamplingConfig(strategy=strategy), size, 8, 100, 0)

        def steps() -> None:
            for step in range(size // 20):
                for index, _ in selector.pick(8, step):
                    selector.observe(index, index % 5, 3, step)

        return steps

    return make


def token_rows(size: int) -> list[TokenRow]:
    draw = random.Random(size)
    return [TokenRow([i // 8, 1, 2], [5] * draw.randrange(1, 40)) for i in range(size)]


def packed(_: Path, size: int) -> Callable[[], Any]:
    import torch

    return partial(pack, token_rows(size), torch.device("cpu"), True)


def recipe(folder: Path, size: int) -> Callable[[], Any]:
    path = folder / f"recipe{size}.toml"
    path.write_text("[data]\n" + "".join(f'field_{i} = "{"é" * 20}"\n' for i in range(size)))
    return lambda: read_tree(path, [], TrainRecipe)


def of_size(make: Callable[[int], Callable[[], Any]]) -> Make:
    """For what needs no folder."""
    return lambda _, size: make(size)


LENGTHS = random.Random(1).choices(range(1, 4000), k=40_000)
CASES: dict[str, tuple[Make, int]] = {
    "contamination, rows": (checked, 100),
    "contamination, one long text": (
        of_size(lambda n: partial(grams, problems(1, n)[0]["problem"])),
        1000,
    ),
    "a benchmark's file": (reader(lambda path: load_benchmark(str(path)), problems), 100),
    "training rows to check": (
        reader(
            lambda path: list(questions(read_training_rows(str(path)), "problem", "answer")),
            problems,
        ),
        100,
    ),
    "training problems": (
        reader(lambda path: load_problems(DataConfig(path=str(path))), problems),
        50,
    ),
    "generations": (reader(lambda path: list(read_generations(path)), plain), 100),
    "generations written": (
        lambda folder, n: lambda: write_generations(folder / "w.jsonl.gz", generations(n)),
        100,
    ),
    "a log of generations opened again": (reopened, 400),
    "scores": (scored, 80),
    "samples": (samples, 100),
    "rollouts of a step": (rollouts, 50),
    "metrics of a run": (logged, 200),
    "uniform picks": (picked("uniform"), 400),
    "predictive picks": (picked("predictive"), 400),
    "curriculum picks": (picked("curriculum"), 400),
    "difficulty levels": (
        of_size(lambda n: lambda: difficulty_levels([str(i / 7) for i in range(n)])),
        5000,
    ),
    "lines": (of_size(lambda n: partial(lines, token_rows(n), 4096)), 200),
    "buckets": (of_size(lambda n: lambda: buckets(LENGTHS[:n], 16384)), 500),
    "packing": (packed, 200),
    "shares": (of_size(lambda n: lambda: shares(LENGTHS[:n], 8)), 500),
    "overrides": (
        of_size(lambda n: lambda: parse_overrides([f"--a.b{i}=1" for i in range(n)])),
        100,
    ),
    "a recipe": (recipe, 100),
}
"""Name: (what makes the call for a folder and a size, the smaller size)."""


@pytest.mark.parametrize("name", CASES)
def test_work_grows_in_proportion(name, tmp_path):
    make, size = CASES[name]
    assert exponent(partial(make, tmp_path), size) < 1.3


def test_the_count_sees_loops_and_copies():
    """On code of ours that does both: the helper must not be blind."""
    from tests import growth

    source = "def loop(n):\n    for i in range(n):\n        for j in range(n):\n            pass\n"
    source += "def copy(n):\n    data = b''\n    for i in range(n):\n        data += b'x' * 50\n"
    names: dict[str, Any] = {}
    exec(compile(source, f"{growth.OURS[0]}/made_up.py", "exec"), names)
    for name in ("loop", "copy"):
        assert exponent(lambda n, f=names[name]: lambda: f(n), 60) > 1.7
    assert work(lambda: None) == 0
