"""What is imported of ours is there: in benchmarks and in scripts inside strings too, which no fast
test runs and no type checker reads."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("rlvr", "rewards", "eval", "tests")


def trees(path: Path) -> Iterator[ast.AST]:
    """The file, and every string in it that is a script of ours."""
    tree = ast.parse(path.read_text())
    yield tree
    for node in ast.walk(tree):
        text = node.value if isinstance(node, ast.Constant) else None
        if isinstance(text, str) and "\nfrom " in text:
            try:
                yield ast.parse(text)
            except SyntaxError:  # prose
                continue


def found(path: Path) -> Iterator[tuple[str, str]]:
    """(module, name) of every `from module import name` of ours."""
    for tree in trees(path):
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in PACKAGES:
                yield from ((str(node.module), alias.name) for alias in node.names)


@cache
def defined(module: str) -> frozenset[str] | None:
    """Names at the top of a module and its submodules; None where there is no such module."""
    place = ROOT.joinpath(*module.split("."))
    file = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    names = {path.stem for path in place.glob("*") if path.suffix == ".py" or path.is_dir()}
    if not file.is_file():
        return frozenset(names) if place.is_dir() else None
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name.split(".")[0] for alias in node.names}
    return frozenset(names)


def test_every_name_that_is_imported_of_ours_is_there():
    files = [path for name in (*PACKAGES, "examples") for path in (ROOT / name).rglob("*.py")]
    assert len(files) > 400
    missing = [
        f"{path.relative_to(ROOT)}: from {module} import {name}"
        for path in files
        for module, name in found(path)
        if name not in (defined(module) or ())
    ]
    assert missing == []
