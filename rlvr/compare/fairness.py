"""What all runs of a comparison share, what they do not, and which differences are not fair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlvr.common.errors import ConfigError
from rlvr.common.nested import flatten
from rlvr.compare.resolve import Comparison
from rlvr.config.train import TrainRecipe

MATCHED = {
    "model": "base model",
    "data": "prompts",
    "sampling": "data order",
    "rollout": "generation",
    "reward": "reward",
    "algorithm": "algorithm",
    "teacher": "teacher",
    "optim": "optimizer",
    "eval": "evaluation",
    "train": "steps",
    "stage": "stages",
}
"""What must be equal, section by section, and its name in the report: every key but those
of MAY_DIFFER, so that a new setting is compared until somebody says why it need not be."""

_MEMORY = "memory and speed: changes results by rounding alone"
_STORAGE = "what is written, not what is computed"
MAY_DIFFER: dict[str, str] = {
    "adapter": "what is compared; its modules are matched apart",
    "optim.lr": "every method has its own; borrowed ones are refused",
    "train.tokens_per_microbatch": _MEMORY,
    "train.activation_checkpointing": _MEMORY,
    "train.compile": _MEMORY,
    "train.num_threads": _MEMORY,
    "rollout.servers": _MEMORY,
    "rollout.server_wait_s": "when a run gives up",
    "rollout.sync_tolerance": "when a run stops for a difference",
    "rollout.gpu_memory_utilization": _MEMORY,
    "rollout.sleep": _MEMORY,
    "rollout.kv_cache_gib": _MEMORY,
    "rollout.max_num_seqs": _MEMORY,
    "rollout.tensor_parallel_size": _MEMORY,
    "reward.num_workers": _MEMORY,
    "train.checkpoint_every": _STORAGE,
    "train.checkpoint_minutes": _STORAGE,
    "train.keep_checkpoints": _STORAGE,
    "train.profile_steps": _STORAGE,
    "track": _STORAGE,
    "run": _STORAGE,
}
"""Sections and keys that may differ between methods, with the reason."""

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
        # without seeds and rates of their own: `_seeds` and `borrowed_rates` look at these
        label: flatten(comparison.resolve(label, seed, None).model_dump(mode="json"))
        for label in labels
    }
    matched, unfair = _settings(flat)
    unfair += _modules(comparison, labels, matched)
    unfair += _starts(comparison, labels, matched)
    unfair += _seeds(comparison, labels, matched)
    unfair += borrowed_rates(comparison)
    num_params = count_parameters(comparison)
    # numbers of parameters differ by nature between methods: a reader has to know, no more
    soft = _parameters(comparison, num_params, matched, unfair)
    unit = comparison.recipe.budget.unit
    matched += [unit] if unit != "steps" else []
    soft += [f"{other}: not the budget" for other in ("tokens", "seconds", "FLOPs")
             if other.lower() != unit]  # fmt: skip
    soft += _costs(flat) + _fidelity(comparison, labels, matched)
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


def _fidelity(comparison: Comparison, labels: Sequence[str], matched: list[str]) -> list[str]:
    """How the updates reach the engine in 16 bits, where methods differ in it: merged weights
    rounded to nearest lose small updates, low-rank factors do not."""
    groups: dict[str, list[str]] = {}
    for label in labels:
        way = _way_to_engine(comparison.resolve(label, comparison.recipe.compare.seeds[0], None))
        groups.setdefault(way, []).append(label)
    if len(groups) == 1:
        matched.append("sync fidelity")
        return []
    listed = "; ".join(f"{', '.join(own)} {way}" for way, own in groups.items())
    remedy = 'rollout.sync = "merged" gives all the same, see sync/arrived_frac'
    return [f"sync fidelity: {listed} ({remedy})"]


def _way_to_engine(recipe: TrainRecipe) -> str:
    import torch

    from rlvr.adapters import get_method
    from rlvr.engines.choose import choose_engine
    from rlvr.engines.weights.sync import mode_of

    method = get_method(recipe.adapter)
    exact = choose_engine(recipe.rollout.engine, method) == "transformers"
    if exact or recipe.model.dtype == "float32":
        return "as the trainer has them"
    if mode_of(recipe.rollout, method, on_cpu=not torch.cuda.is_available()) == "adapter":
        return "as low-rank factors"
    return f"as merged weights, rounded {_ROUNDED[recipe.rollout.sync_rounding]}"


_ROUNDED = {"nearest": "to nearest", "stochastic": "stochastically"}


def _modules(comparison: Comparison, labels: Sequence[str], matched: list[str]) -> list[str]:
    """Methods that adapt other linear modules than the first that adapts any."""
    from rlvr.adapters import get_method

    adapters = {label: comparison.resolve(label, 0, None).adapter for label in labels}
    targets = {
        label: " ".join(sorted(adapter.target_modules))
        for label, adapter in adapters.items()
        if "target_modules" in get_method(adapter).options
    }
    # full fine-tuning and prompts choose no modules, so the first that does is the measure
    first = next(iter(targets), None)
    odd = [label for label in targets if targets[label] != targets[str(first)]]
    if not odd:
        matched.append("modules")
    return [f"modules: {label} {targets[label]}, {first} {targets[str(first)]}" for label in odd]


def _starts(comparison: Comparison, labels: Sequence[str], matched: list[str]) -> list[str]:
    """Methods that go on from a saved adapter, where others begin at the base."""
    starts = {label: comparison.resolve(label, 0, None).adapter.start_from for label in labels}
    begun = [label for label, start in starts.items() if start]
    if len(begun) in (0, len(labels)):
        matched.append("start")
        return []
    others = ", ".join(label for label in labels if label not in begun)
    return [
        f"start: {label} goes on from {starts[label]}, {others} from the base" for label in begun
    ]


def _seeds(comparison: Comparison, labels: Sequence[str], matched: list[str]) -> list[str]:
    wanted = comparison.recipe.compare.seeds
    odd = [label for label in labels if comparison.seeds(label) != wanted]
    if not odd:
        matched.append("generation seeds")
    return [
        f"seeds: {label} has {list(comparison.seeds(label))}, not {list(wanted)}" for label in odd
    ]


def may_differ(key: str) -> str | None:
    """Why methods may have different values of a key, such as optim.lr; None: they may not."""
    return MAY_DIFFER.get(key) or MAY_DIFFER.get(key.partition(".")[0])


def _settings(flat: Mapping[str, Mapping[str, Any]]) -> tuple[list[str], list[str]]:
    """(names of what is equal, what is not and has to be) over all labels' settings by key."""
    first, *others = flat
    unfair = {
        label: [key for key in _different(flat[first], flat[label]) if may_differ(key) is None]
        for label in others
    }
    odd = {key.partition(".")[0] for keys in unfair.values() for key in keys}
    matched = [name for section, name in MATCHED.items() if section not in odd]
    return matched, [
        f"{MATCHED[key.partition('.')[0]]}: {_what(flat, first, label, key)}"
        for label, keys in unfair.items()
        for key in keys
    ]


def _costs(flat: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What differs in memory and speed, which a budget of seconds feels."""
    first, *others = flat
    return [
        f"memory and speed: {_what(flat, first, label, key)}"
        for label in others
        for key in _different(flat[first], flat[label])
        if may_differ(key) == _MEMORY
    ]


def _different(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    return sorted(key for key in a.keys() | b.keys() if a.get(key) != b.get(key))


def _what(flat: Mapping[str, Mapping[str, Any]], a: str, b: str, key: str) -> str:
    return f"{key} is {flat[a].get(key)!r} for {a} and {flat[b].get(key)!r} for {b}"
