"""Everything a run works with, built and checked before the run folder exists."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from rewards import Verifier
from rlvr.adapters import get_method
from rlvr.adapters.base import Sync
from rlvr.adapters.export import max_lora_rank
from rlvr.adapters.targets import expert_parameters
from rlvr.algorithm.entropy_control import EntropyControl
from rlvr.common.cpu import advice
from rlvr.common.errors import ConfigError, RunError
from rlvr.config.train import TrainRecipe
from rlvr.data.problems import Dataset, encode_prompts, load_problems
from rlvr.distributed import ranks, sharding
from rlvr.engines import vllm_local
from rlvr.engines.choose import choose_engine, why_not_vllm
from rlvr.engines.engine import Engine, EngineLost, refusal
from rlvr.engines.server.engine import ServerEngine
from rlvr.engines.stop_tokens import notices, with_stops
from rlvr.engines.weights.sync import Syncer, choose_mode
from rlvr.evaluation.problem_sets import EvalSet, eval_sets, held_out_data, load_benchmarks
from rlvr.policy.language_model import load_tokenizer
from rlvr.policy.policy import Policy, load_policy
from rlvr.policy.reference import prepare_reference
from rlvr.policy.sharded import shard_policy
from rlvr.runs.folder import check_same_data
from rlvr.sampling.sampler import Sampler

if TYPE_CHECKING:
    from torch.optim import Optimizer


@dataclass
class Session:
    """The parts of a run. evals: the problem sets of its evaluations, the main one first. start:
    gives another engine when the first has died."""

    recipe: TrainRecipe
    policy: Policy
    optimizer: Optimizer
    entropy: EntropyControl
    engine: Engine
    syncer: Syncer
    verifier: Verifier
    sampler: Sampler
    data: Dataset
    evals: tuple[EvalSet, ...]
    start: Callable[[], Engine] | None = None

    def restart_engine(self) -> None:
        """Another engine in place of the one that died, with the policy's weights, checked.

        Raises: EngineLost when it cannot be started, SyncError when it serves other weights.
        """
        assert self.start is not None, "a session without `start` has no other engine"
        with suppress(Exception):  # it is dead: what its end says changes nothing
            self.engine.close()
        rng = torch.get_rng_state()
        try:
            self.engine = self.start()
        except (ConfigError, RunError):
            raise
        except Exception as error:
            raise EngineLost(f"another engine did not start: {error}") from error
        torch.set_rng_state(rng)
        self.syncer.use(self.engine)
        self.syncer.sync()

    def decode(self, token_ids: Sequence[int]) -> str:
        """Response tokens to text, special tokens left out."""
        return self.policy.tokenizer.decode(token_ids, skip_special_tokens=True)

    def close(self) -> None:
        """Ends workers and engine."""
        self.verifier.close()
        self.engine.close()


StartEngine = Callable[[TrainRecipe, Policy, bool, Sync], Engine]
"""Gives the engine for a recipe and its policy: (recipe, policy, whether vLLM, sync mode)."""


def build(
    recipe: TrainRecipe,
    model_path: str,
    start_engine: StartEngine | None = None,
    data_sha256: str | None = None,
) -> Session:
    """The session of a recipe whose policy lies at `model_path` (folder or hub id).

    start_engine: gives a live engine that serves the base; None starts one for this run alone.
    data_sha256: of the problems that the run began with; others are refused.
    The verifier's workers start first, before any other library pins or multiplies threads.
    Raises: ConfigError for anything in the recipe that cannot work with this model and data.
    """
    slow = advice(recipe.model.dtype)
    if slow and ranks.is_main():
        print(slow, file=sys.stderr)
    torch.manual_seed(recipe.train.seed)  # for libraries that draw without a generator of their own
    data = load_problems(recipe.data)
    if data_sha256 is not None:
        check_same_data(recipe.data.path, data.sha256, data_sha256)
    held_out_config = held_out_data(recipe)
    held_out = load_problems(held_out_config, "eval") if held_out_config else None
    benchmarks = load_benchmarks(recipe)
    verifier = Verifier(
        answer_mode=recipe.reward.answer_mode,
        timeout_s=recipe.reward.timeout_s,
        num_workers=recipe.reward.num_workers,
    )
    use_vllm = _use_vllm(recipe)
    max_prompt_len = _max_prompt_len(recipe)
    tokenizer = load_tokenizer(recipe.model, model_path)
    rollout = with_stops(recipe.rollout, tokenizer)
    recipe = recipe.model_copy(update={"rollout": rollout})
    data, prompts = encode_prompts(data, tokenizer, recipe.data, max_prompt_len)
    test = None
    if held_out is not None and held_out_config is not None:
        test = encode_prompts(held_out, tokenizer, held_out_config, max_prompt_len, "eval")
    policy = _policy(recipe, model_path, prompts)
    for line in notices(recipe, policy.causal_lm.generation_config, tokenizer, prompts):
        if ranks.is_main():
            print(line, file=sys.stderr)
    mode = choose_mode(rollout, policy)

    def start() -> Engine:
        engine = (start_engine or new_engine)(recipe, policy, use_vllm, mode)
        if policy.device.type == "cpu":  # vLLM sets its own number of threads
            cores = len(os.sched_getaffinity(0)) // ranks.local_size()
            torch.set_num_threads(recipe.train.num_threads or max(1, cores))
        return engine

    try:
        engine = start()
    except (ConfigError, RunError):
        raise
    except Exception as error:  # vLLM's checks of a model raise anything
        reason = f"{type(error).__name__}: {error}"
        raise refusal(reason, "vllm" if use_vllm else "transformers", mode) from error
    session = Session(
        recipe,
        policy,
        policy.method.optimizer(policy.model, policy.adapter, recipe.optim),
        EntropyControl(recipe.algorithm),
        engine,
        Syncer(rollout, policy, engine, mode, prompts, ranks.world),
        verifier,
        Sampler(recipe, data.problems, prompts, lambda ids: session.decode(ids)),
        data,
        eval_sets(recipe, test, benchmarks, policy.tokenizer),
        start,
    )
    return session


def _policy(recipe: TrainRecipe, model_path: str, prompts: list[list[int]]) -> Policy:
    """The policy as it will be trained; its start may look at the first prompts of the data."""
    policy = load_policy(
        recipe.model,
        recipe.adapter,
        model_path,
        recipe.train.seed,
        keep_reference=recipe.algorithm.kl_beta > 0,
        num_updates=recipe.train.steps * recipe.optim.updates_per_step,
        encode_rows=lambda _tokenizer: prompts[: recipe.adapter.calibration_rows],
        world=ranks.world,
    )
    ranks.copy_from_main(policy.model)
    shard_policy(policy, recipe.optim)
    if not policy.strategy.shards_weights:
        prepare_reference(policy, recipe.algorithm)
    policy.set_checkpointing(recipe.train.activation_checkpointing)
    if recipe.train.compile:
        policy.compile_layers()
    return policy


def _max_prompt_len(recipe: TrainRecipe) -> int:
    """Tokens that a prompt may have: what the recipe says and the response leaves room for."""
    room = recipe.model.max_len - recipe.rollout.max_response_len
    return min(recipe.data.max_prompt_len or room, room)


def _use_vllm(recipe: TrainRecipe) -> bool:
    """Whether vLLM generates; says in one line why not where the recipe leaves it open."""
    wanted, method = recipe.rollout.engine, get_method(recipe.adapter)
    reason = why_not_vllm(method) if wanted == "auto" else None
    if reason is not None:
        print(reason, file=sys.stderr)
    return choose_engine(wanted, method) != "transformers"


def refuse_tied_head(policy: Policy) -> None:
    """vLLM on CPU repacks the head once: a trained embedding that is the head would not reach it.

    Raises: ConfigError.
    """
    model = policy.causal_lm
    tied = model.config.tie_word_embeddings
    trained = model.get_input_embeddings().weight.requires_grad
    if tied and trained and policy.device.type == "cpu":
        raise ConfigError(
            f'adapter.method = "{policy.method.name}": {policy.path} ties its head to the'
            " embeddings, and vLLM on CPU would go on with the old head; train an adapter, or set"
            ' rollout.engine = "transformers"'
        )


def refuse_experts(policy: Policy) -> None:
    """vLLM has experts under the names of their files, which are not those of the live model.

    Raises: ConfigError where they are trained.
    """
    experts = expert_parameters(policy.causal_lm)
    trained = [name for name, parameter in experts.items() if parameter.requires_grad]
    if trained:
        raise ConfigError(
            f'adapter.method = "{policy.method.name}": vLLM does not take this model\'s experts'
            f' ({trained[0]}) back while it runs; set rollout.engine = "transformers", or train an'
            " adapter on attention"
        )


def refuse_unservable(policy: Policy) -> None:
    """Raises: ConfigError for what training changes and vLLM would not take."""
    refuse_tied_head(policy)
    refuse_experts(policy)


def new_engine(recipe: TrainRecipe, policy: Policy, use_vllm: bool, mode: Sync) -> Engine:
    """An engine for this run alone. Raises: ConfigError when it cannot serve the policy."""
    if use_vllm:
        refuse_unservable(policy)
        if recipe.rollout.engine == "vllm_server":
            return ServerEngine(
                recipe.model, recipe.rollout, Path(recipe.run.dir), policy.path, mode, ranks.world
            )
        rank = None
        if mode == "adapter":
            with sharding.gathered(policy):
                rank = max_lora_rank(policy.model)
        return vllm_local.VllmEngine(
            recipe.model, recipe.rollout, policy.path, rank, ranks.world, recipe.train.seed
        )
    from rlvr.engines.transformers import TransformersEngine, check_cache

    check_cache(policy)
    return TransformersEngine(policy)
