"""LoRA that starts from non-zero factors A0, B0: W + scaling (B A - B0 A0), on the original W.

The papers train a residual W - scaling B0 A0, which costs the pristine base: switching the adapter
off no longer gives the reference policy. Here the start is a second, frozen adapter with -B0, so W
is never written, step 0 is the base policy, and the update is an ordinary LoRA of rank 2 r.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rlvr.adapters.base import (
    DEFAULT_RANK,
    LORA_OPTIONS,
    Method,
    Setup,
    is_linear,
    is_transposed,
    weight_of,
    wrap,
)
from rlvr.adapters.export import lora_layers, save_as_lora
from rlvr.adapters.methods.lora import lora_config
from rlvr.common.errors import ConfigError

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from rlvr.config.adapter import AdapterConfig

START = "start"


def subtract_start(adapted: Any, config: Any) -> Any:
    """`adapted` with a frozen twin that subtracts its present factors: it is the base again.

    config: the LoraConfig that `adapted` was made with.
    """
    import copy

    import torch

    from rlvr.adapters.rounding import LoraLinear, SummedLora, become

    twin = copy.deepcopy(config)
    twin.init_lora_weights = True  # not the start of the method, which would be computed again
    twin.lora_dropout = 0.0
    with torch.random.fork_rng():  # peft draws factors, which are overwritten below
        adapted.add_adapter(START, twin)
    for layer in lora_layers(adapted).values():
        layer.lora_A[START].weight.data = layer.lora_A["default"].weight.data.clone()
        layer.lora_B[START].weight.data = -layer.lora_B["default"].weight.data
    adapted.base_model.set_adapter(["default", START])
    for name, parameter in adapted.named_parameters():
        if f".{START}." in name:  # activating an adapter makes it trainable
            parameter.requires_grad_(False)
    become(adapted, LoraLinear, SummedLora)
    return adapted


def target_weights(model: Any, setup: Setup, num_directions: int) -> dict[str, Any]:
    """Weights of the target modules by name. Raises: ConfigError for one of too low a rank, and
    for a module that is not linear."""
    modules = {
        name: module
        for name, module in model.named_modules()
        if name.rpartition(".")[2] in setup.config.target_modules
    }
    for name, module in modules.items():
        if not is_linear(module):
            raise ConfigError(
                f"adapter.target_modules: {setup.config.method} starts from the matrices of linear"
                f" layers, and {name} is none ({type(module).__name__}); remove"
                f" {name.rpartition('.')[2]!r}"
            )
    weights = {name: module.weight for name, module in modules.items()}
    for name, weight in weights.items():
        if min(weight.shape) < num_directions:
            raise ConfigError(
                f"adapter.rank = {setup.rank}: {setup.config.method} needs {num_directions}"
                f" directions and {name} has {min(weight.shape)}; lower it"
            )
    return weights


def apply_peft_start(model: Any, setup: Setup, **extra: Any) -> Any:
    """One of peft's own initialisations, with the base weights that it overwrites restored."""
    from rlvr.adapters.merge import plain_name

    config = lora_config(setup, **extra)
    weights = target_weights(model, setup, setup.rank)
    on_meta = any(weight.is_meta for weight in weights.values())
    if on_meta or setup.overwritten:  # only counted, or replaced: there is nothing to decompose
        config.init_lora_weights = True
    # peft subtracts the start from W, for some methods in place: not in what other policies read
    before = {name: weight.detach() for name, weight in weights.items()}
    for weight in weights.values():
        weight.data = weight.data.clone()
    adapted = wrap(model, config, setup.seed)
    for name, layer in lora_layers(adapted).items():
        # and may leave the factors in W's type
        layer.get_base_layer().weight.data = before[plain_name(name)]
        for factor in (layer.lora_A, layer.lora_B):
            factor["default"].weight.data = factor["default"].weight.data.float().contiguous()
    return subtract_start(adapted, config)


def _pissa(model: Any, setup: Setup) -> Any:
    """The r largest singular triples of W. Source: 2404.02948."""
    niter = setup.config.pissa.niter
    kind = f"pissa_niter_{niter}" if niter else "pissa"
    return apply_peft_start(model, setup, init_lora_weights=kind)


def _olora(model: Any, setup: Setup) -> Any:
    """The first r columns and rows of W = Q R. Source: 2406.01775."""
    if any(map(is_transposed, model.modules())):  # peft decomposes them as they lie there
        return apply_factors(model, setup, _qr_factors)
    return apply_peft_start(model, setup, init_lora_weights="olora")


def _orthogonal(model: Any, setup: Setup) -> Any:
    """Random A and B, both non-zero, with B A = 0 by construction (up to rounding)."""
    return apply_peft_start(model, setup, init_lora_weights="orthogonal")


@dataclass(frozen=True, slots=True)
class Target:
    """A module that gets factors. name: in the plain model. weight: W [O, I], float32. scaling: by
    which the forward pass multiplies B A. generator: draws on the CPU, one for all modules."""

    name: str
    weight: Tensor
    rank: int
    scaling: float
    generator: Generator


def apply_factors(
    model: Any,
    setup: Setup,
    factors: Callable[[Target], tuple[Tensor, Tensor]],
    num_directions: int = 0,
) -> Any:
    """A start whose A [r, I] and B [O, r] are `factors` of every module.

    num_directions: that they take from a matrix of W's shape; 0 stands for the rank.
    """
    import torch

    from rlvr.adapters.merge import plain_name

    target_weights(model, setup, num_directions or setup.rank)
    config = lora_config(setup)
    adapted = wrap(model, config, setup.seed)
    generator = torch.Generator().manual_seed(setup.seed)
    for name, layer in lora_layers(adapted).items():
        weight = weight_of(layer.get_base_layer()).detach()
        if weight.is_meta or setup.overwritten:
            continue
        scaling = layer.scaling["default"]
        target = Target(plain_name(name), weight.float(), setup.rank, scaling, generator)
        for part, value in zip((layer.lora_A, layer.lora_B), factors(target), strict=True):
            part["default"].weight.data = value.contiguous().to(weight.device)
    return subtract_start(adapted, config)


def _qr_factors(target: Target) -> tuple[Tensor, Tensor]:
    import torch

    q, r = torch.linalg.qr(target.weight)
    return r[: target.rank], q[:, : target.rank]


def _minor_factors(target: Target) -> tuple[Tensor, Tensor]:
    import torch

    rank = target.rank
    u, s, vh = torch.linalg.svd(target.weight, full_matrices=False)
    # divided by the scaling, by which the forward pass multiplies B A again
    root = (s[-rank:] / target.scaling).sqrt()
    return root[:, None] * vh[-rank:], u[:, -rank:] * root


def _milora(model: Any, setup: Setup) -> Any:
    """The r smallest singular triples of W. Source: 2406.09044."""
    return apply_factors(model, setup, _minor_factors)


def _geora(model: Any, setup: Setup) -> Any:
    """The r largest singular triples of W where its entries are small, 0 elsewhere: those among the
    smallest `fraction` of |W|, or of |the best rank-r approximation of W|.

    Source: 2601.09361 eq. 1 to 8.
    """
    import torch

    fraction = setup.config.geora.fraction

    def smallest(weight: Any) -> Any:
        # up to the quantile; torch.quantile takes 16 M numbers at most
        count, sizes = 1 + int(fraction * (weight.numel() - 1)), weight.abs()
        return sizes <= sizes.flatten().kthvalue(count).values

    def factors(target: Target) -> tuple[Tensor, Tensor]:
        weight, rank = target.weight, target.rank
        u, s, vh = torch.linalg.svd(weight, full_matrices=False)
        approximation = (u[:, :rank] * s[:rank]) @ vh[:rank]
        u, s, vh = torch.linalg.svd(
            weight * (smallest(approximation) | smallest(weight)), full_matrices=False
        )
        root = s[:rank].sqrt()
        return root[:, None] * vh[:rank], u[:, :rank] * root

    return apply_factors(model, setup, factors)


def _init_ab(model: Any, setup: Setup) -> Any:
    """A and B uniform within +-magnitude / sqrt(fan_in), both non-zero. Source: 2602.04998."""
    import torch

    magnitude = setup.config.init_ab.magnitude

    def factors(target: Target) -> tuple[Tensor, Tensor]:
        def uniform(rows: int, columns: int) -> Tensor:
            bound = magnitude / math.sqrt(columns)
            return (torch.rand(rows, columns, generator=target.generator) * 2 - 1) * bound

        rows, columns = target.weight.shape
        return uniform(target.rank, columns), uniform(rows, target.rank)

    return apply_factors(model, setup, factors)


def start_method(
    name: str,
    paper: str,
    start: str,
    apply: Callable[[Any, Setup], Any],
    blocks: tuple[str, ...] = (),
    rows: bool = False,
    multiple: int = 1,
    drawn: bool = False,
    check: Callable[[AdapterConfig, int | None], None] | None = None,
) -> Method:
    """A row of METHODS for a LoRA that starts from given factors.

    drawn: whether a seed decides something; else giving one is an error.
    """
    unused = set() if drawn else {"seed"}
    return Method(
        name=name,
        paper=paper,
        trains=f"A and B of every target module, from {start}",
        syncs=("adapter", "merged"),
        options=(LORA_OPTIONS - unused) | {*blocks, *(["calibration_rows"] if rows else [])},
        apply=apply,
        save=save_as_lora,
        needs_rows=rows,
        rank_multiple=lambda _config: multiple,
        # with the start's own factors
        served_rank=lambda config: 2 * (config.rank or DEFAULT_RANK),
        check=check,
    )


def _check_pissa(config: AdapterConfig, _num_updates: int | None) -> None:
    """Raises: ConfigError for a seed of an exact decomposition."""
    if config.seed is not None and not config.pissa.niter:
        raise ConfigError(
            f"adapter.seed = {config.seed}: pissa draws nothing while adapter.pissa.niter = 0;"
            " remove it"
        )


METHODS = (
    start_method(
        "pissa",
        "2404.02948",
        "the largest singular triples",
        _pissa,
        ("pissa",),
        drawn=True,
        check=_check_pissa,
    ),
    start_method("milora", "2406.09044", "the smallest singular triples", _milora),
    start_method(
        "geora", "2601.09361", "the largest triples of W's small entries", _geora, ("geora",)
    ),
    start_method("olora", "2406.01775", "the QR factors", _olora),
    start_method(
        "orthogonal",
        "datta0: Rethink LoRA initialisation",
        "B A = 0",
        _orthogonal,
        multiple=2,  # peft makes A of the odd and B of the even rows of one orthonormal matrix
        drawn=True,
    ),
    start_method("init_ab", "2602.04998", "two uniform draws", _init_ab, ("init_ab",), drawn=True),
)
