"""Everything a run works with, built and checked before the run folder exists."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from eval.benchmarks import LoadedBenchmark
from rewards import Verifier
from rlvr.adapters import get_method
from rlvr.adapters.base import Sync
from rlvr.adapters.export import max_lora_rank
from rlvr.adapters.targets import expert_parameters
from rlvr.algorithm.entropy_control import EntropyControl
from rlvr.common.cpu import advice
from rlvr.common.errors import ConfigError, RunError
from rlvr.common.log import get_logger
from rlvr.common.signals import never_stop
from rlvr.config.train import DataConfig, EvalConfig, TrainRecipe
from rlvr.data.chat import read_template, requires_closed_think
from rlvr.data.problems import Dataset, Problem, encode_prompts, load_problems
from rlvr.distributed.world import World
from rlvr.engines import vllm_local
from rlvr.engines.choose import choose_engine, why_not_vllm
from rlvr.engines.engine import Engine, refusal
from rlvr.engines.restarting import RestartingEngine
from rlvr.engines.server.engine import ServerEngine
from rlvr.engines.stop_tokens import notices, with_stops
from rlvr.engines.weights.sync import Syncer, choose_mode
from rlvr.evaluation.problem_sets import EvalSet, eval_sets, held_out_data, load_benchmarks
from rlvr.policy.language_model import load_tokenizer
from rlvr.policy.policy import Policy, load_policy
from rlvr.policy.reference import prepare_reference
from rlvr.policy.sharded import shard_policy
from rlvr.runs.folder import check_same_data
from rlvr.sampling.collector import Collector
from rlvr.sampling.extra import ExtraRewards
from rlvr.sampling.replay import NoEngine, Replay, check_replay
from rlvr.sampling.sampler import Sampler
from rlvr.training.teacher import Teacher, load_teacher

if TYPE_CHECKING:
    from torch.optim import Optimizer

logger = get_logger(__name__)


@dataclass(frozen=True)
class Stage:
    """Settings of a run from a step on. recipe: in force then, without stages of its own. at_step:
    finished steps with which it begins. prompts: token ids of each problem's prompt."""

    recipe: TrainRecipe
    data: Dataset
    prompts: list[list[int]]
    at_step: int = 0
    reset_reference: bool = False
    reset_optimizer: bool = False


@dataclass
class Training:
    """The parts of a run. recipe and data: of the stage it is in, one of `stages`. evals: the
    problem sets of its evaluations, the main one first. safe_point: called where the run may stop;
    raises to stop it."""

    recipe: TrainRecipe
    world: World
    policy: Policy
    optimizer: Optimizer
    entropy: EntropyControl
    engine: RestartingEngine | NoEngine
    verifier: Verifier
    extra: ExtraRewards | None
    sampler: Sampler | Replay
    data: Dataset
    evals: tuple[EvalSet, ...]
    stages: tuple[Stage, ...]
    stage: int = 0
    safe_point: Callable[[], None] = never_stop
    teacher: Teacher | None = None

    def close(self) -> None:
        """Ends what is collected ahead, workers and engine."""
        self.sampler.close()
        self.verifier.close()
        if self.extra is not None:
            self.extra.close()
        self.engine.close()


StartEngine = Callable[[TrainRecipe, Policy, bool, Sync], Engine]
"""Gives the engine for a recipe and its policy: (recipe, policy, whether vLLM, sync mode)."""


def build(
    recipe: TrainRecipe,
    model_path: str,
    start_engine: StartEngine | None = None,
    data_sha256: Sequence[str] = (),
    *,
    world: World = World.alone(),
    safe_point: Callable[[], None] = never_stop,
) -> Training:
    """The parts of a recipe's run, whose policy lies at `model_path` (folder or hub id).

    start_engine: gives a live engine that serves the base; None starts one for this run alone.
    data_sha256: of the problems that the run began with, stage by stage; others are refused.
    Raises: ConfigError for anything in the recipe that cannot work with this model and data.
    """
    slow = advice(recipe.model.dtype)
    if slow and world.is_main:
        logger.warning(slow)
    torch.manual_seed(recipe.train.seed)  # for libraries that draw without a generator of their own
    if recipe.train.replay is not None or recipe.train.rollouts_only:
        recipe = _half(recipe)
    sources = _load_sources(recipe, data_sha256)
    tokenizer = load_tokenizer(recipe.model, model_path)
    if recipe.train.replay is not None:
        check_replay(recipe, tokenizer)
    recipe = _with_think(recipe, tokenizer)
    # its workers are forked before any other library pins or multiplies threads
    verifier = Verifier(
        answer_mode=recipe.reward.answer_mode,
        require_closed_think=bool(recipe.reward.require_closed_think),
        timeout_s=recipe.reward.timeout_s,
        num_workers=recipe.reward.num_workers,
    )
    extra = ExtraRewards(recipe) if recipe.reward.extra else None
    rollout = with_stops(recipe.rollout, tokenizer)
    recipe = recipe.model_copy(update={"rollout": rollout})
    stages = _stages(recipe, sources.train, tokenizer)
    recipe, data, prompts = stages[0].recipe, stages[0].data, stages[0].prompts
    evals = _eval_sets(recipe, sources, tokenizer)
    # before the engine: vLLM counts the GPU memory that is taken when it starts
    with_kl = any(stage.recipe.algorithm.kl_beta for stage in stages)
    policy = _policy(recipe, model_path, prompts, world, with_kl)
    teacher = load_teacher(recipe, policy)
    for line in notices(recipe, policy.causal_lm.generation_config, tokenizer, prompts):
        if world.is_main:
            logger.warning(line)
    if recipe.train.replay is not None:
        engine, sampler = NoEngine(), Replay(Path(recipe.train.replay))
        _set_threads(recipe, policy)  # their number decides the last bits
    else:
        engine = _engine(recipe, policy, prompts, start_engine or new_engine)
        given = (recipe, data.problems, prompts, engine, verifier, policy.decode)
        end = stages[1].at_step if stages[1:] else None
        sampler = make_sampler(*given, extra=extra, world=world, safe_point=safe_point, end=end)
    optimizer = policy.method.optimizer(policy.model, policy.adapter, recipe.optim)
    entropy = EntropyControl(recipe.algorithm)
    parts = (policy, optimizer, entropy, engine, verifier, extra, sampler)
    return Training(
        recipe, world, *parts, data, evals, stages, safe_point=safe_point, teacher=teacher
    )


def _half(recipe: TrainRecipe) -> TrainRecipe:
    """The recipe of a run that only trains, or only generates: it evaluates nothing."""
    if recipe.eval.sets:
        name = "train.rollouts_only" if recipe.train.rollouts_only else "train.replay"
        logger.warning(f"{name}: nothing is evaluated ({', '.join(recipe.eval.sets)})")
    return recipe.model_copy(update={"eval": EvalConfig()})


def _with_think(recipe: TrainRecipe, tokenizer: Any) -> TrainRecipe:
    """The recipe with reward.require_closed_think decided."""
    reward, template = recipe.reward, read_template(recipe.data.chat_template)
    closed = requires_closed_think(reward.require_closed_think, tokenizer, template)
    return recipe.model_copy(
        update={"reward": reward.model_copy(update={"require_closed_think": closed})}
    )


@dataclass(frozen=True)
class _Sources:
    """Problems as their files have them. train: of each stage, the first of them that of the
    recipe. held_out: with the data settings of eval.path."""

    train: list[Dataset]
    held_out: tuple[Dataset, DataConfig] | None
    benchmarks: Sequence[LoadedBenchmark]


def _load_sources(recipe: TrainRecipe, data_sha256: Sequence[str]) -> _Sources:
    configs = [recipe.in_stage(number).data for number in range(len(recipe.stage) + 1)]
    train: list[Dataset] = []
    for number, config in enumerate(configs):
        # most stages change other settings: their problems are read once
        same = number > 0 and config == configs[number - 1]
        keep_rows = bool(recipe.reward.extra)
        train.append(train[-1] if same else load_problems(config, keep_rows=keep_rows))
    for config, found, recorded in zip(configs, train, data_sha256, strict=False):
        check_same_data(", ".join(config.paths), found.sha256, recorded)
    config = held_out_data(recipe)
    held_out = (load_problems(config, "eval"), config) if config else None
    return _Sources(train, held_out, load_benchmarks(recipe))


def _stages(recipe: TrainRecipe, sources: Sequence[Dataset], tokenizer: Any) -> tuple[Stage, ...]:
    """The run's stages, with the problems whose prompts leave room for the stage's responses."""
    stages, encoded = [], {}
    for number, source in enumerate(sources):
        then = recipe.in_stage(number)
        max_len = _max_prompt_len(then, then.rollout.max_response_len)
        place = id(source), max_len
        if place not in encoded:
            encoded[place] = encode_prompts(source, tokenizer, then.data, max_len)
        data, prompts = encoded[place]
        begins: dict[str, Any] = {}
        if number:
            begins = recipe.stage[number - 1].model_dump(exclude={"changes"}, exclude_unset=True)
        stages.append(Stage(then, data, prompts, **begins))
    return tuple(stages)


def _eval_sets(recipe: TrainRecipe, sources: _Sources, tokenizer: Any) -> tuple[EvalSet, ...]:
    max_len = _max_prompt_len(recipe, recipe.eval_len)
    held_out = sources.held_out and encode_prompts(
        sources.held_out[0], tokenizer, sources.held_out[1], max_len, "eval"
    )
    return eval_sets(recipe, held_out, sources.benchmarks, tokenizer)


def make_sampler(
    recipe: TrainRecipe,
    problems: Sequence[Problem],
    prompts: Sequence[list[int]],
    engine: Engine,
    verifier: Verifier,
    decode: Callable[[Sequence[int]], str],
    *,
    extra: ExtraRewards | None = None,
    world: World = World.alone(),
    safe_point: Callable[[], None] = never_stop,
    end: int | None = None,
) -> Sampler:
    """The sampler of a recipe. end: the step before which it stops collecting ahead; None: that of
    the run."""
    collector = Collector(
        problems,
        prompts,
        engine,
        verifier,
        decode,
        rollout=recipe.rollout,
        sampling=recipe.sampling,
        reward=recipe.reward,
        train=recipe.train,
        shuffle=recipe.data.shuffle,
        weights=recipe.data.weights,
        extra=extra,
        world=world,
    )
    return Sampler(collector, engine, recipe, world, safe_point, end)


def _engine(
    recipe: TrainRecipe,
    policy: Policy,
    prompts: Sequence[list[int]],
    start_engine: StartEngine,
) -> RestartingEngine:
    """The engine, running, with its syncer. Raises: ConfigError where it refuses the model."""
    world, mode = policy.strategy.world, choose_mode(recipe.rollout, policy)
    use_vllm = _use_vllm(recipe)

    def start() -> Engine:
        engine = start_engine(recipe, policy, use_vllm, mode)
        # after the start: a vLLM with worker processes sets torch's number of threads in this one
        _set_threads(recipe, policy)
        return engine

    try:
        engine = start()
    except (ConfigError, RunError):
        raise
    except Exception as error:  # vLLM's checks of a model raise anything
        reason = f"{type(error).__name__}: {error}"
        raise refusal(reason, "vllm" if use_vllm else "transformers", mode) from error
    syncer = Syncer(recipe.rollout, policy, engine, mode, prompts, world, recipe.train.seed)
    # of several ranks none restarts: the end of vLLM in a process is that of its process group
    return RestartingEngine(engine, syncer, start if world.size == 1 else None)


def _set_threads(recipe: TrainRecipe, policy: Policy) -> None:
    """Gives torch the threads that the recipe says, else all cores of this process's share."""
    if policy.device.type == "cpu":
        cores = len(os.sched_getaffinity(0)) // policy.strategy.world.local_size
        torch.set_num_threads(recipe.train.num_threads or max(1, cores))


def _policy(
    recipe: TrainRecipe, model_path: str, prompts: list[list[int]], world: World, with_kl: bool
) -> Policy:
    """The policy as it will be trained; its initialisation may look at the data's first prompts."""
    policy = load_policy(
        recipe.model,
        recipe.adapter,
        model_path,
        recipe.train.seed,
        keep_reference=with_kl,
        num_updates=recipe.train.steps * recipe.optim.updates_per_step,
        encode_rows=lambda _tokenizer: prompts[: recipe.adapter.calibration_rows],
        world=world,
    )
    # random draws and decompositions may differ between devices
    world.copy_from_main(policy.model)
    shard_policy(policy, recipe.optim)
    if not policy.strategy.shards_weights:
        prepare_reference(policy, recipe.algorithm)
    policy.set_checkpointing(recipe.train.activation_checkpointing)
    if recipe.train.compile:
        policy.compile_layers()
    return policy


def _max_prompt_len(recipe: TrainRecipe, response_len: int) -> int:
    """Tokens that a prompt may have: what the recipe says and the response leaves room for."""
    room = recipe.model.max_len - response_len
    return min(recipe.data.max_prompt_len or room, room)


def _use_vllm(recipe: TrainRecipe) -> bool:
    """Whether vLLM generates; says in one line why not where the recipe leaves it open."""
    wanted, method = recipe.rollout.engine, get_method(recipe.adapter)
    reason = why_not_vllm(method) if wanted == "auto" else None
    if reason is not None:
        logger.warning(reason)
    return choose_engine(wanted, method) != "transformers"


def refuse_experts(policy: Policy, mode: Sync) -> None:
    """vLLM has experts under the names of their files, which are not those of the live model, and
    beside them it serves adapters on GPUs only.

    Raises: ConfigError where they are trained, or where adapters would be served on a CPU.
    """
    experts = expert_parameters(policy.causal_lm)
    trained = [name for name, parameter in experts.items() if parameter.requires_grad]
    if trained:
        raise ConfigError(
            f'adapter.method = "{policy.method.name}": vLLM does not take this model\'s experts'
            f' ({trained[0]}) back while it runs; set rollout.engine = "transformers", or train an'
            " adapter on attention"
        )
    # vLLM wraps the experts' layers too, and the kernel for those is Triton's
    if experts and mode == "adapter" and policy.device.type == "cpu":
        raise ConfigError(
            'rollout.sync = "adapter": vLLM on a CPU serves no adapter on a mixture of experts; set'
            ' it to "merged"'
        )


def new_engine(recipe: TrainRecipe, policy: Policy, use_vllm: bool, mode: Sync) -> Engine:
    """An engine for this run alone. Raises: ConfigError when it cannot serve the policy."""
    world = policy.strategy.world
    if use_vllm:
        refuse_experts(policy, mode)
        if recipe.rollout.engine == "vllm_server":
            run_dir = Path(recipe.run.dir)
            return ServerEngine(recipe.model, recipe.rollout, run_dir, policy.path, mode, world)
        rank = None
        if mode == "adapter":
            with policy.gathered():
                rank = max_lora_rank(policy.model)
        return vllm_local.VllmEngine(
            recipe.model, recipe.rollout, policy.path, rank, world, recipe.train.seed
        )
    from rlvr.engines.transformers import TransformersEngine, check_cache

    check_cache(policy)
    return TransformersEngine(policy)
