"""AdamW whose state lives in a low-rank projection of the gradient: GaLore and APOLLO."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from rlvr.common.seeds import sample_seed


class ProjectedAdamW(Optimizer):
    """AdamW; in groups with a `kind`, moments are kept for P g instead of g.

    A group's keys: kind "galore" (P from the gradient's singular vectors, recomputed every `every`
    updates; the step is scale P^T adam(P g); 2403.03507, algorithm 2) or "apollo" (P Gaussian,
    redrawn every `every` updates from `seed`; the step is g with each channel scaled by
    scale ||adam(P g)|| / ||P g||; 2412.05270, algorithm 1). rank: of P. P acts on the shorter side.
    """

    def __init__(
        self,
        params: Any,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, {**defaults, "kind": None})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One update of every parameter that has a gradient."""
        assert closure is None
        for group in self.param_groups:
            for number, p in enumerate(group["params"]):
                if p.grad is None:
                    continue
                # decay before the step, as torch's AdamW does
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.sub_(group["lr"] * self._direction(p, p.grad, group, number))

    def _direction(self, p: Tensor, grad: Tensor, group: dict[str, Any], number: int) -> Tensor:
        state = self.state[p]
        state["step"] = state.get("step", 0) + 1
        if group["kind"] is None:
            return self._adam(state, grad, group)
        wide = grad if grad.shape[0] <= grad.shape[1] else grad.T
        if (state["step"] - 1) % group["every"] == 0:
            # a seed of its own for each tensor and update: a resumed run draws the same P again
            seed = [group["seed"], number, state["step"]]
            state["projection"] = _projection(wide, group["kind"], group["rank"], seed)
        low = state["projection"] @ wide
        moved = self._adam(state, low, group)
        if group["kind"] == "galore":
            wide = group["scale"] * (state["projection"].T @ moved)
        else:
            # 1e-12: a channel without a gradient has a norm of 0
            wide = wide * (group["scale"] * moved.norm(dim=0) / low.norm(dim=0).clamp(min=1e-12))
        return wide if grad.shape[0] <= grad.shape[1] else wide.T

    def _adam(self, state: dict[str, Any], grad: Tensor, group: dict[str, Any]) -> Tensor:
        if "exp_avg" not in state:
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(grad), torch.zeros_like(grad)
        beta1, beta2 = group["betas"]
        state["exp_avg"].lerp_(grad, 1 - beta1)
        state["exp_avg_sq"].mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        mean = state["exp_avg"] / (1 - beta1 ** state["step"])
        return mean / ((state["exp_avg_sq"] / (1 - beta2 ** state["step"])).sqrt() + group["eps"])


def _projection(wide: Tensor, kind: str, rank: int, seed: list[int]) -> Tensor:
    """P [rank, rows] for a gradient [rows, columns]."""
    rank = min(rank, wide.shape[0])
    if kind == "galore":
        return torch.linalg.svd(wide.float(), full_matrices=False)[0][:, :rank].T.contiguous()
    # drawn on the CPU: the same P on every device
    generator = torch.Generator().manual_seed(sample_seed(*seed))
    # variance 1 / rank: P keeps the norm of a gradient on average
    return (torch.randn(rank, wide.shape[0], generator=generator) / rank**0.5).to(wide.device)
