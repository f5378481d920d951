"""What a vLLM worker on a CPU is changed in, once its model is loaded: here and on servers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rlvr.engines.inverse_transform import inverse_transform, uniform

if TYPE_CHECKING:
    import torch
    from torch import Tensor

PREPARE = "rlvr_prepare"
"""Name of the call that a server's workers answer, see `weights.vllm_weights.Reader`."""


def prepare(worker: Any) -> None:
    """Mends scoring beside an adapter and makes sampling faster. Nothing to do on a GPU, which
    draws exponential numbers faster than it sums."""
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        _unwrap_head(worker)
        _sample_by_inverse_transform(worker)


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
