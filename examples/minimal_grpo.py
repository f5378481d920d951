"""GRPO in one file: rlvr's engine, verifier, batch, loss and sync, and nothing else of it.

    python examples/minimal_grpo.py --steps 30

trains the quickstart's policy (0.7 M parameters, made and warm-started on this machine) with the
real vLLM on two CPU cores, and prints a line per step. Algorithm 1 of GRPO (2402.03300) with one
update per batch (mu = 1) and one reference (I = 1):

    pi_ref = pi                                           with LoRA: the base without its adapter
    for step in 1 .. M:
        draw P prompts; the engine samples G responses to each                        sample_groups
        the verifier rewards each response with 1 or 0                                sample_groups
        A = (reward - mean) / std within each group                                      make_batch
        ascend on mean over responses, mean over tokens of
            min(rho A, clip(rho, 1 - eps, 1 + eps) A) - beta KL(pi || pi_ref)                update
        hand pi to the engine, and prove that it arrived                                       sync

`rlvr train` adds dynamic sampling, async rollouts, evaluation, checkpoints that resume bit for bit,
several GPUs, 39 adapters and a report. Fork this file where you want none of that.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console

from rewards import Verifier
from rlvr.algorithm.loss import TokenBatch, policy_loss, row_weights
from rlvr.algorithm.surrogate import Rows
from rlvr.common.environment import set_environment
from rlvr.common.packages import is_vllm_installed
from rlvr.common.seeds import sample_seed
from rlvr.config.toml import load_recipe
from rlvr.config.train import TrainRecipe
from rlvr.data.problems import Problem, encode_prompts, load_problems
from rlvr.engines.engine import Engine, Request, Sampling
from rlvr.engines.weights.sync import Syncer, choose_mode
from rlvr.policy.policy import Policy, TokenRow, load_policy
from rlvr.sampling.rollouts import Group
from rlvr.training.batch import StepBatch, make_batch
from rlvr.training.build import new_engine
from rlvr.warm_start.policy_path import model_path

RECIPE = Path(__file__).parents[1] / "recipes" / "quickstart.toml"
GRPO = ["--algorithm.preset", "grpo", "--sampling.dynamic", "false"]


@dataclass(frozen=True)
class Parts:
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
    # first of all: its workers are forked, and a fork copies what the process has loaded by then
    verifier = stack.enter_context(Verifier(answer_mode=recipe.reward.answer_mode))
    policy = load_policy(recipe.model, recipe.adapter, path, recipe.train.seed, keep_reference=True)
    room = recipe.model.max_len - recipe.rollout.max_response_len
    data = load_problems(recipe.data)
    data, prompts = encode_prompts(data, policy.tokenizer, recipe.data, room)
    mode = choose_mode(recipe, policy)  # on a CPU: the merged weights, on a GPU: the adapter
    use_vllm = recipe.rollout.engine != "transformers" and is_vllm_installed()
    engine = stack.enter_context(closing(new_engine(recipe, policy, use_vllm, mode)))
    syncer = Syncer(recipe, policy, engine, mode, prompts)
    optimizer = torch.optim.AdamW(policy.trainable, lr=recipe.optim.lr, weight_decay=0.0)
    return Parts(policy, engine, syncer, verifier, optimizer, list(data.problems), prompts)


def sample_groups(parts: Parts, recipe: TrainRecipe, step: int) -> list[Group]:
    """P groups of G responses with a reward each; every draw has its own seed."""
    seed, rollout = recipe.train.seed, recipe.rollout
    size, problems = rollout.group_size, parts.problems
    draw = random.Random(sample_seed(seed, step))
    chosen = draw.sample(range(len(problems)), rollout.prompts_per_step)
    requests = [
        Request(parts.prompts[i], sample_seed(seed, step, problems[i].id, number))
        for i in chosen
        for number in range(size)
    ]
    sampling = Sampling(rollout.max_response_len, rollout.temperature)
    responses = parts.engine.generate(requests, sampling)
    texts = parts.policy.tokenizer.batch_decode(
        [response.token_ids for response in responses], skip_special_tokens=True
    )
    golds = [problems[i].golds for i in chosen for _ in range(size)]
    verdicts = parts.verifier.verify_many(list(zip(texts, golds, strict=True)))
    groups = []
    for number, i in enumerate(chosen):
        own = slice(number * size, (number + 1) * size)
        rewards = [float(verdict.correct) for verdict in verdicts[own]]
        reasons = [verdict.reason.value for verdict in verdicts[own]]
        prompt = parts.prompts[i]
        groups.append(Group(problems[i].id, prompt, responses[own], rewards, reasons, step))
    return groups


def update(parts: Parts, batch: StepBatch, recipe: TrainRecipe) -> float:
    """One optimizer step on the batch; its loss."""
    policy, references = parts.policy, batch.references or []
    answers = [response for group in batch.groups for response in group.responses]
    rows = [TokenRow(g.prompt_ids, r.token_ids) for g in batch.groups for r in g.responses]
    advantage_N = torch.tensor([value for group in batch.advantages for value in group])
    reference_N = [scores for group in references for scores in group]
    lengths = [len(row.response_ids) for row in rows]
    # fixed for the whole batch before it is split, so that the split changes nothing
    weight_N = torch.tensor(row_weights(lengths, "response_mean", max(lengths)))
    parts.optimizer.zero_grad()
    total = 0.0
    for chosen in policy.micro_batches(rows, recipe.train.tokens_per_microbatch):
        logp_T, entropy_T = policy.logprobs([rows[i] for i in chosen], recipe.rollout.temperature)
        layout = Rows.of(torch.tensor([lengths[i] for i in chosen]))
        tokens = TokenBatch(
            engine_T=torch.tensor([x for i in chosen for x in answers[i].logprobs]),
            ref_T=torch.tensor([x for i in chosen for x in reference_N[i]]) if references else None,
            advantage_T=advantage_N[chosen][layout.row_T],
            weight_T=weight_N[chosen][layout.row_T],
            # these weights sampled the batch: rho is 1, and no pass for old log-probabilities needed
            on_policy_T=torch.ones(len(logp_T), dtype=torch.bool),
            rows=layout,
        )
        loss, _ = policy_loss(logp_T, entropy_T, tokens, recipe.algorithm)
        loss.backward()
        total += float(loss)
    torch.nn.utils.clip_grad_norm_(policy.trainable, recipe.optim.max_grad_norm)
    parts.optimizer.step()
    return total


def train(parts: Parts, recipe: TrainRecipe, steps: int) -> Iterator[tuple[float, float]]:
    """After every step its mean reward and its loss."""
    parts.syncer.sync()  # vLLM has loaded the base; the adapter may start elsewhere
    for step in range(steps):
        groups = sample_groups(parts, recipe, step)
        batch = make_batch(groups, parts.policy, recipe)
        loss = update(parts, batch, recipe)
        parts.syncer.sync(step + 1)  # raises where the engine holds other weights than the policy
        rewards = [reward for group in groups for reward in group.rewards]
        yield sum(rewards) / len(rewards), loss


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=30)
    steps = parser.parse_args().steps
    set_environment()
    recipe = load_recipe(RECIPE, GRPO, TrainRecipe)
    with ExitStack() as stack:
        parts = build(recipe, model_path(recipe, RECIPE, Console(stderr=True)), stack)
        for step, (reward, loss) in enumerate(train(parts, recipe, steps), start=1):
            print(f"step {step}/{steps}  reward {reward:.3f}  loss {loss:+.4f}", flush=True)
