"""How many different things a policy says: unique outputs and answers among samples of a problem.

Source: 2405.09673, unique outputs among n samples.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence
from math import comb
from pathlib import Path
from typing import Any

from eval.intervals import fraction_over_problems
from rewards.extract import extract
from rlvr.analysis.lines import read_lines
from rlvr.common.errors import ConfigError


def unique_among(values: Sequence[Hashable], n: int) -> float:
    """Expected number of different values among n of these drawn without replacement.

    Makes problems with different numbers of samples comparable. n: 1..len(values).
    """
    total = len(values)
    # the ratio: the chance that none of a value's c copies is drawn
    return sum(1 - comb(total - c, n) / comb(total, n) for c in Counter(values).values())


def diversity(groups: Iterable[Sequence[str]], answer_mode: str = "boxed") -> dict[str, Any]:
    """Unique outputs and unique answers, as intervals of fractions of n samples over problems.

    groups: the responses of each problem. n: the smallest group of at least 2. A response without
    an answer counts as one more answer, "none". Outputs are equal when their text is, apart from
    surrounding white space; answers when their extracted text is.
    Raises: ConfigError when no problem has two samples.
    """
    kept = [list(group) for group in groups if len(group) > 1]
    if not kept:
        raise ConfigError("diversity: no problem has two samples; give files with several each")
    # the smallest group sets n, so that no problem's samples are extrapolated
    n = min(map(len, kept))
    outputs = [unique_among([text.strip() for text in group], n) / n for group in kept]
    answers = [
        unique_among([extract(text, answer_mode).answer for text in group], n) / n for group in kept
    ]
    return {
        "samples": n,
        "problems": len(kept),
        "unique_outputs_frac": fraction_over_problems(outputs).to_json(),
        "unique_answers_frac": fraction_over_problems(answers).to_json(),
    }


def read_groups(paths: Sequence[Path]) -> list[list[str]]:
    """Responses by problem from rollout files, generation files, or run folders with rollouts.

    A problem seen in several files (several steps) is a group of its own in each.
    Raises: ConfigError for a line without a response or a problem.
    """
    groups: list[list[str]] = []
    for file in _files(paths):
        by_problem: dict[str, list[str]] = defaultdict(list)
        for number, row in read_lines(file):
            problem = row.get("problem_id", row.get("id"))
            if problem is None or not isinstance(row.get("response"), str):
                raise ConfigError(
                    f"{file} line {number}: needs a response and a problem_id (rollouts) or id"
                    " (generations)"
                )
            by_problem[f"{row.get('benchmark')}/{problem}"].append(row["response"])
        # one group per file: in a later step the same problem has another policy
        groups += by_problem.values()
    return groups


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        inside = path / "rollouts" if (path / "rollouts").is_dir() else path
        found = sorted(inside.glob("*.jsonl*")) if inside.is_dir() else [inside]
        if not found or not found[0].is_file():
            raise ConfigError(f"{path}: no rollouts or generations there (.jsonl or .jsonl.gz)")
        yield from found
