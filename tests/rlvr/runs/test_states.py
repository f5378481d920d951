"""Whatever continues from a saved state forgets what it met since: used or new, all go on alike."""

from __future__ import annotations

import ast
import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rewards import Verifier
from rlvr.adapters.optimizers import build_optimizer
from rlvr.algorithm.entropy_control import EntropyControl
from rlvr.config.train import AdapterConfig, AlgorithmConfig, SamplingConfig
from rlvr.data.problems import encode_prompts, load_problems
from rlvr.engines.transformers import TransformersEngine
from rlvr.policy.loss_scale import LossScale
from rlvr.policy.packing import TokenRow
from rlvr.policy.policy import load_policy
from rlvr.sampling.mixture import Mixture
from rlvr.sampling.problem_selection import PassRates, Selector
from rlvr.sampling.sampler import Sampler
from rlvr.training.build import make_sampler

Use = Callable[[Any, int], Any]
"""Uses the thing, differently for each number, and gives what it did."""


def check(make: Callable[[], Any], use: Use, state: Use, load: Use) -> None:
    """Three ways to the same state: undisturbed, into a new thing, into one used since."""
    whole, used, empty = make(), make(), make()
    nothing = state(empty, 0)
    use(whole, 0)
    saved = state(whole, 0)
    untouched = copy.deepcopy(saved)
    for number in (1, 2, 3):
        use(used, number)
    load(used, saved)
    fresh = make()
    load(fresh, saved)
    assert same(state(used, 0), untouched), "a used one has the saved state and nothing else"
    assert same(state(fresh, 0), untouched)
    expected = use(whole, 4)
    assert same(use(used, 4), expected), "a used one goes on as the undisturbed one does"
    assert same(use(fresh, 4), expected)
    assert same(saved, untouched), "the state that was handed over is no part of the thing"
    load(used, nothing)
    assert same(state(used, 0), nothing), "back to the start"
    assert same(use(used, 0), use(make(), 0))


def same(a: Any, b: Any) -> bool:
    """Equal, bit for bit, tensors too."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b


def as_json(thing: Any, _: int = 0) -> Any:
    return json.loads(json.dumps(thing.state()))


def load(thing: Any, saved: Any) -> None:
    thing.load_state(saved)


def test_pass_rates() -> None:
    def use(rates: PassRates, number: int) -> Any:
        for i in range(6):
            rates.observe((5 * number + i) % 12, i % 3, 2 - i % 3, number)
        return [x.tolist() for x in rates.posterior(5)]

    check(lambda: PassRates([i % 2 for i in range(12)], 0.9), use, as_json, load)


@pytest.mark.parametrize("strategy", ["uniform", "predictive", "curriculum"])
def test_selectors(strategy: Any) -> None:
    def use(selector: Selector, number: int) -> Any:
        picked = selector.pick(16, number)
        for index, place in picked:
            selector.observe(index, (index + place) % 5, 4 - (index + place) % 5, number)
        return picked

    config = SamplingConfig(strategy=strategy)
    check(lambda: Selector(config, 50, 4, 10, seed=3), use, as_json, load)


@pytest.mark.parametrize("strategy", ["uniform", "predictive", "curriculum"])
def test_mixtures(strategy: Any) -> None:
    def use(mixture: Mixture, number: int) -> Any:
        picked = mixture.pick(16, number)
        for index, place in picked:
            mixture.observe(index, (index + place) % 5, 4 - (index + place) % 5, number)
        return picked

    config, members = SamplingConfig(strategy=strategy), (range(30), range(30, 50))

    def make() -> Mixture:
        selectors = [Selector(config, len(own), 4, 10, seed=len(own)) for own in members]
        return Mixture(members, selectors, (0.3, 0.7))

    check(make, use, as_json, load)


def test_the_entropy_controller() -> None:
    def use(control: EntropyControl, number: int) -> Any:
        for i in range(4):
            control.observe(0.3 + 0.1 * ((number + i) % 3))
        return control.coef

    config = AlgorithmConfig(entropy_target=0.4, entropy_coef=0.01)
    check(lambda: EntropyControl(config), use, as_json, load)


def test_the_loss_scale() -> None:
    def use(scale: LossScale, number: int) -> Any:
        for i in range(150):
            scale.observe(i % (97 - 10 * number) != 7)
        return scale.factor([1e-3], [10])

    check(LossScale, use, as_json, load)


def test_the_sampler(make_recipe: Any) -> None:
    recipe = make_recipe(
        sampling={"strategy": "predictive"},
        rollout={"prompts_per_step": 1, "max_response_len": 16},
        train={"steps": 6},
    )
    policy = load_policy(recipe.model, recipe.adapter, recipe.model.path, 0, False)
    data, prompts = encode_prompts(load_problems(recipe.data), policy.tokenizer, recipe.data, 100)
    engine = TransformersEngine(policy)
    with Verifier(answer_mode="last_number", num_workers=1) as verifier:

        def use(sampler: Sampler, number: int) -> Any:
            got = sampler.collect(number)
            return [
                (g.problem_id, g.rewards, [r.token_ids for r in g.responses]) for g in got.groups
            ]

        check(
            lambda: make_sampler(recipe, data.problems, prompts, engine, verifier, policy.decode),
            use,
            as_json,
            load,
        )


ROWS = [TokenRow([5 + i, 9, 30 + i], [40 + i, 50, 60 + 2 * i]) for i in range(4)]


def step(policy: Any, optimizer: Any, number: int) -> list[torch.Tensor]:
    """One plain optimizer step; the trained weights after it."""
    (-policy.logprobs(ROWS[number % 3 : number % 3 + 2], 1.0)[0].mean()).backward()
    optimizer.step()
    if policy.method.schedule:
        policy.method.schedule.after_update(policy.model, number)
    optimizer.zero_grad()
    return [p.detach().clone() for p in policy.trainable]


@pytest.mark.parametrize("method", ["full", "lora", "adalora", "vera"])
def test_weights_schedule_and_optimizer(make_recipe: Any, tmp_path: Path, method: str) -> None:
    """What a checkpoint restores: Policy.load_training_state and ShardingStrategy.load_state."""
    recipe = make_recipe()
    rank = {} if method == "full" else {"rank": 4}
    config = AdapterConfig(method=method, target_modules=("q_proj", "v_proj"), **rank)  # type: ignore
    if method == "full":
        config = AdapterConfig(method=method)
    count = iter(range(100))

    def make() -> Any:
        policy = load_policy(recipe.model, config, recipe.model.path, 0, False, num_updates=8)
        return policy, build_optimizer(policy.trainable, recipe.optim)

    def use(pair: Any, number: int) -> Any:
        policy, optimizer = pair
        return step(policy, optimizer, number)

    def state(pair: Any, _: int) -> Any:
        policy, optimizer = pair
        folder = tmp_path / str(next(count))
        policy.save(folder)
        kept = {"policy": policy.training_state(), "optimizer": optimizer.state_dict()}
        return copy.deepcopy(kept) | {"folder": Weights(folder, policy)}

    def restore(pair: Any, saved: Any) -> None:
        policy, optimizer = pair
        policy.load_training_state(saved["folder"].path, saved["policy"])
        policy.strategy.load_state(optimizer, copy.deepcopy(saved["optimizer"]))

    check(make, use, state, restore)


class Weights:
    """A saved folder that compares by the weights it was saved from."""

    def __init__(self, path: Path, policy: Any) -> None:
        self.path = path
        self._weights = {n: p.detach().clone() for n, p in policy.model.named_parameters()}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Weights) and same(self._weights, other._weights)

    def __deepcopy__(self, memo: Any) -> Weights:
        return self

    __hash__ = None  # type: ignore[assignment]


TESTED = {
    "sampling.problem_selection.PassRates.load_state": test_pass_rates,
    "sampling.problem_selection.Selector.load_state": test_selectors,
    "sampling.mixture.Mixture.load_state": test_mixtures,
    "algorithm.entropy_control.EntropyControl.load_state": test_the_entropy_controller,
    "policy.loss_scale.LossScale.load_state": test_the_loss_scale,
    "sampling.collector.Collector.load_state": test_the_sampler,
    "sampling.sampler.Sampler.load_state": test_the_sampler,
    "sampling.replay.Replay.load_state": "test_replay: keeps nothing, the step names the file",
    "distributed.strategy.ShardingStrategy.load_state": test_weights_schedule_and_optimizer,
    "policy.policy.Policy.load_training_state": test_weights_schedule_and_optimizer,
    "adapters.methods.adalora._load_state": test_weights_schedule_and_optimizer,
    "adapters.state.load_adapter_state": test_weights_schedule_and_optimizer,
    "distributed.zero.Zero.load_state": "test_sharding: loaded into a new engine only",
}


def test_everything_that_loads_a_state_is_in_the_table() -> None:
    root = Path(__file__).parents[3]
    found = set()
    for package in ("rlvr", "rewards", "eval"):
        for path in sorted((root / package).rglob("*.py")):
            module = ".".join(path.relative_to(root).with_suffix("").parts).removeprefix("rlvr.")
            found |= {f"{module}.{name}" for name in loaders(ast.parse(path.read_text()))}
    assert found == TESTED.keys()


def loaders(tree: ast.AST, prefix: str = "") -> set[str]:
    """Names of functions such as load_state and load_training_state, with their classes'."""
    found = set()
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef):
            found |= loaders(node, f"{prefix}{node.name}.")
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            name = node.name.lstrip("_")
            if name.startswith(("load_", "set_", "restore_")) and "state" in name:
                found.add(prefix + node.name)
    return found
