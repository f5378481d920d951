"""How the verifier's time in the caller's own process grows with the length of a text.

    python tests/benchmarks/verifier_growth.py [--json FILE] [--repeats N]

For every shape of tests/rewards/shapes.py and every function that has no worker to kill, the
processor time at 1k, 8k and 64k characters (the least of several repeats), and the exponent of the
growth from 8k to 64k. Exits with 1 when a shape takes more than 50 ms at 64k characters or at any
shorter length measured, or grows by an exponent of 1.3 or more (times under 2 ms have none).
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path

from rewards import Gold
from rewards.extract import MODES, extract
from rewards.judging.judge import judge_fast
from rewards.shaping import format_reward, repetition_penalty
from tests.rewards.shapes import SHAPES, grown

SIZES = (1_000, 8_000, 64_000)
JUDGED = (750, 1_500, 2_990)
"""Lengths up to the longest answer that is judged: longer ones are refused by their length."""
NUM_SHOWN = 20
MAX_S, MAX_EXPONENT, FLAT_S = 0.050, 1.3, 0.002
GOLDS = [
    Gold.parse(text)
    for text in (
        "5",
        "1,2",
        r"\frac{\sqrt3}{2}",
        "A",
        r"\text{red}",
        "x=5",
        "(1,2]",
        r"5\text{ cm}",
    )
]


def extracted(text: str) -> None:
    for mode in MODES:
        extract(text, mode)


def parsed(text: str) -> Gold | None:
    try:
        return Gold.parse(text)
    except ValueError:
        return None


def judged(text: str) -> None:
    answer = extract(text).answer or text
    for gold in GOLDS:
        judge_fast(answer, gold)


def shaped(text: str) -> None:
    format_reward(text)
    format_reward(text, opened_in_prompt=True)
    repetition_penalty([ord(letter) for letter in text])


FUNCTIONS: dict[str, tuple[Callable[[str], object], tuple[int, ...], int]] = {
    "extract": (extracted, SIZES, 1),
    "gold": (parsed, SIZES, 1),
    "gold, short": (parsed, JUDGED, 1),
    "judge": (judged, SIZES, len(GOLDS)),
    "judge, short": (judged, JUDGED, len(GOLDS)),
    "shaping": (shaped, SIZES, 1),
}


def least_s(call: Callable[[str], object], text: str, repeats: int) -> float:
    """The least processor time of the call, in seconds."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        call(text)
        times.append(time.process_time() - start)
    return min(times)


def measure(repeats: int) -> list[dict]:
    rows = []
    for name, shape in SHAPES.items():
        for function, (call, sizes, num_calls) in FUNCTIONS.items():
            seconds = [least_s(call, grown(shape, size), repeats) / num_calls for size in sizes]
            exponent = None
            if seconds[-1] >= FLAT_S:
                exponent = math.log(seconds[-1] / max(seconds[-2], 1e-7))
                exponent = round(exponent / math.log(sizes[-1] / sizes[-2]), 2)
            rows.append(
                {
                    "shape": name,
                    "function": function,
                    "chars": sizes,
                    "ms": [round(s * 1e3, 3) for s in seconds],
                    "exponent": exponent,
                    "holds": max(seconds) < MAX_S and (exponent or 0) < MAX_EXPONENT,
                }
            )
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the results here")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    rows = measure(options.repeats)
    rows.sort(key=lambda row: -max(row["ms"]))
    print("| shape | function | characters | ms | exponent |\n|---|---|---|---|---|")
    for place, row in enumerate(rows):
        if place < NUM_SHOWN or not row["holds"]:
            print(
                f"| {row['shape']} | {row['function']} | {row['chars']} | {row['ms']} "
                f"| {row['exponent']} |"
            )
    broken = [row for row in rows if not row["holds"]]
    longest = max(max(row["ms"]) for row in rows)
    print(f"\n{len(SHAPES)} shapes, {len(rows)} rows; longest {longest} ms; {len(broken)} broken")
    if options.json:
        report = {"num_shapes": len(SHAPES), "longest_ms": longest, "results": rows}
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main())
