"""Call the slow judge from a worker process: strings in, strings out."""

from functools import cache, lru_cache
from importlib import import_module

from rewards.gold import Gold
from rewards.judging.judge import judge_slow
from rewards.syntax.nodes import Node
from rewards.syntax.normalise import normalise
from rewards.syntax.read import read

parse_gold = lru_cache(maxsize=4096)(Gold.parse)  # golds come back with every sample and epoch

WARM_UP_PAIRS = (
    (r"(x-1)(x^2+x+1)", "x^3-1"),
    (r"\sqrt{7+4\sqrt{3}}", r"2+\sqrt{3}"),
    (r"\sin(2x)", r"2\sin x"),
    (r"\begin{pmatrix}x\\y\end{pmatrix}", r"\begin{pmatrix}x\\2y\end{pmatrix}"),
    (r"\{x : x \equiv 1 \bmod 3\}", r"f(x)=\int_0^x g(t)\,dt"),
)
STEPPED_PAIRS = (
    (r"\ln(x^2)+\sin(2x)", r"2\ln x+2\sin x\cos x"),
    (r"e^{i\pi/3}+\arctan 2+\sqrt{3+2\sqrt2}", r"\frac32+\frac{\sqrt3}{2}i+\sqrt2"),
)
"""Worked on by every step of the symbolic stage, for as long as it takes."""
STEPPED_SET = r"\{x : x^2-x-1 \ge 0\}"


def judge_texts(answer: str, gold_text: str) -> tuple[str, str]:
    """Return the reason and the stage of the slow judge's ruling."""
    ruling = judge_slow(answer, parse_gold(gold_text))
    return ruling.reason.value, ruling.stage


def tree(text: str) -> Node:
    """Return the tree of one of our own texts."""
    node = read(normalise(text))
    assert node is not None, text
    return node


def warm_up() -> None:
    """Import what the slow judge imports on demand, and fill caches that every fork then shares."""
    load()
    for answer, gold_text in WARM_UP_PAIRS:
        judge_texts(answer, gold_text)


@cache  # a forked worker has what the template has loaded
def load() -> None:
    """Import sympy and math-verify whole: both import parts of themselves when first used."""
    from rewards.equality.solve import as_set
    from rewards.equality.symbolic import rehearse

    for name in ("sympy", "mpmath", "math_verify"):
        import_module(name)
    rehearse((tree(a), tree(b)) for a, b in STEPPED_PAIRS)
    as_set(tree(STEPPED_SET))
