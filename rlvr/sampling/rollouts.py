"""Groups of responses, the rollouts of a step, and the statistics of sampling them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Self

from rewards import Reason
from rewards.counters import UNJUDGED
from rlvr.algorithm.advantage import MIN_JUDGED, is_informative
from rlvr.engines.engine import CacheLoad, Response


@dataclass(frozen=True, slots=True)
class Group:
    """G responses to one prompt, with a reward and a verdict's reason for each.

    rewards: shaped, and 0 for a response that nobody judged. policy_version: how many steps had
    trained the weights that sampled it, or its oldest token. extra: what each function of
    [[reward.extra]] gave, by name and unweighted; None where it failed or was not asked.
    """

    problem_id: str
    prompt_ids: list[int]
    responses: list[Response]
    rewards: list[float]
    reasons: list[str]
    policy_version: int
    extra: dict[str, list[float | None]] = field(default_factory=dict)

    @property
    def judged(self) -> list[bool]:
        """[G] whether the verifier and every extra reward judged the response; the others are not
        trained on."""
        unknown = {i for values in self.extra.values() for i, x in enumerate(values) if x is None}
        return [
            reason not in UNJUDGED and i not in unknown for i, reason in enumerate(self.reasons)
        ]

    @property
    def num_extra_failures(self) -> int:
        """Values that functions of [[reward.extra]] owe for responses that the verifier judged."""
        return sum(
            value is None and reason not in UNJUDGED
            for values in self.extra.values()
            for value, reason in zip(values, self.reasons, strict=True)
        )

    @property
    def judged_rewards(self) -> list[float]:
        """Rewards of the judged responses, in order."""
        return [reward for reward, known in zip(self.rewards, self.judged, strict=True) if known]

    @property
    def comparable(self) -> bool:
        """Whether two responses or more were judged, so that one can be better than another."""
        return sum(self.judged) >= MIN_JUDGED

    @property
    def informative(self) -> bool:
        """Whether the judged rewards differ, so that not every advantage is 0."""
        return self.comparable and is_informative(self.judged_rewards)

    @property
    def num_tokens(self) -> int:
        return sum(len(response.token_ids) for response in self.responses)

    def to_tree(self) -> dict[str, Any]:
        """JSON-ready; shares the lists."""
        tree = fields_of(self) | {"responses": [fields_of(response) for response in self.responses]}
        tree["step"] = tree.pop("policy_version")  # its name in checkpoints since the first one
        return tree

    @classmethod
    def from_tree(cls, tree: dict[str, Any]) -> Self:
        """The group that `to_tree` made the tree of."""
        responses = [response_of(response) for response in tree["responses"]]
        parts: dict[str, Any] = {**tree, "responses": responses}
        return cls(policy_version=parts.pop("step"), **parts)

    def spans(self) -> list[tuple[int, int]]:
        """(policy version, number of tokens) of all its tokens."""
        return [
            span
            for response in self.responses
            # no spans: one version sampled all of it
            for span in response.spans or [(self.policy_version, len(response.token_ids))]
        ]


def fields_of(row: Any) -> dict[str, Any]:
    """The fields of a dataclass by name; shares their values."""
    return {part.name: getattr(row, part.name) for part in fields(row)}


def response_of(tree: dict[str, Any]) -> Response:
    """The response that `fields_of` made the tree of, or JSON of it."""
    spans = [(version, count) for version, count in tree.get("spans", ())]
    parts: dict[str, Any] = {**tree, "spans": spans}
    return Response(**parts)


@dataclass(slots=True)
class EngineCost:
    """What one engine has spent on a step: decoding steps, tokens, seconds. verify_s: that
    generation did not hide. cache_load: None where the engine does not tell."""

    num_steps: int = 0
    num_tokens: int = 0
    generate_s: float = 0.0
    verify_s: float = 0.0
    cache_load: CacheLoad | None = None


@dataclass(frozen=True, slots=True)
class StepRollouts:
    """The groups that one step trains on, and the metrics of sampling them."""

    groups: list[Group]
    metrics: dict[str, float]

    def to_tree(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"groups": [group.to_tree() for group in self.groups], "metrics": self.metrics}

    @classmethod
    def from_tree(cls, tree: dict[str, Any]) -> Self:
        return cls([Group.from_tree(group) for group in tree["groups"]], tree["metrics"])


def age_metrics(groups: Sequence[Group], step: int) -> dict[str, float]:
    """How old the groups are that are trained on after `step` steps, whichever step sampled
    them."""
    spans = [span for group in groups for span in group.spans()]
    num_trained = sum(count for _, count in spans)
    return {
        "policy/lag_mean": sum((step - v) * n for v, n in spans) / max(num_trained, 1),
        "policy/lag_max": float(step - min(version for version, _ in spans)),
        "rollout/staleness_mean": sum(step - g.policy_version for g in groups) / len(groups),
    }


@dataclass
class RolloutStats:
    """The cost of a step's rollouts.

    fresh: groups that ended in this step, in the order requested. num_asked, num_continued,
    num_paused, num_stale: responses. num_refills: prompts asked for beyond the first ones.
    costs: of each engine.
    """

    fresh: list[Group] = field(default_factory=list)
    num_asked: int = 0
    num_continued: int = 0
    num_paused: int = 0
    num_stale: int = 0
    num_refills: int = 0
    costs: Sequence[EngineCost] = ()

    def metrics(self, groups: Sequence[Group], step: int) -> dict[str, float]:
        """Metrics of a step that trains on `groups`."""
        # engines wait for each other at every tick: the slowest one is what the step took
        generate_s = max(one.generate_s for one in self.costs)
        tokens = [one.num_tokens for one in self.costs]
        num_begun = self.num_asked + self.num_continued
        num_ended = sum(len(group.responses) for group in self.fresh)
        values = {
            **age_metrics(groups, step),
            "rollout/stale_dropped": float(self.num_stale),
            "time/rollout_s": generate_s,
            "time/verify_s": max(one.verify_s for one in self.costs),
            "rollout/decoding_steps": float(max(one.num_steps for one in self.costs)),
        }
        if not self.fresh:  # all groups were left over from the step before
            return values
        # of everything sampled, not of `groups`: those were picked by their rewards
        rewards = [reward for group in self.fresh for reward in group.judged_rewards]
        reasons = Counter(reason for group in self.fresh for reason in group.reasons)
        num_responses = reasons.total()
        truncated = sum(r.truncated for group in self.fresh for r in group.responses)
        num_tokens = sum(group.num_tokens for group in self.fresh)
        informative = sum(group.informative for group in self.fresh)
        fractions = {f"reward/{r}_frac": reasons[r] / num_responses for r in map(str, Reason)}
        return (
            values
            | fractions
            | ({"reward/mean": sum(rewards) / len(rewards)} if rewards else {})
            | self._cache_metrics()
            | self._extra_metrics()
            | {
                "rollout/response_len_mean": num_tokens / num_responses,
                "rollout/truncated_frac": truncated / num_responses,
                "rollout/tokens_per_s": sum(tokens) / generate_s,
                "rollout/imbalance": max(tokens) * len(tokens) / max(sum(tokens), 1),
                "rollout/responses": float(self.num_asked),
                "rollout/aborted_frac": (num_begun - num_ended - self.num_paused) / num_begun,
                "rollout/paused": float(self.num_paused),
                "sampler/refills": float(self.num_refills),
                "sampler/unjudged_frac": (num_responses - len(rewards)) / num_responses,
                "sampler/unjudged_groups": float(sum(not g.comparable for g in self.fresh)),
                "sampler/informative_frac": informative / len(self.fresh),
                "sampler/rollouts_per_informative_group": self.num_asked / max(informative, 1),
            }
        )

    def _extra_metrics(self) -> dict[str, float]:
        if not self.fresh or not self.fresh[0].extra:
            return {}
        means = {}
        for name in self.fresh[0].extra:
            known = [x for group in self.fresh for x in group.extra[name] if x is not None]
            if known:
                means[f"reward/extra_{name}"] = sum(known) / len(known)
        failures = sum(group.num_extra_failures for group in self.fresh)
        return means | {"reward/extra_failures": float(failures)}

    def _cache_metrics(self) -> dict[str, float]:
        loads = [one.cache_load for one in self.costs if one.cache_load is not None]
        if not loads:
            return {}
        return {
            "rollout/preemptions": float(sum(load.preemptions for load in loads)),
            "rollout/cache_peak_frac": max(load.peak_frac for load in loads),
        }


def diagnose(groups: Sequence[Group]) -> str:
    """A sentence on why too few groups carried a signal, and a remedy."""
    reasons = Counter(reason for group in groups for reason in group.reasons)
    num_responses = reasons.total()
    truncated = sum(r.truncated for group in groups for r in group.responses) / num_responses
    shares = ", ".join(f"{count / num_responses:.0%} {r}" for r, count in reasons.most_common(3))
    informative = sum(group.informative for group in groups)
    failures = sum(group.num_extra_failures for group in groups)
    remedy = _remedy(reasons, truncated)
    if failures > 0.5 * num_responses:
        remedy = "Most calls of [[reward.extra]] fail: mend the function; a warning has its error."
    return (
        f"{informative or 'no'} group{'s' * (informative > 1)} carried a signal in"
        f" {len(groups)} prompts, {num_responses} responses:"
        f" {_spread(groups)} ({shares}; {truncated:.0%} truncated). {remedy}"
    )


def _spread(groups: Sequence[Group]) -> str:
    rewards = [reward for group in groups for reward in group.judged_rewards]
    if not rewards:
        return "nothing was judged"
    low, high = min(rewards), max(rewards)
    if low == high:
        return f"all rewards were {low:g}"
    if any(group.informative for group in groups):
        return f"rewards were {low:g} to {high:g}"
    return f"within every group all rewards were equal, {low:g} to {high:g} overall"


def _remedy(reasons: Counter[str], truncated: float) -> str:
    if reasons["gold_invalid"] > 0.5 * reasons.total():
        return "Most golds cannot be read: check data.answer_field."
    if sum(reasons[reason] for reason in UNJUDGED) > 0.5 * reasons.total():
        return "Most responses could not be judged: raise reward.timeout_s or reward.num_workers."
    if reasons["correct"] > 0.5 * reasons.total():
        return "The problems are too easy for this policy: take harder ones."
    if truncated > 0.5:
        return (
            "Most responses were cut off: raise rollout.max_response_len, or, where the start of"
            " the run says that a turn's end is missing, set rollout.stop."
        )
    if reasons["no_answer"] > 0.5 * reasons.total():
        return (
            "Most responses have no final answer where reward.answer_mode looks for it: ask for it"
            " in data.prompt_template, set reward.answer_mode, or warm the policy up with rlvr sft."
        )
    return (
        "The policy cannot solve these problems yet: take easier ones, a stronger policy, or"
        " more responses per prompt (rollout.group_size)."
    )
