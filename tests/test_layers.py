"""Imports point one way, between folders as between files; docs/architecture.md has the table.

Every import counts: at the top of a file, inside a function, and for types only.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("rewards", "eval", "rlvr")

LAYERS = (
    ("rewards.types", "rewards.syntax", "rewards.pool", "rewards.shaping"),
    ("rewards.equality", "rewards.extract", "rewards.counters"),
    ("rewards.gold",),
    ("rewards.judging",),
    ("rewards",),
    ("eval",),
    ("rlvr.common",),
    ("rlvr.config",),
    ("rlvr.data", "rlvr.algorithm", "rlvr.distributed"),
    ("rlvr.adapters",),
    ("rlvr.policy",),
    ("rlvr.engines",),
    ("rlvr.sampling", "rlvr.runs", "rlvr.evaluation"),
    ("rlvr.warm_start",),
    ("rlvr.training",),
    ("rlvr.sft", "rlvr.analysis", "rlvr.plan", "rlvr.report", "rlvr.sharing"),
    ("rlvr.compare",),
    ("rlvr.doctor", "rlvr.starting", "rlvr.cli"),
)
"""From the bottom up: a part imports from itself and from those before, not from neighbours."""

AGAINST: dict[tuple[str, str], str] = {}
"""Imports against the direction, (importer, imported), each with its reason; three at most."""


def modules() -> dict[str, Path]:
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path, known: dict[str, Path]) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                if full in known or node.module in known:
                    yield full if full in known else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)


@functools.cache
def graph() -> dict[str, set[str]]:
    known = modules()
    return {name: set(imports(path, known)) - {name} for name, path in known.items()}


def part_of(module: str) -> tuple[int, str]:
    """The layer's number and the part's name, of the most specific part that holds the module."""
    parts = [
        (number, part)
        for number, layer in enumerate(LAYERS)
        for part in layer
        if f"{module}.".startswith(f"{part}.")
    ]
    return max(parts, key=lambda found: len(found[1]), default=(-1, ""))


def test_every_module_is_in_a_layer() -> None:
    assert [m for m in modules() if part_of(m)[0] < 0 and m != "rlvr"] == []


def test_imports_point_down_the_layers() -> None:
    against = {
        (importer, imported)
        for importer, others in graph().items()
        for imported in others
        if part_of(importer)[1] != part_of(imported)[1]
        and part_of(importer)[0] <= part_of(imported)[0]
    }
    assert against == AGAINST.keys()
    assert len(AGAINST) <= 3


def test_no_files_import_each_other_in_a_circle() -> None:
    edges, circles = graph(), []
    for start in edges:
        reached, todo = set(), list(edges[start])
        while todo:
            module = todo.pop()
            if module not in reached:
                reached.add(module)
                todo += edges[module]
        if start in reached:
            circles.append(start)
    assert circles == []
