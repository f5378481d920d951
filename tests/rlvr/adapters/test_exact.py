"""What holds exactly for every method in the table; a new method is tested by being listed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest
import torch
from transformers import AutoModelForCausalLM

from rlvr.adapters import METHODS
from rlvr.adapters.export import (
    lora_factors,
    low_rank_layers,
    merge_and_export,
    save_as_lora,
)
from rlvr.adapters.targets import servable_weights
from rlvr.common.errors import ConfigError
from rlvr.config.train import AdapterConfig, ModelConfig
from rlvr.engines.engine import Request, SamplingParams
from rlvr.engines.transformers import TransformersEngine
from rlvr.policy.policy import TokenRow, load_policy
from rlvr.runs.checkpoint import load_checkpoint, save_checkpoint
from tests.rlvr import plain
from tests.rlvr.adapters.trained import settings

PROMPTS = [[7 * i % 300 + 8 for i in range(n)] for n in (5, 9, 12, 7)]
every_method = pytest.mark.parametrize("method", METHODS)
every_merging = pytest.mark.parametrize("method", [m.name for m in METHODS.values() if m.merges])
CHANGED_START = {"prompt_tuning", "prefix_tuning", "qlora", "loftq"}


@every_method
def test_step_zero_is_the_base_policy_unless_the_table_says_why_not(
    make_trained, base_logprobs, method
):
    error = float((make_trained(method).logprobs() - base_logprobs).abs().max())
    if METHODS[method].start:
        assert method in CHANGED_START
        assert 1e-3 < error < 5
    else:
        assert error < 1e-5


@every_method
def test_the_reference_stays_the_base_policy_while_training(make_trained, base_logprobs, method):
    trained = make_trained(method)
    start = trained.logprobs()
    frozen = [p.requires_grad for p in trained.policy.model.parameters()]
    trained.train(3)
    assert float((trained.logprobs() - start).abs().max()) > 1e-3, "it did not learn"
    rows = [TokenRow(p[:1], p[1:]) for p in PROMPTS]
    reference = trained.policy.reference_logprobs(rows, 1.0)
    if method in ("qlora", "loftq"):  # the base rounded to 4 bits, with LoftQ's correction
        base_logprobs = start
    assert float((reference - base_logprobs).abs().max()) < 1e-5
    assert [p.requires_grad for p in trained.policy.model.parameters()] == frozen


@pytest.mark.parametrize("method", [m.name for m in METHODS.values() if "adapter" in m.syncs])
def test_the_rank_that_vllm_is_started_for_is_that_of_the_factors_it_is_given(make_trained, method):
    policy = make_trained(method).policy
    ranks = [len(lora_factors(layer)[0]) for layer in low_rank_layers(policy.model).values()]
    assert max(ranks) == METHODS[method].served_rank(policy.adapter)


@pytest.mark.parametrize("method", [m.name for m in METHODS.values() if m.syncs and m.keeps_base])
def test_the_base_has_all_that_a_run_replaces_in_a_shared_vllm(make_trained, tiny_base, method):
    trained = make_trained(method)
    trained.train(1)
    base = dict(servable_weights(AutoModelForCausalLM.from_pretrained(tiny_base)))
    replaced = dict(trained.policy.engine_weights())
    assert replaced.keys() <= base.keys()
    assert all(value.shape == base[name].shape for name, value in replaced.items())


RANDOM_START = {"prompt_tuning", "prefix_tuning"}
ROUNDING = {("hra", "float32"): 1e-4}
"""Nats by which rounding separates policy and reference at step 0; 0 for all others."""


@every_method
def test_policy_and_reference_are_one_at_step_zero_in_bfloat16(real_logits_policy, method):
    assert_one(real_logits_policy, method, "bfloat16")


@pytest.mark.slow
@every_method
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_policy_and_reference_are_one_at_step_zero(real_logits_policy, method, dtype):
    assert_one(real_logits_policy, method, dtype)


def assert_one(folder, method: str, dtype: str) -> None:
    """With logits as large as a pretrained model's: KL is 0 before anything has moved."""
    config = AdapterConfig.model_validate(settings(method))
    model = ModelConfig.model_validate({"path": str(folder), "dtype": dtype, "max_len": 160})
    policy = load_policy(
        model, config, str(folder), 0, True, 10, lambda _: [PROMPTS[2][i:] for i in range(8)]
    )
    rows = [TokenRow(p[:1], p[1:]) for p in PROMPTS]
    with torch.no_grad():
        ours = policy.logprobs(rows, 1.0)[0]
    gap = float((ours - policy.reference_logprobs(rows, 1.0)).abs().max())
    assert ours.min() < -8, "logits are large enough for rounding to show"
    if method in RANDOM_START:
        assert gap > 1
    else:
        assert gap <= ROUNDING.get((method, dtype), 0.0)


@pytest.mark.slow
@every_method
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_method_trains_the_same_float32_tensors_on_a_base_of_16_bits(make_trained, method, dtype):
    whole, half = (
        {
            name: (p.shape, p.dtype)
            for name, p in make_trained(method, kind).policy.model.named_parameters()
            if p.requires_grad
        }
        for kind in ("float32", dtype)
    )
    assert half == whole
    assert {dtype for _, dtype in half.values()} == {torch.float32}


@every_merging
def test_the_base_is_bit_identical_after_syncs_in_bfloat16(make_trained, method):
    assert_untouched(make_trained, method, "bfloat16", num_syncs=4)


@pytest.mark.slow
@every_merging
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_base_is_bit_identical_after_50_syncs(make_trained, method, dtype):
    assert_untouched(make_trained, method, dtype, num_syncs=50)


def assert_untouched(make_trained, method: str, dtype: str, num_syncs: int) -> None:
    trained = make_trained(method, dtype)
    before = {n: p.clone() for n, p in trained.policy.model.named_parameters()}
    if METHODS[method].keeps_base:
        trained.train(1)
        before = {n: p for n, p in before.items() if ".base_layer." in n}
    for _ in range(num_syncs):
        for _ in trained.policy.engine_weights():
            pass
    after = dict(trained.policy.model.named_parameters())
    assert before
    assert all(torch.equal(value, after[name]) for name, value in before.items())


@every_method
def test_resuming_in_the_middle_equals_the_uninterrupted_run(make_trained, tmp_path, method):
    whole = make_trained(method)
    whole.train(3)
    folder = save_checkpoint(tmp_path, 3, whole.policy, whole.optimizer, {})
    whole.train(2)
    resumed = make_trained(method)
    load_checkpoint(folder, resumed.policy, resumed.optimizer)
    resumed.step = 3
    resumed.train(2)
    for a, b in zip(whole.policy.trainable, resumed.policy.trainable, strict=True):
        assert torch.equal(a, b)


SCORE = """
import json, sys
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
from rlvr.adapters.load import load_adapted
torch.set_num_threads(1)
base, folders, prompts = json.loads(sys.stdin.read())
scores = {}
for name, (folder, plain) in folders.items():
    model = AutoModelForCausalLM.from_pretrained(folder if plain else base)
    if not plain:
        model = load_adapted(model, folder)
    parts = []
    with torch.no_grad():
        for ids in prompts:
            logp = model.eval()(torch.tensor([ids])).logits[0].log_softmax(-1)[-len(ids):]
            parts += logp[:-1].gather(1, torch.tensor(ids[1:])[:, None])[:, 0].tolist()
    scores[name] = parts
print(json.dumps(scores))
"""


@pytest.fixture(scope="module")
def saved_by_all(make_trained, tmp_path_factory):
    """A policy of every method after three updates, and the folders that they saved."""
    root, trained = tmp_path_factory.mktemp("saved"), {}
    for name in METHODS:
        trained[name] = make_trained(name)
        trained[name].train(3)
        trained[name].policy.save(root / name)
    return root, trained


@every_method
def test_another_run_goes_on_from_a_saved_adapter_bit_for_bit(saved_by_all, tiny_base, method):
    """With another seed and no problems to look at: nothing is made again that was drawn."""
    root, trained = saved_by_all
    given = settings(method) | {"start_from": str(root / method)}
    config = AdapterConfig.model_validate(given)
    model = ModelConfig.model_validate({"path": str(tiny_base), "dtype": "float32", "max_len": 160})
    policy = load_policy(model, config, str(tiny_base), 5, keep_reference=True, num_updates=10)
    before, after = (one.model.state_dict() for one in (trained[method].policy, policy))
    assert before.keys() == after.keys()
    assert [name for name in before if not torch.equal(before[name], after[name])] == []
    rows = [TokenRow(p[:1], p[1:]) for p in PROMPTS]
    with torch.no_grad():
        assert torch.equal(policy.logprobs(rows, 1.0)[0], trained[method].logprobs())
        for parameter in policy.trainable:
            parameter += 0.01
    # the reference is the policy at step 0, which is the saved one
    assert torch.equal(policy.reference_logprobs(rows, 1.0), trained[method].logprobs())
    assert not torch.equal(policy.logprobs(rows, 1.0)[0], trained[method].logprobs())


UPDATE_ALONE = {name for name, method in METHODS.items() if method.save is save_as_lora}
"""Methods whose folder for peft holds base plus update."""


@pytest.mark.slow
@every_method
def test_peft_s_own_folder_is_gone_on_from_exactly_or_refused(
    saved_by_all, tiny_base, tmp_path, method
):
    root, trained = saved_by_all
    folder = shutil.copytree(
        root / method, tmp_path / "peft", ignore=shutil.ignore_patterns("rlvr_*")
    )
    seed = {"seed": 0} if "seed" in METHODS[method].options else {}
    given = settings(method) | seed | {"start_from": str(folder)}
    config = AdapterConfig.model_validate(given)
    model = ModelConfig.model_validate({"path": str(tiny_base), "dtype": "float32", "max_len": 160})

    def load():
        return load_policy(model, config, str(tiny_base), 0, True, num_updates=10)

    if method in UPDATE_ALONE or not METHODS[method].keeps_base:
        with pytest.raises(ConfigError, match=r"not the factors that are trained|no saved adapter"):
            load()
        return
    policy = load()
    with torch.no_grad():
        rows = [TokenRow(p[:1], p[1:]) for p in PROMPTS]
        assert torch.equal(policy.logprobs(rows, 1.0)[0], trained[method].logprobs())


@pytest.fixture(scope="module")
def reloaded(saved_by_all, tiny_base):
    """Log-probabilities by one fresh process that loads what every method saved and exported."""
    root, all_trained = saved_by_all
    folders, live = {}, {}
    for name, method in METHODS.items():
        trained = all_trained[name]
        live[name] = trained.logprobs()
        folders[name] = (str(root / name), not method.keeps_base)
        if method.merges:
            merge_and_export(trained.policy.model, root / f"{name}-merged")
            folders[f"{name}-merged"] = (str(root / f"{name}-merged"), True)
            live[f"{name}-merged"] = live[name]
    done = subprocess.run(
        [sys.executable, "-c", SCORE],
        input=json.dumps([str(tiny_base), folders, PROMPTS]),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return live, json.loads(done.stdout.strip().split("\n")[-1])


@every_method
def test_a_saved_adapter_gives_the_same_in_a_fresh_process(reloaded, method):
    live, scores = reloaded
    torch.testing.assert_close(torch.tensor(scores[method]), live[method], atol=1e-5, rtol=0)


@every_merging
def test_an_export_is_a_plain_model_with_the_same_log_probabilities(reloaded, method):
    live, scores = reloaded
    name = f"{method}-merged"
    torch.testing.assert_close(torch.tensor(scores[name]), live[name], atol=1e-5, rtol=0)


@pytest.mark.parametrize("method", [m.name for m in METHODS.values() if not m.merges])
def test_what_vllm_cannot_serve_is_sampled_from_exactly(make_trained, method):
    assert_samples(make_trained, method, "float32", tolerance=1e-4)


@pytest.mark.slow
@every_method
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("bfloat16", 0.3)])
def test_the_transformers_engine_samples_from_the_policy(make_trained, method, dtype, tolerance):
    assert_samples(make_trained, method, dtype, tolerance)


def assert_samples(make_trained, method: str, dtype: str, tolerance: float) -> None:
    trained = make_trained(method, dtype)
    trained.train(2)
    prompts = [PROMPTS[i % 4] for i in range(6)]
    requests = [Request(prompt, seed=i) for i, prompt in enumerate(prompts)]
    responses = TransformersEngine(trained.policy).generate(requests, SamplingParams(max_len=8))
    rows = [TokenRow(p, r.token_ids) for p, r in zip(prompts, responses, strict=True)]
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
        expected = plain.token_logprobs(trained.policy.model, rows)
    reported = torch.tensor([value for r in responses for value in r.logprobs])
    assert float((reported - expected).abs().max()) < tolerance
    with torch.no_grad():
        scored = trained.policy.logprobs(rows, 1.0)[0]
    assert float((reported - scored).abs().max()) < tolerance
