"""What vLLM on a CPU is changed in: here and on servers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rlvr.engines.inverse_transform import inverse_transform, uniform

if TYPE_CHECKING:
    import torch
    from torch import Tensor

PREPARE = "rlvr_prepare"
"""Name of the call that a server's workers answer, see `weights.vllm_weights.Reader`."""


def prepare(worker: Any) -> None:
    """Changes a worker whose model is loaded: mends scoring beside an adapter, makes sampling and
    adapters faster. Nothing to do on a GPU, whose kernels are made for both."""
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        multiply_by_adapter()
        _unwrap_head(worker)
        _sample_by_inverse_transform(worker)


def multiply_by_adapter() -> None:
    """Replaces how vLLM on a CPU applies adapters, in this process. Its own way copies both factors
    for every token, and gives a token without an adapter the one in the last place."""
    from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

    PunicaWrapperCPU.add_lora_linear = _add_updates  # pyright: ignore[reportAttributeAccessIssue]


def _add_updates(
    wrapper: Any,
    y_TO: Tensor,
    x_TI: Tensor,
    lora_a_stacked: Sequence[Tensor],
    lora_b_stacked: Sequence[Tensor],
    scale: float,
    output_slices: Sequence[int],
    *,
    add_inputs: bool = True,
    buffer: object = None,
) -> None:
    """Adds every token's update by its adapter to a linear layer's outputs, in place; with
    add_inputs = False it writes them over what is there. buffer: vLLM's, which is not needed.

    lora_a_stacked, lora_b_stacked: [N, 1, r, I] and [N, 1, O, r] of N adapters for each of the
    layer's parts, whose outputs have the sizes output_slices.
    """
    if not add_inputs:
        y_TO.zero_()
    for place, tokens in _tokens_by_adapter(wrapper.token_lora_indices):
        # as in vLLM's own: the inner product is float32 whatever the model is
        x = x_TI[tokens].float()
        at = 0
        for a, b, size in zip(lora_a_stacked, lora_b_stacked, output_slices, strict=True):
            inner = (x @ a[place, 0].float().T) * scale
            y_TO[tokens, at : at + size] += inner.to(y_TO.dtype) @ b[place, 0].to(y_TO.dtype).T
            at += size


def _tokens_by_adapter(places_T: Tensor) -> Iterator[tuple[int, Tensor | slice]]:
    """(an adapter's place, its tokens), without those that have none (-1)."""
    found = places_T.unique().tolist()
    if len(found) == 1 and found[0] >= 0:  # without copies of inputs and outputs
        yield found[0], slice(None)
        return
    for place in found:
        if place >= 0:
            yield place, (places_T == place).nonzero()[:, 0]


def _unwrap_head(worker: Any) -> None:
    """Takes the head's adapter out of the way. vLLM on CPU looks for the adapters of as many tokens
    as there are requests, and dies of a prompt that is scored beside others (Llama, Qwen 3).

    What an adapter on the head would need is refused in `vllm_start.refuse_head`.
    """
    from vllm.lora.layers import LogitsProcessorWithLoRA

    for module in list(worker.model_runner.get_model().modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, LogitsProcessorWithLoRA):
                setattr(module, name, child.base_layer)


def _sample_by_inverse_transform(worker: Any) -> None:
    """Replaces how tokens are drawn; temperature, truncation and log-probabilities stay vLLM's."""
    from vllm.v1.sample.ops.topk_topp_sampler import apply_top_k_top_p

    sampler = worker.model_runner.sampler.topk_topp_sampler
    if sampler.logprobs_mode != "processed_logprobs":  # a server that somebody else has started
        return

    def forward(
        logits_NV: Tensor,
        generators: dict[int, torch.Generator],
        k: Tensor | None,
        p: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        logp_NV = apply_top_k_top_p(logits_NV, k, p).log_softmax(-1)
        uniform_N = uniform(map(generators.get, range(len(logp_NV))), logp_NV.device)
        return inverse_transform(logp_NV.exp(), uniform_N), logp_NV

    sampler.forward = forward
