"""Each half of a run alone: trained on another run's rollouts, or only generated and scored."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from transformers import AutoTokenizer

from rlvr.cli import main
from rlvr.common.errors import ConfigError, RunError
from rlvr.config.toml import dump_toml, validate
from rlvr.config.train import TrainRecipe
from rlvr.engines.engine import Response
from rlvr.sampling.replay import (
    Replay,
    check_replay,
    groups_path,
    read_groups,
    tokenizer_sha256,
    write_groups,
)
from rlvr.sampling.rollouts import Group, StepRollouts
from rlvr.training.loop import resume, train
from tests.rlvr.small import steady_metrics

QUIET = Console(quiet=True)
# digits that a decimal of fewer than 17 loses, and what JSON proper has no number for
LOGPROBS = [-0.1, -1 / 3, -1e-17, float("nan"), -2.0000000000000004]
GROUP = Group(
    "a/1",
    [1, 2],
    [Response([3] * 5, LOGPROBS, False, [(0, 2), (1, 3)]), Response([4], [-7.1], True)],
    [1 / 3, 0.0],
    ["correct", "timeout"],
    1,
    {"own": [0.1, None]},
)
ROLLOUTS = StepRollouts([GROUP], {"reward/mean": 1 / 3, "time/rollout_s": 9.0, "sync/bytes": 7.0})


def test_groups_read_back_as_the_same_bits(tmp_path):
    write_groups(tmp_path, 2, ROLLOUTS)
    found = read_groups(tmp_path, 2)
    assert repr(found) == repr(ROLLOUTS)
    first = groups_path(tmp_path, 2).read_bytes()
    write_groups(tmp_path, 2, found)
    assert groups_path(tmp_path, 2).read_bytes() == first


def test_a_replayed_step_has_the_metrics_of_its_rollouts_and_none_of_their_making(tmp_path):
    write_groups(tmp_path, 1, ROLLOUTS)
    replay = Replay(tmp_path)
    found = replay.collect(0)
    ages = {"policy/lag_mean", "policy/lag_max", "rollout/staleness_mean"}
    assert found.metrics.keys() == {"reward/mean", "time/rollout_s", "time/verify_s"} | ages
    assert 9.0 not in found.metrics.values(), "the time of making them"
    groups_path(tmp_path, 1).write_bytes(b"\x1f\x8b")
    with pytest.raises(RunError, match=r"step_1.jsonl.gz cannot be read .*; fetch it again"):
        replay.collect(0)


@pytest.fixture
def kept(tmp_path, tiny_policy, make_recipe) -> Path:
    """A run folder as far as a replay looks at it, with the rollouts of two steps."""
    folder = tmp_path / "kept"
    for step in (1, 2):
        folder.mkdir(exist_ok=True)
        write_groups(folder, step, ROLLOUTS)
    (folder / "config.toml").write_text(dump_toml(make_recipe()))
    found = tokenizer_sha256(AutoTokenizer.from_pretrained(tiny_policy))
    facts = {"model": str(tiny_policy), "tokenizer_sha256": found}
    (folder / "manifest.json").write_text(json.dumps(facts))
    return folder


def test_what_cannot_be_replayed_is_refused_in_one_line(kept, make_recipe, tiny_policy, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(tiny_policy)

    def refused(folder: Path = kept, steps: int = 2, **rollout: float) -> str:
        recipe = make_recipe(train={"replay": str(folder), "steps": steps}, rollout=rollout)
        with pytest.raises(ConfigError) as caught:
            check_replay(recipe, tokenizer)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    check_replay(make_recipe(train={"replay": str(kept), "steps": 2}), tokenizer)
    assert "not a run folder (no manifest.json); give that of a run" in refused(tmp_path)
    assert "lacks the rollouts of step 3, and train.steps = 4; set it to 2 or less" in (
        refused(steps=4)
    )
    assert "rollout.temperature = 0.5: the log-probabilities of" in refused(temperature=0.5)
    tokenizer.add_tokens(["new"])
    assert "another tokenizer" in refused()
    shutil.rmtree(kept / "groups")
    assert "has to be made with track.save_all_rollouts = true" in refused()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"replay": "x", "rollouts_only": True}, "leave one out"),
        ({"rollouts_only": True, "profile_steps": [1]}, "leave one out"),
    ],
)
def test_halves_that_contradict_each_other_are_refused(recipe_tree, settings, message):
    with pytest.raises(ConfigError, match=message):
        validate(recipe_tree(train=settings), TrainRecipe)


def test_a_teacher_that_would_score_nothing_is_refused(recipe_tree):
    tree = recipe_tree(train={"rollouts_only": True}, teacher={"path": "x"})
    with pytest.raises(ConfigError, match=r"remove \[teacher\], or set it to false"):
        validate(tree, TrainRecipe)


def test_the_command_line_refuses_a_run_without_rollouts(write_recipe, tmp_path, capsys):
    assert main(["train", str(write_recipe()), "--replay", str(tmp_path)]) == 2
    assert "not a run folder" in capsys.readouterr().err
    assert main(["train", str(write_recipe()), "--replay", "x", "--rollouts-only"]) == 2
    assert "leave one out" in capsys.readouterr().err


def weights_of(run: Path, step: int) -> dict[str, torch.Tensor]:
    folder = run / "checkpoints" / f"step_{step}"
    # peft's file, and what another run goes on from
    files = sorted(folder.glob("*.safetensors"))
    return {f"{path.name} {k}": v for path in files for k, v in load_file(path).items()}


def same_weights(a: Path, b: Path, step: int, other_step: int | None = None) -> bool:
    one, other = weights_of(a, step), weights_of(b, other_step or step)
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


OBJECTIVES = {
    "plain": {},
    "reference": {"algorithm": {"kl_beta": 0.05}, "optim": {"updates_per_step": 2}},
    "partial": {"rollout": {"partial": True, "max_staleness": 2}},
    "full": {"adapter": {"method": "full"}, "optim": {"lr": 1e-4}},
}


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_run_replayed_under_its_own_recipe_gives_the_same_policy_bit_for_bit(
    recipe_tree, tmp_path, digit_problems, objective
):
    def recipe(name: str, **settings: object) -> TrainRecipe:
        tree = recipe_tree(**OBJECTIVES[objective])
        if objective == "full":
            tree["adapter"] = {"method": "full"}
        tree["run"] = {"dir": str(tmp_path / "runs"), "name": name}
        tree["eval"] = {"path": str(digit_problems), "limit": 4}
        tree["track"] |= {"save_all_rollouts": True}
        tree["train"] |= settings
        return validate(tree, TrainRecipe)

    first = train(recipe("first"), tmp_path / "a.toml", QUIET)
    again = train(recipe("again", replay=str(first)), tmp_path / "b.toml", QUIET)
    for step in (2, 3):
        assert same_weights(first, again, step)
    assert not same_weights(first, first, 3, 2), "or the comparison would show nothing"
    trained = [
        [{k: v for k, v in row.items() if k.startswith(("policy/", "optim/", "reward/"))}
         for row in steady_metrics(run) if "optim/lr" in row]
        for run in (first, again)
    ]  # fmt: skip
    assert trained[0] == trained[1]
    assert len(trained[0]) == 3
    assert not (again / "eval").exists()
    for step in (1, 2, 3):
        kept = read_groups(first, step).groups
        assert repr(kept) == repr(read_groups(again, step).groups)
    cut = train(
        recipe("cut", replay=str(first)), tmp_path / "c.toml", QUIET, end=lambda n, _: n == 2
    )
    resume(cut, QUIET)
    assert same_weights(first, cut, 3)
    facts = json.loads((again / "manifest.json").read_text())
    assert (facts["engine"], facts["sync"]) == ("none", "none")


@pytest.mark.slow
@pytest.mark.process
def test_rollouts_alone_are_those_of_the_untrained_policy_and_can_be_trained_on(
    make_recipe, tmp_path
):
    def recipe(name: str, **settings: object) -> TrainRecipe:
        return make_recipe(
            run={"dir": str(tmp_path / "runs"), "name": name},
            train=settings,
            track={"save_all_rollouts": True},
        )

    whole = train(recipe("whole"), tmp_path / "a.toml", QUIET)
    alone = train(recipe("alone", rollouts_only=True), tmp_path / "b.toml", QUIET)
    assert repr(read_groups(whole, 1).groups) == repr(read_groups(alone, 1).groups)
    rows = [json.loads(line) for line in (alone / "metrics.jsonl").open()]
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert all("reward/mean" in row and "policy/loss" not in row for row in rows)
    assert all(g.policy_version == 0 for n in (1, 2, 3) for g in read_groups(alone, n).groups)
    assert same_weights(alone, alone, 2, 3), "nothing is trained"
    with gzip.open(alone / "rollouts" / "step_3.jsonl.gz", "rt") as file:
        assert json.loads(file.readline())["advantage"] is not None
    trained = train(recipe("trained", replay=str(alone)), tmp_path / "c.toml", QUIET)
    rows = [json.loads(line) for line in (trained / "metrics.jsonl").open()]
    assert [row["policy/lag_max"] for row in rows] == [0.0, 1.0, 2.0]
    assert not same_weights(trained, trained, 2, 3)
