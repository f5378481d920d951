"""The [reward] section: what a verdict is worth, and rewards beside it. Imports no torch."""

from typing import Literal

from pydantic import Field

from rlvr.common.own_code import PATTERN
from rlvr.config.base import Section


class ExtraRewardConfig(Section):
    """A reward of your own, added to the others; docs/extending.md has what it is called with."""

    function: str = Field(pattern=PATTERN)
    """module:function or FILE.py:function."""
    weight: float = Field(default=1.0, ge=-1e6, le=1e6)
    """Factor of what the function gives."""
    name: str | None = Field(default=None, pattern=r"^\w+$")
    """Its name in metrics, reward/extra_NAME; None takes the function's."""
    style: Literal["rlvr", "trl"] | None = None
    """rlvr: called for a response with (problem, response, verdict, metadata). trl: called for a
    group, as a reward function of trl's GRPOTrainer is. None: trl where it has a parameter called
    completions."""
    timeout_s: float = Field(default=10.0, gt=0)
    """Seconds one call may take before its worker is killed."""
    memory_mib: int = Field(default=1024, ge=64)
    """Memory that a worker may add to what it starts with, in MiB."""

    @property
    def label(self) -> str:
        """Its name in metrics."""
        return self.name or self.function.rpartition(":")[2]


class RewardConfig(Section):
    """What a verdict is worth."""

    answer_mode: Literal["boxed", "answer_line", "hash", "last_number"] = "boxed"
    """Where the final answer stands in a response."""
    require_closed_think: bool | None = None
    """A response has an answer only after its `</think>`, so that thinking cut off at the limit is
    not paid for a box in it; None: where the chat template ends the prompt in an open `<think>`."""
    correct: float = 1.0
    """Reward of a correct response."""
    incorrect: float = 0.0
    """Reward of any other response."""
    timeout_s: float = Field(default=1.0, gt=0)
    """Seconds one verification may take before its worker is killed."""
    num_workers: int = Field(default=2, ge=1)
    """Verifier processes."""
    overlong: Literal["none", "penalty", "mask"] = "none"
    """Truncated responses: plain, soft penalty near the limit (DAPO eq. 13), or kept out of the
    loss."""
    overlong_cache_len: int = Field(default=0, ge=0)
    """Tokens before max_response_len over which the penalty grows from 0 to -1."""
    format_weight: float = Field(default=0.0, ge=0)
    """Weight of the format reward: 1 for `<think>reasoning</think>answer`, else 0."""
    format_opened_in_prompt: bool = False
    """The prompt already ends in `<think>`, as some chat templates write it."""
    length_weight: float = Field(default=0.0, ge=0)
    """Weight of the length reward: +0.5 for a group's shortest response to -0.5 for its longest, at
    most 0 for a wrong one."""
    repetition_weight: float = Field(default=0.0, ge=0)
    """Weight of the repetition penalty: minus the share of n-grams that repeat an earlier one."""
    repetition_ngram_len: int = Field(default=20, ge=2)
    """Tokens of an n-gram in the repetition penalty."""
    extra: tuple[ExtraRewardConfig, ...] = ()
    """Rewards of your own, each a table [[reward.extra]]."""
    normalise: bool = False
    """Bring every part of the reward to mean 0 and standard deviation 1 within its group before
    adding them up, so that none drowns the others."""
