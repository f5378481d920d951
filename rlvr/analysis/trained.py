"""What needs the trained model itself: curvature and attention on given texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch.nn import Parameter

from rlvr.adapters.merge import plain_name
from rlvr.analysis.curvature import hessian_product, lanczos, token_losses
from rlvr.analysis.entanglement import mean_profile
from rlvr.analysis.lines import read_lines
from rlvr.analysis.stream import is_adapter, layer_of
from rlvr.common.errors import ConfigError
from rlvr.config.train import ModelConfig
from rlvr.policy.language_model import LanguageModel, load_frozen
from rlvr.policy.packing import TokenRow

MAX_BASIS_BYTES = 4 << 30
"""Memory of Lanczos' vectors; fewer iterations fit of many parameters."""
MAX_ATTENTION_LEN, ATTENTION_ROWS = 128, 4
TOKENS_AT_A_TIME = 4096


def load_trained(checkpoint: Path, base: Path) -> LanguageModel:
    """The model of a checkpoint in float32; none of its parameters requires a gradient."""
    adapter = checkpoint if is_adapter(checkpoint) else None
    folder = str(checkpoint if adapter is None else base)
    # max_len: the least allowed; scoring goes by the model's own context
    config = ModelConfig(path=folder, dtype="float32", max_len=16)
    return load_frozen(config, folder, adapter)


def read_token_rows(path: Path, tokenizer: Any, limit: int) -> list[TokenRow]:
    """Token ids of the first `limit` {"prompt", "response"} lines; rollout files have that form.

    Raises: ConfigError with file and line.
    """
    rows: list[TokenRow] = []
    for number, texts in islice(read_lines(path), limit):
        prompt, response = texts.get("prompt"), texts.get("response")
        if not (isinstance(prompt, str) and isinstance(response, str) and prompt and response):
            raise ConfigError(f"{path}:{number}: needs a prompt and a response that are texts")
        ids = [tokenizer(t, add_special_tokens=False)["input_ids"] for t in (prompt, response)]
        rows.append(TokenRow(*ids))
    if not rows:
        raise ConfigError(f"{path}: has no rows")
    return rows


def curvature(
    policy: LanguageModel,
    rows: Sequence[TokenRow],
    layers: Sequence[int] | None = None,
    max_iterations: int = 300,
) -> dict[str, Any]:
    """Largest Hessian eigenvalue of the mean negative log-likelihood of the responses' tokens.

    "modules": over the parameters of each trained module (an adapter's own, or the weight of a
    matrix inside a block), "whole": over all of those jointly, None where fewer than 10 vectors fit
    in memory. "unconverged": names for which the iterations ran out.
    Source: 2602.04998.
    """
    modules = _trained_modules(policy, layers)
    losses = token_losses(policy, rows, TOKENS_AT_A_TIME)
    values: dict[str, float] = {}
    unconverged: list[str] = []

    def top(name: str, params: Sequence[Parameter]) -> float | None:
        size = sum(p.numel() for p in params)
        # Lanczos keeps every vector: without reorthogonalisation eigenvalues appear twice
        fitting = min(max_iterations, MAX_BASIS_BYTES // (4 * size))
        if fitting < 10:
            return None
        for parameter in params:
            # these alone: every other parameter would enlarge the graph
            parameter.requires_grad_(True)
        found = lanczos(hessian_product(losses, params), params, fitting)
        for parameter in params:
            parameter.requires_grad_(False)
        if not found.converged:
            unconverged.append(name)
        return found.value

    for name, params in modules.items():
        value = top(name, params)
        assert value is not None, f"{name}: one module's vectors fit in memory"
        values[name] = value
    whole = top("whole", [p for params in modules.values() for p in params])
    return {"whole": whole, "modules": values, "unconverged": unconverged}


def _trained_modules(
    policy: LanguageModel, layers: Sequence[int] | None
) -> dict[str, list[Parameter]]:
    if not isinstance(policy.model, PeftModel):
        found = {
            name.removesuffix(".weight"): [value]
            for name, value in policy.model.named_parameters()
            if value.ndim == 2 and layer_of(name) is not None
        }
    else:
        found = {
            plain_name(name): _own_parameters(module)
            for name, module in policy.model.named_modules()
            if isinstance(module, BaseTunerLayer)
        }
    # layer_of looks for a number between two dots
    kept = {n: p for n, p in found.items() if p and (layers is None or layer_of(f"{n}.") in layers)}
    if not kept:
        raise ConfigError("--curvature: the checkpoint has no trained module in these layers")
    return kept


def _own_parameters(layer: Any) -> list[Parameter]:
    """The adapter's own parameters, without those of the layer that it wraps."""
    return [value for name, value in layer.named_parameters() if "base_layer" not in name]


@torch.no_grad()
def attention_profiles(
    policy: LanguageModel, rows: Sequence[TokenRow], layers: Sequence[int] | None = None
) -> list[dict[str, Any]]:
    """Entanglement of the token-token attention matrices, layer by layer, mean over heads and rows.

    The first rows, cut to the largest power of two that all of them reach.
    Source: 2601.06788.
    """
    rows = rows[:ATTENTION_ROWS]
    shortest = min(MAX_ATTENTION_LEN, *(len(row) for row in rows))
    # a power of two: a prime length would be a single leg, with no cut inside
    length = 1 << (shortest.bit_length() - 1)
    ids = torch.tensor([(r.prompt_ids + r.response_ids)[:length] for r in rows])
    policy.causal_lm.set_attn_implementation("eager")  # the only one that returns its matrices
    out = policy.causal_lm(ids.to(policy.device), output_attentions=True, use_cache=False)
    return [
        {"name": f"layers.{number}", "what": "attention", "layer": number}
        | asdict(mean_profile(maps.float().flatten(0, 1)))
        for number, maps in enumerate(out.attentions)
        if layers is None or number in layers
    ]
