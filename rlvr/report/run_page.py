"""Sections about one run."""

from __future__ import annotations

from typing import Any

from rlvr.report.blocks import (
    Block,
    chart,
    details,
    facts,
    findings_block,
    flatten,
    line,
    over_steps,
    section,
    table,
    tiles,
)
from rlvr.report.diagnosis.diagnose import diagnose
from rlvr.report.diagnosis.series import smoothed, thin, window_len
from rlvr.report.folder import RunData

BAND = "Shaded: two standard errors of the mean of the steps averaged."


def run_sections(run: RunData) -> list[Block | None]:
    """What is known about the run, best first; None where there is no data."""
    return [
        section("summary", "In short", [summary_tiles(run)]),
        section("diagnosis", "Diagnosis", [findings_block(diagnose(run))], DIAGNOSIS_INTRO),
        section("learning", "Learning", [_reward(run), _accuracy(run)]),
        section("signal", "Signal and verdicts", [_informative(run), _cost(run), *_verdicts(run)]),
        section("length", "Length and truncation", [_length(run), _truncated(run)]),
        section("policy", "Policy and optimizer", policy_charts(run)),
        section("cost", "Time and memory", [_times(run), *_throughput(run)]),
    ]


DIAGNOSIS_INTRO = (
    "Rules over the metrics of this run, each with its evidence. They point to causes worth"
    " checking first; they prove none."
)


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
        run.setting("data.path"),
    ]
    return " · ".join(str(part) for part in parts if part)


def settings_section(run: RunData) -> Block | None:
    """The resolved recipe and the manifest."""
    manifest = {k: v for k, v in run.manifest.items() if k not in ("modules", "update_norms")}
    return section(
        "settings",
        "Recipe and manifest",
        [
            details("Resolved recipe (config.toml)", [facts(flatten(run.config).items())]),
            details("Manifest: what was really trained", [facts(flatten(manifest).items())]),
            details("Trained modules", [_modules(run.manifest.get("modules", {}))]),
            details("Update norm of every weight", [_norms(run.manifest)]),
        ],
        "The recipe says what was asked for; the manifest is read off the live objects.",
    )


def _bounds(ci95: list[float], sign: str = "") -> str:
    return f"[{ci95[0]:{sign}.3f}, {ci95[1]:{sign}.3f}]"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _reward(run: RunData) -> Block | None:
    series = over_steps("reward", run.points("reward/mean"), 0, smooth=True)
    return chart("Mean reward of sampled responses", "step", "reward", series, note=BAND)


def accuracy_points(run: RunData) -> list[tuple[int, dict[str, Any]]]:
    """(step, accuracy with its interval) of every evaluation."""
    return [(n, tree["accuracy"]) for n, tree in run.evals.items() if tree.get("accuracy")]


def _accuracy(run: RunData) -> Block | None:
    points = accuracy_points(run)
    series = line(
        "held-out accuracy, 95% over problems",
        [(n, a["value"]) for n, a in points],
        band=[(n, a["lo"], a["hi"]) for n, a in points],
        style=1,
        kind="bars",
    )
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


def _informative(run: RunData) -> Block | None:
    points = run.points("sampler/informative_frac")
    series = over_steps("informative groups", points, 0, smooth=True)
    return chart("Groups whose rewards differ", "step", "fraction", series, note=BAND, percent=True)


def _cost(run: RunData) -> Block | None:
    points = run.points("sampler/rollouts_per_informative_group")
    series = over_steps("responses", points, 0, smooth=True)
    return chart("Responses sampled per informative group", "step", "responses", series)


def _verdicts(run: RunData) -> list[Block | None]:
    names = sorted(
        {k for row in run.rows for k in row if k.startswith("reward/") and k.endswith("_frac")}
    )
    shown = [name for name in names if any(run.values(name))]
    series = [
        line(name.removeprefix("reward/").removesuffix("_frac"), smoothed(points), style=i)
        for i, name in enumerate(shown)
        if (points := run.points(name))
    ]
    note = f"Means of {window_len(len(run.rows))} steps."
    failures = over_steps("failures", run.points("verify/failure_frac"), 0)
    alarm = any(run.values("verify/failure_frac"))
    return [
        chart("Verdicts", "step", "fraction of responses", series, percent=True, note=note),
        chart("Failures of the verifier", "step", "fraction of verdicts", failures, percent=True)
        if alarm
        else None,
    ]


def _length(run: RunData) -> Block | None:
    series = over_steps("length", run.points("rollout/response_len_mean"), 0, smooth=True)
    return chart("Mean response length", "step", "tokens", series, note=BAND)


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


def policy_charts(run: RunData) -> list[Block | None]:
    """One chart for each metric of the policy."""
    charts = []
    for metric, title, unit, log in POLICY:
        points = run.points(metric)
        if log:  # rounding leaves the KL of equal policies at or a hair below 0
            points = [(step, max(value, FLOOR)) for step, value in points]
        if points and (metric != "policy/clip_frac" or any(run.values(metric))):
            series = over_steps(unit, points, 0)
            note = (
                f"Below {FLOOR:g}: drawn there."
                if log and any(y == FLOOR for _, y in points)
                else ""
            )
            charts.append(chart(title, "step", unit, series, log_y=log, note=note))
    return charts


def _times(run: RunData) -> Block | None:
    names = ("rollout", "verify", "train", "sync")
    series = [
        line(name, thin(run.points(f"time/{name}_s")), style=i) for i, name in enumerate(names)
    ]
    return chart("Seconds of a step", "step", "seconds", series, from_zero=True)


def _throughput(run: RunData) -> list[Block | None]:
    generated = line("generated", thin(run.points("rollout/tokens_per_s")), style=0)
    trained = line("trained (with prompts)", thin(run.points("train/tokens_per_s")), style=1)
    memory = line("peak", thin(run.points("memory/peak_gib")), style=0)
    return [
        chart("Tokens per second", "step", "tokens/s", [generated, trained], from_zero=True),
        chart("Peak memory so far", "step", "GiB", [memory], from_zero=True),
    ]


def _modules(modules: dict[str, Any]) -> Block | None:
    columns = ("module", "shape", "dtype", "rank", "scaling", "trained tensors")
    rows = [
        (
            name,
            " x ".join(map(str, m.get("shape", []))),
            str(m.get("dtype", "")).removeprefix("torch."),
            m.get("rank"),
            m.get("scaling"),
            ", ".join(m.get("trained", {})) or "the weight itself",
        )
        for name, m in modules.items()
        if isinstance(m, dict)
    ]
    return table("Trained modules", columns, rows)


def _norms(manifest: dict[str, Any]) -> Block | None:
    norms = manifest.get("update_norms") or {}
    rows = [(name, norm) for name, norm in sorted(norms.items(), key=lambda pair: -pair[1])]
    return table("Frobenius norm of the change", ("weight", "norm"), rows)
