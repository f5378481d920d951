"""Sections about one run."""

from __future__ import annotations

from typing import Any

from rlvr.common.nested import flatten
from rlvr.report.blocks import (
    Block,
    Blocks,
    chart,
    details,
    facts,
    findings_block,
    line,
    over_steps,
    record_table,
    section,
    table,
    tiles,
)
from rlvr.report.diagnosis.diagnose import diagnose
from rlvr.report.sections.timeline import timeline_section
from rlvr.report.series import smoothed, thin, window_len
from rlvr.runs.reader import RunData

BAND = "Shaded: two standard errors of the mean of the steps averaged."

DIAGNOSIS_INTRO = (
    "Rules over the metrics of this run, each with its evidence. They point to causes worth"
    " checking first; they prove none."
)


def run_sections(run: RunData) -> Blocks:
    """What is known about the run, best first; None where there is no data."""
    signal = [_mean(run, "sampler/informative_frac"),
              _mean(run, "sampler/rollouts_per_informative_group"), *_verdicts(run)]  # fmt: skip
    lengths = [_mean(run, "rollout/response_len_mean"), _truncated(run)]
    return [
        section("summary", "In short", [summary_tiles(run)]),
        section("diagnosis", "Diagnosis", [findings_block(diagnose(run))], DIAGNOSIS_INTRO),
        section("learning", "Learning", [_mean(run, "reward/mean"), _accuracy(run)]),
        section("signal", "Signal and verdicts", signal),
        section("length", "Length and truncation", lengths),
        section("policy", "Policy and optimizer", policy_charts(run)),
        section("cost", "Time and memory", _cost_charts(run)),
        timeline_section(run),
    ]


MEANS = {
    "reward/mean": ("reward", "Mean reward of sampled responses", "reward"),
    "sampler/informative_frac": (
        "informative groups", "Groups whose rewards differ", "fraction"),
    "sampler/rollouts_per_informative_group": (
        "responses", "Responses sampled per informative group", "responses"),
    "rollout/response_len_mean": ("length", "Mean response length", "tokens"),
}  # fmt: skip
"""Name of the line, title and unit of metrics that are drawn as a running mean."""


def _mean(run: RunData, metric: str) -> Block | None:
    name, title, unit = MEANS[metric]
    series = over_steps(name, run.points(metric), 0, smooth=True)
    note = "" if unit == "responses" else BAND
    return chart(title, "step", unit, series, percent=unit == "fraction", note=note)


def summary_tiles(run: RunData) -> Block | None:
    """Accuracy before and after, or reward, and what it took."""
    s = run.summary or {}
    rewards = run.points("reward/mean")
    rows: list[tuple[str, object, str]] = []
    if "accuracy_after" in s:
        rows += [
            (name, f"{s[f'accuracy_{key}']:.3f}", _bounds(s[f"accuracy_{key}_ci95"]))
            for name, key in (("accuracy before", "before"), ("accuracy after", "after"))
        ]
        rows.append(("difference", f"{s['difference']:+.3f}", _bounds(s["difference_ci95"], "+")))
    if rewards:
        step, value = rewards[-1]
        rows.append(("reward, last step", f"{value:.3f}", f"step {step}"))
    wanted = run.setting("train.steps")
    done = run.rows[-1]["step"] if run.rows else 0
    state = "finished" if run.summary is not None else "no summary yet"
    rows.append(("steps", f"{done} / {wanted}" if wanted else done, state))
    if "seconds" in s:
        rows.append(("time", _duration(s["seconds"]), ""))
    if "trainable_parameters" in run.manifest:
        share = run.manifest.get("trainable_frac")
        note = f"{share:.2%} of all" if isinstance(share, float) else ""
        rows.append(("trained parameters", run.manifest["trainable_parameters"], note))
    return tiles(rows)


def headline(run: RunData) -> str:
    """Method, rate and seed in one line."""
    parts = [
        run.manifest.get("method") or run.setting("adapter.method"),
        f"LR {run.setting('optim.lr'):g}" if run.setting("optim.lr") else None,
        run.setting("algorithm.preset"),
        f"seed {run.setting('train.seed')}" if run.config else None,
        ", ".join(run.data_paths),
    ]
    return " · ".join(str(part) for part in parts if part)


def settings_section(run: RunData) -> Block | None:
    """The resolved recipe and the manifest."""
    modules = [{"name": n} | m for n, m in _dict(run.manifest, "modules") if isinstance(m, dict)]
    norms = sorted(_dict(run.manifest, "update_norms"), key=lambda pair: -pair[1])
    norm_table = table("Frobenius norm of the change", ("weight", "norm"), norms)
    return section(
        "settings",
        "Recipe and manifest",
        [
            _stages(run),
            details("Resolved recipe (config.toml)", [facts(flatten(run.config).items())]),
            details("Manifest: what was really trained", [manifest_facts(run)]),
            details("Trained modules", [record_table("Trained modules", MODULE_COLUMNS, modules)]),
            details("Update norm of every weight", [norm_table]),
        ],
        "The recipe says what was asked for; the manifest is read off the live objects.",
    )


def _stages(run: RunData) -> Block | None:
    """What changed at which step; None in a run without stages."""
    rows = []
    for stage in run.setting("stage", []):
        changes = flatten({key: value for key, value in stage.items() if key != "at_step"})
        shown = ", ".join(f"{key} = {value}" for key, value in changes.items())
        rows.append((stage["at_step"], shown))
    return table("Stages", ("from step", "changes"), rows)


def manifest_facts(run: RunData) -> Block | None:
    """The manifest without its long tables of modules and norms."""
    short = {k: v for k, v in run.manifest.items() if k not in ("modules", "update_norms")}
    return facts(flatten(short).items())


def _dict(manifest: dict[str, Any], name: str) -> list[tuple[str, Any]]:
    return list((manifest.get(name) or {}).items())


MODULE_COLUMNS = (
    ("module", "name"),
    ("shape", lambda m: " x ".join(map(str, m.get("shape", [])))),
    ("dtype", lambda m: str(m.get("dtype", "")).removeprefix("torch.")),
    ("rank", "rank"),
    ("scaling", "scaling"),
    ("trained tensors", lambda m: ", ".join(m.get("trained", {})) or "the weight itself"),
)


def _bounds(ci95: list[float], sign: str = "") -> str:
    return f"[{ci95[0]:{sign}.3f}, {ci95[1]:{sign}.3f}]"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def accuracy_points(run: RunData) -> list[tuple[int, dict[str, Any]]]:
    """(step, accuracy with its interval) of every evaluation."""
    return [(n, tree["accuracy"]) for n, tree in run.evals.items() if tree.get("accuracy")]


def _accuracy(run: RunData) -> Block | None:
    points = accuracy_points(run)
    values = [(n, a["value"]) for n, a in points]
    band = [(n, a["lo"], a["hi"]) for n, a in points]
    series = line("held-out accuracy, 95% over problems", values, band=band, style=1, kind="bars")
    note = _pass_change(run)
    return chart("Held-out accuracy", "step", "accuracy", [series], percent=True, note=note)


def _pass_change(run: RunData) -> str:
    """How many problems went from wrong to right between the first and the last evaluation."""
    if len(run.evals) < 2:
        return ""
    (first, before), *_, (last, after) = run.evals.items()
    pairs = list(zip(before.get("fractions", []), after.get("fractions", []), strict=False))
    better, worse = sum(b > a for a, b in pairs), sum(b < a for a, b in pairs)
    return (
        f"Between steps {first} and {last}, {better} of {len(pairs)} held-out problems were solved"
        f" more often, {worse} less often, {len(pairs) - better - worse} as often as before."
    )


def _verdicts(run: RunData) -> Blocks:
    names = sorted(
        {k for row in run.rows for k in row if k.startswith("reward/") and k.endswith("_frac")}
    )
    # most reasons of the verifier never occur in a run
    shown = [name for name in names if any(run.values(name))]
    series = [
        line(name.removeprefix("reward/").removesuffix("_frac"), smoothed(points), style=i)
        for i, name in enumerate(shown)
        if (points := run.points(name))
    ]
    note = f"Means of {window_len(len(run.rows))} steps."
    verdicts = chart("Verdicts", "step", "fraction of responses", series, percent=True, note=note)
    if not any(run.values("verify/failure_frac")):
        return [verdicts]
    failed = over_steps("failures", run.points("verify/failure_frac"), 0)
    title = "Failures of the verifier"
    return [verdicts, chart(title, "step", "fraction of verdicts", failed, percent=True)]


def _truncated(run: RunData) -> Block | None:
    series = over_steps("truncated", run.points("rollout/truncated_frac"), 0)
    limit = run.setting("rollout.max_response_len")
    title = f"Responses cut off at {limit} tokens" if limit else "Responses cut off"
    return chart(title, "step", "fraction", series, percent=True, from_zero=True)


POLICY = (
    ("policy/entropy", "Entropy", "nats per token", False),
    ("policy/loss", "Loss (no measure of progress)", "loss", False),
    ("optim/grad_norm", "Gradient norm before clipping", "norm", False),
    ("policy/kl_ref", "KL to the reference policy", "nats per token", False),
    ("policy/kl_engine", "KL from engine to trainer", "nats per token", True),
    ("policy/clip_frac", "Tokens whose ratio is clipped", "fraction", False),
    ("policy/ratio_max", "Largest trainer / engine probability", "ratio", True),
    ("sync/logprob_error", "Engine against trainer after the sync", "nats", True),
    ("optim/lr", "Learning rate", "rate", False),
)
"""Metric, title, unit, and whether the axis is logarithmic."""

FLOOR = 1e-8
"""Lowest value on a logarithmic axis."""


def policy_charts(run: RunData) -> Blocks:
    """One chart for each metric of the policy."""
    charts = []
    for metric, title, unit, log in POLICY:
        points, note = run.points(metric), ""
        # on-policy nothing is clipped, and a line at 0 says no more
        if metric == "policy/clip_frac" and not any(run.values(metric)):
            continue
        if log:  # rounding leaves the KL of equal policies at or a hair below 0
            points = [(step, max(value, FLOOR)) for step, value in points]
            note = f"Below {FLOOR:g}: drawn there." if any(y == FLOOR for _, y in points) else ""
        series = over_steps(unit, points, 0)
        charts.append(chart(title, "step", unit, series, log_y=log, note=note))
    return charts


COSTS = (
    ("Seconds of a step", "seconds",
     {name: f"time/{name}_s" for name in ("rollout", "verify", "train", "sync")}),
    ("Tokens per second", "tokens/s",
     {"generated": "rollout/tokens_per_s", "trained (with prompts)": "train/tokens_per_s"}),
    ("Peak memory", "GiB",
     {name: f"memory/{name}_gib" for name in ("peak", "trainer", "engine")}),
)  # fmt: skip
"""Title, unit, and metrics by the name of their line."""


def _cost_charts(run: RunData) -> Blocks:
    return [
        chart(
            title,
            "step",
            unit,
            [line(n, thin(run.points(m)), style=i) for i, (n, m) in enumerate(metrics.items())],
            from_zero=True,
        )
        for title, unit, metrics in COSTS
    ]
