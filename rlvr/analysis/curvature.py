"""The largest eigenvalue of a loss's Hessian, by Lanczos on Hessian-vector products.

A method's best learning rate falls as this eigenvalue rises (2602.04998), so it centres a search.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import Module, Parameter
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy

from rlvr.policy.packing import TokenRow, buckets

if TYPE_CHECKING:
    from rlvr.policy.language_model import LanguageModel

BREAKDOWN = 1e-6
"""A new direction shorter than this, relative to the eigenvalue, ends the iteration: the Krylov
space is exhausted and the value exact."""
MAX_LOGITS = 1 << 28
"""Logits of one part of a loss: 1 GiB in float32, of which the graph holds several copies."""


@dataclass(frozen=True, slots=True)
class Eigenvalue:
    """value: the largest (signed) eigenvalue; converged: the last two changes were within the
    tolerance, or the space was exhausted, before the iterations ran out."""

    value: float
    iterations: int
    converged: bool


def top_eigenvalue(
    loss: Callable[[], Tensor],
    params: Sequence[Parameter],
    max_iterations: int = 300,
    tolerance: float = 5e-3,
    seed: int = 0,
) -> Eigenvalue:
    """The largest eigenvalue of the Hessian of `loss()` over `params` jointly.

    loss is called once and its graph kept; it must be deterministic and twice differentiable.
    Attention inside it uses the math SDPA kernel, the only one that is twice differentiable.
    Memory: the graph of the loss and of its gradient, and one float32 copy of the parameters per
    iteration.
    tolerance: relative change of the value. seed: of the start vector.
    Raises: ValueError for parameters that are not float32.
    Source: 2602.04998, appendix on the Hessian. Deviations: the tolerance is relative (a loss may
    be in any unit), and two changes in a row must be within it.
    """
    return lanczos(hessian_product([loss], params), params, max_iterations, tolerance, seed)


def hessian_product(
    losses: Sequence[Callable[[], Tensor]], params: Sequence[Parameter]
) -> Callable[[Tensor], Tensor]:
    """v -> H v, where H is the Hessian of the sum of the losses over `params`, flattened.

    The graph of a single loss is kept between products. With several, each is built again and
    dropped for every product: memory is that of one.
    """
    for parameter in params:
        if parameter.dtype != torch.float32:
            raise ValueError(
                f"curvature: a parameter is {parameter.dtype}; Hessian-vector products need"
                " float32: load the model with it"
            )
    # one graph fits in memory and is built once; several are rebuilt for every product
    kept = [_gradient(losses[0], params)] if len(losses) == 1 else None

    def product(vector: Tensor) -> Tensor:
        total = torch.zeros_like(vector)
        for gradient in kept or (_gradient(loss, params) for loss in losses):
            total += _derivative(gradient, params, vector, keep=kept is not None)
        return total

    return product


def lanczos(
    product: Callable[[Tensor], Tensor],
    params: Sequence[Parameter],
    max_iterations: int = 300,
    tolerance: float = 5e-3,
    seed: int = 0,
) -> Eigenvalue:
    """The largest eigenvalue of the symmetric map `product` on vectors as long as `params`."""
    size = sum(p.numel() for p in params)
    device = params[0].device
    # drawn on CPU: a seed gives another vector on every device
    start = torch.randn(size, generator=torch.Generator().manual_seed(seed)).to(device)
    basis = [start / start.norm()]
    diagonal: list[float] = []
    beside: list[float] = []
    value, calm = float("inf"), 0
    for _ in range(min(max_iterations, size)):
        direction = product(basis[-1])
        diagonal.append(float(direction @ basis[-1]))
        before, value = value, _top_of_tridiagonal(diagonal, beside)
        calm = calm + 1 if abs(value - before) <= tolerance * abs(value) else 0
        # one pass leaves what rounding adds; a second removes it
        for _ in range(2):
            for known in basis:
                direction = direction - (direction @ known) * known
        length = float(direction.norm())
        if calm == 2 or length <= BREAKDOWN * max(abs(value), BREAKDOWN):
            return Eigenvalue(value, len(diagonal), True)
        beside.append(length)
        basis.append(direction / length)
    return Eigenvalue(value, len(diagonal), len(diagonal) == size)


def _top_of_tridiagonal(diagonal: list[float], beside: list[float]) -> float:
    # float64: neighbouring eigenvalues of a large Krylov space are close
    matrix = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
    if beside:
        off = torch.tensor(beside, dtype=torch.float64)
        matrix += torch.diag(off, 1) + torch.diag(off, -1)
    return float(torch.linalg.eigvalsh(matrix)[-1])


def _gradient(loss: Callable[[], Tensor], params: Sequence[Parameter]) -> tuple[Tensor, ...]:
    """The gradient with its own graph. Fused attention kernels have no second derivative."""
    with sdpa_kernel(SDPBackend.MATH), torch.enable_grad():
        return torch.autograd.grad(loss(), params, create_graph=True, materialize_grads=True)


def _derivative(
    gradient: Sequence[Tensor], params: Sequence[Parameter], vector: Tensor, keep: bool
) -> Tensor:
    """The gradient of (gradient . vector); parts of the gradient that are constant give nothing."""
    pieces = torch.split(vector, [p.numel() for p in params])
    terms = [
        (part * piece.view_as(part)).sum()
        for part, piece in zip(gradient, pieces, strict=True)
        if part.requires_grad
    ]
    if not terms:
        return torch.zeros_like(vector)
    # a second gradient of (gradient . vector) is H v without ever forming H
    rows = torch.autograd.grad(
        torch.stack(terms).sum(), params, retain_graph=keep, materialize_grads=True
    )
    return torch.cat([row.reshape(-1) for row in rows]).detach()


def token_losses(
    policy: LanguageModel, rows: Sequence[TokenRow], max_positions: int
) -> list[Callable[[], Tensor]]:
    """Parts whose sum is the mean negative log-probability of the rows' response tokens.

    From the model's own logits at temperature 1, twice differentiable: `policy.logprobs`, whose
    head forms its gradient by hand, is not. max_positions: of a part with its padding, or one row;
    fewer where the logits of so many would not fit. Rows that fit together are one part, in
    forward passes of nearly equal lengths.
    """
    num_tokens = sum(len(row.response_ids) for row in rows)
    limit = min(max_positions, MAX_LOGITS // policy.causal_lm.config.vocab_size)
    parts = buckets([len(row) for row in rows], limit)
    losses = [partial(_token_loss, policy, [rows[i] for i in part], num_tokens) for part in parts]
    if sum(len(part) * len(rows[part[0]]) for part in parts) <= limit:
        return [lambda: torch.stack([loss() for loss in losses]).sum()]
    return losses


def _token_loss(policy: LanguageModel, rows: Sequence[TokenRow], num_tokens: int) -> Tensor:
    """Negative log-probability of the rows' response tokens, over `num_tokens` of all parts."""
    ids, mask, before = _padded(rows)
    prefix = policy.prefix(len(rows))
    # prefix tuning's positions precede the prompt, and the mask has to cover them
    if prefix is not None:
        trained = torch.ones(len(rows), prefix.get_seq_length(), dtype=mask.dtype)
        mask = torch.cat([trained, mask], dim=1)
    with _head_at(policy.causal_lm.get_output_embeddings(), before.to(policy.device)):
        logits = policy.causal_lm(
            input_ids=ids.to(policy.device),
            attention_mask=mask.to(policy.device),
            past_key_values=prefix,
            use_cache=False,
        ).logits
    targets = torch.tensor([token for row in rows for token in row.response_ids])
    return cross_entropy(logits.float(), targets.to(logits.device), reduction="sum") / num_tokens


@contextmanager
def _head_at(head: Module, at: Tensor) -> Iterator[None]:
    """Inside the block the model's logits are [M, V], of the M positions in `at` [N, L] alone:
    prompts and padding have no loss."""
    hook = head.register_forward_pre_hook(lambda _, inputs: (inputs[0][at], *inputs[1:]))
    try:
        yield
    finally:
        hook.remove()


def _padded(rows: Sequence[TokenRow]) -> tuple[Tensor, Tensor, Tensor]:
    """[N, L] token ids, attention mask, and the positions before a response's tokens."""
    longest = max(len(row) for row in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    mask, before = torch.zeros_like(ids), torch.zeros_like(ids, dtype=torch.bool)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row.prompt_ids + row.response_ids)
        mask[i, : len(row)] = 1
        before[i, len(row.prompt_ids) - 1 : len(row) - 1] = True
    return ids, mask, before
