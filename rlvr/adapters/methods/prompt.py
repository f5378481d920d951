"""Trained positions before the text: prompt tuning (embeddings) and prefix tuning (keys, values).

Both reach the model as a key-value cache that stands before every sequence.
"""

from __future__ import annotations

from typing import Any

from rlvr.adapters.base import Method, Setup, wrap

_RANDOM_START = "the trained positions are random at the start"


def _prompt_tuning(model: Any, setup: Setup) -> Any:
    """Virtual token embeddings, started from random tokens' own. Source: 2104.08691."""
    import peft

    config = peft.PromptTuningConfig(
        num_virtual_tokens=setup.config.prompt.num_tokens,
        prompt_tuning_init="SAMPLE_VOCAB",
        task_type=peft.TaskType.CAUSAL_LM,
    )
    return wrap(model, config, setup.seed)


def _prefix_tuning(model: Any, setup: Setup) -> Any:
    """Keys and values of virtual positions in every layer. Source: 2101.00190.

    Deviation: trained directly, without the paper's reparametrising network.
    """
    import peft

    config = peft.PrefixTuningConfig(
        num_virtual_tokens=setup.config.prompt.num_tokens, task_type=peft.TaskType.CAUSAL_LM
    )
    return wrap(model, config, setup.seed)


def prompt_cache(model: Any, num_rows: int) -> Any | None:
    """The cache of the trained positions, one row per sequence; None for any other model."""
    config = getattr(model, "active_peft_config", None)
    if config is None or not config.is_prompt_learning:
        return None
    prompt = model.get_prompt(batch_size=num_rows)
    if config.peft_type == "PREFIX_TUNING":
        return prompt
    inner = model.get_base_model().base_model
    return inner(inputs_embeds=prompt, use_cache=True).past_key_values


METHODS = (
    Method(
        name="prompt_tuning",
        paper="2104.08691",
        trains="embeddings of virtual tokens before the prompt",
        merges=False,
        syncs=(),
        options=frozenset({"seed", "prompt"}),
        apply=_prompt_tuning,
        start=_RANDOM_START,
        checkpointing=False,  # transformers drops a cache from layers that it checkpoints
        packing=False,  # the cache stands before a sequence, not before each example in it
    ),
    Method(
        name="prefix_tuning",
        paper="2101.00190",
        trains="keys and values of virtual positions in every layer",
        merges=False,
        syncs=(),
        options=frozenset({"seed", "prompt"}),
        apply=_prefix_tuning,
        start=_RANDOM_START,
        checkpointing=False,
        packing=False,
    ),
)
