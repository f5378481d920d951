"""Paired comparison of two or more scored results over the problems that they share."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np

from eval.formats.jsonl import read_objects
from eval.intervals import Interval, paired_difference, resampled_difference
from eval.metrics import as_metric
from eval.pvalues import PValue, holm, permutation_p
from eval.records import BENCHMARKS

ProblemRows = dict[str, dict[str, dict]]
"""Rows of problems.jsonl by benchmark, then by problem id."""

Pairs = list[tuple[dict, dict]]
"""The rows of the same problems in two results."""

OVERALL = "all problems"


@dataclass(frozen=True, slots=True)
class Result:
    """A scored result: a short name and its problems."""

    name: str
    problems: ProblemRows


@dataclass(frozen=True, slots=True)
class PairedComparison:
    """b against a on one benchmark, or on a part of it.

    difference: avg@k of b minus that of a, over problems (BCa bootstrap). samples_ci95,
    both_ci95: of the same difference when the samples, or problems and samples, are drawn anew.
    p: paired permutation; p_holm: corrected over the family that the report states, None outside.
    wins, losses, ties: problems on which b did better, worse, the same.
    """

    a: str
    b: str
    benchmark: str
    part: str
    num_problems: int
    value_a: float
    value_b: float
    difference: Interval
    samples_ci95: list[float]
    both_ci95: list[float]
    p: PValue
    p_holm: float | None
    wins: int
    losses: int
    ties: int

    def to_json(self) -> dict:
        return {
            "a": self.a,
            "b": self.b,
            "benchmark": self.benchmark,
            "part": self.part,
            "problems": self.num_problems,
            "avg@k": [self.value_a, self.value_b],
            "difference": {
                **as_metric(self.difference),
                "ci95_samples": self.samples_ci95,
                "ci95_both": self.both_ci95,
            },
            "p": self.p.value,
            "p_exact": self.p.exact,
            "p_holm": self.p_holm,
            "wins": self.wins,
            "losses": self.losses,
            "ties": self.ties,
        }


@dataclass(frozen=True, slots=True)
class Report:
    """comparisons: one per pair and benchmark. parts: the same by subject and level (their p-values
    are not corrected: they look for where a difference lies). family: what Holm corrects over.
    """

    names: tuple[str, ...]
    comparisons: tuple[PairedComparison, ...]
    parts: tuple[PairedComparison, ...]
    per_problem: tuple[dict, ...]
    family: str

    def to_json(self) -> dict:
        return {
            "names": list(self.names),
            "family": self.family,
            "comparisons": [c.to_json() for c in self.comparisons],
            "parts": [c.to_json() for c in self.parts],
            "per_problem": list(self.per_problem),
        }


def read_result(folder: str | Path) -> Result:
    """A folder written by `score`. Its name is the folder's."""
    path = Path(folder) / "problems.jsonl"
    if not path.is_file():
        raise ValueError(f"{path}: no such file; score generations there first (--out {folder})")
    problems: ProblemRows = defaultdict(dict)
    for _, row in read_objects(path):
        problems[row["benchmark"]][row["id"]] = row
    # resolved: the path `.` has no name
    return Result(Path(folder).resolve().name, dict(problems))


def compare(results: Sequence[Result], *, all_pairs: bool = False, seed: int = 0) -> Report:
    """Every other result against the first, or every pair, on the benchmarks that they share.

    Each benchmark must have been scored on the same problems by both (ValueError names one that
    was not). "all problems" is added when there are several benchmarks. Holm's correction is over
    all comparisons made, "all problems" left out because it repeats the others' data.
    """
    results = _distinct_names(results)
    if len(results) < 2:
        raise ValueError("compare needs at least two results; give two folders")
    pairs = list(combinations(results, 2)) if all_pairs else [(results[0], b) for b in results[1:]]
    whole, parts = [], []
    for a, b in pairs:
        shared = _shared(a, b)
        for benchmark, rows in shared.items():
            whole.append(_compare(a.name, b.name, benchmark, "", rows, seed))
            for part, chosen in _parts(rows).items():
                parts.append(_compare(a.name, b.name, benchmark, part, chosen, seed))
        if len(shared) > 1:
            whole.append(_compare(a.name, b.name, OVERALL, "", _all_problems(shared), seed))
    # "all problems" repeats the data of the others: correcting for it too would punish twice
    tested = [i for i, c in enumerate(whole) if c.benchmark != OVERALL]
    adjusted = holm([whole[i].p.value for i in tested])
    for i, p in zip(tested, adjusted, strict=True):
        whole[i] = replace(whole[i], p_holm=p)
    what = "all pairs" if all_pairs else f"each against {results[0].name}"
    family = f"{len(tested)} comparisons: {what}, every shared benchmark"
    names = tuple(result.name for result in results)
    return Report(names, tuple(whole), tuple(parts), _per_problem(results), family)


def _distinct_names(results: Sequence[Result]) -> list[Result]:
    seen: dict[str, int] = defaultdict(int)
    named = []
    for result in results:
        seen[result.name] += 1
        # two runs' folders may both be called step_100
        again = seen[result.name]
        named.append(replace(result, name=f"{result.name}#{again}") if again > 1 else result)
    return named


def _shared(a: Result, b: Result) -> dict[str, Pairs]:
    shared = {}
    for benchmark in a.problems:
        if benchmark not in b.problems:
            continue
        rows_a, rows_b = a.problems[benchmark], b.problems[benchmark]
        odd = sorted(rows_a.keys() ^ rows_b.keys())
        # dropping the problems that one side lacks would compare other problems than were scored
        if odd:
            raise ValueError(
                f"{benchmark}: {a.name} has {len(rows_a)} problems and {b.name} {len(rows_b)}; "
                f"{odd[0]!r} is in one of them only; score both on the same problems"
            )
        shared[benchmark] = [(rows_a[i], rows_b[i]) for i in rows_a]
    if not shared:
        raise ValueError(
            f"{a.name} ({', '.join(a.problems)}) and {b.name} ({', '.join(b.problems)}) share no "
            "benchmark"
        )
    return shared


def _parts(rows: Pairs) -> dict[str, Pairs]:
    """The rows of each subject and level; nothing where there is only one."""
    parts: dict[str, Pairs] = {}
    for field in ("subject", "level"):
        split: dict[str, Pairs] = defaultdict(list)
        for x, y in rows:
            if field in x:
                split[f"{field} {x[field]}"].append((x, y))
        # a single subject is the benchmark again
        if len(split) > 1:
            parts |= dict(sorted(split.items()))
    return parts


def _all_problems(shared: dict[str, Pairs]) -> Pairs:
    """Every problem once: a benchmark that is part of another one here is left out."""
    inside = {inner for name in shared if name in BENCHMARKS for inner in BENCHMARKS[name].contains}
    return [pair for name, rows in shared.items() if name not in inside for pair in rows]


def _compare(a: str, b: str, benchmark: str, part: str, rows: Pairs, seed: int) -> PairedComparison:
    # per problem, [n, c] of both sides, so that resampling keeps a problem's pair together
    counts = np.array([[x["n"], x["c"], y["n"], y["c"]] for x, y in rows]).T
    values_a, values_b = counts[1] / counts[0], counts[3] / counts[2]
    sides = (counts[0], counts[1]), (counts[2], counts[3])
    p = permutation_p(values_a, values_b, seed=seed)
    difference = paired_difference(values_a, values_b, seed=seed)
    noise = {
        over: resampled_difference(*sides, over, seed=seed).bounds
        for over in ("samples", "problems and samples")
    }
    ahead = np.sign(values_b - values_a)
    return PairedComparison(
        a,
        b,
        benchmark,
        part,
        len(rows),
        float(values_a.mean()),
        float(values_b.mean()),
        difference,
        noise["samples"],
        noise["problems and samples"],
        p,
        None,
        int((ahead > 0).sum()),
        int((ahead < 0).sum()),
        int((ahead == 0).sum()),
    )


def _per_problem(results: Sequence[Result]) -> tuple[dict, ...]:
    """One row per problem of the first result, with the avg@k of every result that has it."""
    rows = []
    for benchmark, problems in results[0].problems.items():
        for problem, row in problems.items():
            values = {
                r.name: found["c"] / found["n"]
                for r in results
                if (found := r.problems.get(benchmark, {}).get(problem))
            }
            parts = {part: row[part] for part in ("subject", "level") if part in row}
            rows.append({"benchmark": benchmark, "id": problem, **parts, "avg@k": values})
    return tuple(rows)
