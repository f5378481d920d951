"""Findings on series whose cause is known, and none on a healthy one."""

import math
import random
from dataclasses import replace

import pytest

from rlvr.report.diagnosis.diagnose import diagnose
from rlvr.report.diagnosis.policy import SYNC_TOLERANCE
from rlvr.runs.reader import RunData
from tests.rlvr.report.folders import healthy_rows, recipe


def run_with(changes=None, *, steps=100, seed=0, manifest=None, summary=None, gain=0.3, **sections):
    """A healthy run whose metrics are replaced: name -> value, or a function of (t, value) with t
    from 0 to 1."""
    rows = healthy_rows(steps, seed, gain)
    for row in rows:
        for name, change in (changes or {}).items():
            t = row["step"] / steps
            row[name] = change(t, row.get(name)) if callable(change) else change
    config = recipe(**sections | {"train": {"steps": steps}})
    return RunData("run", rows, config, manifest or {}, {}, summary or {})


def findings(run):
    return {finding.id: finding for finding in diagnose(run)}


def alarms(run):
    return {f.id for f in diagnose(run) if f.level in ("problem", "warning")}


@pytest.mark.parametrize("seed", range(40))
def test_a_healthy_run_raises_no_alarm(seed):
    run = run_with(seed=seed, steps=random.Random(seed).choice([20, 50, 100, 300]))
    assert alarms(run) == set()


def test_a_loss_near_zero_is_explained_and_is_no_alarm():
    finding = findings(run_with())["loss_near_zero"]
    assert finding.level == "note"
    text = " ".join(finding.evidence)
    assert "sum to 0" in text
    assert "grad_norm has a median of 0.1" in text


def _fall(t, value):
    return value if t < 0.5 else 0.15 + 0.01 * math.sin(50 * t)


def _random_walkless(level):
    rng = random.Random(1)
    return lambda t, value: level + rng.gauss(0, 0.03)


FLAT = _random_walkless(0.4)
STILL = {"policy/entropy": 0.5, "policy/kl_ref": 1e-6, "policy/clip_frac": 0.0}

CAUSES = [
    ("no_gradient", "problem", {"optim/grad_norm": 0.0}, {}),
    ("lr_too_high", "problem", {"reward/mean": _fall}, {}),
    (
        "lr_too_high",
        "warning",
        {
            "reward/mean": FLAT,
            "policy/entropy": lambda t, _: 0.5 + 3 * t,
            "optim/grad_norm": lambda t, _: 0.1 * 10 ** (2 * t),
        },
        {},
    ),
    ("lr_too_low", "warning", {"reward/mean": FLAT} | STILL, {}),
    ("not_learning", "warning", {"reward/mean": FLAT}, {}),
    ("near_ceiling", "note", {"reward/mean": _random_walkless(0.97)}, {}),
    (
        "groups_without_signal",
        "problem",
        {"sampler/informative_frac": lambda t, _: 0.5 * (1 - t) + 0.03},
        {},
    ),
    ("truncation", "problem", {"rollout/truncated_frac": lambda t, _: 0.7 * t}, {}),
    ("truncation", "warning", {"rollout/truncated_frac": lambda t, _: 0.2 * t}, {}),
    (
        "length_growth",
        "warning",
        {"reward/mean": FLAT, "rollout/response_len_mean": lambda t, _: 40 + 60 * t},
        {},
    ),
    ("no_answer", "warning", {"reward/no_answer_frac": 0.5}, {}),
    ("entropy_collapse", "problem", {"policy/entropy": lambda t, _: 0.5 * 0.01**t}, {}),
    ("entropy_collapse", "warning", {"policy/entropy": lambda t, _: 0.5 * 0.12**t}, {}),
    ("kl_blow_up", "problem", {"policy/kl_ref": lambda t, _: 3 * t}, {}),
    ("kl_blow_up", "warning", {"policy/kl_ref": lambda t, _: 0.5 * t}, {}),
    ("engine_mismatch", "warning", {"policy/kl_engine": 5e-4}, {}),
    ("engine_mismatch", "problem", {"policy/kl_engine": 0.5}, {}),
    ("engine_mismatch", "warning", {"sync/logprob_error": 5e-4}, {}),
    ("engine_mismatch", "problem", {"policy/kl_engine": 0.5}, {"model": {"dtype": "bfloat16"}}),
    ("verifier_failures", "warning", {"verify/failure_frac": 0.02, "verify/kills": 3.0}, {}),
    ("verifier_failures", "problem", {"verify/failure_frac": 0.2}, {}),
    ("verifier_failures", "warning", {"reward/gold_invalid_frac": 0.1}, {}),
    ("full_cache", "warning", {"rollout/preemptions": 9.0, "rollout/responses": 352.0}, {}),
    ("contamination", "problem", {}, {"eval": {"path": "train.jsonl"}}),
]


@pytest.mark.parametrize(
    ("cause", "level", "changes", "sections"), CAUSES, ids=[f"{c[0]}-{c[1]}" for c in CAUSES]
)
def test_a_known_cause_is_found_with_evidence_and_remedy(cause, level, changes, sections):
    finding = findings(run_with(changes, **sections)).get(cause)
    assert finding is not None
    assert finding.level == level
    assert any(character.isdigit() for character in " ".join(finding.evidence)) or sections
    assert finding.remedy


def test_only_what_was_changed_is_reported():
    for changes, expected in (
        ({"reward/mean": FLAT} | STILL, {"lr_too_low"}),
        ({"rollout/truncated_frac": 0.5}, {"truncation"}),
        ({"policy/entropy": lambda t, _: 0.5 * 0.12**t}, {"entropy_collapse"}),
        ({"policy/kl_engine": 5e-4}, {"engine_mismatch"}),
    ):
        assert alarms(run_with(changes)) == expected


@pytest.mark.parametrize(
    ("device", "rollout", "setting"),
    [
        ("cpu", {}, "rollout.kv_cache_gib"),
        ("cuda", {}, "rollout.gpu_memory_utilization"),
        ("cuda", {"engine": "vllm_server", "servers": ["http://a:1"]}, "rlvr serve RECIPE --"),
    ],
)
def test_a_full_cache_names_the_setting_of_the_engine(device, rollout, setting):
    full = {"rollout/preemptions": 9.0, "rollout/responses": 352.0}
    run = run_with(full, manifest={"device": device}, rollout=rollout)
    finding = findings(run)["full_cache"]
    assert "90 of 3520 responses" in finding.evidence[0]
    assert setting in finding.remedy[0]
    few = full | {"rollout/preemptions": 5.0}
    assert "full_cache" not in findings(run_with(few, manifest={"device": device}))


def test_rounding_in_bfloat16_and_leftover_groups_are_no_mismatch():
    assert alarms(run_with({"policy/kl_engine": 2e-3}, model={"dtype": "bfloat16"})) == set()
    for leftovers in ({"policy/clip_frac": 0.01}, {"rollout/staleness_mean": 0.2}):
        assert alarms(run_with({"policy/kl_engine": 5e-3} | leftovers)) == set()
    assert "leftover_groups" in findings(run_with())


def test_the_sync_tolerances_are_those_of_the_loop():
    from rlvr.engines.weights.sync import TOLERANCE

    assert {str(k).removeprefix("torch."): v for k, v in TOLERANCE.items()} == SYNC_TOLERANCE


def test_remedies_for_signal_say_whether_problems_are_too_hard_or_too_easy():
    few = {"sampler/informative_frac": 0.05}
    easy = findings(run_with(few | {"reward/mean": 0.95}))["groups_without_signal"]
    hard = findings(run_with(few | {"reward/mean": 0.02}))["groups_without_signal"]
    assert "too easy" in easy.remedy[0]
    assert "too hard" in hard.remedy[0]


def test_contamination_is_read_from_the_manifest():
    counts = {
        "train_rows": 900,
        "contaminated_rows": 3,
        "benchmarks": [{"benchmark": "amc23", "problems": 40, "exact": 2, "near": 1, "covered": 0}],
    }
    finding = findings(run_with(manifest={"contamination": counts}))["contamination"]
    assert "3 of 900 training rows" in finding.evidence
    assert "amc23: 2 exact, 1 near of 40 problems" in finding.evidence
    clean = counts | {"contaminated_rows": 0}
    assert "contamination" not in findings(run_with(manifest={"contamination": clean}))


def evaluated(share, right, answer="1", accuracy=0.11):
    """An evaluation where `share` of the responses give an answer that is right for `right`."""
    top = {"value": share, "answer": answer, "right_frac": {"value": right}}
    sets = {"heldout": {"top_answer_frac": top}}
    return {"accuracy": {"value": accuracy}, "results": {"benchmarks": sets}}


def test_a_policy_that_guesses_a_frequent_answer_is_told_from_one_that_knows_it():
    run = replace(run_with(), evals={0: evaluated(0.03, 0.05, "2"), 40: evaluated(0.55, 0.077)})
    finding = findings(run)["guessing"]
    text = " ".join(finding.evidence)
    assert "after step 40, 55% of the responses answer 1, which is right for 7.7%" in text
    assert "scores 0.077; held-out accuracy is 0.110" in text
    assert "after step 0 the most frequent answer, 2, had 3%" in text
    assert "data.max_per_answer = 5" in finding.remedy[0]
    capped = replace(run_with(data={"max_per_answer": 8}), evals={40: evaluated(0.55, 0.077)})
    assert "lower data.max_per_answer" in findings(capped)["guessing"].remedy[0]
    # a yes or no is half of the golds as well; few responses; an evaluation from before
    for share, right in ((0.6, 0.5), (0.25, 0.1), (0.19, 0.01)):
        assert "guessing" not in findings(replace(run, evals={40: evaluated(share, right)}))
    older = {"accuracy": {"value": 0.1}, "results": {"benchmarks": {"heldout": {}}}}
    assert "guessing" not in findings(replace(run, evals={40: older}))


def test_held_out_accuracy_decides_between_learning_and_a_gap():
    after = {"accuracy_before": 0.4, "accuracy_after": 0.6, "num_problems": 200, "difference": 0.2}
    good = run_with(summary=after | {"difference_ci95": [0.1, 0.3]})
    assert findings(good)["learning"].level == "good"
    bad = run_with(summary=after | {"difference": 0.0, "difference_ci95": [-0.05, 0.05]})
    assert alarms(bad) == {"held_out_gap"}
    assert "learning" not in findings(bad)
    worse = run_with(summary=after | {"difference": -0.1, "difference_ci95": [-0.15, -0.05]})
    assert findings(worse)["accuracy_fell"].level == "problem"


def test_a_sampler_that_picks_by_pass_rate_makes_no_verdict_on_reward():
    run = run_with({"reward/mean": FLAT} | STILL, sampling={"strategy": "predictive"})
    assert alarms(run) == set()


def test_short_and_unfinished_runs_say_so_and_nothing_more():
    assert set(findings(run_with(steps=3))) <= {"few_steps", "loss_near_zero", "leftover_groups"}
    assert "few_steps" in findings(run_with(steps=3))
    cut = replace(run_with(steps=60), summary=None)
    cut = replace(cut, rows=cut.rows[:30])
    assert "30 of 60" in findings(cut)["unfinished"].title
    assert diagnose(RunData("empty")) == []


def test_numbers_that_are_not_finite_do_not_disturb_a_rule():
    run = run_with({"policy/kl_ref": lambda t, v: math.nan if t > 0.9 else v})
    assert alarms(run) == set()
