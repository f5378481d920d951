"""What a set of scored samples says about a benchmark, every number with an interval.

Legend: P problems; n samples of a problem, c of them correct; k samples that a metric is about.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from eval.intervals import Interval, fraction_over_problems, mean_over_problems, redraw

Metric = dict[str, Any]
"""`{"value", "ci95", "over", "method", ...}` as results files hold it."""

CEILING = "solved by at least one sample"

GUESSED = 0.2
"""Share of responses with one answer from which it may be a guess."""


@dataclass(frozen=True, slots=True)
class ScoredSample:
    """One response and its verdict.

    group: equality class of the answer within its problem (None: no answer to vote with).
    length: in tokens where the generation gave them, else in characters.
    truncated: whether generation stopped at the limit; None when not known.
    """

    correct: bool
    reason: str
    answered: bool
    group: int | None
    length: int
    truncated: bool | None = None


Problems = Sequence[Sequence[ScoredSample]]
"""The samples of each problem."""


def pass_at_each_k(samples: ArrayLike, correct: ArrayLike, k: int) -> NDArray:
    """Row j - 1: probability per problem that at least one of j samples is right, for j = 1 ... k.

    Unbiased: 1 - C(n-c, j) / C(n, j), as a product of j factors in [0, 1] so that nothing
    overflows. Source: 2107.03374, equation 1. j = 1 is avg@n, j = n whether any sample is right.
    Raises ValueError when a problem has fewer than k samples.
    """
    n, c = np.asarray(samples, dtype=float), np.asarray(correct, dtype=float)
    if k < 1:
        raise ValueError(f"pass@{k}: k must be at least 1")
    fewest = int(n.min()) if n.size else 0
    if fewest < k:
        raise ValueError(
            f"pass@{k}: a problem has only {fewest} samples; sample at least {k}, or ask for "
            f"k <= {fewest}"
        )
    drawn = np.arange(k)[:, None]
    return 1 - np.cumprod(np.clip((n - c - drawn) / (n - drawn), 0, None), axis=0)


def majority(groups: Sequence[int | None], correct: Sequence[bool]) -> tuple[float, bool]:
    """(value, tied) of the vote of one problem's samples.

    Every answer votes for its equality class; samples without an answer do not vote. The value is
    the share of the most voted classes that is right: the expected score when a tie is broken at
    random. Nobody voting is wrong. Source: self-consistency, 2203.11171.
    """
    votes = Counter(g for g in groups if g is not None)
    if not votes:
        return 0.0, False
    # a class is right when one of its members was judged right
    right = {g for g, ok in zip(groups, correct, strict=True) if ok}
    most = max(votes.values())
    leaders = [g for g, count in votes.items() if count == most]
    return sum(g in right for g in leaders) / len(leaders), len(leaders) > 1


def summarise(problems: Problems, *, num_resamples: int = 2_000, seed: int = 0) -> dict:
    """All metrics of one benchmark. k is the smallest number of samples that a problem has.

    Keys: `problems`, `samples`, `k`; `avg@k`, `pass@k`, `maj@k`, each also under its number
    (`avg@8`); `pass@1` ... `pass@k`; `best_of_n`, `format_rate`, `truncated_frac`, `length`,
    `reasons`, `unique_answers`.
    """
    if not problems or any(len(samples) == 0 for samples in problems):
        raise ValueError("metrics need at least one sample of every problem")
    n, c = sample_counts(problems)
    k = int(n.min())

    average, passes = _average_and_passes(n, c, num_resamples, seed)
    votes = {**_majority_metric(problems, num_resamples, seed), "k": k}
    ceiling = {**as_metric(fraction_over_problems((c > 0).astype(float))), "what": CEILING}
    return {
        "problems": len(n),
        "samples": int(n.sum()),
        "samples_per_problem": [int(n.min()), int(n.max())],
        "k": k,
        "avg@k": average,
        "pass@k": passes[f"pass@{k}"],
        "maj@k": votes,
        f"avg@{k}": average,
        f"maj@{k}": votes,
        **passes,
        "best_of_n": ceiling,
        **describe_responses(problems),
    }


def top_answer_frac(
    answers: Sequence[Sequence[str | None]], right: Callable[[str], Sequence[bool]]
) -> Metric:
    """Share of responses that give the most frequent answer of all, as it is written, with
    `answer` (None without answers) and `right_frac`, what a policy that always gives it scores.

    answers: of each problem's samples. right: the problems that an answer is right for.
    """
    counts = Counter(a for samples in answers for a in samples if a is not None)
    # a tie must not go by order
    top = max(counts, key=lambda answer: (counts[answer], answer), default=None)
    shares, is_right = np.zeros(len(answers)), np.zeros(len(answers))
    if top is not None:
        shares = np.array([samples.count(top) / len(samples) for samples in answers])
        is_right = np.array(right(top), dtype=float)
    return {
        **as_metric(fraction_over_problems(shares, sum(map(len, answers)) / len(answers))),
        "answer": top,
        "right_frac": as_metric(fraction_over_problems(is_right)),
    }


def guess(top: Metric | None) -> str | None:
    """What to say of a `top_answer_frac` that looks like guessing: one answer in at least a fifth
    of all responses, and in three times as many as it is right for. None: results from before
    it was kept."""
    if top is None or top["value"] < max(GUESSED, 3 * top["right_frac"]["value"]):
        return None
    return (
        # what a policy repeats may be as long as a response
        f"{top['value']:.0%} of the responses answer {top['answer'][:40]}, which is right for"
        f" {top['right_frac']['value']:.1%} of the problems"
    )


def describe_responses(problems: Problems) -> dict:
    """Format, truncation, length, reasons and diversity, as means over problems."""
    # by problem first: a problem with more samples does not weigh more
    format_rate = _share(problems, lambda s: s.answered)
    truncated = None
    if all(s.truncated is not None for samples in problems for s in samples):
        # of every sample or not at all: a share of the known ones would be of a chosen part
        truncated = _share(problems, lambda s: bool(s.truncated))
    counts = Counter(s.reason for samples in problems for s in samples)
    reasons = {
        reason: {**_share(problems, lambda s, r=reason: s.reason == r), "count": count}
        for reason, count in counts.most_common()
    }
    unique = [len({s.group for s in samples if s.group is not None}) for samples in problems]
    return {
        "format_rate": format_rate,
        "truncated_frac": truncated,
        "length": _lengths(problems),
        "reasons": reasons,
        "unique_answers": as_metric(mean_over_problems(unique)),
    }


def sample_counts(problems: Problems) -> tuple[NDArray, NDArray]:
    """(n, c) per problem: samples and correct samples."""
    n = np.array([len(samples) for samples in problems])
    c = np.array([sum(s.correct for s in samples) for samples in problems])
    return n, c


def as_metric(interval: Interval) -> Metric:
    """The form of an interval in results files. Infinite bounds become None (JSON has none)."""
    bounds = [bound if np.isfinite(bound) else None for bound in interval.bounds]
    return {
        "value": interval.value,
        "ci95": bounds,
        "over": interval.over,
        "method": interval.method,
    }


def _average_and_passes(
    n: NDArray, c: NDArray, num_resamples: int, seed: int
) -> tuple[Metric, dict[str, Metric]]:
    """avg@k, and pass@1 to pass@k by name."""
    k = int(n.min())
    noise = {
        field: redraw(c, n, over, num_resamples, seed)
        for field, over in (("ci95_samples", "samples"), ("ci95_both", "problems and samples"))
    }
    average = {**as_metric(fraction_over_problems(c / n, float(n.mean()))), "k": k}
    for field, redraws in noise.items():
        average[field] = redraws.interval(average["value"], redraws.c / redraws.n).bounds
    # all k at once: the products share their factors
    points = pass_at_each_k(n, c, k)
    redrawn = {field: pass_at_each_k(r.n, r.c, k) for field, r in noise.items()}
    passes = {}
    for j in range(1, k + 1):
        # pass@j uses j samples at a time, so k samples hold about k / j draws of it
        entry = {**as_metric(fraction_over_problems(points[j - 1], k / j)), "k": j}
        for field, redraws in noise.items():
            interval = redraws.interval(entry["value"], redrawn[field][j - 1])
            entry[field] = interval.bounds
        passes[f"pass@{j}"] = entry
    return average, passes


def _share(problems: Problems, holds) -> Metric:
    values = [sum(map(holds, samples)) / len(samples) for samples in problems]
    return as_metric(fraction_over_problems(values, sum(map(len, problems)) / len(problems)))


def _lengths(problems: Problems) -> dict:
    every = np.array([s.length for samples in problems for s in samples])
    split = {}
    for name, wanted in (("correct", True), ("wrong", False)):
        means = [
            np.mean([s.length for s in samples if s.correct == wanted])
            for samples in problems
            if any(s.correct == wanted for s in samples)
        ]
        split[f"mean_{name}"] = as_metric(mean_over_problems(means)) if means else None
    means = [np.mean([s.length for s in samples]) for samples in problems]
    quantiles = dict(zip(("p50", "p90", "p99"), np.quantile(every, [0.5, 0.9, 0.99]), strict=True))
    return {
        "mean": as_metric(mean_over_problems(means)),
        **split,
        **{name: float(q) for name, q in quantiles.items()},
        "max": int(every.max()),
    }


def _majority_metric(problems: Problems, num_resamples: int, seed: int) -> Metric:
    votes = [majority([s.group for s in p], [s.correct for s in p]) for p in problems]
    values = [value for value, _ in votes]
    # one draw per problem: a vote is one outcome, however many samples formed it
    entry = as_metric(fraction_over_problems(values))
    rng = np.random.default_rng(seed)
    redrawn = np.stack([_redrawn_votes(samples, num_resamples, rng) for samples in problems])
    entry["ci95_samples"] = np.quantile(redrawn.mean(axis=0), [0.025, 0.975]).tolist()
    # problems are drawn first, then one redrawn vote of each
    which = rng.integers(0, len(problems), (len(problems), num_resamples))
    draw = rng.integers(0, num_resamples, which.shape)
    entry["ci95_both"] = np.quantile(redrawn[which, draw].mean(axis=0), [0.025, 0.975]).tolist()
    entry["ties"] = sum(tied for _, tied in votes)
    return entry


def _redrawn_votes(
    samples: Sequence[ScoredSample], num_resamples: int, rng: np.random.Generator
) -> NDArray:
    """The vote's value when this problem's samples are drawn again with replacement."""
    votes = Counter(s.group for s in samples if s.group is not None)
    if not votes:
        return np.zeros(num_resamples)
    right = {s.group for s in samples if s.correct}
    silent = len(samples) - votes.total()
    # every redraw gives the same vote: no need to draw
    if len(votes) == 1 and not silent:
        return np.full(num_resamples, float(bool(right)))
    classes = sorted(votes, key=lambda g: (-votes[g], g not in right))  # whatever came first
    shares = np.array([*(votes[g] for g in classes), silent]) / len(samples)
    drawn = rng.multinomial(len(samples), shares, num_resamples)[:, :-1]
    most = drawn.max(axis=1)
    # with nobody voting every class has 0 votes, and none of them leads
    leads = (drawn == most[:, None]) & (most > 0)[:, None]
    is_right = np.array([group in right for group in classes])
    return (leads & is_right).sum(axis=1) / np.maximum(leads.sum(axis=1), 1)
