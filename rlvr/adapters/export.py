"""Writing what was trained as an ordinary LoRA folder or a plain transformers folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlvr.common.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from rlvr.config.adapter import AdapterConfig

EMBEDDINGS = frozenset({"embed_tokens", "lm_head"})
"""Modules that peft saves whole where an adapter is on them."""
VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Values that vLLM takes for its largest LoRA rank."""


def lora_factors(layer: Any) -> tuple[Tensor, Tensor]:
    """(A [r, I], B [O, r]) with W + B A the adapted weight; all active adapters side by side."""
    import torch

    if not hasattr(layer, "lora_A"):
        return _factors_by_name(layer)
    names = [name for name in layer.active_adapters if name in layer.lora_A]
    if hasattr(layer, "lora_E"):  # AdaLoRA: B diag(E) A
        # peft's own 1e-5, which its forward pass adds against a rank of 0
        scale = {n: layer.scaling[n] / (layer.ranknum[n] + 1e-5) for n in names}
        parts = [(layer.lora_A[n] * layer.lora_E[n], layer.lora_B[n] * scale[n]) for n in names]
    else:
        parts = [(layer.lora_A[n].weight, layer.lora_B[n].weight * layer.scaling[n]) for n in names]
    a, b = zip(*parts, strict=True)
    return torch.cat(a).detach(), torch.cat(b, dim=1).detach()


def low_rank_layers(model: Any) -> dict[str, Any]:
    """By their names, the layers whose update is B A, with factors from `lora_factors`."""
    from peft.tuners.lora import LoraLayer
    from peft.tuners.miss import MissLayer
    from peft.tuners.vera import VeraLayer

    kinds = (LoraLayer, MissLayer, VeraLayer)
    return {name: module for name, module in model.named_modules() if isinstance(module, kinds)}


def saves_as_lora(model: Any) -> bool:
    """Whether peft's own folder of the adapter is that of a LoRA."""
    from peft.tuners.lora import LoraLayer

    return all(isinstance(layer, LoraLayer) for layer in low_rank_layers(model).values())


def _factors_by_name(layer: Any) -> tuple[Tensor, Tensor]:
    """`lora_factors` of MiSS and VeRA, whose trained numbers all go into B."""
    import torch

    (name,) = layer.active_adapters
    if hasattr(layer, "miss_block"):  # B is D^T: input i meets row i mod r of D
        block = layer.miss_block[name].detach()
        eye = torch.eye(len(block), dtype=block.dtype, device=block.device)
        a = eye.repeat(1, -(-layer.in_features // len(block)))[:, : layer.in_features]
        return a.contiguous(), block.t().contiguous()
    a, b = layer.vera_A[name][:, : layer.in_features], layer.vera_B[name][: layer.out_features]
    scale_b, scale_d = layer.vera_lambda_b[name].detach(), layer.vera_lambda_d[name].detach()
    # a copy: layers of one shape share it, and safetensors refuses tensors that share memory
    return a.detach().clone(), scale_b.unsqueeze(1) * b.detach() * scale_d


def save_as_peft(model: Any, folder: Path, **options: Any) -> None:
    """What peft's save_pretrained(folder, **options) writes, without a request to the hub.

    By default peft compares the vocabulary with that of the base's config.json on the hub, at every
    save, to find out whether embeddings were resized. They never are here.
    """
    targets = getattr(model.peft_config["default"], "target_modules", None) or ()
    # "auto" where they are targets: peft then knows without asking
    wanted = "auto" if EMBEDDINGS.intersection(targets) else False
    model.save_pretrained(folder, save_embedding_layers=wanted, **options)


def lora_layers(model: Any) -> dict[str, Any]:
    """peft's LoRA layers by name."""
    from peft.tuners.lora import LoraLayer

    return {name: m for name, m in model.named_modules() if isinstance(m, LoraLayer)}


def save_as_lora(model: Any, folder: Path, _config: AdapterConfig | None = None) -> None:
    """A peft LoRA folder on the original base, scaling 1, rank 2 r where a start is subtracted."""
    import peft
    from safetensors.torch import save_file

    from rlvr.adapters.merge import plain_name

    tensors, ranks = {}, {}
    for name, layer in low_rank_layers(model).items():
        a, b = lora_factors(layer)
        tensors[f"{name}.lora_A.weight"] = a.float().cpu().contiguous()
        tensors[f"{name}.lora_B.weight"] = b.float().cpu().contiguous()
        ranks[plain_name(name)] = len(a)
    rank = max(ranks.values())
    uneven = {name: r for name, r in ranks.items() if r != rank}
    # alpha = r, also where a rank is uneven: the factors hold the scaling already
    config = peft.LoraConfig(
        r=rank,
        lora_alpha=rank,
        rank_pattern=uneven,
        alpha_pattern=uneven,
        target_modules=sorted({name.rpartition(".")[2] for name in ranks}),
        base_model_name_or_path=model.peft_config["default"].base_model_name_or_path,
        task_type=peft.TaskType.CAUSAL_LM,
        inference_mode=True,
    )
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(str(folder))


def max_lora_rank(model: Any) -> int:
    """The smallest rank limit of vLLM that holds the model's low-rank update.

    Raises: ConfigError for a rank that vLLM does not serve.
    """
    layers = low_rank_layers(model)
    embeddings = [name for name, m in layers.items() if getattr(m, "lora_embedding_A", None)]
    if embeddings:
        raise ConfigError(
            f"rollout.sync: vLLM serves no adapter on an embedding ({embeddings[0]}); set it to"
            ' "merged"'
        )
    rank = max(len(lora_factors(layer)[0]) for layer in layers.values())
    fitting = [limit for limit in VLLM_RANKS if limit >= rank]
    if not fitting:
        raise ConfigError(
            f"rollout.sync: vLLM serves adapters of rank {VLLM_RANKS[-1]} at most, and this one has"
            f' {rank}; set it to "merged"'
        )
    return fitting[0]


@dataclass(frozen=True, slots=True)
class Rounded:
    """What rounding an export took: Frobenius norm of the difference from W + delta in float32,
    relative to that of the weights, and to that of delta (None where the base is not there)."""

    weights: float
    update: float | None

    def text(self, dtype: str) -> str:
        """One sentence."""
        if not self.weights:
            return f"{dtype}, every weight as it was trained"
        update = "" if self.update is None else f" and {self.update:.2g} of the update's"
        return f"{dtype}, rounded: off by {self.weights:.2g} of the weights' norm{update}"


def merge_and_export(model: Any, folder: Path, dtype: torch.dtype | None = None) -> Rounded:
    """Writes W + delta, formed in float32, as a plain transformers folder; the live model stays as
    it is. dtype: of the file; None takes float32."""
    import torch
    from transformers import AutoModelForCausalLM

    from rlvr.adapters.merge import merged_weights

    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    dtype = dtype or torch.float32
    plain = AutoModelForCausalLM.from_config(inner.config, dtype=dtype)
    weights = {name: value.to(dtype) for name, value in merged_weights(model, everything=True)}
    rounded = Rounded(0.0, None) if dtype == torch.float32 else _rounding(model, weights)
    # not strict: a tied head comes once, as the embedding; anything else missing is caught below
    plain.load_state_dict(weights, strict=False)
    missing = {name for name, _ in plain.named_parameters()} - set(weights)
    assert not missing, f"no weight for {sorted(missing)}"
    # from_config does not read generation_config.json, which names the tokens that end a response
    plain.generation_config = inner.generation_config
    plain.save_pretrained(folder)
    return rounded


def _rounding(model: Any, weights: Mapping[str, Tensor]) -> Rounded:
    """What W + delta lost as these weights. Forms both once more, weight by weight."""
    import torch

    from rlvr.adapters.merge import merged_weights

    sums = torch.zeros(3, dtype=torch.float64)
    after = merged_weights(model, everything=True)
    before = merged_weights(model, everything=True, adapted=False)
    for (name, value), (_, base) in zip(after, before, strict=True):
        exact = value.float()
        parts = (weights[name].float() - exact, exact, exact - base.float())
        # float64: a model has billions of squares to add up
        sums += torch.stack([part.double().square().sum().cpu() for part in parts])
    error, norm, change = sums.sqrt().tolist()
    return Rounded(error / norm, error / change if change else None)
