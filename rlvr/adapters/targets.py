"""What target_modules may name on a model, and whether an adapter took just that."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from rlvr.adapters.base import is_linear
from rlvr.adapters.merge import as_in_files, merged_weights, plain_name
from rlvr.common.errors import ConfigError
from rlvr.common.log import get_logger

logger = get_logger(__name__)

BLOCK = "adapter.target_modules: "


def check_modules(model: nn.Module, targets: Sequence[str]) -> None:
    """Raises: ConfigError for a target that no module of the model is named after."""
    names = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    for target in targets:
        if target in names:
            continue
        parts = [f"{BLOCK}the model has no {target!r}; its linear modules are {_linear(model)}"]
        if "." in target:
            parts.append("a target is the last part of a module's name and takes all that have it")
        if expert_parameters(model):
            parts.append(
                "its experts are no modules: they are trained by a method without target_modules,"
                ' such as "full", with rollout.engine = "transformers"'
            )
        raise ConfigError("; ".join(parts))


def expert_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Weights by name that hold the matrices of all experts of a layer."""
    return {
        f"{name}.{key}": parameter
        for name, module in model.named_modules()
        if "expert" in f"{name} {type(module).__name__}".lower()
        for key, parameter in module.named_parameters(recurse=False)
        # transformers stacks the matrices of a layer's experts
        if parameter.ndim == 3
    }


def named_after(model: nn.Module, targets: Sequence[str]) -> set[str]:
    """Full names of the modules of a plain model that the targets stand for."""
    return {name for name, _ in model.named_modules() if name.rpartition(".")[2] in targets}


def check_adapted(model: nn.Module, wanted: set[str]) -> None:
    """Checks that an applied adapter adapts the `wanted` modules (full names) and no others.

    Says in one line where experts stay as they are. Raises: ConfigError for modules left out, for
    experts that peft took instead, and for a head that is the embedding: its adapter would be
    merged into both, which is not what was trained.
    """
    if not isinstance(model, PeftModel):
        return
    layers = {plain_name(n): m for n, m in model.named_modules() if isinstance(m, BaseTunerLayer)}
    if not layers:  # trained prompts adapt no module
        return
    experts = expert_parameters(model.get_base_model())
    taken = [name for name in layers if any(key.startswith(f"{name}.") for key in experts)]
    lost = sorted(wanted - layers.keys())
    if taken or lost:
        instead = f"takes {taken[0]} instead of" if taken else "leaves out"
        raise ConfigError(
            f"{BLOCK}peft {instead} {(lost or taken)[0]} on this mixture of experts; leave the"
            " names of expert layers out: attention's can be adapted, and experts are trained by"
            ' adapter.method = "full" with rollout.engine = "transformers"'
        )
    _refuse_tied(model.get_base_model(), layers)
    trained = [key for key, parameter in experts.items() if parameter.requires_grad]
    if experts and not trained:
        count = sum(parameter.numel() for parameter in experts.values())
        logger.info(
            f"adapter: this model's experts ({count:,} parameters) stay as they are; what is"
            f" adapted is {', '.join(sorted({name.rpartition('.')[2] for name in layers}))}"
        )


def servable_weights(model: Any) -> Iterator[tuple[str, Tensor]]:
    """All merged weights by name but those of experts, which vLLM has under other names: nothing
    that it serves changes them."""
    inner = model.get_base_model() if isinstance(model, PeftModel) else model
    experts = expert_parameters(inner)
    weights = merged_weights(model, everything=True)
    yield from as_in_files(model, ((n, value) for n, value in weights if n not in experts))


def _refuse_tied(inner: Any, layers: dict[str, Any]) -> None:
    """Raises: ConfigError for an adapter on a head that is the embedding, or on that."""
    ends = [inner.get_input_embeddings(), inner.get_output_embeddings()]
    adapted = {id(layer): name for name, layer in layers.items()}
    weights = [
        end.get_base_layer().weight if isinstance(end, BaseTunerLayer) else end.weight
        for end in ends
        if end is not None
    ]
    if len(weights) < 2 or weights[0] is not weights[1]:
        return
    for end in ends:
        if id(end) in adapted:
            name = adapted[id(end)]
            raise ConfigError(
                f"{BLOCK}{name} is one weight with the model's other end (tie_word_embeddings): its"
                " update would be merged into both, which is not what was trained; remove"
                f" {name.rpartition('.')[2]!r}"
            )


def _linear(model: nn.Module) -> str:
    return ", ".join(
        sorted({n.rpartition(".")[2] for n, m in model.named_modules() if is_linear(m)})
    )
