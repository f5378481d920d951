"""Weights that do not reach the engine are named, also where log-probabilities cannot show it."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from rlvr.config.toml import dump_toml
from rlvr.engines.server import handed
from rlvr.engines.server.engine import write_weights
from rlvr.engines.transformers import TransformersEngine
from rlvr.engines.vllm_local import VllmEngine
from rlvr.engines.weights.arrival import compare, expected, whose_turn
from rlvr.engines.weights.fingerprint import digest
from rlvr.engines.weights.sync import Syncer, SyncError
from rlvr.policy.policy import TokenRow, load_policy
from tests.rlvr.distributed.test_ranks import launch
from tests.rlvr.engines.engine_cases import PROMPTS
from tests.rlvr.engines.stale_rank import STALE
from tests.rlvr.small import read_lines

SQUARE, FUSED = "model.layers.1.self_attn.o_proj", "model.layers.0.self_attn.k_proj"
LR = 1e-5
Weights = dict[str, torch.Tensor]


@pytest.fixture(
    scope="module", params=["bfloat16", pytest.param("float32", marks=pytest.mark.slow)]
)
def recipe(request, make_recipe, real_logits_policy):
    return a_recipe(make_recipe, real_logits_policy, request.param)


def a_recipe(make_recipe, path, dtype: str):
    return make_recipe(model={"path": str(path), "dtype": dtype})


@pytest.fixture(scope="module")
def vllm_engine(recipe):
    engine = VllmEngine(recipe.model, recipe.rollout, recipe.model.path, max_lora_rank=8)
    yield engine
    engine.close()


def a_policy(recipe):
    return load_policy(recipe.model, recipe.adapter, recipe.model.path, 0, keep_reference=False)


def update(policy, prompts=PROMPTS) -> None:
    """One optimizer step at LR."""
    optimizer = torch.optim.AdamW(policy.trainable, lr=LR)
    policy.logprobs([TokenRow(p, p[::-1]) for p in prompts], 1.0)[0].mean().backward()
    optimizer.step()


@dataclass
class Versions:
    """What is handed over, by its names there: before the update, after it, and by another rank."""

    old: Weights
    new: Weights
    other: Weights


def of(weights: Weights, module: str) -> list[str]:
    return [name for name in weights if f"{module}." in name]


def nothing(_: Versions) -> tuple[Weights, str]:
    return {}, "ignored the whole update"


def missing(sent: Versions) -> tuple[Weights, str]:
    kept = sent.new.keys() - of(sent.new, SQUARE)
    return {name: sent.new[name] for name in sorted(kept)}, SQUARE


def stale(sent: Versions) -> tuple[Weights, str]:
    return sent.new | {name: sent.old[name] for name in of(sent.new, FUSED)}, FUSED


def transposed(sent: Versions) -> tuple[Weights, str]:
    names = of(sent.new, SQUARE)
    turned = [sent.new[name].t().contiguous() for name in names]
    return sent.new | dict(zip(names, reversed(turned), strict=True)), SQUARE


def scaled(sent: Versions) -> tuple[Weights, str]:
    """Twice the update: of a weight on top of the old one, of factors in B alone."""
    moved = {n: 2 * sent.new[n] - sent.old[n] for n in of(sent.new, FUSED) if "lora_A" not in n}
    return sent.new | moved, FUSED


def of_another_rank(sent: Versions) -> tuple[Weights, str]:
    return sent.other, "ignored the whole update"


FAULTS = (nothing, missing, stale, transposed, scaled, of_another_rank)


def handed_over(policy, mode: str, folder: Path) -> Weights:
    if mode == "merged":
        return {name: value.clone() for name, value in policy.engine_weights()}
    policy.save_adapter(folder)
    return load_file(folder / "adapter_model.safetensors")


def plant(engine, monkeypatch, mode: str, weights: Weights) -> None:
    """From now on the engine gets these weights, whatever is sent."""
    load_weights, load_adapter = engine.load_weights, engine.load_adapter

    def other_weights(_: Any) -> int:
        return load_weights(weights.items())

    def other_adapter(folder: Path) -> int:
        if not weights:
            return 0
        save_file(weights, folder / "adapter_model.safetensors")
        return load_adapter(folder)

    if mode == "merged":
        monkeypatch.setattr(engine, "load_weights", other_weights)
    else:
        monkeypatch.setattr(engine, "load_adapter", other_adapter)


def named(error: str) -> set[str]:
    """The modules in a message."""
    words = error.replace(",", " ").replace(":", " ").split()
    return {word for word in words if word.startswith("model.layers.")}


@pytest.mark.engine
@pytest.mark.parametrize("mode", ["merged", "adapter"])
@pytest.mark.parametrize("fault", FAULTS)
def test_what_did_not_reach_vllm_after_one_update_is_named(
    recipe, vllm_engine, monkeypatch, tmp_path, mode, fault: Callable[..., tuple[Weights, str]]
):
    policy, other = a_policy(recipe), a_policy(recipe)
    vllm_engine.drop_adapter()
    restore = {name: value.clone() for name, value in policy.engine_weights()}
    vllm_engine.load_weights(restore.items())
    syncer = Syncer(recipe.rollout, policy, vllm_engine, mode, PROMPTS)
    syncer.sync()
    old = handed_over(policy, mode, tmp_path / "old")
    update(policy)
    update(other, PROMPTS[2:])
    new = handed_over(policy, mode, tmp_path / "new")
    weights, place = fault(Versions(old, new, handed_over(other, mode, tmp_path / "other")))
    with monkeypatch.context() as planting:
        plant(vllm_engine, planting, mode, weights)
        with pytest.raises(SyncError) as caught:
            syncer.sync()
    if place.startswith("model."):
        assert named(str(caught.value)) == {place}
    else:
        assert place in str(caught.value)
        assert len(named(str(caught.value))) == 21, "seven linear modules in three layers"
    syncer.sync()
    vllm_engine.drop_adapter()
    vllm_engine.load_weights(restore.items())


@pytest.mark.engine
@pytest.mark.parametrize("mode", ["merged", "adapter"])
def test_what_a_folder_for_servers_says_is_what_vllm_holds_of_it(
    recipe, vllm_engine, tmp_path, mode
):
    """The proof of a server that comes back, for which the trainer's policy is too new."""
    policy = a_policy(recipe)
    vllm_engine.drop_adapter()
    restore = {name: value.clone() for name, value in policy.engine_weights()}
    update(policy)
    folder = tmp_path / "handed"
    if mode == "merged":
        folder.mkdir()
        write_weights(policy.engine_weights(), folder)
        vllm_engine.load_weights(policy.engine_weights())
    else:
        policy.save_for_engine(folder)
        vllm_engine.load_adapter(folder)
    names = handed.names(folder)
    assert len(names) == (30 if mode == "merged" else 42), "q, k and v have biases"
    held = vllm_engine.read_back(names)
    assert held.keys() == set(names)
    assert handed.differing(folder, held) == []
    (file,) = folder.glob("*.safetensors")
    weights = load_file(file)
    suffix = "weight" if mode == "merged" else "lora_B.weight"
    (changed,) = [name for name in weights if name.endswith(f"{FUSED}.{suffix}")]
    weights[changed][-1, -1] += 0.01
    save_file(weights, file)
    (named_one,) = handed.differing(folder, held)
    assert named_one.startswith(FUSED)
    assert handed.differing(folder, {}) == [], "a server without read-back proves nothing"
    vllm_engine.drop_adapter()
    vllm_engine.load_weights(restore.items())


@pytest.mark.slow
@pytest.mark.engine
def test_a_rank_that_feeds_its_part_of_a_shared_vllm_old_weights_is_noticed_by_all(
    make_recipe, real_logits_policy, tmp_path
):
    model = {"path": str(real_logits_policy), "dtype": "bfloat16"}
    recipe = make_recipe(model=model, rollout={"engine": "vllm", "tensor_parallel_size": 2})
    (tmp_path / "recipe.toml").write_text(dump_toml(recipe))
    done = launch("-m", "tests.rlvr.engines.stale_rank", tmp_path / "recipe.toml", tmp_path)
    assert done.returncode == 0, done.stderr[-4000:]
    for rank in (0, 1):
        seen = json.loads((tmp_path / f"{rank}.json").read_text())
        for mode in ("adapter", "merged"):
            assert {name.removeprefix("model.") for name in named(seen[mode])} == set(STALE)


def spoiled(policy, old, other, fault: Callable[..., Any]) -> Any:
    """A policy as an engine would hold it after the fault."""
    held = copy.deepcopy(policy)
    name = SQUARE if fault in (missing, transposed) else FUSED
    layer: Any
    before: Any
    layer, before = (p.model.get_submodule(f"base_model.model.{name}") for p in (held, old))
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    with torch.no_grad():
        if fault is nothing:
            return old
        if fault is of_another_rank:
            return other
        if fault in (missing, stale):
            b.copy_(before.lora_B["default"].weight)
        elif fault is transposed:
            a.data, b.data = b.t().clone(), a.t().clone()
        else:
            b.mul_(2)
    return held


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("mode", ["merged", "adapter"])
@pytest.mark.parametrize("fault", FAULTS)
def test_what_the_transformers_engine_holds_otherwise_is_named(
    make_recipe, real_logits_policy, dtype, mode, fault
):
    recipe = a_recipe(make_recipe, real_logits_policy, dtype)
    policy, other = a_policy(recipe), a_policy(recipe)
    old = copy.deepcopy(policy)
    update(policy)
    update(other, PROMPTS[2:])
    Syncer(recipe.rollout, policy, TransformersEngine(policy), mode, PROMPTS).sync()
    held = TransformersEngine(spoiled(policy, old, other, fault))
    with pytest.raises(SyncError) as caught:
        Syncer(recipe.rollout, policy, held, mode, PROMPTS).sync()
    if fault in (nothing, of_another_rank):
        assert "ignored the whole update" in str(caught.value)
    else:
        place = SQUARE if fault in (missing, transposed) else FUSED
        assert named(str(caught.value)) == {place}


@pytest.mark.engine
def test_every_weight_of_the_base_is_read_back_from_vllm_as_it_lies_on_the_disk(
    recipe, vllm_engine, real_logits_policy
):
    """Embedding, head, norms and biases too: read by their names, compared in plain torch."""
    vllm_engine.drop_adapter()
    on_disk = load_file(Path(real_logits_policy) / "model.safetensors")
    held = vllm_engine.read_back(list(on_disk))
    assert held.keys() == on_disk.keys()
    for name, value in on_disk.items():
        (piece,) = held[name]
        assert piece.is_of(value), name
        assert piece.dtype == recipe.model.dtype
        nudged = value.clone()
        nudged.view(-1)[-1] += 0.5
        assert not piece.is_of(nudged), name


def test_a_step_reads_a_fiftieth_and_fifty_steps_everything():
    modules = [f"m{i}" for i in range(196)]
    turns = [whose_turn(modules, step) for step in range(50)]
    assert max(map(len, turns)) == 4
    assert set().union(*turns) == set(modules)
    assert whose_turn(modules, 7) == turns[7], "a resumed run looks at the same"
    assert {name for step in range(3) for name in whose_turn(["a", "b", "c"], step)} == set("abc")
    assert whose_turn([], 4) == []


def test_a_stale_module_is_found_when_its_turn_comes(make_recipe, real_logits_policy):
    recipe = a_recipe(make_recipe, real_logits_policy, "bfloat16")
    policy = a_policy(recipe)
    engine = TransformersEngine(copy.deepcopy(policy))
    syncer = Syncer(recipe.rollout, policy, engine, "adapter", PROMPTS)
    syncer.sync()
    layer: Any = policy.model.get_submodule(f"base_model.model.{FUSED}")
    with torch.no_grad():
        layer.lora_B["default"].weight += LR
    found = []
    for step in range(21):
        try:
            syncer.sync(step)
        except SyncError as error:
            found.append((step, str(error)))
    assert len(found) == 1
    assert FUSED in found[0][1]
    with pytest.raises(SyncError, match=FUSED):
        syncer.prove()
    syncer.use(engine)
    with pytest.raises(SyncError, match=FUSED):
        syncer.sync(0)


@pytest.mark.slow
@pytest.mark.engine
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("mode", ["merged", "adapter"])
def test_200_honest_syncs_are_silent(recipe, vllm_engine, mode, capfd):
    policy = a_policy(recipe)
    vllm_engine.drop_adapter()
    vllm_engine.load_weights(policy.engine_weights())
    syncer = Syncer(recipe.rollout, policy, vllm_engine, mode, PROMPTS)
    optimizer = torch.optim.AdamW(policy.trainable, lr=LR)
    for step in range(200):
        policy.logprobs([TokenRow(p, p[::-1]) for p in PROMPTS], 1.0)[0].mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        syncer.sync(step)
    syncer.prove()
    vllm_engine.drop_adapter()
    vllm_engine.load_weights(a_policy(recipe).engine_weights())
    assert "sync:" not in capfd.readouterr().err


def test_fingerprints_differ_for_any_change_and_not_for_zeros_at_the_end():
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(48, 48, generator=generator)
    for value in (matrix, matrix.bfloat16(), matrix.half()):
        whole = digest(value)
        swapped = value[torch.arange(48).roll(1)]
        assert len({whole, digest(value.t()), digest(swapped), digest(2 * value)}) == 4
        assert digest(swapped, in_order=False) == digest(value, in_order=False)
        assert digest(value.t(), in_order=False) != digest(value, in_order=False)
        assert digest(torch.nn.functional.pad(value, (0, 5, 0, 3))) == whole
        for place in range(0, 48 * 48, 97):
            other = value.clone()
            bits = other.view(torch.int16 if value.element_size() == 2 else torch.int32)
            bits.view(-1)[place] ^= 1
            assert digest(other) != whole
    zeros = torch.zeros(3, 3)
    assert digest(-zeros) == digest(zeros) == 0


def test_conv1d_weights_are_compared_as_engines_hold_them():
    """GPT-2 keeps its weights transposed."""
    from transformers import GPT2Config, GPT2LMHeadModel

    from rlvr.engines.weights.arrival import sent_weights

    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=32, n_head=2, vocab_size=64))

    @dataclass
    class Held:
        model: Any

    found = dict(sent_weights(Held(model), "merged", ["transformer.h.0.mlp.c_fc"]))  # pyright: ignore
    assert found.keys() == {"transformer.h.0.mlp.c_fc.weight", "transformer.h.0.mlp.c_fc.bias"}
    own = model.get_parameter("transformer.h.0.mlp.c_fc.weight")
    assert torch.equal(found["transformer.h.0.mlp.c_fc.weight"], own.t())


@pytest.mark.parametrize(("shift", "is_said"), [(0.2, False), (0.3, True)])
def test_an_engine_that_drifts_away_with_the_right_weights_is_said_once(
    make_recipe, real_logits_policy, capfd, shift, is_said
):
    recipe = a_recipe(make_recipe, real_logits_policy, "bfloat16")
    policy, shifts = a_policy(recipe), iter([0.0, shift, shift])

    class Drifting(TransformersEngine):
        def score(self, sequences):
            by = next(shifts)
            return [[p + by for p in part] for part in super().score(sequences)]

    syncer = Syncer(recipe.rollout, policy, Drifting(policy), "merged", PROMPTS)
    for _ in range(3):
        syncer.sync()
    assert capfd.readouterr().err.count("have drifted apart") == is_said


def test_reading_back_nothing_is_said(make_recipe, real_logits_policy, capfd):
    recipe = a_recipe(make_recipe, real_logits_policy, "bfloat16")
    policy = a_policy(recipe)

    class Silent(TransformersEngine):
        def read_back(self, names):
            return {}

    for mode in ("merged", "none"):
        syncer = Syncer(recipe.rollout, policy, Silent(policy), mode, PROMPTS)
        syncer.sync()
        syncer.sync()
    said = capfd.readouterr().err
    assert said.count("does not let 21 of 21 modules be read back") == 1
    assert said.count("hands no weights over, so none are read back") == 1
    assert compare(expected(policy, "adapter"), Silent(policy)).differing == ()


def test_a_run_whose_engine_stays_behind_stops_with_a_checkpoint_that_goes_on(
    write_recipe, tmp_path
):
    from rich.console import Console

    from rlvr.config.toml import load_recipe
    from rlvr.config.train import TrainRecipe
    from rlvr.training.loop import resume, train

    quiet, run = Console(quiet=True), tmp_path / "runs" / "run"
    path = write_recipe(optim={"lr": LR}, train={"steps": 2})

    def stuck(_recipe, policy, _use_vllm, _mode) -> TransformersEngine:
        return TransformersEngine(copy.deepcopy(policy))

    with pytest.raises(SyncError, match="without its update"):
        train(load_recipe(path, [], TrainRecipe), path, quiet, stuck)
    assert [p.name for p in (run / "checkpoints").iterdir()] == ["step_1"]
    resume(run, quiet)
    assert [row["step"] for row in read_lines(run)] == [1, 2]
    assert len(list((run / "checkpoints").iterdir())) == 2
