"""A second device for tests: CPU memory that refuses to meet other CPU memory.

Inside `with SecondDevice():` a tensor whose storage was made on DEVICE says that it lives there,
and an operation that takes tensors of both devices raises as CUDA's does. Values, autograd and
files are real: what a test trains, saves and resumes there can be compared bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

DEVICE = torch.device("mtia", 0)
"""A type that torch's fused optimizers know and no library has code of its own for."""
CPU = torch.device("cpu")

_TAKES_BOTH = {"copy_", "_to_copy", "index", "index_put_", "index_put", "_index_put_impl_"}
"""Operations of which CUDA takes arguments on the CPU: copies, and indices."""
_TAKES_SCALARS = {"fill_", "masked_fill", "masked_fill_"}
"""Operations that are not elementwise by their tag and take a scalar on the CPU all the same."""
_GROUPS = "_group_tensors_by_device_and_dtype"
_group = getattr(torch._C, _GROUPS)


def is_there(value: Any) -> bool:
    """Whether this is a tensor on the second device."""
    with torch._C.DisableTorchFunction():
        return isinstance(value, Tensor) and hasattr(value.untyped_storage(), "is_there")


class SecondDevice(ExitStack):
    """The block in which there is a second device. Storages remember theirs from block to block."""

    def __enter__(self) -> SecondDevice:
        place = _Place()
        self.enter_context(mock.patch.object(torch._C, _GROUPS, _by_device))
        self.enter_context(mock.patch.object(torch, "Generator", _Generator))
        self.enter_context(_Operations(place))
        self.enter_context(_Calls(place))
        return self


class _Place:
    """Where the results of the call at hand belong. wanted: the device that the caller named;
    by_inputs: whether any tensor that it gave is on the second device."""

    def __init__(self) -> None:
        self.wanted: torch.device | None = None
        self.by_inputs = False


class _Operations(TorchDispatchMode):
    """Refuses operations on both devices; results lie where their inputs lie."""

    def __init__(self, place: _Place) -> None:
        super().__init__()
        self.place = place

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else every operation goes through torch.compile's switch, slowly

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        inputs = [*_tensors(args), *_tensors(kwargs)]
        there = [hasattr(x.untyped_storage(), "is_there") for x in inputs]
        if any(there) and not all(there):
            _check_mixed(func, inputs, there)
        result = func(*args, **kwargs)
        if self.place.wanted is not None:
            made_there = self.place.wanted == DEVICE
        else:
            made_there = self.place.by_inputs or any(there)
        if made_there:
            _move(result, inputs)
        return result


class _Calls(TorchFunctionMode):
    """What Python sees: `.device`, moves from one device to the other, devices by name."""

    def __init__(self, place: _Place) -> None:
        super().__init__()
        self.place = place

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _ANSWERS and is_there(args[0]):
            return _ANSWERS[func](args[0])
        if func is Tensor.backward:  # Python runs inside: custom functions ask for devices
            with self:
                return torch.autograd.backward(*args, kwargs.pop("gradient", None), **kwargs)
        if func in _MOVES:
            return self._moved(*_MOVES[func](args, kwargs))
        wanted = None if kwargs.get("device") is None else _named(kwargs["device"])
        if wanted == DEVICE:
            kwargs = kwargs | {"device": CPU}
        inputs = [*_tensors(args), *_tensors(kwargs)]
        by_inputs = any(map(is_there, inputs))
        _check_generator(kwargs, by_inputs or wanted == DEVICE)
        before = self.place.wanted, self.place.by_inputs
        self.place.wanted, self.place.by_inputs = wanted, by_inputs
        try:
            result = func(*args, **kwargs)
        finally:
            self.place.wanted, self.place.by_inputs = before
        if wanted == DEVICE or (func is Tensor.__deepcopy__ and is_there(args[0])):
            _move(result, inputs)
        return result

    def _moved(self, value: Tensor, device: torch.device | None, rest: dict[str, Any]) -> Tensor:
        """Tensor.to: the tensor itself where nothing changes, as on every device."""
        is_at = DEVICE if is_there(value) else CPU
        goes = device or is_at
        before = self.place.wanted
        self.place.wanted = goes
        try:
            return Tensor.to(value, **rest | ({"copy": True} if goes != is_at else {}))
        finally:
            self.place.wanted = before


def _tensors(values: Any) -> Iterator[Tensor]:
    """The tensors among arguments or results."""
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, list | tuple):
        for value in values:
            yield from _tensors(value)
    elif isinstance(values, dict):
        yield from _tensors(list(values.values()))


def _check_mixed(func: Any, inputs: list[Tensor], there: list[bool]) -> None:
    """Raises: RuntimeError, as CUDA does, which takes CPU scalars in elementwise operations."""
    if func.overloadpacket.__name__ in _TAKES_BOTH:
        return
    strangers = [x for x, is_ours in zip(inputs, there, strict=True) if not is_ours]
    takes_scalars = (
        torch.Tag.pointwise in func.tags or func.overloadpacket.__name__ in _TAKES_SCALARS
    )
    scalars = takes_scalars and all(x.ndim == 0 for x in strangers)
    if not (scalars and there[0]):
        found = [(tuple(x.shape), DEVICE if y else CPU) for x, y in zip(inputs, there, strict=True)]
        raise RuntimeError(f"{func}: Expected all tensors to be on the same device: {found}")


def _check_generator(kwargs: dict[str, Any], draws_there: bool) -> None:
    """Raises: RuntimeError for a draw with the other device's generator."""
    generator = kwargs.get("generator")
    if generator is not None and draws_there != getattr(generator, "is_there", False):
        wanted = DEVICE if draws_there else CPU
        raise RuntimeError(f"Expected a {wanted.type!r} device type for generator")


class _Generator(torch.Generator):
    """A generator that knows its device."""

    is_there: bool

    def __new__(cls, device: Any = CPU) -> _Generator:
        made = super().__new__(cls, CPU)
        made.is_there = _named(device) == DEVICE
        return made


def _move(result: Any, inputs: list[Tensor]) -> None:
    """Puts what a call made on the second device; not what it was given."""
    given = {x.untyped_storage()._cdata for x in inputs}
    for x in _tensors(result):
        storage: Any = x.untyped_storage()
        if storage._cdata not in given:
            storage.is_there = True


def _by_device(*args: Any) -> dict[Any, Any]:
    """torch's groups of tensors for optimizers and clipping, which it forms in C++."""
    return {
        (DEVICE if is_there(lists[0][0]) else device, dtype): (lists, indices)
        for (device, dtype), (lists, indices) in _group(*args).items()
    }


def _refuse_numpy(_value: Tensor) -> Any:
    raise TypeError(f"can't convert {DEVICE} device type tensor to numpy")


def _to(args: Any, kwargs: Any) -> tuple[Tensor, torch.device | None, dict[str, Any]]:
    """(tensor, device, the rest) of a call of Tensor.to in any of its forms."""
    value, *positional = args
    rest = dict(kwargs)
    if positional and isinstance(positional[0], Tensor):
        rest["other"] = positional.pop(0)
    if "other" in rest:
        other = rest.pop("other")
        rest |= {"dtype": other.dtype, "device": DEVICE if is_there(other) else CPU}
    flags = ["non_blocking", "copy"]
    for word in positional:
        if isinstance(word, torch.dtype):
            rest["dtype"] = word
        elif isinstance(word, bool):
            rest[flags.pop(0)] = word
        elif word is not None:
            rest["device"] = word
    device = rest.pop("device", None)
    return value, None if device is None else _named(device), rest


def _named(device: Any) -> torch.device:
    """The device of a name, with or without its index."""
    found = torch.device(device)
    return DEVICE if found.type == DEVICE.type else found


_getters: Any = Tensor
_ANSWERS: dict[Any, Callable[[Tensor], Any]] = {
    _getters.device.__get__: lambda _: DEVICE,
    _getters.is_cpu.__get__: lambda _: False,
    Tensor.get_device: lambda _: DEVICE.index,
    Tensor.numpy: _refuse_numpy,
    Tensor.__array__: _refuse_numpy,
}
_MOVES: dict[Any, Callable[[Any, Any], tuple[Tensor, torch.device | None, dict[str, Any]]]] = {
    Tensor.to: _to,
    Tensor.cpu: lambda args, _: (args[0], CPU, {}),
    Tensor.type_as: lambda args, _: _to(args, {}),
}
