"""Every weight, in float32: full fine-tuning, frozen embeddings, projected gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rlvr.adapters.base import Method, Setup

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    from rlvr.config.train import AdapterConfig, OptimConfig


def _train_everything(model: Any, setup: Setup) -> Any:
    """The model itself with float32 master weights: bf16 ones round updates of 1e-6 away."""
    return model.float().requires_grad_(True)


def _train_all_but_embeddings(model: Any, setup: Setup) -> Any:
    """The model as `full` trains it, with input and output embeddings frozen."""
    model = _train_everything(model, setup)
    for embeddings in (model.get_input_embeddings(), model.get_output_embeddings()):
        embeddings.requires_grad_(False)
    return model


def frozen_copy(model: Any) -> Any:
    """A frozen copy of the model that computes exactly as `_train_everything` makes it compute.

    Autocast rounds the weights of linear layers in both. Everything else is float32 as in the
    policy: embeddings, so the residual stream, and norms; linear weights stay as small as they are.
    """
    import copy

    from torch import nn

    copied = copy.deepcopy(model).requires_grad_(False).eval()
    modules = list(copied.modules())
    linear = {p for m in modules if type(m) is nn.Linear for p in m.parameters(recurse=False)}
    # a tied head is read as the embedding too, where autocast does not round it
    tied = {p for m in modules if isinstance(m, nn.Embedding) for p in m.parameters(recurse=False)}
    for value in [*(p for p in copied.parameters() if p not in linear - tied), *copied.buffers()]:
        if value.is_floating_point():
            value.data = value.data.float()
    return copied


def _projected(model: nn.Module, config: AdapterConfig, optim: OptimConfig) -> Optimizer:
    """Low-rank optimizer state on the target modules' weights, AdamW on the rest."""
    from rlvr.adapters.projected_adamw import ProjectedAdamW

    low_rank, rest = [], []
    for name, parameter in model.named_parameters():
        module = name.removesuffix(".weight").rpartition(".")[2]
        is_target = module in config.target_modules and parameter.ndim == 2
        (low_rank if is_target else rest).append(parameter)
    block = config.galore if config.method == "galore" else config.apollo
    return ProjectedAdamW(
        [
            {
                "params": low_rank,
                "rank": config.rank or 128,
                "every": block.every_updates,
                "scale": block.scale,
                "seed": config.seed or 0,
                "kind": config.method,
            },
            {"params": rest},
        ],
        lr=optim.lr,
        betas=optim.betas,
        eps=optim.eps,
        weight_decay=optim.weight_decay,
    )


_PROJECTED_OPTIONS = frozenset({"rank", "target_modules"})

METHODS = (
    Method(
        name="full",
        paper="none",
        trains="all weights (float32 master copy)",
        apply=_train_everything,
        keeps_base=False,
    ),
    Method(
        name="full_frozen_embeddings",
        paper="none",
        trains="all weights but input and output embeddings (float32 master copy)",
        apply=_train_all_but_embeddings,
        keeps_base=False,
    ),
    Method(
        name="galore",
        paper="2403.03507",
        trains="all weights; optimizer state of the target modules in a rank-r subspace",
        options=_PROJECTED_OPTIONS | {"galore"},
        apply=_train_everything,
        optimizer=_projected,
        own_optimizer=True,
        keeps_base=False,
    ),
    Method(
        name="apollo",
        paper="2412.05270",
        trains="all weights; step sizes of the target modules from a random rank-r projection",
        options=_PROJECTED_OPTIONS | {"apollo", "seed"},  # its P is drawn, GaLore's computed
        apply=_train_everything,
        optimizer=_projected,
        own_optimizer=True,
        keeps_base=False,
    ),
)
