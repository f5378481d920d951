"""Findings about what the reward is made of: groups, lengths, verdicts, and the data."""

from __future__ import annotations

from statistics import fmean
from typing import Any

from eval.metrics import guess
from rlvr.data import tables
from rlvr.report.diagnosis.finding import Finding
from rlvr.report.series import ends, trend
from rlvr.runs.reader import RunData, top_answers

FAILURES = ("timeout", "worker_died")
"""Verdicts that are failures of the verifier, not of the response."""


def groups_without_signal(run: RunData) -> Finding | None:
    """Few groups whose rewards differ: the others cost a rollout and teach nothing."""
    # without the metric as if every group had a signal
    _, end = ends(run, "sampler/informative_frac", 3) or (0.0, 1.0)
    rewards = ends(run, "reward/mean", 1)
    if end >= 0.3 or rewards is None:
        return None
    low, high = run.setting("reward.incorrect", 0.0), run.setting("reward.correct", 1.0)
    # a recipe may pay -1 and 1: what counts is the place between the two
    level = (rewards[1] - low) / (high - low)
    evidence = [
        f"sampler/informative_frac is {end:.2f} at the end: {1 - end:.0%} of the groups have equal"
        f" rewards and no gradient; reward/mean is {rewards[1]:.2f}"
    ]
    costs = ends(run, "sampler/rollouts_per_informative_group", 1)
    if costs:
        evidence.append(
            f"{costs[1]:.0f} responses are sampled per informative group of"
            f" {run.setting('rollout.group_size', 8)}"
        )
    if level > 0.7:
        remedy = "the problems are too easy: take harder ones (data.levels, data.path)"
    elif level < 0.3:
        remedy = "the problems are too hard: take easier ones, a warm start, or a stronger policy"
    else:
        remedy = "problems are all or nothing: raise rollout.group_size"
    more = ['sampling.strategy = "predictive" picks problems with a middling pass rate']
    if not run.setting("sampling.dynamic", True):
        more.append("sampling.dynamic = true refills the step with informative groups")
    return Finding(
        "groups_without_signal",
        "problem" if end < 0.1 else "warning",
        "Most groups carry no signal",
        tuple(evidence),
        (remedy, *more),
    )


def truncation(run: RunData) -> Finding | None:
    """Responses cut at the limit: their reward says nothing about the reasoning."""
    start, end = ends(run, "rollout/truncated_frac", 3) or (0.0, 0.0)
    if end < 0.1:
        return None
    longest = run.setting("rollout.max_response_len", "?")
    evidence = [
        f"rollout/truncated_frac went from {start:.0%} to {end:.0%}; limit {longest} tokens"
    ]
    remedies = [
        "raise rollout.max_response_len (and model.max_len)",
        'or set reward.overlong = "penalty" with reward.overlong_cache_len, or "mask"',
    ]
    unended = run.manifest.get("turn_end_missing")
    if unended:
        evidence.append(f"the chat template ends a turn with {unended}, which ended no response")
        remedies = [f'set rollout.stop = ["{unended}"]; a longer limit alone changes nothing']
    lengths = ends(run, "rollout/response_len_mean", 1)
    if lengths:
        a, b = lengths
        evidence.append(f"rollout/response_len_mean went from {a:.0f} to {b:.0f} tokens")
    return Finding(
        "truncation",
        "problem" if end > 0.4 else "warning",
        "Many responses are cut off at the length limit",
        tuple(evidence),
        tuple(remedies),
    )


def length_growth(run: RunData) -> Finding | None:
    """Responses that double without paying for it."""
    lengths, rewards = ends(run, "rollout/response_len_mean", 20), run.values("reward/mean")
    if lengths is None or len(rewards) < 20:
        return None
    start, end = lengths
    change = trend(rewards)
    # growth that earns reward is no fault
    if end < 2 * start or change.z >= 2:
        return None
    return Finding(
        "length_growth",
        "warning",
        "Responses grow longer without more reward",
        (
            f"rollout/response_len_mean went from {start:.0f} to {end:.0f} tokens, reward/mean from"
            f" {change.start:.3f} to {change.end:.3f}",
            f"algorithm.aggregation = {run.setting('algorithm.aggregation', 'token_mean')}",
        ),
        (
            'algorithm.aggregation = "constant" and algorithm.advantage = "group_mean" (Dr. GRPO)'
            " take the length out of the loss",
            'reward.overlong = "penalty", or reward.length_weight above 0',
        ),
    )


def no_answer(run: RunData) -> Finding | None:
    """Responses without a final answer where the verifier looks for one."""
    _, end = ends(run, "reward/no_answer_frac", 3) or (0.0, 0.0)
    _, cut = ends(run, "rollout/truncated_frac", 1) or (0.0, 0.0)
    if end < 0.3 or cut > 0.8 * end:  # a response that is cut off has no answer either
        return None
    mode = run.setting("reward.answer_mode", "boxed")
    return Finding(
        "no_answer",
        "warning",
        "Many responses have no answer where the verifier looks for it",
        (f'reward/no_answer_frac is {end:.0%} at the end; reward.answer_mode = "{mode}"',),
        (
            "ask for the format in data.prompt_template or data.system_prompt",
            "set reward.answer_mode to the form that the policy uses",
            "warm the policy up with rlvr sft",
        ),
    )


def verifier_failures(run: RunData) -> Finding | None:
    """Verdicts that the verifier could not give, and golds that it cannot read."""
    failures = run.points("verify/failure_frac")
    if not failures:  # a run from before the metric was logged
        sums = [
            (row["step"], sum(row.get(f"reward/{reason}_frac", 0.0) for reason in FAILURES))
            for row in run.rows
        ]
        failures = [pair for pair in sums if pair[1] > 0]
    high = [(step, value) for step, value in failures if value > 0.01]
    unusable = run.values("reward/gold_invalid_frac")
    if not high and not any(unusable):
        return None
    evidence = []
    if high:
        step, worst = max(high, key=lambda pair: pair[1])
        evidence.append(
            f"above 1% of the verdicts failed in {len(high)} of {len(run.rows)} steps, {worst:.1%}"
            f" at most (step {step}); workers killed: {sum(run.values('verify/kills')):.0f}"
        )
    if any(unusable):
        evidence.append(f"gold answers could not be read for {max(unusable):.1%} of the responses")
    return Finding(
        "verifier_failures",
        # a broken gold alone leaves no failures to average
        "problem" if fmean(value for _, value in failures or [(0, 0.0)]) > 0.05 else "warning",
        "The verifier fails on some responses; they are left out, right or wrong",
        tuple(evidence),
        (
            "raise reward.timeout_s or reward.num_workers",
            "read these responses below: filter by timeout and worker_died",
        ),
    )


def guessing(run: RunData) -> Finding | None:
    """One answer to many held-out problems, far oftener than it is right."""
    if not run.evals:
        return None
    first, last = min(run.evals), max(run.evals)
    # of the first set, which eval/accuracy is of
    start, top = (next(iter(top_answers(run.evals[n]).values()), None) for n in (first, last))
    said = guess(top)
    if top is None or said is None:
        return None
    evidence = [
        f"after step {last}, {said}",
        f"always giving this answer scores {top['right_frac']['value']:.3f}; held-out accuracy is"
        f" {run.evals[last]['accuracy']['value']:.3f}",
    ]
    if start is not None and first < last:
        evidence.append(
            f"after step {first} the most frequent answer, {start['answer']}, had"
            f" {start['value']:.0%}"
        )
    cap = run.setting("data.max_per_answer")
    remedy = "lower data.max_per_answer" if cap else "data.max_per_answer = 5"
    return Finding(
        "guessing",
        "warning",
        "The policy guesses a frequent answer",
        tuple(evidence),
        (
            f"{remedy}: with few problems of each answer a guess does not pay",
            "read right responses: do they compute their answer?",
        ),
    )


def contamination(run: RunData) -> Finding | None:
    """Evaluation problems among the training problems.

    The manifest's "contamination" is the summary of eval.contamination's report: train_rows,
    contaminated_rows, benchmarks.
    """
    counts = run.manifest.get("contamination")
    remedy = "rlvr data check TRAIN --against BENCH --filtered FILE writes a clean training file"
    # before the manifest's counts: the same rows need no comparison of texts
    same = _same_source(run)
    if same:
        return Finding(
            "contamination",
            "problem",
            "Held-out problems come from the training data",
            (same,),
            ("set eval.path or eval.split to problems that training does not see",),
        )
    if isinstance(counts, dict) and counts.get("contaminated_rows"):
        return Finding(
            "contamination",
            "problem",
            "The training data contain evaluation problems",
            (
                f"{counts['contaminated_rows']} of {counts.get('train_rows', '?')} training rows",
                *_benchmark_lines(counts),
            ),
            (remedy, "leave the affected benchmarks out of any claim"),
        )
    return None


def _benchmark_lines(counts: dict[str, Any]) -> list[str]:
    return [
        f"{b['benchmark']}: {b['exact']} exact, {b['near']} near of {b['problems']} problems"
        for b in counts.get("benchmarks", [])
        if b.get("exact") or b.get("near")
    ]


def _same_source(run: RunData) -> str | None:
    """Says so when training and evaluation read the same split of the same data."""
    path, held_out = run.setting("eval.path"), run.setting("eval.name")
    sources = run.setting("data.source") or [run.setting("data") or {}]
    same = [one for one in sources if path and one.get("path") == path]
    same = [one for one in same if one.get("name") == held_out]
    if not same:
        return None
    is_file = tables.is_file(str(path))  # a file has no splits: the same path is the same rows
    # what the readers take where the recipe names no split
    default = "heldout" if str(path).startswith("generated:") else "test"
    splits = [one.get("split") or "train" for one in same]
    split = run.setting("eval.split") or default
    if is_file or split in splits:
        return f"data.path and eval.path are both {path!r}" + ("" if is_file else f", {split!r}")
    return None


RULES = (
    groups_without_signal,
    truncation,
    length_growth,
    no_answer,
    verifier_failures,
    guessing,
    contamination,
)
