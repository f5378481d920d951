"""What a policy still knows of other things: accuracy on multiple-choice questions.

Source: 2405.09673: the mean accuracy of HellaSwag, ARC-Challenge and WinoGrande. Those go through
lm-evaluation-harness; files of one's own questions through the same scoring rule here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from eval.intervals import fraction_over_problems, stratified
from rlvr.analysis.lines import read_lines
from rlvr.common.errors import ConfigError, first_line
from rlvr.policy.language_model import LanguageModel
from rlvr.policy.loading import context_len
from rlvr.policy.packing import TokenRow

HARNESS_TASKS = {"hellaswag": "acc_norm", "arc_challenge": "acc_norm", "winogrande": "acc"}
"""Tasks of lm-evaluation-harness and the metric of each that is reported for it."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A question, its possible continuations, and which of them is right."""

    question: str
    choices: list[str]
    answer: int


def read_choices(path: Path) -> list[Choice]:
    """Questions from JSONL: {"question", "choices", "answer"}; answer: an index or the choice.

    Raises: ConfigError with file and line.
    """
    rows = [_choice(row, f"{path}:{number}") for number, row in read_lines(path)]
    if not rows:
        raise ConfigError(f"{path}: has no questions")
    return rows


def _choice(row: dict[str, Any], where: str) -> Choice:
    question, choices, answer = row.get("question"), row.get("choices", []), row.get("answer")
    texts = isinstance(choices, list) and all(isinstance(c, str) and c for c in choices)
    if not isinstance(question, str) or not texts or len(choices) < 2:
        raise ConfigError(f"{where}: needs a question and at least 2 choices that are texts")
    index = choices.index(answer) if answer in choices else answer
    if not isinstance(index, int) or not 0 <= index < len(choices):
        raise ConfigError(
            f"{where}: answer = {answer!r}: give one of the choices, or its index from 0"
        )
    return Choice(question, choices, index)


@torch.no_grad()
def score_choices(
    policy: LanguageModel, questions: Sequence[Choice], max_tokens: int = 8192
) -> list[int]:
    """1 for every question whose right choice has the highest log-likelihood per character.

    A choice continues its question after one space, with no chat template. max_tokens: of a batch.
    Raises: ConfigError for a question that the model's context does not hold.
    """
    rows, lengths = [], []
    for question in questions:
        for choice in question.choices:
            rows.append(_row(policy, question.question, choice))
            lengths.append(len(choice))
    sums = _sums(policy, rows, max_tokens)
    # by characters, as acc_norm, so that long choices are at no disadvantage
    scores = [logp / length for logp, length in zip(sums, lengths, strict=True)]
    right, start = [], 0
    for question in questions:
        ours = scores[start : start + len(question.choices)]
        right.append(int(max(range(len(ours)), key=ours.__getitem__) == question.answer))
        start += len(ours)
    return right


def _row(policy: LanguageModel, question: str, choice: str) -> TokenRow:
    """The question's tokens and those that the choice adds; a joint encoding decides the border."""
    tokenizer = policy.tokenizer
    prompt = tokenizer(question.rstrip(), add_special_tokens=False)["input_ids"]
    # encoded together: a tokenizer may merge the space with the choice's first letters
    both = tokenizer(f"{question.rstrip()} {choice}", add_special_tokens=False)["input_ids"]
    longest = context_len(policy.causal_lm.config) or len(both)
    if not prompt or len(both) > longest:
        raise ConfigError(
            f"a question of {len(both)} tokens ({question[:40]!r}...): the model takes 1 to"
            f" {longest}; leave it out"
        )
    # merged into the question's last token: that token is part of the choice
    shared = len(prompt) if both[: len(prompt)] == prompt else len(prompt) - 1
    return TokenRow(both[: max(shared, 1)], both[max(shared, 1) :])


def _sums(policy: LanguageModel, rows: Sequence[TokenRow], max_tokens: int) -> list[float]:
    """Log-likelihood of each row's response, in batches of similar length."""
    # rows of like length share a batch: less padding
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    sums = [0.0] * len(rows)
    while order:
        count = 1
        while count < len(order) and len(rows[order[count]]) * (count + 1) <= max_tokens:
            count += 1
        batch, order = order[:count], order[count:]
        flat = policy.logprobs([rows[i] for i in batch], temperature=1.0)[0]
        parts = flat.split([len(rows[i].response_ids) for i in batch])
        for i, part in zip(batch, parts, strict=True):
            sums[i] = float(part.double().sum())
    return sums


def summarise(right: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Accuracy of every task and their unweighted mean, each {"value", "ci95"} over questions."""
    tasks = {name: fraction_over_problems(v).to_json() for name, v in right.items()}
    return tasks | {"mean": stratified(list(right.values())).to_json()}


def accuracies(policy: LanguageModel, files: Sequence[Path], harness: bool) -> dict[str, Any]:
    """`summarise` of the files, by their names, and of the harness's tasks where asked for."""
    right: dict[str, Sequence[float]] = {
        path.name.partition(".")[0]: score_choices(policy, read_choices(path)) for path in files
    }
    return summarise(right | (run_harness(policy) if harness else {}))


def run_harness(
    policy: LanguageModel,
    tasks: Mapping[str, str] = HARNESS_TASKS,
    include_path: Path | None = None,
) -> dict[str, list[float]]:
    """Per-question scores (0 or 1) of lm-evaluation-harness tasks on the live policy.

    tasks: name and metric. Data come from the hub or its cache. include_path: folder with further
    task definitions.
    Raises: ConfigError where the harness is not installed or its data cannot be had.
    """
    try:
        from lm_eval import simple_evaluate  # pyright: ignore[reportMissingImports]
        from lm_eval.models.huggingface import HFLM  # pyright: ignore[reportMissingImports]
        from lm_eval.tasks import TaskManager  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ConfigError(
            "--harness: lm-evaluation-harness is not installed; pip install lm_eval, or give"
            " questions of your own with --multiple-choice FILE"
        ) from error
    model = HFLM(pretrained=policy.causal_lm, tokenizer=policy.tokenizer)
    try:
        found = simple_evaluate(
            model=model,
            tasks=list(tasks),
            task_manager=TaskManager(include_path=str(include_path) if include_path else None),
            # the only place with a score per question
            log_samples=True,
            # intervals are formed here, over the same questions
            bootstrap_iters=0,
        )
    except (OSError, ConnectionError, ValueError) as error:
        reason = first_line(error)
        raise ConfigError(f"--harness: {', '.join(tasks)} cannot be run ({reason})") from error
    return {
        task: [float(sample[metric]) for sample in found["samples"][task]]
        for task, metric in tasks.items()
    }
