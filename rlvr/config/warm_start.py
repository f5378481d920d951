"""Settings of a recipe for `rlvr sft` that makes a tiny policy from nothing. Imports no torch."""

from pydantic import Field

from rlvr.config.base import Section


class WarmStartModelConfig(Section):
    """The Qwen2 model that is made from nothing, with a tokenizer of its own."""

    hidden_size: int = Field(default=128, ge=32)
    """Width of the residual stream."""
    num_layers: int = Field(default=3, ge=1)
    """Decoder blocks."""
    num_heads: int = Field(default=4, ge=1)
    """Attention heads; vLLM wants hidden_size / num_heads to be 32, 64, 80, 96, 112 or 128."""
    num_kv_heads: int = Field(default=2, ge=1)
    """Key-value heads; divides num_heads."""
    intermediate_size: int = Field(default=384, ge=32)
    """Width of the MLP."""
    vocab_size: int = Field(default=512, ge=320)
    """Most tokens that the tokenizer may have; it takes fewer when every word has one."""
    context_len: int = Field(default=512, ge=128)
    """Context in tokens: prompt plus response."""


class WarmStartDataConfig(Section):
    """Generated word problems with worked solutions, some of them deliberately wrong."""

    num_problems: int = Field(ge=1)
    """Distinct problems, each with one solution, seen once."""
    levels: tuple[int, ...] = (1, 2, 3, 4, 5)
    """Difficulty levels: steps per problem, 1 to 52. One named twice comes twice as often."""
    stop_early: float = Field(default=0.0, ge=0, le=1)
    """Probability that a solution of two or more steps answers before its last step."""
    wrong_operation: float = Field(default=0.0, ge=0, le=1)
    """Probability per step of another operation than the right one."""
    slip: float = Field(default=0.0, ge=0, le=1)
    """Probability per equation of a result off by 1, 2 or 10."""


class WarmStartTrainConfig(Section):
    """Supervised training: AdamW, a cosine from the peak learning rate to 0, one seed."""

    lr: float = Field(gt=0, le=1)
    """Peak learning rate."""
    batch_size: int = Field(default=32, ge=1)
    """Solutions per optimizer step."""
    warmup_steps: int = Field(default=50, ge=0)
    """Steps of linear warm-up from 0."""
    weight_decay: float = Field(default=0.01, ge=0)
    """Decoupled weight decay."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Global gradient norm at which gradients are clipped."""
    seed: int = Field(default=0, ge=0)
    """Seed of problems, mistakes, weights and order."""
    num_threads: int | None = Field(default=None, ge=1)
    """CPU threads; None takes every core that the process may use."""


class WarmStartRunConfig(Section):
    """The cached result."""

    name: str = Field(default="sft", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """First part of the folder's name."""


class WarmStartRecipe(Section):
    """A complete recipe: the problems, how to train on them, the model, the result's name."""

    data: WarmStartDataConfig
    train: WarmStartTrainConfig
    model: WarmStartModelConfig = WarmStartModelConfig()
    run: WarmStartRunConfig = WarmStartRunConfig()
