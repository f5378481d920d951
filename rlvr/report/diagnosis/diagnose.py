"""The diagnosis: what the metrics of a run say about it, in plain words."""

from __future__ import annotations

from rlvr.report.diagnosis import engine, learning, policy, signal
from rlvr.report.diagnosis.finding import LEVELS, Finding
from rlvr.runs.reader import RunData

RULES = (*learning.RULES, *policy.RULES, *signal.RULES, *engine.RULES)


def diagnose(run: RunData) -> list[Finding]:
    """All findings about a run, the gravest first. Pure: the same data gives the same findings."""
    found = [finding for rule in RULES if (finding := rule(run)) is not None]
    return sorted(found, key=lambda finding: LEVELS.index(finding.level))
