"""Evaluation in training: the same numbers as offline, the best checkpoint, contamination."""

import gzip
import json
from collections import Counter
from statistics import fmean

import pytest

from eval.benchmarks import load_benchmark
from eval.generations import Generation
from eval.score import score_problems
from rewards import Verifier
from rlvr.common.errors import ConfigError
from rlvr.config.toml import dump_toml, validate
from rlvr.config.train import TrainRecipe
from rlvr.evaluation.problem_sets import EvalSet
from rlvr.runs.checkpoint import best_checkpoint
from rlvr.runs.metrics import EVAL_METRICS, METRICS, is_known
from rlvr.training.evaluate import forget_evaluations, is_best, lines_of


@pytest.fixture(scope="module")
def run_folder(rlvr_command, make_recipe, digit_problems, tmp_path_factory):
    """A run of three steps that evaluates problems and a benchmark at every step."""
    folder = tmp_path_factory.mktemp("evaluated")
    bench = folder / "bench.jsonl"
    rows = [
        {"id": f"b{i}", "problem": f"Sam has {i} pears and eats {i}. What is 3?", "answer": "3"}
        for i in range(12)
    ]
    leaked = json.loads(digit_problems.read_text().split("\n")[4]) | {"id": "leaked"}
    bench.write_text("".join(json.dumps(row) + "\n" for row in [*rows, leaked]))
    recipe = make_recipe(
        run={"dir": str(folder / "runs"), "name": "run"},
        data={"prompt_template": "Solve: {problem}"},
        eval={
            "path": str(digit_problems),
            "limit": 10,
            "benchmarks": [f"bench={bench}"],
            "samples": 3,
            "samples_by_set": {"heldout": 2},
            "max_len": 20,
            "every": 1,
            "best_metric": "bench/avg@k",
        },
        train={"steps": 3, "checkpoint_every": 0, "keep_checkpoints": 1},
    )
    (folder / "recipe.toml").write_text(dump_toml(recipe))
    done = rlvr_command("train", folder / "recipe.toml")
    assert done.returncode == 0, done.stderr
    return folder / "runs" / "run", bench, done


def test_the_number_in_training_is_the_number_offline_on_the_same_generations(
    run_folder, rlvr_command, tmp_path
):
    run, bench, _ = run_folder
    logged = [json.loads(line) for line in (run / "metrics.jsonl").open()]
    stored = json.loads((run / "eval" / "step_3.json").read_text())
    done = rlvr_command(
        *("eval", "--generations", run / "eval" / "step_3.jsonl.gz", "--out", tmp_path / "o"),
        *("--benchmarks", f"heldout={run / 'eval' / 'heldout.jsonl'},bench={bench}"),
        *("--answer-mode", "last_number"),
    )
    assert done.returncode == 0, done.stderr
    offline = json.loads((tmp_path / "o" / "results.json").read_text())
    for name, result in offline["benchmarks"].items():
        inside = stored["results"]["benchmarks"][name]
        assert {k: v for k, v in result.items() if k != "source"} == {
            k: v for k, v in inside.items() if k != "source"
        }
        for metric in ("avg@k", "pass@k", "maj@k"):
            assert logged[-1][f"eval/{name}/{metric}"] == result[metric]["value"]
    assert logged[-1]["eval/accuracy"] == offline["benchmarks"]["heldout"]["avg@k"]["value"]
    assert offline["benchmarks"]["bench"]["missing"]["count"] == 3, "eval.limit is stated"
    assert offline["benchmarks"]["bench"]["samples_per_problem"] == [3, 3]


@pytest.mark.parametrize("guesses", [True, False])
def test_the_log_names_a_guess(tmp_path, guesses):
    path = tmp_path / "sums.jsonl"
    rows = [{"id": str(i), "problem": f"What is {i}+1?", "answer": str(i + 1)} for i in range(12)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    loaded = load_benchmark(f"sums={path}")
    said = ["7"] * 10 + ["x", "y"] if guesses else [str(row["answer"]) for row in rows]
    generations = [
        Generation("sums", str(i), 0, f"\\boxed{{{answer}}}") for i, answer in enumerate(said)
    ]
    with Verifier() as verifier:
        results, _ = score_problems(generations, verifier, benchmarks=[loaded])
    first, *rest = lines_of(EvalSet(loaded, [[1]] * 12), results["benchmarks"]["sums"])
    assert first.startswith("  sums: avg@1 0.083 [" if guesses else "  sums: avg@1 1.000 [")
    assert first.endswith("], 12 problems")
    assert rest == guesses * [
        "  sums: 83% of the responses answer 7, which is right for 8.3% of the problems;"
        " data.max_per_answer makes guessing pay less"
    ]


def test_every_set_has_its_own_number_of_responses_of_the_evaluations_length(run_folder):
    run, _, _ = run_folder
    with gzip.open(run / "eval" / "step_3.jsonl.gz", "rt") as file:
        rows = [json.loads(line) for line in file]
    found = Counter(row["benchmark"] for row in rows)
    assert found == {"heldout": 10 * 2, "bench": 10 * 3}
    assert max(row["response_len"] for row in rows) == 20, "rollouts have up to 32"


def test_the_accuracy_over_all_sets_is_the_mean_of_theirs(run_folder):
    run, _, _ = run_folder
    logged = [json.loads(line) for line in (run / "metrics.jsonl").open()][-1]
    stored = json.loads((run / "eval" / "step_3.json").read_text())
    means = {name: fmean(values) for name, values in stored["sets"].items()}
    assert means == {name: logged[f"eval/{name}/avg@k"] for name in ("heldout", "bench")}
    assert logged["eval/accuracy_mean"] == pytest.approx(fmean(means.values()))
    assert logged["eval/accuracy"] == means["heldout"], "that of the first set is what it was"


def test_the_best_checkpoint_is_kept_by_the_metric_that_was_chosen(run_folder):
    run, _, _ = run_folder
    scores = {
        step: json.loads((run / "eval" / f"step_{step}.json").read_text())["score"]
        for step in (1, 2, 3)
    }
    summary = json.loads((run / "summary.json").read_text())
    best = int(summary["best_checkpoint"].rpartition("_")[2])
    assert scores[best] == max(scores.values())
    assert best_checkpoint(run) == run / summary["best_checkpoint"]
    assert (run / summary["best_checkpoint"] / "adapter_model.safetensors").is_file()
    assert summary["num_problems"] == 10
    stored = json.loads((run / "eval" / "step_3.json").read_text())
    assert stored["score"] == stored["results"]["benchmarks"]["bench"]["avg@k"]["value"]


def test_only_a_higher_score_than_all_before_is_best(run_folder, tmp_path):
    run, _, _ = run_folder
    (tmp_path / "eval").mkdir()
    stored = json.loads((run / "eval" / "step_1.json").read_text())
    for step, score in ((0, 0.9), (1, 0.2), (2, 0.5), (3, 0.5)):
        path = tmp_path / "eval" / f"step_{step}.json"
        path.write_text(json.dumps(stored | {"score": score}))
    assert [is_best(tmp_path, step) for step in (1, 2, 3, 4)] == [True, True, False, False]


def test_evaluations_of_steps_that_are_done_again_are_forgotten(tmp_path):
    (tmp_path / "eval").mkdir()
    names = {f"step_{n}{end}" for n in (0, 2, 10) for end in (".json", ".jsonl.gz")}
    for name in names:
        (tmp_path / "eval" / name).touch()
    forget_evaluations(tmp_path, after=2)
    left = {path.name for path in (tmp_path / "eval").iterdir()}
    assert left == {name for name in names if not name.startswith("step_10")}


def test_training_problems_that_are_evaluated_are_recorded_and_warned_of(run_folder):
    run, _, done = run_folder
    found = json.loads((run / "manifest.json").read_text())["contamination"]
    by_name = {b["benchmark"]: b for b in found["benchmarks"]}
    assert by_name["bench"]["exact"] == 1
    assert by_name["heldout"]["exact"] == 10
    assert found["contaminated_rows"] == 10
    assert "10 of 60 training problems repeat evaluation problems" in done.stderr
    assert "1 of bench" in done.stderr


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"every": 2}, "without eval.path and eval.benchmarks"),
        ({"benchmarks": ["aime24"], "best_metric": "aime25/avg@k"}, "eval.best_metric"),
        ({"benchmarks": ["aime24"], "best_metric": "aime24/length"}, "eval.best_metric"),
        ({"benchmarks": ["aime24"], "best_metric": "accuracy_mean"}, "eval.best_metric"),
        ({"benchmarks": ["aime24"], "samples_by_set": {"aime25": 4}}, "aime25: no such set"),
        ({"benchmarks": ["aime24"], "max_len": 160}, "eval.max_len = 160: leaves no room"),
    ],
)
def test_settings_that_cannot_work_are_refused(recipe_tree, settings, message):
    with pytest.raises(ConfigError, match=message):
        validate(recipe_tree(eval=settings), TrainRecipe)


def test_an_unknown_benchmark_is_refused_before_a_model_is_loaded(write_recipe, capsys):
    from rlvr.cli import main

    assert main(["train", str(write_recipe(eval={"benchmarks": ["aime2"]}))]) == 2
    assert "did you mean aime2" in capsys.readouterr().err


CONDITIONAL = {
    "policy/kl_ref": "algorithm.kl_beta above 0",
    "policy/kl_teacher": "[teacher]",
    "policy/entropy_coef": "algorithm.entropy_coef above 0, or entropy_target",
    "policy/masked_frac": "algorithm.geometric_mask or off_policy_mask",
    "optim/loss_scale": 'model.dtype = "float16"',
    "perf/mfu": "a GPU whose peak is known",
    "eval/loss": "`rlvr sft` with data.held_out",
    "reward/extra_failures": "[[reward.extra]]",
    "memory/trainer_gib": "a GPU",
    "memory/engine_gib": "a GPU",
    "rollout/preemptions": "vLLM as the engine",
    "rollout/cache_peak_frac": "vLLM as the engine",
}
"""Metrics of the table that a plain run has not, and what brings them."""


def test_a_run_logs_the_metrics_of_the_table_and_no_others(run_folder):
    run, _, _ = run_folder
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    logged = {name for row in rows for name in row} - {"step"}
    assert [name for name in logged if not is_known(name)] == []
    assert METRICS.keys() - logged == CONDITIONAL.keys()
    sets = {f"eval/{name}/{metric}" for name in ("heldout", "bench") for metric in EVAL_METRICS}
    assert sets <= logged
