"""The words of a verdict, shared by every part of the verifier."""

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple


class Reason(StrEnum):
    """Why a response got its verdict; timeout and worker_died are failures of ours."""

    CORRECT = "correct"
    WRONG = "wrong"
    NO_ANSWER = "no_answer"
    HEDGED = "hedged"
    UNEVALUATED = "unevaluated"
    UNPARSED = "unparsed"
    TOO_LARGE = "too_large"
    TIMEOUT = "timeout"
    WORKER_DIED = "worker_died"
    GOLD_INVALID = "gold_invalid"


class Ruling(NamedTuple):
    """What a judge says of an answer. reason: the verdict's; stage: the part that decided."""

    reason: Reason
    stage: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome of one verification.

    correct: whether the answer equals the gold. reason: why. answer: the extracted answer text, or
    None. stage: the part that decided. ms: milliseconds spent on this pair, without waiting behind
    others.
    """

    correct: bool
    reason: Reason
    answer: str | None
    stage: str
    ms: float
