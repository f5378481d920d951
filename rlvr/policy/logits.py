"""What a model does between its last hidden state and its logits, and the check that this is all.

The trainer computes log-probabilities from hidden states (`logprob_head`), past the model's own
forward pass. So it has to know how the model bends its logits, and at every load the result is held
to the model's own logits.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlvr.common.errors import ConfigError
from rlvr.policy.logprob_head import LogitTransform, token_logprobs

CAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
"""Settings of a soft cap: Gemma 2 and later, NanoChat; RecurrentGemma; xLSTM."""
FACTORS = ("logit_scale", "lm_head_multiplier", "output_multiplier")
"""Settings that multiply: Cohere; Falcon-H1; Muse Glimmer."""
DIVISORS = ("logits_scaling", "logits_mup_width_multiplier")
"""Settings that divide logits, or the hidden state before the head: Granite, MiniCPM3; Inkling."""
IGNORES_FACTOR = frozenset({"mpt"})
"""Model types whose configuration has such a setting for something else."""
MULTIPLIES = frozenset({"hyperclovax"})
"""Model types that multiply by what is a divisor elsewhere."""

LARGEST_LOGIT = 30.0
"""The check scales hidden states so that the head gives this: a random tiny model's own logits are
so small that no cap shows."""
TOLERANCE, HALF_TOLERANCE = 1e-3, 0.5
"""Nats, in float32 and in half precision, where logits of 16 to 32 have steps of 0.125."""
NUM_TOKENS = 6
"""Positions that are compared."""


def transform_of(causal_lm: Any) -> LogitTransform:
    """What the model does to its head's outputs, by its configuration."""
    config = causal_lm.config.get_text_config()

    def given(*names: str) -> float | None:
        values = (getattr(config, name, None) for name in names)
        return next((float(value) for value in values if value is not None), None)

    scale = None if config.model_type in IGNORES_FACTOR else given(*FACTORS)
    divisor = given(*DIVISORS)
    if scale is None and divisor is not None:
        scale = divisor if config.model_type in MULTIPLIES else 1 / divisor
    # Inkling pads its head, and cuts off the logits of the padding
    num_tokens = getattr(config, "unpadded_vocab_size", None)
    return LogitTransform(1.0 if scale is None else scale, given(*CAPS), num_tokens)


@dataclass(frozen=True)
class _Enlarge:
    """A forward hook on the layers: what goes on to the head is made larger."""

    head: Any

    def __call__(self, _module: Any, _args: Any, output: Any) -> Any:
        # of a tuple, or of transformers' output, which is indexed like one
        hidden = output[0]
        largest = float(self.head(hidden).abs().max())
        if largest > 0:
            hidden = hidden * (LARGEST_LOGIT / largest)
        if isinstance(output, tuple):
            return (hidden, *output[1:])
        output.last_hidden_state = hidden
        return output


def _enlarged(causal_lm: Any, token_ids: list[int]) -> tuple[Tensor, Tensor]:
    """([T, H] last hidden states made larger, [T, V] the model's own logits from them).

    Raises: ConfigError for a model without layers that end in a hidden state.
    """
    layers, head = causal_lm.get_decoder(), causal_lm.get_output_embeddings()
    # transformers gives the model itself where it finds no decoder or no body
    if head is None or layers is causal_lm or causal_lm.base_model is causal_lm:
        raise ConfigError(
            f"model.path: {type(causal_lm).__name__} has no layers that end in a hidden state and a"
            " head, of which the trainer makes log-probabilities; take another model"
        )
    ids = torch.tensor([token_ids], device=causal_lm.get_input_embeddings().weight.device)
    with large_logits(causal_lm):
        hidden_TH = causal_lm.base_model(input_ids=ids, use_cache=False).last_hidden_state[0]
        logits_TV = causal_lm(input_ids=ids, use_cache=False).logits[0].float()
    return hidden_TH, logits_TV


@contextmanager
def large_logits(causal_lm: Any) -> Iterator[None]:
    """Inside the block the model's logits are as large as a pretrained model's."""
    enlarge = _Enlarge(causal_lm.get_output_embeddings())
    hook = causal_lm.get_decoder().register_forward_hook(enlarge)
    try:
        yield
    finally:
        hook.remove()


@torch.no_grad()
def head_error(causal_lm: Any, token_ids: list[int]) -> float:
    """Largest difference (nats) between the fast head's log-probabilities and the model's own, on
    the same hidden states, with logits as large as a pretrained model's.

    Of every position the likeliest and the unlikeliest token are compared, and two between. Raises:
    ConfigError for a model whose logits do not come from its layers' last hidden state.
    """
    hidden_TH, logits_TV = _enlarged(causal_lm, token_ids)
    order_TV = logits_TV.argsort(dim=-1)
    last = order_TV.shape[1] - 1
    targets_TK = order_TV[:, [0, last // 3, 2 * last // 3, last]]
    ours_S, _ = token_logprobs(
        hidden_TH.repeat_interleave(targets_TK.shape[1], dim=0),
        causal_lm.get_output_embeddings(),
        targets_TK.flatten(),
        1.0,
        logits_TV.shape[1],
        transform=transform_of(causal_lm),
    )
    theirs_TK = logits_TV.log_softmax(dim=-1).gather(1, targets_TK)
    return float((ours_S - theirs_TK.flatten()).abs().max())


def check_logits(causal_lm: Any, tokenizer: Any, dtype: torch.dtype) -> dict[str, float | None]:
    """The check of a loaded model, for the manifest: max_difference (nats), scale and soft_cap.

    dtype: of the computation; call it under its autocast. Raises: ConfigError with the model's
    class where the fast head gives other log-probabilities than the model.
    """
    token_ids = tokenizer("What is 1 + 1? It is 2.", add_special_tokens=False)["input_ids"]
    error = head_error(causal_lm, (token_ids or [0])[:NUM_TOKENS])
    tolerance = TOLERANCE if dtype == torch.float32 else HALF_TOLERANCE
    if not error <= tolerance:  # so written, nan is refused too
        raise ConfigError(
            f"model.path: {type(causal_lm).__name__} does more to its logits than is known here:"
            f" its own log-probabilities differ by {error:.3g} nats from the trainer's (tolerance"
            f" {tolerance:g}); take another model, or add what it does to rlvr/policy/logits.py"
        )
    known = transform_of(causal_lm)
    return {"max_difference": error, "scale": known.scale, "soft_cap": known.cap}
