"""What ends a response: the model's own ends, and the tokens that a recipe names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rlvr.common.errors import ConfigError
from rlvr.data.chat import ends_in_think, read_template, turn_end

if TYPE_CHECKING:
    from rlvr.config.train import RolloutConfig, TrainRecipe


def ends_of(generation_config: Any, tokenizer: Any) -> set[int]:
    """The tokens that end a response in every engine: those of the generation settings, and the
    tokenizer's, which vLLM adds to them."""
    eos = getattr(generation_config, "eos_token_id", None)
    ends = eos if isinstance(eos, list) else [eos]
    return {end for end in (*ends, tokenizer.eos_token_id) if end is not None}


def stop_ids(
    texts: Sequence[str], ids: Sequence[int], tokenizer: Any, names: tuple[str, str]
) -> tuple[int, ...]:
    """The ids with those of the texts, each once. names: of the two settings.

    Raises: ConfigError for a text that is not one token, and for an id beyond the vocabulary.
    """
    found = list(ids)
    for text in texts:
        # a begin-of-sequence token would make two of every text
        tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(tokens) != 1:
            raise ConfigError(
                f"{names[0]} = {text!r}: {len(tokens)} tokens of this tokenizer, and a response can"
                f" stop at one only; give a text that is one token, or its id in {names[1]}"
            )
        found += tokens
    for token in found:
        if token >= len(tokenizer):
            raise ConfigError(
                f"{names[1]} = {token}: the tokenizer has {len(tokenizer)} tokens; lower it"
            )
    return tuple(dict.fromkeys(found))


def with_stops(rollout: RolloutConfig, tokenizer: Any) -> RolloutConfig:
    """The section with rollout.stop among its stop_token_ids. Raises: ConfigError."""
    names = ("rollout.stop", "rollout.stop_token_ids")
    ids = stop_ids(rollout.stop, rollout.stop_token_ids, tokenizer, names)
    return rollout.model_copy(update={"stop_token_ids": ids})


def missing_end(
    generation_config: Any, tokenizer: Any, template: str | None, stops: Sequence[int]
) -> str | None:
    """The token that ends the template's turns and ends no response; None where there is none."""
    end = turn_end(tokenizer, template)
    if end is None or end in ends_of(generation_config, tokenizer) | set(stops):
        return None
    return str(tokenizer.convert_ids_to_tokens(end))


def notices(
    recipe: TrainRecipe, generation_config: Any, tokenizer: Any, prompts: Sequence[list[int]]
) -> list[str]:
    """What a run should say at its start about how its responses begin and end, a line each."""
    lines = []
    template = read_template(recipe.data.chat_template)
    token = missing_end(generation_config, tokenizer, template, recipe.rollout.stop_token_ids)
    if token is not None:
        lines.append(unended(token, f'set rollout.stop = ["{token}"]'))
    # one template made all prompts, so the first says it
    opened = ends_in_think(tokenizer.decode(prompts[0]))
    if recipe.reward.format_weight and opened != recipe.reward.format_opened_in_prompt:
        does, value = ("ends", "true") if opened else ("does not end", "false")
        lines.append(
            f"the chat template's prompt {does} in <think>, which reward.format_weight ="
            f" {recipe.reward.format_weight:g} counts otherwise; set"
            f" reward.format_opened_in_prompt = {value}"
        )
    return lines


def add_end(model: Any, end_id: int) -> None:
    """Makes the token one of those that end a response of the model, as saved from now on."""
    settings = model.generation_config
    ends = settings.eos_token_id
    ends = ends if isinstance(ends, list) else [] if ends is None else [ends]
    ends = list(dict.fromkeys([*ends, end_id]))
    settings.eos_token_id = ends if len(ends) > 1 else ends[0]


def unended(token: str, remedy: str) -> str:
    """What a token that `missing_end` gives means, in one line."""
    return (
        f"the chat template ends a turn with {token}, which ends no response of this model: they"
        f" would run on into turns that it invents; {remedy}"
    )
