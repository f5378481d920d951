"""Curvature of real losses against dense Hessians of log_softmax on plain transformers logits.

Nothing here but the loading of a checkpoint goes through the code under test: one row at a time,
without padding, eager attention, float64, forward over reverse mode.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import scipy.sparse.linalg
import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM, Gemma2Config, Gemma2ForCausalLM

from rlvr.analysis.curvature import token_losses
from rlvr.analysis.trained import curvature, load_trained
from rlvr.compare.learning_rate.curvature import largest_eigenvalue
from rlvr.config.train import AdapterConfig
from rlvr.policy.packing import TokenRow
from rlvr.policy.policy import load_policy

ROWS = [
    TokenRow([5, 9, 30, 11], [40, 50, 60]),
    TokenRow([6, 9], [41, 50, 62, 7, 8]),
    TokenRow([7, 9, 31], [42]),
]


class PlainLoss:
    """Mean negative log-probability of the response tokens, as a function of chosen weights."""

    def __init__(self, model: Any, chosen: str, rows: Sequence[TokenRow]) -> None:
        self._model, self._rows = model.double().eval().requires_grad_(False), rows
        named = {n: p.detach() for n, p in model.named_parameters() if chosen in n}
        self._shapes = {name: value.shape for name, value in named.items()}
        self.start = torch.cat([value.reshape(-1) for value in named.values()])

    def __call__(self, flat: Tensor) -> Tensor:
        sizes = [shape.numel() for shape in self._shapes.values()]
        pieces = zip(self._shapes.items(), flat.split(sizes), strict=True)
        weights = {name: piece.view(shape) for (name, shape), piece in pieces}
        terms = []
        for row in self._rows:
            ids = torch.tensor([row.prompt_ids + row.response_ids])
            out = torch.func.functional_call(
                self._model, weights, (), {"input_ids": ids, "use_cache": False}
            )
            logp = torch.log_softmax(out.logits[0, -len(row) :], dim=-1)
            first = len(row.prompt_ids)
            terms += [logp[first - 1 + t, token] for t, token in enumerate(row.response_ids)]
        return -torch.stack(terms).mean()

    def top_of_dense(self) -> float:
        hessian: Any = torch.autograd.functional.hessian(
            self, self.start, vectorize=True, outer_jacobian_strategy="forward-mode"
        )
        return float(torch.linalg.eigvalsh(hessian)[-1])

    def top_by_arpack(self) -> float:
        """For spaces whose Hessian does not fit."""
        size = len(self.start)

        def product(vector: np.ndarray) -> np.ndarray:
            tangent = torch.from_numpy(vector.reshape(-1).copy())
            return torch.func.jvp(torch.func.grad(self), (self.start,), (tangent,))[1].numpy()

        arpack: Any = scipy.sparse.linalg
        operator = arpack.LinearOperator((size, size), matvec=product, dtype=float)
        found = arpack.eigsh(operator, k=1, which="LA", tol=1e-3, return_eigenvectors=False)
        return float(found[0])


def plain(folder: Any) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")


@pytest.fixture(scope="module")
def lora(real_logits_policy, make_recipe, tmp_path_factory):
    """(recipe, folder) of a rank-1 LoRA on q_proj at its start and moved away from it."""
    adapter = {"method": "lora", "rank": 1, "target_modules": ["q_proj"]}
    recipe = make_recipe(model={"path": str(real_logits_policy)}, adapter=adapter)
    folders = [tmp_path_factory.mktemp(name) for name in ("start", "moved")]
    policy = load_policy(recipe.model, recipe.adapter, str(real_logits_policy), 0, False)
    policy.save(folders[0])
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in policy.trainable:
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    policy.save(folders[1])
    return recipe, *folders


@pytest.mark.parametrize("size", [12, 4096])
def test_analyses_curvature_of_an_adapter_equals_the_dense_hessian(
    lora, real_logits_policy, monkeypatch, size
):
    monkeypatch.setattr("rlvr.analysis.trained.TOKENS_AT_A_TIME", size)
    folder = lora[2]
    found = curvature(load_trained(folder, real_logits_policy), ROWS)
    assert found["unconverged"] == []
    model = PeftModel.from_pretrained(plain(real_logits_policy), folder)
    expected = {
        f"model.layers.{i}.self_attn.q_proj": PlainLoss(
            model, f"layers.{i}.self_attn.q_proj.lora", ROWS
        )
        for i in range(3)
    }
    assert found["modules"] == pytest.approx(
        {name: loss.top_of_dense() for name, loss in expected.items()}, rel=0.02
    )
    assert found["whole"] == pytest.approx(PlainLoss(model, "lora", ROWS).top_of_dense(), rel=0.02)


def test_analyses_curvature_of_full_weights_equals_that_of_the_plain_loss(real_logits_policy):
    found = curvature(load_trained(real_logits_policy, real_logits_policy), ROWS, layers=[1])
    for kind in ("self_attn.q_proj", "mlp.down_proj"):
        loss = PlainLoss(plain(real_logits_policy), f"layers.1.{kind}.weight", ROWS)
        name = f"model.layers.1.{kind}"
        assert found["modules"][name] == pytest.approx(loss.top_by_arpack(), rel=0.02)


def test_the_priors_eigenvalue_equals_the_dense_hessian(lora, real_logits_policy):
    recipe, folder, _ = lora
    model = PeftModel.from_pretrained(plain(real_logits_policy), folder)
    expected = PlainLoss(model, "lora", ROWS).top_of_dense()
    assert largest_eigenvalue(recipe, ROWS) == pytest.approx(expected, rel=0.02)


def test_a_model_that_transforms_its_logits_has_the_curvature_of_its_own(
    tiny_policy, make_recipe, tmp_path
):
    """Gemma 2's soft cap: a loss on head times hidden state would not know of it."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_policy)
    config = Gemma2Config(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, head_dim=16, final_logit_softcapping=2.0,
        initializer_range=0.3, max_position_embeddings=256,
    )  # fmt: skip
    torch.manual_seed(0)
    Gemma2ForCausalLM(config).save_pretrained(tmp_path / "gemma")
    tokenizer.save_pretrained(tmp_path / "gemma")
    found = curvature(load_trained(tmp_path / "gemma", tmp_path / "gemma"), ROWS, layers=[1])
    name = "model.layers.1.mlp.down_proj"
    loss = PlainLoss(plain(tmp_path / "gemma"), f"{name}.weight", ROWS)
    assert found["modules"][name] == pytest.approx(loss.top_by_arpack(), rel=0.02)


@pytest.mark.parametrize("method", ["prompt_tuning", "prefix_tuning"])
def test_trained_positions_are_part_of_the_loss(tiny_policy, make_recipe, method):
    """By peft's own forward, which puts them before the text itself."""
    recipe = make_recipe()
    policy = load_policy(recipe.model, AdapterConfig(method=method), str(tiny_policy), 0, False)
    found = sum(float(loss()) for loss in token_losses(policy, ROWS, 12))
    chosen = PlainLoss(policy.model, "prompt_encoder", ROWS)
    assert found == pytest.approx(float(chosen(chosen.start)), rel=1e-5)


def test_the_fast_head_refuses_a_second_derivative(tiny_policy, make_recipe):
    """Also where the upstream gradient is a constant, as that of a sum is."""
    recipe = make_recipe(adapter={"method": "lora", "rank": 1})
    policy = load_policy(recipe.model, recipe.adapter, str(tiny_policy), 0, False)
    loss = policy.logprobs(ROWS, 1.0)[0].sum()
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(loss, policy.trainable, create_graph=True)
