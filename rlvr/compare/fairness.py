"""What all runs of a comparison share, what they do not, and which differences are not fair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlvr.compare.plan import Comparison
from rlvr.recipe import ConfigError

MATCHED: dict[str, tuple[str, ...]] = {
    "base model": ("model",),
    "prompts": ("data",),
    "data order": ("sampling",),
    "generation": (
        "rollout.prompts_per_step", "rollout.group_size", "rollout.max_response_len",
        "rollout.temperature", "rollout.top_p", "rollout.top_k", "rollout.min_p",
        "rollout.stop", "rollout.stop_token_ids",
    ),
    "reward": ("reward",),
    "algorithm": ("algorithm",),
    "optimizer": (
        "optim.name", "optim.betas", "optim.eps", "optim.weight_decay", "optim.schedule",
        "optim.decay_frac", "optim.warmup_steps", "optim.max_grad_norm", "optim.updates_per_step",
    ),
    "evaluation": ("eval",),
    "steps": ("train.steps",),
}  # fmt: skip
"""What must be equal, beside modules, seeds and rates, and the settings that decide it. Further
adapter settings are the method's own; threads, memory and logging change no number."""

NEAR = 0.10
"""Largest relative difference of numbers of trainable parameters that counts as matched."""


@dataclass(frozen=True)
class Fairness:
    """matched and unmatched: in words, for the report. unfair: what the comparison is refused for.
    num_params: trainable parameters by label."""

    matched: tuple[str, ...]
    unmatched: tuple[str, ...]
    unfair: tuple[str, ...]
    num_params: Mapping[str, int]


def examine(comparison: Comparison) -> Fairness:
    """Compares the resolved runs of all methods with those of the first."""
    labels = list(comparison.recipe.methods)
    seed = comparison.recipe.compare.seeds[0]
    flat = {
        label: _flatten(comparison.resolve(label, seed, None).model_dump(mode="json"))
        for label in labels
    }
    matched, unfair = [], []
    for name, prefixes in MATCHED.items():
        odd = [label for label in labels[1:] if _differs(flat[labels[0]], flat[label], prefixes)]
        if odd:
            unfair += [f"{name}: {_what(flat, labels[0], label, prefixes)}" for label in odd]
        else:
            matched.append(name)
    unfair += _modules(comparison, labels, matched)
    unfair += _seeds(comparison, labels, matched)
    unfair += borrowed_rates(comparison)
    num_params = count_parameters(comparison)
    soft = _parameters(comparison, num_params, matched, unfair)
    unit = comparison.recipe.budget.unit
    matched += [unit] if unit != "steps" else []
    soft += [f"{other}: not the budget" for other in ("tokens", "seconds", "FLOPs")
             if other.lower() != unit]  # fmt: skip
    return Fairness(tuple(matched), tuple(unfair + soft), tuple(unfair), num_params)


def refuse_unfair(fairness: Fairness, comparison: Comparison) -> None:
    """Raises: ConfigError with every reason, unless compare.allow_unmatched."""
    if fairness.unfair and not comparison.recipe.compare.allow_unmatched:
        raise ConfigError(
            f"not a fair comparison: {'; '.join(fairness.unfair)}. Make them equal, or set"
            " compare.allow_unmatched = true and the report will say so"
        )


def borrowed_rates(comparison: Comparison) -> list[str]:
    """Methods whose given rate is one that belongs to another method.

    Another's: the same number is given to both, or the base recipe's table has it for the other and
    not for this one. "find" is the remedy, also where it ends at the same number.
    """
    recipe, found = comparison.recipe, []
    given = {label: m.lr for label, m in recipe.methods.items() if m.lr != "find"}
    for label, lr in given.items():
        own = comparison.method_name(label)
        for other, rate in comparison.base_lrs.items():
            if other != own and rate == lr and comparison.base_lrs.get(own) != lr:
                found.append(f"lr: {label} is given {lr:g}, which the base recipe has for {other}")
        for earlier, rate in given.items():
            if earlier == label:
                break
            if rate == lr and comparison.method_name(earlier) != own:
                found.append(f'lr: {label} is given {earlier}\'s {lr:g}; say lr = "find"')
    return found


def count_parameters(comparison: Comparison) -> dict[str, int]:
    """Trainable parameters by label, from shapes alone; empty before the warm start is made."""
    if comparison.model_path is None:
        return {}
    from rlvr.plan.hardware import shape_of

    path = comparison.model_path
    return {
        label: shape_of(comparison.resolve(label, 0, None), path).trainable
        for label in comparison.recipe.methods
    }


def _parameters(
    comparison: Comparison, counts: Mapping[str, int], matched: list[str], unfair: list[str]
) -> list[str]:
    """Sorts trainable parameters into matched, unfair or merely unmatched (returned)."""
    if not counts:
        return ["parameters: not known before the warm start"]
    low, high = min(counts.values()), max(counts.values())
    if high - low <= NEAR * high:
        matched.append("parameters")
        return []
    listed = ", ".join(f"{label} {count:,}" for label, count in counts.items())
    if comparison.recipe.compare.match == "parameters":
        unfair.append(f"parameters: {listed} (compare.match asks for 10%)")
        return []
    return [f"parameters: {listed}"]


def _modules(comparison: Comparison, labels: Sequence[str], matched: list[str]) -> list[str]:
    """Methods that adapt other linear modules than the first that adapts any."""
    from rlvr.adapters import get_method

    adapters = {label: comparison.resolve(label, 0, None).adapter for label in labels}
    targets = {
        label: " ".join(sorted(adapter.target_modules))
        for label, adapter in adapters.items()
        if "target_modules" in get_method(adapter).options
    }
    first = next(iter(targets), None)
    odd = [label for label in targets if targets[label] != targets[str(first)]]
    if not odd:
        matched.append("modules")
    return [f"modules: {label} {targets[label]}, {first} {targets[str(first)]}" for label in odd]


def _seeds(comparison: Comparison, labels: Sequence[str], matched: list[str]) -> list[str]:
    wanted = comparison.recipe.compare.seeds
    odd = [label for label in labels if comparison.seeds(label) != wanted]
    if not odd:
        matched.append("generation seeds")
    return [
        f"seeds: {label} has {list(comparison.seeds(label))}, not {list(wanted)}" for label in odd
    ]


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _under(key: str, prefixes: Sequence[str]) -> bool:
    return any(key == prefix or key.startswith(f"{prefix}.") for prefix in prefixes)


def _different(a: Mapping[str, Any], b: Mapping[str, Any], prefixes: Sequence[str]) -> list[str]:
    keys = [key for key in a.keys() | b.keys() if _under(key, prefixes)]
    return sorted(key for key in keys if a.get(key) != b.get(key))


def _differs(a: Mapping[str, Any], b: Mapping[str, Any], prefixes: Sequence[str]) -> bool:
    return bool(_different(a, b, prefixes))


def _what(flat: Mapping[str, Mapping[str, Any]], a: str, b: str, prefixes: Sequence[str]) -> str:
    key = _different(flat[a], flat[b], prefixes)[0]
    return f"{key} is {flat[a].get(key)!r} for {a} and {flat[b].get(key)!r} for {b}"
