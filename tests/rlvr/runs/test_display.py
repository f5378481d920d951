"""The live table of a run fits a terminal of 80 columns."""

import io
import re

from rich.console import Console

from rlvr.runs.display import SHOWN, Display


def test_the_live_table_shows_the_longest_numbers_whole_on_80_columns():
    console = Console(file=io.StringIO(), width=80, force_terminal=True)
    widest = dict.fromkeys(SHOWN.values(), 1.23456e-05)
    widest |= {"reward/mean": -1.23456e-05, "rollout/tokens_per_s": 1234567.0}
    with Display(console, num_steps=10_000, first_step=0) as display:
        display.step(9999, widest)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "step 9999 of 10000" in text
    assert "-1.23e-05" in text
    assert "1,234,567" in text
    assert "…" not in text
    assert all(name in text for name in SHOWN)
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).splitlines()
    assert max(map(len, lines)) <= 80


def test_a_log_has_a_line_for_a_step_with_the_time_left():
    console = Console(file=io.StringIO(), width=80)
    with Display(console, num_steps=3, first_step=0) as display:
        display.step(3, {"reward/mean": 0.5})
    assert isinstance(console.file, io.StringIO)
    (line,) = console.file.getvalue().splitlines()
    assert line.startswith("step 3/3  reward 0.5  correct -")
    assert line.endswith("left 0.0 min")
