"""The verifiers of other packages, each as a function of one response and one gold.

Golds go in as `$gold$`, the form that serves these packages best: as raw LaTeX many are dropped or
read in part.
"""

import logging
from collections.abc import Callable

logging.getLogger("math_verify").setLevel(logging.CRITICAL)


def trl_accuracy(response: str, gold: str) -> bool:
    from trl.rewards import accuracy_reward

    return accuracy_reward([[{"role": "assistant", "content": response}]], [f"${gold}$"]) == [1.0]


def math_verify(response: str, gold: str) -> bool:
    from math_verify import parse, verify

    return verify(parse(f"${gold}$"), parse(response))


PEERS: dict[str, Callable[[str, str], bool]] = {"trl": trl_accuracy, "math-verify": math_verify}


def call_trl(response: str, gold: str) -> tuple[str]:
    """For a worker process: hostile pairs run where they can be killed."""
    return (str(trl_accuracy(response, gold)),)


def call_math_verify(response: str, gold: str) -> tuple[str]:
    return (str(math_verify(response, gold)),)
