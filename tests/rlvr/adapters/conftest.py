"""Policies of every method on the tiny model, and real update steps for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from rlvr.adapters import METHODS
from rlvr.algorithm.entropy_control import EntropyControl
from rlvr.config.train import AdapterConfig, TrainRecipe
from rlvr.engines.engine import Response
from rlvr.policy.policy import Policy, TokenRow, load_policy
from rlvr.sampling.rollouts import Group
from rlvr.training.batch import UpdateConfig, make_batch
from rlvr.training.update import update
from tests.rlvr import plain

NUM_UPDATES = 10
PROMPTS = [[7 * i % 300 + 8 for i in range(n)] for n in (5, 9, 12, 7)]
LOUD = {"ia3", "vera", "ln_tuning", "bitfit", "adalora", "tinylora", "orthogeolora"}
"""Methods with few or damped parameters: they take a higher learning rate to move visibly."""


@dataclass
class Trained:
    """A policy with its optimizer, and the steps taken."""

    policy: Policy
    optimizer: torch.optim.Optimizer
    recipe: TrainRecipe
    step: int = 0

    def train(self, steps: int, num_groups: int = 2) -> None:
        """Real updates of the framework on groups of drawn responses, num_groups per step."""
        for _ in range(steps):
            groups = [drawn_group(self.policy, self.step, i) for i in range(num_groups)]
            config = UpdateConfig.of(self.recipe)
            batch = make_batch(groups, self.policy, config)
            entropy = EntropyControl(self.recipe.algorithm)
            update(self.policy, self.optimizer, batch, config, self.step, entropy)
            self.step += 1

    @torch.no_grad()
    def logprobs(self) -> torch.Tensor:
        rows = [TokenRow(p[:1], p[1:]) for p in PROMPTS]
        return self.policy.logprobs(rows, 1.0)[0]


@torch.no_grad()
def drawn_group(policy: Policy, step: int, number: int) -> Group:
    generator = torch.Generator().manual_seed(100 * step + number)
    prompt = PROMPTS[number]
    answers = [torch.randint(8, 300, (6 + i,), generator=generator).tolist() for i in range(4)]
    flat = policy.logprobs([TokenRow(prompt, ids) for ids in answers], 1.0)[0].split(
        [len(ids) for ids in answers]
    )
    responses = [
        Response(ids, logp.tolist(), truncated=False)
        for ids, logp in zip(answers, flat, strict=True)
    ]
    return Group(f"p{number}", prompt, responses, [1.0, 0.0, 0.0, 1.0], ["correct"] * 4, step)


def settings(method: str) -> dict[str, Any]:
    """adapter section: a small rank where there is one."""
    options = METHODS[method].options
    return {"method": method} | ({"rank": 4} if "rank" in options else {})


@pytest.fixture(scope="session")
def make_trained(make_recipe) -> Callable[..., Trained]:
    """A policy of a method at step 0 with its optimizer; settings as in the adapter section."""

    def make(
        method: str,
        dtype: str = "float32",
        device: torch.device | None = None,
        path: Path | None = None,
        **adapter: Any,
    ) -> Trained:
        lr = 3e-2 if method in LOUD else 3e-3
        given = AdapterConfig.model_validate(settings(method) | adapter)
        model = {"dtype": dtype} | ({} if path is None else {"path": str(path)})
        recipe = make_recipe(
            model=model, optim={"lr": lr}, train={"steps": NUM_UPDATES}
        ).model_copy(update={"adapter": given})
        assert recipe.model.path is not None
        policy = load_policy(
            recipe.model,
            given,
            recipe.model.path,
            seed=0,
            keep_reference=True,
            num_updates=NUM_UPDATES,
            encode_rows=lambda _tokenizer: [PROMPTS[2][i:] + PROMPTS[1][:i] for i in range(8)],
            device=device,
        )
        optimizer = policy.method.optimizer(policy.model, policy.adapter, recipe.optim)
        return Trained(policy, optimizer, recipe)

    return make


@pytest.fixture(scope="session")
def base_logprobs(tiny_policy) -> torch.Tensor:
    """What the untouched model gives on the prompts, by transformers alone."""
    model = AutoModelForCausalLM.from_pretrained(tiny_policy, attn_implementation="eager")
    return plain.token_logprobs(model, [TokenRow(p[:1], p[1:]) for p in PROMPTS])


@pytest.fixture(scope="session")
def tiny_base(tiny_policy) -> Path:
    """Folder of the model that every method starts from."""
    return tiny_policy
