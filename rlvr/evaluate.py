"""Held-out accuracy with its interval, by the live engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from eval.intervals import Interval, fraction_over_problems
from rlvr.rollout.engine import Engine, Request, Sampling, sample_seed

if TYPE_CHECKING:
    from rewards import Verifier
    from rlvr.config import TrainRecipe
    from rlvr.data import Problem


@dataclass(frozen=True)
class Evaluation:
    """fractions: correct responses of each problem, in order. texts: the first response of each."""

    accuracy: Interval
    fractions: list[float]
    texts: list[str]
    truncated_frac: float

    def to_json(self) -> dict[str, object]:
        return asdict(self)

    @classmethod
    def from_json(cls, tree: dict[str, Any]) -> Evaluation:
        return cls(**{**tree, "accuracy": Interval(**tree["accuracy"])})


def evaluate(
    recipe: TrainRecipe,
    problems: Sequence[Problem],
    prompts: Sequence[list[int]],
    engine: Engine,
    verifier: Verifier,
    decode: Callable[[Sequence[int]], str],
) -> Evaluation:
    """Samples eval.samples responses per problem, with the same seeds in every evaluation."""
    config = recipe.eval
    requests = [
        Request(prompt, sample_seed(recipe.train.seed, "eval", problem.id, i))
        for problem, prompt in zip(problems, prompts, strict=True)
        for i in range(config.samples)
    ]
    sampling = Sampling(recipe.rollout.max_response_len, config.temperature, config.top_p)
    responses = engine.generate(requests, sampling)
    texts = [decode(response.token_ids) for response in responses]
    golds = [problem.gold for problem in problems for _ in range(config.samples)]
    verdicts = verifier.verify_many(list(zip(texts, golds, strict=True)))
    k = config.samples
    fractions = [
        sum(verdict.correct for verdict in verdicts[i : i + k]) / k
        for i in range(0, len(verdicts), k)
    ]
    return Evaluation(
        fraction_over_problems(fractions, k),
        fractions,
        texts[::k],
        sum(response.truncated for response in responses) / len(responses),
    )
