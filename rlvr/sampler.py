"""Which prompts next: draws, generates, verifies, and keeps the groups that carry a signal.

Dynamic sampling (DAPO, 2503.14476 sec. 3.2): prompts are drawn until P groups whose rewards
differ are
there. Informative groups beyond P wait for the next step; they are never thrown away.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from rlvr.advantage import is_informative
from rlvr.recipe import RunError
from rlvr.rewarding import shaped_rewards
from rlvr.rollout.engine import Engine, Request, Response, Sampling, sample_seed
from rlvr.selection import Selector

if TYPE_CHECKING:
    from rewards import Verifier
    from rlvr.config import TrainRecipe
    from rlvr.data import Problem


@dataclass(frozen=True, slots=True)
class Group:
    """G responses to one prompt. rewards: shaped; reasons: the verdicts'; step: when sampled."""

    problem_id: str
    prompt_ids: list[int]
    responses: list[Response]
    rewards: list[float]
    reasons: list[str]
    step: int

    @property
    def informative(self) -> bool:
        return is_informative(self.rewards)


@dataclass
class Collected:
    """What one step sampled. groups: to train on; fresh: all groups generated in this step."""

    groups: list[Group]
    fresh: list[Group] = field(default_factory=list)
    rollout_s: float = 0.0
    verify_s: float = 0.0

    @property
    def num_tokens(self) -> int:
        return sum(len(r.token_ids) for group in self.fresh for r in group.responses)


class NoSignalError(RunError):
    """No group carried a signal in all the rounds that the recipe allows."""


class Sampler:
    """Draws problems in a seeded order, epoch after epoch, and owns the groups left over."""

    def __init__(
        self,
        recipe: TrainRecipe,
        problems: Sequence[Problem],
        prompts: Sequence[list[int]],
        decode: Callable[[Sequence[int]], str],
    ) -> None:
        """prompts: token ids of each problem's prompt. decode: response tokens to text."""
        self._recipe, self._problems, self._prompts = recipe, problems, prompts
        self._decode = decode
        self._selector = Selector(
            recipe.sampling,
            len(problems),
            recipe.rollout.group_size,
            recipe.train.steps,
            recipe.train.seed,
            shuffle=recipe.data.shuffle,
        )
        self._informative_frac = 0.5
        self._surplus: list[Group] = []

    def collect(
        self, step: int, engine: Engine, verifier: Verifier, safe_point: Callable[[], None]
    ) -> Collected:
        """The groups of one step: informative ones when sampling.dynamic, else whatever came.

        safe_point is called between rounds and may raise to stop the run.
        Raises: NoSignalError when not one informative group came in all rounds.
        """
        wanted = self._recipe.rollout.prompts_per_step
        result = Collected(groups=self._surplus)
        self._surplus = []
        for _ in range(self._recipe.sampling.max_refills + 1):
            missing = wanted - len(result.groups)
            if missing <= 0:
                break
            safe_point()
            fresh = self._round(step, self._num_prompts(missing), engine, verifier, result)
            if not self._recipe.sampling.dynamic:
                result.groups += fresh
                return result
            result.groups += [group for group in fresh if group.informative]
            self._learn_fraction(fresh)
        if not result.groups:
            raise NoSignalError(diagnose(result.fresh, self._recipe.sampling.max_refills + 1))
        result.groups, self._surplus = result.groups[:wanted], result.groups[wanted:]
        return result

    def _num_prompts(self, missing: int) -> int:
        if not self._recipe.sampling.dynamic:
            return missing
        return math.ceil(missing / max(self._informative_frac, 1 / 3))

    def _learn_fraction(self, fresh: Sequence[Group]) -> None:
        now = sum(group.informative for group in fresh) / len(fresh)
        self._informative_frac = 0.8 * self._informative_frac + 0.2 * now

    def _round(
        self, step: int, num_prompts: int, engine: Engine, verifier: Verifier, result: Collected
    ) -> list[Group]:
        """Generates and verifies one group for each of the next `num_prompts` problems."""
        rollout, size = self._recipe.rollout, self._recipe.rollout.group_size
        drawn = self._selector.pick(num_prompts, step)
        requests = [
            Request(
                self._prompts[index],
                sample_seed(self._recipe.train.seed, step, self._problems[index].id, number, i),
            )
            for index, number in drawn
            for i in range(size)
        ]
        sampling = Sampling(
            rollout.max_response_len,
            rollout.temperature,
            rollout.top_p,
            rollout.top_k,
            rollout.min_p,
        )
        start = time.perf_counter()
        responses = engine.generate(requests, sampling)
        generated = time.perf_counter()
        golds = [self._problems[index].gold for index, _ in drawn for _ in range(size)]
        texts = [self._decode(response.token_ids) for response in responses]
        verdicts = verifier.verify_many(list(zip(texts, golds, strict=True)))
        rewards = shaped_rewards(self._recipe, responses, verdicts, texts)
        result.rollout_s += generated - start
        result.verify_s += time.perf_counter() - generated
        fresh = []
        for g, (index, _) in enumerate(drawn):
            part = slice(g * size, (g + 1) * size)
            fresh.append(
                Group(
                    self._problems[index].id,
                    self._prompts[index],
                    responses[part],
                    rewards[part],
                    [str(verdict.reason) for verdict in verdicts[part]],
                    step,
                )
            )
        for (index, _), group in zip(drawn, fresh, strict=True):
            num_right = group.reasons.count("correct")
            self._selector.observe(index, num_right, len(group.reasons) - num_right, step)
        result.fresh += fresh
        return fresh

    def state(self) -> dict[str, Any]:
        """Everything that the next `collect` depends on, JSON-ready."""
        return {
            "selector": self._selector.state(),
            "informative_frac": self._informative_frac,
            "surplus": [asdict(group) for group in self._surplus],
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continues from `state`."""
        self._selector.load_state(state["selector"])
        self._informative_frac = state["informative_frac"]
        self._surplus = [
            Group(**group | {"responses": [Response(**r) for r in group["responses"]]})
            for group in state["surplus"]
        ]


def diagnose(groups: Sequence[Group], num_rounds: int) -> str:
    """In plain words: what the rewards were, why, and what to do."""
    rewards = [reward for group in groups for reward in group.rewards]
    reasons = Counter(reason for group in groups for reason in group.reasons)
    truncated = sum(r.truncated for group in groups for r in group.responses) / len(rewards)
    shares = ", ".join(f"{count / len(rewards):.0%} {r}" for r, count in reasons.most_common(3))
    if reasons["correct"] == len(rewards):
        remedy = "The problems are too easy for this policy: take harder ones."
    elif truncated > 0.5:
        remedy = "Most responses were cut off: raise rollout.max_response_len."
    elif reasons["no_answer"] > 0.5 * len(rewards):
        remedy = (
            "Most responses have no final answer where reward.answer_mode looks for it: ask for it"
            " in data.prompt_template, set reward.answer_mode, or warm the policy up with rlvr sft."
        )
    else:
        remedy = (
            "The policy cannot solve these problems yet: take easier ones, a stronger policy, or"
            " more responses per prompt (rollout.group_size)."
        )
    low, high = min(rewards), max(rewards)
    spread = f"within every group all rewards were equal, {low:g} to {high:g} overall"
    if low == high:
        spread = f"all rewards were {low:g}"
    return (
        f"no group carried a signal in {num_rounds} rounds ({len(groups)} prompts, {len(rewards)}"
        f" responses): {spread} ({shares}; {truncated:.0%} truncated). {remedy}"
    )
