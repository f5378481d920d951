"""How the package may be imported, and what it may import."""

import ast
import subprocess
import sys

import pytest

from eval.benchmarks import PROJECT_ROOT

SOURCES = sorted(
    path
    for folder in ("rlvr", "rewards", "eval", "tests")
    for path in (PROJECT_ROOT / folder).rglob("*.py")
)


def plain_imports(tree):
    """Names that `import x` statements bind or load."""
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import)]
    return [alias.name for node in imports for alias in node.names]


def from_imports(tree):
    """Modules that `from x import y` statements load."""
    return [n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PROJECT_ROOT)))
def test_no_statement_rebinds_the_builtin_eval(path):
    tree = ast.parse(path.read_text("utf-8"))
    rebinding = [name for name in plain_imports(tree) if name.split(".")[0] == "eval"]
    assert not rebinding, "write `from eval.x import y`"


def test_the_scan_sees_both_forms_that_rebind():
    assert plain_imports(ast.parse("import eval\nimport eval.score")) == ["eval", "eval.score"]


def test_imports_point_one_way():
    for path in (PROJECT_ROOT / "eval").rglob("*.py"):
        tree = ast.parse(path.read_text("utf-8"))
        modules = plain_imports(tree) + from_imports(tree)
        assert not [m for m in modules if m.split(".")[0] in ("rlvr", "torch")], path


@pytest.mark.process
def test_importing_the_commands_loads_nothing_heavy():
    code = (
        "import sys; from eval.cli import eval_main; from eval.intervals import wilson; "
        "print([m for m in ('torch', 'scipy.stats', 'datasets', 'sympy') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=PROJECT_ROOT, check=True
    )
    assert done.stdout.strip() == "[]"
