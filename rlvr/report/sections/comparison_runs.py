"""The runs of a comparison side by side: findings, curves over seeds, table, settings."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

from rlvr.common.nested import flatten
from rlvr.report.blocks import (
    Block,
    Blocks,
    chart,
    findings_block,
    line,
    record_table,
    table,
    text,
)
from rlvr.report.diagnosis.diagnose import diagnose
from rlvr.report.diagnosis.finding import LEVELS, Finding
from rlvr.report.folder import Source
from rlvr.report.sections.run import accuracy_points
from rlvr.report.series import running_mean, thin, window_len
from rlvr.runs.reader import RunData

ByMethod = dict[str, list[RunData]]
"""Runs by the label of their method."""

SEED_BAND = "Line: mean over seeds of the running mean; shaded: lowest to highest seed."


def runs_by_method(source: Source) -> ByMethod:
    """The runs that are there, by the method's label, in the comparison's order."""
    methods = (source.comparison or {}).get("methods", [])
    found = {
        m["label"]: [
            run
            for label, run in source.runs.items()
            if label in {f"{m['label']}, seed {r.get('seed')}" for r in m.get("runs", [])}
        ]
        for m in methods
    }
    return {label: runs for label, runs in found.items() if runs}


def merged_findings(source: Source) -> Block | None:
    """Findings of all runs, equal ones merged: what is grave with every run's evidence, what is
    not with one run's."""
    merged: dict[str, list[tuple[str, Finding]]] = {}
    for label, run in source.runs.items():
        for finding in diagnose(run):
            # a rule may have several titles: two findings that are not the same
            merged.setdefault(finding.id + finding.title, []).append((label, finding))
    items = []
    for seen in merged.values():
        (label, first), count = seen[0], len(seen)
        evidence = [f"{label}: {line}" for line in first.evidence[:1]] + list(first.evidence[1:])
        if first.level in ("problem", "warning"):
            evidence = [f"{label}: {'; '.join(f.evidence)}" for label, f in seen[:MAX_LINES]]
            evidence += [f"and {count - MAX_LINES} more runs"] if count > MAX_LINES else []
        elif count < len(source.runs):
            evidence.append("runs: " + "; ".join(label for label, _ in seen))
        title = f"{first.title} ({count} of {len(source.runs)} runs)"
        items.append(replace(first, title=title, evidence=tuple(evidence)))
    return findings_block(sorted(items, key=lambda finding: LEVELS.index(finding.level)))


MAX_LINES = 8
"""Runs whose evidence stands under one finding."""


def seed_series(label: str, runs: Sequence[RunData], metric: str, style: int) -> Block | None:
    """Mean over seeds of the running mean where all seeds have the step, with lowest to highest."""
    curves = []
    for run in runs:
        points = run.points(metric)
        smooth = running_mean(points, window_len(len(points)))
        curves.append({step: mean for step, mean, _ in smooth})
    curves = [curve for curve in curves if curve]
    if not curves:
        return None
    # a seed that ended early would move the mean where it stops
    steps = sorted(set.intersection(*(set(curve) for curve in curves)))
    values = {step: [curve[step] for curve in curves] for step in steps}
    chosen = thin([(step, fmean(values[step])) for step in steps], 400)
    band = [(x, min(values[int(x)]), max(values[int(x)])) for x, _ in chosen]
    return line(label, chosen, style=style, band=band if len(curves) > 1 else ())


def learning_curves(by_method: ByMethod) -> Blocks:
    """Reward and held-out accuracy of every method."""
    accuracies = [_seed_accuracy(name, runs, i) for i, (name, runs) in enumerate(by_method.items())]
    note = "Mean over seeds; bars: lowest to highest seed."
    return [
        chart("Mean reward", "step", "reward", _curves(by_method, "reward/mean"), note=SEED_BAND),
        chart("Held-out accuracy", "step", "accuracy", accuracies, percent=True, note=note),
    ]


def _seed_accuracy(label: str, runs: Sequence[RunData], style: int) -> Block | None:
    by_step: dict[int, list[float]] = {}
    for run in runs:
        for step, accuracy in accuracy_points(run):
            by_step.setdefault(step, []).append(accuracy["value"])
    steps = sorted(by_step)
    points = [(step, fmean(by_step[step])) for step in steps]
    band = [(step, min(by_step[step]), max(by_step[step])) for step in steps]
    return line(label, points, style=style, band=band, kind="bars")


OTHERS = (
    ("rollout/response_len_mean", "Mean response length", "tokens", False),
    ("rollout/truncated_frac", "Responses cut off", "fraction", True),
    ("sampler/informative_frac", "Groups whose rewards differ", "fraction", True),
    ("policy/entropy", "Entropy", "nats per token", False),
    ("policy/kl_ref", "KL to the reference policy", "nats per token", False),
    ("optim/grad_norm", "Gradient norm before clipping", "norm", False),
)
"""Metric, title, unit, and whether the axis is in percent from 0."""


def policy_curves(by_method: ByMethod) -> Blocks:
    """One chart for each of OTHERS."""
    return [
        chart(title, "step", unit, _curves(by_method, metric), percent=percent, from_zero=percent)
        for metric, title, unit, percent in OTHERS
    ]


def _curves(by_method: ByMethod, metric: str) -> Blocks:
    return [seed_series(name, runs, metric, i) for i, (name, runs) in enumerate(by_method.items())]


RUN_COLUMNS = (
    ("run", "name"),
    ("status", "status"),
    ("reason", lambda run: run.get("reason") or None),
    ("steps", "steps"),
    ("before", "accuracy_before"),
    ("after", "accuracy"),
    ("last reward", "reward_last"),
    ("tokens", "tokens"),
    ("seconds", "seconds"),
)


def run_table(c: dict[str, Any]) -> Block | None:
    """Every run with its status, and why it failed."""
    runs = [
        {"name": f"{m['label']}, seed {run.get('seed')}"} | run
        for m in c.get("methods", [])
        for run in m.get("runs", [])
    ]
    return record_table("Every run", RUN_COLUMNS, runs)


PRUNED_COLUMNS = (
    ("run", lambda p: f"{p['label']}, seed {p.get('seed')}"),
    ("rung", "rung"),
    ("steps", "steps"),
    ("value", "value"),
)


def pruned_table(c: dict[str, Any]) -> Block | None:
    """What successive halving ended, and when."""
    title = "Stopped early by successive halving"
    return record_table(title, PRUNED_COLUMNS, c.get("pruned", []))


# they differ between any two runs
IGNORED = ("run.name", "run.dir")


def config_diff(runs: dict[str, RunData]) -> Block | None:
    """Settings and manifest facts with more than one value, and which runs have which."""
    if len(runs) < 2:
        return None
    flat = {label: _facts_of(run) for label, run in runs.items()}
    rows = []
    for key in sorted(set().union(*flat.values())):
        values: dict[str, list[str]] = {}
        for label, tree in flat.items():
            values.setdefault(json.dumps(tree.get(key)), []).append(label)  # lists do not hash
        if len(values) > 1:
            rows += [(key, json.loads(value), "; ".join(who)) for value, who in values.items()]
    if not rows:
        return text("Recipes and manifests of all runs are equal.")
    return table("Settings with more than one value", ("setting", "value", "runs"), rows)


def _facts_of(run: RunData) -> dict[str, Any]:
    config = {k: v for k, v in flatten(run.config).items() if k not in IGNORED}
    # what could explain a difference; norms of updates differ between any two runs
    names = (
        "versions", "git_commit", "data", "engine", "sync", "trainable_parameters", "device", "gpu",
    )  # fmt: skip
    manifest = flatten({k: run.manifest[k] for k in names if k in run.manifest})
    return config | {f"manifest: {k}": v for k, v in manifest.items()}
