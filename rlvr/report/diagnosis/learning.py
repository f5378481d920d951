"""Findings about learning itself: the loss, whether reward rises, the learning rate."""

from __future__ import annotations

from statistics import median
from typing import Any

from rlvr.report.diagnosis.finding import Finding
from rlvr.report.series import ends, running_mean, trend, window_len
from rlvr.runs.reader import RunData

MIN_STEPS = 20
"""Fewer steps do not tell learning from noise."""

LR_REMEDY = "rlvr lr-find RECIPE.toml measures the best rate of this method"


def loss_near_zero(run: RunData) -> Finding | None:
    """A loss near 0, the most asked question of all: it is normal and says nothing of progress."""
    losses, norms = run.values("policy/loss"), run.values("optim/grad_norm")
    if not losses or (norms and median(norms) < 1e-9):  # then `no_gradient` has the word
        return None
    size = median(map(abs, losses))
    if size > 0.1:
        return None
    evidence = [
        f"median |policy/loss| is {size:.2g} over {len(losses)} steps, up to"
        f" {max(map(abs, losses)):.2g}",
        "the advantages of a group sum to 0 and the ratio of fresh samples is 1, so the loss's"
        " value cancels (what is left comes from unequal lengths); its gradient does not",
    ]
    if norms:
        evidence.append(f"optim/grad_norm has a median of {median(norms):.2g}: the policy is moved")
    return Finding(
        "loss_near_zero",
        "note",
        "The loss is near 0: normal, it does not measure progress",
        tuple(evidence),
        ("watch reward/mean and the held-out accuracy instead",),
    )


def no_gradient(run: RunData) -> Finding | None:
    """Steps with a gradient of exactly 0, or next to it."""
    norms = run.points("optim/grad_norm")
    dead = [step for step, norm in norms if norm < 1e-9]
    if len(norms) < 3 or len(dead) < 0.2 * len(norms):
        return None
    return Finding(
        "no_gradient",
        "problem" if len(dead) > 0.5 * len(norms) else "warning",
        "Steps without a gradient: nothing was trained in them",
        (f"optim/grad_norm is 0 in {len(dead)} of {len(norms)} steps, first at step {dead[0]}",),
        (
            "set sampling.dynamic = true, so that every step has groups whose rewards differ",
            "if the rewards do differ: check adapter.target_modules in the manifest",
        ),
    )


def _signs_of_large_steps(run: RunData) -> list[str]:
    """What else a learning rate that is too high leaves behind, as evidence."""
    signs = []
    start, end = ends(run, "optim/grad_norm", 10) or (0.0, 0.0)
    if start > 0 and end > 10 * start:
        signs.append(f"optim/grad_norm grew from {start:.2g} to {end:.2g}")
    start, end = ends(run, "policy/entropy", 10) or (0.0, 0.0)
    # driven too far, a policy ends up random or certain
    if start > 0 and (end > 3 * start or end < 0.05 * start):
        signs.append(f"policy/entropy went from {start:.3g} to {end:.3g} nats")
    for name, limit in (("policy/kl_ref", 0.3), ("policy/clip_frac", 0.2)):
        _, end = ends(run, name, 10) or (0.0, 0.0)
        if end > limit:
            signs.append(f"{name} ended at {end:.2g}")
    longest = run.setting("rollout.max_response_len")
    start, end = ends(run, "rollout/response_len_mean", 10) or (0.0, 0.0)
    if longest and start < 0.6 * longest and end > 0.95 * longest:
        signs.append(f"responses grew from {start:.0f} tokens to the limit of {longest}")
    return signs


def lr_too_high(run: RunData) -> Finding | None:
    """Reward that rose or stood and then fell for good, or two other signs of too large steps."""
    points = run.points("reward/mean")
    if len(points) < MIN_STEPS or not _comparable(run):
        return None
    window = window_len(len(points))
    smooth = running_mean(points, window)
    # the first means are over fewer steps than a window: one lucky step would be the peak
    peak_step, peak, peak_half = max(smooth[window - 1 :], key=lambda point: point[1])
    _, end, end_half = smooth[-1]
    scale = run.setting("reward.correct", 1.0) - run.setting("reward.incorrect", 0.0)
    # a tenth of what a reward can be, and out of reach of both means' own noise
    fell = peak - end > max(0.1 * scale, 1.5 * (peak_half + end_half))
    signs = _signs_of_large_steps(run)
    if not fell and len(signs) < 2:  # one sign alone is common in healthy runs
        return None
    fall = (
        f"reward/mean (running mean) fell from {peak:.3f} at step {peak_step} to {end:.3f} at"
        f" step {points[-1][0]}"
    )
    return Finding(
        "lr_too_high",
        "problem" if fell else "warning",
        "The learning rate is too high" if signs else "Reward fell: suspect the learning rate",
        (*([fall] if fell else []), *signs, f"optim.lr = {run.setting('optim.lr', 0.0):g}"),
        (
            "lower optim.lr by 3, or set optim.warmup_steps and optim.schedule",
            LR_REMEDY,
            "go on from the checkpoint before the fall",
        ),
    )


def not_learning(run: RunData) -> Finding | None:
    """Reward that does not rise: the rate is too low, the ceiling is near, or something else."""
    values = run.values("reward/mean")
    # a rate that is too high explains a reward that does not rise
    if len(values) < MIN_STEPS or not _comparable(run) or lr_too_high(run) is not None:
        return None
    change = trend(values)
    if change.z >= 2:  # about one chance in 40
        return None
    low, high = run.setting("reward.incorrect", 0.0), run.setting("reward.correct", 1.0)
    level = (change.end - low) / (high - low)
    seen = (
        f"reward/mean went from {change.start:.3f} (first fifth) to {change.end:.3f} (last fifth of"
        f" {len(values)} steps): {change.z:+.1f} standard errors"
    )
    if level > 0.9:
        return Finding(
            "near_ceiling",
            "note",
            "Reward is near its ceiling: little is left to learn here",
            (seen,),
            ("take harder problems (data.levels, data.path)",),
        )
    still = _stands_still(run)
    if still:
        return Finding(
            "lr_too_low",
            "warning",
            "No learning, and the policy hardly moves: the learning rate is too low",
            (seen, *still, f"optim.lr = {run.setting('optim.lr', 0.0):g}"),
            ("raise optim.lr by 3 to 10", LR_REMEDY),
        )
    return Finding(
        "not_learning",
        "warning",
        "Reward does not rise",
        (seen, "the policy does change, so the learning rate alone is not the cause"),
        (
            "see the other findings first: signal, truncation, entropy",
            "train longer, or raise rollout.prompts_per_step to see smaller improvements",
            LR_REMEDY,
        ),
    )


def _stands_still(run: RunData) -> list[str]:
    """Evidence that the policy is where it was; [] when anything shows that it moved."""
    entropy, kl = ends(run, "policy/entropy", 1), ends(run, "policy/kl_ref", 1)
    if max(run.values("policy/clip_frac"), default=0.0) > 1e-3:
        return []
    evidence = []
    if entropy:
        start, end = entropy
        if start <= 0 or abs(end / start - 1) > 0.08:
            return []
        evidence.append(f"policy/entropy stays at {start:.4g} to {end:.4g} nats")
    if kl:
        if kl[1] > 1e-3:
            return []
        evidence.append(f"policy/kl_ref is only {kl[1]:.1g} nats per token")
    return evidence


def learning(run: RunData) -> Finding | None:
    """Held-out accuracy, or else reward, that rose by more than its uncertainty."""
    summary = run.summary or {}
    bounds = summary.get("difference_ci95")
    if bounds and bounds[0] > 0:
        return Finding("learning", "good", "Held-out accuracy rose", (_accuracy_change(summary),))
    values = run.values("reward/mean")
    # held-out accuracy has the word where it was measured
    if bounds or len(values) < MIN_STEPS or not _comparable(run):
        return None
    change = trend(values)
    if change.z < 3 or lr_too_high(run) is not None:
        return None
    evidence = (
        f"reward/mean went from {change.start:.3f} (first fifth) to {change.end:.3f} (last"
        f" fifth): {change.z:+.1f} standard errors"
    )
    return Finding("learning", "good", "Reward rises", (evidence,))


def _accuracy_change(summary: dict[str, Any]) -> str:
    lo, hi = summary["difference_ci95"]
    return (
        f"from {summary['accuracy_before']:.3f} to {summary['accuracy_after']:.3f}:"
        f" {summary['difference']:+.3f} [{lo:+.3f}, {hi:+.3f}] over"
        f" {summary.get('num_problems', 0)} problems"
    )


def held_out_gap(run: RunData) -> Finding | None:
    """Reward that rose without the held-out accuracy."""
    bounds, values = (run.summary or {}).get("difference_ci95"), run.values("reward/mean")
    if not bounds or bounds[0] > 0 or len(values) < MIN_STEPS or trend(values).z < 3:
        return None
    change = trend(values)
    evidence = [
        f"reward/mean rose from {change.start:.3f} to {change.end:.3f}; held-out accuracy by"
        f" {(run.summary or {})['difference']:+.3f} [{bounds[0]:+.3f}, {bounds[1]:+.3f}]"
    ]
    used = run.values("sampler/problem_used_max")
    if used:
        evidence.append(f"one problem was trained on up to {used[-1]:.0f} times")
    return Finding(
        "held_out_gap",
        "warning",
        "Reward rose, held-out accuracy did not",
        tuple(evidence),
        (
            "read rollouts with a high reward below: is the reward paid for the right thing?",
            "train on more problems (data.limit), or raise eval.limit for a narrower interval",
        ),
    )


def accuracy_fell(run: RunData) -> Finding | None:
    """Held-out accuracy whose whole interval of change lies below 0."""
    summary = run.summary or {}
    bounds = summary.get("difference_ci95")
    if not bounds or bounds[1] >= 0:
        return None
    return Finding(
        "accuracy_fell",
        "problem",
        "Held-out accuracy fell",
        (f"{_accuracy_change(summary)}; optim.lr = {run.setting('optim.lr', 0.0):g}",),
        ("lower optim.lr by 3", LR_REMEDY),
    )


def length_of_run(run: RunData) -> Finding | None:
    """Runs too short to judge, and runs that did not reach their end."""
    done, wanted = (run.rows[-1]["step"] if run.rows else 0), run.setting("train.steps")
    # a budget of tokens or seconds ends a run before train.steps, with a summary
    if wanted and done < wanted and run.summary is None:
        return Finding(
            "unfinished",
            "note",
            f"Not finished: {done} of {wanted} steps",
            ("there is no summary.json yet",),
            ("if it no longer runs: rlvr train --resume RUN continues it",),
        )
    if 0 < done < MIN_STEPS:
        return Finding(
            "few_steps",
            "note",
            f"Only {done} steps: too few to tell learning from noise",
            (f"trends are judged from {MIN_STEPS} steps on",),
        )
    return None


def _comparable(run: RunData) -> bool:
    """Whether reward/mean means the same in every step: not when the sampler picks by pass rate."""
    return run.setting("sampling.strategy", "uniform") == "uniform"


RULES = (
    loss_near_zero,
    no_gradient,
    lr_too_high,
    not_learning,
    learning,
    held_out_gap,
    accuracy_fell,
    length_of_run,
)
