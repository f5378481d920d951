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
