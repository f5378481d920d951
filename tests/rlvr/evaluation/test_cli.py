"""`rlvr eval --model` as a user runs it: in processes of its own, one of them killed."""

import gzip
import json
import os
import signal
import subprocess
import sys

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from rlvr.cli import main
from tests.rlvr.families import write_family
from tests.waiting import HANG_S, wait_until

COMMAND = [sys.executable, "-m", "rlvr.cli", "eval"]


@pytest.fixture(scope="module")
def problems(tmp_path_factory):
    path = tmp_path_factory.mktemp("problems") / "digits.jsonl"
    rows = [
        {"id": f"d{i}", "problem": f"Tom has {i} apples. How many?", "answer": str(i)}
        for i in range(6)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def adapters(tiny_policy, tmp_path_factory):
    """A LoRA and a DoRA adapter of the tiny policy, both far from doing nothing."""
    folder = tmp_path_factory.mktemp("adapters")
    for name in ("lora", "dora"):
        base = AutoModelForCausalLM.from_pretrained(tiny_policy)
        config = LoraConfig(
            r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"], use_dora=name == "dora"
        )
        torch.manual_seed(len(name) + ord(name[0]))
        model = get_peft_model(base, config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn_like(parameter) * 0.3)
        model.save_pretrained(folder / name)
    return folder


def words(model, problems, out, *more):
    return [
        *("--model", model, "--benchmarks", f"digits={problems}", "--out", out),
        *("--answer-mode", "last_number", "--workers", "1", "--temperature", "1", "--top-p", "1"),
        *more,
    ]


def run(*args):
    return subprocess.run(
        [*COMMAND, *map(str, args)], capture_output=True, text=True, timeout=HANG_S, check=False
    )


def responses(folder):
    with gzip.open(folder / "generations.jsonl.gz", "rt") as file:
        rows = [json.loads(line) for line in file]
    found = {(row["id"], row["sample"]): row["response"] for row in rows}
    assert len(found) == len(rows), "a sample was drawn twice"
    return found


def adapter_words(*names):
    return [word for name in names for word in ("--adapter", name)]


SHORT = ("--samples", 2, "--max-tokens", 12)


@pytest.fixture(scope="module")
def three(tiny_policy, adapters, problems, tmp_path_factory):
    """The results of the base, a LoRA and a DoRA adapter, all three on one loaded vLLM."""
    out = tmp_path_factory.mktemp("three")
    named = adapter_words("none", adapters / "lora", adapters / "dora")
    done = run(*words(tiny_policy, problems, out, *SHORT, *named))
    assert done.returncode == 0, done.stderr[-3000:]
    return out


@pytest.mark.engine
def test_several_adapters_on_one_base_have_their_own_results_and_are_compared(three):
    base, lora, dora = (responses(three / name) for name in ("base", "lora", "dora"))
    assert len(base) == 12
    assert base != lora
    assert lora != dora
    compared = json.loads((three / "comparison.json").read_text())
    assert compared["names"] == ["base", "lora", "dora"]
    assert len(compared["comparisons"]) == 3
    assert (three / "lora" / "report.html").is_file()


@pytest.mark.engine
@pytest.mark.skipif(torch.cuda.is_available(), reason="vLLM serves adapters of experts on a GPU")
def test_an_adapter_that_vllm_cannot_serve_on_this_machine_is_refused_with_a_remedy(
    problems, tmp_path
):
    # head_dim 32: vLLM's attention on CPU takes no smaller one
    base = write_family("mixtral", tmp_path / "base", hidden_size=64, head_dim=32)
    model = AutoModelForCausalLM.from_pretrained(base)
    adapter = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj"]))
    adapter.save_pretrained(tmp_path / "lora")
    as_lora = ("--adapters-as", "lora", *adapter_words(tmp_path / "lora"))
    done = run(*words(base, problems, tmp_path / "out", *SHORT, *as_lora))
    last = done.stderr.strip().splitlines()[-1]
    assert (done.returncode, last.startswith("rlvr eval: error: --engine vllm")) == (2, True), last
    assert last.endswith("; use --adapters-as merged or --engine transformers")


@pytest.mark.engine
@pytest.mark.slow
def test_an_adapter_served_by_vllm_says_the_same_as_merged_and_leaves_the_base_alone(
    three, tiny_policy, adapters, problems, tmp_path
):
    as_lora = ("--adapters-as", "lora", *adapter_words(adapters / "lora", "none"))
    done = run(*words(tiny_policy, problems, tmp_path, *SHORT, *as_lora))
    assert done.returncode == 0, done.stderr[-3000:]
    for name in ("lora", "base"):
        assert responses(tmp_path / name) == responses(three / name)
    reordered = adapter_words(adapters / "dora", "none")
    done = run(*words(tiny_policy, problems, tmp_path / "again", *SHORT, *reordered))
    assert done.returncode == 0, done.stderr[-3000:]
    for name in ("dora", "base"):
        assert responses(tmp_path / "again" / name) == responses(three / name)


def test_a_killed_run_goes_on_in_two_processes_and_ends_like_one_that_was_not_killed(
    adapters, problems, tmp_path, capfd
):
    more = ("--engine", "transformers", "--samples", 100, "--max-tokens", 24)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    folder = adapters / "lora"
    killed = subprocess.Popen(
        [*COMMAND, *map(str, words(folder, problems, cut, *more))],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    log = cut / "generations.jsonl.gz"
    assert wait_until(lambda: log.exists() and log.stat().st_size)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    there = responses(cut)
    assert 0 < len(there) < 600, "killed too late: nothing was left to do"

    def go_on(out, *how):
        assert main(["eval", *map(str, words(folder, problems, out, *more, *how))]) == 0
        return capfd.readouterr().err

    said = go_on(cut, "--data-parallel", 2)
    assert f"{len(there)} responses are there already, {600 - len(there)} to go" in said
    go_on(whole)
    assert responses(cut) == responses(whole)
    for name in ("results.json", "problems.jsonl"):
        assert (cut / name).read_bytes() == (whole / name).read_bytes()
    assert "sampled in" not in go_on(cut), "everything was there"


@pytest.mark.slow
def test_processes_end_with_the_command_that_started_them(adapters, problems, tmp_path):
    more = ("--engine", "transformers", "--samples", 400, "--max-tokens", 24)
    named = words(adapters / "lora", problems, tmp_path / "out", *more, "--data-parallel", 2)
    started = subprocess.Popen(
        [*COMMAND, *map(str, named)], stderr=subprocess.DEVNULL, start_new_session=True
    )
    log = tmp_path / "out" / "generations.jsonl.gz"
    assert wait_until(lambda: log.exists() and log.stat().st_size)
    os.kill(started.pid, signal.SIGKILL)
    started.wait()

    def left():
        found = subprocess.run(
            ["ps", "-o", "stat=,args=", "-s", str(started.pid)],
            capture_output=True,
            text=True,
            check=False,
        )
        lines = [line.strip() for line in found.stdout.splitlines()]
        return [line for line in lines if line and not line.startswith("Z")]

    assert wait_until(lambda: not left())


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--model", "nowhere/at-all"), "no model can be loaded"),
        (("--adapter", "tests"), "not an adapter folder"),
        (("--samples", "0"), "--samples 0: at least 1"),
        (("--temperature", "0", "--samples", "2"), "give --samples 1"),
        (("--max-tokens", "100000"), "more than the model's"),
        (("--benchmarks", "aime23x"), "unknown benchmark"),
        (("--limit", "0"), "--limit 0"),
        (("--top-p", "0"), "--top-p 0.0"),
        (("--prompts-from", "nowhere.toml"), "no such recipe"),
        (("--bogus",), "unrecognized arguments"),
    ],
)
def test_a_users_error_is_one_line_and_exit_code_2(
    tiny_policy, problems, tmp_path, capsys, more, message
):
    assert main(["eval", *map(str, words(tiny_policy, problems, tmp_path / "out", *more))]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert len(err.strip().splitlines()) == 1
