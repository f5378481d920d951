"""Scores generations: verifies every response and writes what came out.

The same function serves stored files, sampling runs and evaluation during training: equal
generations give equal numbers.
"""

import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

from eval.aggregate import Scored, aggregate
from eval.benchmarks import LoadedBenchmark, load_benchmark
from eval.formats.samples_file import SamplesFile
from eval.generations import Generation
from eval.reports.page import page
from eval.votes import Judge, as_gold
from rewards import Gold, Verdict

CHUNK = 8_192
"""Responses verified together: enough that equal answers meet, few enough to hold in memory."""

AHEAD = 2
"""Chunks judged at the same time."""

Golds = dict[tuple[str, str], "Gold | str | tuple[Gold | str, ...]"]


def score(generations: Iterable[Generation], judge: Judge, **options: Any) -> dict:
    """The content of results.json; see `score_problems`."""
    return score_problems(generations, judge, **options)[0]


def score_problems(
    generations: Iterable[Generation],
    judge: Judge,
    *,
    benchmarks: Sequence[str | LoadedBenchmark] = (),
    samples: int | None = None,
    out: str | Path | None = None,
    progress: Callable[[int], None] | None = None,
) -> tuple[dict, list[dict]]:
    """(results, problems): all metrics of every benchmark and their averages, as results.json has
    them, and samples, correct samples and vote of every problem, as problems.jsonl has them.

    benchmarks: names or files to score, in this order, others being skipped; without any, all that
    occur. samples: the first so many samples of every problem count, and a problem with fewer is a
    ValueError. Without it every sample counts, and problems without any are counted as `missing`.
    out: a folder for results.json, problems.jsonl, samples.jsonl.gz and report.html. progress:
    called with the number of responses verified so far.
    """
    loaded: dict[str, LoadedBenchmark] = {}
    golds: Golds = {}
    for benchmark in benchmarks:
        _add(benchmark, loaded, golds)
    wanted = set(loaded)
    stream = (
        g
        for g in generations
        if (not wanted or g.benchmark in wanted) and (samples is None or g.sample < samples)
    )
    folder = None if out is None else Path(out)
    rows: list[Scored] = []
    # rows keep no text: a benchmark of 32 samples per problem would not fit in memory
    with SamplesFile(folder) as file:
        for chunk, verdicts in _verified(stream, loaded, golds, judge):
            rows += [Scored.of(g, v) for g, v in zip(chunk, verdicts, strict=True)]
            file.write(chunk, verdicts)
            if progress is not None:
                progress(len(rows))
        if not rows:
            named = ", ".join(wanted) or "any benchmark"
            raise ValueError(f"no generations for {named}; a row needs benchmark, id and response")
        results, problems = aggregate(rows, loaded, judge, samples)
    if folder is not None:
        lines = (json.dumps(row, ensure_ascii=False) for row in problems)
        _write(folder / "problems.jsonl", "".join(line + "\n" for line in lines))
        _write(folder / "report.html", page(results, problems, title=folder.resolve().name))
        # last: whoever waits for results.json finds all the others
        _write(folder / "results.json", json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    return results, problems


def _add(benchmark: str | LoadedBenchmark, loaded: dict[str, LoadedBenchmark], golds: Golds):
    found = load_benchmark(benchmark) if isinstance(benchmark, str) else benchmark
    loaded[found.name] = found
    for question in found.questions:
        # one broken gold must not lose the scores of the others: its verdicts say gold_invalid
        parsed = tuple(as_gold(answer) or answer for answer in question.answers)
        golds[found.name, question.id] = parsed if question.others else parsed[0]


def _chunks(stream: Iterable[Generation]) -> Iterator[list[Generation]]:
    iterator = iter(stream)
    while chunk := list(islice(iterator, CHUNK)):
        yield chunk


def _verified(
    stream: Iterable[Generation], loaded: dict[str, LoadedBenchmark], golds: Golds, judge: Judge
) -> Iterator[tuple[list[Generation], list[Verdict]]]:
    """Chunks in order, with their verdicts. The next ones are read and judged while the slow pairs
    of one are still with the workers."""
    waiting: deque[tuple[list[Generation], Future[list[Verdict]]]] = deque()
    with ThreadPoolExecutor(AHEAD) as threads:
        for chunk in _chunks(stream):
            pairs = _pairs(chunk, loaded, golds)
            waiting.append((chunk, threads.submit(judge.verify_many, pairs)))
            # in order and bounded: the texts of a long file never lie in memory together
            if len(waiting) > AHEAD:
                done, verdicts = waiting.popleft()
                yield done, verdicts.result()
        while waiting:
            done, verdicts = waiting.popleft()
            yield done, verdicts.result()


def _pairs(
    chunk: list[Generation], loaded: dict[str, LoadedBenchmark], golds: Golds
) -> list[tuple[str, Gold | str | tuple[Gold | str, ...]]]:
    for name in dict.fromkeys(g.benchmark for g in chunk):
        # benchmarks that nobody named are loaded when their first row comes
        if name not in loaded:
            _add(name, loaded, golds)
    for g in chunk:
        if (g.benchmark, g.id) not in golds:
            found = loaded[g.benchmark]
            raise ValueError(
                f"{g.benchmark} has no problem {g.id!r} (an id looks like "
                f"{found.questions[0].id!r}); problems were read from {found.found}"
            )
    return [(g.response, golds[g.benchmark, g.id]) for g in chunk]


def _write(path: Path, text: str) -> None:
    """Replaces the file in one step: readers never see half of it."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, "utf-8")
    os.replace(partial, path)
