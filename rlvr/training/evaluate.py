"""Evaluation during a run, by the live engine: the same scoring as `rlvr eval --generations`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.benchmarks import LoadedBenchmark
from eval.generations import Generation, write_generations
from eval.intervals import Interval, fraction_over_problems
from eval.metrics import guess
from eval.score import score_problems
from rlvr.common.files import write_whole
from rlvr.common.log import get_logger
from rlvr.common.signals import never_stop
from rlvr.config.train import HELD_OUT
from rlvr.distributed.shares import in_order
from rlvr.distributed.world import World
from rlvr.engines.engine import Engine, Request, Response, SamplingParams
from rlvr.evaluation.plan import request
from rlvr.evaluation.problem_sets import EvalSet
from rlvr.runs.metrics import EVAL_METRICS
from rlvr.runs.reader import evaluation_path, read_evaluations

if TYPE_CHECKING:
    from rewards import Verifier
    from rlvr.config.train import TrainRecipe
    from rlvr.training.build import Training

logger = get_logger(__name__)

Key = tuple[str, str, int]
"""Name of the set, id of the problem, number of the sample."""


@dataclass(frozen=True)
class Evaluation:
    """What one evaluation found. accuracy, fractions (right responses of each problem), texts (the
    first response of each) and truncated_frac are those of the first set. score: the value of
    eval.best_metric. results: as results.json of `rlvr eval` has them. sets: fractions of every
    set by its name; evaluations from before it was kept have none.
    """

    accuracy: Interval
    fractions: list[float]
    texts: list[str]
    truncated_frac: float
    score: float
    results: dict[str, Any]
    sets: dict[str, list[float]] = field(default_factory=dict)

    def to_json(self) -> dict[str, object]:
        return asdict(self)

    @classmethod
    def from_json(cls, tree: dict[str, Any]) -> Evaluation:
        return cls(**{**tree, "accuracy": Interval(**tree["accuracy"])})

    def metrics(self) -> dict[str, float]:
        """eval/accuracy, eval/accuracy_mean of several sets, and eval/<set>/<metric> of each."""
        return metrics_of(self.results, self.accuracy)


def metrics_of(results: dict[str, Any], accuracy: Interval) -> dict[str, float]:
    """The metrics of an evaluation, for the log. accuracy: of the first set."""
    found = {"eval/accuracy": accuracy.value}
    if len(results["benchmarks"]) > 1:
        found["eval/accuracy_mean"] = results["overall"]["avg@k"]["value"]
    for name, result in results["benchmarks"].items():
        values = {**result, "response_len_mean": result["length"]["mean"]}
        found |= {f"eval/{name}/{metric}": values[metric]["value"] for metric in EVAL_METRICS}
    return found


def sample_responses(
    recipe: TrainRecipe,
    sets: Sequence[EvalSet],
    engine: Engine,
    safe_point: Callable[[], None] = never_stop,
    world: World = World.alone(),
) -> list[tuple[Key, Response]]:
    """The responses that [eval] asks for, with the same seeds in every evaluation.

    The ranks share the generation. safe_point: called after every decoding step; may raise.
    """
    keys: list[Key] = []
    requests = []
    for one in sets:
        for question, prompt in zip(one.questions, one.prompts, strict=True):
            for i in range(recipe.eval.samples_of(one.loaded.name)):
                keys.append((one.loaded.name, question.id, i))
                # the same draws in every evaluation: differences between steps are the policy's
                requests.append(request(prompt, recipe.train.seed, keys[-1]))
    config, stops = recipe.eval, recipe.rollout.stop_token_ids
    sampling = SamplingParams(
        recipe.eval_len, config.temperature, config.top_p, logprobs=False, stop_token_ids=stops
    )
    width = recipe.rollout.ranks_per_engine
    check = world.synchronized_stop(safe_point, width)
    generate = partial(_generate, engine=engine, sampling=sampling, safe_point=check)
    # lengths are not known yet; with [1, 1, ...] every rank has as many requests
    dealt, parts = world.scatter_work(requests, [1] * len(requests), generate, width)
    return list(zip(keys, in_order(dealt, parts), strict=True))


def score_responses(
    recipe: TrainRecipe,
    sets: Sequence[EvalSet],
    sampled: Sequence[tuple[Key, Response]],
    verifier: Verifier,
    decode: Callable[[Sequence[int]], str],
) -> tuple[Evaluation, list[Generation]]:
    """What the responses of `sample_responses` are worth, and their texts."""
    generations = [
        Generation(
            *key,
            decode(response.token_ids),
            len(response.token_ids),
            "length" if response.truncated else "stop",
        )
        for key, response in sampled
    ]
    results, problems = score_problems(
        generations, verifier, benchmarks=[one.loaded for one in sets]
    )
    first = sets[0].loaded.name
    fractions: dict[str, list[float]] = {one.loaded.name: [] for one in sets}
    for problem in problems:
        fractions[problem["benchmark"]].append(problem["c"] / problem["n"])
    accuracy = fraction_over_problems(fractions[first], recipe.eval.samples_of(first))
    evaluation = Evaluation(
        accuracy,
        fractions[first],
        [g.response for g in generations if g.benchmark == first and g.sample == 0],
        results["benchmarks"][first]["truncated_frac"]["value"],
        metrics_of(results, accuracy)[f"eval/{recipe.eval.best_metric}"],
        results,
        fractions,
    )
    return evaluation, generations


def _generate(
    requests: Sequence[Request],
    engine: Engine,
    sampling: SamplingParams,
    safe_point: Callable[[], None],
) -> list[Response]:
    done: dict[int, Response] = {}
    with closing(engine.stream(requests, sampling)) as stream:
        for finished in stream:
            safe_point()
            done.update(finished)
    return [done[index] for index in range(len(requests))]


def evaluate_step(
    training: Training,
    run_dir: Path,
    step: int,
    say: Callable[[str], None],
) -> dict[str, float]:
    """The metrics of the policy after `step` steps; empty where the recipe evaluates nothing.

    Writes eval/step_N.jsonl.gz (what was sampled) and eval/step_N.json; warns where it cannot.
    """
    if not training.evals:
        return {}
    sampled = sample_responses(
        training.recipe, training.evals, training.engine, training.safe_point, training.world
    )
    return training.world.on_main(partial(_report, training, sampled, run_dir, step, say))


def _report(
    training: Training,
    sampled: Sequence[tuple[Key, Response]],
    run_dir: Path,
    step: int,
    say: Callable[[str], None],
) -> dict[str, float]:
    """The metrics of what was sampled; writes and prints them."""
    found, generations = score_responses(
        training.recipe, training.evals, sampled, training.verifier, training.policy.decode
    )
    path = evaluation_path(run_dir, step)
    try:
        path.parent.mkdir(exist_ok=True)
        _write_held_out(path.parent, training.evals[0].loaded)
        write_generations(path.with_suffix(".jsonl.gz"), generations)
        write_whole(path, json.dumps(found.to_json()))
    except OSError as error:
        logger.warning(f"{path} is missing: {error}; metrics.jsonl has its numbers")
    a = found.accuracy
    say(f"held-out accuracy {a.value:.3f} [{a.lo:.3f}, {a.hi:.3f}] at step {step}")
    for one in training.evals:
        for line in lines_of(one, found.results["benchmarks"][one.loaded.name]):
            say(line)
    metrics = found.metrics()
    if "eval/accuracy_mean" in metrics:
        say(f"  mean of {len(found.sets)} sets: {metrics['eval/accuracy_mean']:.3f}")
    return metrics


def lines_of(one: EvalSet, result: dict[str, Any]) -> Iterator[str]:
    """What the log says of one set."""
    name, value, (lo, hi) = one.loaded.name, result["avg@k"]["value"], result["avg@k"]["ci95"]
    total, count = len(one.loaded.questions), len(one.questions)
    of = f"{count} of {total}" if count < total else str(total)
    yield f"  {name}: avg@{result['k']} {value:.3f} [{lo:.3f}, {hi:.3f}], {of} problems"
    guessed = guess(result["top_answer_frac"])
    if guessed is not None:
        yield f"  {name}: {guessed}; data.max_per_answer makes guessing pay less"


def _write_held_out(folder: Path, loaded: LoadedBenchmark) -> None:
    """heldout.jsonl, so that `rlvr eval --generations` finds the answers."""
    path = folder / f"{HELD_OUT}.jsonl"
    if loaded.name == HELD_OUT and not path.exists():
        rows = (
            {"id": q.id, "problem": q.problem, "answer": list(q.answers) if q.others else q.answer}
            for q in loaded.questions
        )
        write_whole(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def forget_evaluations(run_dir: Path, after: int) -> None:
    """Removes the evaluations of steps that a resumed run does again."""
    for path in (run_dir / "eval").glob("step_*.json*"):
        # compared as numbers: step_10 would sort before step_2
        if int(path.name.partition(".")[0].removeprefix("step_")) > after:
            path.unlink()


def is_best(run_dir: Path, step: int) -> bool:
    """Whether the evaluation after `step` steps, if there is one, beats every earlier one since
    step 1."""
    # step 0 is the start, which no checkpoint holds
    scores = {n: tree["score"] for n, tree in read_evaluations(run_dir).items() if 1 <= n <= step}
    mine = scores.pop(step, None)
    return mine is not None and all(mine > score for score in scores.values())
