"""Spectra on matrices made for the answer."""

import math

import pytest
import torch
from torch import Tensor

from rlvr.analysis.spectrum import (
    energy_along,
    entry_facts,
    module_facts,
    principal_angles,
    rank_for_energy,
    stable_rank,
    svd,
    svd_of_product,
    svd_of_update,
)
from rlvr.analysis.stream import Update

NAME = "model.layers.3.self_attn.q_proj.weight"


def orthonormal(size: int, columns: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(size, columns, generator=generator)).Q


def base_matrix(rows: int = 24, columns: int = 16) -> tuple[Tensor, Tensor, Tensor]:
    """W = U diag(16, 15, ..., 1) V^T with its directions U, V."""
    u, v = orthonormal(rows, columns, 1), orthonormal(columns, columns, 2)
    return u @ torch.diag(torch.arange(columns, 0, -1.0)) @ v.T, u, v


def facts(before: Tensor, dense: Tensor | None = None, factors=None) -> dict:
    update = Update(NAME, before, dense, factors)
    return module_facts(update, svd(before), svd_of_update(update))


@pytest.mark.parametrize(
    ("singular", "rank90", "stable"),
    [
        ([1.0] * 10, 9, 10.0),
        ([3.0, 1.0], 1, 10 / 9),  # 9 of 10: exactly 90%
        ([1.0, 0, 0], 1, 1.0),
        ([2.0, 2.0, 1.0, 1.0, 1.0], 4, 11 / 4),  # 8, 9, 10 of 11
        ([0.0, 0.0], 0, 0.0),
    ],
)
def test_ranks_by_hand(singular, rank90, stable):
    assert rank_for_energy(torch.tensor(singular)) == rank90
    assert stable_rank(torch.tensor(singular)) == pytest.approx(stable)


def test_the_spectrum_of_factors_is_that_of_their_product():
    a, b = torch.randn(4, 30), torch.randn(50, 4)
    short, full = svd_of_product(a, b), svd(b @ a)
    assert torch.allclose(short.s, full.s[:4], rtol=1e-4)
    assert torch.allclose(short.u @ torch.diag(short.s) @ short.v.T, b @ a, atol=1e-4)
    assert max(principal_angles(short.u, full.u[:, :4])) < 0.1


def test_factors_of_more_directions_than_the_matrix_has_are_multiplied_out():
    a, b = torch.randn(9, 6), torch.randn(8, 9)
    found = svd_of_update(Update(NAME, torch.zeros(8, 6), factors=(a, b)))
    assert torch.allclose(found.s, torch.linalg.svdvals(b @ a), rtol=1e-4)


def test_an_update_along_one_chosen_direction_has_its_energy_there():
    before, u, v = base_matrix()
    for chosen in (0, 7, 15):
        energy = energy_along(svd(before), 0.3 * torch.outer(u[:, chosen], v[:, chosen]))
        expected = torch.zeros(16)
        expected[chosen] = 1
        assert torch.allclose(energy, expected, atol=1e-4)


def test_an_update_between_directions_has_no_energy_along_any():
    before, u, v = base_matrix()
    energy = energy_along(svd(before), torch.outer(u[:, 0], v[:, 5]))
    assert float(energy.max()) < 1e-6


def test_a_pissa_like_update_is_at_the_top_and_a_milora_like_one_at_the_bottom():
    before, u, v = base_matrix()
    top = facts(before, u[:, :2] @ v[:, :2].T)
    bottom = facts(before, u[:, -2:] @ v[:, -2:].T)
    assert top["energy_top10"] == pytest.approx(1, abs=1e-4)
    assert bottom["energy_top10"] == pytest.approx(0, abs=1e-4)
    assert top["energy"][0] == [0.0, 0.0]
    assert top["energy"][-1] == pytest.approx([1.0, 1.0], abs=1e-4)
    assert max(top["principal_angles_deg"]) < 0.1
    assert min(bottom["principal_angles_deg"]) > 89.9
    assert min(bottom["principal_angles_in_deg"]) > 89.9
    assert (top["rank90"], len(top["principal_angles_deg"])) == (2, 2)


@pytest.mark.parametrize("degrees", [0.0, 1e-3, 1.0, 30.0, 60.0, 89.0, 90.0])
def test_principal_angles_of_a_rotated_plane(degrees):
    e = torch.eye(6)
    angle = math.radians(degrees)
    turned = torch.stack([e[:, 0], math.cos(angle) * e[:, 1] + math.sin(angle) * e[:, 2]], dim=1)
    found = principal_angles(e[:, :2], turned)
    assert found.tolist() == pytest.approx([0.0, degrees], abs=2e-4)


def test_several_angles_come_out_together_in_order():
    e = torch.eye(9)
    angles = [10.0, 40.0, 80.0]
    turned = torch.stack(
        [
            math.cos(math.radians(t)) * e[:, i] + math.sin(math.radians(t)) * e[:, 3 + i]
            for i, t in enumerate(angles)
        ],
        dim=1,
    )
    mixed = turned @ orthonormal(3, 3)  # another basis of the same space
    assert principal_angles(e[:, :3], mixed).tolist() == pytest.approx(angles, abs=1e-3)
    assert principal_angles(e[:, :3], e[:, 6:]).tolist() == pytest.approx([90.0] * 3)


def test_entries_below_a_bfloat16_step_do_not_change():
    """Next to 1, bfloat16 steps are 2^-7: half a step and less is rounded away."""
    before = torch.ones(2, 4).bfloat16()
    delta = torch.tensor([[0.0, 1e-6, 2**-9, 2**-8], [2**-7, 0.01, 1.0, -1.0]])
    found = entry_facts(Update(NAME, before, dense=delta))
    assert found["changed_bf16_frac"] == 4 / 8
    assert found["sparsity"] == 2 / 8
    assert found["norm"] == pytest.approx(float(delta.norm()))
    assert found["relative_norm"] == pytest.approx(float(delta.norm()) / math.sqrt(8))
    assert (found["layer"], found["kind"], found["shape"]) == (3, "q_proj", [2, 4])


def test_splitting_into_rows_changes_nothing(monkeypatch):
    import rlvr.analysis.spectrum as spectrum

    update = Update(NAME, torch.randn(10, 7), dense=torch.randn(10, 7) * 1e-2)
    whole = entry_facts(update)
    monkeypatch.setattr(spectrum, "ROWS_AT_A_TIME", 3)
    split = entry_facts(update)
    assert split.pop("relative_norm") == pytest.approx(whole.pop("relative_norm"))
    assert split == whole


def test_an_update_of_zero_is_no_error():
    before, _, _ = base_matrix()
    found = facts(before, torch.zeros(24, 16))
    assert (found["rank90"], found["stable_rank"], found["energy_top10"]) == (0, 0.0, 0.0)
    assert found["principal_angles_deg"] == []
    assert found["changed_bf16_frac"] == 0
