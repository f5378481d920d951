"""Plans: the simulated step against hand computations, and a calibrated one against real steps."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from rlvr.adapters import METHODS, get_method
from rlvr.adapters.budget import count_parameters
from rlvr.common.errors import ConfigError
from rlvr.common.gpus import GPUS
from rlvr.config.adapter import AdapterConfig
from rlvr.config.toml import load_recipe
from rlvr.config.train import TrainRecipe
from rlvr.plan.calibrate import Measured, fit, run_steps
from rlvr.plan.cli import main
from rlvr.plan.generation import Workload, decoding_steps
from rlvr.plan.hardware import Shape, parse_cluster, shape_of
from rlvr.plan.memory import (
    engine_memory,
    host_memory,
    num_sequences,
    peak_memory,
    trainer_memory,
)
from rlvr.plan.rates import USUAL, Rates, all_reduce_s, roofline, update_flops_per_token
from rlvr.plan.simulate import best_split, rollout_s, step_time
from rlvr.policy.flops import ModelDims

RECIPES = Path(__file__).parents[3] / "recipes"
CACHE = os.environ.get("RLVR_CACHE", RECIPES.parent / ".cache" / "rlvr")
RATES = Rates(0.01, 0.001, 0.1, 0.5, 1e-3, 0.2, 1e-3, 0.3, 1.0, "by hand")
STUDY = ModelDims(28, 1536, 8960, 1536, 256, 151936)
SHAPE = Shape(1000, 1000, ModelDims(2, 8, 16, 8, 4, 32), None, AdapterConfig())


def plan(*words, cache):
    return subprocess.run(
        [sys.executable, "-m", "rlvr.cli", "plan", *map(str, words)],
        capture_output=True,
        text=True,
        env={**os.environ, "RLVR_CACHE": str(cache)},
    )


@pytest.mark.parametrize(
    ("lengths", "slots", "steps"),
    [([5, 3, 9], 3, 9), ([5, 3, 9], 1, 17), ([3, 1, 2], 2, 3), ([4, 4, 4, 4], 2, 8), ([], 2, 0)],
)
def test_an_engine_with_free_slots_takes_the_next_response(lengths, slots, steps):
    assert decoding_steps(lengths, slots) == (steps, sum(lengths))


def test_generation_costs_its_steps_its_tokens_and_its_requests():
    work = Workload(2, 3, 10, (7,), 1.0)
    seconds, tail = rollout_s(work, RATES, devices=1, slots=6)
    assert seconds == pytest.approx(7 * 0.01 + 6 * 7 * 0.001 + 6 * 0.1)
    assert tail == pytest.approx(7 * 0.011)
    half, _ = rollout_s(work, RATES, devices=2, slots=6)
    assert half == pytest.approx(7 * 0.01 + 3 * 7 * 0.001 + 3 * 0.1)
    shared, _ = rollout_s(replace(work, engine_devices=2), RATES, devices=2, slots=6)
    assert shared == pytest.approx((7 * 0.01 + 6 * 7 * 0.001) / 2 + 6 * 0.1)


def test_devices_that_share_an_engine_hold_half_its_weights_and_twice_the_sequences():
    path = RECIPES / "r1_distill_qwen_7b_lora.toml"
    alone, shared = (
        load_recipe(path, ["--rollout.tensor_parallel_size", str(n)], TrainRecipe) for n in (1, 2)
    )
    one, half = (engine_memory(r, SHAPE, GPUS["H100"], colocated=True) for r in (alone, shared))
    assert half["engine weights"] == one["engine weights"] / 2
    assert sum(half.values()) == pytest.approx(sum(one.values()))
    few, more = (num_sequences(r, SHAPE, 1e-4, 100) for r in (alone, shared))
    assert more in (2 * few, 2 * few + 1)


def test_a_step_adds_up_and_names_what_binds():
    work = Workload(2, 4, 10, (50,), 2.0)
    step = step_time(work, RATES, SHAPE, None, devices=1, slots=64)
    update = 0.5 + 2 * 4 * 60 * 1e-3
    assert step.update_s == pytest.approx(update)
    assert step.step_s == pytest.approx(step.rollout_s + update + 0.2 + 0.3)
    assert step.binds == "generation"


def test_devices_that_generate_and_devices_that_train_work_at_the_same_time():
    work = Workload(8, 8, 10, (50,), 1.0)
    split = best_split(work, RATES, SHAPE, None, devices=8, slots=64)
    assert split is not None
    generating, step = split
    assert 1 <= generating < 8
    assert step.step_s == pytest.approx(max(step.rollout_s, step.update_s) + 0.5)
    others = [step_time(work, RATES, SHAPE, None, 8, 64, generating=k).step_s for k in range(1, 8)]
    assert step.step_s == min(others)


def test_no_number_of_devices_is_faster_than_the_longest_response():
    work = Workload(16, 8, 10, (50,) * 9 + (5000,), 1.0)
    step = step_time(work, RATES, SHAPE, GPUS["H100"], devices=1024, slots=64)
    assert step.rollout_s >= 5000 * 0.011
    assert step.binds == "the longest response"


def test_a_ring_sends_everything_twice_over_the_slowest_link():
    gpu = GPUS["H100"]
    inside = all_reduce_s(gpu, 8e9, 8)
    assert inside == pytest.approx(2 * 8e9 * 7 / 8 / gpu.link_bytes_per_s, rel=0.01)
    assert all_reduce_s(gpu, 8e9, 16) > 5 * inside
    assert all_reduce_s(gpu, 8e9, 1) == 0


def test_full_fine_tuning_of_the_study_holds_master_weights_gradients_and_two_moments():
    recipe = load_recipe(RECIPES / "r1_distill_qwen_1.5b_full.toml", [], TrainRecipe)
    assert recipe.model.path is not None
    shape = shape_of(recipe, recipe.model.path)
    assert shape.num_params == shape.trainable == 1_777_088_000
    parts = trainer_memory(recipe, shape)
    master = 1_777_088_000 * 4 / 2**30
    assert parts["weights"] == pytest.approx(master)
    assert parts["optimizer"] == pytest.approx(2 * master)
    sharded = trainer_memory(recipe, shape, num_shards=8)
    assert sharded["optimizer"] == pytest.approx(master / 4)
    assert sharded["activations"] == parts["activations"]


def test_a_runs_own_count_of_tokens_goes_before_the_assumed_one():
    assert Workload(2, 4, 10, (50,), 2.0).update_tokens == 480
    assert Workload(2, 4, 10, (50,), 2.0, tokens_per_row=20).update_tokens == 160


def test_an_engine_that_sleeps_is_there_only_while_it_generates():
    trainer = {"weights": 3.0, "gradients": 2.0, "activations": 20.0}
    engine = {"engine weights": 3.0, "key-value cache": 15.0}
    assert peak_memory(trainer, engine, sleeps=False) == 43
    assert peak_memory(trainer, engine, sleeps=True) == 25, "while the policy is trained"
    assert peak_memory(trainer, engine | {"key-value cache": 40.0}, sleeps=True) == 46


def test_an_adapter_trains_what_the_plan_counts():
    recipe = load_recipe(RECIPES / "r1_distill_qwen_1.5b_lora.toml", [], TrainRecipe)
    assert recipe.model.path is not None
    shape = shape_of(recipe, recipe.model.path)
    assert shape.trainable == 36_929_536
    assert trainer_memory(recipe, shape)["gradients"] == pytest.approx(36_929_536 * 4 / 2**30)


def test_a_teacher_adds_its_weights_whole_and_two_operations_per_parameter_and_token():
    teacher = ["--teacher.path", "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B"]
    path = RECIPES / "r1_distill_qwen_1.5b_lora.toml"
    recipe, alone = (load_recipe(path, words, TrainRecipe) for words in (teacher, []))
    assert recipe.model.path is not None
    shape = shape_of(recipe, recipe.model.path)
    assert shape.teacher_params == 7_615_616_512
    gib = 7_615_616_512 * 2 / 2**30
    for shards in (1, 8):
        with_it, without = (
            trainer_memory(one, shape_of(one, recipe.model.path), shards) for one in (recipe, alone)
        )
        assert sum(with_it.values()) - sum(without.values()) == pytest.approx(gib)
    assert host_memory(recipe, shape, 8)["teacher"] == pytest.approx(8 * gib)
    with_it, without = (
        update_flops_per_token(replace(shape, teacher_params=n), recipe, 100, [400])
        for n in (shape.teacher_params, 0)
    )
    assert with_it - without == pytest.approx(2 * 7_615_616_512)


def made(count: int, length: int, slowed: float = 1.0) -> Measured:
    """A step of `count` responses that takes what RATES say, `slowed` times."""
    tokens = count * length
    rollout = length * RATES.decode_step_s + tokens * RATES.decode_seq_s + count * RATES.request_s
    train = RATES.update_s + tokens * RATES.update_token_s
    metrics = {
        "time/rollout_s": rollout * slowed,
        "time/train_s": train * slowed,
        "train/tokens_per_s": tokens / train / slowed,
        "time/sync_s": 0.2 * slowed,
        "time/verify_s": count * 1e-3 * slowed,
        "time/step_s": (rollout + train + 0.2 + 0.3) * slowed,
        "memory/peak_gib": 3.0,
    }
    return Measured(metrics, [length] * count)


SIZES = [(4, 20), (8, 50), (16, 35), (32, 90)]


@pytest.mark.parametrize("disturbed", [(), (3, 7)], ids=["quiet", "two of twelve steps slowed"])
def test_fitted_rates_return_the_seconds_they_were_made_from(disturbed):
    steps = [
        made(count, length + part, 2.0 if 4 * part + i in disturbed else 1.0)
        for part in range(3)
        for i, (count, length) in enumerate(SIZES)
    ]
    fitted = fit(steps, slots=64, modelled_gib=2.0)
    for name in ("decode_step_s", "decode_seq_s", "request_s", "update_s", "update_token_s"):
        assert getattr(fitted, name) == pytest.approx(getattr(RATES, name), rel=0.02), name
    assert fitted.other_s == pytest.approx(0.3)
    assert fitted.runtime_gib == pytest.approx(1.0)


def rates_by(lengths, *settings, gpu="H100") -> Rates:
    recipe = load_recipe(RECIPES / "r1_distill_qwen_1.5b_lora.toml", settings, TrainRecipe)
    shape = Shape(1_777_088_000, 36_929_536, STUDY, None, recipe.adapter)
    return roofline(GPUS[gpu], shape, recipe, 0, lengths)


def test_long_responses_look_further_back_than_half_of_the_mean():
    even, uneven = rates_by([4000]), rates_by([1000, 7000])
    context = (1000**2 + 7000**2) / 8000 / 2
    kv = 2 * 28 * 256 * 2 / (3.35e12 * USUAL.decode)
    pairs = 4 * 1536 * 28 / (989e12 * USUAL.prefill)
    grown = uneven.decode_seq_s - even.decode_seq_s
    assert grown == pytest.approx((kv + pairs) * (context - 2000))
    assert uneven.update_token_s > even.update_token_s


def test_an_adapter_costs_kernels_while_decoding_and_merged_weights_none():
    merged = rates_by([4000], "--rollout.sync", "merged")
    served = rates_by([4000])
    assert served.decode_step_s - merged.decode_step_s == pytest.approx(28 * 8 * 4e-6)


def test_attention_is_a_fifth_of_a_forward_pass_at_the_studys_lengths():
    short, long = (rates_by([n], "--train.activation_checkpointing", "0") for n in (10, 9000))
    assert 1.15 < long.update_token_s / short.update_token_s < 1.4


def test_a_machine_holds_every_ranks_sleeping_engine():
    path = RECIPES / "r1_distill_qwen_7b_lora.toml"
    awake, asleep = (
        load_recipe(path, ["--rollout.sleep", word], TrainRecipe) for word in ("false", "true")
    )
    shape = Shape(7_615_616_512, 1, STUDY, None, awake.adapter)
    weights = 8 * 7_615_616_512 * 2 / 2**30
    with_engines, without = host_memory(asleep, shape, 8), host_memory(awake, shape, 8)
    assert with_engines["sleeping engines"] == pytest.approx(weights)
    assert with_engines["total"] - without["total"] == pytest.approx(weights)


def printed(capsys, *words) -> str:
    """What `rlvr plan` prints, in this process, without the line breaks of a narrow terminal."""
    assert main([str(RECIPES / "r1_distill_qwen_1.5b_lora.toml"), *words]) == 0
    return " ".join(capsys.readouterr().out.split())


@pytest.fixture
def no_measured_rates(monkeypatch, tmp_path):
    monkeypatch.setenv("RLVR_CACHE", str(tmp_path))


def test_a_plan_that_is_too_tight_warns_before_it_does_not_fit(capsys, no_measured_rates):
    def said(share: str) -> str:
        words = ["--gpus", "1xH100", "--rollout.gpu_memory_utilization", share]
        return printed(capsys, *words)

    assert "does not fit" not in said("0.5") + said("0.78")
    assert "warning" not in said("0.5")
    assert "is above 92%" in said("0.78")
    assert "does not fit" in said("0.95")
    hours = said("0.5").split("1024 steps: ")[1].split(" hours")[0]
    assert " to " in hours, "nothing was measured"


def test_a_recipe_is_planned_on_what_its_header_names(capsys, no_measured_rates):
    found = json.loads(printed(capsys, "--json"))
    assert (found["devices"], found["device"]) == (1, "H100")
    assert found["hours_range"][0] < found["hours"] < found["hours_range"][1]


@pytest.mark.parametrize("method", ["full", "dora", "vera", "tinylora", "ln_tuning"])
def test_two_layers_tell_how_many_parameters_all_have(method, tiny_policy):
    settings = ["--adapter.method", method, "--optim.lr", "1e-3"]
    recipe = load_recipe(RECIPES / "quickstart.toml", settings, TrainRecipe)
    shape = shape_of(recipe, str(tiny_policy))
    assert shape.config.num_hidden_layers > 2
    assert shape.trainable == count_parameters(
        get_method(recipe.adapter), recipe.adapter, shape.config
    )
    assert shape.num_params == count_parameters(METHODS["full"], recipe.adapter, shape.config)


def test_a_wrong_cluster_is_refused_with_the_names_known(tmp_path):
    assert parse_cluster("8xh100") == (8, GPUS["H100"])
    with pytest.raises(ConfigError, match="COUNTxNAME"):
        parse_cluster("8 H100")
    recipe = RECIPES / "quickstart.toml"
    done = plan(recipe, "--gpus", "4xV100", cache=tmp_path)
    assert done.returncode == 2
    assert "H200" in done.stderr


def test_devices_that_cannot_share_engines_are_refused(tmp_path):
    recipe = RECIPES / "r1_distill_qwen_1.5b_lora.toml"
    for gpus in ("1xH100", "3xH100"):
        done = plan(recipe, "--gpus", gpus, "--rollout.tensor_parallel_size", "2", cache=tmp_path)
        assert done.returncode == 2
        assert "give a multiple of it, or set it to 1" in done.stderr


def test_a_plan_for_a_node_states_memory_time_and_cost(tmp_path):
    recipe = RECIPES / "r1_distill_qwen_1.5b_lora.toml"
    done = plan(recipe, "--gpus", "8xH100", "--price", "2", "--json", cache=tmp_path)
    found = json.loads(done.stdout)
    parts = {k: v for k, v in found["memory_gib"].items() if k != "total"}
    assert found["memory_gib"]["total"] == pytest.approx(sum(parts.values()))
    assert found["cost"] == pytest.approx(found["hours"] * 8 * 2)
    assert found["scaling"]["1024"]["step_s"] <= found["scaling"]["1"]["step_s"]


@pytest.mark.slow
@pytest.mark.engine
def test_a_calibrated_plan_is_near_the_measured_quickstart(tmp_path):
    recipe = RECIPES / "quickstart.toml"
    done = plan(recipe, "--calibrate", cache=CACHE)
    assert done.returncode == 0, done.stderr
    settings = ["--rollout.prompts_per_step", "10", "--rollout.group_size", "12"]
    measured = run_steps(recipe, settings, tmp_path, "other")
    seconds = sorted(step.metrics["time/step_s"] for step in measured)[len(measured) // 2]
    words = [*settings, "--run", str(tmp_path / "other"), "--sampling.dynamic", "false", "--json"]
    found = json.loads(plan(recipe, *words, cache=CACHE).stdout)
    assert found["sync"]["step_s"] == pytest.approx(seconds, rel=0.2)
    peak = max(step.metrics["memory/peak_gib"] for step in measured)
    assert found["memory_gib"]["total"] == pytest.approx(peak, rel=0.1)
