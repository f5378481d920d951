"""`rlvr plan` of a comparison: how runs are dealt out to engines, and what the study takes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlvr.common.errors import ConfigError
from rlvr.compare import study
from rlvr.compare.resolve import open_comparison
from rlvr.config.compare import BudgetConfig
from rlvr.config.toml import load_recipe
from rlvr.config.train import TrainRecipe
from rlvr.plan.cli import parser, workload
from rlvr.plan.hardware import Shape, model_config, parse_cluster
from rlvr.plan.memory import device_memory
from rlvr.plan.rates import Rates
from rlvr.plan.shared import SharedPlan, shared_plan
from rlvr.policy.flops import ModelDims

RECIPES = Path(__file__).parents[3] / "recipes"
SEVEN_B = RECIPES / "compare" / "r1_distill_qwen_7b_adapters.toml"
RATES = Rates(0.01, 0.001, 0.1, 0.5, 1e-3, 0.2, 1e-3, 0.3, 1.0, "by hand")


@pytest.fixture(autouse=True)
def no_measured_rates(monkeypatch, tmp_path):
    monkeypatch.setenv("RLVR_CACHE", str(tmp_path))


def halved(runs: int) -> SharedPlan:
    """A step takes 2 s alone, and 1 s more for every run beside it."""
    return SharedPlan(((1.0 + runs) / runs,), 10.0 + runs, 64 // runs, runs < 3)


def test_runs_of_one_length_share_engines_and_the_others_have_their_own():
    methods = [study._Method(True, halved, [10, 10, 4]), study._Method(False, halved, [10])]
    assert study._loads(methods, 1, 0) == [20, 20, 8, 20]
    # two together take 3 s for a step of both
    assert study._loads(methods, 2, 0) == [30, 8, 20]
    assert study._loads(methods[:1] * 2, 4, 0) == [10 * 5, 4 * 3]


def test_the_longest_loads_begin_first():
    assert study._makespan([4, 10, 10, 4], 2) == 14
    assert study._makespan([4, 4, 4, 10], 2) == 12
    assert study._makespan([5], 8) == 5


def test_a_study_is_as_tight_as_its_tightest_method():
    methods = {
        "lora": study._Method(True, lambda n: SharedPlan((1.0,) * 3, 10.0 * n, 8, n < 3), [10]),
        "full": study._Method(False, lambda n: SharedPlan((2.0,) * 3, 25.0, 6, True), [10]),
    }
    row = study._row(methods, 4, 2)
    assert (row["memory_gib"], row["sequences"], row["fits"]) == (40, 6, False)
    assert row["usual"]["gpu_hours"] == pytest.approx(30 / 3600)
    assert row["usual"]["hours"] == pytest.approx(20 / 3600)
    assert study._row(methods, 1, 2)["fits"]


def test_runs_beside_the_first_bring_their_adapter_and_its_optimizer():
    recipe = load_recipe(RECIPES / "r1_distill_qwen_1.5b_lora.toml", [], TrainRecipe)
    assert recipe.model.path is not None
    dims = ModelDims(28, 1536, 8960, 1536, 256, 151936)
    config = model_config(recipe.model.path)
    shape = Shape(1_777_088_000, 100_000_000, dims, config, recipe.adapter)
    _, gpu = parse_cluster("1xH100")
    args = parser().parse_args(["recipe", "--lengths", "8000,1"])
    work = workload(recipe, args)
    alone = device_memory(recipe, shape, gpu, runtime_gib=1.0)["total"]
    one, four = (shared_plan(recipe, shape, gpu, work, (RATES,), n) for n in (1, 4))
    assert one.gib == pytest.approx(alone)
    # weights of 4 bytes and two moments
    assert four.gib == pytest.approx(alone + 3 * 1e8 * 12 / 2**30)
    assert four.sequences < one.sequences, "three adapters of 0.2 GB less cache"
    assert four.step_s[0] < one.step_s[0]


def test_a_comparison_is_planned_with_one_four_and_eight_runs_per_engine(capsys):
    assert study.main([str(SEVEN_B), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["devices"], found["device"]) == (8, "H200")
    assert found["share"] == ["lora", "lora_plus", "miss"]
    assert found["alone"] == ["dora"]
    assert found["runs"] == 4 * 3 + 4 * 10, "and twice the first grid of five rates for each"
    rows = found["runs_per_engine"]
    assert list(rows) == ["1", "4", "8"]
    for row in rows.values():
        assert row["fast"]["gpu_hours"] < row["usual"]["gpu_hours"] < row["slow"]["gpu_hours"]
        assert row["usual"]["hours"] >= row["usual"]["gpu_hours"] / 8
    used = [rows[n]["usual"]["gpu_hours"] for n in rows]
    assert used[1] < 0.99 * used[0]
    assert used[2] == pytest.approx(used[1], rel=0.02), "four fill all places already"
    study._print(found)
    said = " ".join(capsys.readouterr().out.split())
    assert "share an engine: lora, lora_plus, miss" in said
    assert "runs per engine" in said


def test_a_recipe_of_one_run_is_planned_as_before(capsys):
    assert study.main([str(RECIPES / "r1_distill_qwen_1.5b_lora.toml"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["devices"] == 1


def test_a_budget_that_is_not_in_steps_is_refused():
    comparison = open_comparison(SEVEN_B, [], warm_start=False)
    recipe = comparison.recipe.model_copy(update={"budget": BudgetConfig(tokens=10**6)})
    other = type(comparison)(recipe, SEVEN_B, {}, {}, None)
    with pytest.raises(ConfigError, match=r"give budget\.steps"):
        study.plan_study(other, 8, None, None)
