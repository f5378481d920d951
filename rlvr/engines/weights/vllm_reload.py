"""Gives a vLLM worker new weights: its own reload, and the tied head that this leaves as it was."""

from __future__ import annotations

from typing import Any

RELOAD = "rlvr_reload"
"""Name of the call that a server's workers answer, see `vllm_weights.Reader`."""


def reload(worker: Any, **given: Any) -> None:
    """Replaces the worker's weights. given: arguments of vLLM's `reload_weights`.

    On a CPU vLLM multiplies by packed copies of its matrices, which it makes anew of the layers
    that were loaded. A head that is the embedding is not loaded itself, so its copy is made here.
    """
    worker.reload_weights(**given)
    for head in tied_heads(worker.model_runner.get_model()):
        if hasattr(head, "cpu_linear"):
            head.quant_method.process_weights_after_loading(head)


def tied_heads(model: Any) -> list[Any]:
    """The heads of a vLLM model whose weight is that of an embedding."""
    from vllm.model_executor.layers.vocab_parallel_embedding import (
        ParallelLMHead,
        VocabParallelEmbedding,
    )

    ends = [module for module in model.modules() if isinstance(module, VocabParallelEmbedding)]
    embedded = {id(end.weight) for end in ends if not isinstance(end, ParallelLMHead)}
    return [end for end in ends if isinstance(end, ParallelLMHead) and id(end.weight) in embedded]
