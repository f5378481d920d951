"""Log-probabilities and entropies from hidden states, without a [T, V] tensor for more than a
chunk."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

CHUNK_ELEMENTS = {"cpu": 1 << 20, "cuda": 1 << 27}
"""Logits held at a time: 4 MiB in float32 stay near a core, 512 MiB keep a GPU busy."""
MIN_CHUNK_LEN = 128
"""Tokens of a chunk at least, so that reading a large head pays."""
BLOCK_ROWS = 4096
"""Rows of a 16-bit head that are held in float32 at a time, on a CPU."""


@dataclass(frozen=True, slots=True)
class LogitTransform:
    """What a model does to its head's outputs x: logits = cap tanh(scale x / cap), scale x where
    cap is None. num_tokens: outputs that are tokens, the first ones; None: all."""

    scale: float = 1.0
    cap: float | None = None
    num_tokens: int | None = None

    def __call__(self, outputs: Tensor) -> Tensor:
        """Logits of [..., outputs], differentiable."""
        logits = outputs[..., : self.num_tokens] * self.scale
        return logits if self.cap is None else self.cap * torch.tanh(logits / self.cap)

    def overwrite(self, outputs: Tensor) -> tuple[Tensor, Tensor | None]:
        """(logits, d logits / d outputs divided by scale, None where it is 1); without a graph,
        outputs are overwritten."""
        if self.scale != 1:
            outputs.mul_(self.scale)
        if self.cap is None:
            return outputs, None
        bent = outputs.div_(self.cap).tanh_()
        return bent * self.cap, bent.square_().neg_().add_(1)


PLAIN = LogitTransform()


def head_outputs(hidden_TH: Tensor, head: nn.Module) -> Tensor:
    """[T, outputs] of a head in float32, differentiable.

    What a linear head adds up stays in float32: 16 bits have steps of 0.125 among logits of 16 to
    32. A head with an adapter rounds as its own layers do.
    """
    device = hidden_TH.device.type
    if type(head) is nn.Linear and torch.is_autocast_enabled(device):
        hidden_TH = hidden_TH.to(torch.get_autocast_dtype(device))
    if type(head) is not nn.Linear or hidden_TH.dtype == torch.float32:
        return head(hidden_TH).float()
    outputs_TV: Any = _Float32Product.apply(hidden_TH, head.weight)
    return outputs_TV if head.bias is None else outputs_TV + head.bias.float()


class _Float32Product(torch.autograd.Function):
    """`float32_product` with the head's weight in the hidden states' type; each gradient has the
    type of what it is for."""

    @staticmethod
    def forward(ctx: Any, hidden_TH: Tensor, weight_VH: Tensor) -> Tensor:
        ctx.save_for_backward(hidden_TH, weight_VH)
        return float32_product(hidden_TH, weight_VH.to(hidden_TH.dtype))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None]:
        hidden_TH, weight_VH = ctx.saved_tensors
        grad_TV = grads[0].to(hidden_TH.dtype)
        to_hidden, to_weight = ctx.needs_input_grad
        return (
            grad_TV @ weight_VH.to(hidden_TH.dtype) if to_hidden else None,
            (grad_TV.T @ hidden_TH).to(weight_VH.dtype) if to_weight else None,
        )


@torch.no_grad()
def float32_product(hidden_TH: Tensor, weight_VH: Tensor) -> Tensor:
    """[T, V] hidden weight^T, added up and kept in float32. Both have one type; the products of
    16-bit numbers are exact."""
    if hidden_TH.dtype == torch.float32:
        return hidden_TH @ weight_VH.T
    with torch.autocast(hidden_TH.device.type, enabled=False):
        if hidden_TH.is_cuda:  # the same tensor cores, without the last rounding
            return torch.mm(hidden_TH, weight_VH.T, out_dtype=torch.float32)
        wide_TH = hidden_TH.float()
        out_TV = wide_TH.new_empty(len(wide_TH), len(weight_VH))
        for out_TB, rows_BH in zip(
            out_TV.split(BLOCK_ROWS, dim=1), weight_VH.split(BLOCK_ROWS), strict=True
        ):
            torch.mm(wide_TH, rows_BH.float().T, out=out_TB)
        return out_TV


def token_logprobs(
    hidden_TH: Tensor,
    head: nn.Module,
    targets_T: Tensor,
    temperature: float,
    vocab_size: int,
    entropy_grad: bool = False,
    chunk_len: int | None = None,
    transform: LogitTransform = PLAIN,
) -> tuple[Tensor, Tensor]:
    """[T] log-probability of each target and [T] entropy (nats), float32.

    The head is evaluated chunk by chunk, chunk_len tokens at a time (None: by vocab_size and
    device). Entropies carry a gradient only with entropy_grad. transform: from the head's outputs
    to logits.
    """
    if chunk_len is None:
        elements = CHUNK_ELEMENTS.get(hidden_TH.device.type, CHUNK_ELEMENTS["cpu"])
        chunk_len = max(MIN_CHUNK_LEN, elements // vocab_size)
    # a subclass, such as an adapter's layer, computes something else
    if type(head) is nn.Linear and head.bias is None and not entropy_grad:
        weight_grad = torch.is_grad_enabled() and head.weight.requires_grad
        hidden_grad = torch.is_grad_enabled() and hidden_TH.requires_grad
        device = hidden_TH.device.type
        if torch.is_autocast_enabled(device):
            # out here, where autograd casts the gradient back
            hidden_TH = hidden_TH.to(torch.get_autocast_dtype(device))
        settings = (temperature, chunk_len, transform, hidden_grad, weight_grad)
        weight_VH = head.weight
        if transform.num_tokens is not None:
            weight_VH = weight_VH[: transform.num_tokens]
        return _PlainHead.apply(hidden_TH, weight_VH, targets_T, *settings)  # pyright: ignore
    settings = (temperature, entropy_grad, transform)
    # a checkpoint, as autograd would keep the logits of every chunk until the backward pass
    parts = [
        _chunk(hidden_CH, head, targets_C, *settings)
        if len(hidden_TH) <= chunk_len or not torch.is_grad_enabled()
        else checkpoint(_chunk, hidden_CH, head, targets_C, *settings, use_reentrant=False)
        for hidden_CH, targets_C in zip(
            hidden_TH.split(chunk_len), targets_T.split(chunk_len), strict=True
        )
    ]
    return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])


def _chunk(
    hidden_CH: Tensor,
    head: nn.Module,
    targets_C: Tensor,
    temperature: float,
    entropy_grad: bool,
    transform: LogitTransform,
) -> tuple[Tensor, Tensor]:
    """The general case: any head, differentiated by autograd."""
    logits_CV = transform(head_outputs(hidden_CH, head)) / temperature
    log_z_C = logits_CV.logsumexp(dim=-1)
    logp_C = logits_CV.gather(1, targets_C.unsqueeze(1)).squeeze(1) - log_z_C
    with torch.set_grad_enabled(entropy_grad and torch.is_grad_enabled()):
        probs_CV = (logits_CV - log_z_C.unsqueeze(1)).exp()
        # H = log Z - E[logit]
        entropy_C = log_z_C - (probs_CV * logits_CV).sum(dim=-1)
    return logp_C, entropy_C


class _PlainHead(torch.autograd.Function):
    """A linear head without bias: each token's gradient is its upstream number times a vector.

    With e the one-hot target, p the probabilities and d the slopes of the logits over the head's
    outputs, the forward pass forms d logp / d hidden = W^T (d (e - p)) / temperature from p. Logits
    are computed again in the backward pass only where the head's own weight is trained.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden_TH: Tensor,
        weight_VH: Tensor,
        targets_T: Tensor,
        temperature: float,
        chunk_len: int,
        transform: LogitTransform,
        hidden_grad: bool,
        weight_grad: bool,
    ) -> tuple[Tensor, Tensor]:
        device = hidden_TH.device.type
        parts = []
        with torch.autocast(device, enabled=False):
            compute_VH = weight_VH.to(hidden_TH.dtype)
            for hidden_CH, targets_C in zip(
                hidden_TH.split(chunk_len), targets_T.split(chunk_len), strict=True
            ):
                logp_CV, bend_CV = _log_softmax(hidden_CH, compute_VH, temperature, transform)
                target_C1 = targets_C.unsqueeze(1)
                logp_C = logp_CV.gather(1, target_C1).squeeze(1)
                probs_CV = logp_CV.exp()
                # in place: logp_CV is not read again, and [C, V] tensors are what fills the memory
                entropy_C = -logp_CV.mul_(probs_CV).sum(dim=-1)
                slope_CH = hidden_CH.new_empty(len(hidden_CH), 0)
                if hidden_grad:
                    # negative: `_slope` has p - e, and the gradient of logp e - p
                    factor = -temperature / transform.scale
                    slope_CH = _slope(probs_CV, target_C1, compute_VH, factor, bend_CV)
                parts.append((logp_C, entropy_C, slope_CH))
        logp_T, entropy_T, slope_TH = (torch.cat(part) for part in zip(*parts, strict=True))
        # with a frozen head its slopes are all that the backward pass needs
        ctx.save_for_backward(slope_TH, *((hidden_TH, weight_VH, targets_T) * weight_grad))
        ctx.settings = temperature, chunk_len, transform
        ctx.grads = hidden_grad, weight_grad
        ctx.mark_non_differentiable(entropy_T)
        return logp_T, entropy_T

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        # torch's once_differentiable lets a constant upstream gradient through, as of a plain sum
        if torch.is_grad_enabled():
            raise RuntimeError(
                "token_logprobs has no second derivative: its slopes are kept as numbers; take the"
                " loss from the model's own logits (rlvr.analysis.curvature.token_losses)"
            )
        grad_T = grads[0].unsqueeze(1)
        slope_TH, *rest = ctx.saved_tensors
        hidden_grad, weight_grad = ctx.grads
        to_hidden = slope_TH * grad_T.to(slope_TH.dtype) if hidden_grad else None
        to_weight = None
        if weight_grad:
            kept_TH, weight_VH, targets_T = rest
            to_weight = _weight_gradient(kept_TH, weight_VH, targets_T, grad_T, *ctx.settings)
        return to_hidden, to_weight, None, None, None, None, None, None


def _log_softmax(
    hidden_CH: Tensor, weight_VH: Tensor, temperature: float, transform: LogitTransform
) -> tuple[Tensor, Tensor | None]:
    """([C, V] log-probabilities, [C, V] what a cap leaves of the outputs' slopes, if any)."""
    logits_CV, bend_CV = transform.overwrite(float32_product(hidden_CH, weight_VH))
    logits_CV.div_(temperature)
    return logits_CV.sub_(logits_CV.logsumexp(dim=-1, keepdim=True)), bend_CV


def _slope(
    probs_CV: Tensor, target_C1: Tensor, weight_VH: Tensor, divisor: float, bend_CV: Tensor | None
) -> Tensor:
    """[C, H] W^T (bend (p - e)) / divisor; overwrites probs_CV."""
    error_CV = probs_CV.scatter_add_(
        1, target_C1, torch.full_like(target_C1, -1, dtype=torch.float)
    )
    if bend_CV is not None:
        error_CV.mul_(bend_CV)
    return (error_CV.to(weight_VH.dtype) @ weight_VH).div_(divisor)


def _weight_gradient(
    hidden_TH: Tensor,
    weight_VH: Tensor,
    targets_T: Tensor,
    grad_T1: Tensor,
    temperature: float,
    chunk_len: int,
    transform: LogitTransform,
) -> Tensor:
    """[V, H] sum over tokens of grad d (e - p) hidden^T / temperature."""
    compute_VH = weight_VH.to(hidden_TH.dtype)
    total_VH = torch.zeros_like(weight_VH)
    for hidden_CH, targets_C, grad_C1 in zip(
        *(x.split(chunk_len) for x in (hidden_TH, targets_T, grad_T1)), strict=True
    ):
        scale_C1 = grad_C1.float() * transform.scale / temperature
        logp_CV, bend_CV = _log_softmax(hidden_CH, compute_VH, temperature, transform)
        error_CV = logp_CV.exp_().mul_(-scale_C1)
        error_CV.scatter_add_(1, targets_C.unsqueeze(1), scale_C1)
        if bend_CV is not None:
            error_CV.mul_(bend_CV)
        # addmm_ takes tensors of one type, and a float32 weight's gradient is summed in float32
        if total_VH.dtype == hidden_TH.dtype:
            total_VH.addmm_(error_CV.to(hidden_TH.dtype).T, hidden_CH)
        else:
            total_VH += error_CV.to(hidden_TH.dtype).T @ hidden_CH
    return total_VH
