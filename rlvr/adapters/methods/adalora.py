"""AdaLoRA: B diag(E) A whose rank moves between modules while training."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from rlvr.adapters.base import DEFAULT_RANK, LORA_OPTIONS, Method, Schedule, Setup, wrap
from rlvr.adapters.export import save_as_lora
from rlvr.common.errors import ConfigError

if TYPE_CHECKING:
    from rlvr.config.adapter import AdapterConfig


def _adalora(model: Any, setup: Setup) -> Any:
    """Starts with `init_rank` triples per module, E = 0, and ends with `rank` on average.

    Scaling: peft divides alpha by init_rank. Source: 2303.10512.
    """
    import peft

    block = setup.config.adalora
    _check(setup.config, setup.num_updates)
    warmup, final = _phases(setup.config, setup.num_updates)
    config = peft.AdaLoraConfig(
        init_r=_init_rank(setup.config),
        target_r=setup.rank,
        tinit=warmup,
        tfinal=final,
        deltaT=block.every_updates,
        beta1=block.beta1,
        beta2=block.beta2,
        orth_reg_weight=block.orthogonality,
        total_step=setup.num_updates,
        lora_alpha=setup.alpha,  # pyright: ignore[reportArgumentType]
        lora_dropout=setup.config.dropout,
        target_modules=list(setup.config.target_modules),
        task_type=peft.TaskType.CAUSAL_LM,
    )
    adapted = wrap(model, config, setup.seed)
    for name, parameter in adapted.named_parameters():
        if ".ranknum." in name:  # the divisor of the scaling, which peft makes trainable in 16 bits
            parameter.requires_grad_(False)
    return adapted


def _init_rank(config: AdapterConfig) -> int:
    # 1.5 times the final budget is the paper's start
    return config.adalora.init_rank or (3 * (config.rank or DEFAULT_RANK) + 1) // 2


def _phases(config: AdapterConfig, num_updates: int) -> tuple[int, int]:
    """Updates before the ranks move and after they have moved."""
    warmup, final = config.adalora.warmup_updates, config.adalora.final_updates
    return (
        num_updates // 10 if warmup is None else warmup,
        num_updates // 5 if final is None else final,
    )


def _check(config: AdapterConfig, num_updates: int | None) -> None:
    """Raises: ConfigError for a schedule without room, or a start below the budget."""
    rank, init_rank = config.rank or DEFAULT_RANK, _init_rank(config)
    if config.match is None and init_rank < rank:
        raise ConfigError(
            f"adapter.adalora.init_rank = {init_rank}: below adapter.rank = {rank}, the average at"
            " the end; raise it"
        )
    if num_updates is None:
        return
    warmup, final = _phases(config, num_updates)
    if max(warmup, 1) + final >= num_updates:  # the first update only measures
        raise ConfigError(
            f"adapter.adalora: warmup_updates = {warmup} plus final_updates = {final} leave none of"
            f" the {num_updates} updates to move ranks; lower them"
        )


def _penalty(model: Any) -> Any:
    """orthogonality x mean over factors of ||P P^T - I||_F, P = A or B^T. Source: eq. 4."""
    import torch

    # peft adds this penalty in a forward pass of its own, which ours goes around
    weight = model.peft_config["default"].orth_reg_weight
    terms = []
    for name, p in model.named_parameters():
        if ".lora_A." in name or ".lora_B." in name:
            gram = p @ p.T if ".lora_A." in name else p.T @ p
            terms.append(torch.linalg.norm(gram - torch.eye(len(gram), device=p.device)))
    return weight * torch.stack(terms).mean()


_AVERAGES = ("ipt", "exp_avg_ipt", "exp_avg_unc")
_CLOCK = "last_update"
"""Our attribute of peft's allocator: the update it was last called after, from 1; None where an
older version's checkpoint does not say."""


def _after_update(model: Any, update: int) -> None:
    """Importance of every triple, and at the scheduled updates the least important E set to 0.

    Updates may be missing between two calls: of a step with few groups, or left out because they
    were not finite. What the schedule had there is done now.
    """
    tuner, config, now = model.base_model, model.peft_config["default"], update + 1
    allocator = tuner.rankallocator
    last = getattr(allocator, _CLOCK, 0)
    scheduled = _scheduled(config, update if last is None else last, now)
    if not allocator.ipt and scheduled == _end(config):
        allocator.update_ipt(tuner.model)  # the end is the first update of all
    tuner.update_and_allocate(scheduled)
    setattr(allocator, _CLOCK, now)


def _scheduled(config: Any, last: int, now: int) -> int:
    """The update of peft's schedule to stand at after update `now`, when `last` was the one before.

    peft ends at one update exactly, and moves ranks at multiples of deltaT.
    """
    end = _end(config)
    if last < end <= now:
        return end
    multiple = now - now % config.deltaT
    return multiple if last < multiple and now < end else now


def _end(config: Any) -> int:
    """The update after which ranks do not move any more."""
    return config.total_step - config.tfinal


def _state(model: Any) -> dict[str, Any]:
    allocator = model.base_model.rankallocator
    pattern = model.peft_config["default"].rank_pattern
    # peft puts new tensors into these dicts: a copy of the dict is a copy of the state
    averages = {name: dict(getattr(allocator, name)) for name in _AVERAGES}
    clock = getattr(allocator, _CLOCK, 0)
    return {"rank_pattern": copy.deepcopy(pattern), _CLOCK: clock} | averages


def _load_state(model: Any, saved: dict[str, Any]) -> None:
    allocator = model.base_model.rankallocator
    for name in _AVERAGES:
        setattr(allocator, name, dict(saved[name]))
    setattr(allocator, _CLOCK, saved.get(_CLOCK))
    model.peft_config["default"].rank_pattern = copy.deepcopy(saved["rank_pattern"])


METHODS = (
    Method(
        name="adalora",
        paper="2303.10512",
        trains="A, B and the diagonal E of every target module; the rank moves between them",
        syncs=("adapter", "merged"),
        options=(LORA_OPTIONS - {"scaling"}) | {"adalora"},
        apply=_adalora,
        check=_check,
        schedule=Schedule(_penalty, _after_update, _state, _load_state),
        save=save_as_lora,
        served_rank=_init_rank,  # what it starts with
    ),
)
