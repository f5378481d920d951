"""From verified responses to the content of results.json and problems.jsonl."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from eval.benchmarks import LoadedBenchmark, Question
from eval.generations import Generation
from eval.intervals import fraction_over_problems, stratified
from eval.metrics import (
    Metric,
    ScoredSample,
    as_metric,
    majority,
    summarise,
    top_answer_frac,
)
from eval.votes import CORRECT_GROUP, FORMS, Judge, ProblemKey, answer_groups
from rewards import Reason, Verdict

FORMAT = 1
SHOWN_IDS = 5


@dataclass(frozen=True, slots=True)
class Scored:
    """One verified response, without its text."""

    problem: ProblemKey
    correct: bool
    reason: Reason
    answer: str | None
    num_chars: int
    response_len: int | None
    truncated: bool | None

    @classmethod
    def of(cls, generation: Generation, verdict: Verdict) -> "Scored":
        return cls(
            (generation.benchmark, generation.id),
            verdict.correct,
            verdict.reason,
            verdict.answer,
            len(generation.response),
            generation.response_len,
            generation.truncated,
        )


def aggregate(
    rows: Sequence[Scored],
    loaded: dict[str, LoadedBenchmark],
    judge: Judge,
    samples: int | None = None,
) -> tuple[dict, list[dict]]:
    """(results, problems): metrics of every benchmark that has rows, and one row per problem."""
    groups = _groups(rows, judge)
    by_problem: dict[ProblemKey, list[Scored]] = defaultdict(list)
    for row in rows:
        by_problem[row.problem].append(row)
    results, problems = {}, []
    for name, benchmark in loaded.items():
        scored = {
            q.id: by_problem[name, q.id] for q in benchmark.questions if (name, q.id) in by_problem
        }
        _check_samples(benchmark, scored, samples)
        if scored:
            results[name], described = _benchmark(benchmark, scored, groups, judge)
            problems += described
    return {
        "format": FORMAT,
        "benchmarks": results,
        "overall": _overall(results, problems, loaded),
    }, problems


def _groups(rows: Iterable[Scored], judge: Judge) -> dict[ProblemKey, dict[str, int]]:
    """Equality classes of all wrong answers, benchmark beside benchmark: each waits for the workers
    now and then."""
    wrong: dict[str, dict[ProblemKey, list[str]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row.answer is not None and not row.correct:
            wrong[row.problem[0]][row.problem].append(row.answer)
    groups: dict[ProblemKey, dict[str, int]] = {}
    # threads, not processes: each waits for the verifier's workers and holds no lock meanwhile
    with ThreadPoolExecutor(max_workers=4) as threads:
        for found in threads.map(lambda answers: answer_groups(answers, judge), wrong.values()):
            groups |= found
    return groups


def _check_samples(
    benchmark: LoadedBenchmark, scored: dict[str, list[Scored]], samples: int | None
) -> None:
    if samples is None:
        return
    # checked over all questions: a problem without any sample has too few as well
    short = [q.id for q in benchmark.questions if len(scored.get(q.id, ())) < samples]
    if short:
        have, total = len(scored.get(short[0], ())), len(benchmark.questions)
        raise ValueError(
            f"{benchmark.name}: {len(short)} of {total} problems have fewer than {samples} samples "
            f"({short[0]} has {have}); sample more, or ask for fewer with --samples"
        )


def _benchmark(
    benchmark: LoadedBenchmark,
    scored: dict[str, list[Scored]],
    groups: dict[ProblemKey, dict[str, int]],
    judge: Judge,
) -> tuple[dict, list[dict]]:
    # one row without a token count makes the whole benchmark's lengths characters: a mean over
    # both units would mean nothing
    in_tokens = all(r.response_len is not None for rows in scored.values() for r in rows)
    samples = {
        problem: [_sample(row, groups, in_tokens) for row in rows]
        for problem, rows in scored.items()
    }
    summary = summarise(list(samples.values()))
    summary["length"]["unit"] = "tokens" if in_tokens else "characters"
    questions = [q for q in benchmark.questions if q.id in samples]
    described = [_problem(benchmark.name, q, samples[q.id]) for q in questions]
    missing = [q.id for q in benchmark.questions if q.id not in samples]
    result = {
        "source": {
            "found": benchmark.found,
            "sha256": list(benchmark.sha256),
            "count": len(benchmark.questions),
            "licence": benchmark.benchmark.licence,
        },
        "missing": {"count": len(missing), "ids": missing[:SHOWN_IDS]},
        **summary,
        "top_answer_frac": _top_answer_frac(questions, scored, judge),
    }
    for part in ("subject", "level"):
        split = _by(part, described)
        if split:
            result[f"by_{part}"] = split
    return result, described


def _top_answer_frac(
    questions: Sequence[Question], scored: dict[str, list[Scored]], judge: Judge
) -> Metric:
    def right(answer: str) -> list[bool]:
        response = FORMS[judge.answer_mode].replace("%s", answer)
        golds = [q.answers if q.others else q.answer for q in questions]
        return [v.correct for v in judge.verify_many([(response, gold) for gold in golds])]

    return top_answer_frac([[row.answer for row in scored[q.id]] for q in questions], right)


def _sample(row: Scored, groups: dict[ProblemKey, dict[str, int]], in_tokens: bool) -> ScoredSample:
    group = None
    if row.correct:
        group = CORRECT_GROUP
    elif row.answer is not None:
        group = groups[row.problem][row.answer]
    length = row.response_len if in_tokens and row.response_len is not None else row.num_chars
    # a hedged or unparsed answer still stands where answers are looked for
    answered = row.reason is not Reason.NO_ANSWER
    return ScoredSample(row.correct, row.reason, answered, group, length, row.truncated)


def _problem(benchmark: str, question: Question, samples: Sequence[ScoredSample]) -> dict:
    vote, _ = majority([s.group for s in samples], [s.correct for s in samples])
    row = {
        "benchmark": benchmark,
        "id": question.id,
        "n": len(samples),
        "c": sum(s.correct for s in samples),
        "maj": vote,
        "subject": question.subject,
        "level": question.level,
    }
    return {name: value for name, value in row.items() if value is not None}


def _by(part: str, problems: Sequence[dict]) -> dict:
    """avg@k of each subject or level, sorted by name. Empty where the data states none."""
    split: dict[str, list[dict]] = defaultdict(list)
    for problem in problems:
        if part in problem:
            split[problem[part]].append(problem)
    return {
        name: {"problems": len(rows), "avg@k": _average(rows)}
        for name, rows in sorted(split.items())
    }


def _average(problems: Sequence[dict]) -> Metric:
    # a mean, since a killed run may have left problems with fewer samples
    draws = sum(p["n"] for p in problems) / len(problems)
    return as_metric(fraction_over_problems([p["c"] / p["n"] for p in problems], draws))


def _overall(results: dict, problems: Sequence[dict], loaded: dict[str, LoadedBenchmark]) -> dict:
    """Averages over benchmarks and over problems, each with how it was formed."""
    values = {
        name: [p["c"] / p["n"] for p in problems if p["benchmark"] == name] for name in results
    }
    parts = [
        f"{name} ({len(values[name])} of {r['source']['count']} problems, k = {r['k']})"
        for name, r in results.items()
    ]
    listed = ", ".join(parts)
    for name in results:
        inside = [inner for inner in loaded[name].benchmark.contains if inner in results]
        # a benchmark inside another one is not dropped: both were asked for, and the mean says it
        listed += "".join(f"; {inner} is part of {name}: it counts twice" for inner in inside)
    interval = stratified(list(values.values()))
    return {
        "avg@k": {
            **as_metric(interval),
            "formed": f"unweighted mean of avg@k of {listed}; the benchmarks are fixed",
        },
        "avg@k_problems": {
            **_average(problems),
            "formed": f"mean over the {len(problems)} problems of {listed}, each weighing the same",
        },
    }
