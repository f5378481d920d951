"""The search on constructed curves: where it looks next, when it stops, what it believes."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from rlvr.common.errors import ConfigError
from rlvr.compare.estimate import given_lr
from rlvr.compare.execution.task import OUTCOME, RunOutcome, run_key
from rlvr.compare.learning_rate.find import RateSearch, conclude, find_rates, first_grid, more_rates
from rlvr.compare.learning_rate.grid import nearest, rate
from rlvr.compare.learning_rate.prior import prior_of, priors_from
from rlvr.compare.learning_rate.search import search as search_rates
from rlvr.compare.results import RatePoint, read_point
from rlvr.config.compare import FindConfig

CONFIG = FindConfig()


def value(lr: float, best: float) -> float:
    """A learning curve's end: a parabola in ln lr, flat at 0.4 where nothing is learned."""
    return max(0.4, 0.7 - 0.03 * math.log(lr / best) ** 2)


def points(ks, best, noise=0.0, cliff=math.inf):
    rng = np.random.default_rng(0)

    def point(k, seed):
        height = value(rate(k), best) + 0.02 * seed + noise * rng.standard_normal()
        return RatePoint(rate(k), seed, height, 20, "kl" if rate(k) >= cliff else None)

    return [point(k, seed) for k in ks for seed in (0, 1)]


def search(best, centre, **options):
    """The loop of `find_rates` on a constructed curve; (indices tried, points)."""
    tried = first_grid(centre, CONFIG)
    made = points(tried, best, **options)
    while ks := more_rates(tried, made, CONFIG):
        tried += ks
        made = points(tried, best, **options)
    return tried, made


@pytest.mark.parametrize("centre", [1e-3, 4e-4, 2.5e-3, 1e-4, 1e-2])
def test_a_vertex_is_found_from_a_centre_up_to_10_times_off(centre):
    tried, made = search(1.3e-3, centre)
    found = conclude("lora", "lora", 32, None, made, CONFIG)
    assert found.chosen_by == "fit"
    assert found.chosen_lr == pytest.approx(1.3e-3, rel=0.25)
    assert len(tried) <= CONFIG.max_points


def test_a_centre_that_is_right_costs_no_more_than_the_first_grid():
    tried, _ = search(1e-3, 1e-3)
    assert len(tried) == CONFIG.num_points


def test_a_rate_that_diverges_bounds_the_search_and_is_named():
    tried, made = search(3e-3, 3e-3, cliff=5e-3)
    assert max(tried) == nearest(3e-3) + 2, "nothing above the cliff is tried"
    found = conclude("lora", "lora", 32, None, made, CONFIG)
    assert "diverged at 0.00562, 0.01 (kl)" in found.warnings
    assert found.best_measured_lr < 5e-3


def test_where_everything_diverges_it_looks_lower_and_takes_the_smallest():
    tried, made = search(1e-3, 1e-2, cliff=0.0)
    assert len(tried) == CONFIG.max_points
    found = conclude("lora", "lora", 32, None, made, CONFIG)
    assert found.chosen_lr == rate(min(tried))
    assert any("every rate diverged" in warning for warning in found.warnings)


@pytest.mark.parametrize(
    ("made", "warning"),
    [
        (points(range(-14, -9), 1e-3, noise=0.2), "the best measured rate is taken"),
        ([RatePoint(rate(k), s, 0.5 + 0.01 * abs(k + 12), 20, None) for k in range(-14, -9)
          for s in (0, 1)], "no parabola with a maximum fits"),
    ],
)  # fmt: skip
def test_a_bad_fit_is_not_believed_and_says_why(made, warning):
    found = conclude("lora", "lora", 32, None, made, CONFIG)
    assert found.chosen_by == "best measured"
    assert found.chosen_lr == found.best_measured_lr
    assert any(warning in text for text in found.warnings)


def test_the_prior_is_loras_rate_over_the_ratio_of_eigenvalues():
    assert prior_of(20.0, 2.0, 1e-3, power=1.0).lr == pytest.approx(1e-4)
    assert prior_of(20.0, 5.0, 1e-3, power=0.5).lr == pytest.approx(5e-4)
    assert priors_from({"lora": 2.0, "pissa": 22.0}, 1e-3, 1.0)["pissa"].ratio_to_lora == (
        pytest.approx(1 / 11)
    )


def run_search(noise):
    """The search itself on noisy values; its runs as (index, seed)."""
    made, asked = RateSearch(1e-3, CONFIG), []
    rng = np.random.default_rng(3)
    while runs := made.next_runs():
        asked += runs
        made.points += [
            RatePoint(
                rate(k),
                s,
                value(rate(k), 1.3e-3) + 0.02 * s + noise * rng.standard_normal(),
                20,
                None,
            )
            for k, s in runs
        ]
    return asked


def test_seeds_are_added_until_the_vertex_is_known_and_at_the_same_rates():
    assert {seed for _, seed in run_search(noise=0.0)} == {0}
    noisy = run_search(noise=0.03)
    assert {seed for _, seed in noisy[: CONFIG.num_points]} == {0}
    assert {seed for _, seed in noisy} == set(CONFIG.seeds)
    first = {k for k, seed in noisy if seed == 0}
    assert {k for k, seed in noisy if seed > 0} <= first
    assert len(set(noisy)) == len(noisy)


def write_runs(tasks, best):
    """An executor that writes the folders of runs whose curve is known."""
    outcomes = []
    for task in tasks:
        accuracy = value(task.lr, best[task.label])
        (task.folder / "eval").mkdir(parents=True, exist_ok=True)
        fractions = {"fractions": [accuracy + 0.01 * task.seed] * 10}
        (task.folder / "eval" / "step_2.json").write_text(json.dumps(fractions))
        row = {"reward/mean": accuracy, "optim/grad_norm": 0.1, "time/step_s": 1.5}
        (task.folder / "metrics.jsonl").write_text(
            "".join(json.dumps({"step": s, **row}) + "\n" for s in (1, 2))
        )
        outcome = RunOutcome(run_key(task.recipe, task.budget), task.label, "finished", 2)
        (task.folder / OUTCOME).write_text(json.dumps(vars(outcome)))
        outcomes.append(outcome)
    return outcomes


def test_short_runs_judged_by_their_reward_are_not_evaluated(open_written):
    comparison = open_written("[methods.lora]\n[find]\nsteps = 7\n")
    task = comparison.short_task("lora", 0, 1e-3)
    assert (task.recipe.eval.path, task.recipe.train.steps) == (None, 7)
    assert comparison.task("lora", 0, 1e-3).recipe.eval.path is not None
    judged = open_written('[methods.lora]\n[find]\nsignal = "accuracy"\n')
    assert judged.short_task("lora", 0, 1e-3).recipe.eval.path is not None


def test_a_reward_of_chosen_problems_judges_no_rate(open_written):
    text, chosen = "[methods.lora]\n", {"sampling": {"strategy": "predictive"}}
    with pytest.raises(ConfigError, match=r"find\.signal = \"reward\".* set it to \"accuracy\""):
        open_written(text, **chosen).short_task("lora", 0, 1e-3)
    by_accuracy = text + '[find]\nsignal = "accuracy"\n'
    open_written(by_accuracy, **chosen).short_task("lora", 0, 1e-3)


@pytest.mark.parametrize(
    ("settings", "value"),
    [
        ({"last_frac": 0.5}, (6 + 7 + 8 + 9) / 4),
        ({"last_frac": 0.1}, (7 + 8 + 9) / 3),
        ({"last_frac": 1.0}, (2 + 3 + 4 + 5 + 6 + 7 + 8 + 9) / 8),
        ({"signal": "accuracy"}, (0.5 + 0.1) / 2),
    ],
)
def test_the_value_of_a_short_run_is_that_of_its_signal(open_written, settings, value):
    """Ten steps, two of which the step before had already filled; two sets of other sizes."""
    task = open_written("[methods.lora]\n").task("lora", 0, 1e-3)
    (task.folder / "eval").mkdir(parents=True)
    sets = {"heldout": [1.0, 0.0, 0.5, 0.5], "aime24": [0.1, 0.1]}
    (task.folder / "eval" / "step_10.json").write_text(json.dumps({"sets": sets}))
    rewards = [{"reward/mean": float(i)} if i > 1 else {} for i in range(10)]
    rows = ({"step": i + 1, "time/step_s": 1.0, **reward} for i, reward in enumerate(rewards))
    (task.folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    outcome = RunOutcome(run_key(task.recipe, task.budget), "lora", "finished", 10)
    found = read_point(task, outcome, FindConfig(**settings))
    assert found is not None
    assert found.value == pytest.approx(value)


def test_labels_are_searched_together_and_end_with_their_rates(open_written):
    comparison = open_written("[methods.lora]\n[methods.dora]\n")
    best = {"lora": 2e-3, "dora": 3e-4}
    batches = []

    def run(tasks):
        batches.append(tasks)
        return write_runs(tasks, best)

    priors = priors_from({"lora": 1.0, "dora": 4.0}, 1e-3, 1.0)
    found = find_rates(comparison, ["lora", "dora"], run, priors)
    assert {task.label for task in batches[0]} == {"lora", "dora"}
    for label, find in found.items():
        assert find.chosen_lr == pytest.approx(best[label], rel=0.25)
        assert {p.seed for p in find.points} == {0}, "an exact parabola asks for no second seed"
    tree = json.loads(json.dumps(found["dora"].to_json()))
    assert tree["prior"]["lr"] == pytest.approx(2.5e-4)
    assert tree["cost"]["steps"] == 2 * tree["cost"]["runs"] == found["dora"].num_steps
    assert set(tree["fit"]) >= {"vertex_lr", "ci95", "curvature", "peak", "r2", "coefficients"}


def test_a_methods_own_reference_rate_is_the_centre_of_its_grid(open_written):
    """No policy has to be loaded for a curvature either: nobody's prior is asked for."""
    text = "[methods.lora]\n[methods.full]\nreference_lr = 3e-5\n[find]\nreference_lr = 5.6e-4\n"
    comparison = open_written(text)
    batches = []

    def run(tasks):
        batches.append(tasks)
        return write_runs(tasks, {"lora": 5.6e-4, "full": 3.2e-5})

    found = search_rates(comparison, ["lora", "full"], run, Console(quiet=True))
    first = {
        label: [task.lr for batch in batches for task in batch if task.label == label][:5]
        for label in found
    }
    assert first == {
        "lora": [1.778e-4, 3.162e-4, 5.623e-4, 1e-3, 1.778e-3],
        "full": [1e-5, 1.778e-5, 3.162e-5, 5.623e-5, 1e-4],
    }
    assert found["full"].prior is None


def test_a_reference_rate_replaces_the_prior_of_that_method_alone(open_written):
    """LoRA's and DoRA's eigenvalues are known from before; full's would have to be measured."""
    text = "[methods.lora]\n[methods.dora]\n[methods.full]\nreference_lr = 3e-5\n"
    comparison = open_written(text)
    known = {}
    for label, eigenvalue in {"lora": 1.0, "dora": 4.0}.items():
        made = comparison.resolve(label, 0, None)
        adapter = made.adapter.model_dump(mode="json")
        key = [Path(str(made.model.path)).name, adapter, FindConfig().prior_rows]
        known[json.dumps(key, sort_keys=True)] = eigenvalue
    comparison.folder.mkdir(parents=True)
    (comparison.folder / "prior.json").write_text(json.dumps(known))
    best = {"lora": 1e-4, "dora": 2.5e-5, "full": 3.2e-5}
    found = search_rates(
        comparison, list(best), lambda tasks: write_runs(tasks, best), Console(quiet=True)
    )
    assert {label for label, find in found.items() if find.prior is None} == {"lora", "full"}
    prior = found["dora"].prior
    assert prior is not None
    assert prior.lr == pytest.approx(found["lora"].chosen_lr / 4)
    assert min(point.lr for point in found["full"].points) == pytest.approx(1e-5)
    assert given_lr(comparison, "full") == 3e-5
