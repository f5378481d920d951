"""The problem sets that a run evaluates: the problems of eval.path, then its benchmarks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from eval.benchmarks import LoadedBenchmark, Question, load_benchmark, resolve
from eval.records import Benchmark
from rlvr.common.errors import ConfigError
from rlvr.common.own_code import is_reader
from rlvr.config.train import HELD_OUT, DataConfig, TrainRecipe
from rlvr.data import tables
from rlvr.data.chat import read_template
from rlvr.data.contamination import question_of
from rlvr.data.problems import Dataset
from rlvr.evaluation.plan import PromptStyle

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class EvalSet:
    """Problems scored under one name; the first of them, one per prompt, are sampled."""

    loaded: LoadedBenchmark
    prompts: list[list[int]]

    @property
    def questions(self) -> Sequence[Question]:
        """The problems that are sampled."""
        return self.loaded.questions[: len(self.prompts)]


def held_out_data(recipe: TrainRecipe) -> DataConfig | None:
    """The evaluation's data settings: the training ones with the source exchanged."""
    config = recipe.eval
    if config.path is None:
        return None
    # the generator's splits share no problem; most hub datasets call theirs "test"
    default_split = "heldout" if config.path.startswith("generated:") else "test"
    is_file = tables.is_file(config.path) or is_reader(config.path)
    after = recipe.data.answer_after if config.answer_after is None else config.answer_after
    return recipe.data.model_copy(
        update={
            "path": config.path,
            "source": (),
            "name": config.name,
            "split": config.split or (None if is_file else default_split),
            "problem_field": config.problem_field or recipe.data.problem_field,
            "answer_field": config.answer_field or recipe.data.answer_field,
            "answer_after": after or None,
            # only the choice of training problems looks at difficulty
            "difficulty_field": None,
            "limit": config.limit,
            "levels": config.levels,
        }
    )


def check_benchmarks(recipe: TrainRecipe) -> None:
    """Raises: ConfigError for an unknown benchmark; reads no data."""
    _of_benchmarks(recipe, resolve)


def load_benchmarks(recipe: TrainRecipe) -> list[LoadedBenchmark]:
    """The problems of eval.benchmarks. Raises: ConfigError."""
    return _of_benchmarks(recipe, load_benchmark)


def _of_benchmarks(recipe: TrainRecipe, function: Callable[[str], R]) -> list[R]:
    try:
        return [function(name) for name in recipe.eval.benchmarks]
    except ValueError as error:
        raise ConfigError(f"eval.benchmarks: {error}") from error


def eval_sets(
    recipe: TrainRecipe,
    held_out: tuple[Dataset, list[list[int]]] | None,
    benchmarks: Sequence[LoadedBenchmark],
    tokenizer: Any,
) -> tuple[EvalSet, ...]:
    """The problems of eval.path, then the benchmarks, prompted as the training problems are.

    Raises: ConfigError for a prompt that leaves no room for the response.
    """
    sets = [] if held_out is None else [_held_out_set(recipe, *held_out)]
    data = recipe.data
    chat = read_template(data.chat_template)
    style = PromptStyle(data.prompt_template, data.system_prompt, chat)
    room = recipe.model.max_len - recipe.eval_len
    for loaded in benchmarks:
        prompts = style.encode(loaded, loaded.questions[: recipe.eval.limit], tokenizer)
        longest = max(map(len, prompts))
        if longest > room:
            raise ConfigError(
                f"eval.benchmarks: {loaded.name} has a prompt of {longest} tokens, the limit is"
                f" {room}; raise model.max_len or lower eval.max_len"
            )
        sets.append(EvalSet(loaded, prompts))
    return tuple(sets)


def _held_out_set(recipe: TrainRecipe, data: Dataset, prompts: list[list[int]]) -> EvalSet:
    questions = tuple(question_of(problem, recipe.data) for problem in data.problems)
    # results are stored by id
    if len({question.id for question in questions}) < len(questions):
        raise ConfigError("eval.path: an id occurs twice; leave data.id_field out to number rows")
    record = Benchmark(HELD_OUT, (), len(questions), "not stated", recipe.eval.samples_of(HELD_OUT))
    return EvalSet(LoadedBenchmark(record, questions, data.source, (data.sha256,)), prompts)
