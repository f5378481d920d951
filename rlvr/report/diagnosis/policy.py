"""Findings about the policy's movement: entropy, KL, step size, and whether the engine agrees."""

from __future__ import annotations

from rlvr.report.diagnosis.finding import Finding
from rlvr.report.series import ends, quantile, window_len
from rlvr.runs.reader import RunData, is_number

MIN_STEPS = 10
"""Fewer steps carry no trend."""

# a copy, which a test compares: the loop's own table needs torch, and the report loads none
SYNC_TOLERANCE = {"float32": 1e-3, "bfloat16": 0.5, "float16": 0.1}
"""The loop's own tolerance of sync/logprob_error (nats), by compute type; in 16 bits it is one of
sync/logprob_error_p99, since a maximum over many steps meets every rounding."""

MISMATCH_KL = {"float32": 1e-4, "bfloat16": 1e-2, "float16": 1e-2}
"""policy/kl_engine (nats per token) that rounding alone does not reach, by compute type."""


def entropy_collapse(run: RunData) -> Finding | None:
    """Entropy down to a fifth of its start or less: samples become alike, groups lose signal."""
    start, end = ends(run, "policy/entropy", MIN_STEPS) or (0.0, 0.0)
    if start <= 0 or end > 0.2 * start:
        return None
    step = next(step for step, value in run.points("policy/entropy") if value <= 0.2 * start)
    return Finding(
        "entropy_collapse",
        "problem" if end <= 0.05 * start else "warning",
        "Entropy collapsed: the policy hardly explores any more",
        (
            f"policy/entropy fell from {start:.3g} to {end:.3g} nats per token"
            f" ({end / start:.0%} of the start); first below a fifth at step {step}",
        ),
        (
            # 0.28 is DAPO's clip-higher (2503.14476)
            "raise algorithm.clip_high (0.28 keeps more exploration than 0.2)",
            "set algorithm.entropy_target near the starting entropy, or algorithm.entropy_coef",
            "lower optim.lr, or set algorithm.kl_beta above 0",
        ),
    )


def kl_blow_up(run: RunData) -> Finding | None:
    """KL to the reference above what a useful policy needs."""
    _, end = ends(run, "policy/kl_ref", 3) or (0.0, 0.0)
    if end < 0.3:
        return None
    # the end's median is 0.3 or more, so some step is
    step = next(step for step, value in run.points("policy/kl_ref") if value >= 0.3)
    beta = run.setting("algorithm.kl_beta", 0.0)
    return Finding(
        "kl_blow_up",
        "problem" if end >= 1 else "warning",
        "KL to the reference policy blew up",
        (
            f"policy/kl_ref reached {end:.3g} nats per token at the end (above 0.3 from step"
            f" {step}); useful policies mostly stay below 0.1",
            f"algorithm.kl_beta = {beta:g}, optim.lr = {run.setting('optim.lr', 0.0):g}",
        ),
        (
            "lower optim.lr by 3, or add optim.warmup_steps",
            "raise algorithm.kl_beta",
            'algorithm.reference = "anchor" or "ema", if a slowly moving reference is meant',
        ),
    )


def engine_mismatch(run: RunData) -> Finding | None:
    """Engine and trainer give the same tokens different probabilities under the same weights.

    policy/kl_engine also grows when responses of older weights are trained on, or after the first
    of several updates. So the low quarter of the steps counts whose responses are all fresh and
    none of whose tokens is clipped, and nothing where updates_per_step > 1.
    """
    dtype = str(run.setting("model.dtype", "bfloat16"))
    tolerance = run.setting("rollout.sync_tolerance") or SYNC_TOLERANCE.get(dtype, 0.5)
    # a warning well before the loop itself stops at its tolerance
    name, share = "sync/logprob_error", 0.3
    if dtype != "float32" and not run.setting("rollout.sync_tolerance"):
        name, share = "sync/logprob_error_p99", 1.0
    errors, kl = run.points(name), _kl_of_fresh_steps(run)
    evidence, grave = [], False
    high = [(step, error) for step, error in errors if error > share * tolerance]
    if high:
        step, worst = max(high, key=lambda pair: pair[1])
        grave = worst > (tolerance if share < 1 else 3 * tolerance)
        evidence.append(
            f"{name} rose to {worst:.3g} nats (step {step}) of {tolerance:g} allowed,"
            f" above {share:.0%} of that in {len(high)} of {len(errors)} steps"
        )
    limit = MISMATCH_KL.get(dtype, 1e-2)
    # most late steps are stale or clipped in some token: the low quarter shows rounding alone
    low = quantile(kl[-2 * window_len(len(kl)) :], 0.25) if len(kl) >= 5 else 0.0
    # after a first update of the same batch the two policies differ by design
    if low > limit and run.setting("optim.updates_per_step", 1) == 1:
        grave = grave or low > 10 * limit
        evidence.append(
            f"policy/kl_engine stays at {low:.3g} nats per token or more in three of four late"
            f" steps without a clipped token; rounding in {dtype} gives less than {limit:g}"
        )
    if not evidence:
        return None
    return Finding(
        "engine_mismatch",
        "problem" if grave else "warning",
        "Engine and trainer disagree: training is off-policy without wanting to be",
        tuple(evidence),
        (
            'set model.dtype = "float32", or float16, to see whether rounding is the cause',
            'keep algorithm.mismatch = "tis" (weights capped) or take "mask"',
            'try rollout.sync = "merged"; keep rollout.top_p = 1, top_k = 0, min_p = 0',
        ),
    )


def _kl_of_fresh_steps(run: RunData) -> list[float]:
    """policy/kl_engine of the steps in which every response is fresh and no token is clipped."""
    # a clipped token's ratio differs for another reason: its group is left over
    old = ("policy/clip_frac", "rollout/staleness_mean")
    rows = [row for row in run.rows if not any(row.get(name) for name in old)]
    return [row["policy/kl_engine"] for row in rows if is_number(row, "policy/kl_engine")]


def leftover_groups(run: RunData) -> Finding | None:
    """Why ratio and clip fraction are not 1 and 0 although every batch is used once."""
    clips = run.points("policy/clip_frac")
    once = run.setting("optim.updates_per_step", 1) == 1
    off = [(step, value) for step, value in clips if value > 0]
    if not off or not once or not run.setting("sampling.dynamic", True):
        return None
    step, worst = max(off, key=lambda pair: pair[1])
    return Finding(
        "leftover_groups",
        "note",
        "Some ratios differ from 1: these steps train on groups left over from the step before",
        (
            f"policy/clip_frac is above 0 in {len(off)} of {len(clips)} steps, {worst:.2%} at most"
            f" (step {step}); in the others every token is on-policy",
            "dynamic sampling keeps informative groups beyond rollout.prompts_per_step for the next"
            " step; their old probabilities come from the engine that sampled them",
        ),
    )


RULES = (entropy_collapse, kl_blow_up, engine_mismatch, leftover_groups)
