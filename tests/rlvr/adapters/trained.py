"""Policies of every method, real update steps for them, and their stop and resume."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlvr.adapters import METHODS
from rlvr.algorithm.entropy_control import EntropyControl
from rlvr.config.train import AdapterConfig, TrainRecipe
from rlvr.engines.engine import Response
from rlvr.policy.policy import Policy, TokenRow, load_policy
from rlvr.runs.checkpoint import load_checkpoint, save_checkpoint
from rlvr.sampling.rollouts import Group
from rlvr.training.batch import UpdateConfig, make_batch
from rlvr.training.update import update

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


def make(
    make_recipe: Callable[..., TrainRecipe],
    method: str,
    dtype: str = "float32",
    device: torch.device | None = None,
    path: Path | None = None,
    **adapter: Any,
) -> Trained:
    """A policy of a method at step 0 with its optimizer; settings as in the adapter section."""
    lr = 3e-2 if method in LOUD else 3e-3
    given = AdapterConfig.model_validate(settings(method) | adapter)
    model = {"dtype": dtype} | ({} if path is None else {"path": str(path)})
    recipe = make_recipe(model=model, optim={"lr": lr}, train={"steps": NUM_UPDATES}).model_copy(
        update={"adapter": given}
    )
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


@dataclass
class Resumed:
    """A run that was not stopped and one that went on from its checkpoint, an update later.

    saved: names of the tensors and numbers in the checkpoint besides weights: the optimizer's, the
    schedule's. lost: those that the resumed one did not have bit for bit.
    """

    whole: Trained
    resumed: Trained
    saved: list[str]
    lost: list[str]

    @property
    @torch.no_grad()
    def apart(self) -> float:
        """The largest difference of a trained number between both after the next update."""
        pairs = zip(self.whole.policy.trainable, self.resumed.policy.trainable, strict=True)
        return max(float((a.cpu() - b.cpu()).abs().max()) for a, b in pairs)


def stop_and_resume(start: Callable[[], Trained], folder: Path) -> Resumed:
    """One update, a checkpoint in `folder`, a new policy that continues from it, and one more
    update of both; then the weights that the engine would get."""
    whole = start()
    whole.train(1)
    checkpoint = save_checkpoint(folder, 1, whole.policy, whole.optimizer, {})
    saved = state(whole)
    resumed = start()
    load_checkpoint(checkpoint, resumed.policy, resumed.optimizer)
    resumed.step = 1
    loaded = state(resumed)
    lost = [name for name, value in saved.items() if not equal(loaded.get(name), value)]
    lost += [name for name in loaded if name not in saved]
    for one in (whole, resumed):
        one.train(1)
    for _ in resumed.policy.engine_weights() if resumed.policy.method.merges else ():
        pass
    return Resumed(whole, resumed, list(saved), lost)


def state(trained: Trained) -> dict[str, Any]:
    """Everything that a checkpoint keeps of a trained policy besides its weights, by path; tensors
    as copies on the CPU."""
    tree = {"optimizer": trained.optimizer.state_dict(), **trained.policy.training_state()}
    return dict(_leaves(tree))


def _leaves(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(tree, dict | list | tuple):
        items = tree.items() if isinstance(tree, dict) else enumerate(tree)
        for key, value in items:
            yield from _leaves(value, f"{path}.{key}" if path else str(key))
    elif isinstance(tree, Tensor):
        yield path, tree.detach().cpu().clone()
    else:
        yield path, tree


def equal(one: Any, other: Any) -> bool:
    """Equal, tensors bit for bit."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    return type(one) is type(other) and one == other
