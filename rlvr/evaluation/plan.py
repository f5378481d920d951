"""What is to be sampled: every response with its prompt and a seed of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from eval.benchmarks import LoadedBenchmark, Question
from eval.generations import GenerationKey
from rlvr.common.errors import ConfigError
from rlvr.common.seeds import sample_seed
from rlvr.data.chat import check_template, prompt_ids, read_template, refusal
from rlvr.engines.engine import Request, SamplingParams
from rlvr.evaluation.targets import Target


@dataclass(frozen=True, slots=True)
class PromptStyle:
    """How problems become messages. template: with {problem}; None takes each benchmark's own.
    system: a message before it. chat_template: Jinja text; None takes the tokenizer's. remedy:
    where there is none. answer_mode, require_closed_think: how the recipe that it comes from judges
    responses; None where it does not say."""

    template: str | None = None
    system: str | None = None
    chat_template: str | None = None
    remedy: str = "give a Jinja file with --chat-template"
    answer_mode: str | None = None
    require_closed_think: bool | None = None

    def encode(
        self, loaded: LoadedBenchmark, questions: Sequence[Question], tokenizer: Any
    ) -> list[list[int]]:
        """Token ids of each question's prompt, ready for the response to follow."""
        check_template(tokenizer, self.chat_template, self.remedy)
        # str.format would trip over the braces of LaTeX
        template = self.template or loaded.benchmark.prompt
        before = [] if self.system is None else [{"role": "system", "content": self.system}]
        prompts = []
        for q in questions:
            user = {"role": "user", "content": template.replace("{problem}", q.problem)}
            try:
                prompts.append(prompt_ids(tokenizer, self.chat_template, [*before, user]))
            except ValueError as error:
                where = f"{loaded.name}, problem {q.id}"
                raise ConfigError(refusal(f"{where}: {error}", bool(before))) from error
        return prompts


@dataclass(frozen=True, slots=True)
class SamplingJob:
    """The responses that one target still has to give: keys and requests, in the same order."""

    target: Target
    keys: tuple[GenerationKey, ...]
    requests: tuple[Request, ...]


@dataclass(frozen=True, slots=True)
class SamplingPlan:
    """All sampling of one command. base: folder or hub id. max_len: context in tokens.

    require_closed_think: whether responses have to end their thinking, for the verifier.
    """

    base: str
    revision: str | None
    trust_remote_code: bool
    engine: str
    dtype: str
    max_len: int
    sampling: SamplingParams
    gpu_memory_utilization: float
    max_num_seqs: int
    jobs: tuple[SamplingJob, ...]
    require_closed_think: bool = False

    @property
    def num_requests(self) -> int:
        return sum(len(job.keys) for job in self.jobs)

    def shard(self, rank: int, count: int) -> SamplingPlan:
        """Every count-th request, from the rank-th: what one of `count` processes samples."""
        # interleaved, so that hard benchmarks do not all fall to the last process
        mine = slice(rank, None, count)
        jobs = (SamplingJob(j.target, j.keys[mine], j.requests[mine]) for j in self.jobs)
        return replace(self, jobs=tuple(jobs))

    def without(self, done: Sequence[set[GenerationKey]]) -> SamplingPlan:
        """The plan less these keys of each job, which were sampled before."""
        jobs = []
        for job, there in zip(self.jobs, done, strict=True):
            left = [i for i, key in enumerate(job.keys) if key not in there]
            keys = tuple(job.keys[i] for i in left)
            jobs.append(SamplingJob(job.target, keys, tuple(job.requests[i] for i in left)))
        return replace(self, jobs=tuple(jobs))


def wanted_keys(
    loaded: LoadedBenchmark, samples: int | None, limit: int | None
) -> list[GenerationKey]:
    """The samples of a benchmark's first `limit` problems, those of a problem side by side, so that
    its prompt is in the engine's prefix cache after the first."""
    count = samples or loaded.benchmark.samples
    return [(loaded.name, q.id, i) for q in loaded.questions[:limit] for i in range(count)]


def request(prompt_ids: list[int], seed: int, key: GenerationKey) -> Request:
    """The request for one sample; its seed depends on run seed, problem and sample alone."""
    # not n > 1 in one vLLM request: that seeds sample i with the parent's seed + i and runs each as
    # a request of its own, so it saves no work, and a missing sample could not be asked for alone
    # the benchmark's name is left out: a user's name for a file must not change the draws
    _, problem, sample = key
    return Request(prompt_ids, sample_seed(seed, "eval", problem, sample))


@dataclass(frozen=True, slots=True)
class Stops:
    """What ends a response besides the model's own ends: texts of one token, and ids."""

    texts: tuple[str, ...] = ()
    ids: tuple[int, ...] = ()


def read_style(recipe: str | None, chat_template: str | None) -> tuple[PromptStyle, Stops]:
    """(prompts, stops) of a recipe or a run's config.toml; without one, benchmarks' own prompts and
    none."""
    style, stops = PromptStyle(), Stops()
    if recipe is not None:
        from rlvr.config.recipes import find_recipe
        from rlvr.config.toml import load_recipe
        from rlvr.config.train import TrainRecipe

        loaded = load_recipe(find_recipe(recipe), [], TrainRecipe)
        style = PromptStyle(
            loaded.data.prompt_template,
            loaded.data.system_prompt,
            answer_mode=loaded.reward.answer_mode,
            require_closed_think=loaded.reward.require_closed_think,
        )
        chat_template = chat_template or loaded.data.chat_template
        stops = Stops(loaded.rollout.stop, loaded.rollout.stop_token_ids)
    if chat_template is not None:
        style = replace(style, chat_template=read_template(chat_template, "--chat-template"))
    return style, stops
