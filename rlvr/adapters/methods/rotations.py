"""Orthogonal maps: W multiplied by a rotation (OFT, BOFT, HRA), or orthonormal factors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rlvr.adapters.base import LORA_OPTIONS, Method, Setup, check_divides, peft_targets, wrap
from rlvr.adapters.export import lora_layers, save_as_lora
from rlvr.adapters.methods.lora import lora_config
from rlvr.adapters.methods.nonzero_init import target_weights
from rlvr.common.errors import ConfigError

if TYPE_CHECKING:
    from rlvr.config.adapter import AdapterConfig

_OPTIONS = frozenset({"target_modules", "seed"})


def _oft(model: Any, setup: Setup) -> Any:
    """A block-diagonal rotation of each module's input, by the Cayley map. Source: 2306.07280.

    The map is solved exactly; peft's default truncates a Neumann series.
    """
    import peft

    check_divides(model, setup, "oft.block_size", setup.config.oft.block_size)
    config = peft.OFTConfig(
        r=0,  # peft takes either r or the block size
        oft_block_size=setup.config.oft.block_size,
        use_cayley_neumann=False,
        **peft_targets(setup),
    )
    return wrap(model, config, setup.seed)


def _check_boft(config: AdapterConfig, _num_updates: int | None) -> None:
    """Raises: ConfigError for butterflies that peft would leave out, or blocks it cannot halve."""
    block = config.boft
    if block.num_factors == 1:
        return
    if block.block_size % 2:
        raise ConfigError(
            f"adapter.boft.block_size = {block.block_size}: butterflies (num_factors ="
            f" {block.num_factors}) halve the blocks; take an even size"
        )
    from torch.utils.cpp_extension import CUDA_HOME

    if CUDA_HOME is None:
        raise _no_butterflies(block.num_factors)


def _no_butterflies(num_factors: int) -> ConfigError:
    return ConfigError(
        f"adapter.boft.num_factors = {num_factors}: peft compiles a CUDA extension for it, and goes"
        " on with 1 where it cannot; set it to 1, or install the CUDA toolkit and ninja"
    )


def _boft(model: Any, setup: Setup) -> Any:
    """A rotation of each module's input as a product of sparse butterflies. Source: 2311.06243."""
    import peft

    block = setup.config.boft
    check_divides(model, setup, "boft.block_size", block.block_size)
    config = peft.BOFTConfig(
        boft_block_size=block.block_size,
        boft_n_butterfly_factor=block.num_factors,
        **peft_targets(setup),
    )
    adapted = wrap(model, config, setup.seed)
    # with the toolkit installed the build can still fail
    made = {len(p) for name, p in adapted.named_parameters() if ".boft_R." in name}
    if made != {block.num_factors}:
        raise _no_butterflies(block.num_factors)
    return adapted


def _count_boft(model: Any, setup: Setup) -> int:
    """num_factors x block_size x inputs for the rotation and a scale per output, per module."""
    block = setup.config.boft
    shapes = [
        module.weight.shape
        for name, module in model.named_modules()
        if name.rpartition(".")[2] in setup.config.target_modules
    ]
    return sum(block.num_factors * block.block_size * i + o for o, i in shapes)


def _hra(model: Any, setup: Setup) -> Any:
    """A product of r Householder reflections of each module's input. Source: 2405.17484.

    r must be even: pairs of equal reflections make the identity at the start.
    """
    import peft

    from rlvr.adapters.rounding import Float32Hra, HRALinear, become

    adapted = wrap(model, peft.HRAConfig(r=setup.rank, **peft_targets(setup)), setup.seed)
    become(adapted, HRALinear, Float32Hra)
    return adapted


def _orthogeolora(model: Any, setup: Setup) -> Any:
    """W + scaling B diag(sigma) A with orthonormal columns of B and rows of A, and sigma from 0.

    Source: 2601.09185. Deviations: the map from free parameters to orthonormal ones is QR with the
    sign fixed by R's diagonal (the paper's own is not public), and sigma is signed and starts at 0.
    """
    from torch.nn.utils import parametrize

    target_weights(model, setup, setup.rank)
    adapted = wrap(model, lora_config(setup), setup.seed)
    # peft's B is 0, and QR has no gradient there
    _draw_factors(adapted, setup.seed)
    columns, sigma, rows = _parametrizations()
    for layer in lora_layers(adapted).values():
        a, b = layer.lora_A["default"], layer.lora_B["default"]
        parametrize.register_parametrization(a, "weight", rows())
        parametrize.register_parametrization(b, "weight", columns())
        parametrize.register_parametrization(b, "weight", sigma(b.weight.shape[1], a.weight.device))
    return adapted


def _draw_factors(adapted: Any, seed: int) -> None:
    import torch

    generator = torch.Generator().manual_seed(seed)
    for layer in lora_layers(adapted).values():
        for part in (layer.lora_A["default"], layer.lora_B["default"]):
            if not part.weight.is_meta:
                drawn = torch.randn(part.weight.shape, generator=generator)
                part.weight.data = drawn.to(part.weight.device)


def _parametrizations() -> tuple[Any, Any, Any]:
    import torch
    from torch import Tensor, nn

    def orthonormal(free: Tensor) -> Tensor:
        with torch.autocast("cuda" if free.is_cuda else "cpu", enabled=False):
            q, r = torch.linalg.qr(free.float())
            # QR is unique only up to these signs
            return q * torch.where(r.diagonal() < 0, -1.0, 1.0)

    class Columns(nn.Module):
        """[O, r] free parameters to orthonormal columns."""

        def forward(self, free: Tensor) -> Tensor:
            return orthonormal(free)

    class Rows(nn.Module):
        """[r, I] free parameters to orthonormal rows."""

        def forward(self, free: Tensor) -> Tensor:
            return orthonormal(free.T).T

    class Sigma(nn.Module):
        """Columns scaled by a trained signed diagonal."""

        def __init__(self, rank: int, device: torch.device) -> None:
            super().__init__()
            self.sigma = nn.Parameter(torch.zeros(rank, device=device))

        def forward(self, columns: Tensor) -> Tensor:
            return columns * self.sigma

    return Columns, Sigma, Rows


METHODS = (
    Method(
        name="oft",
        paper="2306.07280",
        trains="a block-diagonal rotation of each target module's input",
        options=(_OPTIONS - {"seed"}) | {"oft"},  # the identity at the start: nothing is drawn
        apply=_oft,
    ),
    Method(
        name="boft",
        paper="2311.06243",
        trains="a butterfly rotation of each target module's input, a scale per output",
        options=(_OPTIONS - {"seed"}) | {"boft"},
        apply=_boft,
        check=_check_boft,
        count=_count_boft,
    ),
    Method(
        name="hra",
        paper="2405.17484",
        trains="r Householder reflections of each target module's input",
        options=_OPTIONS | {"rank", "match"},
        rank_multiple=lambda _config: 2,
        apply=_hra,
    ),
    Method(
        name="orthogeolora",
        paper="2601.09185",
        trains="orthonormal A and B through QR, and a signed diagonal between them",
        syncs=("adapter", "merged"),
        options=LORA_OPTIONS,
        apply=_orthogeolora,
        save=save_as_lora,  # the parametrised factors are no LoRA that peft could load
    ),
)
