"""Sections about checkpoints: spectra of the updates, entanglement, forgetting."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

from rlvr.report.blocks import (
    Block,
    Blocks,
    chart,
    details,
    facts,
    forest,
    line,
    section,
    table,
)
from rlvr.report.series import evenly

Curve = Sequence[tuple[float, float]]

Analyses = dict[str, dict[str, Any]]
"""Contents of analysis.json by label."""

MAX_BANDS = 4
"""Curves of one chart that can be shaded without hiding each other."""


def analysis_sections(analyses: Analyses) -> Blocks:
    """Spectra, entanglement and forgetting of every analysed checkpoint."""
    return [
        section("spectra", "Spectra of the updates", _spectra(analyses), SPECTRA_INTRO),
        section("entanglement", "Entanglement profiles", _entanglement(analyses), CUT_INTRO),
        section("forgetting", "Forgetting and diversity", _forgetting(analyses)),
    ]


SPECTRA_INTRO = (
    "dW is the trained weight minus the base's. Energy: (u_i' dW v_i)\u00b2 / ||dW||\u00b2, summed"
    " from the base's largest singular direction on. It is the part of dW that rescales these"
    " directions and need not reach 1; a straight line means no preference among them."
)
CUT_INTRO = (
    "dW reshaped by the prime factors of its rows and columns, as a matrix product state; entropy"
    " in nats at every cut."
)


def _spectra(analyses: Analyses) -> Blocks:
    blocks: Blocks = []
    several = len(analyses) > 1
    if several:
        blocks += _charts_of("all modules", {label: a["modules"] for label, a in analyses.items()})
        blocks.append(_norm_chart(analyses))
    for label, a in analyses.items():
        by_kind = _by_kind(a)
        if not several:
            blocks += [*_charts_of("by kind of module", by_kind), _norm_chart({"all modules": a})]
        prefix = f"{label}: " if several else ""
        blocks += [_kind_table(prefix, by_kind), _curvature(prefix, a.get("curvature"))]
        blocks.append(_shared_angles(a.get("difference") or {}))
    return blocks


def _by_kind(tree: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for module in tree.get("modules") or []:
        by_kind.setdefault(str(module.get("kind")), []).append(module)
    return by_kind


def _norm_chart(analyses: Analyses) -> Block | None:
    series = [
        line(name, [(row["layer"], row["norm"]) for row in a.get("by_layer") or []], style=i,
             kind="marks")
        for i, (name, a) in enumerate(analyses.items())
    ]  # fmt: skip
    alone = len(series) == 1
    return chart("Norm of the update by layer", "layer", "norm", series, from_zero=alone)


def _charts_of(what: str, groups: dict[str, list[dict[str, Any]]]) -> Blocks:
    """Median curves over the modules of each group: energy, singular values, angles."""

    def series(curve_of: Callable[[dict[str, Any]], Curve]) -> Blocks:
        return [
            _median_line(name, [curve_of(m) for m in modules], i, len(groups) <= MAX_BANDS)
            for i, (name, modules) in enumerate(groups.items())
        ]

    note = f"Median over modules ({what})"
    note += "; shaded: lowest to highest module." if len(groups) <= MAX_BANDS else "."
    return [
        chart(
            "Energy of the update along the base's singular directions",
            "fraction of the base's directions",
            "cumulative share",
            series(lambda m: [(x, y) for x, y in m.get("energy") or []]),
            percent=True,
            note=note,
        ),
        chart(
            "Singular values of the update",
            "index",
            "relative to the largest",
            series(_relative_values),
            log_y=True,
            note=note,
        ),
        chart(
            "Principal angles between the top subspaces of update and base",
            "index",
            "degrees",
            series(lambda m: _numbered(m, "principal_angles_deg")),
            from_zero=True,
            note=note,
        ),
    ]


def _shared_angles(difference: dict[str, Any]) -> Block | None:
    """Where the updates of two checkpoints point, against each other."""
    series = [
        _median_line(kind, [_numbered(m, "shared_angles_deg") for m in modules], i, False)
        for i, (kind, modules) in enumerate(_by_kind(difference).items())
    ]
    title = "Principal angles between the two updates' top subspaces"
    note = "0 degrees: they write into the same directions."
    return chart(title, "index", "degrees", series, from_zero=True, note=note)


def _numbered(module: dict[str, Any], key: str) -> Curve:
    """The values against their index from 1."""
    return list(enumerate(module.get(key) or [], start=1))


def _relative_values(module: dict[str, Any]) -> Curve:
    values = module.get("singular_values") or []
    if not values or values[0] <= 0:
        return []
    # below that float32 has only rounding, which a logarithmic axis would show as a tail
    return [(i, v / values[0]) for i, v in enumerate(values, start=1) if v > 1e-7 * values[0]]


def _median_line(name: str, curves: list[Curve], style: int, banded: bool) -> Block | None:
    """The median curve over the x that occur; banded: with lowest and highest."""
    by_x: dict[float, list[float]] = {}
    for curve in curves:
        for x, y in curve:
            # modules of other sizes have their fractions elsewhere by rounding
            by_x.setdefault(round(x, 4), []).append(y)
    # where few curves still go on, their median is that of other modules
    common = sorted(x for x, ys in by_x.items() if len(ys) >= max(1, len(curves) // 2))
    if not common:
        return None
    band = [(x, min(by_x[x]), max(by_x[x])) for x in common] if banded and len(curves) > 1 else []
    return line(name, [(x, median(by_x[x])) for x in common], style=style, band=band)


FACTS = (
    ("rank90", "rank for 90% energy"),
    ("stable_rank", "stable rank"),
    ("relative_norm", "norm / base norm"),
    ("energy_top10", "energy in top 10%"),
    ("changed_bf16_frac", "entries changed in bf16"),
    ("sparsity", "sparsity"),
)


def _kind_table(prefix: str, by_kind: dict[str, list[dict[str, Any]]]) -> Block | None:
    rows = []
    for kind, modules in by_kind.items():
        cells: list[object] = [kind, len(modules)]
        for key, _ in FACTS:
            values = [m[key] for m in modules if isinstance(m.get(key), (int, float))]
            cells.append(median(values) if values else None)
        rows.append(cells)
    columns = ("kind", "modules", *(title for _, title in FACTS))
    return table(f"{prefix}Medians over the modules of a kind", columns, rows)


def _curvature(prefix: str, curvature: dict[str, Any] | None) -> Block | None:
    if not curvature:
        return None
    # the steepest ones, which bound the learning rate (2602.04998)
    modules = sorted((curvature.get("modules") or {}).items(), key=lambda pair: -pair[1])[:12]
    rows = [("all trained parameters", curvature.get("whole")), *modules]
    title = f"{prefix}Largest Hessian eigenvalue"
    return details(title, [table(title, ("parameters", "eigenvalue"), rows)])


def _entanglement(analyses: Analyses) -> Blocks:
    blocks: Blocks = []
    for label, a in analyses.items():
        prefix = f"{label}: " if len(analyses) > 1 else ""
        entries = a.get("entanglement") or []
        for what in dict.fromkeys(entry["what"] for entry in entries):
            chosen = evenly([entry for entry in entries if entry["what"] == what], 5)
            series = [_profile(entry, i) for i, entry in enumerate(chosen)]
            blocks.append(chart(f"{prefix}{what}", "cut", "entropy (nats)", series, from_zero=True))
    return blocks


def _profile(entry: dict[str, Any], style: int) -> Block:
    name = f"layer {entry['layer']}" if entry.get("layer") is not None else entry["name"]
    points = list(zip(entry["cuts"], entry["entropy"], strict=False))
    return line(name, points, style=style, kind="marks")


def _forgetting(analyses: Analyses) -> Blocks:
    rows = []
    blocks: Blocks = []
    for label, a in analyses.items():
        tasks = a.get("forgetting") or {}
        before = tasks.get("before") or {}
        for task, value in tasks.items():
            # "before" stands among the tasks, and has the base's results on each
            if task != "before":
                start = before.get(task)
                if isinstance(start, dict):
                    rows.append((f"{task}, before", start, "", False))
                rows.append((f"{task}, {label}", value, "", True))
    blocks.append(forest("Accuracy on tasks that were not trained", "percent", rows))
    for label, a in analyses.items():
        if a.get("diversity"):
            prefix = f"{label}: " if len(analyses) > 1 else "diversity: "
            blocks.append(facts((prefix + key, _told(v)) for key, v in a["diversity"].items()))
    return blocks


def _told(value: object) -> object:
    """An interval as `0.440 [0.360, 0.520]`, anything else as it is."""
    if isinstance(value, dict) and "ci95" in value:
        lo, hi = value["ci95"]
        return f"{value['value']:.3f} [{lo:.3f}, {hi:.3f}]"
    return value
