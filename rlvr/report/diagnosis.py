"""The diagnosis: what the metrics of a run say about it, in plain words."""

from __future__ import annotations

from rlvr.report import rules_learning, rules_policy, rules_signal
from rlvr.report.findings import LEVELS, Finding
from rlvr.report.folder import RunData

RULES = (*rules_learning.RULES, *rules_policy.RULES, *rules_signal.RULES)


def diagnose(run: RunData) -> list[Finding]:
    """All findings about a run, the gravest first. Pure: the same data gives the same findings."""
    found = [finding for rule in RULES if (finding := rule(run)) is not None]
    return sorted(found, key=lambda finding: LEVELS.index(finding.level))
