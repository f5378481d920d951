"""Which types the processor is slow at, and who says so."""

import json
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rlvr.common.cpu import is_slow
from rlvr.training.build import build

ICE_LAKE = {"architecture": "x86_64", "avx512_f": True, "avx512_bf16": False, "amx_bf16": False}
TABLE = [
    ("bfloat16", ICE_LAKE, True),
    ("bfloat16", ICE_LAKE | {"avx512_bf16": True}, False),
    ("bfloat16", {"architecture": "x86_64", "avx2": True, "f16c": True}, True),
    ("float16", ICE_LAKE | {"avx512_bf16": True}, True),
    ("float16", {"amx_bf16": True, "amx_fp16": True}, False),
    ("bfloat16", {"architecture": "aarch64", "neon": True, "bf16": True}, False),
    ("float16", {"architecture": "aarch64", "neon": True, "fp16_arith": False}, True),
    ("float32", {}, False),
]


@pytest.mark.parametrize(("dtype", "capabilities", "slow"), TABLE)
def test_a_type_is_slow_without_units_for_it(dtype, capabilities, slow):
    assert is_slow(dtype, capabilities) == slow


def slow_here() -> set[str]:
    """Of the kernel's own list of what the processor can do."""
    flags = set(Path("/proc/cpuinfo").read_text().split())
    units = {"bfloat16": {"avx512_bf16", "amx_bf16"}, "float16": {"avx512_fp16", "amx_fp16"}}
    return {dtype for dtype, names in units.items() if not flags & names}


here = pytest.mark.skipif(
    torch.cuda.is_available() or platform.machine() != "x86_64", reason="for x86 without a GPU"
)


@here
def test_doctor_names_the_types_that_this_cpu_has_no_units_for():
    command = [sys.executable, "-m", "rlvr.cli", "doctor", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    checks = {check["name"]: check for check in json.loads(done.stdout)}
    assert {name for name in checks if name.startswith("cpu ")} == {f"cpu {x}" for x in slow_here()}
    assert all("float32" in checks[f"cpu {dtype}"]["remedy"] for dtype in slow_here())


@here
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_the_start_of_a_run_says_in_one_line_that_its_type_is_slow(make_recipe, capsys, dtype):
    recipe = make_recipe(model={"dtype": dtype})
    assert recipe.model.path is not None
    build(recipe, recipe.model.path).close()
    said = [line for line in capsys.readouterr().err.splitlines() if "has no units" in line]
    assert len(said) == (dtype in slow_here())
    assert all(f'model.dtype = "{dtype}"' in line and "ten times" in line for line in said)
