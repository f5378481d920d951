"""Sampled responses: the rows of a generations file, and a log of them that survives being killed.

A row is `{"benchmark", "id", "sample", "response", "response_len", "finish_reason"}`; only
benchmark, id and response are needed. Files are JSONL, compressed with gzip or not.
"""

import gzip
import io
import json
import os
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

from eval.formats.jsonl import read_lines

PART_BYTES = 2**12
"""Bytes of a log read at a time; what is left of a piece is copied once per member in it."""

GenerationKey = tuple[str, str, int]
"""(benchmark, problem id, sample index)."""


@dataclass(frozen=True, slots=True)
class Generation:
    """One sampled response. response_len: tokens, None when not known. finish_reason: "length" when
    the limit cut it, "stop" when it ended by itself, None when not known.
    """

    benchmark: str
    id: str
    sample: int
    response: str
    response_len: int | None = None
    finish_reason: str | None = None

    @property
    def key(self) -> GenerationKey:
        return self.benchmark, self.id, self.sample

    @property
    def truncated(self) -> bool | None:
        return None if self.finish_reason is None else self.finish_reason == "length"


def read_generations(path: str | Path) -> Iterator[Generation]:
    """The rows of a generations file, in order. Rows without `sample` are numbered per problem.

    Raises ValueError with file and line for a row that is not of the form above, and for a sample
    that occurs twice.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file; give a JSONL file of generations")
    counted: dict[tuple[str, str], int] = defaultdict(int)
    seen: set[GenerationKey] = set()
    try:
        for number, line in read_lines(path):
            generation = _parse(line, f"{path}:{number}", counted)
            if generation.key in seen:
                raise ValueError(
                    f"{path}:{number}: sample {generation.sample} of {generation.benchmark} "
                    f"{generation.id} occurs twice; number samples 0, 1, ... or leave `sample` out"
                )
            seen.add(generation.key)
            yield generation
    except (EOFError, zlib.error, gzip.BadGzipFile, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: damaged ({error}); continue the run that wrote it") from None


class GenerationLog:
    """Appends generations to a `.jsonl.gz` file so that a killed run loses at most one batch.

    Each batch is a gzip member of its own, on the disk when `append` returns. Opening a log that
    exists keeps its complete rows and cuts off a half-written end. `settings` (model, sampling,
    seed) is stored beside it; opening with others is a ValueError: the samples would not be alike.
    """

    def __init__(self, path: str | Path, settings: dict):
        self.path = Path(path)
        self.done: set[GenerationKey] = set()
        self._check_settings(settings)
        if self.path.exists():
            self._recover()

    def append(self, generations: Iterable[Generation]) -> int:
        """Writes those not in the log yet; returns how many they were."""
        # also within the batch: an engine that was restarted may give a sample twice
        fresh: dict[GenerationKey, Generation] = {}
        for generation in generations:
            if generation.key not in self.done:
                fresh.setdefault(generation.key, generation)
        if fresh:
            lines = "".join(_dump(generation) for generation in fresh.values())
            with self.path.open("ab") as file:
                # a gzip file may have several members: each batch is readable without the next
                file.write(gzip.compress(lines.encode(), compresslevel=1, mtime=0))
                file.flush()
                # flush alone leaves it to the kernel, which loses it when the machine goes down
                os.fsync(file.fileno())
            self.done.update(fresh)
        return len(fresh)

    def _check_settings(self, settings: dict) -> None:
        beside = self.path.with_name(self.path.name + ".settings.json")
        wanted = json.dumps(settings, sort_keys=True, indent=1)
        if beside.exists() and self.path.exists():
            before, now = json.loads(beside.read_text("utf-8")), json.loads(wanted)
            changed = sorted(k for k in before | now if before.get(k) != now.get(k))
            if changed:
                name = changed[0]
                raise ValueError(
                    f"{self.path}: was sampled with {name} = {before.get(name)!r}, now "
                    f"{now.get(name)!r}; use the same settings or another folder"
                )
        self.path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(wanted + "\n", "utf-8")

    def _recover(self) -> None:
        with self.path.open("r+b") as file:
            # what stands behind the last whole member was being written when the run was killed
            members, whole = _whole_members(file)
            file.truncate(whole)
        counted: dict[tuple[str, str], int] = defaultdict(int)
        for number, line in enumerate(io.BytesIO(b"".join(members)), start=1):
            self.done.add(_parse(line.decode(), f"{self.path}:{number}", counted).key)


def _whole_members(file: BinaryIO) -> tuple[list[bytes], int]:
    """(texts of the complete gzip members, the offset where the last of them ends)."""
    # piece by piece: each byte is inflated once, however many members a long run has written
    members: list[bytes] = []
    whole, read, left = 0, 0, b""
    while True:
        # 31: a gzip header and the largest window; gzip's own reader cannot say where a member ends
        inflate, parts = zlib.decompressobj(wbits=31), []
        while not inflate.eof:
            piece = left or file.read(PART_BYTES)
            read += 0 if left else len(piece)
            if not piece:
                return members, whole
            try:
                parts.append(inflate.decompress(piece))
            except zlib.error:
                return members, whole
            left = inflate.unused_data
        members.append(b"".join(parts))
        whole = read - len(left)


def write_generations(path: Path, generations: Iterable[Generation]) -> None:
    """Writes a generations file, compressed with gzip; it appears when it is complete."""
    partial = path.with_name(path.name + ".partial")
    text = "".join(map(_dump, generations))
    # mtime 0: equal generations give equal bytes
    partial.write_bytes(gzip.compress(text.encode(), compresslevel=1, mtime=0))
    os.replace(partial, path)


def _dump(generation: Generation) -> str:
    row = {k: v for k, v in asdict(generation).items() if v is not None}
    return json.dumps(row, ensure_ascii=False) + "\n"


def _parse(line: str, where: str, counted: dict[tuple[str, str], int]) -> Generation:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: not JSON ({error.msg})") from None
    if not isinstance(row, dict):
        raise ValueError(f"{where}: needs one JSON object per line")
    for name in ("benchmark", "id", "response"):
        if not isinstance(row.get(name), str):
            raise ValueError(f"{where}: {name!r} must be a string, got {row.get(name)!r:.40}")
    problem = row["benchmark"], row["id"]
    # harnesses that write one response per line do not number them
    sample = row.get("sample", counted[problem])
    counted[problem] += 1
    if not isinstance(sample, int) or sample < 0:
        raise ValueError(f"{where}: sample = {sample!r}: number samples 0, 1, 2, ...")
    length = row.get("response_len")
    if length is not None and (not isinstance(length, int) or length < 0):
        raise ValueError(f"{where}: response_len = {length!r}: give a number of tokens")
    finish = row.get("finish_reason")
    return Generation(*problem, sample, row["response"], length, finish)
