"""Figures and table of the control of SVD initialisation.

    python tests/benchmarks/svd_control_figures.py control.json --out docs

Writes svd_control_reward.png, svd_control_drift.png and svd_control_spectrum.png, and prints the
table and the paired differences as Markdown. Intervals are over seeds and problems
(docs/compare.md); the range over seeds stands beside.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from rlvr.compare.statistics import difference, mean_interval

COLOURS = {"lora": "#555555", "pissa": "#0072b2", "milora": "#d55e00"}
Runs = dict[str, list[dict[str, Any]]]

PAIRS = [
    ("own rate - LoRA's rate, PiSSA", "pissa_lora_lr", "pissa_own_lr"),
    ("own rate - LoRA's rate, MiLoRA", "milora_lora_lr", "milora_own_lr"),
    ("pristine - in place, LoRA", "lora_inplace", "lora"),
    ("pristine - in place, PiSSA, LoRA's rate", "pissa_lora_lr_inplace", "pissa_lora_lr"),
    ("pristine - in place, PiSSA, own rate", "pissa_own_lr_inplace", "pissa_own_lr"),
    ("pristine - in place, MiLoRA, LoRA's rate", "milora_lora_lr_inplace", "milora_lora_lr"),
    ("pristine - in place, MiLoRA, own rate", "milora_own_lr_inplace", "milora_own_lr"),
    ("PiSSA (own rate, pristine) - LoRA (pristine)", "lora", "pissa_own_lr"),
    ("MiLoRA (own rate, pristine) - LoRA (pristine)", "lora", "milora_own_lr"),
]


def main() -> None:
    """Draws and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("json", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="folder for the figures")
    args = parser.parse_args()
    runs: Runs = defaultdict(list)
    for row in json.loads(args.json.read_text())["results"]:
        runs[row["label"]].append(row)
    args.out.mkdir(parents=True, exist_ok=True)
    curves(runs, args.out / "svd_control_reward.png", "reward", "mean reward of the step")
    drift(runs, args.out / "svd_control_drift.png")
    spectrum(runs, args.out / "svd_control_spectrum.png")
    print(table(runs), "", differences(runs), sep="\n")


def panels(runs: Runs, height: float) -> tuple[Any, list[tuple[Any, str, list[str]]]]:
    """A figure with one panel per method and rate: (axes, title, labels of its runs)."""
    groups: dict[tuple[str, float], list[str]] = defaultdict(list)
    for label, rows in runs.items():
        groups[rows[0]["method"], rows[0]["lr"]].append(label)
    figure, axes = plt.subplots(
        1, len(groups), figsize=(3.1 * len(groups), height), sharey=True, squeeze=False
    )
    titled = [
        (ax, f"{method}, LR {lr:g}", labels)
        for ax, ((method, lr), labels) in zip(axes[0], groups.items(), strict=True)
    ]
    for ax, title, _ in titled:
        ax.set_title(title, fontsize=10)
        ax.grid(alpha=0.3)
    return figure, titled


def style(row: dict[str, Any]) -> dict[str, Any]:
    """Colour by method; in-place arms are dashed."""
    return {
        "color": COLOURS[row["method"]],
        "linestyle": "--" if row["inplace"] else "-",
        "label": "merged in place" if row["inplace"] else "pristine base",
    }


def save(figure: Any, titled: list[tuple[Any, str, list[str]]], path: Path) -> None:
    titled[0][0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def band(ax: Any, x: Any, series: list[list[float]], row: dict[str, Any]) -> None:
    """Mean over seeds as a line, smallest to largest as a band; a collapsed run ends early."""
    values = np.full((len(series), len(x)), np.nan)
    for line, entries in zip(values, series, strict=True):
        line[: len(entries)] = entries
    ax.plot(x, np.nanmean(values, axis=0), **style(row))
    low, high = np.nanmin(values, axis=0), np.nanmax(values, axis=0)
    ax.fill_between(x, low, high, color=COLOURS[row["method"]], alpha=0.12)


def curves(runs: Runs, path: Path, name: str, text: str) -> None:
    """A series over steps, one panel per method and rate."""
    figure, titled = panels(runs, 2.8)
    for ax, _, labels in titled:
        for label in labels:
            rows = runs[label]
            x = range(1, max(len(row["series"][name]) for row in rows) + 1)
            band(ax, x, [row["series"][name] for row in rows], rows[0])
        ax.set_xlabel("step")
    titled[0][0].set_ylabel(text)
    save(figure, titled, path)


def drift(runs: Runs, path: Path) -> None:
    """How far the frozen weights went, against the final size of the learned update."""
    figure, titled = panels({k: v for k, v in runs.items() if v[0]["inplace"]}, 2.8)
    for ax, _, labels in titled:
        for label in labels:
            rows = runs[label]
            series = [[d / row["learned_norm"] for d in row["drift"]] for row in rows]
            band(ax, range(max(map(len, series))), series, rows[0])
        ax.set_xlabel("step")
    titled[0][0].set_ylabel("||drift|| / ||learned update||")
    save(figure, titled, path)


def spectrum(runs: Runs, path: Path) -> None:
    """Cumulative energy of the change along the base's singular directions."""
    figure, titled = panels(runs, 2.8)
    for ax, _, labels in titled:
        for label in labels:
            rows = runs[label]
            points = [[m["energy"] for m in row["modules"]] for row in rows]
            x = np.linspace(0, 1, 33)
            series = [
                np.mean([np.interp(x, *np.array(energy).T) for energy in modules], axis=0)
                for modules in points
            ]
            band(ax, x, [list(s) for s in series], rows[0])
        ax.set_xlabel("fraction of base directions")
    titled[0][0].set_ylabel("energy along them")
    save(figure, titled, path)


def fractions(rows: list[dict[str, Any]], when: str = "after") -> np.ndarray:
    """[seeds, problems] right responses before or after training."""
    return np.array([row[f"accuracy_{when}"]["fractions"] for row in rows])


def table(runs: Runs) -> str:
    """One line per arm."""
    lines = [
        "| method | LR | base | seeds | collapsed | accuracy before | after [95%] | seeds' range"
        " | reward, last 5 | drift / update | rank 90% | energy top 10% |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for rows in runs.values():
        first = rows[0]
        after = mean_interval(fractions(rows))
        seeds = [row["accuracy_after"]["accuracy"]["value"] for row in rows]
        modules = [module for row in rows for module in row["modules"]]
        mean = {
            key: np.mean([module[key] for module in modules]) for key in ("rank90", "energy_top10")
        }
        cells = [
            first["method"],
            f"{first['lr']:g}",
            "in place" if first["inplace"] else "pristine",
            str(len(rows)),
            str(sum(row["collapsed_at"] is not None for row in rows)),
            f"{100 * fractions(rows, 'before').mean():.1f}",
            f"{100 * after.value:.1f} [{100 * after.lo:.1f}, {100 * after.hi:.1f}]",
            f"{100 * min(seeds):.1f} to {100 * max(seeds):.1f}",
            f"{np.mean([row['reward_last'] for row in rows]):.3f}",
            f"{np.mean([row['drift_over_update'] for row in rows]):.3f}",
            f"{mean['rank90']:.1f}",
            f"{mean['energy_top10']:.3f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def differences(runs: Runs) -> str:
    """Accuracy differences in points: interval over problems, and each seed's own."""
    lines = ["| difference in accuracy | points [95%] | by seed |", "|---|---|---|"]
    for name, a, b in PAIRS:
        if a not in runs or b not in runs:
            continue
        by_seed = {row["seed"]: row for row in runs[a]}
        both = [(by_seed[row["seed"]], row) for row in runs[b] if row["seed"] in by_seed]
        if not both:
            continue
        ours, base = fractions([y for _, y in both]), fractions([x for x, _ in both])
        found = difference(ours, base)[0]
        each = [
            y["accuracy_after"]["accuracy"]["value"] - x["accuracy_after"]["accuracy"]["value"]
            for x, y in both
        ]
        points = f"{100 * found.value:+.1f} [{100 * found.lo:+.1f}, {100 * found.hi:+.1f}]"
        lines.append(f"| {name} | {points} | {', '.join(f'{100 * e:+.1f}' for e in each)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
