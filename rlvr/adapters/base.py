"""Adapter methods: what each is made of, and the pieces that several of them share."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rlvr.common.errors import ConfigError, first_line

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer
    from transformers import PreTrainedModel

    from rlvr.config.train import AdapterConfig, OptimConfig

Sync = Literal["adapter", "merged", "none"]
REFERENCE = "reference"
"""The adapter that stands for the reference policy where the base alone does not."""

DEFAULT_RANK = 32
LORA_OPTIONS = frozenset({"rank", "alpha", "scaling", "target_modules", "dropout", "seed", "match"})


@dataclass(frozen=True, slots=True)
class Setup:
    """What `apply` may look at besides the model.

    num_updates: optimizer steps of the whole run. rows: token ids of some training problems, for
    initialisations that look at data; None where there are none. overwritten: a saved adapter is
    written over the start, so that nothing need be decomposed or looked at for it.
    """

    config: AdapterConfig
    seed: int
    num_updates: int = 1000
    rows: list[list[int]] | None = None
    overwritten: bool = False

    @property
    def rank(self) -> int:
        return self.config.rank or DEFAULT_RANK

    @property
    def alpha(self) -> float:
        return self.config.alpha or 2 * self.rank


def adamw(model: nn.Module, config: AdapterConfig, optim: OptimConfig) -> Optimizer:
    """The optimizer that optim.name names, on everything that requires a gradient."""
    from rlvr.adapters.optimizers import build_optimizer

    return build_optimizer([p for p in model.parameters() if p.requires_grad], optim)


@dataclass(frozen=True, slots=True)
class Schedule:
    """What a method does besides the gradient step; only AdaLoRA has one.

    penalty(model): a scalar added to the loss once per optimizer step. after_update(model, n): runs
    after optimizer step n (from 0) while gradients are there; n grows, and may jump. state(model)
    and load_state(model, saved) carry what is not a weight through a checkpoint; saved tensors come
    on the model's device.
    """

    penalty: Callable[[nn.Module], Tensor]
    after_update: Callable[[nn.Module, int], None]
    state: Callable[[nn.Module], dict[str, Any]]
    load_state: Callable[[nn.Module, dict[str, Any]], None]


@dataclass(frozen=True, slots=True)
class Method:
    """One row of METHODS.

    name: as in adapter.method. paper: arXiv id, or a name where there is none. trains: in words.
    merges: whether W + delta exists as a plain weight. syncs: modes to the engine, the cheapest
    first; none of them means that only the transformers engine can run it.
    options: fields of AdapterConfig that it obeys; giving another one is an error.
    apply(model, setup): the model to train; an adapter leaves the base bit-identical.
    optimizer(model, config, optim): its parameter groups and update rule.
    keeps_base: whether switching the adapter off gives the base back; else the reference is a copy.
    start: why step 0 is not the base policy; empty where it is.
    needs_rows: whether `apply` looks at training problems.
    check(config, num_updates): refuses, before anything loads, settings that cannot work; optimizer
    steps of the run are None where they are not known yet.
    checkpointing: whether activations can be recomputed in the backward pass.
    shared: whether one trained tensor serves several layers.
    packing: whether several examples may share one sequence.
    own_optimizer: whether it has an update rule of its own, so that optim.name cannot choose one.
    rank_multiple(config): the rank has to be a multiple of this.
    served_rank(config): rank of the low-rank update that vLLM serves, where there is such a mode.
    count(model, setup): trainable parameters, where the layers cannot be made on the meta device.
    save(model, folder, config): writes a folder that peft loads, where the live layers do not save
    as one.
    """

    name: str
    paper: str
    trains: str
    apply: Callable[[PreTrainedModel, Setup], nn.Module]
    options: frozenset[str] = frozenset()
    merges: bool = True
    syncs: tuple[Sync, ...] = ("merged",)
    optimizer: Callable[[nn.Module, AdapterConfig, OptimConfig], Optimizer] = adamw
    schedule: Schedule | None = None
    keeps_base: bool = True
    start: str = ""
    needs_rows: bool = False
    checkpointing: bool = True
    shared: bool = False
    packing: bool = True
    own_optimizer: bool = False
    check: Callable[[AdapterConfig, int | None], None] | None = None
    rank_multiple: Callable[[AdapterConfig], int] = lambda _config: 1
    served_rank: Callable[[AdapterConfig], int] = lambda config: config.rank or DEFAULT_RANK
    count: Callable[[Any, Setup], int] | None = None
    save: Callable[[Any, Path, AdapterConfig], None] | None = None

    @property
    def can_shard(self) -> bool:
        """Whether it can be trained sharded: not what vLLM cannot serve, what trains one tensor for
        several layers, and what looks at full gradients or weights in an optimizer or schedule of
        its own."""
        needs_full = self.shared or self.own_optimizer or self.schedule is not None
        return bool(self.syncs) and not needs_full


def is_transposed(module: Any) -> bool:
    """Whether it is GPT-2's linear layer, which holds its weight as [inputs, outputs]."""
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, Conv1D)


def is_linear(module: Any) -> bool:
    """Whether it is a linear layer: torch's, or GPT-2's."""
    from torch import nn

    return isinstance(module, nn.Linear) or is_transposed(module)


def weight_of(module: Any) -> Tensor:
    """[O, I] weight of a linear layer."""
    return module.weight.T if is_transposed(module) else module.weight


def peft_targets(setup: Setup) -> dict[str, Any]:
    """The arguments of a peft config that say what is adapted."""
    return {"target_modules": list(setup.config.target_modules), "task_type": "CAUSAL_LM"}


def wrap(model: Any, peft_config: Any, seed: int) -> Any:
    """The peft model of `peft_config`, every random draw of its initialisation from `seed`.

    Raises: ConfigError when the model has none of the target modules, or sizes do not fit.
    """
    import peft
    import torch

    _refuse_experts(model, peft_config)
    with torch.random.fork_rng():  # peft draws from the global generator, which stays as it was
        torch.manual_seed(seed)
        try:
            return peft.get_peft_model(model, peft_config)
        except (ValueError, AssertionError, TypeError) as error:
            reason = first_line(error, 300)
            raise ConfigError(
                f"adapter: {reason}; change adapter.target_modules or the sizes"
            ) from error


def _refuse_experts(model: Any, peft_config: Any) -> None:
    """Raises: ConfigError where peft would take experts for modules of the same names: it then
    leaves the dense ones out, and starts look for a weight that experts do not have."""
    import copy

    import peft
    from peft.utils import transformers_weight_conversion as conversion

    # peft converts the settings of LoRA alone
    if peft_config.peft_type != peft.PeftType.LORA:
        return
    # the conversion writes into the settings that it is given
    probe = copy.deepcopy(peft_config)
    with contextlib.suppress(ValueError):  # said again, in full, when the adapter is made
        conversion.convert_peft_config_for_transformers(probe, model, None)
    if probe.target_parameters:
        kept = set(probe.target_modules or ())
        lost = sorted(set(peft_config.target_modules) - kept)
        raise ConfigError(
            f"adapter.target_modules: peft takes {', '.join(lost)} for this model's experts and"
            " leaves the dense layers of these names out; remove them: attention can be adapted,"
            ' experts are trained by adapter.method = "full" with rollout.engine = "transformers"'
        )


def check_divides(model: Any, setup: Setup, setting: str, size: int, outputs: bool = False) -> None:
    """Refuses a size that does not divide a module's inputs: peft would silently change it.

    outputs: it has to divide the outputs, too. Raises: ConfigError.
    """
    for name, module in model.named_modules():
        if name.rpartition(".")[2] in setup.config.target_modules:
            shape = weight_of(module).shape
            sizes = shape if outputs else shape[1:]
            if any(length % size for length in sizes):
                shown = " and ".join(map(str, sizes))
                raise ConfigError(
                    f"adapter.{setting} = {size}: does not divide {shown} of {name}; take a divisor"
                )
