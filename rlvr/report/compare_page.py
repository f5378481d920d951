"""Sections about a comparison of methods: result, intervals, tables, and all about its runs."""

from __future__ import annotations

from typing import Any

from rlvr.report.blocks import (
    Block,
    details,
    facts,
    flatten,
    forest,
    interval,
    preformatted,
    section,
    table,
    text,
)
from rlvr.report.compare_runs import (
    SEED_BAND,
    config_diff,
    learning_curves,
    merged_findings,
    policy_curves,
    pruned_table,
    run_table,
    runs_by_method,
)
from rlvr.report.folder import Source


def compare_sections(source: Source) -> list[Block | None]:
    """What the comparison found, its evidence, and how it was made."""
    c = source.comparison or {}
    by_method = runs_by_method(source)
    percent_note = f"95% intervals over {_over(c)}, in percentage points."
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
        section("diagnosis", "Diagnosis", [merged_findings(source)], DIAGNOSIS_INTRO),
        section("learning", "Learning", learning_curves(by_method)),
        section("policy", "Length, truncation and policy", policy_curves(by_method), SEED_BAND),
        section("runs", "Runs", [run_table(c), pruned_table(c)]),
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


def _over(c: dict[str, Any]) -> str:
    """What the accuracies' intervals are over, as the comparison says."""
    intervals = [m.get("accuracy") or {} for m in c.get("methods", [])]
    found = dict.fromkeys(i["over"] for i in intervals if "over" in i)
    return " or ".join(found) or "seeds and problems"


def _sentences(c: dict[str, Any]) -> Block | None:
    return {"type": "list", "items": c["sentences"]} if c.get("sentences") else None


def _budget(c: dict[str, Any]) -> Block | None:
    return facts(
        [
            ("metric", c.get("metric")),
            ("budget, equal for all", _named(c.get("budget"))),
            *(
                (name, "; ".join(c[key]))
                for name, key in (("matched", "matched"), ("not matched", "unmatched"))
                if c.get(key)
            ),
            ("unfair", "; ".join(c.get("unfair") or []) or None),
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
    return table("Methods", columns, rows)


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
