"""A reward function for trl's GRPOTrainer (trl 1.16), backed by the verifier."""

from collections import Counter
from collections.abc import Callable, Sequence

from rewards.counters import UNJUDGED
from rewards.types import Reason
from rewards.verifier import Verifier


class MathReward:
    """1.0 for a correct response, 0.0 for any other; None, which trl leaves out, when not judged.

    Not judged are a gold that cannot be understood and failures of ours (timeout, worker_died): a
    zero there would teach the policy something that nobody knows.

    gold_column: the dataset's column with the golds. settings: those of Verifier.

        GRPOTrainer(model, reward_funcs=MathReward(gold_column="answer"), ...)

    The columns reason and answer go to trl's table of completions, the fraction of each reason to
    its metrics as `verifier/<reason>_frac`. The worker pool starts with the first call, so that
    the object can be pickled into another process.
    """

    # trl names the reward's metrics after it
    __name__ = "math_reward"

    def __init__(self, gold_column: str = "solution", **settings):
        self.gold_column = gold_column
        self.settings = settings
        self._verifier: Verifier | None = None

    def __call__(
        self,
        completions: Sequence[str | list[dict[str, str]]],
        log_extra: Callable[[str, list], None] | None = None,
        log_metric: Callable[[str, float], None] | None = None,
        **columns,
    ) -> list[float | None]:
        if self.gold_column not in columns:
            raise ValueError(
                f"gold_column = {self.gold_column!r}: the dataset has no such column; "
                f"it has {', '.join(sorted(columns))}"
            )
        if self._verifier is None:
            self._verifier = Verifier(**self.settings)
        golds = columns[self.gold_column]
        responses = [response_text(completion) for completion in completions]
        # str: a dataset may have its answers as numbers
        verdicts = self._verifier.verify_many(zip(responses, map(str, golds), strict=True))
        if log_extra is not None:
            log_extra("reason", [verdict.reason.value for verdict in verdicts])
            log_extra("answer", [verdict.answer or "" for verdict in verdicts])
        if log_metric is not None:
            counts = Counter(verdict.reason for verdict in verdicts)
            # zeros too: trl leaves a batch that logs nothing under a name out of that name's mean
            for reason in Reason:
                log_metric(f"verifier/{reason.value}_frac", counts[reason] / len(verdicts))
        return [
            None if verdict.reason in UNJUDGED else float(verdict.correct) for verdict in verdicts
        ]

    def close(self) -> None:
        """End the worker processes; a later call starts new ones."""
        if self._verifier is not None:
            self._verifier.close()
            self._verifier = None

    def __getstate__(self) -> dict:
        # worker processes and their pipes cannot be pickled
        return {**self.__dict__, "_verifier": None}


def response_text(completion: str | list[dict[str, str]]) -> str:
    """Return the text to judge: the completion itself, or a conversation's last message."""
    return completion if isinstance(completion, str) else completion[-1]["content"]
