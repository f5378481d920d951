"""`[[stage]]`: settings that change once so many steps are done. Imports no torch.

[[stage]]
at_step = 200
rollout.max_response_len = 16384
reset_reference = true
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from rlvr.common.nested import flatten
from rlvr.config.base import Section

MAY_CHANGE = frozenset(
    {
        *("rollout.max_response_len", "rollout.prompts_per_step", "rollout.group_size"),
        *("rollout.temperature", "rollout.top_p", "rollout.top_k", "rollout.min_p"),
        *("sampling.dynamic", "sampling.max_refills"),
        *("algorithm.clip_low", "algorithm.clip_high", "algorithm.kl_beta"),
        *("reward.overlong", "reward.overlong_cache_len", "reward.format_weight"),
        *("reward.length_weight", "reward.repetition_weight"),
        *("optim.lr", "train.tokens_per_microbatch"),
    }
)
"""Settings that a stage may change, besides all of [data] but its chat template."""

_ENGINE = "the engine is started once, with the first stage's settings"
WHY_NOT = {
    "model": "policy and engine are loaded once; start a new run with adapter.start_from",
    "adapter": "what is trained is made once; start a new run with adapter.start_from",
    "rollout": _ENGINE,
    "data": "evaluations before and after would be asked in different formats",
    "eval": "evaluations before and after could not be compared",
    "teacher": "it is loaded once; start a new run with adapter.start_from",
    "train": "it is of the whole run",
    "track": "it is of the whole run",
    "run": "it is of the whole run",
    "sampling": "how often problems are solved is kept by one strategy for the whole run",
    "reward": "verifier and workers are started once",
    "algorithm": "a run has one objective; its coefficients may change",
    "optim": "the optimizer is made once; reset_optimizer = true makes it anew, as it was",
}
"""By section why its other settings stay."""


class StageConfig(Section):
    """Settings that change at a step, written as in the recipe: rollout.temperature = 0.8. What a
    stage changes stays so in the stages after it."""

    at_step: int = Field(ge=1)
    """Finished steps with which the stage begins."""
    reset_reference: bool = False
    """The policy as it is then becomes the reference policy of the KL penalty."""
    reset_optimizer: bool = False
    """The optimizer begins anew: no momentum from the stage before."""
    changes: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """The settings that change, by section; a recipe writes the sections without this word."""

    @model_validator(mode="before")
    @classmethod
    def _sections(cls, tree: Any) -> Any:
        """Raises: ValueError for what is neither a setting of a stage nor a section of a recipe."""
        if not isinstance(tree, dict):
            return tree
        own = {name: tree[name] for name in cls.model_fields if name in tree and name != "changes"}
        changes = {name: values for name, values in tree.items() if name not in own}
        for name, values in changes.items():
            if name not in WHY_NOT or not isinstance(values, dict):
                raise ValueError(
                    f"stage.{name}: unknown setting; a stage has at_step, reset_reference,"
                    " reset_optimizer, and settings with their section, rollout.temperature = 0.8"
                )
        return own | {"changes": changes}

    @model_serializer(mode="wrap")
    def _as_written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """As a recipe writes it."""
        tree = {k: v for k, v in handler(self).items() if k in self.model_fields_set}
        return tree | tree.pop("changes", {})

    def refused(self) -> Iterator[str]:
        """What it changes and cannot, with the reason."""
        for key, value in flatten(self.changes).items():
            section = key.partition(".")[0]
            free = section == "data" and key != "data.chat_template"
            if key not in MAY_CHANGE and not free:
                yield f"{key} = {value!r}: cannot change: {WHY_NOT[section]}; remove it"


def overlaid(tree: Mapping[str, Any], stages: tuple[StageConfig, ...]) -> dict[str, Any]:
    """A recipe as nested dicts with the changes of these stages, in order."""
    result = {name: values for name, values in tree.items() if name != "stage"}
    for stage in stages:
        for section, values in stage.changes.items():
            before = dict(result.get(section, {}))
            # one place of problems or several: the other of the two goes
            if section == "data" and values.keys() & {"path", "source"}:
                before = {k: v for k, v in before.items() if k not in ("path", "source")}
            result[section] = before | values
    return result
