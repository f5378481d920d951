"""No test passes or fails by how long something took: clocks belong in tests/benchmarks."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

TESTS = Path(__file__).parent
CLOCKS = {"perf_counter", "monotonic", "process_time", "thread_time", "time"}
CLOCKS |= {f"{name}_ns" for name in CLOCKS}
MEASURED = ("ms", "p50_ms", "p99_ms", "seconds")
"""Attributes that hold what a clock has measured."""
SOURCES = [
    path
    for path in sorted(TESTS.rglob("*.py"))
    if not {"benchmarks", "faults"} & {*path.parts} and path != Path(__file__)
]


def offences(source: str) -> list[int]:
    """Lines of assertions, and of conditions that raise, about what a clock has said; lines of
    programs in strings that read one."""
    tree = ast.parse(source)
    timed = timed_names(tree)
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if any(f"time.{name}()" in node.value for name in CLOCKS):
                found.append(node.lineno)
            continue
        raises = isinstance(node, ast.If) and any(isinstance(x, ast.Raise) for x in node.body)
        if (raises or isinstance(node, ast.Assert)) and is_timed(node.test, timed):
            found.append(node.lineno)
    return found


def timed_names(tree: ast.AST) -> set[str]:
    """Variables and functions whose value comes from a clock, by however many assignments."""
    names: set[str] = set()
    while True:
        before = len(names)
        for node in ast.walk(tree):
            names |= set(bound(node, names))
        if len(names) == before:
            return names


def bound(node: ast.AST, timed: set[str]) -> Iterator[str]:
    """Names that this statement gives a value from a clock."""
    if isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign | ast.NamedExpr):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        if node.value is not None and has_clock(node.value, timed):
            yield from (x.id for t in targets for x in ast.walk(t) if isinstance(x, ast.Name))
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        holder = node.func.value
        if node.func.attr == "append" and isinstance(holder, ast.Name):
            yield from [holder.id] if any(has_clock(x, timed) for x in node.args) else []
    elif isinstance(node, ast.FunctionDef):
        returned = [x.value for x in ast.walk(node) if isinstance(x, ast.Return) and x.value]
        yield from [node.name] if any(has_clock(x, timed) for x in returned) else []


def has_clock(value: ast.AST, timed: set[str]) -> bool:
    """Whether the expression reads a clock or a name that holds what one said."""
    for node in ast.walk(value):
        if isinstance(node, ast.Call):
            called = node.func
            by_module = isinstance(called, ast.Attribute) and isinstance(called.value, ast.Name)
            if by_module and called.value.id == "time" and called.attr in CLOCKS:
                return True
            if isinstance(called, ast.Name) and called.id in CLOCKS - {"time", "time_ns"}:
                return True
        if isinstance(node, ast.Name) and node.id in timed:
            return True
    return False


def is_timed(test: ast.expr, timed: set[str]) -> bool:
    """Whether the condition depends on a clock, or compares a measured time with a number."""
    if has_clock(test, timed):
        return True
    for compare in [node for node in ast.walk(test) if isinstance(node, ast.Compare)]:
        inside = [*ast.walk(compare)]
        measured = any(isinstance(x, ast.Attribute) and x.attr in MEASURED for x in inside) or any(
            isinstance(x, ast.Constant) and str(x.value).startswith("time/") for x in inside
        )
        sides = [compare.left, *compare.comparators]
        numbers = [x.value for x in sides if isinstance(x, ast.Constant)]
        if measured and any(isinstance(x, int | float) and x for x in numbers):
            return True
    return False


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(TESTS)))
def test_no_test_asserts_how_long_something_took(path):
    assert offences(path.read_text()) == []


@pytest.mark.parametrize(
    "source",
    [
        "start = time.perf_counter()\nf()\nassert time.perf_counter() - start < 1",
        "start = time.monotonic()\nspent = time.monotonic() - start\nassert spent < 1",
        "waits = []\nwaits.append(time.time() - start)\nassert max(waits) < 1",
        "def gap():\n    last = time.monotonic()\n    return last\nassert gap() < 0.4",
        "start = monotonic_ns = perf_counter()\nassert perf_counter() < start + 1",
        "if time.monotonic() > deadline:\n    raise AssertionError",
        "assert verdict.ms < 1500",
        "assert all(300 <= one.ms for one in outcomes)",
        "assert row['time/step_s'] < 2",
        "program = 'import time; print(time.perf_counter())'",
    ],
)
def test_the_scan_sees_every_way_to_time_something(source):
    assert offences(source)


@pytest.mark.parametrize(
    "source",
    [
        "while time.monotonic() < end:\n    pass\nassert done()",
        "assert verdict.ms >= 0",
        "assert 0 < stats.p50_ms <= stats.p99_ms",
        "done = run(program, timeout=600)\nassert done.returncode == 0",
    ],
)
def test_the_scan_leaves_guards_against_hangs_alone(source):
    assert offences(source) == []


def test_no_example_of_hypothesis_fails_by_how_long_it_took():
    assert settings().deadline is None
    assert HealthCheck.too_slow in settings().suppress_health_check
