"""Rewards beside correctness: functions that a recipe names under [[reward.extra]]."""

import re
from typing import Any

from rewards import Verdict


def shows_work(problem: str, response: str, verdict: Verdict, metadata: dict[str, Any]) -> float:
    """The share of the numbers of the problem that stand in the response."""
    numbers = set(re.findall(r"\d+", problem))
    return len(numbers & set(re.findall(r"\d+", response))) / max(len(numbers), 1)


async def brief_when_right(
    problem: str, response: str, verdict: Verdict, metadata: dict[str, Any]
) -> float:
    """1 for a right answer in at most 40 characters for each step that the problem has, else 0.

    A coroutine may await a judge over HTTP. metadata: the row of the dataset.
    """
    return float(verdict.correct and len(response) <= 40 * metadata.get("level", 1))


def one_box(prompts: list, completions: list, **columns: Any) -> list[float]:
    """As written for trl: 1 for each completion with exactly one box, else 0."""
    texts = [one if isinstance(one, str) else one[-1]["content"] for one in completions]
    return [float(text.count(r"\boxed{") == 1) for text in texts]
