"""Rewards of the user's own: what they are called with, what they give, and what fails."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from rewards import Gold, Reason, Verdict
from rlvr.common.errors import ConfigError
from rlvr.config.toml import dump_toml, load_recipe
from rlvr.config.train import TrainRecipe
from rlvr.data.absolute_paths import absolute
from rlvr.data.problems import Problem
from rlvr.engines.engine import Response
from rlvr.runs.metrics import is_known
from rlvr.sampling.extra import MAX_INLINE_CHARS, ExtraRewards, style_of
from rlvr.sampling.reward import shaped_rewards
from rlvr.sampling.rollouts import EngineCost, Group, RolloutStats
from tests.rlvr.cases import make_recipe

OWN = Path(__file__).with_name("own_rewards.py")
QUESTION = "What is 1 + 1?"
RIGHT, LATE = Verdict(True, Reason.CORRECT, "2", "fast", 0.1), Reason.TIMEOUT
UNJUDGED = Verdict(False, LATE, None, "pool", 0.1)

pytestmark = pytest.mark.process


def problem(messages: bool = False) -> Problem:
    message = {"role": "user", "content": QUESTION}
    row = {"problem": [message] if messages else QUESTION, "answer": "2", "bonus": 10}
    return Problem("7", (message,), "2", Gold.parse("2"), row=row)


def recipe(*functions: str, **settings) -> TrainRecipe:
    tables = [{"function": f"{OWN}:{name}", **settings} for name in functions]
    return make_recipe(reward={"extra": tables})


def judge(
    recipe: TrainRecipe, texts: list[str], verdicts=None, messages=False
) -> dict[str, list[float | None]]:
    responses = [Response([1, 2, 3], [0.0] * 3, False) for _ in texts]
    extra = ExtraRewards(recipe)
    try:
        return extra.judge(problem(messages), responses, texts, verdicts or [RIGHT] * len(texts))
    finally:
        extra.close()


def test_a_function_gets_problem_response_verdict_and_row_and_may_be_a_coroutine():
    texts = ["so it is", "it is"]
    found = judge(recipe("answer_len", "told"), texts)
    assert found == {"answer_len": [11.0, 11.0], "told": [1.0, 0.0]}


def test_a_long_response_arrives_whole():
    texts = ["so " + "word " * MAX_INLINE_CHARS, "so 2"]
    assert judge(recipe("told"), texts) == {"told": [1.0, 1.0]}


FAILURES = "raise hang sleep nan inf none text memory depth exit kill".split()


def test_what_fails_is_none_and_nothing_else_is_touched(caplog):
    texts = [f"so {word}" for word in ("fine", *FAILURES, "fine")]
    with caplog.at_level(logging.WARNING, "rlvr"):
        found = judge(recipe("odd", timeout_s=1.0), texts)
    assert found == {"odd": [2.0, *[None] * len(FAILURES), 2.0]}
    told = caplog.text
    for reason in ("ValueError: no such word", "took longer than timeout_s", "returned nan",
                   "returned -inf", "returned None", "needed more than memory_mib",
                   "recursion was too deep", "process died", "returned '1.0'"):  # fmt: skip
        assert reason in told, reason


def test_what_the_verifier_did_not_judge_is_not_asked():
    found = judge(recipe("answer_len"), ["a", "b"], [UNJUDGED, RIGHT])
    assert found == {"answer_len": [None, 11.0]}
    assert judge(recipe("for_trl"), ["a", "b"], [UNJUDGED] * 2) == {"for_trl": [None, None]}


def test_a_reward_of_trl_gets_columns_and_may_leave_a_response_out():
    texts = ["skip", "nan", "four"]
    assert judge(recipe("for_trl"), texts) == {"for_trl": [0.0, None, 4 + 10 + 3]}
    # messages where the dataset has messages, as trl has it
    assert judge(recipe("for_trl_async"), texts) == {"for_trl_async": [0.0] * 3}
    assert judge(recipe("for_trl_async"), texts, messages=True) == {"for_trl_async": [1.0] * 3}
    assert judge(recipe("too_few"), texts) == {"too_few": [None] * 3}


def test_trls_own_trainer_gives_a_reward_function_the_same_numbers():
    """The oracle: trl's code that calls reward functions, on the same rows."""
    from types import SimpleNamespace

    import torch
    from trl import GRPOTrainer

    from tests.rlvr.sampling import own_rewards

    texts = ["skip", "four", "a longer one"]
    row = {"prompt": QUESTION, "problem": QUESTION, "answer": "2", "bonus": 10}
    kept: list = []

    def reward(prompts, completions, bonus, trainer_state=None, **kwargs):
        kept.append(kwargs.keys())
        return own_rewards.for_trl(completions, prompts, bonus, **kwargs)

    trainer = SimpleNamespace(
        accelerator=SimpleNamespace(
            device=torch.device("cpu"), gather=lambda x: x, is_main_process=False
        ),
        # the second, as trl warns of a row that every function leaves out
        reward_funcs=[reward, lambda **_: [0.0] * 3],
        reward_processing_classes=[None, None],
        reward_func_names=["for_trl", "zero"],
        state=SimpleNamespace(global_step=0),
        environments=None,
        _log_completion_extra=lambda *_: None,
        _log_metric=lambda *_: None,
        args=SimpleNamespace(report_to=[]),
        model=SimpleNamespace(training=True),
        _metrics={"train": {}, "eval": {}},
    )
    ids = [[1, 2, 3]] * 3
    # without its clock, which wants a whole trainer
    calculate = GRPOTrainer._calculate_rewards.__wrapped__
    theirs = calculate(trainer, [row] * 3, [QUESTION] * 3, texts, ids)
    ours = judge(recipe("for_trl"), texts)["for_trl"]
    assert torch.nan_to_num(theirs[:, 0]).tolist() == ours
    assert kept


def shaped(extra, weight, **settings):
    config = recipe("odd", weight=weight).reward.model_copy(update=settings)
    responses = [Response([1], [0.0], False)] * 4
    wrong = Verdict(False, Reason.WRONG, "3", "fast", 0.1)
    return shaped_rewards(config, responses, [RIGHT, wrong, RIGHT, wrong], [""] * 4, 9, extra)


def test_a_weighted_value_is_added_and_a_failure_leaves_the_group():
    assert shaped({"odd": [1.0, 2.0, 4.0, 0.0]}, 0.5) == [1.5, 1.0, 3.0, 0.0]
    assert shaped({"odd": [1.0, None, 4.0, 0.0]}, -1.0) == [0.0, 0.0, -3.0, 0.0]
    whole = shaped({"odd": [1.0, 0.0, 4.0, 0.0]}, 1.0, normalise=True)
    without = shaped({"odd": [1.0, None, 4.0, 0.0]}, 1.0, normalise=True)
    assert without[1] == 0.0
    assert without[0] != whole[0], "normalised over the three that are left"


def test_a_failure_is_counted_and_its_response_is_not_trained_on():
    responses = [Response([1], [0.0], False)] * 3
    reasons = ["correct", "wrong", "timeout"]
    extra = {"a": [1.0, None, None], "b": [3.0, 5.0, None]}
    group = Group("1", [1], responses, [4.0, 0.0, 0.0], reasons, 0, extra)
    assert group.judged == [True, False, False]
    assert not group.comparable
    assert Group.from_tree(json.loads(json.dumps(group.to_tree()))) == group
    stats = RolloutStats(costs=[EngineCost(1, 1, 1.0, 1.0)], fresh=[group], num_asked=3)
    found = stats.metrics([group], 0)
    assert (found["reward/extra_a"], found["reward/extra_b"]) == (1.0, 4.0)
    assert found["reward/extra_failures"] == 1.0
    assert all(map(is_known, found))


REFUSED = {
    "no such file": "none.py:reward",
    "has no function reward; it has answer_len": f"{OWN}:reward",
    "has no function NOT_A_FUNCTION": f"{OWN}:NOT_A_FUNCTION",
    "it is called with (problem, response": f"{OWN}:of_two",
    "no module no_such_module": "no_such_module:reward",
}


@pytest.mark.parametrize(("message", "name"), REFUSED.items(), ids=REFUSED)
def test_what_cannot_be_called_is_refused_before_anything_loads(message, name):
    (one,) = make_recipe(reward={"extra": [{"function": name}]}).reward.extra
    with pytest.raises(ConfigError) as error:
        style_of(one)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ([{"function": "no_colon"}], "reward.extra.0.function = 'no_colon'"),
        ([{"function": "a:b"}, {"function": "c:b"}], "reward.extra.name: two are called b"),
        ([{"function": "a:b", "wieght": 1}], "reward.extra.0.wieght: unknown setting"),
    ],
)
def test_a_table_with_a_mistake_is_refused(extra, message):
    with pytest.raises(ConfigError) as error:
        make_recipe(reward={"extra": extra})
    assert message in str(error.value)


def test_the_tables_are_kept_in_config_toml_with_absolute_files(tmp_path, monkeypatch):
    monkeypatch.chdir(OWN.parent)
    tables = [{"function": "own_rewards.py:odd", "weight": 0.5}, {"function": "math:sqrt"}]
    kept = absolute(make_recipe(reward={"extra": tables}))
    (tmp_path / "config.toml").write_text(dump_toml(kept))
    found = load_recipe(tmp_path / "config.toml", [], TrainRecipe)
    assert found.reward.extra == kept.reward.extra
    assert [one.function for one in found.reward.extra] == [f"{OWN}:odd", "math:sqrt"]


def test_selection_learns_nothing_from_a_response_that_an_extra_reward_failed_on():
    from rlvr.sampling.collector import Collector
    from rlvr.sampling.group_stream import GroupRequest

    config, one = make_recipe(sampling={"strategy": "predictive"}), problem()
    parts = {name: getattr(config, name) for name in ("rollout", "sampling", "reward", "train")}
    responses = [Response([1], [0.0], False)] * 3

    def learned(reasons: list[str], extra: dict[str, list[float | None]]) -> dict:
        collector = Collector([one], [[1]], None, None, str, **parts)
        group = Group("7", [1], responses, [1.0, 0.0, 0.0], reasons, 0, extra)
        collector._observe([(0, GroupRequest(0, one, [1], [1, 2, 3]), group)], step=4)
        return collector.state()["selector"]

    failed = learned(["correct", "correct", "wrong"], {"a": [1.0, None, 1.0]})
    assert failed == learned(["correct", "timeout", "wrong"], {})
    assert failed != learned(["correct", "correct", "wrong"], {})
