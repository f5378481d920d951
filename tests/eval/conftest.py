"""A generated benchmark, its generations, one verifier for all tests, and the real data if any."""

import hashlib
import json
import random

import pytest

from eval.benchmarks import find_file
from rewards import Verifier


@pytest.fixture(scope="session")
def verifier():
    with Verifier() as verifier:
        yield verifier


@pytest.fixture
def real_data():
    """Skips where the benchmark files are absent."""
    if find_file("math500.jsonl") is None:
        pytest.skip("no benchmark files: set RLVR_DATA to the folder that holds them")


@pytest.fixture
def sums_file(tmp_path):
    """Twelve sums as a benchmark file, with subjects and levels."""
    path = tmp_path / "sums.jsonl"
    rows = [
        {
            "id": f"sum-{i}",
            "problem": f"A shelf holds {i} red books and {2 * i + 1} blue ones; how many in all?",
            "answer": str(3 * i + 1),
            "subject": "even" if i % 2 == 0 else "odd",
            "level": 1 + i % 3,
        }
        for i in range(12)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def sum_response(i, kind):
    """A response to sum-i that is right in some spelling, wrong, or without an answer."""
    answer = 3 * i + 1
    return {
        "right": f"We add: \\boxed{{{answer}}}",
        "spelled": f"We add: $\\boxed{{\\frac{{{2 * answer}}}{{2}}}}$.",
        "wrong": f"We add: \\boxed{{{answer + 1}}}",
        "wrong too": f"We add: \\boxed{{{2 * answer + 2}/2}}",
        "silent": "We add, and so on.",
    }[kind]


@pytest.fixture
def write_generations(tmp_path):
    """Writes generations of the sums; kinds: one list of response kinds per problem."""

    def write(kinds, name="generations.jsonl", benchmark="sums", **more):
        path = tmp_path / name
        rows = [
            {"benchmark": benchmark, "id": f"sum-{i}", "response": sum_response(i, kind), **more}
            for i, of_problem in enumerate(kinds)
            for kind in of_problem
        ]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return write


@pytest.fixture
def random_kinds():
    def draw(seed, samples=4, problems=12):
        rng = random.Random(seed)
        choice = ["right", "spelled", "wrong", "wrong too", "silent"]
        return [rng.choices(choice, k=samples) for _ in range(problems)]

    return draw


@pytest.fixture
def digest():
    return lambda path: hashlib.sha256(path.read_bytes()).hexdigest()
