"""A metric for lighteval (0.13), backed by the verifier."""

from statistics import fmean
from typing import Any

from rewards.verifier import Verifier


def verified_avg_at_n(n: int = 1, **settings) -> Any:
    """Return a lighteval SampleLevelMetric: the fraction of n sampled responses that are correct.

    A response is correct when it equals any of the document's golds. It is judged whole, as the
    model gave it; the verifier itself looks after the last `</think>`. settings: those of Verifier.
    Computing it raises ValueError when there are fewer than n responses, or a gold is unusable.
    """
    try:
        from lighteval.metrics.metrics_sample import (  # pyright: ignore[reportMissingImports]
            SampleLevelComputation,
        )
        from lighteval.metrics.utils.metric_utils import (  # pyright: ignore[reportMissingImports]
            SampleLevelMetric,
        )
        from lighteval.tasks.requests import (  # pyright: ignore[reportMissingImports]
            SamplingMethod,
        )
    except ImportError as error:
        raise ImportError(
            "lighteval is missing: pip install lighteval, in an environment of its own, because "
            "lighteval 0.13 needs an older latex2sympy2_extended than math-verify 0.9"
        ) from error

    verifier = Verifier(**settings)

    # defined here because its base is imported here
    class VerifiedAvgAtN(SampleLevelComputation):
        """Fraction of the first n responses that the verifier finds correct."""

        def compute(self, doc: Any, model_response: Any, **kwargs: object) -> float:
            return average(verifier, doc.get_golds(), model_response.text, n)

    return SampleLevelMetric(
        metric_name=f"verified_avg@{n}",
        higher_is_better=True,
        category=SamplingMethod.GENERATIVE,
        sample_level_fn=VerifiedAvgAtN(),
        corpus_level_fn=fmean,
    )


def average(verifier: Verifier, golds: list[str], responses: list[str], n: int) -> float:
    """Return the fraction of the first n responses that equal one of the golds."""
    if len(responses) < n:
        raise ValueError(f"n = {n}: there are only {len(responses)} responses; sample more")
    pairs = [(response, gold) for response in responses[:n] for gold in golds]
    verdicts = verifier.verify_many(pairs)
    for (_, gold), verdict in zip(pairs, verdicts, strict=True):
        if verdict.reason.value == "gold_invalid":
            raise ValueError(f"gold {gold!r} cannot be understood; leave the document out")
    # one iterator, taken len(golds) times: a row of the zip has the verdicts of one response
    per_response = zip(*[iter(verdicts)] * len(golds), strict=True)
    return fmean(any(verdict.correct for verdict in group) for group in per_response)
