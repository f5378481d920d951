"""From a comparison recipe to the resolved recipe of every run."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlvr.common.errors import ConfigError
from rlvr.compare.execution.task import RunTask, run_key
from rlvr.config.compare import BudgetConfig, CompareRecipe, MethodConfig, RulesConfig
from rlvr.config.recipes import find_recipe
from rlvr.config.toml import load_recipe, validate
from rlvr.config.train import TrainRecipe
from rlvr.warm_start.policy_path import find_model, model_path

POLICY = frozenset({"path", "sft_recipe"})
"""The settings of [model] that name the policy."""

DEFAULT_LR = 1e-4
"""Stands in the resolved recipe of a method whose rate is not known yet."""


@dataclass(frozen=True)
class Comparison:
    """A comparison recipe with what it points to.

    base: the base recipe's settings as given, by section; without its policy where [settings] name
    another. base_lrs: its table of rates by method, or empty. model_path: the policy's folder or
    hub id, after the warm start.
    """

    recipe: CompareRecipe
    path: Path
    base: dict[str, dict[str, Any]]
    base_lrs: Mapping[str, float]
    model_path: str | None

    @property
    def folder(self) -> Path:
        """The comparison's folder: runs/, comparison.json, comparison.md, logs/."""
        return Path(self.recipe.compare.dir) / self.recipe.compare.name

    def method_name(self, label: str) -> str:
        """adapter.method of the competitor `label`."""
        return self.recipe.methods[label].method or label

    def reference_lr(self, label: str) -> float:
        """Centre of the label's grid where it has no prior: its own, or find.reference_lr."""
        return self.recipe.methods[label].reference_lr or self.recipe.find.reference_lr

    def seeds(self, label: str) -> tuple[int, ...]:
        """Seeds of the competitor's runs."""
        return self.recipe.methods[label].seeds or self.recipe.compare.seeds

    def resolve(
        self,
        label: str,
        seed: int,
        lr: float | None,
        steps: int | None = None,
        evaluated: bool = True,
    ) -> TrainRecipe:
        """The recipe of one run, without its folder. steps: None takes the budget's.

        Raises: ConfigError for a setting that the method would ignore or that cannot work.
        """
        from rlvr.runs.checkpoint import with_found_start
        from rlvr.training.preflight import check

        method, budget = self.recipe.methods[label], self.recipe.budget
        for key in sorted(POLICY & set(method.settings.get("model", {}))):
            raise ConfigError(
                f"methods.{label}.settings.model.{key}: all methods start from one policy; set"
                f" settings.model.{key}"
            )
        tree = _overlay(self.base, self.recipe.settings, method.settings)
        tree["adapter"] = self._adapter(label, method, tree.get("adapter", {}))
        tree["optim"] = tree.get("optim", {}) | {"lr": lr or DEFAULT_LR}
        length = steps or budget.steps or budget.max_steps
        if not evaluated:
            tree.pop("eval", None)
        tree["train"] = {"steps": length} | tree.get("train", {}) | {"seed": seed}
        # the budget goes before the base recipe's steps, not before what a method asks for itself
        if "steps" not in method.settings.get("train", {}):
            tree["train"]["steps"] = length
        # a shorter run, of a search for a rate, does not come to all stages
        stages = tree.pop("stage", [])
        tree["stage"] = [one for one in stages if one["at_step"] < tree["train"]["steps"]]
        if self.model_path is not None:  # the warm start is made once, not by every run
            tree["model"] = _without_policy(tree) | {"path": self.model_path}
        recipe = with_found_start(validate(tree, TrainRecipe))
        executor = self.recipe.executor
        if recipe.rollout.servers and (executor.kind != "local" or executor.parallel > 1):
            raise ConfigError(
                "rollout.servers: a server holds the weights of one run; set executor.parallel = 1"
                ' with executor.kind = "local", or rollout.engine = "vllm"'
            )
        if executor.kind == "shared":
            from rlvr.compare.execution.sharing import check_can_share

            check_can_share(recipe, budget)
        check(recipe)
        return recipe

    def _adapter(self, label: str, method: MethodConfig, adapter: dict[str, Any]) -> dict[str, Any]:
        """Settings of the adapter; of the shared ones, those that this method has."""
        from rlvr.adapters import METHODS

        name = self.method_name(label)
        options = METHODS[name].options if name in METHODS else frozenset(adapter)
        own = method.settings.get("adapter", {})
        if "start_from" in adapter and "start_from" not in own:
            raise ConfigError(
                f"adapter.start_from = {adapter['start_from']!r}: is of one method; give every"
                f" method its own, methods.{label}.settings.adapter.start_from"
            )
        # what the method itself asks for stays, to be refused where it would be ignored
        shared = {k: v for k, v in adapter.items() if k in options or k in own}
        rank = {} if method.rank is None else {"rank": method.rank}
        return shared | rank | {"method": name}

    def task(
        self,
        label: str,
        seed: int,
        lr: float,
        steps: int | None = None,
        until: int | None = None,
        rules: RulesConfig | None = None,
        evaluated: bool = True,
    ) -> RunTask:
        """The run of `label` with this seed and rate, in a folder named after its key."""
        recipe = self.resolve(label, seed, lr, steps, evaluated)
        budget = self.recipe.budget if steps is None else BudgetConfig(steps=steps)
        key = run_key(recipe, budget)
        name = f"{label}-lr{lr:.4g}-seed{seed}-{key}"
        # the name is the key's: the same command finds its runs again, a changed one starts anew
        run = recipe.run.model_copy(update={"dir": str(self.folder / "runs"), "name": name})
        return RunTask(label, recipe.model_copy(update={"run": run}), budget, until, rules)

    def short_task(self, label: str, seed: int, lr: float) -> RunTask:
        """A short run of a search for the rate of `label`.

        Raises: ConfigError where its reward would not say how good the policy is.
        """
        find = self.recipe.find
        by_reward = find.signal == "reward"
        task = self.task(label, seed, lr, find.steps, None, find.rules, evaluated=not by_reward)
        strategy = task.recipe.sampling.strategy
        if by_reward and strategy != "uniform":
            raise ConfigError(
                f'find.signal = "reward": sampling.strategy = "{strategy}" takes problems by how'
                ' often they are solved, whatever the rate; set it to "accuracy"'
            )
        return task


def open_comparison(path: Path, overrides: Sequence[str], warm_start: bool = True) -> Comparison:
    """Reads the recipe and its base; makes the policy of a warm start, unless told not to.

    Raises: ConfigError for what cannot be read.
    """
    recipe = load_recipe(path, overrides, CompareRecipe)
    base_path = find_recipe(recipe.compare.base)
    if not base_path.is_absolute() and not base_path.exists():
        base_path = path.parent / base_path
    if not base_path.is_file():
        raise ConfigError(f"compare.base = {recipe.compare.base!r}: no such recipe; correct it")
    # in a base recipe optim.lr may be a table of rates by method
    base = load_recipe(base_path, ["--optim.lr", str(DEFAULT_LR)], TrainRecipe)
    rates = tomllib.loads(base_path.read_text()).get("optim", {}).get("lr", {})
    # only what was set: a default written out would be refused where a method ignores it
    tree = base.model_dump(exclude_unset=True)
    given = recipe.settings.get("model", {})
    if not POLICY.isdisjoint(given):  # another policy than the base recipe's
        tree["model"] = _without_policy(tree)
    start = validate(_overlay(tree, {"model": given}), TrainRecipe)
    named_in = path if "sft_recipe" in given else base_path
    model = (model_path if warm_start else find_model)(start, named_in)
    return Comparison(recipe, path, tree, rates if isinstance(rates, dict) else {}, model)


def _without_policy(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The [model] of these settings, without what names the policy."""
    return {key: value for key, value in tree["model"].items() if key not in POLICY}


def _overlay(*trees: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by section, later ones over earlier ones; of stages the last that are given."""
    result: dict[str, Any] = {}
    for tree in trees:
        for section, values in tree.items():
            is_list = section == "stage"
            result[section] = values if is_list else result.get(section, {}) | dict(values)
    return result
