"""Sections about a comparison of methods: result, intervals, tables, and all about its runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlvr.report.blocks import (
    Block,
    Blocks,
    details,
    facts,
    forest,
    percent_interval,
    record_table,
    section,
    text,
)
from rlvr.report.folder import Source
from rlvr.report.sections.comparison_runs import (
    SEED_BAND,
    config_diff,
    learning_curves,
    merged_findings,
    policy_curves,
    pruned_table,
    run_table,
    runs_by_method,
)
from rlvr.report.sections.run import manifest_facts

DIAGNOSIS_INTRO = "Rules over the metrics of every run; runs with the same finding stand together."


def comparison_sections(source: Source) -> Blocks:
    """What the comparison found, its evidence, and how it was made."""
    c = source.comparison or {}
    by_method = runs_by_method(source)
    note = f"95% intervals over {_over(c)}, in percentage points."
    methods = [_accuracy_forest(c), _gain_forest(c), method_table(c)]
    return [
        section("result", "Result", [_sentences(c), _budget(c), _unfair(c)]),
        section("methods", "Methods", methods, note),
        section("pairs", "Pairwise differences", [_pair_forest(c), _pair_table(c)], note),
        section("diagnosis", "Diagnosis", [merged_findings(source)], DIAGNOSIS_INTRO),
        section("learning", "Learning", learning_curves(by_method)),
        section("policy", "Length, truncation and policy", policy_curves(by_method), SEED_BAND),
        section("runs", "Runs", [run_table(c), pruned_table(c)]),
        section("differences", "What differs between the runs", [config_diff(source.runs)]),
    ]


def closing_section(source: Source) -> Block | None:
    """The recipe, the comparison's own facts, and every run's manifest."""
    c = source.comparison or {}
    plain = {k: c[k] for k in ("name", "created", "rlvr_commit", "metric", "budget") if k in c}
    # as it was written, comments included: the resolved one is in every run
    recipe: Block | None = {"type": "pre", "text": c["recipe"]} if c.get("recipe") else None
    manifests = [
        details(f"Manifest of {label}", [manifest_facts(run)])
        for label, run in source.runs.items()
        if run.manifest
    ]
    blocks = [facts(plain.items()), details("Recipe", [recipe]), *manifests]
    return section("settings", "Recipe and manifests", blocks)


def _over(c: dict[str, Any]) -> str:
    """What the accuracies' intervals are over, as the comparison says."""
    intervals = [m.get("accuracy") or {} for m in c.get("methods", [])]
    found = dict.fromkeys(i["over"] for i in intervals if "over" in i)
    return " or ".join(found) or "seeds and problems"


def _sentences(c: dict[str, Any]) -> Block | None:
    # rlvr compare wrote them: page, terminal and comparison.md make the same claims
    return {"type": "list", "items": c["sentences"]} if c.get("sentences") else None


def _budget(c: dict[str, Any]) -> Block | None:
    budget = ", ".join(f"{v:,} {k}" for k, v in (c.get("budget") or {}).items())
    lists = (("matched", "matched"), ("not matched", "unmatched"), ("unfair", "unfair"))
    return facts(
        [
            ("metric", c.get("metric")),
            ("budget, equal for all", budget or None),
            *((name, "; ".join(c.get(key) or []) or None) for name, key in lists),
        ]
    )


def _unfair(c: dict[str, Any]) -> Block | None:
    if not c.get("allow_unmatched"):
        return None
    return text(
        "This comparison was run with allow_unmatched = true: what is listed as not matched may"
        " explain a difference as well as the method does."
    )


def _accuracy_forest(c: dict[str, Any]) -> Block | None:
    rows = [
        (m["label"], m.get("accuracy"), f"LR {m['lr']:.3g}" if m.get("lr") else "", True)
        for m in c.get("methods", [])
    ]
    return forest("Accuracy after training", "percent", rows)


def _gain_forest(c: dict[str, Any]) -> Block | None:
    gains = [(m["label"], m.get("gain")) for m in c.get("methods", [])]
    rows = [
        (label, gain, "", bool(gain) and (gain["ci95"][0] > 0 or gain["ci95"][1] < 0))
        for label, gain in gains
    ]
    note = "Filled: the interval excludes 0."
    return forest("Gain: accuracy after minus before", "points", rows, zero=True, note=note)


METHOD_COLUMNS = (
    ("method", "label"),
    ("rank", "rank"),
    ("LR", "lr"),
    ("LR from", "lr_source"),
    ("accuracy %", lambda m: percent_interval(m.get("accuracy"))),
    ("gain", lambda m: percent_interval(m.get("gain"), "+")),
    ("trained", "num_params"),
    ("tokens", "tokens"),
    ("seconds", "seconds"),
    ("peak GiB", "peak_gib"),
    ("sync MiB", lambda m: None if m.get("sync_bytes") is None else m["sync_bytes"] / 2**20),
    ("forgetting", lambda m: percent_interval(m.get("forgetting"), "+")),
)


def method_table(c: dict[str, Any]) -> Block | None:
    """The table of methods, one row each."""
    return record_table("Methods", METHOD_COLUMNS, c.get("methods", []))


def _pair_name(pair: Mapping[str, Any]) -> str:
    return f"{pair['a']} - {pair['b']}"


def _p(value: float | None) -> str:
    if value is None:
        return "-"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _pair_forest(c: dict[str, Any]) -> Block | None:
    rows = [
        (
            _pair_name(pair),
            pair.get("difference"),
            f"p {_p(pair.get('p_holm'))}",
            pair.get("p_holm") is not None and pair["p_holm"] < 0.05,
        )
        for pair in c.get("pairs", [])
    ]
    note = (
        "p: corrected by Holm over all pairs; filled: below 0.05. The intervals are of each pair"
        " alone, not corrected."
    )
    title = "Difference in accuracy, paired by problem and seed"
    return forest(title, "points", rows, zero=True, note=note)


PAIR_COLUMNS = (
    ("pair", _pair_name),
    ("difference", lambda pair: percent_interval(pair.get("difference"), "+")),
    ("p", lambda pair: _p(pair.get("p"))),
    ("p, Holm", lambda pair: _p(pair.get("p_holm"))),
    ("in words", "text"),
)


def _pair_table(c: dict[str, Any]) -> Block | None:
    pairs = record_table("Pairwise differences", PAIR_COLUMNS, c.get("pairs", []))
    return details("The same as a table", [pairs])
