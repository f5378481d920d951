"""`rlvr eval --model` as a user runs it: in processes of its own, one of them killed."""

import gzip
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from rlvr.cli import main

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
    import peft
    import torch
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("adapters")
    for name in ("lora", "dora"):
        base = AutoModelForCausalLM.from_pretrained(tiny_policy)
        config = peft.LoraConfig(
            r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"], use_dora=name == "dora"
        )
        torch.manual_seed(len(name) + ord(name[0]))
        model = peft.get_peft_model(base, config)
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
        [*COMMAND, *map(str, args)], capture_output=True, text=True, timeout=280, check=False
    )


def responses(folder):
    with gzip.open(folder / "generations.jsonl.gz", "rt") as file:
        rows = [json.loads(line) for line in file]
    found = {(row["id"], row["sample"]): row["response"] for row in rows}
    assert len(found) == len(rows), "a sample was drawn twice"
    return found


@pytest.mark.engine
def test_several_adapters_on_one_base_are_served_exactly_and_compared(
    tiny_policy, adapters, problems, tmp_path
):
    short = ("--samples", 2, "--max-tokens", 12)
    named = [
        w for name in ("none", adapters / "lora", adapters / "dora") for w in ("--adapter", name)
    ]
    done = run(*words(tiny_policy, problems, tmp_path / "both", *short, *named))
    assert done.returncode == 0, done.stderr[-3000:]
    base, lora, dora = (responses(tmp_path / "both" / n) for n in ("base", "lora", "dora"))
    assert len(base) == 12
    assert base != lora
    assert lora != dora
    compared = json.loads((tmp_path / "both" / "comparison.json").read_text())
    assert compared["names"] == ["base", "lora", "dora"]
    assert len(compared["comparisons"]) == 3
    assert (tmp_path / "both" / "lora" / "report.html").is_file()
    # by vLLM's own LoRA kernels the adapter says the same as merged, and a base after it too
    as_lora = ("--adapters-as", "lora", "--adapter", adapters / "lora", "--adapter", "none")
    done = run(*words(tiny_policy, problems, tmp_path / "lora", *short, *as_lora))
    assert done.returncode == 0, done.stderr[-3000:]
    assert responses(tmp_path / "lora" / "lora") == lora
    assert responses(tmp_path / "lora" / "base") == base


def test_a_killed_run_goes_on_in_two_processes_and_ends_like_one_that_was_not_killed(
    tiny_policy, adapters, problems, tmp_path
):
    more = ("--engine", "transformers", "--samples", 40, "--max-tokens", 24)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    folder = adapters / "lora"
    killed = subprocess.Popen(
        [*COMMAND, *map(str, words(folder, problems, cut, *more))],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    log = cut / "generations.jsonl.gz"
    deadline = time.monotonic() + 200
    while not (log.exists() and log.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    there = responses(cut)
    assert 0 < len(there) < 240, "killed too late: nothing was left to do"
    done = run(*words(folder, problems, cut, *more, "--data-parallel", 2))
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"{len(there)} responses are there already, {240 - len(there)} to go" in done.stderr
    assert run(*words(folder, problems, whole, *more)).returncode == 0
    assert responses(cut) == responses(whole)
    for name in ("results.json", "problems.jsonl"):
        assert (cut / name).read_bytes() == (whole / name).read_bytes()
    again = run(*words(folder, problems, cut, *more))
    assert "sampled in" not in again.stderr, "everything was there"


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
