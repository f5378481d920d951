"""Chat messages as datasets give them, and chat templates: read, rendered, and what ends a turn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlvr.common.errors import ConfigError

Messages = list[dict[str, str]]

# datasets of several origins write the same roles in these ways
SHAREGPT = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "system": "system",
}
"""Roles by the names in `from`."""


def read_messages(value: Any, field: str) -> Messages:
    """A conversation as {role, content}, texts only: from lists of these, of ShareGPT's {from,
    value}, and with content in parts of type text, which are joined.

    Raises: ValueError with the number of the message for what is none of these.
    """
    if not isinstance(value, list) or not value:
        raise ValueError(f"{field} is empty or not a list of messages with role and content")
    return [_message(one, field, i) for i, one in enumerate(value, start=1)]


def with_system(messages: Messages, system: str | None, field: str) -> Messages:
    """The messages with the recipe's system message first. Raises: ValueError where the row has one
    of its own."""
    if system is None:
        return messages
    if any(message["role"] == "system" for message in messages):
        raise ValueError(
            f"{field} has a system message and data.system_prompt gives another; remove one"
        )
    return [{"role": "system", "content": system}, *messages]


def _message(value: Any, field: str, number: int) -> dict[str, str]:
    where = f"{field}, message {number}"
    if isinstance(value, dict) and "role" not in value and "from" in value and "value" in value:
        role = SHAREGPT.get(str(value["from"]).lower())
        if role is None:
            raise ValueError(f"{where} is from {value['from']!r}, not one of {', '.join(SHAREGPT)}")
        value = {"role": role, "content": value["value"]}
    if not isinstance(value, dict) or "content" not in value or not value.get("role"):
        raise ValueError(
            f"{field} is not a list of messages with role and content (message {number} is"
            f" {value!r:.60})"
        )
    role, content = str(value["role"]), value["content"]
    # templates render calls each in a way of its own; text without them would train nonsense
    if value.get("tool_calls"):
        raise ValueError(f"{where} ({role}) calls tools, which are not rendered; drop the row")
    return {"role": role, "content": _text(content, f"{where} ({role})")}


def _text(content: Any, where: str) -> str:
    if isinstance(content, str):
        return content
    if content is None:
        raise ValueError(f"{where} has no content; drop the row")
    if not isinstance(content, list) or not content:
        raise ValueError(f"{where} has content that is no text: {content!r:.40}")
    for part in content:
        kind = part.get("type", "text") if isinstance(part, dict) else type(part).__name__
        if kind not in ("text", "str"):
            raise ValueError(f"{where} has a part of type {kind}; only text can be trained on")
        if isinstance(part, dict) and not isinstance(part.get("text"), str):
            raise ValueError(f"{where} has a part of type text without a text")
    return "".join(part if isinstance(part, str) else part["text"] for part in content)


def read_template(file: str | None, setting: str = "data.chat_template") -> str | None:
    """The Jinja text of a template file, None for none. Raises: ConfigError."""
    if file is None:
        return None
    path = Path(file)
    if not path.is_file():
        raise ConfigError(f"{setting} = {file!r}: no such file; correct the path")
    try:
        text = path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{setting} = {file!r}: not UTF-8 ({error}); convert it") from error
    if not text.strip():
        raise ConfigError(f"{setting} = {file!r}: the file is empty; give a Jinja template")
    return text


def check_template(tokenizer: Any, template: str | None, remedy: str) -> None:
    """Raises: ConfigError with the remedy where there is no template or it is not valid Jinja."""
    from jinja2 import TemplateSyntaxError

    if template is None and tokenizer.chat_template is None:
        raise ConfigError(f"model.path: its tokenizer has no chat template; {remedy}")
    try:
        render(tokenizer, template, [{"role": "user", "content": "x"}])
    except ValueError as error:
        if isinstance(error.__cause__, TemplateSyntaxError):
            line = error.__cause__.lineno
            raise ConfigError(
                f"the chat template is not valid Jinja (line {line}: {error.__cause__}); correct"
                f" it, or {remedy}"
            ) from error


def render(tokenizer: Any, template: str | None, messages: Messages, **options: Any) -> str:
    """The template's text. Raises: ValueError where it refuses the messages or fails on them."""
    return str(_apply(tokenizer, template, messages, tokenize=False, **options))


def _apply(tokenizer: Any, template: str | None, messages: Messages, **options: Any) -> Any:
    from jinja2 import TemplateError

    try:
        return tokenizer.apply_chat_template(messages, chat_template=template, **options)
    # templates raise TemplateError to refuse, and anything else when they are broken
    except (TemplateError, TypeError, ValueError, LookupError, ArithmeticError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(f"the chat template refuses its messages ({reason})") from error


def prompt_ids(
    tokenizer: Any, template: str | None, messages: Sequence[dict[str, str]]
) -> list[int]:
    """Token ids of a prompt, the response to follow. Raises: ValueError as `render`, and for an
    empty one."""
    # transformers 5 gives a dict unless told otherwise
    options = {"add_generation_prompt": True, "tokenize": True, "return_dict": False}
    ids = list(_apply(tokenizer, template, list(messages), **options))
    if not ids:
        raise ValueError("the chat template gives no text for its messages")
    return ids


def ends_in_think(prompt: str) -> bool:
    """Whether the prompt leaves `<think>` open, so that a response begins inside its thinking."""
    return prompt.rstrip().endswith("<think>")


def requires_closed_think(wanted: bool | None, tokenizer: Any, template: str | None) -> bool:
    """What reward.require_closed_think comes to: None is decided by the template's prompt.

    A tokenizer whose `</think>` is a special token loses it in the text of a response: nothing
    could be required then.
    """
    if wanted is not None:
        return wanted
    try:
        user = {"role": "user", "content": "x"}
        prompt = render(tokenizer, template, [user], add_generation_prompt=True)
    except ValueError:  # said with its remedy where the prompts are made
        return False
    ids = tokenizer("</think>", add_special_tokens=False)["input_ids"]
    return ends_in_think(prompt) and "</think>" in tokenizer.decode(ids, skip_special_tokens=True)


def refusal(reason: str, has_system: bool) -> str:
    """The reason with what to do about it."""
    if has_system:
        return (
            f"{reason}; write data.system_prompt into data.prompt_template, or give another"
            " data.chat_template"
        )
    return f"{reason}; give another data.chat_template"


def turn_end(tokenizer: Any, template: str | None) -> int | None:
    """The token that the template puts behind an assistant's turn, where that is one of the
    tokenizer's special or added ones, else None."""
    mark = "RESPONSE"
    turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": mark}]
    try:
        _, found, tail = render(tokenizer, template, turns).rpartition(mark)
    except ValueError:
        return None
    ids = tokenizer(tail, add_special_tokens=False)["input_ids"] if found else []
    # an ordinary token behind the turn, such as a newline, would end every response early
    special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    return ids[0] if ids and ids[0] in special else None
