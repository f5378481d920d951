"""The base class of all sections of settings."""

import math
from collections.abc import Iterator
from typing import Any, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    PlainSerializer,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
)
from pydantic_core import PydanticCustomError

from rlvr.common.own_code import is_own


def _own_or_listed(value: Any, check: ValidatorFunctionWrapHandler) -> Any:
    return value if is_own(value) else check(value)


OR_OWN = WrapValidator(_own_or_listed)
"""Makes a list of names take the import path of a function of the user's own too."""
AS_TEXT = PlainSerializer(str, return_type=str)
"""Writes such a value: pydantic's own way would warn of what is not in the list."""


class Section(BaseModel):
    """Frozen settings; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    @field_validator("*", mode="before")
    @classmethod
    def _numbers_are_numbers(cls, value: Any, info: ValidationInfo) -> Any:
        # pydantic takes true for 1, and lets nan through where a field has no bound
        kinds = set(_kinds(cls.model_fields[str(info.field_name)].annotation))
        if not kinds & {int, float} or bool in kinds:
            return value
        for part in value if isinstance(value, list | tuple) else (value,):
            if isinstance(part, bool):
                raise PydanticCustomError(
                    "bool_for_number", "a number belongs here; write 1 for true, 0 for false"
                )
            if isinstance(part, float) and math.isnan(part):
                raise PydanticCustomError("nan_for_number", "not a number; write one")
        return value


def _kinds(annotation: Any) -> Iterator[Any]:
    """The classes inside an annotation: int and None of `int | None`."""
    inner = get_args(annotation)
    if not inner:
        yield annotation
    for part in inner:
        yield from _kinds(part)
