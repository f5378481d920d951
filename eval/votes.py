"""Groups the answers of a problem by mathematical equality, as the verifier sees it."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from rewards import Gold, Verdict

CORRECT_GROUP = 0

ProblemKey = tuple[str, str]


FORMS = {
    "boxed": "</think>\\boxed{%s}",
    "answer_line": "</think>Answer: %s",
    "hash": "</think>#### %s",
    "last_number": "</think>%s",
}
"""An answer alone as a response, by answer mode, also to a verifier that asks for the end of
thinking."""


class Judge(Protocol):
    """What is needed of `rewards.Verifier`."""

    answer_mode: str

    def verify_many(
        self, pairs: Sequence[tuple[str, Gold | str | tuple[Gold | str, ...]]]
    ) -> list[Verdict]: ...


def answer_groups(
    answers: Mapping[ProblemKey, Sequence[str]], judge: Judge
) -> dict[ProblemKey, dict[str, int]]:
    """Equality class of each wrong answer of each problem; classes are numbered from 1.

    Right answers all equal the gold and form class 0, which is not given here. Every round compares
    all answers that have no class yet with the first of them of the same problem, so a problem
    with u distinct answers in g classes takes at most u * g comparisons, all problems at once. An
    answer that the verifier cannot read as a gold equals only its own text.
    """
    groups: dict[ProblemKey, dict[str, int]] = {key: {} for key in answers}
    waiting = {key: list(dict.fromkeys(texts)) for key, texts in answers.items()}
    group, form = CORRECT_GROUP, FORMS[judge.answer_mode]
    while waiting:
        group += 1
        # the pairs of all problems in one call: the verifier's workers stay busy to the end
        pairs, places = [], []
        for key, texts in waiting.items():
            # equality is transitive: the first stands for its class
            groups[key][texts[0]] = group
            gold = as_gold(texts[0])
            if gold is not None:
                pairs += [(form.replace("%s", text), gold) for text in texts[1:]]
                places += [(key, text) for text in texts[1:]]
        for (key, text), verdict in zip(places, judge.verify_many(pairs), strict=True):
            if verdict.correct:
                groups[key][text] = group
        left = {k: [t for t in texts if t not in groups[k]] for k, texts in waiting.items()}
        waiting = {key: texts for key, texts in left.items() if texts}
    return groups


def as_gold(text: str) -> Gold | None:
    """The text as a gold; None where it cannot be understood as one."""
    try:
        return Gold.parse(text)
    except ValueError:
        return None
