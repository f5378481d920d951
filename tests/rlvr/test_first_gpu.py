"""The script for a first run on a GPU, with small sizes on this machine."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.first_gpu.case import TINY, Case, make_groups, needed_flops
from tests.benchmarks.first_gpu.parts import PARTS
from tests.benchmarks.first_gpu.update import measure
from tests.benchmarks.first_gpu.wheels import join
from tests.waiting import HANG_S, wait_until

ROOT = Path(__file__).parents[2]


def first_gpu(path: Path, *words: object) -> tuple[dict[str, dict], str, int]:
    """(rows by part, table, exit code) of a tiny call; the results are at `path`."""
    command = [sys.executable, "-m", "tests.benchmarks.first_gpu", "--tiny", "--json", path, *words]
    done = subprocess.run(
        list(map(str, command)), cwd=ROOT, capture_output=True, text=True, timeout=3 * HANG_S
    )
    rows = json.loads(path.read_text())["parts"] if path.exists() else []
    return {row["name"]: row for row in rows}, done.stdout + done.stderr, done.returncode


def is_running(pid: int) -> bool:
    """Whether a process of that number works on: not gone, nor dead and not yet waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.process
def test_parts_that_fail_or_hang_cost_nothing_but_themselves(tmp_path):
    rows, table, code = first_gpu(
        tmp_path / "out.json", "--parts", "fails", "hangs", "ranks", "machine"
    )
    assert code == 1
    status = {name: row["status"] for name, row in rows.items()}
    assert status == {
        "fails": "failed", "hangs": "timed out", "ranks": "skipped", "machine": "ok",
    }  # fmt: skip
    assert rows["fails"]["result"] == {"half": "done"}, "what it had found is kept"
    assert rows["fails"]["tail"][-1] == "RuntimeError: planted failure"
    assert "| RuntimeError: planted failure" in table
    assert any("planted.py" in line for line in rows["hangs"]["tail"]), "where it hung"
    assert wait_until(lambda: not is_running(rows["hangs"]["result"]["started"]))
    assert rows["ranks"]["result"]["why_not"].endswith("GPUs, needs 2")
    assert rows["machine"]["result"]["versions"]["torch"]


@pytest.mark.process
def test_without_time_left_the_rest_is_said_to_be_skipped(tmp_path):
    rows, _, code = first_gpu(tmp_path / "out.json", "--minutes", "0.1")
    assert code == 0
    assert [row["name"] for row in rows.values()] == [part.name for part in PARTS]
    assert {row["result"]["why_not"] for row in rows.values()} == {"no time left"}


@pytest.mark.slow
@pytest.mark.engine
@pytest.mark.timeout(3 * HANG_S)
def test_every_part_runs_to_its_end(tmp_path):
    rows, table, code = first_gpu(tmp_path / "out.json", "--minutes", "30", "--slack", "5")
    assert code == 0, table
    unlike = {name: row["status"] for name, row in rows.items() if row["status"] != "ok"}
    assert unlike == {"ranks": "skipped"}
    assert rows["probe_adapter"]["result"]["sampled"]["max"] < 1e-3
    assert rows["probe_merged"]["result"]["arrival"]["differing"] == []
    assert all(row["lost"] == [] for row in rows["resume"]["result"]["methods"].values())
    assert rows["switch"]["result"]["rows"][-1]["after"] == "the engine closed"


def test_wheels_in_parts_are_joined_and_a_missing_part_is_named(tmp_path):
    folder, joined = tmp_path / "wheels", tmp_path / "joined"
    folder.mkdir()
    joined.mkdir()
    content = bytes(range(256)) * 3
    for number in range(11):  # part10 comes after part9
        start, end = (len(content) * place // 11 for place in (number, number + 1))
        (folder / f"big-1.0-py3-none-any.whl.part{number}").write_bytes(content[start:end])
    (folder / "small-1.0-py3-none-any.whl").write_bytes(b"")
    big, small = join(folder, joined)
    assert (big.name, small.name) == ("big-1.0-py3-none-any.whl", "small-1.0-py3-none-any.whl")
    assert big.read_bytes() == content
    (folder / "big-1.0-py3-none-any.whl.part3").unlink()
    with pytest.raises(SystemExit, match="lacks its part 3"):
        join(folder, joined)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_the_update_is_measured_on_both_sides_on_the_same_rows(method):
    ours, theirs = (measure(TINY, method, side) for side in ("ours", "trl"))
    assert ours["tokens_per_s"] > 0
    assert ours["padding_frac"] < 0.2 < theirs["padding_frac"]


def test_the_flops_of_one_group_are_those_counted_by_hand():
    sizes: dict[str, Any] = {
        "hidden_size": 4,
        "intermediate_size": 8,
        "num_layers": 3,
        "num_heads": 2,
    }
    sizes |= {"num_kv_heads": 1, "head_dim": 3, "vocab_size": 10}
    case = Case(**sizes, num_groups=1, group_size=2, prompt_len=5, max_len=1)
    groups = make_groups(case)  # prompt 5, two responses of one token
    # the prompt passes once, and a response of one token is predicted by the prompt's last
    layer = 4 * (2 * 6 + 2 * 3) + 3 * 4 * 8
    dense = layer * 3 * 5 + 10 * 4 * 2
    attention = 3 * 4 * 3 * 6 * (1 + 2 + 3 + 4 + 5)
    assert needed_flops(case, groups, "full") == pytest.approx(6 * dense + attention)
    assert needed_flops(case, groups, "lora") == pytest.approx(4 * dense + attention)
