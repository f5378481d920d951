"""Supervised fine-tuning by the real SFTTrainer on a tiny model, with methods of the zoo."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from rich.console import Console
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlvr.adapters import METHODS
from rlvr.adapters.load import load_adapted
from rlvr.common.errors import ConfigError
from rlvr.config.sft import FinetuneRecipe
from rlvr.config.toml import dump_toml, load_recipe, validate
from rlvr.data.sft_examples import IGNORED, load_examples
from rlvr.policy.policy import TokenRow, load_policy
from rlvr.runs.folder import reserve_run_folder
from rlvr.sft.finetune import finetune, make_rows, refuse_mixing
from rlvr.training.preflight import check_finetune
from tests.rlvr import plain
from tests.rlvr.families import FAMILIES

CONSOLE = Console(quiet=True)


@pytest.fixture
def make(tiny_policy, tmp_path):
    """A recipe for the tiny policy; keyword arguments replace or add keys of sections."""

    def recipe(**sections) -> FinetuneRecipe:
        tree = {
            "model": {"path": str(tiny_policy), "dtype": "float32", "max_len": 128},
            "data": {"path": "generated:word_problems", "limit": 24},
            "optim": {"lr": 3e-3},
            "train": {"batch_size": 8, "log_every": 1, "num_threads": 1},
            "run": {"dir": str(tmp_path), "name": "run"},
        }
        for name, values in sections.items():
            tree[name] = tree.get(name, {}) | values
        return validate(tree, FinetuneRecipe)

    return recipe


def run(recipe: FinetuneRecipe):
    """(folder, lines of metrics.jsonl, manifest)"""
    folder = finetune(recipe, Path("recipe.toml"), CONSOLE)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").open()]
    return folder, lines, json.loads((folder / "manifest.json").read_text())


def response_row(example: dict[str, list[int]]) -> TokenRow:
    """A prompt with its response."""
    n = example["labels"].count(IGNORED)
    return TokenRow(example["input_ids"][:n], example["input_ids"][n:])


def start_loss(recipe: FinetuneRecipe, num_rows: int | None = None) -> float:
    """Mean negative log-probability of the trained tokens at step 0, by transformers alone."""
    assert recipe.model.path is not None
    policy = load_policy(recipe.model, recipe.adapter, recipe.model.path, 0, False)
    examples = load_examples(recipe.data, policy.tokenizer, recipe.model.max_len, seed=0)
    rows = [response_row(row) for row in examples.rows[:num_rows]]
    return -float(plain.token_logprobs(policy.model, rows).mean())


def test_the_manifest_names_the_users_own_reader_and_its_hash(make, tmp_path):
    reader = tmp_path / "reader.py"
    reader.write_text('def read():\n    return [{"q": "1 + 1?", "a": "2", "gold": "2"}] * 8\n')
    fields = {
        "path": f"{reader}:read",
        "limit": None,
        "prompt_field": "q",
        "response_field": "a",
        "response_template": "{response} so \\boxed{{answer}}",
        "answer_field": "gold",
    }
    _, _, facts = run(make(data=fields))
    recorded = facts["own_code"]["data.path"]
    assert recorded["files"] == [str(reader)]
    assert recorded["sha256"] == hashlib.sha256(reader.read_bytes()).hexdigest()


def test_a_lora_learns_and_loads_in_a_fresh_process(make):
    recipe = make(
        adapter={"method": "lora", "rank": 4},
        train={"epochs": 4},
        optim={"lr": 1e-2, "schedule": "cosine", "warmup_steps": 2},
        run={"merge": True},
    )
    folder, lines, facts = run(recipe)
    assert lines[-1]["policy/loss"] < lines[0]["policy/loss"] - 0.5
    assert len(lines) == 12
    rates = [line["optim/lr"] for line in lines]
    assert rates[:3] == pytest.approx([5e-3, 1e-2, 1e-2])
    assert rates[-1] < 5e-4
    assert (facts["method"], facts["engine"], facts["data"]["num_problems"]) == ("lora", "none", 24)
    assert all(facts["modules"][n.removesuffix(".weight")] for n in facts["update_norms"])
    assert len(facts["update_norms"]) == 21
    assert load_recipe(folder / "config.toml", [], FinetuneRecipe) == recipe

    code = (
        "import sys, torch; from transformers import AutoModelForCausalLM as A;"
        "from peft import PeftModel; base, adapter, merged = sys.argv[1:];"
        "ids = torch.arange(9, 40)[None];"
        "a = PeftModel.from_pretrained(A.from_pretrained(base), adapter)(ids).logits;"
        "b = A.from_pretrained(merged)(ids).logits; c = A.from_pretrained(base)(ids).logits;"
        "print(float((a - b).abs().max()), float((a - c).abs().max()))"
    )
    paths = [recipe.model.path, folder / "checkpoints" / "step_12", folder / "merged"]
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, paths)], capture_output=True, text=True, check=True
    )
    to_merged, to_base = map(float, done.stdout.split())
    assert to_merged < 1e-4
    assert to_base > 0.1


@pytest.mark.slow
def test_what_a_lora_learned_is_where_training_starts(make, rlvr_command, write_recipe):
    folder, _, _ = run(make(adapter={"method": "lora"}, run={"merge": True}))
    rl = write_recipe(model={"path": str(folder / "merged")}, train={"steps": 1})
    done = rlvr_command("train", rl)
    assert done.returncode == 0, done.stderr


def test_the_first_loss_is_the_policy_s_own_on_the_response_tokens(make):
    recipe = make(adapter={"method": "lora"}, train={"batch_size": 24, "rows_per_microbatch": 6})
    _, lines, _ = run(recipe)
    assert lines[0]["policy/loss"] == pytest.approx(start_loss(recipe), abs=1e-4)


def test_held_out_examples_are_scored_and_not_trained(make):
    settings = {"adapter": {"method": "dora", "rank": 4}, "optim": {"lr": 1e-2}}
    recipe = make(data={"held_out": 8}, run={"name": "held"}, **settings)
    folder, lines, facts = run(recipe)
    whole = make(data={"limit": 16}, **settings)
    other, other_lines, _ = run(whole)
    assert [line for line in lines if "policy/loss" in line] == other_lines
    weights = [load_file(next(f.rglob("adapter_model.safetensors"))) for f in (folder, other)]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    assert facts["data"]["num_problems"] == 16

    # their loss, by transformers and peft alone
    base = AutoModelForCausalLM.from_pretrained(recipe.model.path)
    tokenizer = AutoTokenizer.from_pretrained(recipe.model.path)
    kept = load_examples(recipe.data, tokenizer, recipe.model.max_len, seed=0).held_out
    rows = [response_row(row) for row in kept]
    before = -float(plain.token_logprobs(base, rows).mean())
    trained = PeftModel.from_pretrained(base, folder / "checkpoints" / "step_2")
    after = -float(plain.token_logprobs(trained, rows).mean())
    assert lines[0] == {"step": 0, "eval/loss": pytest.approx(before, abs=1e-4)}
    assert lines[-1] == {"step": 2, "eval/loss": pytest.approx(after, abs=1e-4)}
    assert after < before - 0.01
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["held_out_loss_first"] == lines[0]["eval/loss"]
    assert summary["held_out_loss_last"] == lines[-1]["eval/loss"]


def test_held_out_examples_leave_some_to_train(make):
    with pytest.raises(ConfigError, match="leaves none of 24 examples to train"):
        run(make(data={"held_out": 24}))


def test_packing_changes_no_loss_and_no_gradient(make):
    """Not even with one sequence of all examples: no example sees another."""
    plain = make(train={"batch_size": 24})
    packed = make(model={"max_len": 512}, train={"batch_size": 8, "packing": True},
                  run={"name": "packed"})  # fmt: skip
    tokenizer = AutoTokenizer.from_pretrained(plain.model.path)
    rows = make_rows(packed, load_examples(packed.data, tokenizer, 512, seed=0))
    assert len(rows) <= 8, "one batch, or the test compares different steps"
    assert max(len(lengths) for lengths in rows["seq_lengths"]) > 1
    (folder, one, _), (other, two, _) = run(plain), run(packed)
    assert one[0]["policy/loss"] == pytest.approx(two[0]["policy/loss"], abs=1e-5)
    assert one[0]["optim/grad_norm"] == pytest.approx(two[0]["optim/grad_norm"], rel=1e-3)
    models = [AutoModelForCausalLM.from_pretrained(f / "checkpoints" / "step_1")
              for f in (folder, other)]  # fmt: skip
    for a, b in zip(*(m.parameters() for m in models), strict=True):
        assert float(((a - b).abs() > 1e-4).float().mean()) < 0.01


def test_packing_is_refused_where_an_example_would_see_another(make):
    recipe = make(train={"packing": True})
    policy = load_policy(recipe.model, recipe.adapter, recipe.model.path, 0, False)
    examples = load_examples(recipe.data, policy.tokenizer, 128, seed=0)
    refuse_mixing(policy, examples)
    forward = policy.model.forward

    def blind(*args, position_ids=None, **kwargs):  # an architecture that ignores positions
        return forward(*args, **kwargs)

    policy.model.forward = blind
    with pytest.raises(ConfigError, match=r"train\.packing = true: .* would see the one packed"):
        refuse_mixing(policy, examples)


def test_full_is_the_default_and_keeps_float32_weights_under_bfloat16(make):
    recipe = make(model={"dtype": "bfloat16"}, train={"activation_checkpointing": True})
    assert recipe.adapter.method == "full"
    folder, lines, facts = run(recipe)
    assert lines[-1]["policy/loss"] < lines[0]["policy/loss"]
    assert facts["trainable_dtypes"] == ["torch.float32"]
    assert AutoModelForCausalLM.from_pretrained(folder / "checkpoints" / "step_3")


def test_adalora_allocates_and_pays_its_penalty(make):
    block = {"init_rank": 6, "warmup_updates": 1, "final_updates": 2}

    def adalora(orthogonality: float) -> FinetuneRecipe:
        return make(
            adapter={
                "method": "adalora",
                "rank": 3,
                "adalora": block | {"orthogonality": orthogonality},
            },
            train={"epochs": 4, "rows_per_microbatch": 4},
            optim={"lr": 3e-2},
            run={"name": f"orthogonality-{orthogonality}"},
        )

    recipe = adalora(5.0)
    folder, lines, facts = run(recipe)
    free = run(adalora(0.0))[1]
    assert lines[0]["optim/grad_norm"] > free[0]["optim/grad_norm"] + 0.1
    assert lines[0]["policy/loss"] == pytest.approx(free[0]["policy/loss"], abs=1e-5)
    assert facts["peft"]["total_step"] == 12
    model = load_adapted(
        AutoModelForCausalLM.from_pretrained(recipe.model.path), folder / "checkpoints" / "step_12"
    )
    factors = {n: p for n, p in model.named_parameters() if ".lora_A." in n}
    alive = sum(int((p.abs().sum(dim=1) > 0).sum()) for p in factors.values())
    assert alive == 3 * len(factors), "rank 3 on average"


def test_lora_plus_trains_b_at_its_ratio(make):
    recipe = make(
        adapter={"method": "lora_plus", "lora_plus": {"lr_ratio": 5.0}}, optim={"lr": 1e-3}
    )
    _, _, facts = run(recipe)
    assert [g["lr"] for g in facts["optimizer"]["groups"]] == pytest.approx([1e-3, 5e-3])


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_every_method_starts_at_its_own_policy_learns_and_loads(make, method):
    if method in ("qlora", "loftq"):
        pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    rank = {"rank": 4} if "rank" in METHODS[method].options else {}
    lr = 3e-2 if METHODS[method].keeps_base else 1e-3
    recipe = make(adapter={"method": method} | rank, train={"epochs": 3}, optim={"lr": lr})
    folder, lines, facts = run(recipe)
    if method not in ("eva", "corda", "lora_ga"):  # their start looks at data
        whole = make(adapter={"method": method} | rank, train={"batch_size": 24, "epochs": 2},
                     optim={"lr": lr}, run={"name": "whole"})  # fmt: skip
        assert run(whole)[1][0]["policy/loss"] == pytest.approx(start_loss(whole), abs=1e-3)
    assert lines[-1]["policy/loss"] < lines[0]["policy/loss"]
    assert facts["trainable_parameters"] > 0
    saved = folder / "checkpoints" / "step_9"
    base = AutoModelForCausalLM.from_pretrained(recipe.model.path)
    if METHODS[method].keeps_base:
        load_adapted(base, saved)
    else:
        AutoModelForCausalLM.from_pretrained(saved)


@pytest.mark.parametrize(
    ("family", "known"),
    [("gemma2", True), ("cohere", True), ("recurrent_gemma", False), ("mpt", False)],
)
def test_a_model_whose_logits_trl_does_not_know_is_refused(
    make, folder_of, tmp_path, family, known
):
    folder, modules = folder_of(family), FAMILIES[family][2]
    adapter = {"method": "lora", "rank": 2, "target_modules": list(modules)}
    recipe = make(model={"path": str(folder)}, adapter=adapter, data={"limit": 8})
    if known:
        _, lines, _ = run(recipe)
        assert lines[0]["policy/loss"] == pytest.approx(start_loss(recipe), abs=1e-3)
    else:
        with pytest.raises(ConfigError, match="more to its logits than trl's trainer knows"):
            run(recipe)
        assert not (tmp_path / "run").exists()


def test_a_taken_name_is_refused_before_the_model_loads(make, tmp_path):
    recipe = make(model={"path": str(tmp_path / "no-such-model")})
    with (
        reserve_run_folder(recipe, Path("recipe.toml")),
        pytest.raises(ConfigError, match=r"run\.name = 'run'.*is training in it"),
    ):
        run(recipe)
    (tmp_path / "run").mkdir()
    with pytest.raises(ConfigError, match=r"run\.name = 'run'.*exists; take another name"):
        run(recipe)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"adapter": {"method": "prefix_tuning"}, "train": {"packing": True}}, "packing = true"),
        (
            {"adapter": {"method": "prompt_tuning"}, "train": {"activation_checkpointing": True}},
            "activation_checkpointing = true",
        ),
        ({"adapter": {"method": "galore"}, "optim": {"name": "adamw_8bit"}}, "its own optimizer"),
        ({"run": {"merge": True}}, "run.merge = true: full has whole models"),
        ({"adapter": {"method": "houlsby"}, "run": {"merge": True}}, "cannot be merged"),
        ({"adapter": {"method": "ia3", "dropout": 0.1}}, "ia3 would ignore it"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_loads(make, sections, message):
    with pytest.raises(ConfigError, match=message):
        check_finetune(make(**sections))


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"model": {"dtype": "float16"}}, "no loss scaling"),
        ({"optim": {"updates_per_step": 2}}, "updates_per_step = 2"),
        ({"train": {"rows_per_microbatch": 3}}, "must divide train.batch_size = 8"),
        ({"model": {"sft_recipe": "x.toml"}}, "exactly one of model.path and model.sft_recipe"),
        ({"optim": {"lr": {"lora": 1e-4}}}, "rates for lora, not for full"),
        ({"train": {"steps": 3}}, "train.steps: unknown setting"),
    ],
)
def test_a_wrong_setting_is_named_in_one_line(make, sections, message):
    with pytest.raises(ConfigError, match=message):
        make(**sections)


def test_the_shipped_recipe_is_valid(pytestconfig):
    path = pytestconfig.rootpath / "recipes" / "r1_distill_qwen_1.5b_lora_sft.toml"
    check_finetune(load_recipe(path, [], FinetuneRecipe))


def test_the_command_tells_both_kinds_of_recipe_apart(make, rlvr_command, tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text(dump_toml(make()))
    done = rlvr_command("sft", path, "--data.prompt_field", "q")
    assert done.returncode == 2
    assert "would be ignored with data.path" in done.stderr
    path.write_text("[data]\nnum_problems = 10\n[train]\nlr = 1e-3\n[adapter]\nmethod = 'lora'\n")
    done = rlvr_command("sft", path)
    assert done.returncode == 2
    assert "adapter: unknown setting" in done.stderr
