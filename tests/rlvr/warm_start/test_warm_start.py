import itertools
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from rlvr.common.errors import ConfigError
from rlvr.config.toml import load_recipe, validate
from rlvr.config.warm_start import WarmStartRecipe
from rlvr.warm_start.warm_start import batch_order, run_warm_start, solved_problems, warm_start_path

RECIPE = {
    "data": {"num_problems": 200, "levels": [1, 2], "stop_early": 0.5},
    "train": {"lr": 2e-3, "batch_size": 16, "warmup_steps": 2, "num_threads": 1},
    "model": {"hidden_size": 32, "num_heads": 1, "num_kv_heads": 1, "num_layers": 1,
              "intermediate_size": 64},
    "run": {"name": "small"},
}  # fmt: skip


def recipe(**changes: dict) -> WarmStartRecipe:
    sections = {name: RECIPE[name] | changes.get(name, {}) for name in RECIPE}
    return validate(sections, WarmStartRecipe)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def result(cache):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RLVR_CACHE", str(cache))
        return run_warm_start(recipe())


@pytest.fixture(autouse=True)
def use_cache(cache, monkeypatch):
    monkeypatch.setenv("RLVR_CACHE", str(cache))


def test_the_result_is_a_whole_transformers_folder_and_nothing_else_is_left(cache, result):
    assert result == warm_start_path(recipe())
    assert [path.name for path in (cache / "sft").iterdir()] == [result.name]
    tokenizer = AutoTokenizer.from_pretrained(result)
    model = AutoModelForCausalLM.from_pretrained(result)
    assert model.dtype == torch.float32
    assert model.config.vocab_size == len(tokenizer)
    assert GenerationConfig.from_pretrained(result).eos_token_id == [tokenizer.eos_token_id]
    assert not (result / "trainer").exists()


def test_training_lowers_the_loss_on_solutions_it_did_not_see(result):
    tokenizer = AutoTokenizer.from_pretrained(result)
    model = AutoModelForCausalLM.from_pretrained(result)
    problem, solution = solved_problems(recipe(train={"seed": 9}))[0]
    messages = [{"role": "user", "content": problem}, {"role": "assistant", "content": solution}]
    ids = torch.tensor([tokenizer.encode(tokenizer.apply_chat_template(messages, tokenize=False))])
    fresh = AutoModelForCausalLM.from_config(model.config)
    assert model(ids, labels=ids).loss < fresh(ids, labels=ids).loss - 0.5


def test_a_second_call_finds_the_result_without_loading_torch(result):
    program = (
        "import sys\nfrom rlvr.config.warm_start import WarmStartRecipe\n"
        "from rlvr.warm_start.warm_start import run_warm_start\n"
        "recipe = WarmStartRecipe.model_validate_json(sys.argv[1])\n"
        "print(run_warm_start(recipe), 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, recipe().model_dump_json()],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split() == [str(result), "False"]


def test_the_same_recipe_gives_the_same_weights_and_tokenizer(result, tmp_path, monkeypatch):
    monkeypatch.setenv("RLVR_CACHE", str(tmp_path))
    again = run_warm_start(recipe())
    for name in ("model.safetensors", "tokenizer.json"):
        assert (again / name).read_bytes() == (result / name).read_bytes()


@pytest.mark.parametrize(
    "changes",
    [{"train": {"seed": 1}}, {"data": {"slip": 0.1}}, {"model": {"num_layers": 2}}],
)
def test_any_change_of_the_recipe_gives_another_folder(changes):
    assert warm_start_path(recipe(**changes)) != warm_start_path(recipe())


def test_a_failure_leaves_no_folder_behind(tmp_path, monkeypatch):
    monkeypatch.setenv("RLVR_CACHE", str(tmp_path))
    odd_head = recipe(model={"hidden_size": 33})
    with pytest.raises(RuntimeError):
        run_warm_start(odd_head)
    assert list((tmp_path / "sft").iterdir()) == []


def test_a_level_that_does_not_exist_is_refused_before_anything_is_made(tmp_path, monkeypatch):
    monkeypatch.setenv("RLVR_CACHE", str(tmp_path))
    with pytest.raises(ConfigError, match=r"data.levels = \[99\]"):
        run_warm_start(recipe(data={"levels": [99]}))
    assert list(tmp_path.iterdir()) == []


def test_batches_hold_like_lengths_in_random_order_and_every_row_once():
    rng = random.Random(0)
    lengths = [rng.randint(20, 100) for _ in range(1003)]
    order = batch_order(lengths, 8, rng)
    assert sorted(order) == list(range(1003))
    batches = [[lengths[i] for i in order[k : k + 8]] for k in range(0, 1000, 8)]
    assert sum(max(b) - min(b) for b in batches) / len(batches) < 10
    maxima = [max(batch) for batch in batches]
    assert maxima != sorted(maxima)
    falls = sum(a > b for a, b in itertools.pairwise(maxima))
    assert 0.3 < falls / len(maxima) < 0.7


def test_the_quickstart_recipe_is_valid():
    root = Path(__file__).resolve().parents[3]
    assert (
        load_recipe(root / "recipes/quickstart_sft.toml", [], WarmStartRecipe).run.name
        == "quickstart"
    )


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        ("model", {"num_heads": 3}, "must divide model.hidden_size"),
        ("data", {"slip": 2}, "data.slip = 2"),
        ("train", {"batchsize": 3}, "did you mean train.batch_size"),
    ],
)
def test_a_wrong_setting_is_named_in_one_line(section, values, message):
    with pytest.raises(ConfigError, match=message):
        recipe(**{section: values})
