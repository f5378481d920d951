"""What a comparison says: sentences that go no further than the intervals, and the table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from eval.intervals import Interval
from eval.reports.tables import Table, render
from rlvr.compare.statistics import Pair

ALPHA = 0.05
"""Family-wise error of the claims, after Holm's correction."""


def points(interval: Interval) -> str:
    """A difference of fractions in percentage points: +0.4 [-1.1, +1.9]."""
    value, lo, hi = (100 * x for x in (interval.value, interval.lo, interval.hi))
    return f"{value:+.1f} [{lo:+.1f}, {hi:+.1f}]"


def pair_sentence(pair: Pair) -> str:
    """The one claim that the pair allows: ahead, behind, or not distinguishable.

    A difference is claimed where its 95% interval leaves out 0 and Holm's corrected p-value is
    below 0.05; where only the first holds, the sentence says so.
    """
    d, seeds = pair.difference, len(pair.seeds)
    over = "problems; one seed, so nothing is said about others" if seeds == 1 else "problems"
    origin = f"{seeds} seeds and {over}" if seeds > 1 else over
    if d.lo <= 0 <= d.hi:  # before Holm's: what one pair alone cannot tell, many do not either
        return (
            f"{pair.a} and {pair.b} are not distinguishable here: {points(d)} points"
            f" (95% over {origin})."
        )
    better, worse, size = pair.a, pair.b, d
    if d.value < 0:
        better, worse, size = pair.b, pair.a, replace(d, value=-d.value, lo=-d.hi, hi=-d.lo)
    if pair.p_holm >= ALPHA:
        return (
            f"{better} is ahead of {worse} by {points(size)} points taken alone"
            f" (95% over {origin}), but not after correcting for all pairs"
            f" (Holm p = {pair.p_holm:.2g})."
        )
    return (
        f"{better} is ahead of {worse} by {points(size)} points (95% over {origin};"
        f" Holm p = {pair.p_holm:.2g})."
    )


def gain_sentence(label: str, gain: Interval, num_seeds: int) -> str:
    """Whether training moved the accuracy."""
    over = f"{num_seeds} seeds and problems" if num_seeds > 1 else "problems, one seed"
    if gain.lo <= 0 <= gain.hi:
        return f"{label}: no change from training can be told: {points(gain)} points ({over})."
    word = "rose" if gain.value > 0 else "fell"
    return f"{label}: accuracy {word} by {points(gain)} points ({over})."


def sentences(
    tree: Mapping[str, Any], pairs: Sequence[Pair], gains: Mapping[str, tuple[Interval, int]]
) -> list[str]:
    """Every sentence of the comparison. tree: comparison.json without its sentences."""
    said = []
    if len(tree["sets"]) > 1:
        said.append(
            f"Accuracy is the unweighted mean of avg@k over {', '.join(tree['sets'])}; intervals"
            " take the problems of each set as drawn, the sets as given."
        )
    if tree["allow_unmatched"] and tree["unfair"]:
        said.append(f"This comparison is not matched: {'; '.join(tree['unfair'])}.")
    said += [gain_sentence(label, *gain) for label, gain in gains.items()]
    said += [pair_sentence(pair) for pair in pairs]
    for method in tree["methods"]:
        lost = [r for r in method["runs"] if r["status"] in ("failed", "diverged")]
        if lost:
            listed = "; ".join(f"seed {r['seed']} {r['status']}: {r['reason']}" for r in lost)
            said.append(f"{method['label']}: {len(lost)} of {len(method['runs'])} runs are missing"
                        f" from its numbers ({listed}).")  # fmt: skip
        said += [
            f"{method['label']}, seed {run['seed']}, guesses: {text}."
            for run in method["runs"]
            for text in run["guesses"]
        ]
    for label in tree["without_rate"]:
        said.append(f"{label}: no learning rate was found, every short run failed; not compared.")
    for label in dict.fromkeys(row["label"] for row in tree["pruned"]):
        first = next(row for row in tree["pruned"] if row["label"] == label)
        said.append(f"{label} was pruned after {first['steps']} steps and is not compared further.")
    return said


COLUMNS = (
    "method", "lr", "accuracy", "gain", "parameters", "tokens", "seconds", "peak GiB",
    "sync bytes", "forgetting", "runs",
)  # fmt: skip


def table_rows(tree: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The table's cells, best accuracy first."""
    # a method without an accuracy comes last
    methods = sorted(tree["methods"], key=lambda m: -((m["accuracy"] or {}).get("value", -1.0)))
    return [
        (
            m["label"],
            f"{m['lr']:.3g} ({m['lr_source']})" if m["lr"] else "none",
            _cell(m["accuracy"]),
            _cell(m["gain"], "+"),
            f"{m['num_params']:,}",
            f"{m['tokens']:,.0f}",
            f"{m['seconds']:,.0f}",
            f"{m['peak_gib']:.2f}",
            f"{m['sync_bytes']:,.0f}",
            _cell(m["forgetting"], "+"),
            f"{sum(r['status'] == 'finished' for r in m['runs'])}/{len(m['runs'])}",
        )
        for m in methods
    ]


def _cell(interval: Mapping[str, Any] | None, sign: str = "") -> str:
    if interval is None:
        return "-"
    lo, hi = interval["ci95"]
    return f"{interval['value']:{sign}.3f} [{lo:{sign}.3f}, {hi:{sign}.3f}]"


def _mean(value: float | None) -> str:
    return "no value" if value is None else f"{value:.3f}"


def screen_table(tree: Mapping[str, Any]) -> str:
    """The table for a terminal."""
    return render([Table(tree["name"], COLUMNS, tuple(table_rows(tree)))], "text")


def markdown(tree: Mapping[str, Any]) -> str:
    """comparison.md: the table, the sentences, what was matched, the searches, the recipe."""
    unit, amount = next(iter(tree["budget"].items()))
    lines = [
        f"# {tree['name']}",
        "",
        f"{amount:g} {unit} per run; held-out accuracy; 95% intervals over seeds and problems."
        f" Commit {tree['rlvr_commit'] or 'unknown'}, {tree['created']}.",
        "",
        f"| {' | '.join(COLUMNS)} |",
        f"|{'|'.join('---' for _ in COLUMNS)}|",
        *(f"| {' | '.join(row)} |" for row in table_rows(tree)),
        "",
        *_set_rows(tree),
        *(f"- {sentence}" for sentence in tree["sentences"]),
        "",
        f"Matched: {', '.join(tree['matched'])}.",
        f"Not matched: {'; '.join(tree['unmatched']) or 'nothing'}.",
        "",
    ]
    if tree["lr_finds"]:
        lines += ["| learning rate of | chosen | by | vertex | R2 | best measured | prior |"]
        lines += ["|---|---|---|---|---|---|---|"]
        lines += [_find_row(find) for find in tree["lr_finds"]] + [""]
    if tree["pruned"]:
        lines += [f"- pruned: {row['label']} seed {row['seed']} after {row['steps']} steps at"
                  f" {_mean(row['value'])}" for row in tree["pruned"]] + [""]  # fmt: skip
    return "\n".join([*lines, "```toml", tree["recipe"].rstrip(), "```", ""])


def _set_rows(tree: Mapping[str, Any]) -> list[str]:
    """The table of accuracies by set; none where there is one set."""
    sets = tree["sets"]
    if len(sets) < 2:
        return []
    head = ["method", *(f"{name} ({count} problems)" for name, count in sets.items())]
    rows = [
        [method["label"], *(_cell(method["accuracy_by_set"][name]) for name in sets)]
        for method in tree["methods"]
    ]
    lines = [head, ["---"] * len(head), *rows]
    return [*(f"| {' | '.join(cells)} |" for cells in lines), ""]


def _find_row(find: Mapping[str, Any]) -> str:
    fit, prior = find["fit"], find["prior"]
    vertex = "-"
    if fit is not None:
        vertex = f"{fit['vertex_lr']:.3g} [{fit['ci95'][0]:.3g}, {fit['ci95'][1]:.3g}]"
    cells = (
        find["label"],
        f"{find['chosen_lr']:.3g}",
        find["chosen_by"],
        vertex,
        f"{fit['r2']:.2f}" if fit is not None else "-",
        f"{find['best_measured_lr']:.3g}",
        f"{prior['lr']:.3g}" if prior is not None else "-",
    )
    return f"| {' | '.join(cells)} |"
