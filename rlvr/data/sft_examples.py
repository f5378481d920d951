"""Supervised examples as token ids with a loss mask, rendered as `rlvr train` renders its prompts.

A prompt is the chat template's text with the generation prompt, the very tokens that the policy
sees in RL; a response is tokenised on its own behind it and closed by the token that ends a turn,
as if it had been generated.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from dataclasses import dataclass
from typing import Any

from rlvr.common.errors import ConfigError
from rlvr.config.sft import ExamplesConfig
from rlvr.config.train import DataConfig
from rlvr.data.chat import (
    Messages,
    check_template,
    ends_in_think,
    read_messages,
    read_template,
    render,
    turn_end,
    with_system,
)
from rlvr.data.rows import field_value, read_rows

IGNORED = -100
"""The label of a token without loss."""


@dataclass(frozen=True, slots=True)
class Examples:
    """rows and held_out: input_ids and labels (-100: no loss), not shifted. sha256 is over the
    messages of both."""

    rows: list[dict[str, list[int]]]
    held_out: list[dict[str, list[int]]]
    source: str
    sha256: str
    num_skipped: int


@dataclass(frozen=True, slots=True)
class Chat:
    """A tokenizer with its chat template. end_id: of the token that ends an assistant's turn."""

    tokenizer: Any
    template: str | None
    end_id: int

    def render(self, messages: Messages, **options: Any) -> str:
        """The template's text. Raises: ValueError where the template refuses the messages."""
        return render(self.tokenizer, self.template, messages, **options)

    def encode(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]


def load_examples(config: ExamplesConfig, tokenizer: Any, max_len: int, seed: int) -> Examples:
    """The examples that `config` names. seed: of generated solutions.

    Raises: ConfigError for a missing source or field, an unusable row, or no rows to train.
    """
    chat = make_chat(tokenizer, config.chat_template)
    # its problems are none of those that RL trains on or evaluates
    split = config.split or ("sft" if config.generated else None)
    where = DataConfig(path=config.path, name=config.name, split=split, limit=config.limit)
    table, source = read_rows(where, "data")
    draw = random.Random(seed)
    rows, num_skipped, digest = [], 0, hashlib.sha256()
    for number, row in enumerate(table, start=1):
        if config.limit is not None and number > config.limit:
            break
        try:
            messages, num_context = _messages(row, config, draw)
            example = encode_example(messages, chat, config.loss, num_context)
            if len(example["input_ids"]) > max_len:
                raise ValueError(
                    f"it has {len(example['input_ids'])} tokens, model.max_len is {max_len}"
                )
        except ValueError as error:
            if config.on_bad_row == "error":
                raise ConfigError(
                    f"data.path = {config.path!r}, row {number}: {error}; mend it or set"
                    ' data.on_bad_row = "skip"'
                ) from error
            num_skipped += 1
            continue
        rows.append(example)
        # over the messages, so that the hash does not depend on the tokenizer
        digest.update(json.dumps(messages).encode())
    if not rows:
        raise ConfigError(
            f"data.path = {config.path!r}: no usable example ({num_skipped} rows skipped); check"
            " the file and the fields named in [data]"
        )
    num_trained = len(rows) - config.held_out
    if num_trained < 1:
        raise ConfigError(
            f"data.held_out = {config.held_out} leaves none of {len(rows)} examples to train; lower"
            " it"
        )
    return Examples(rows[:num_trained], rows[num_trained:], source, digest.hexdigest(), num_skipped)


def make_chat(tokenizer: Any, template_file: str | None = None) -> Chat:
    """The tokenizer's chat format. Raises: ConfigError without a chat template."""
    template = read_template(template_file)
    check_template(tokenizer, template, "set data.chat_template to a Jinja file")
    turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]
    try:
        render(tokenizer, template, turns)
    except ValueError as error:
        raise ConfigError(f"data.chat_template: {error}; give another template") from error
    # many templates end a turn with another token than the tokenizer's eos
    end_id = turn_end(tokenizer, template)
    return Chat(tokenizer, template, tokenizer.eos_token_id if end_id is None else end_id)


def encode_example(
    messages: Messages, chat: Chat, loss: str = "response", num_context: int = 0
) -> dict[str, list[int]]:
    """input_ids and labels of a conversation; the loss falls on assistant turns and their ends.

    num_context: messages at the start that are context only. loss = "all": on every token.
    Raises: ValueError for a conversation that does not end with an assistant's turn or that the
    template rewrites as it grows.
    """
    if not messages or messages[-1]["role"] != "assistant":
        raise ValueError("the last message has to be the assistant's")
    ids: list[int] = []
    labels: list[int] = []
    done, end = "", chat.tokenizer.decode([chat.end_id])
    for index, message in enumerate(messages):
        if message["role"] != "assistant" or index < num_context:
            continue
        prompt = chat.render(messages[:index], add_generation_prompt=True)
        # templates such as Qwen3's drop the thinking of earlier turns: no single sequence exists
        if not prompt.startswith(done):
            raise ValueError(
                "the chat template changes earlier turns as the conversation grows, so it cannot be"
                " trained as a whole; give its last turn as prompt and response"
            )
        response = _without_opened_think(prompt, message["content"])
        context, answer = chat.encode(prompt[len(done) :]), [*chat.encode(response), chat.end_id]
        ids += context + answer
        labels += [IGNORED] * len(context) + answer
        done = prompt + response + end
    return {"input_ids": ids, "labels": list(ids) if loss == "all" else labels}


def _without_opened_think(prompt: str, response: str) -> str:
    """The response without a <think> that the prompt has opened already, as R1's template does."""
    if ends_in_think(prompt) and response.lstrip().startswith("<think>"):
        return response.lstrip().removeprefix("<think>").lstrip("\n")
    return response


def _messages(
    row: dict[str, Any], config: ExamplesConfig, draw: random.Random
) -> tuple[Messages, int]:
    """(conversation, number of messages at its start without loss).

    Raises: ValueError for what is empty or malformed.
    """
    if config.messages_field is not None:
        return _conversation(_value(row, config, "messages_field"), config.messages_field), 0
    if config.generated:
        from rlvr.data.word_problems import worked_solution

        prompt, response = row["problem"], worked_solution(row, draw)
    else:
        prompt = _value(row, config, "prompt_field")
        response = _filled(row, config)
    if isinstance(prompt, list):
        messages = _conversation(prompt, str(config.prompt_field))
    elif isinstance(prompt, str) and prompt.strip():
        content = config.prompt_template.replace("{problem}", prompt)
        messages = [{"role": "user", "content": content}]
    else:
        raise ValueError(f"{config.prompt_field} is empty or not a text")
    messages = with_system(messages, config.system_prompt, str(config.prompt_field))
    return [*messages, {"role": "assistant", "content": response}], len(messages)


def _filled(row: dict[str, Any], config: ExamplesConfig) -> str:
    """The response template with the row's texts."""
    texts = {"response": _text(row, config, "response_field")}
    if config.answer_field is not None:
        texts["answer"] = _text(row, config, "answer_field")
    # in one pass: a solution that itself says {answer} stays as it is
    return re.sub(r"\{(response|answer)\}", lambda found: texts[found[1]], config.response_template)


def _text(row: dict[str, Any], config: ExamplesConfig, setting: str) -> str:
    value = _value(row, config, setting)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{getattr(config, setting)} is empty or not a text")
    return value


def _value(row: dict[str, Any], config: ExamplesConfig, setting: str) -> Any:
    return field_value(row, getattr(config, setting), f"data.{setting}")


def _conversation(value: Any, name: str) -> Messages:
    messages = read_messages(value, name)
    for message in messages:
        if message["role"] == "assistant" and not message["content"].strip():
            raise ValueError(f"{name} has an empty assistant turn")
    return messages
