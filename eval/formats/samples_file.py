"""samples.jsonl.gz: one line per scored response, in the order scored, with the verdict."""

import gzip
import json
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from eval.formats.jsonl import read_values
from eval.generations import Generation
from rewards import Verdict

NAME = "samples.jsonl.gz"


class SamplesFile:
    """Writes the file while scoring goes on; compression runs beside it, in a thread.

    folder None writes nothing. The file takes its name only when all is written. Times are left
    out, so that scoring the same generations twice gives the same bytes.
    """

    def __init__(self, folder: Path | None):
        self._folder = folder
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._pending: list[Future[None]] = []
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            self._partial = folder / (NAME + ".partial")
            self._file = self._partial.open("wb")

    def write(self, generations: Sequence[Generation], verdicts: Sequence[Verdict]) -> None:
        if self._folder is None:
            return
        # at most one chunk waits: the next is not formatted before the last is on its way
        for done in self._pending:
            done.result()
        lines = map(_line, generations, verdicts)
        self._pending = [self._thread.submit(self._compress, "".join(lines))]

    def _compress(self, text: str) -> None:
        # zlib releases the interpreter lock, so this runs beside the scoring
        # mtime 0: equal samples give equal bytes
        self._file.write(gzip.compress(text.encode(), compresslevel=1, mtime=0))

    def __enter__(self) -> "SamplesFile":
        return self

    def __exit__(self, exc_type: object, *rest: object) -> None:
        # first: the last chunk may still be on its way into the file
        self._thread.shutdown(wait=True)
        if self._folder is None:
            return
        self._file.close()
        if exc_type is None:
            for done in self._pending:
                done.result()
            os.replace(self._partial, self._folder / NAME)
        else:
            self._partial.unlink()


def read_samples(folder: Path) -> Iterator[dict]:
    """The rows of a scored folder's samples file."""
    path = folder / NAME
    if not path.is_file():
        raise ValueError(f"{path}: no such file; score the generations with --out first")
    return (row for _, row in read_values(path))


def samples_by_problem(folder: Path) -> dict[str, dict[str, list[dict]]]:
    """The rows by benchmark and problem id, each problem's by sample number."""
    rows: dict[str, dict[str, list[dict]]] = defaultdict(lambda: defaultdict(list))
    for row in sorted(read_samples(folder), key=lambda row: row["sample"]):
        rows[row["benchmark"]][row["id"]].append(row)
    return rows


def _line(generation: Generation, verdict: Verdict) -> str:
    row = {
        "benchmark": generation.benchmark,
        "id": generation.id,
        "sample": generation.sample,
        "correct": verdict.correct,
        "reason": verdict.reason,
        "answer": verdict.answer,
        "stage": verdict.stage,
        "response_len": generation.response_len,
        "finish_reason": generation.finish_reason,
        "response": generation.response,
    }
    return json.dumps(row, ensure_ascii=False) + "\n"
