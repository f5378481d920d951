"""Calls a reward of the user's own, inside a worker process: strings in, strings out."""

import asyncio
import inspect
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rewards.types import Reason, Verdict
from rlvr.common.own_code import load_own


def warm_up(function: str) -> None:
    """Imports the function, so that no call waits for it."""
    load_own(function)


def call(function: str, style: str, given: str) -> tuple[str, str]:
    """("done", JSON list of values) or ("failed", the reason).

    given: JSON of the arguments, or the path of a file that holds it. A value is a finite number,
    null where a function of trl's leaves the response out, or the text of what is wrong with it.
    Raises: MemoryError, RecursionError, which the pool reports.
    """
    # a call is a JSON object, and no path begins with a brace
    text = given if given.startswith("{") else Path(given).read_text()
    try:
        values = CALLS[style](load_own(function), json.loads(text))
    except (MemoryError, RecursionError):
        raise
    except Exception as error:  # the boundary: a function of the user's may raise anything
        return "failed", f"{type(error).__name__}: {error}"
    return "done", json.dumps(values)


def _rlvr(function: Callable[..., Any], given: dict[str, Any]) -> list[float | str | None]:
    fields = given["verdict"]
    verdict = Verdict(**{**fields, "reason": Reason(fields["reason"])})
    value = function(given["problem"], given["response"], verdict, given["metadata"])
    value = _awaited(value)
    return [_number(value)]


def _trl(function: Callable[..., Any], given: dict[str, Any]) -> list[float | str | None]:
    words = given | {"log_extra": _ignore, "log_metric": _ignore}
    parameters = inspect.signature(function).parameters.values()
    if not any(one.kind is one.VAR_KEYWORD for one in parameters):
        names = {one.name for one in parameters}
        words = {name: value for name, value in words.items() if name in names}
    values = list(_awaited(function(**words)))
    if len(values) != len(given["completions"]):
        raise ValueError(f"{len(values)} rewards for {len(given['completions'])} completions")
    return [None if value is None else _number(value) for value in values]


CALLS = {"rlvr": _rlvr, "trl": _trl}
"""reward.extra.style to how the function is called."""


def _awaited(value: Any) -> Any:
    return asyncio.run(_whole(value)) if inspect.isawaitable(value) else value


async def _whole(value: Any) -> Any:
    return await value


def _number(value: Any) -> float | str:
    """The value as a float, or what is wrong with it."""
    if isinstance(value, str | bytes) or not hasattr(type(value), "__float__"):
        return f"returned {value!r:.80}, which is no number"
    number = float(value)
    return number if math.isfinite(number) else f"returned {number}, which is not finite"


def _ignore(*_: Any, **__: Any) -> None:
    """Where trl has its log of completions."""
