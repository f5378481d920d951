"""What each algorithm.preset stands for: the parts that a recipe may override one by one.

docs/algorithms.md has the same table with papers and equations. Imports no torch.
"""

from collections.abc import Mapping
from typing import Any

_GRPO: dict[str, Any] = {
    "advantage": "group_std",
    "ratio": "token",
    "clip": "ppo",
    "clip_low": 0.2,
    "clip_high": 0.2,
    "aggregation": "response_mean",
    "kl_beta": 0.0,
}

_DPPO = _GRPO | {"advantage": "group_mean", "aggregation": "constant"}

PRESETS: dict[str, dict[str, Any]] = {
    # 0.04 is the paper's coefficient
    "grpo": _GRPO | {"kl_beta": 0.04},
    "dapo": _GRPO | {"clip_high": 0.28, "aggregation": "token_mean"},
    "dr_grpo": _GRPO | {"advantage": "group_mean", "aggregation": "constant"},
    "bnpo": _GRPO | {"aggregation": "token_mean"},
    # 0.05 is the default of trl's RLOOTrainer
    "rloo": _GRPO
    | {
        "advantage": "leave_one_out",
        "ratio": "trajectory",
        "kl_beta": 0.05,
        "kl_in": "reward",
        "kl_estimator": "k1",
    },
    "reinforce_pp": _GRPO
    | {
        "advantage": "batch",
        "aggregation": "token_mean",
        "kl_beta": 0.01,
        "kl_in": "reward",
        "kl_estimator": "k1",
    },
    # the paper's range, for a mean over a whole response, which moves far less than one token
    "gspo": _GRPO | {"ratio": "sequence", "clip_low": 3e-4, "clip_high": 4e-4},
    "gspo_token": _GRPO | {"ratio": "sequence_token", "clip_low": 3e-4, "clip_high": 4e-4},
    # 1.0 is no lower bound, as no ratio is below 0; 1 + 4 is the 5 of trl's epsilon_high
    "cispo": _GRPO
    | {"clip": "cispo", "clip_low": 1.0, "clip_high": 4.0, "aggregation": "token_mean"},
    # in log space: ratios from e^-0.4 to e^0.4
    "gmpo": _GRPO | {"clip": "geometric", "clip_low": 0.4, "clip_high": 0.4},
    "sapo": _GRPO | {"clip": "soft"},
    "gpg": _GRPO | {"advantage": "informative_scaled", "clip": "none", "aggregation": "token_mean"},
    "opo": _GRPO | {"advantage": "length_weighted", "clip": "none", "aggregation": "response_sum"},
    "maxrl": _GRPO | {"advantage": "over_mean", "aggregation": "token_mean"},
    # the paper's thresholds, on Dr. GRPO's advantage and denominator
    "dppo_tv": _DPPO | {"clip": "binary_tv", "clip_low": 0.15, "clip_high": 0.15},
    "dppo_kl": _DPPO | {"clip": "binary_kl", "clip_low": 0.05, "clip_high": 0.05},
}
"""Preset to fields of AlgorithmConfig."""

USES_EQUAL_REWARDS = ("batch", "none")
"""Values of algorithm.advantage under which a group whose rewards are all equal trains."""


def preset_of(name: Any) -> dict[str, Any]:
    """What the preset of this name fills in: nothing where there is none, or it is no name."""
    return PRESETS.get(name, {}) if isinstance(name, str) else {}


def fill_dynamic(tree: Any) -> Any:
    """The recipe as nested dicts, sampling.dynamic false where it is not given and the advantage
    learns from groups with equal rewards, which dynamic sampling drops."""
    # pydantic says what is wrong with it
    if not isinstance(tree, Mapping):
        return tree
    algorithm, sampling = tree.get("algorithm", {}), tree.get("sampling", {})
    if not isinstance(algorithm, Mapping) or not isinstance(sampling, Mapping):
        return tree
    # read from the dict, as the sections are not built yet
    advantage = (preset_of(algorithm.get("preset")) | dict(algorithm)).get("advantage")
    uses_equal = isinstance(advantage, str) and advantage in USES_EQUAL_REWARDS
    if not uses_equal or "dynamic" in sampling:
        return tree
    return {**tree, "sampling": {**sampling, "dynamic": False}}
