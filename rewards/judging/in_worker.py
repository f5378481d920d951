"""The judge's slow part as the worker processes call it: strings in, strings out."""

from functools import lru_cache
from importlib import import_module

from rewards.gold import Gold
from rewards.judging.judge import judge_slow

parse_gold = lru_cache(maxsize=4096)(Gold.parse)

WARM_UP_PAIRS = (
    (r"(x-1)(x^2+x+1)", "x^3-1"),
    (r"\sqrt{7+4\sqrt{3}}", r"2+\sqrt{3}"),
    (r"\sin(2x)", r"2\sin x\cos x"),
    (r"\cos 40^\circ", r"\sin 50^\circ"),
    (r"\begin{pmatrix}x\\y\end{pmatrix}", r"\begin{pmatrix}x\\2y\end{pmatrix}"),
    (r"\{x : x \equiv 1 \bmod 3\}", r"f(x)=\int_0^x g(t)\,dt"),
)
STEPPED_PAIRS = (
    (r"\ln(x^2)+\sqrt{x}\sin(2x)", r"2\ln x+2\sqrt{x}\sin x\cos x"),
    (r"\binom{2n}{n}", r"\frac{(2n)!}{n!^2}"),
    (r"\arctan\frac12+\arctan\frac13", r"\frac{\pi}{4}"),
    (r"e^{i\pi/3}+\sqrt{3+2\sqrt2}", r"\frac32+\frac{\sqrt3}{2}i+\sqrt2"),
    (r"\{x : |x| < e^2\}", r"\{x : x^2-x-1 < 0\}"),
)
"""Worked on by every step of the symbolic stage, for as long as it takes."""


def judge_texts(answer: str, gold_text: str) -> tuple[str, str]:
    """The reason and the stage of the slow judge's ruling; the gold is parsed once per worker."""
    ruling = judge_slow(answer, parse_gold(gold_text))
    return ruling.reason.value, ruling.stage


def warm_up() -> None:
    """Import what the slow judge imports on demand, and fill caches that every fork then shares."""
    from rewards.equality import symbolic

    for name in ("sympy", "mpmath", "math_verify"):
        import_module(name)
    symbolic.rehearse(STEPPED_PAIRS)
    for answer, gold_text in WARM_UP_PAIRS:
        judge_texts(answer, gold_text)
