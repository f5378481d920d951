"""Runs and evaluations pay nothing in thinking that never ended, where the prompt opens it."""

import json
from contextlib import closing

import pytest
from rich.console import Console

from rlvr.cli import main
from rlvr.training.loop import train
from rlvr.training.resume import restore
from tests.rlvr.data.test_think import OPENS
from tests.rlvr.small import read_lines

pytestmark = pytest.mark.process
QUIET = Console(quiet=True)


@pytest.fixture
def opens(tmp_path):
    path = tmp_path / "opens.jinja"
    path.write_text(OPENS)
    return str(path)


def test_a_run_asks_for_the_end_of_thinking_by_its_template_and_keeps_to_it(
    make_recipe, tmp_path, opens
):
    """A random policy says numbers, and never </think>."""
    recipe = make_recipe(
        run={"dir": str(tmp_path / "runs"), "name": "run"},
        data={"chat_template": opens},
        sampling={"dynamic": False},
        train={"steps": 1},
    )
    folder = train(recipe, tmp_path / "recipe.toml", QUIET)
    (row,) = read_lines(folder)
    assert row["reward/no_answer_frac"] == 1
    facts = json.loads((folder / "manifest.json").read_text())
    assert facts.pop("require_closed_think") is True
    # a run from before anybody looked goes on as it began
    (folder / "manifest.json").write_text(json.dumps(facts))
    training, _ = restore(folder, None)
    with closing(training):
        assert training.verifier.verify("7", "7").correct


def test_an_evaluation_asks_for_it_by_the_template_unless_told_otherwise(
    tiny_policy, digit_problems, tmp_path, opens, capsys
):
    words = ["eval", "--model", tiny_policy, "--benchmarks", f"digits={digit_problems}"]
    words += ["--answer-mode", "last_number", "--engine", "transformers", "--samples", "1"]
    words += ["--limit", "40", "--max-tokens", "24", "--workers", "1"]

    def format_rate(*more):
        out = tmp_path / more[0].strip("-")  # sampled once, scored anew
        assert main([*map(str, words), "--out", str(out), *more]) == 0
        results = json.loads((out / "results.json").read_text())
        return results["benchmarks"]["digits"]["format_rate"]["value"]

    of_file = ("--chat-template", opens)
    assert format_rate(*of_file) == 0
    assert "prompts end in <think>" in capsys.readouterr().err
    assert format_rate(*of_file, "--no-require-closed-think") > 0
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        f'[model]\npath = "{tiny_policy}"\n[data]\npath = "x.jsonl"\nchat_template = "{opens}"\n'
        "[optim]\nlr = 1e-3\n[train]\nsteps = 1\n"
        '[reward]\nanswer_mode = "last_number"\nrequire_closed_think = false\n'
    )
    of_recipe = ("--prompts-from", str(recipe))
    assert format_rate(*of_recipe) > 0
    assert format_rate(*of_recipe, "--require-closed-think") == 0
