"""Load, update, save and resume of every method on a device that refuses to meet the CPU."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rlvr.adapters import METHODS
from rlvr.algorithm.entropy_control import EntropyControl
from rlvr.config.train import AdapterConfig
from rlvr.data import word_problems
from rlvr.data.problems import encode_prompts, load_problems
from rlvr.engines.engine import Request, SamplingParams
from rlvr.engines.transformers import TransformersEngine
from rlvr.policy.policy import load_policy
from rlvr.policy.reference import (
    load_reference,
    prepare_reference,
    save_reference,
    update_reference,
)
from rlvr.runs.manifest import finish_manifest, manifest
from rlvr.sampling.rollouts import Group
from rlvr.training.batch import UpdateConfig, make_batch
from rlvr.training.update import update
from rlvr.warm_start import tiny_model as tiny
from tests.rlvr.adapters.trained import PROMPTS, settings, stop_and_resume
from tests.rlvr.second_device import CPU, DEVICE, SecondDevice, is_there

every_method = pytest.mark.parametrize("method", METHODS)


@pytest.fixture(scope="module")
def one_layer(tmp_path_factory) -> Path:
    """Folder of a Qwen2 with one layer."""
    folder = tmp_path_factory.mktemp("one_layer")
    texts = [row["problem"] for row in word_problems.generate("sft", 300, seed=0)]
    tokenizer = tiny.build_tokenizer(texts)
    tiny.build_model(tokenizer, seed=0, num_layers=1, hidden_size=64).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_the_second_device_refuses_what_cuda_refuses():
    with SecondDevice():
        here, there = torch.ones(2, 2), torch.ones(2, 2, device=DEVICE)
        for meet in (torch.add, torch.mm, Tensor.add_, lambda a, b: torch.stack([a, b])):
            with pytest.raises(RuntimeError, match="same device"):
                meet(here.clone(), there)
            with pytest.raises(RuntimeError, match="same device"):
                meet(there.clone(), here)
        with pytest.raises(TypeError, match="numpy"):
            there.numpy()
        with pytest.raises(RuntimeError, match="generator"):
            torch.randn(2, device=DEVICE, generator=torch.Generator())
        assert (there * torch.tensor(2.0)).device == DEVICE
        assert there[torch.tensor([0])].device == DEVICE
        assert here.copy_(there).device == CPU
        assert there.cpu().device == there.to("cpu").device == CPU
        assert torch.zeros_like(there).device == there.new_zeros(2).device == DEVICE
        weight = torch.nn.Parameter(there.clone())
        (weight * there).sum().backward()
        assert weight.grad is not None
        assert weight.grad.device == weight.data.device == DEVICE


@every_method
def test_a_method_trains_and_resumes_on_a_second_device(make_trained, one_layer, tmp_path, method):
    with SecondDevice():
        found = stop_and_resume(
            partial(make_trained, method, device=DEVICE, path=one_layer), tmp_path
        )
        parameters = found.whole.policy.model.named_parameters()
        assert [name for name, value in parameters if not is_there(value)] == []
        assert all(map(is_there, found.resumed.policy.trainable))
        apart = found.apart
    assert found.lost == []
    assert apart == 0
    assert any(name.startswith("optimizer.state.") for name in found.saved)
    averages = any(name.startswith("schedule.exp_avg_ipt.") for name in found.saved)
    assert averages == (METHODS[method].schedule is not None)


KL = {"preset": "grpo", "kl_beta": 0.1}
RUNS = {
    "lora": {"algorithm": KL},
    "adalora": {},
    "prefix_tuning": {},
    "full": {"algorithm": KL | {"reference": "ema"}},
    "galore": {"algorithm": KL},
}


@pytest.mark.parametrize("method", RUNS)
def test_the_other_parts_of_a_run_work_on_a_second_device(make_recipe, one_layer, tmp_path, method):
    recipe = make_recipe(
        model={"path": str(one_layer)},
        optim={"lr": 1e-2, "updates_per_step": 2},
        train={"steps": 10},
        adapter={"method": method, "rank": settings(method).get("rank")},
        **RUNS[method],
    )
    adapter = AdapterConfig.model_validate(settings(method))
    with SecondDevice():
        policy = load_policy(
            recipe.model, adapter, str(one_layer), 0, True, num_updates=20, device=DEVICE
        )
        prepare_reference(policy, recipe.algorithm)
        optimizer = policy.method.optimizer(policy.model, policy.adapter, recipe.optim)
        engine = TransformersEngine(policy)
        groups = [drawn_group(engine, number) for number in range(2)]
        with policy.reference_on_device():
            batch = make_batch(groups, policy, UpdateConfig.of(recipe))
        data = encode_prompts(load_problems(recipe.data), policy.tokenizer, recipe.data, 100)[0]
        facts = manifest(recipe, policy, optimizer, data, engine.name, "none")
        entropy = EntropyControl(recipe.algorithm)
        stats = update(policy, optimizer, batch, UpdateConfig.of(recipe), 0, entropy).metrics
        update_reference(policy, recipe.algorithm, 1)
        save_reference(policy, recipe.algorithm, tmp_path)
        load_reference(policy, recipe.algorithm, tmp_path)
        policy.save(tmp_path / "saved")
        (tmp_path / "manifest.json").write_text(json.dumps(facts))
        finish_manifest(tmp_path / "manifest.json", policy, recipe.model)
    assert facts["device"] == str(DEVICE)
    assert stats["optim/grad_norm"] > 0
    assert json.loads((tmp_path / "manifest.json").read_text())["update_norms"]


def drawn_group(engine: TransformersEngine, number: int) -> Group:
    """Four responses of the engine to a prompt, the first and the last of them right."""
    requests = [Request(PROMPTS[number], seed) for seed in range(4)]
    responses = engine.generate(requests, SamplingParams(temperature=1.0, top_p=0.9, max_len=6))
    return Group(f"p{number}", PROMPTS[number], responses, [1.0, 0.0, 0.0, 1.0], ["wrong"] * 4, 0)
