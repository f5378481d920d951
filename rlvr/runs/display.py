"""The display of a run: a live table on a terminal, one line per step elsewhere."""

from __future__ import annotations

import time

from rich.box import SIMPLE
from rich.console import Console
from rich.live import Live
from rich.table import Table

SHOWN = {
    "reward": "reward/mean",
    "correct": "reward/correct_frac",
    "length": "rollout/response_len_mean",
    "tokens/s": "rollout/tokens_per_s",
    "entropy": "policy/entropy",
    "grad": "optim/grad_norm",
    "step s": "time/step_s",
}
"""Metric of each column."""


def _short(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


class Display:
    """Step, reward, tokens per second and the time left."""

    def __init__(self, console: Console, num_steps: int, first_step: int) -> None:
        self._console, self._num_steps, self._first = console, num_steps, first_step
        self._start = time.perf_counter()
        self._live = Live(console=console, refresh_per_second=4) if console.is_terminal else None

    def __enter__(self) -> Display:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def step(self, step: int, metrics: dict[str, float]) -> None:
        """Shows the numbers of finished step `step` (counted from 1)."""
        spent = time.perf_counter() - self._start
        num_done = max(1, step - self._first)  # a step resumed in its evaluation: step is first
        left = spent / num_done * (self._num_steps - step)
        values = {name: _short(metrics.get(key)) for name, key in SHOWN.items()}
        left_min = f"{left / 60:.1f} min"
        if self._live:
            table = Table(title=f"step {step} of {self._num_steps}, {left_min} left", box=SIMPLE)
            for name in values:
                table.add_column(name, justify="right")
            table.add_row(*values.values())
            self._live.update(table)
        else:
            words = "  ".join(f"{name} {value}" for name, value in values.items())
            words += f"  left {left_min}"
            self._console.print(f"step {step}/{self._num_steps}  {words}", soft_wrap=True)

    def say(self, text: str) -> None:
        """Prints a line that stays; markup off, since paths may hold brackets."""
        self._console.print(text, soft_wrap=True, markup=False, highlight=False)
