"""Rollout files for the browser: an index of every step, and its groups as one small chunk."""

from __future__ import annotations

import base64
import gzip
import json
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlvr.report.series import evenly
from rlvr.runs.reader import read_rollouts

MAX_TEXT_LEN = 20_000
"""Characters of one prompt or response on the page; the middle of a longer one is left out."""

MAX_PAGE_BYTES = 17 * 2**20
"""Rollouts that one file may hold, as embedded; steps beyond it are left out, evenly."""


@dataclass(frozen=True, slots=True)
class StepIndex:
    """What one step's file holds. reasons: responses by verdict."""

    step: int
    num_responses: int
    reasons: dict[str, int]

    def to_json(self) -> dict[str, Any]:
        return {"step": self.step, "responses": self.num_responses, "reasons": self.reasons}


def index_of(step: int, rows: list[dict[str, Any]]) -> StepIndex:
    """The index entry of a step's rollouts."""
    reasons = Counter(str(row.get("reason")) for row in rows)
    return StepIndex(step, len(rows), dict(reasons.most_common()))


def groups_of(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rollouts of one prompt together, the prompt once; long texts shortened in the middle."""
    groups: list[dict[str, Any]] = []
    for row in rows:  # the sampler writes the responses of a group one after another
        problem, prompt = str(row.get("problem_id")), shorten(str(row.get("prompt")))
        if not groups or (groups[-1]["problem"], groups[-1]["prompt"]) != (problem, prompt):
            groups.append({"problem": problem, "prompt": prompt, "responses": []})
        groups[-1]["responses"].append(
            {
                "text": shorten(str(row.get("response"))),
                "reward": _number(row.get("reward")),
                "advantage": _number(row.get("advantage")),
                "reason": str(row.get("reason")),
                "len": _number(row.get("response_len")),
                "truncated": bool(row.get("truncated")),
            }
        )
    return groups


def _number(value: Any) -> float | None:
    return value if isinstance(value, (int, float)) and math.isfinite(value) else None


def shorten(text: str) -> str:
    """The text, or its beginning and its longer end with a note of what is missing between."""
    left_out = len(text) - MAX_TEXT_LEN
    if left_out <= 0:
        return text
    head = MAX_TEXT_LEN // 4  # the end is longer: the answer stands there
    note = f"\n[... {left_out:,} of {len(text):,} characters left out of this page ...]\n"
    return text[:head] + note + text[head + left_out :]


def pack(groups: list[dict[str, Any]]) -> str:
    """The groups as JSON, gzip and base64: text without any character that HTML could read."""
    data = json.dumps(groups, ensure_ascii=False, separators=(",", ":"))
    # mtime=0: the same rollouts make the same page
    return base64.b64encode(gzip.compress(data.encode("utf-8", "replace"), 6, mtime=0)).decode()


def embed(
    files: list[dict[int, Path]], budget: int = MAX_PAGE_BYTES
) -> tuple[list[dict[int, str]], list[list[StepIndex]], int]:
    """Packed steps and index of every run, and how many steps were left out for the budget.

    Where all together exceed `budget` bytes, evenly spaced steps of each run stay, the first and
    the last among them.
    """
    packed: list[dict[int, str]] = [{} for _ in files]
    index: list[list[StepIndex]] = [[] for _ in files]
    for run, steps in enumerate(files):
        for step, path in steps.items():
            rows = read_rollouts(path)
            packed[run][step] = pack(groups_of(rows))
            index[run].append(index_of(step, rows))
    # searched, not computed: the sizes of the steps that stay are not known before
    share, total, kept = 1.0, sum(map(len, files)), packed
    while sum(len(text) for steps in kept for text in steps.values()) > budget and share > 0.001:
        share *= 0.95
        kept = [
            {step: steps[step] for step in evenly(list(steps), max(1, int(share * len(steps))))}
            for steps in packed
        ]
    index = [[e for e in entries if e.step in kept[r]] for r, entries in enumerate(index)]
    return kept, index, total - sum(map(len, kept))
