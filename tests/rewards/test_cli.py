"""`rlvr verify`: one line out for every line in, bad lines reported by number."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rewards.cli import main
from tests.waiting import HANG_S

ROOT = Path(__file__).parents[2]


def run(lines: list[str | bytes], *argv: str) -> tuple[int, list[dict], str]:
    """Exit status, output objects, standard error."""
    data = b"\n".join(line.encode() if isinstance(line, str) else line for line in lines)
    out, problems = io.StringIO(), io.StringIO()
    status = main(argv, io.BytesIO(data), out, problems)
    return status, [json.loads(line) for line in io.StringIO(out.getvalue())], problems.getvalue()


def pair(response: str, gold: object, **more: object) -> str:
    return json.dumps({"response": response, "gold": gold, **more})


def test_every_line_comes_back_with_its_verdict_and_its_other_fields():
    status, rows, problems = run(
        [pair(r"\boxed{4}", "4", id="a"), pair(r"\boxed{5}", "4"), pair("?", "4"), pair("5", "")]
    )
    assert (status, problems) == (0, "")
    assert [row["reason"] for row in rows] == ["correct", "wrong", "no_answer", "gold_invalid"]
    assert rows[0]["id"] == "a"
    assert list(rows[1]) == ["response", "gold", "correct", "reason", "answer", "stage", "ms"]
    assert [row["correct"] for row in rows] == [True, False, False, False]


def test_bad_lines_are_reported_by_number_and_do_not_stop_the_rest():
    lines: list[str | bytes] = [
        pair(r"\boxed{4}", "4"),
        "{not json",
        "",
        "[1, 2]",
        b'{"response": "\xff", "gold": "4"}',
        json.dumps({"response": "x"}),
        json.dumps({"gold": "4"}),
        pair(r"\boxed{4}", ["4"]),
        "[" * 100_000,
        "1" * 10_000,
        pair(r"\boxed{4}", 4),
    ]
    status, rows, problems = run(lines)
    assert status == 0
    assert len(rows) == 10
    assert [row["correct"] for row in rows] == [True, *[False] * 8, True]
    assert {row["stage"] for row in rows[1:-1]} == {"input"}
    numbers = [line.split(":")[0] for line in problems.splitlines()]
    assert numbers == [f"line {n}" for n in (2, 4, 5, 6, 7, 8, 9, 10)]


def test_a_number_as_gold_is_taken_as_it_is_written_and_nan_is_refused_by_its_line():
    lines: list[str | bytes] = [
        pair(r"\boxed{5}", 5.0),
        pair(r"\boxed{\frac{1}{4}}", 0.25),
        '{"response": "\\\\boxed{0.30}", "gold": 0.30}',
        '{"response": "\\\\boxed{0.002}", "gold": 2e-3}',
        '{"response": "\\\\boxed{5}", "gold": NaN}',
        '{"response": "\\\\boxed{5}", "gold": -Infinity}',
        '{"response": "\\\\boxed{5}", "gold": 1e999}',
        pair(r"\boxed{1}", True),
    ]
    status, rows, problems = run(lines)
    assert status == 0
    assert [row["correct"] for row in rows] == [True] * 4 + [False] * 4
    assert {row["stage"] for row in rows[4:]} == {"input"}
    assert [line.split(":")[0] for line in problems.splitlines()] == [
        f"line {n}" for n in (5, 6, 7, 8)
    ]
    assert "NaN is no JSON number" in problems


def test_more_lines_than_one_batch_keep_their_order():
    status, rows, _ = run([pair(rf"\boxed{{{n}}}", "600", n=n) for n in range(1300)])
    assert status == 0
    assert [row["n"] for row in rows] == list(range(1300))
    assert [row["n"] for row in rows if row["correct"]] == [600]


def test_surrogates_and_foreign_scripts_survive():
    text = '{"response": "\\\\boxed{\\ud800}", "gold": "4", "note": "数学"}'
    _, rows, _ = run([text])
    assert rows[0]["note"] == "数学"
    assert rows[0]["correct"] is False


def test_answer_mode_is_passed_on():
    _, rows, _ = run([pair("so #### 4", "4")], "--answer-mode", "hash", "--workers", "2")
    assert rows[0]["correct"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--answer-mode", "box"], "invalid choice: 'box'"),
        (["--timeout", "0"], "timeout_s = 0.0"),
        (["--timeout", "nan"], "timeout_s = nan"),
        (["--timeout", "inf"], "timeout_s = inf"),
        (["--timeout", "soon"], "invalid float value"),
        (["--workers", "-1"], "num_workers = -1"),
        (["--nonsense"], "unrecognized arguments"),
    ],
)
def test_a_wrong_option_is_one_line_and_status_2(argv, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(argv, io.BytesIO(b""), io.StringIO(), io.StringIO())
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_a_reader_that_leaves_early_causes_no_traceback():
    lines = "\n".join(pair(rf"\boxed{{{n}}}", "1") for n in range(20_000))
    command = f"{sys.executable} -c 'import sys; from rewards.cli import main; sys.exit(main())'"
    done = subprocess.run(
        f"{command} | head -n 1",
        shell=True,
        input=lines,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        timeout=HANG_S,
    )
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr == ""
