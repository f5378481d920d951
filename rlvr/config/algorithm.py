"""The [algorithm] and [teacher] sections: which policy gradient. Imports no torch."""

import math
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ModelWrapValidatorHandler, field_validator, model_validator

from rlvr.config.base import AS_TEXT, OR_OWN, Section
from rlvr.config.presets import preset_of
from rlvr.config.rollout import SERVER


class AlgorithmConfig(Section):
    """The policy gradient: advantage x ratio x clip x aggregation x KL. A preset fills what is not
    given; docs/algorithms.md lists presets, parts, papers and equations."""

    preset: Literal[
        "grpo",
        "dapo",
        "dr_grpo",
        "bnpo",
        "rloo",
        "reinforce_pp",
        "gspo",
        "gspo_token",
        "cispo",
        "gmpo",
        "sapo",
        "gpg",
        "opo",
        "maxrl",
        "dppo_tv",
        "dppo_kl",
    ] = "dapo"
    """Named combination of the parts below."""
    advantage: Annotated[
        Literal[
            "group_std",
            "group_mean",
            "leave_one_out",
            "length_weighted",
            "batch_std",
            "batch",
            "informative_scaled",
            "over_mean",
            "pass_at_k",
            "none",
        ],
        OR_OWN,
        AS_TEXT,
    ] = "group_std"
    """Baseline and scale: reward minus the group's mean over the group's std; without the std;
    minus the mean of the others; minus the length-weighted mean; over the step's std; minus the
    step's mean over its std; times groups / informative groups; over the group's mean (MaxRL); of
    the best of pass_k responses; 0, for a teacher alone. This, ratio and clip also take a function
    of your own, module:function or FILE.py:function (docs/extending.md)."""
    pass_k: int = Field(default=4, ge=1)
    """advantage = "pass_at_k": responses in a set."""
    ratio: Annotated[
        Literal["token", "sequence", "sequence_token", "trajectory"], OR_OWN, AS_TEXT
    ] = "token"
    """Level of pi / pi_proximal, the policy now over the policy at the start of the step: token;
    geometric mean over the response; that value with the token's gradient; product over the
    response."""
    clip: Annotated[
        Literal["ppo", "cispo", "soft", "geometric", "none", "binary_tv", "binary_kl"],
        OR_OWN,
        AS_TEXT,
    ] = "ppo"
    """How the ratio is kept near 1: min of clipped and not; bounded weight on log pi; sigmoid gate;
    geometric mean of clipped token ratios; not at all (REINFORCE); no gradient where the token's
    probability is too far from the engine's (DPPO)."""
    # 0.2 and 0.28 are DAPO's (2503.14476), as is the default preset
    clip_low: float = Field(default=0.2, ge=0, le=1)
    """The ratio is clipped at 1 - clip_low (geometric: the log ratio at -clip_low; binary_tv and
    binary_kl: bound of the divergence where the token became less probable)."""
    clip_high: float = Field(default=0.28, ge=0)
    """The ratio is clipped at 1 + clip_high (geometric: the log ratio at clip_high; binary_tv and
    binary_kl: bound of the divergence where the token became more probable)."""
    clip_delta: float | None = Field(default=None, gt=1)
    """Dual clip: the ratio's bound where the advantage is negative, above 1 + clip_high; None: no
    bound."""
    # 1.0 and 1.05 are SAPO's (2511.20347)
    soft_tau_pos: float = Field(default=1.0, gt=0)
    """clip = "soft": temperature of the gate for positive advantages."""
    soft_tau_neg: float = Field(default=1.05, gt=0)
    """clip = "soft": temperature of the gate for other advantages; larger fades faster."""
    aggregation: Literal["token_mean", "response_mean", "response_sum", "constant"] = "token_mean"
    """Denominator: tokens of the step; each response's tokens; responses; max_response_len per
    response."""
    kl_beta: float = Field(default=0.0, ge=0)
    """Weight of the KL penalty to the reference policy; 0 computes no reference."""
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"
    """Per-token estimator of KL(policy || reference)."""
    kl_in: Literal["loss", "reward"] = "loss"
    """Penalty per token in the loss, or its sum over the response taken off the reward."""
    kl_unbiased: bool | None = None
    """Multiply the estimate in the loss by the ratio, so that its gradient is that of the KL; None:
    only for k1, whose own gradient is 0 on average. k2 has that gradient without it."""
    reference: Literal["initial", "anchor", "ema"] = "initial"
    """The KL's reference under full fine-tuning: the policy at step 0, the policy of the last
    multiple of reference_every steps, or an exponential average of the policy."""
    reference_every: int = Field(default=100, ge=1)
    """reference = "anchor": steps between two copies of the policy."""
    reference_decay: float = Field(default=0.99, gt=0, lt=1)
    """reference = "ema": share of the old average that a step keeps."""
    entropy_coef: float = Field(default=0.0, ge=0)
    """Weight of the mean token entropy (nats) in the objective; with entropy_target its start."""
    entropy_target: float | None = Field(default=None, gt=0)
    """Entropy (nats per token) to hold: below it the coefficient grows by entropy_coef_step per
    optimizer step and applies, above it shrinks and does not. None: the coefficient is constant."""
    entropy_coef_step: float = Field(default=0.005, gt=0)
    """Change of the coefficient per optimizer step under entropy_target."""
    entropy_coef_max: float = Field(default=1.0, gt=0)
    """Largest coefficient under entropy_target."""
    mismatch: Literal["none", "tis", "mask"] = "tis"
    """Correction for responses that another policy sampled, by rounding in the engine or by older
    weights, with q = pi_proximal / pi_engine: weight min(q, C), weight q inside [1/C, C] and 0
    outside, or none; older responses then have pi_engine in their ratio."""
    mismatch_level: Literal["token", "sequence"] = "token"
    """q of each token, or of the whole response."""
    mismatch_cap: float = Field(default=2.0, gt=1)
    """C in algorithm.mismatch."""

    geometric_mask: tuple[float, float] | None = None
    """(low, high), such as (0.999, 1.002): responses whose geometric mean of q is outside give no
    policy gradient; None: all do."""
    top_entropy_quantile: float = Field(default=1.0, gt=0, le=1)
    """Share of the step's tokens, those of highest entropy, that give a policy gradient; below 1 it
    takes a forward pass of the policy per step."""
    cov: Literal["none", "clip", "kl"] = "none"
    """What is done to tokens whose log-probability and advantage covary most, which is what lowers
    entropy: nothing; no gradient for some of them (Clip-Cov); a penalty on their drift (KL-Cov)."""
    # 2e-4, 1, 5 and 1 are the paper's (2505.22617)
    cov_frac: float = Field(default=2e-4, gt=0, le=1)
    """Share of the update's tokens that algorithm.cov takes, at least one."""
    cov_range: tuple[float, float] = (1.0, 5.0)
    """cov = "clip": covariances (nats x advantage) between which tokens are drawn."""
    cov_kl_coef: float = Field(default=1.0, gt=0)
    """cov = "kl": weight of |log pi - log pi_proximal| (nats)."""
    off_policy_mask: float | None = Field(default=None, gt=0)
    """Responses with a negative advantage give no policy gradient where the mean over their tokens
    of log pi_engine - log pi (nats) is above this; None: all do."""

    @field_validator("geometric_mask")
    @classmethod
    def _is_around_1(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and not 0 < value[0] <= 1 <= value[1] < math.inf:
            raise ValueError(f"{list(value)} is no range around 1; give low, high, as 0.999, 1.002")
        return value

    @field_validator("cov_range")
    @classmethod
    def _is_range(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not value[0] < value[1]:
            raise ValueError(f"{list(value)} is no range; give the lower covariance first, as 1, 5")
        return value

    @model_validator(mode="wrap")
    @classmethod
    def _fill_preset(cls, values: Any, build: ModelWrapValidatorHandler[Self]) -> Self:
        if not isinstance(values, dict):
            return build(values)
        # an unknown preset fills in nothing: its own field's error names it
        filled = preset_of(values.get("preset", "dapo")) | values
        in_loss = filled.get("kl_in", "loss") == "loss"
        if filled.get("kl_unbiased") is None:
            filled["kl_unbiased"] = filled.get("kl_estimator") == "k1" and in_loss
        section = build(filled)
        # what the preset filled in is not given: it may be ignored, and another preset replaces it
        section.model_fields_set.intersection_update(values)
        return section


class TeacherConfig(Section):
    """A frozen model whose log-probabilities of the sampled tokens enter their advantages; none
    without path and servers."""

    path: str | None = None
    """Folder or hub id of a transformers causal language model with the policy's tokenizer; this
    process loads it, in model.dtype."""
    servers: tuple[Annotated[str, Field(pattern=SERVER)], ...] = ()
    """Addresses of vLLM servers of such a model, which score in its place."""
    weight: float = Field(default=1.0, gt=0)
    """Factor of log p_teacher - log pi (nats) of a token in its advantage."""
    kind: Literal["reverse_kl"] = "reverse_kl"
    """What is brought down: KL(policy || teacher), on responses that the policy samples."""

    @property
    def is_given(self) -> bool:
        """Whether there is a teacher."""
        return self.path is not None or bool(self.servers)
