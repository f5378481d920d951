"""Nothing in rewards/ may evaluate or unpickle text: by construction, checked on the source."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "rewards"
FORBIDDEN = {
    *("eval", "exec", "compile", "__import__", "input", "breakpoint"),
    *("sympify", "parse_expr", "S", "lambdify", "parse_latex", "latex2sympy"),
    *("system", "popen", "spawnv", "execv", "execve", "run_path", "run_module", "literal_eval"),
}
FORBIDDEN_MODULES = {
    *("pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "yaml", "code", "codeop"),
    *("runpy", "multiprocessing", "concurrent"),
}
SOURCES = sorted(PACKAGE.rglob("*.py"))


def called_name(call: ast.Call) -> str:
    if isinstance(call.func, ast.Attribute):
        base = call.func.value
        is_re = isinstance(base, ast.Name) and base.id in ("re", "regex")
        return "" if is_re else call.func.attr  # re.compile makes no code
    return call.func.id if isinstance(call.func, ast.Name) else ""


def offences(source: str) -> list[str]:
    """Forbidden calls and imports in a Python source, as "line: name"."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            name = called_name(node)
            if name in FORBIDDEN:
                found.append(f"{node.lineno}: {name}")
            shells = [word.arg for word in node.keywords if word.arg == "shell"]
            found += [f"{node.lineno}: {shell}=" for shell in shells]
        modules = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [node.module or ""]
            found += [f"{node.lineno}: {a.name}" for a in node.names if a.name in FORBIDDEN - {"S"}]
        found += [f"{node.lineno}: {m}" for m in modules if m.split(".")[0] in FORBIDDEN_MODULES]
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_no_module_evaluates_or_unpickles_anything(path):
    assert offences(path.read_text()) == []


@pytest.mark.parametrize(
    "source",
    [
        "eval(answer)",
        "builtins.exec(answer)",
        "sympy.sympify(answer)",
        "from sympy.parsing.sympy_parser import parse_expr",
        "import pickle",
        "from marshal import loads",
        "subprocess.run(answer, shell=True)",
        "os.system(answer)",
        "sympy.S(answer)",
    ],
)
def test_the_scan_finds_what_it_looks_for(source):
    assert offences(source)


def test_the_only_process_started_is_the_template_with_our_own_text():
    starts = [
        (path.name, ast.unparse(call.args[0]))
        for path in SOURCES
        for call in ast.walk(ast.parse(path.read_text()))
        if isinstance(call, ast.Call)
        and called_name(call) in ("Popen", "run", "call", "check_call", "check_output", "fork_exec")
    ]
    assert starts == [("process.py", "[sys.executable, '-c', BOOT, *arguments]")]
