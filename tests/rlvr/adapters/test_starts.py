"""Starts of the factors against the papers' definitions, in float64 on the plain model's weights,
inputs and gradients: peft's own start of a method is not always the paper's."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from rlvr.adapters import METHODS
from rlvr.adapters.base import Setup
from rlvr.adapters.export import lora_layers
from rlvr.config.train import AdapterConfig

RANK, ALPHA = 4, 12.0
SCALING = ALPHA / RANK
TARGETS = ("q_proj", "o_proj", "down_proj")
# rows of unequal lengths are padded, and more of them than one batch
ROWS = [[7 + i + 3 * j for i in range(5 + j)] for j in range(11)]


def array(tensor):
    return tensor.detach().double().numpy()


@pytest.fixture
def started(tiny_policy):
    """{name: (A [r, I], B [O, r])} of a method at its start, which keeps the base's weights."""

    def start(method, seed=0, **given):
        config = AdapterConfig(
            method=method, rank=RANK, alpha=ALPHA, target_modules=TARGETS, **given
        )
        base = AutoModelForCausalLM.from_pretrained(tiny_policy)
        before = weights(tiny_policy)
        adapted = METHODS[method].apply(base, Setup(config, seed, rows=ROWS))
        layers = {
            name.removeprefix("base_model.model."): layer
            for name, layer in lora_layers(adapted).items()
        }
        assert layers.keys() == before.keys()
        for name, layer in layers.items():
            kept = layer.get_base_layer().weight
            assert np.array_equal(array(kept), before[name])
            assert kept.grad is None
            assert not kept.requires_grad
        return {
            name: (array(layer.lora_A["default"].weight), array(layer.lora_B["default"].weight))
            for name, layer in layers.items()
        }

    return start


def weights(folder):
    """{name: W [O, I]} of the targets, from a model of its own."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    return {
        name: array(module.weight)
        for name, module in model.named_modules()
        if name.rpartition(".")[2] in TARGETS
    }


def gradients(folder):
    """{name: gradient [O, I]} of the rows' mean token losses, added up row by row unpadded."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    for start in range(0, len(ROWS), 8):  # batches of 8 weigh their tokens alike
        batch = ROWS[start : start + 8]
        total = sum(len(row) - 1 for row in batch)
        for row in batch:
            ids = torch.tensor([row])
            logits = model(ids).logits[0, :-1]
            loss = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum")
            (loss / total).backward()
    return {name: array(model.get_submodule(name).weight.grad) for name in weights(folder)}


def inputs(folder):
    """{name: [inputs [T, I] of every row]}."""
    model, found = AutoModelForCausalLM.from_pretrained(folder), {}
    for name in weights(folder):
        model.get_submodule(name).register_forward_pre_hook(
            lambda _, args, name=name: found.setdefault(name, []).append(array(args[0][0]))
        )
    with torch.no_grad():
        for row in ROWS:
            model(torch.tensor([row]))
    return found


def projector(rows):
    """Onto the space of the rows [n, d]."""
    _, s, vh = np.linalg.svd(rows, full_matrices=False)
    assert s[-1] > 1e-6 * s[0]
    return vh.T @ vh


def close(found, expected, tolerance=1e-3):
    assert np.linalg.norm(found - expected) <= tolerance * np.linalg.norm(expected)


@pytest.mark.parametrize(
    ("method", "part"), [("pissa", slice(0, RANK)), ("milora", slice(-RANK, None))]
)
def test_triples_of_the_weight_are_shared_between_a_and_b(started, tiny_policy, method, part):
    found = started(method)
    for name, weight in weights(tiny_policy).items():
        u, s, vh = np.linalg.svd(weight, full_matrices=False)
        a, b = found[name]
        close(SCALING * b @ a, u[:, part] * s[part] @ vh[part])
        close(a @ a.T, np.diag(s[part] / SCALING))
        close(b.T @ b, np.diag(s[part] / SCALING))


def test_olora_starts_from_the_first_columns_of_q(started, tiny_policy):
    found = started("olora")
    for name, weight in weights(tiny_policy).items():
        q, r = np.linalg.qr(weight)
        a, b = found[name]
        close(b @ a, q[:, :RANK] @ r[:RANK])
        close(b.T @ b, np.eye(RANK))


def test_orthogonal_starts_with_a_product_of_zero(started):
    for a, b in started("orthogonal").values():
        assert np.abs(b @ a).max() < 1e-6 < min(np.abs(a).max(), np.abs(b).max())


def test_eva_starts_from_the_principal_components_of_the_inputs(started, tiny_policy):
    """Of the centred inputs, as in its authors' code; nearly, as each batch is cut to the rank."""
    found, seen = started("eva"), inputs(tiny_policy)
    for name, (a, b) in found.items():
        rows = np.concatenate(seen[name])
        rows -= rows.mean(0)
        most = (np.linalg.svd(rows, compute_uv=False)[:RANK] ** 2).sum()
        close(a @ a.T, np.eye(RANK))
        assert 0.9 < ((rows @ a.T) ** 2).sum() / most < 1.0001
        assert not b.any()


@pytest.mark.parametrize("mode", ["ipm", "kpm"])
def test_corda_starts_from_triples_of_the_weight_times_the_covariance(started, tiny_policy, mode):
    """Every row's inputs over their largest, and a hundredth of the mean variance on the diagonal,
    as in its authors' code."""
    found, seen = started("corda", corda={"mode": mode}), inputs(tiny_policy)
    part = slice(0, RANK) if mode == "ipm" else slice(-RANK, None)
    for name, weight in weights(tiny_policy).items():
        covariance = np.mean([(x / x.max()).T @ (x / x.max()) for x in seen[name]], axis=0)
        covariance += 0.01 * np.diag(covariance).mean() * np.eye(len(covariance))
        u, s, vh = np.linalg.svd(weight @ covariance, full_matrices=False)
        a, b = found[name]
        close(SCALING * b @ a @ covariance, u[:, part] * s[part] @ vh[part], 0.01)


FIRST, SECOND = range(RANK), range(RANK, 2 * RANK)
DIRECTIONS = {
    "ArB2r": (FIRST, SECOND),
    "A2rBr": (SECOND, FIRST),
    "ArBr": (range(1, 2 * RANK, 2), range(0, 2 * RANK, 2)),
}


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_lora_ga_starts_from_disjoint_singular_vectors_of_the_gradient(
    started, tiny_policy, direction
):
    """2407.05000, algorithm 1: both factors orthonormal times outputs^(1/4) / sqrt(gamma)."""
    found = started("lora_ga", lora_ga={"direction": direction, "stable_gamma": 9})
    of_a, of_b = DIRECTIONS[direction]
    for name, gradient in gradients(tiny_policy).items():
        u, _, vh = np.linalg.svd(gradient, full_matrices=False)
        a, b = found[name]
        square = len(gradient) ** 0.5 / 9
        close(a @ a.T, square * np.eye(RANK))
        close(b.T @ b, square * np.eye(RANK))
        close(projector(a), vh[of_a].T @ vh[of_a])
        close(projector(b.T), u[:, of_b] @ u[:, of_b].T)


def test_lora_ga_draws_disjoint_directions(started, tiny_policy):
    found = started("lora_ga", seed=3, lora_ga={"direction": "random"})
    taken = []
    for name, gradient in gradients(tiny_policy).items():
        u, _, vh = np.linalg.svd(gradient, full_matrices=False)
        a, b = found[name]
        of_a = np.abs(vh[: 2 * RANK] @ a.T).argmax(0)
        of_b = np.abs(u[:, : 2 * RANK].T @ b).argmax(0)
        assert {*of_a, *of_b} == set(range(2 * RANK))
        taken.append(tuple(of_a))
    assert len(set(taken)) > 1


@pytest.mark.parametrize("scale", ["unit", "gd_scale", "weight_svd"])
def test_lora_ga_scales_both_factors(started, tiny_policy, scale):
    found = started("lora_ga", lora_ga={"scale": scale})
    for name, weight in weights(tiny_policy).items():
        values = np.linalg.svd(weight, compute_uv=False)[:RANK]
        by = {"unit": 1, "gd_scale": 1 / SCALING, "weight_svd": np.sqrt(values / SCALING).mean()}
        a, b = found[name]
        close(a @ a.T, by[scale] ** 2 * np.eye(RANK))
        close(b.T @ b, by[scale] ** 2 * np.eye(RANK))
