"""How many stored generations `rlvr eval --generations` scores per second, end to end.

    python tests/benchmarks/eval_throughput.py [--responses 100000] [--json FILE]

Writes generations for the real benchmarks, runs the command in a fresh process on the file (start
of the interpreter, reading, verifying, voting, intervals, all output files), and divides. Responses
are worked texts whose length is log-normal with a median of 1,500 characters; half of them are
right, in several spellings, the rest wrong, hedged, cut off or without an answer.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from eval.benchmarks import LoadedBenchmark, load_benchmark

BENCHMARKS = ("aime24", "aime25", "amc23", "math500", "minerva", "olympiadbench", "hmmt25", "gsm8k")
SENTENCES = (
    "First we restate what is given and name the unknowns $x$ and $y$.",
    "Substituting gives \\[ x^2 - 4x + 4 = (x-2)^2 \\ge 0, \\] which holds for every real $x$.",
    "Since $\\gcd(12, 35) = 1$, the residues modulo $12$ and modulo $35$ are independent.",
    "Wait, let me check this case again: for $n = 3$ we would get $17$, which cannot be.",
    "Therefore the sum telescopes to $1 - \\frac{1}{n+1}$, and only the last term remains.",
    "By symmetry we may assume $a \\le b \\le c$; the other orders give the same count.",
    "Hence the area equals $\\frac{1}{2} \\cdot 6 \\cdot 8 \\sin\\theta = 24 \\sin\\theta$.",
)
RIGHT = ("\\boxed{%s}", "$\\boxed{ %s }$.", "\\boxed{\\left(%s\\right)}", "\\boxed{%s\\,}")


def responses(loaded: LoadedBenchmark, count: int, rng: random.Random) -> Iterator[dict]:
    """`count` rows of this benchmark, every problem about equally often."""
    golds = [question.answer for question in loaded.questions]
    for i in range(count):
        question = loaded.questions[i % len(golds)]
        length = int(min(60_000, rng.lognormvariate(7.3, 0.8)))
        text = "".join(rng.choices([s + " " for s in SENTENCES], k=1 + length // 75))
        kind, end = rng.random(), ""
        if kind < 0.5:
            form = RIGHT[0] if "," in question.answer else rng.choice(RIGHT)
            end = "The answer is " + form.replace("%s", question.answer)
        elif kind < 0.8:
            end = f"The answer is \\boxed{{{rng.choice(golds)}}}."
        elif kind < 0.9:
            end = f"The answer is \\boxed{{{rng.randint(1, 12)}}}."
        elif kind < 0.95:
            end = "So this is what we wanted to find."
        yield {
            "benchmark": loaded.name,
            "id": question.id,
            "response": text + end,
            "finish_reason": "stop" if end else "length",
        }


def write_generations(path: Path, count: int, seed: int = 0) -> int:
    """Writes about `count` rows over BENCHMARKS in equal parts; returns their bytes."""
    rng = random.Random(seed)
    with path.open("w", encoding="utf-8") as file:
        for name in BENCHMARKS:
            for row in responses(load_benchmark(name), count // len(BENCHMARKS), rng):
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return path.stat().st_size


def timed_run(generations: Path, out: Path) -> float:
    """Seconds of one `rlvr eval --generations` in a fresh process."""
    code = "import sys; from eval.cli import eval_main; sys.exit(eval_main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "--generations", str(generations), "--out", str(out)]
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--responses", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", metavar="FILE", help="write the figures there")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        generations = Path(folder) / "generations.jsonl"
        size = write_generations(generations, args.responses)
        count = args.responses // len(BENCHMARKS) * len(BENCHMARKS)
        seconds = [timed_run(generations, Path(folder) / "scored") for _ in range(args.repeats)]
    median = statistics.median(seconds)
    figures = {
        "responses": count,
        "mean_chars": round(size / count),
        "seconds": [round(s, 2) for s in seconds],
        "responses_per_s": round(count / median),
        "cpus": os.cpu_count(),
    }
    print(json.dumps(figures))
    if args.json:
        Path(args.json).write_text(json.dumps({"results": [figures]}, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
