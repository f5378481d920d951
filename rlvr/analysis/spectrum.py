"""Where in a weight matrix an update lies: its spectrum, and its place against the base's.

O outputs, I inputs: W and dW are [O, I].
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlvr.analysis.stream import Update

TOP = 8
"""Dimensions of the top subspaces whose principal angles are taken."""
NUM_SINGULAR_VALUES = 64
ENERGY_POINTS = 33
ROWS_AT_A_TIME = 4096
SPARSE_BELOW = 1e-5
"""An entry of an update that is no larger counts as not moved."""


@dataclass(frozen=True, slots=True)
class Svd:
    """Singular triples, largest first: u [O, k], s [k], v [I, k]."""

    u: Tensor
    s: Tensor
    v: Tensor


def svd(matrix: Tensor) -> Svd:
    """The exact decomposition of a dense matrix, in float32 or better."""
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    return Svd(u, s, vh.T)


def svd_of_product(a: Tensor, b: Tensor) -> Svd:
    """The exact decomposition of B A, at most r triples: A [r, I], B [O, r]."""
    # QR of the thin factors, then the SVD of an r x r matrix: O((O + I) r^2), not O(O I^2)
    left, right = torch.linalg.qr(b), torch.linalg.qr(a.T)
    small = svd(left.R @ right.R.T)
    return Svd(left.Q @ small.u, small.s, right.Q @ small.v)


def svd_of_update(update: Update) -> Svd:
    """The decomposition of the update, from its factors where it has few."""
    if update.factors is not None and len(update.factors[0]) < min(update.before.shape):
        return svd_of_product(*update.factors)
    return svd(update.delta())


def rank_for_energy(s: Tensor, energy: float = 0.9) -> int:
    """How many of the largest singular values hold this share of the sum of squares; 0 for zero.

    Source: 2405.09673, "perturbation rank".
    """
    squares = s.double() ** 2
    if not float(squares.sum()):
        return 0
    share = squares.cumsum(0) / squares.sum()
    # a cumulative sum may end a little below 1
    return int((share < energy - 1e-12).sum()) + 1


def stable_rank(s: Tensor) -> float:
    """||dW||_F^2 / ||dW||_2^2, between 1 and the rank; 0 for a zero matrix."""
    return float((s.double() ** 2).sum() / s[0].double() ** 2) if float(s[0]) else 0.0


def energy_along(base: Svd, delta: Tensor) -> Tensor:
    """[k] energies (u_i^T dW v_i)^2 / ||dW||_F^2 along the base's singular directions, largest
    first. They sum to 1 only when the update is diagonal in that basis."""
    # the diagonal of U^T dW V, without the rest of it
    diagonal = ((base.u.T @ delta) * base.v.T).sum(dim=1)
    total = (delta**2).sum()
    return diagonal**2 / total if float(total) else torch.zeros_like(diagonal)


def principal_angles(a: Tensor, b: Tensor) -> Tensor:
    """Angles in degrees between the spans of two sets of orthonormal columns, smallest first."""
    # the arc cosine alone loses small angles to rounding, the arc sine those near 90 degrees
    cosines = torch.linalg.svdvals(a.T @ b).clamp(max=1)
    sines = torch.linalg.svdvals(b - a @ (a.T @ b)).clamp(max=1).flip(0)[: len(cosines)]
    angles = torch.where(cosines**2 < 0.5, torch.arccos(cosines), torch.arcsin(sines))
    return torch.rad2deg(angles).sort().values


def changed_in_bfloat16(before: Tensor, delta: Tensor) -> int:
    """How many entries' bfloat16 value changes when the update is added."""
    return int(((before + delta).bfloat16() != before.bfloat16()).sum())


def entry_facts(update: Update) -> dict[str, Any]:
    """What needs no decomposition: shape, norms, share of entries moved."""
    delta = update.delta()
    norm, base_norm = float(delta.norm()), 0.0
    changed = still = 0
    # in blocks of rows: an embedding in float32 has several GB
    for b, d in zip(update.before.split(ROWS_AT_A_TIME), delta.split(ROWS_AT_A_TIME), strict=True):
        base_norm = math.hypot(base_norm, float(b.float().norm()))
        changed += changed_in_bfloat16(b.float(), d)
        still += int((d.abs() <= SPARSE_BELOW).sum())
    return {
        "name": update.name,
        "layer": update.layer,
        "kind": update.kind,
        "shape": list(delta.shape),
        "norm": norm,
        "relative_norm": norm / base_norm if base_norm else float(norm > 0),
        "changed_bf16_frac": changed / delta.numel(),
        "sparsity": still / delta.numel(),
    }


def module_facts(update: Update, base: Svd, found: Svd) -> dict[str, Any]:
    """An entry of analysis.json's "modules". base, found: decompositions of W and of dW."""
    energy = energy_along(base, update.delta())
    cumulative = energy.cumsum(0)
    size = len(energy)
    marks = sorted({round(i * size / (ENERGY_POINTS - 1)) for i in range(ENERGY_POINTS)} - {0})
    # beyond the update's own rank its singular vectors are arbitrary
    top = min(TOP, rank_for_energy(found.s, 1.0), size)
    return entry_facts(update) | {
        "rank90": rank_for_energy(found.s),
        "stable_rank": stable_rank(found.s),
        "energy": [[0.0, 0.0]] + [[mark / size, float(cumulative[mark - 1])] for mark in marks],
        "energy_top10": float(cumulative[max(round(0.1 * size), 1) - 1]),
        "principal_angles_deg": _angles(base.u, found.u, top),
        "principal_angles_in_deg": _angles(base.v, found.v, top),
        "singular_values": found.s[:NUM_SINGULAR_VALUES].tolist(),
    }


def _angles(base: Tensor, update: Tensor, top: int) -> list[float]:
    return principal_angles(base[:, :top], update[:, :top]).tolist() if top else []
