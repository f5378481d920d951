"""The section about learning rates: parabola, vertex and interval of every find."""

from __future__ import annotations

import math
from typing import Any

from rlvr.report.blocks import Block, chart, findings_block, line, mark, record_table, section, show
from rlvr.report.diagnosis.finding import Finding

NUM_CURVE_POINTS = 80
SEED_STYLES = (0, 2, 5, 6)


def lr_section(finds: list[dict[str, Any]]) -> Block | None:
    """One chart per find, what was found as a table, and what to doubt about it."""
    doubts = findings_block(finding for find in finds for finding in lr_findings(find))
    return section(
        "learning-rates",
        "Learning rates",
        [*map(_parabola, finds), record_table("Learning rates found", COLUMNS, finds), doubts],
        "Short runs on a grid of rates; value = c0 + c1 u + c2 u\u00b2 with u = ln LR. The vertical"
        " band is the 95% interval of the vertex.",
    )


def lr_findings(find: dict[str, Any]) -> list[Finding]:
    """Warnings of the find itself, and a chosen rate outside the interval of the vertex."""
    name, fit, chosen = _name(find), find.get("fit"), find.get("chosen_lr")
    found = []
    if find.get("warnings"):
        found.append(
            Finding("lr_find", "warning", f"{name}: the find has warnings", tuple(find["warnings"]))
        )
    if fit and chosen and not fit["ci95"][0] <= chosen <= fit["ci95"][1]:
        side = "low" if chosen < fit["ci95"][0] else "high"
        lo, hi = (f"{x:.3g}" for x in fit["ci95"])
        found.append(
            Finding(
                "lr_outside_interval",
                "warning",
                f"{name}: the chosen learning rate may be too {side}",
                (f"chosen {chosen:.3g} ({find.get('chosen_by')}), vertex {fit['vertex_lr']:.3g}"
                 f" [{lo}, {hi}], R\u00b2 {show(fit.get('r2'))}",),
                (f"--optim.lr {fit['vertex_lr']:.3g}",),
            )
        )  # fmt: skip
    return found


def _name(find: dict[str, Any]) -> str:
    rank, name = find.get("rank"), str(find.get("label") or find.get("method") or "?")
    return f"{name}, rank {rank}" if rank else name


def _parabola(find: dict[str, Any]) -> Block | None:
    points = [p for p in find.get("points", []) if p.get("value") is not None and p["lr"] > 0]
    done: dict[object, list[tuple[float, float]]] = {}
    for p in points:
        # a run that was stopped early has the value of fewer steps: no part of the fit
        if not p.get("stopped"):
            done.setdefault(p.get("seed"), []).append((p["lr"], p["value"]))
    stopped = sorted((p["lr"], p["value"]) for p in points if p.get("stopped"))
    fit, marks, curve = find.get("fit"), [], None
    if fit and points:
        lowest = min(p["value"] for p in points)
        # below the worst run the parabola says nothing, and would flatten the rest of the chart
        curve = [(x, y) for x, y in _curve(fit, [p["lr"] for p in points]) if y >= lowest]
        marks.append(mark("vertex", fit["vertex_lr"], 1, fit["ci95"]))
    if find.get("chosen_lr"):
        marks.append(mark(f"chosen ({find.get('chosen_by', '?')})", find["chosen_lr"], 3))
    return chart(
        f"{_name(find)}: value against learning rate",
        "learning rate",
        "value",
        [
            *(
                line(f"seed {seed}", sorted(values), style=SEED_STYLES[i % 4], kind="points")
                for i, (seed, values) in enumerate(done.items())
            ),
            line("stopped early", stopped, style=4, kind="points"),
            line("quadratic fit", curve, style=1) if curve else None,
        ],
        log_x=True,
        marks=marks,
    )


def _curve(fit: dict[str, Any], lrs: list[float]) -> list[tuple[float, float]]:
    c0, c1, c2 = fit["coefficients"]
    lo, hi = math.log(min(lrs)), math.log(max(lrs))
    steps = range(NUM_CURVE_POINTS + 1)
    us = [lo + (hi - lo) * i / NUM_CURVE_POINTS for i in steps]
    return [(math.exp(u), c0 + c1 * u + c2 * u * u) for u in us]


def _vertex(find: dict[str, Any]) -> str | None:
    fit = find.get("fit")
    return f"{show(fit['vertex_lr'])} [{show(fit['ci95'])}]" if fit else None


COLUMNS = (
    ("method", _name),
    ("prior", lambda find: (find.get("prior") or {}).get("lr")),
    ("prior / LoRA", lambda find: (find.get("prior") or {}).get("ratio_to_lora")),
    ("vertex", _vertex),
    ("R\u00b2", lambda find: (find.get("fit") or {}).get("r2")),
    ("best measured", "best_measured_lr"),
    ("chosen", "chosen_lr"),
    ("by", "chosen_by"),
)
