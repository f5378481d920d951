"""The [data] section: one source of problems, or several with weights. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from pydantic import Field

from rlvr.config.base import Section


class SourceConfig(Section):
    """One source of several, a table [[data.source]]. A setting that [data] has too and that stands
    at None here is taken from there; "" takes none."""

    path: str
    """As data.path."""
    weight: float | None = Field(default=None, gt=0, le=1)
    """Share of the drawn problems that come from this source; the weights of all sources add up to
    1. None, then for all sources: each problem is drawn as often as any other."""
    name: str | None = None
    """As data.name."""
    split: str | None = None
    """As data.split."""
    limit: int | None = Field(default=None, ge=1)
    """As data.limit."""
    levels: tuple[int, ...] | None = None
    """As data.levels."""
    problem_field: str | None = None
    """As data.problem_field."""
    answer_field: str | None = None
    """As data.answer_field."""
    answer_after: str | None = None
    """As data.answer_after."""
    id_field: str | None = None
    """As data.id_field."""
    difficulty_field: str | None = None
    """As data.difficulty_field; sampling.strategy learns pass rates in each source by itself."""
    system_prompt: str | None = None
    """As data.system_prompt."""
    prompt_template: str | None = None
    """As data.prompt_template."""


class DataConfig(Section):
    """The problems that training samples from."""

    path: str | None = None
    """A .jsonl, .json, .csv, .tsv or .parquet file, a pattern of several, a folder of such files, a
    folder of save_to_disk, a hub dataset id, generated:word_problems, or a function of your own
    that gives the rows, FILE.py:function; exactly one of path and source."""
    source: tuple[SourceConfig, ...] = ()
    """Several sources, each a table [[data.source]]."""
    name: str | None = None
    """Configuration name of a hub dataset."""
    split: str | None = None
    """Split of a hub or generated dataset; None takes "train". A file has none."""
    problem_field: str = "problem"
    """Field with the problem text, or a list of chat messages; dots reach into nested fields."""
    answer_field: str = "answer"
    """Field with the gold answer, a list where any of several counts; dots reach into nested
    fields."""
    answer_after: str | None = Field(default=None, min_length=1)
    """Mark in the answer field that the gold follows, "####" for GSM8K as published; None takes all
    of it."""
    id_field: str | None = None
    """Field with a unique id; None numbers the rows."""
    difficulty_field: str | None = None
    """Field with a difficulty, a number or a name, for sampling.strategy to learn from."""
    system_prompt: str | None = None
    """System message put before every problem."""
    prompt_template: str = "{problem}"
    """User message; {problem} stands for the problem text."""
    chat_template: str | None = None
    """File with a Jinja chat template; None takes the tokenizer's own."""
    max_prompt_len: int | None = Field(default=None, ge=1)
    """Longest prompt in tokens; None allows model.max_len - rollout.max_response_len."""
    on_bad_row: Literal["error", "skip"] = "error"
    """A row without a problem or usable gold, or with too long a prompt, stops the run or is
    skipped."""
    limit: int | None = Field(default=None, ge=1)
    """Number of rows taken from the start; for generated data, the number generated."""
    max_per_answer: int | None = Field(default=None, ge=1)
    """Problems kept of those whose answers are written alike, the first ones of each source; None
    keeps all. Where one answer is common, a policy that is seldom right learns to guess it."""
    levels: tuple[int, ...] | None = None
    """Difficulty levels, 1 to 52, of generated problems; None takes 1 to 5. Other sources have
    none."""
    shuffle: bool = True
    """Draw problems in a new random order in every epoch (from train.seed)."""

    @property
    def parts(self) -> tuple[DataConfig, ...]:
        """One section per source, each with a path: this one, or what [[data.source]] makes of
        it."""
        if not self.source:
            return (self,)
        return tuple(self.model_copy(update=_over(one)) for one in self.source)

    @property
    def paths(self) -> tuple[str, ...]:
        """The path of every source."""
        return tuple(part.path for part in self.parts if part.path is not None)

    @property
    def labels(self) -> tuple[str, ...]:
        """A name for every source, no two alike: the last part of its path, numbered where that is
        another's too."""
        # a colon: generated:word_problems, or FILE.py:function
        stems = [re.split(r"[/:]", path.rstrip("/"))[-1].split(".")[0] for path in self.paths]
        numbered = tuple(f"{stem or 'source'}-{n}" for n, stem in enumerate(stems, start=1))
        short = tuple(
            stem if stem and stems.count(stem) == 1 else label
            for stem, label in zip(stems, numbered, strict=True)
        )
        # one may be called as another is when numbered: a.jsonl twice, and a-1.jsonl
        return short if len(set(short)) == len(short) else numbered

    @property
    def weights(self) -> tuple[float, ...] | None:
        """The share of every source, adding up to 1; None where each problem is drawn as often as
        any other."""
        given = [one.weight for one in self.source if one.weight is not None]
        # divided by their sum, which may miss 1 by TOLERANCE
        return tuple(weight / sum(given) for weight in given) or None


def _over(source: SourceConfig) -> dict[str, Any]:
    """What changes in [data] for this source."""
    given = source.model_dump(exclude={"weight"}, exclude_none=True)
    # fields that have a default take it back; the others have none
    fields = DataConfig.model_fields
    return {"source": ()} | {k: fields[k].default if v == "" else v for k, v in given.items()}


TOLERANCE = 0.005
"""By how much weights may miss 1: a third is written 0.333."""


def data_faults(data: DataConfig, strategy: str) -> Iterator[str]:
    """What is wrong with the sources of problems; strategy: sampling.strategy."""
    if data.path is None and not data.source:
        yield (
            "data.path: missing; add it to the recipe or pass --data.path VALUE, or give several"
            " sources, each a table [[data.source]]"
        )
    if data.path is not None and data.source:
        yield (
            f"data.path = {data.path!r}: stands beside [[data.source]]; move it into a table of its"
            " own there"
        )
    seen: dict[tuple[Any, ...], int] = {}
    for number, one in enumerate(data.source):
        key = f"data.source.{number}"
        # generated problems of other levels are others, under the same path
        first = seen.setdefault((one.path, one.name, one.split, one.levels), number)
        if first != number:
            yield f"{key}.path = {one.path!r}: is data.source.{first} too; remove one of the two"
        template = data.parts[number].prompt_template
        if "{problem}" not in template:
            yield f"{key}.prompt_template = {template!r}: lacks {{problem}}; add it"
        yield from _unread(one, key, strategy)
    yield from _of_weights([one.weight for one in data.source])


def _unread(source: SourceConfig, key: str, strategy: str) -> Iterator[str]:
    """Settings of a source that nothing would read; `key` is its place in the recipe."""
    path, is_generated = f"path = {source.path!r}", source.path.startswith("generated:")
    for name, is_read, beside in (
        ("name", not is_generated, path),
        ("levels", is_generated, path),
        ("difficulty_field", strategy != "uniform", f'sampling.strategy = "{strategy}"'),
    ):
        value = getattr(source, name)
        if value is not None and not is_read:
            yield f"{key}.{name} = {value!r}: would be ignored with {beside}; remove it"


def _of_weights(weights: Sequence[float | None]) -> Iterator[str]:
    """What is wrong with the weights of [[data.source]]."""
    given = [weight for weight in weights if weight is not None]
    if given and len(given) < len(weights):
        yield (
            f"data.source.{weights.index(None)}.weight: missing, where other sources have one; give"
            " every source a weight, or none"
        )
    total = sum(given)
    if given and len(given) == len(weights) and abs(total - 1) > TOLERANCE:
        shares = ", ".join(f"{weight / total:.4g}" for weight in given)
        yield (
            f"data.source.weight = {', '.join(f'{weight:g}' for weight in given)}: adds up to"
            f" {total:g}, must add up to 1; {shares} does"
        )
