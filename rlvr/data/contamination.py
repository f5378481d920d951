"""Whether the training problems contain evaluation problems: looked at once, when a run starts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from eval.benchmarks import LoadedBenchmark, Question, find_file, load_benchmark
from eval.contamination import bare, check_contamination
from eval.records import BENCHMARKS
from rewards import Verifier
from rlvr.common.log import get_logger
from rlvr.data.rows import GENERATED

if TYPE_CHECKING:
    from rlvr.config.data import DataConfig
    from rlvr.config.train import TrainRecipe
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


def questions_of(problems: Iterable[Problem], config: DataConfig) -> Iterator[Question]:
    """The training problems, of whatever source, in the form of evaluation problems."""
    parts = config.parts
    return (question_of(problem, parts[problem.source]) for problem in problems)


def num_repeated(problems: Sequence[Problem], config: DataConfig) -> int:
    """How many problems stand in an earlier source too, equal but for layout; warns of them."""
    parts, pairs = config.parts, []
    first: dict[str, Problem] = {}
    for problem in problems:
        text = bare(problem_text(problem, parts[problem.source]))
        met = first.setdefault(text, problem)
        if met.source != problem.source:
            pairs.append((problem, met))
    if pairs:
        later, earlier = pairs[0]
        logger.warning(
            f"data.source: {len(pairs)} problems stand in an earlier source too, such as"
            f" {later.id}, which is {earlier.id}: they are drawn for both; take them out of one"
        )
    return len(pairs)


def check_training_data(
    recipe: TrainRecipe, problems: Sequence[Problem], evaluated: Sequence[LoadedBenchmark]
) -> dict | None:
    """Counts for the manifest, with a warning on the screen where there is something to warn of.

    Looks for the problem sets of the run and for every known benchmark whose file is here, since
    the checkpoints will be scored on those. Generated problems need no check: None.
    """
    config = recipe.data
    if all(path.startswith(GENERATED) for path in config.paths):
        return None
    known = {name: load_benchmark(name) for name in BENCHMARKS if _is_here(name)}
    against = list((known | {loaded.name: loaded for loaded in evaluated}).values())
    if not against:
        return None
    loaded = (p for p in problems if not config.paths[p.source].startswith(GENERATED))
    rows = questions_of(loaded, config)
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
