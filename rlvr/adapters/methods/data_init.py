"""LoRA initialised from training problems: EVA (activations), CorDA (covariances), LoRA-GA."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rlvr.adapters.base import LORA_OPTIONS, Method, Setup, is_transposed, wrap
from rlvr.adapters.methods.lora import lora_config
from rlvr.adapters.methods.nonzero_init import (
    Target,
    apply_factors,
    apply_peft_start,
    start_method,
    target_weights,
)
from rlvr.common.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from rlvr.config.adapter import AdapterConfig

BATCH_ROWS = 8


def _batches(model: Any, setup: Setup, size: int = BATCH_ROWS) -> list[dict[str, Any]]:
    """The problems' tokens, padded, `size` rows at a time; labels are the tokens themselves.

    Prompts only: at step 0 no response of the policy is known to be right.
    """
    import torch

    assert setup.rows, "a data-driven initialisation needs training problems"
    device = next(model.parameters()).device
    batches = []
    for i in range(0, len(setup.rows), size):
        rows = setup.rows[i : i + size]
        longest = max(map(len, rows))
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
        labels = ids.masked_fill(mask == 0, -100)
        batches.append(
            {
                "input_ids": ids.to(device),
                "attention_mask": mask.to(device),
                "labels": labels.to(device),
            }
        )
    return batches


def _looks_at_nothing(model: Any, setup: Setup) -> bool:
    """Whether the model is only counted, or what data would give is replaced."""
    return setup.overwritten or next(model.parameters()).is_meta


def _eva(model: Any, setup: Setup) -> Any:
    """A from the top right singular vectors of the inputs, B = 0; ranks move to where variance is.

    rho = 1 keeps every module at rank r. Source: 2410.07170.
    """
    import peft

    block = setup.config.eva
    # only padding has no label here, and the attention mask leaves that out already
    eva = peft.EvaConfig(rho=block.rho, whiten=block.whiten, use_label_mask=False)
    config = lora_config(setup, init_lora_weights="eva", eva_config=eva)
    if _looks_at_nothing(model, setup):
        return wrap(model, lora_config(setup), setup.seed)
    adapted = wrap(model, config, setup.seed)
    batches = _batches(model, setup)
    peft.initialize_lora_eva_weights(adapted, batches, show_progress_bar=False)
    for parameter in adapted.parameters():
        if parameter.requires_grad:  # peft may leave the singular vectors in the base's type
            parameter.data = parameter.data.float()
    return adapted


def _corda(model: Any, setup: Setup) -> Any:
    """Singular triples of W C, C the covariance of the inputs. Source: 2406.05223.

    "ipm" takes the largest r, "kpm" the smallest.
    """
    import torch
    from peft.tuners.lora.config import CordaConfig
    from peft.tuners.lora.corda import preprocess_corda

    corda = CordaConfig(corda_method=setup.config.corda.mode)
    extra = {"init_lora_weights": "corda", "corda_config": corda}
    if not _looks_at_nothing(model, setup):
        batches = _batches(model, setup, size=1)  # peft's covariance takes one row at a time

        @torch.no_grad()
        def run() -> None:
            for batch in batches:
                model(**batch)

        preprocess_corda(model, lora_config(setup, **extra), run)
    return apply_peft_start(model, setup, **extra)


def _lora_ga(model: Any, setup: Setup) -> Any:
    """Singular vectors of the first gradient of W: r right ones in A, other r left ones in B.

    Not peft's start, which scales A by nothing and B by the gradient's singular values: B is then
    nearly 0. Source: 2407.05000 algorithm 1, and the scales of its authors' code.
    """
    import torch

    block, rank = setup.config.lora_ga, setup.rank
    gradients = {} if _looks_at_nothing(model, setup) else _gradients(model, setup)

    def factors(target: Target) -> tuple[Tensor, Tensor]:
        u, _, vh = torch.linalg.svd(gradients.pop(target.name), full_matrices=False)
        first, second = torch.arange(rank), torch.arange(rank, 2 * rank)
        if block.direction == "ArB2r":
            of_a, of_b = first, second
        elif block.direction == "A2rBr":
            of_a, of_b = second, first
        elif block.direction == "ArBr":
            of_a, of_b = 2 * first + 1, 2 * first
        else:
            of_a, of_b = torch.randperm(2 * rank, generator=target.generator).split(rank)
        if block.scale == "stable":
            factor = len(target.weight) ** 0.25 / block.stable_gamma**0.5
        elif block.scale == "weight_svd":
            values = torch.linalg.svdvals(target.weight)[:rank] / target.scaling
            factor = float(values.sqrt().mean())
        else:
            factor = 1 / target.scaling if block.scale == "gd_scale" else 1.0
        return vh[of_a] * factor, u[:, of_b] * factor

    return apply_factors(model, setup, factors, num_directions=2 * rank)


def _gradients(model: Any, setup: Setup) -> dict[str, Tensor]:
    """The gradients [O, I] of the target modules' weights by name, float32, over all problems."""
    import torch

    weights = target_weights(model, setup, 2 * setup.rank)
    total = {n: torch.zeros_like(w, dtype=torch.float32) for n, w in weights.items()}
    for weight in weights.values():
        weight.requires_grad_(True)  # peft freezes it when it wraps the model
    for batch in _batches(model, setup):
        # only the directions count
        loss = model(**batch).loss * _scale(model, batch)
        found = torch.autograd.grad(loss, list(weights.values()), materialize_grads=True)
        for part, gradient in zip(total.values(), found, strict=True):
            part += gradient
    return {n: g.T if is_transposed(model.get_submodule(n)) else g for n, g in total.items()}


def _scale(model: Any, batch: dict[str, Any]) -> float:
    """A factor that keeps float16's gradients from vanishing: every token weighs 1/16."""
    import torch

    num_tokens = int((batch["labels"] >= 0).sum())
    return num_tokens / 16 if model.dtype == torch.float16 else 1.0


def _check_lora_ga(config: AdapterConfig, _num_updates: int | None) -> None:
    """Raises: ConfigError for a seed of directions that are not drawn."""
    if config.seed is not None and config.lora_ga.direction != "random":
        raise ConfigError(
            f"adapter.seed = {config.seed}: lora_ga draws nothing while adapter.lora_ga.direction ="
            f' "{config.lora_ga.direction}"; remove it'
        )


METHODS = (
    Method(
        name="eva",
        paper="2410.07170",
        trains="A and B of every target module, A from the inputs' singular vectors",
        syncs=("adapter", "merged"),
        options=(LORA_OPTIONS - {"seed"}) | {"calibration_rows", "eva"},  # B = 0, A computed
        apply=_eva,
        needs_rows=True,
    ),
    start_method(
        "corda", "2406.05223", "covariance-weighted triples", _corda, blocks=("corda",), rows=True
    ),
    start_method(
        "lora_ga",
        "2407.05000",
        "the first gradient",
        _lora_ga,
        blocks=("lora_ga",),
        rows=True,
        drawn=True,
        check=_check_lora_ga,
    ),
)
