"""GRPO in one file: rlvr's engine, verifier, batch, loss and sync, and nothing else of it.

    python examples/minimal_grpo.py --steps 30

trains the quickstart's policy with the real vLLM on two CPU cores. It is algorithm 1 of GRPO
(2402.03300) with one update per batch (mu = 1) and one reference (I = 1):

    pi_ref = pi                                           with LoRA: the base without its adapter
    for step in 1 .. M:
        draw P prompts; the engine samples G responses each; the verifier judges      sample_groups
        A = (reward - mean) / std within each group                                      make_batch
        ascend on mean over responses, mean over tokens of
            min(rho A, clip(rho, 1 - eps, 1 + eps) A) - beta KL(pi || pi_ref)                update
        hand pi to the engine, and prove that it arrived                                       sync

`rlvr train` adds dynamic sampling, rollouts beside the update, restarts of the engine, evaluation,
checkpoints, several GPUs, and the other losses. Fork this file where you want none of that.
"""

import argparse
import random
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import NamedTuple

from rlvr.common.environment import set_environment

set_environment()  # OpenMP and transformers read it once, when they are imported

import torch

from rewards import Verifier
from rlvr.algorithm.loss import policy_loss
from rlvr.common.seeds import sample_seed
from rlvr.config.toml import load_recipe
from rlvr.config.train import TrainRecipe
from rlvr.data.problems import Problem, encode_prompts, load_problems
from rlvr.engines.choose import choose_engine
from rlvr.engines.engine import Engine, Request, SamplingParams
from rlvr.engines.weights.sync import Syncer, choose_mode
from rlvr.policy.policy import Policy, load_policy
from rlvr.sampling.rollouts import Group
from rlvr.training.batch import StepBatch, UpdateConfig, make_batch
from rlvr.training.build import new_engine
from rlvr.training.rows import make_rows, micro_batches, token_batch
from rlvr.warm_start.policy_path import model_path

RECIPE = Path(__file__).parents[1] / "recipes" / "quickstart.toml"


class Parts(NamedTuple):
    """What a run works with. prompts: token ids of each problem's prompt."""

    policy: Policy
    engine: Engine
    syncer: Syncer
    verifier: Verifier
    optimizer: torch.optim.Optimizer
    problems: list[Problem]
    prompts: list[list[int]]


def build(recipe: TrainRecipe, path: str, stack: ExitStack) -> Parts:
    """The parts for the policy in the folder `path`; the stack ends their processes."""
    # before all else: its workers are forked, and a fork copies what is loaded by then
    verifier = stack.enter_context(Verifier(answer_mode=recipe.reward.answer_mode))
    policy = load_policy(recipe.model, recipe.adapter, path, recipe.train.seed, keep_reference=True)
    room = recipe.model.max_len - recipe.rollout.max_response_len
    data, prompts = encode_prompts(load_problems(recipe.data), policy.tokenizer, recipe.data, room)
    mode = choose_mode(recipe.rollout, policy)  # the merged weights on a CPU, else the adapter
    use_vllm = choose_engine(recipe.rollout.engine, policy.method) == "vllm"
    engine = stack.enter_context(closing(new_engine(recipe, policy, use_vllm, mode)))
    syncer = Syncer(recipe.rollout, policy, engine, mode, prompts)
    optimizer = torch.optim.AdamW(policy.trainable, lr=recipe.optim.lr, weight_decay=0.0)
    return Parts(policy, engine, syncer, verifier, optimizer, list(data.problems), prompts)


def sample_groups(parts: Parts, recipe: TrainRecipe, step: int) -> list[Group]:
    """P groups of G responses with a reward each; every draw has its own seed."""
    seed, rollout, problems = recipe.train.seed, recipe.rollout, parts.problems
    size, draw = rollout.group_size, random.Random(sample_seed(seed, step))
    chosen = draw.sample(range(len(problems)), rollout.prompts_per_step)
    each = [(i, n) for i in chosen for n in range(size)]
    responses = parts.engine.generate(
        [Request(parts.prompts[i], sample_seed(seed, step, problems[i].id, n)) for i, n in each],
        SamplingParams(rollout.max_response_len, rollout.temperature),
    )
    texts = [parts.policy.decode(response.token_ids) for response in responses]
    golds = [problems[i].golds for i, _ in each]
    verdicts = parts.verifier.verify_many(list(zip(texts, golds, strict=True)))
    rewards, reasons = [float(v.correct) for v in verdicts], [v.reason.value for v in verdicts]
    own = [slice(start, start + size) for start in range(0, len(each), size)]
    return [
        Group(problems[i].id, parts.prompts[i], responses[s], rewards[s], reasons[s], step)
        for i, s in zip(chosen, own, strict=True)
    ]


def update(parts: Parts, batch: StepBatch, config: UpdateConfig, step: int) -> float:
    """One optimizer step on the batch; its loss."""
    policy, total = parts.policy, 0.0
    # a row per response, with its advantage and its weight: 1 / (responses x its tokens). Weights
    # are fixed before the batch is split, so that the split changes nothing
    rows = make_rows(batch, config, step)
    parts.optimizer.zero_grad()
    for chosen in micro_batches(policy, rows, config.tokens_per_microbatch):
        tokens, kept = token_batch(chosen, policy.device, entropy_weight=0.0)
        logp_T, entropy_T = policy.logprobs([row.tokens for row in chosen], config.temperature)
        if kept is not None:  # the engine gave no log-probability for the others
            logp_T, entropy_T = logp_T[kept], entropy_T[kept]
        # the weights that sampled are those that train: rho is exp(logp_T - logp_T.detach()), and
        # no second pass for old log-probabilities is needed
        loss, _sums = policy_loss(logp_T, entropy_T, tokens, config.algorithm)
        loss.backward()
        total += loss.item()
    torch.nn.utils.clip_grad_norm_(policy.trainable, config.optim.max_grad_norm)
    parts.optimizer.step()
    return total


def train(parts: Parts, recipe: TrainRecipe, steps: int) -> Iterator[tuple[float, float]]:
    """After every step its mean reward and its loss."""
    config = UpdateConfig.of(recipe)
    parts.syncer.sync()  # vLLM has loaded the base; some adapters start elsewhere
    for step in range(steps):
        batch = make_batch(sample_groups(parts, recipe, step), parts.policy, config)
        loss = update(parts, batch, config, step)
        parts.syncer.sync(step + 1)  # raises where the engine holds other weights than the policy
        rewards = [reward for group in batch.groups for reward in group.rewards]
        yield sum(rewards) / len(rewards), loss


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="GRPO on the quickstart's policy.")
    parser.add_argument("--steps", type=int, default=30)
    steps = parser.parse_args().steps
    recipe = load_recipe(RECIPE, ["--algorithm.preset", "grpo"], TrainRecipe)
    with ExitStack() as stack:
        parts = build(recipe, model_path(recipe, RECIPE), stack)
        for step, (reward, loss) in enumerate(train(parts, recipe, steps), start=1):
            print(f"step {step}/{steps}  reward {reward:.3f}  loss {loss:+.4f}", flush=True)
