"""Settings of a recipe for `rlvr sft` that starts from an existing model. Imports no torch."""

from typing import Any, Literal

from pydantic import Field, model_validator

from rlvr.config.adapter import AdapterConfig
from rlvr.config.base import Section
from rlvr.config.train import ModelConfig, OptimConfig, lr_of_method


class ExamplesConfig(Section):
    """The examples: prompts with responses, conversations, or generated solutions."""

    path: str
    """A .jsonl, .json or .parquet file, a hub dataset id, or generated:word_problems."""
    name: str | None = None
    """Configuration name of a hub dataset."""
    split: str | None = None
    """Split of a hub dataset; None takes "train". Generated data: None takes "sft"."""
    prompt_field: str | None = None
    """Field with the prompt text, or a list of chat messages; dots reach into nested fields."""
    response_field: str | None = None
    """Field with the response text."""
    response_template: str = "{response}"
    """What the policy learns to say; {response} stands for the response text, {answer} for the
    final answer: the place for a \\boxed{} that `rlvr train` will be asked for."""
    answer_field: str | None = None
    """Field with the final answer, a text, for {answer} in response_template."""
    messages_field: str | None = None
    """Field with a conversation, a list of {role, content}; instead of the two fields above."""
    loss: Literal["response", "all"] = "response"
    """Tokens that are trained: those of every assistant turn with its end, or all."""
    system_prompt: str | None = None
    """System message put before every prompt."""
    prompt_template: str = "{problem}"
    """User message; {problem} stands for the prompt text. Give what `rlvr train` will be given."""
    chat_template: str | None = None
    """File with a Jinja chat template; None takes the tokenizer's own."""
    on_bad_row: Literal["error", "skip"] = "error"
    """An empty or malformed row, or one longer than model.max_len, stops the run or is skipped."""
    limit: int | None = Field(default=None, ge=1)
    """Number of rows taken from the start; for generated data, the number generated."""
    held_out: int = Field(default=0, ge=0)
    """Examples at the end of these that are not trained: their loss is measured before and after,
    per token, into metrics.jsonl and summary.json."""

    @property
    def generated(self) -> bool:
        return self.path.startswith("generated:")


class FinetuneTrainConfig(Section):
    """Length, seed and cost of the run."""

    epochs: int = Field(default=1, ge=1)
    """Passes over the examples."""
    batch_size: int = Field(default=32, ge=1)
    """Examples per optimizer step; with packing, sequences of up to model.max_len tokens."""
    rows_per_microbatch: int | None = Field(default=None, ge=1)
    """Rows in one forward pass, a divisor of batch_size; None takes all of them."""
    packing: bool = False
    """Put several examples into one sequence of model.max_len tokens, no attention between them."""
    activation_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    seed: int = Field(default=0, ge=0)
    """Seed of the order of examples and the adapter's start."""
    log_every: int = Field(default=10, ge=1)
    """Optimizer steps between two lines of metrics.jsonl."""
    num_threads: int | None = Field(default=None, ge=1)
    """CPU threads; None takes all cores of the process."""

    @property
    def micro(self) -> int:
        """Rows in one forward pass."""
        return self.rows_per_microbatch or self.batch_size


class FinetuneRunConfig(Section):
    """The run folder."""

    dir: str = "runs"
    """Parent folder."""
    name: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Folder name; None takes the recipe's name, the method, the seed and the time."""
    merge: bool = False
    """Write merged/ too: base and update as a plain transformers folder, a start for `rlvr
    train`."""


class FinetuneRecipe(Section):
    """A complete recipe for `rlvr sft` with model.path or model.sft_recipe. [model], [adapter] and
    [optim] are those of `rlvr train`; the method is "full" unless the recipe names one."""

    model: ModelConfig
    data: ExamplesConfig
    optim: OptimConfig
    train: FinetuneTrainConfig = FinetuneTrainConfig()
    adapter: AdapterConfig = AdapterConfig(method="full")
    run: FinetuneRunConfig = FinetuneRunConfig()

    @model_validator(mode="before")
    @classmethod
    def _full_unless_named(cls, tree: Any) -> Any:
        adapter = tree.get("adapter", {}) if isinstance(tree, dict) else None
        if isinstance(adapter, dict):
            # an [adapter] table without a method would get that section's own default, lora
            tree = tree | {"adapter": {"method": "full"} | adapter}
        return lr_of_method(tree)
