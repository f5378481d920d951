"""Whether the training problems contain evaluation problems: looked at once, when a run starts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from eval.benchmarks import LoadedBenchmark, Question, find_file, load_benchmark
from eval.contamination import check_contamination
from eval.records import BENCHMARKS
from rewards import Verifier
from rlvr.common.log import get_logger
from rlvr.data.problems import GENERATED

if TYPE_CHECKING:
    from rlvr.config.train import DataConfig, TrainRecipe
    from rlvr.data.problems import Problem

logger = get_logger(__name__)


def problem_text(problem: Problem, config: DataConfig) -> str:
    """The problem's own text, without the template around it."""
    before, _, after = config.prompt_template.partition("{problem}")
    # the last message is the user's: a system message or earlier turns may stand before it
    return problem.prompt[-1]["content"].removeprefix(before).removesuffix(after)


def question_of(problem: Problem, config: DataConfig) -> Question:
    """The training problem in the form of an evaluation problem, with all its golds."""
    others = tuple(gold.text for gold in problem.others)
    return Question(problem.id, problem_text(problem, config), problem.answer, others=others)


def check_training_data(
    recipe: TrainRecipe, problems: Sequence[Problem], evaluated: Sequence[LoadedBenchmark]
) -> dict | None:
    """Counts for the manifest, with a warning on the screen where there is something to warn of.

    Looks for the problem sets of the run and for every known benchmark whose file is here, since
    the checkpoints will be scored on those. Generated problems need no check: None.
    """
    if recipe.data.path.startswith(GENERATED):
        return None
    known = {name: load_benchmark(name) for name in BENCHMARKS if _is_here(name)}
    against = list((known | {loaded.name: loaded for loaded in evaluated}).values())
    if not against:
        return None
    rows = (question_of(problem, recipe.data) for problem in problems)
    # a verifier of its own: the run's may look for answers elsewhere than in boxes
    with Verifier(num_workers=1) as judge:
        report = check_contamination(rows, against, judge)
    summary = report.summary()
    if summary["contaminated_rows"]:
        found = [b for b in report.benchmarks if b.exact + b.near]
        listed = ", ".join(f"{b.exact + b.near} of {b.benchmark}" for b in found)
        names = " ".join(b.benchmark for b in found if b.benchmark in BENCHMARKS)
        remedy = f"rlvr data check FILE --against {names} --filtered CLEAN.jsonl" if names else ""
        logger.warning(
            f"contamination: {summary['contaminated_rows']} of {summary['train_rows']} training"
            f" problems repeat evaluation problems ({listed})"
            + (f"; {remedy} writes the clean rows" if remedy else "")
        )
    return summary


def _is_here(name: str) -> bool:
    """Whether the benchmark can be read without the hub."""
    return all(find_file(file.name) is not None for file in BENCHMARKS[name].files)
