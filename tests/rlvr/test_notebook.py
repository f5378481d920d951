"""The notebook runs from its first cell to its last, in a process of its own."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rlvr.common.checkout import cache_dir

NOTEBOOK = Path(__file__).parents[2] / "examples" / "quickstart.ipynb"


def cells() -> list[dict]:
    return json.loads(NOTEBOOK.read_text())["cells"]


def code() -> str:
    """The code of all cells, which has nothing in it that only Jupyter knows."""
    return "\n\n".join("".join(c["source"]) for c in cells() if c["cell_type"] == "code")


def test_no_result_is_stored_with_the_notebook_and_its_code_is_python():
    stored = [c for c in cells() if c.get("outputs") or c.get("execution_count")]
    assert stored == []
    ast.parse(code())


@pytest.mark.slow
def test_the_notebook_runs_and_its_policy_learns_something(tmp_path):
    script = tmp_path / "notebook.py"
    show = 'print("summary", json.dumps(summary))\nprint("steps", metrics[-1]["step"])\n'
    # fewer steps, and no engine to start; else as it is
    faster = (
        code()
        .replace("STEPS = 20", "STEPS = 3")
        .replace('"--train.steps"', '"--rollout.engine", "transformers", "--train.steps"')
    )
    assert faster.count("transformers") == code().count("transformers") + 1
    script.write_text(f"{faster}\n{show}")
    env = os.environ | {"MPLBACKEND": "agg", "RLVR_CACHE": str(cache_dir())}
    done = subprocess.run(
        [sys.executable, script], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    lines = dict(line.split(" ", 1) for line in done.stdout.splitlines() if " " in line)
    assert lines["steps"] == "3"
    assert 0 < json.loads(lines["summary"])["accuracy_after"] <= 1
    assert ": correct" in done.stdout
    assert ": no_answer" in done.stdout
