"""The judge's slow part as the worker processes call it: strings in, strings out."""

from functools import lru_cache
from importlib import import_module

from rewards.equality.judge import judge_slow
from rewards.gold import Gold

parse_gold = lru_cache(maxsize=4096)(Gold.parse)

WARM_UP_PAIRS = (
    (r"(x-1)(x^2+x+1)", "x^3-1"),
    (r"\sqrt{7+4\sqrt{3}}", r"2+\sqrt{3}"),
    (r"\sin(2x)", r"2\sin x\cos x"),
    (r"\cos 40^\circ", r"\sin 50^\circ"),
    (r"e^{i\pi/3}", r"\frac12+\frac{\sqrt3}{2}i"),
    (r"\arctan\frac12+\arctan\frac13", r"\frac{\pi}{4}"),
    (r"\ln(x-20)+\ln 2", r"\ln(2x-40)"),
    (r"\binom{2n}{n}", r"\frac{(2n)!}{n!^2}"),
    (r"\sum_{k=1}^{n} k", r"\frac{n(n+1)}{2}"),
    (r"2\arcsin\sqrt{x}", r"\arccos(1-2x)"),
    (r"\begin{pmatrix}x\\y\end{pmatrix}", r"\begin{pmatrix}x\\2y\end{pmatrix}"),
    (r"\{x : x \equiv 1 \bmod 3\}", r"f(x)=\int_0^x g(t)\,dt"),
)


def judge_texts(answer: str, gold_text: str) -> tuple[str, str]:
    """The reason and the stage of the slow judge's ruling; the gold is parsed once per worker."""
    ruling = judge_slow(answer, parse_gold(gold_text))
    return ruling.reason.value, ruling.stage


def warm_up() -> None:
    """Import what the slow judge imports on demand, and fill caches that every fork then shares."""
    for name in ("sympy", "mpmath", "math_verify"):
        import_module(name)
    for answer, gold_text in WARM_UP_PAIRS:
        judge_texts(answer, gold_text)
