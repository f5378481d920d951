"""A finding: one statement of the diagnosis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

LEVELS = ("problem", "warning", "note", "good")
"""Severities, the worst first; also the order on the page."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One statement about a run.

    id: stable name of the rule. evidence: the numbers and steps it rests on. remedy: settings to
    change or what to watch.
    """

    id: str
    level: Literal["problem", "warning", "note", "good"]
    title: str
    evidence: tuple[str, ...]
    remedy: tuple[str, ...] = ()
