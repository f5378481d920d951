"""Verifiable math rewards: extract, normalise, compare; bounded and killable.

    from rewards import Gold, Verifier

    with Verifier() as verifier:
        verdict = verifier.verify(response, Gold.parse(gold_text))

Nothing is imported before it is used: no torch ever, no sympy in this process.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rewards.counters import VerifierStats
    from rewards.gold import Gold
    from rewards.types import Reason, Verdict
    from rewards.verifier import Verifier

__all__ = ["Gold", "Reason", "Verdict", "Verifier", "VerifierStats"]

_MODULES = {
    "Gold": "rewards.gold",
    "Reason": "rewards.types",
    "Verdict": "rewards.types",
    "Verifier": "rewards.verifier",
    "VerifierStats": "rewards.counters",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module 'rewards' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
