"""Sections about a comparison of methods: intervals, table, curves, what differs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

from rlvr.report.blocks import (
    Block,
    chart,
    details,
    facts,
    findings_block,
    flatten,
    forest,
    interval,
    line,
    preformatted,
    section,
    table,
    text,
)
from rlvr.report.diagnosis import diagnose
from rlvr.report.findings import LEVELS, Finding
from rlvr.report.folder import RunData, Source
from rlvr.report.run_page import accuracy_points
from rlvr.report.series import running_mean, thin, window_len

SEED_BAND = "Line: mean over seeds of the running mean; shaded: lowest to highest seed."


def compare_sections(source: Source) -> list[Block | None]:
    """What the comparison found, its evidence, and how it was made."""
    c = source.comparison or {}
    by_method = runs_by_method(source)
    percent_note = "95% intervals over seeds and problems, in percentage points."
    return [
        section("result", "Result", [_sentences(c), _budget(c), _unfair(c)]),
        section(
            "methods",
            "Methods",
            [
                _accuracy_forest(c),
                forest(
                    "Gain: accuracy after minus before",
                    "points",
                    [
                        (m["label"], m.get("gain"), "", _excludes_zero(m.get("gain")))
                        for m in c.get("methods", [])
                    ],
                    zero=True,
                    scale=100,
                    note="Filled: the interval excludes 0.",
                ),
                method_table(c),
            ],
            percent_note,
        ),
        section("pairs", "Pairwise differences", [_pair_forest(c), _pair_table(c)], percent_note),
        section("diagnosis", "Diagnosis", [_findings(source)], DIAGNOSIS_INTRO),
        section("learning", "Learning", _curves(by_method)),
        section("policy", "Length, truncation and policy", _other_curves(by_method), SEED_BAND),
        section("runs", "Runs", [_run_table(c), _pruned(c)]),
        section("differences", "What differs between the runs", [config_diff(source.runs)]),
    ]


DIAGNOSIS_INTRO = "Rules over the metrics of every run; runs with the same finding stand together."


def closing_section(source: Source) -> Block | None:
    """The recipe, the comparison's own facts, and every run's manifest."""
    c = source.comparison or {}
    plain = {k: c[k] for k in ("name", "created", "rlvr_commit", "metric", "budget") if k in c}
    manifests = [
        details(f"Manifest of {label}", [facts(flatten(_without_modules(run.manifest)).items())])
        for label, run in source.runs.items()
        if run.manifest
    ]
    recipe = details("Recipe", [preformatted(c["recipe"])]) if c.get("recipe") else None
    return section("settings", "Recipe and manifests", [facts(plain.items()), recipe, *manifests])


def _without_modules(manifest: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in manifest.items() if k not in ("modules", "update_norms")}


def runs_by_method(source: Source) -> dict[str, list[RunData]]:
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


def _sentences(c: dict[str, Any]) -> Block | None:
    return {"type": "list", "items": c["sentences"]} if c.get("sentences") else None


def _budget(c: dict[str, Any]) -> Block | None:
    return facts(
        [
            ("metric", c.get("metric")),
            ("budget, equal for all", _named(c.get("budget"))),
            ("matched", c.get("matched") or None),
            ("not matched", c.get("unmatched") or None),
            ("unfair", c.get("unfair") or None),
        ]
    )


def _named(values: dict[str, Any] | None) -> str | None:
    return ", ".join(f"{v:,} {k}" for k, v in values.items()) if values else None


def _unfair(c: dict[str, Any]) -> Block | None:
    if not c.get("allow_unmatched"):
        return None
    return text(
        "This comparison was run with allow_unmatched = true: what is listed as not matched may"
        " explain a difference as well as the method does."
    )


def _excludes_zero(value: dict[str, Any] | None) -> bool:
    return bool(value) and (value["ci95"][0] > 0 or value["ci95"][1] < 0)


def _accuracy_forest(c: dict[str, Any]) -> Block | None:
    rows = [
        (m["label"], m.get("accuracy"), f"LR {m['lr']:.3g}" if m.get("lr") else "", True)
        for m in c.get("methods", [])
    ]
    return forest("Accuracy after training", "percent", rows, scale=100)


def method_table(c: dict[str, Any]) -> Block | None:
    """The table of methods, one row each."""
    columns = (
        "method",
        "rank",
        "LR",
        "LR from",
        "accuracy %",
        "gain",
        "trained",
        "tokens",
        "seconds",
        "peak GiB",
        "sync MiB",
        "forgetting",
    )
    rows = [
        (
            m["label"],
            m.get("rank"),
            m.get("lr"),
            m.get("lr_source"),
            interval(m.get("accuracy"), 100),
            interval(m.get("gain"), 100, "+"),
            m.get("num_params"),
            m.get("tokens"),
            m.get("seconds"),
            m.get("peak_gib"),
            m["sync_bytes"] / 2**20 if m.get("sync_bytes") is not None else None,
            interval(m.get("forgetting"), 100, "+"),
        )
        for m in c.get("methods", [])
    ]
    return table("Methods at their own learning rate", columns, rows)


def _p(value: float | None) -> str:
    if value is None:
        return "-"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _pair_forest(c: dict[str, Any]) -> Block | None:
    rows = [
        (
            f"{pair['a']} - {pair['b']}",
            pair.get("difference"),
            f"p {_p(pair.get('p_holm'))}",
            (pair.get("p_holm") or 1.0) < 0.05,
        )
        for pair in c.get("pairs", [])
    ]
    note = (
        "p: corrected by Holm over all pairs; filled: below 0.05. The intervals are of each pair"
        " alone, not corrected."
    )
    title = "Difference in accuracy, paired by problem and seed"
    return forest(title, "points", rows, zero=True, scale=100, note=note)


def _pair_table(c: dict[str, Any]) -> Block | None:
    rows = [
        (
            f"{pair['a']} - {pair['b']}",
            interval(pair.get("difference"), 100, "+"),
            _p(pair.get("p")),
            _p(pair.get("p_holm")),
            pair.get("text"),
        )
        for pair in c.get("pairs", [])
    ]
    columns = ("pair", "difference", "p", "p, Holm", "in words")
    return details("The same as a table", [table("Pairwise differences", columns, rows)])


def _findings(source: Source) -> Block | None:
    """Findings of all runs, equal ones merged: what is grave with every run's evidence, what is
    not with one run's."""
    merged: dict[str, list[tuple[str, Finding]]] = {}
    for label, run in source.runs.items():
        for finding in diagnose(run):
            merged.setdefault(finding.id + finding.title, []).append((label, finding))
    items = []
    for seen in merged.values():
        (label, first), count = seen[0], len(seen)
        evidence = [f"{label}: {line}" for line in first.evidence[:1]] + list(first.evidence[1:])
        if first.level in ("problem", "warning"):
            evidence = [f"{label}: {'; '.join(f.evidence)}" for label, f in seen[:MAX_LINES]]
            evidence += [f"and {count - MAX_LINES} more runs"] if count > MAX_LINES else []
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
    steps = sorted(set.intersection(*(set(curve) for curve in curves)))
    values = {step: [curve[step] for curve in curves] for step in steps}
    chosen = thin([(step, fmean(values[step])) for step in steps], 400)
    band = [(x, min(values[int(x)]), max(values[int(x)])) for x, _ in chosen]
    return line(label, chosen, style=style, band=band if len(curves) > 1 else ())


def _curves(by_method: dict[str, list[RunData]]) -> list[Block | None]:
    rewards = [
        seed_series(label, runs, "reward/mean", i)
        for i, (label, runs) in enumerate(by_method.items())
    ]
    accuracies = [
        _seed_accuracy(label, runs, i) for i, (label, runs) in enumerate(by_method.items())
    ]
    return [
        chart("Mean reward", "step", "reward", rewards, note=SEED_BAND),
        chart(
            "Held-out accuracy",
            "step",
            "accuracy",
            accuracies,
            percent=True,
            note="Mean over seeds; bars: lowest to highest seed.",
        ),
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


def _other_curves(by_method: dict[str, list[RunData]]) -> list[Block | None]:
    return [
        chart(
            title,
            "step",
            unit,
            [
                seed_series(label, runs, metric, i)
                for i, (label, runs) in enumerate(by_method.items())
            ],
            percent=percent,
            from_zero=percent,
        )
        for metric, title, unit, percent in OTHERS
    ]


def _run_table(c: dict[str, Any]) -> Block | None:
    rows = [
        (
            f"{m['label']}, seed {r.get('seed')}",
            r.get("status"),
            r.get("reason") or None,
            r.get("steps"),
            r.get("accuracy_before"),
            r.get("accuracy"),
            r.get("reward_last"),
            r.get("tokens"),
            r.get("seconds"),
        )
        for m in c.get("methods", [])
        for r in m.get("runs", [])
    ]
    columns = (
        "run",
        "status",
        "reason",
        "steps",
        "before",
        "after",
        "last reward",
        "tokens",
        "seconds",
    )
    return table("Every run", columns, rows)


def _pruned(c: dict[str, Any]) -> Block | None:
    rows = [
        (f"{p['label']}, seed {p.get('seed')}", p.get("rung"), p.get("steps"), p.get("value"))
        for p in c.get("pruned", [])
    ]
    return table("Stopped early by successive halving", ("run", "rung", "steps", "value"), rows)


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
            values.setdefault(json.dumps(tree.get(key)), []).append(label)
        if len(values) > 1:
            rows += [(key, json.loads(value), "; ".join(who)) for value, who in values.items()]
    if not rows:
        return text("Recipes and manifests of all runs are equal.")
    return table("Settings with more than one value", ("setting", "value", "runs"), rows)


def _facts_of(run: RunData) -> dict[str, Any]:
    config = {k: v for k, v in flatten(run.config).items() if k not in IGNORED}
    names = ("versions", "git_commit", "data", "engine", "sync", "trainable_parameters", "device")
    manifest = flatten({k: run.manifest[k] for k in names if k in run.manifest})
    return config | {f"manifest: {k}": v for k, v in manifest.items()}
