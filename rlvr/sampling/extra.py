"""Rewards of the user's own, [[reward.extra]]: called in worker processes, bounded and killable."""

from __future__ import annotations

import inspect
import json
import os
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rewards.counters import UNJUDGED
from rewards.pool.pool import Pool
from rewards.pool.process import PoolSettings
from rlvr.common.log import get_logger
from rlvr.common.own_code import check_call, load_own
from rlvr.data.rows import field_value

if TYPE_CHECKING:
    from rewards import Verdict
    from rewards.pool.process import Outcome
    from rlvr.config.reward import ExtraRewardConfig
    from rlvr.config.train import TrainRecipe
    from rlvr.data.problems import Problem
    from rlvr.engines.engine import Response

logger = get_logger(__name__)

MAX_INLINE_CHARS = 20_000
"""A longer call goes through a file: sending it must not block the pool's thread."""
OF_TRL = {"prompt", "completion", "completion_ids"}
"""Columns that trl's GRPOTrainer does not hand to reward functions."""

Values = list[float | None]


def style_of(config: ExtraRewardConfig) -> str:
    """How the function is called. Raises: ConfigError where it cannot be called so."""
    parameters = inspect.signature(load_own(config.function)).parameters
    style = config.style or ("trl" if "completions" in parameters else "rlvr")
    if style == "rlvr":
        check_call(config.function, "problem", "response", "verdict", "metadata")
    return style


class ExtraRewards:
    """The functions of a recipe, each with worker processes of its own."""

    def __init__(self, recipe: TrainRecipe) -> None:
        """Raises: ConfigError for a function that cannot be imported or called."""
        reward = recipe.reward
        self._problem_fields = [part.problem_field for part in recipe.data.parts]
        self._told: set[str] = set()
        self._stack = ExitStack()
        self._folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="rlvr-")))
        styles = [style_of(one) for one in reward.extra]
        pools = [self._pool(one, reward.num_workers) for one in reward.extra]
        self._functions = list(zip(reward.extra, styles, pools, strict=True))

    def _pool(self, config: ExtraRewardConfig, num_workers: int) -> Pool:
        pool = Pool(
            PoolSettings(
                "rlvr.sampling.extra_worker:call",
                "rlvr.sampling.extra_worker:warm_up",
                (config.function,),
                num_workers=num_workers,
                timeout_s=config.timeout_s,
                memory_mib=config.memory_mib,
            )
        )
        self._stack.callback(pool.close)
        return pool

    def judge(
        self,
        problem: Problem,
        responses: Sequence[Response],
        texts: Sequence[str],
        verdicts: Sequence[Verdict],
    ) -> dict[str, Values]:
        """By label what each function gives for the responses of a group; None where it fails, and
        where the verifier has judged nothing. Safe from any thread."""
        asked = [i for i, verdict in enumerate(verdicts) if verdict.reason not in UNJUDGED]
        found = {}
        for config, style, pool in self._functions:
            if style == "trl":
                calls = [self._of_trl(problem, [(responses[i], texts[i]) for i in asked])]
            else:
                calls = [_of_rlvr(problem, texts[i], verdicts[i]) for i in asked]
            values = self._call(pool, config, style, calls if asked else [], problem)
            by_place = dict(zip(asked, values, strict=True))
            found[config.label] = [by_place.get(i) for i in range(len(verdicts))]
        return found

    def _call(
        self,
        pool: Pool,
        config: ExtraRewardConfig,
        style: str,
        calls: Sequence[dict[str, Any]],
        problem: Problem,
    ) -> Values:
        with ExitStack() as files:
            # default=str: rows of a dataset may hold dates, for which JSON has no form
            sent = [self._handed(json.dumps(one, default=str), files) for one in calls]
            outcomes = pool.map([(config.function, style, text) for text in sent])
        values: Values = []
        for one, outcome in zip(calls, outcomes, strict=True):
            count = len(one["completions"]) if style == "trl" else 1
            for value in _values(outcome, count):
                if isinstance(value, str):
                    self._say(config, value, problem)
                # null: trl too leaves a function out that has nothing to say of a response
                values.append(None if isinstance(value, str) else value or 0.0)
        return values

    def _handed(self, text: str, files: ExitStack) -> str:
        """The call as it is sent: itself, or a file that lasts until the call has ended."""
        if len(text) <= MAX_INLINE_CHARS:
            return text
        handle, name = tempfile.mkstemp(dir=self._folder)
        files.callback(os.unlink, name)
        with open(handle, "w", encoding="utf-8") as file:
            file.write(text)
        return name

    def _say(self, config: ExtraRewardConfig, reason: str, problem: Problem) -> None:
        """Warns of the first failure of each kind."""
        # up to the colon: what follows differs from call to call
        kind = f"{config.label} {reason.partition(':')[0]:.60}"
        if kind not in self._told:
            self._told.add(kind)
            logger.warning(
                f"reward.extra {config.label}: problem {problem.id}: {reason}; the response is"
                " not trained on (further ones like this are in reward/extra_failures)"
            )

    def _of_trl(
        self, problem: Problem, responses: Sequence[tuple[Response, str]]
    ) -> dict[str, Any]:
        """The arguments that trl's GRPOTrainer gives: texts where the dataset's problems are texts,
        messages where they are messages, and every other column as a list."""
        row, count = problem.row or {}, len(responses)
        columns = {name: [value] * count for name, value in row.items() if name not in OF_TRL}
        completions: list[Any] = [text for _, text in responses]
        prompt: Any = problem.prompt[-1]["content"]
        name = self._problem_fields[problem.source]
        if isinstance(field_value(row, name, "data.problem_field"), list):
            prompt = list(problem.prompt)
            completions = [[{"role": "assistant", "content": text}] for text in completions]
        return columns | {
            "prompts": [prompt] * count,
            "completions": completions,
            "completion_ids": [response.token_ids for response, _ in responses],
        }

    def close(self) -> None:
        """Ends the worker processes."""
        self._stack.close()


def _of_rlvr(problem: Problem, text: str, verdict: Verdict) -> dict[str, Any]:
    return {
        "problem": problem.prompt[-1]["content"],
        "response": text,
        "verdict": asdict(verdict),
        "metadata": problem.row or {},
    }


def _values(outcome: Outcome, count: int) -> list[float | str | None]:
    """Of each response of a call a number, or why there is none."""
    if outcome.status == "done":
        status, text = outcome.values
        return json.loads(text) if status == "done" else [text] * count
    reasons = {
        "timeout": "took longer than timeout_s",
        "died": "its process died",
        "memory": "needed more than memory_mib",
        "depth": "its recursion was too deep",
    }
    return [reasons.get(outcome.status, " ".join(outcome.values))] * count
