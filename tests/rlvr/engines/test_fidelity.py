"""How much of an update the engine's type holds, what rounds it, and what the proof costs."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM

from rlvr.adapters import METHODS
from rlvr.adapters.base import Setup
from rlvr.adapters.merge import merged_weights
from rlvr.adapters.table import reference_shape
from rlvr.config.train import AdapterConfig
from rlvr.engines.server.engine import write_weights
from rlvr.engines.transformers import TransformersEngine
from rlvr.engines.weights import cast as cast_module
from rlvr.engines.weights.arrival import sent_names, sent_weights, whose_turn
from rlvr.engines.weights.cast import Cast, stochastic
from rlvr.engines.weights.fidelity import Merged, adapter_frac
from rlvr.engines.weights.fingerprint import Piece, digest, whole_piece
from rlvr.engines.weights.sync import Syncer
from rlvr.policy.policy import Policy, TokenRow, load_policy
from tests.rlvr.adapters import trained
from tests.rlvr.engines.engine_cases import PROMPTS

LR = 1e-5


class Files(TransformersEngine):
    """Keeps what it is given as a server does: in files, which it reads back in bfloat16."""

    name = "vllm_server"

    def __init__(self, policy: Policy, folder: Path) -> None:
        super().__init__(policy)
        self.folder, self.num_files = folder, 0

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> int:
        self.num_files += 1
        self._last = self.folder / str(self.num_files)
        self._last.mkdir(parents=True)
        return write_weights(weights, self._last)

    def held(self) -> dict[str, Tensor]:
        files = self._last.glob("*.safetensors")
        return {name: value for file in files for name, value in load_file(file).items()}

    def num_bytes(self) -> int:
        return sum(file.stat().st_size for file in self._last.glob("*.safetensors"))

    def read_back(self, names) -> dict[str, list[Piece]]:
        held = self.held()
        return {name: [whole_piece(held[name].bfloat16())] for name in names}


def a_policy(make_recipe, path, method: str = "lora", dtype: str = "bfloat16", **rollout):
    """(recipe, policy)."""
    adapter = {"method": method} | ({"rank": 4} if "rank" in METHODS[method].options else {})
    sections = {"model": {"path": str(path), "dtype": dtype}, "rollout": rollout}
    recipe = make_recipe(**sections)
    config = AdapterConfig(**adapter)
    return recipe, load_policy(recipe.model, config, recipe.model.path, 0, keep_reference=False)


def update(policy, steps: int = 1) -> None:
    optimizer = torch.optim.AdamW(policy.trainable, lr=LR)
    for _ in range(steps):
        policy.logprobs([TokenRow(p, p[::-1]) for p in PROMPTS], 1.0)[0].mean().backward()
        optimizer.step()
        optimizer.zero_grad()


def test_stochastic_rounding_takes_a_neighbour_and_the_mean_is_right(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    value = torch.randn(40, 50, generator=generator) * 0.02
    drawn = torch.stack([stochastic(value, seed).float() for seed in range(2000)])
    # the neighbours by other means than bits: the nearest one, and the next on the other side
    near = value.bfloat16()
    other = near.nextafter(torch.where(near.float() < value, torch.inf, -torch.inf).bfloat16())
    assert bool(((drawn == near.float()) | (drawn == other.float())).all())
    gap = (other.float() - near.float()).abs()
    error = (drawn.mean(dim=0) - value) / gap
    assert float(error.abs().max()) < 5 * 0.5 / 2000**0.5, "five standard errors"
    assert abs(float(error.mean())) < 5 * 0.5 / (2000 * value.numel()) ** 0.5
    # neighbouring numbers draw independently
    up = (drawn > value).float() - (drawn > value).float().mean(dim=0)
    assert abs(float((up[:, :, 1:] * up[:, :, :-1]).mean())) < 1e-3
    monkeypatch.setattr(cast_module, "CHUNK", 37)
    assert torch.equal(stochastic(value, 7).float(), drawn[7])


def test_what_bfloat16_holds_is_never_rounded():
    held = torch.randn(300, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert torch.equal(stochastic(held.float(), 3), held)
    special = torch.tensor([float("inf"), -float("inf"), float("nan"), 0.0, -0.0])
    for seed in range(50):
        given = stochastic(special, seed).float()
        assert torch.equal(given.nan_to_num(nan=9), special.nan_to_num(nan=9))
    assert stochastic(torch.zeros(0, 4), 0).shape == (0, 4)


def test_draws_are_those_of_seed_step_and_name():
    value = torch.randn(30, 30, generator=torch.Generator().manual_seed(0))
    cast = Cast(torch.bfloat16, "stochastic", seed=1, step=2)
    assert torch.equal(cast("a.weight", value), cast("a.weight", value.clone()))
    others = [
        cast("b.weight", value),
        Cast(torch.bfloat16, "stochastic", seed=1, step=3)("a.weight", value),
        Cast(torch.bfloat16, "stochastic", seed=2, step=2)("a.weight", value),
    ]
    assert not any(torch.equal(cast("a.weight", value), other) for other in others)


@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
@pytest.mark.parametrize("method", ["lora", "dora", "ia3", "ln_tuning", "full", "bitfit", "glora"])
def test_the_fraction_that_arrived_is_that_of_all_numbers(
    make_recipe, real_logits_policy, tmp_path, method, rounding
):
    """Against the norms over every number, of float32 weights and of the files that were written.
    The sample is smaller than the model's matrices."""
    recipe, policy = a_policy(
        make_recipe, real_logits_policy, method, sync_rounding=rounding, engine="vllm"
    )
    start = {n: v.float().clone() for n, v in merged_weights(policy.model, adapted=False)}
    engine = Files(policy, tmp_path)
    syncer = Syncer(recipe.rollout, policy, engine, "merged", PROMPTS)
    if rounding == "nearest":
        assert syncer.sync(0).arrived_frac == 1.0, "nothing was meant to change"
    update(policy, steps=3)
    found = syncer.sync(1).arrived_frac
    meant = sum(
        float((value.float() - start[name]).double().square().sum())
        for name, value in policy.engine_weights()
    )
    held = engine.held()
    arrived = sum(
        float((held[name].bfloat16() - start[name].bfloat16()).double().square().sum())
        for name in start
    )
    assert found == pytest.approx((arrived / meant) ** 0.5, rel=0.1, abs=1e-3)
    if rounding == "nearest" and method != "bitfit":  # these biases are 0 at the start
        assert found < 0.9, "some was rounded away"
    syncer.prove()


SYNCS = [(name, mode) for name, one in METHODS.items() for mode in one.syncs]


@pytest.mark.parametrize(("method", "mode"), SYNCS, ids="-".join)
def test_the_fraction_is_known_for_every_method_and_way(make_recipe, method, mode):
    """At step 0 and after an update, in bfloat16: a name that the start has not ends the run."""
    one = trained.make(make_recipe, method, "bfloat16")
    policy, merged = one.policy, Merged(one.policy) if mode == "merged" else None
    for _ in range(2):
        if merged is not None:
            given = dict(merged.watch(policy.engine_weights(), Cast(torch.bfloat16)))
            assert given.keys() == dict(policy.engine_weights()).keys()
        frac = adapter_frac(policy) if merged is None else merged.frac
        assert math.isfinite(frac)
        assert 0 <= frac < 2
        one.train(1)


def test_in_float32_and_with_the_trainers_own_weights_all_arrives(
    make_recipe, real_logits_policy, tmp_path
):
    for dtype, make in (
        ("float32", lambda policy: Files(policy, tmp_path)),
        ("bfloat16", TransformersEngine),
    ):
        recipe, policy = a_policy(make_recipe, real_logits_policy, dtype=dtype)
        syncer = Syncer(recipe.rollout, policy, make(policy), "merged", PROMPTS)
        update(policy)
        assert syncer._hand_over() is not None
        assert syncer.arrived_frac == 1.0


def test_servers_are_given_the_models_type(make_recipe, real_logits_policy, tmp_path):
    """Bytes on the disk, of full fine-tuning: two for each number."""
    recipe, policy = a_policy(make_recipe, real_logits_policy, "full")
    engine = Files(policy, tmp_path)
    stats = Syncer(recipe.rollout, policy, engine, "merged", PROMPTS).sync()
    numbers = [value.numel() for value in policy.trainable]
    vectors = [value.numel() for value in policy.trainable if value.ndim == 1]
    assert stats.num_bytes == 2 * sum(numbers) + 2 * sum(vectors), "few, and maybe wider there"
    assert engine.num_bytes() < 2.1 * sum(numbers)


def test_a_resumed_run_draws_the_same_rounding(make_recipe, real_logits_policy, tmp_path):
    settings = {"sync_rounding": "stochastic", "engine": "vllm"}
    recipe, policy = a_policy(make_recipe, real_logits_policy, **settings)
    engine = Files(policy, tmp_path / "whole")
    syncer = Syncer(recipe.rollout, policy, engine, "merged", PROMPTS, seed=5)
    update(policy)
    syncer.sync(1)
    first = engine.held()
    syncer.sync(2)
    second = engine.held()
    syncer.use(engine)  # another engine gets the weights of the last sync
    syncer.sync()
    again = engine.held()
    other = Files(policy, tmp_path / "resumed")
    Syncer(recipe.rollout, policy, other, "merged", PROMPTS, seed=5).sync(2)
    for name, value in second.items():
        assert torch.equal(other.held()[name], value)
        assert torch.equal(again[name], value)
    assert any(not torch.equal(first[name], value) for name, value in second.items())


class Bytes(TorchDispatchMode):
    """Counts the bytes that every operation reads and writes; views are free."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if any(a.alias_info and not a.alias_info.is_write for a in func._schema.returns):
            return out
        if func is torch.ops.aten.index.Tensor:  # reads what it picks
            args = (out, args[1])
        for value in (*args, *(out if isinstance(out, (tuple, list)) else (out,))):
            for one in value if isinstance(value, (tuple, list)) else (value,):
                if isinstance(one, Tensor):
                    self.total += one.numel() * one.element_size()
        return out


def policy_of_the_1_5b(method: str) -> Policy:
    """Without storage."""
    with torch.device("meta"):
        base: Any = AutoModelForCausalLM.from_config(reference_shape(), dtype=torch.bfloat16)
        config = AdapterConfig(method=method)
        model = METHODS[method].apply(base, Setup(config, seed=0))
    nothing: Any = None
    device, row = torch.device("meta"), METHODS[method]
    return Policy(model, nothing, torch.bfloat16, device, "", row, config)


def fingerprint_bytes() -> float:
    """Read and written per number of a large matrix."""
    matrix = torch.ones(512, 512, dtype=torch.bfloat16)
    with Bytes() as counted:
        digest(matrix)
    return counted.total / matrix.numel()


@pytest.mark.parametrize(
    ("method", "mode", "largest_turn"),
    [("lora", "adapter", 0.04), ("lora", "merged", 0.04), ("full", "merged", 0.16)],
)
def test_the_proof_of_a_step_of_the_1_5b_moves_few_bytes(method, mode, largest_turn):
    """All that both sides read and write for it, operation by operation, beside the sync itself and
    1,000 decoding steps, each of which reads every weight; R1's median response has 8,000."""
    policy, cast = policy_of_the_1_5b(method), Cast(torch.bfloat16)
    names, hashing = sent_names(policy, mode), fingerprint_bytes()

    def looked_at(modules) -> tuple[int, float]:
        """(numbers, bytes that move to compare them)."""
        with Bytes() as formed:
            sent = [value.numel() for _, value in sent_weights(policy, mode, modules, cast=cast)]
        # the engine forms fingerprints of its own numbers, the trainer of the policy's
        return sum(sent), formed.total + 2 * sum(sent) * hashing

    num_sent, whole = looked_at(list(names))
    handed_over = whole - 2 * num_sent * hashing
    step = handed_over + 1000 * 2 * sum(p.numel() for p in policy.causal_lm.parameters())
    turns = [looked_at(whose_turn(list(names), turn)) for turn in range(50)]
    assert max(cost for _, cost in turns) < 0.02 * step
    assert sum(numbers for numbers, _ in turns) == num_sent, "all of them in turn"
    assert max(numbers for numbers, _ in turns) < largest_turn * num_sent
    if mode == "merged":
        with Bytes() as measured:
            watched = Merged(policy).watch(policy.engine_weights(), cast)
            for _ in range(sum(map(len, names.values()))):
                next(watched)
        assert measured.total - handed_over < 0.02 * handed_over, "sync/arrived_frac"
