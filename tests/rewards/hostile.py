"""Pairs made to hang, bloat, crash or take over a verifier; used by the tests and the benchmark.

None of the answers equals its gold, so the only wrong verdict is `correct`; what must not happen
is a hang, a crash, or anything executed.
"""

from itertools import product

from tests.rewards.payloads import PAYLOADS

GOLDS = ("5", r"\frac{1}{2}", "x+1", "(1,2)", "[1,2]", r"\sqrt{2}", r"\{1,2\}", "2^{100}")


def boxed(answer: str) -> str:
    return rf"So the answer is $\boxed{{{answer}}}$."


def towers() -> list[str]:
    """Powers too large to write down."""
    answers = []
    for base, height in product(("2", "7", "99", "1.5", "(-3)", r"\pi", "x", "10"), (3, 5, 40)):
        answers.append("^{".join([base] * height) + "}" * (height - 1))
    return [
        *answers,
        "9^9^9^9",
        "9**9**9**9",
        "7^{123456789012}",
        "7^{-123456789012}",
        r"\frac{1}{3^{3^{3^{3}}}}",
        r"0.999^{10^{15}}",
        r"(1+10^{-9})^{10^{18}}",
        r"(10^{10^{10}})^{0}",
        r"\sqrt{9^{9^{9}}}",
        r"\sqrt[9^{9^{9}}]{2}",
        r"\log_2(2^{9^{9^9}})",
        r"e^{e^{e^{e^{e}}}}",
        r"i^{i^{i^{9^{9}}}}",
        r"0^{0^{0^{-1}}}",
        r"2^{2^{2^{x}}}",
        r"e^{10^{400}}",
        r"\sin(10^{10^{7}})",
        r"\cos(e^{e^{e^{9}}})",
        "1e999999999",
        "1e-999999999",
        r"10^{10^{10}} - 10^{10^{10}} + 4",
        r"\frac{10^{10^{10}}}{10^{10^{10}}}\cdot 3",
        r"9^{9^{9^{9}}} \bmod 7",
        r"7^{7^{7^{7}}} \pmod{10}",
    ]


def factorials() -> list[str]:
    return [
        "1000000000!",
        "((10!)!)!",
        "9!!!!!!!!!!!!!!",
        "(10^{10})!",
        r"\frac{(10^9)!}{(10^9-1)!}",
        r"\binom{1000000000}{500000000}",
        r"\binom{10^{20}}{3 \cdot 10^{19}}",
        r"\binom{\binom{\binom{99}{50}}{9}}{9}",
        r"\Gamma(10^{12})",
        r"\Gamma(\Gamma(\Gamma(20)))",
        r"\lfloor 10^{10^9} \pi \rfloor",
        r"\gcd(2^{10^9}-1, 2^{10^8}-1)",
        r"\operatorname{lcm}(1,2,\ldots,10^{9})",
        r"\phi(10^{10^6}+1)",
        r"F_{10^{12}}",
        r"\zeta(10^{9}+i10^{9})",
    ]


def loops() -> list[str]:
    """Sums, products, integrals and limits that ask for the work to be done."""
    return [
        r"\sum_{k=1}^{10^{12}} k^k",
        r"\sum_{k=1}^{\infty} \frac{1}{k^{k^k}}",
        r"\prod_{k=1}^{10^{9}} (k^2+1)",
        r"\prod_{k=1}^{10^{5}} (x+k)",
        r"\sum_{i=1}^{10^4}\sum_{j=1}^{10^4}\sum_{k=1}^{10^4} ijk",
        r"\int_0^{10^9} \sin(x^{x^x})\,dx",
        r"\int \frac{\sin(x^5)\tan(x^3)}{\log(x)+e^{x^2}}\,dx",
        r"\lim_{n\to\infty} \left(1+\frac{1}{n}\right)^{n^{n}}",
        r"\lim_{x\to 0}\frac{\sin(\tan x)-\tan(\sin x)}{\arcsin(\arctan x)-\arctan(\arcsin x)}",
        r"\bigcup_{k=1}^{10^{9}} [k, k+\frac12]",
        r"\det\begin{pmatrix}1&2\\3&4\end{pmatrix}^{10^{12}}",
        r"\begin{pmatrix}2&1\\1&1\end{pmatrix}^{10^{9}}",
        r"\{1,2,\ldots,10^{12}\}",
        r"1,2,3,\ldots,10^{10}",
        r"[1,10^{10}]\cap\mathbb{Z}",
        r"\{x^x : x \in \mathbb{Z}, x < 10^{10}\}",
    ]


def algebra() -> list[str]:
    """Expansions, roots and equations that blow up a computer algebra system."""
    many = "+".join(f"x_{{{n}}}" for n in range(60))
    radicals = "+".join(rf"\sqrt{{{n}}}" for n in range(101, 141))
    nested = r"\sqrt{2+" * 60 + "x" + "}" * 60
    fraction = r"\frac{1}{1+" * 80 + "x" + "}" * 80
    return [
        "(x+1)^{100000}",
        "(x+y+z+w)^{2000}",
        rf"({many})^{{60}}",
        "(x^{1000}+1)^{1000}(x^{999}-1)^{1000}",
        "((((x+1)^{99}+1)^{99}+1)^{99}+1)^{99}",
        r"\prod (x+" + ")(x+".join(map(str, range(300))) + ")",
        "(x+" + ")(x+".join(map(str, range(300))) + ")",
        radicals,
        rf"\frac{{1}}{{{radicals}}}",
        nested,
        fraction,
        r"\sin(" * 70 + "x" + ")" * 70,
        r"\sqrt[97]{\sqrt[89]{\sqrt[83]{x^{79}+1}+1}+1}",
        "x^{17}-3x^5+1=0",
        r"\frac{x^{5000}-1}{x-1}",
        r"\left|\left|\left|x-1\right|-2\right|-3\right|" * 20,
        "x^{y^{z^{w}}}=w^{z^{y^{x}}}",
        r"\log_{\log_{\log_2 x} x} x",
        "x" + "!" * 200,
        r"\tan^{99}(\sec^{99}(\csc^{99}(x)))",
        r"(\sqrt{2}+\sqrt{3}+\sqrt{5}+\sqrt{7}+\sqrt{11})^{500}",
        r"\cos\frac{\pi}{65537}",
        r"\sum_{k=0}^{999} \binom{999}{k} x^k",
        "+".join(f"{n}x^{{{n * n}}}" for n in range(1, 400)),
    ]


def shapes() -> list[str]:
    """Text that breaks parsers: deep, long, unbalanced, odd characters."""
    answers = []
    for depth in (50, 1000, 9000):
        answers += [
            "(" * depth + "1" + ")" * depth,
            "{" * depth + "1" + "}" * depth,
            "-" * depth + "1",
            r"\sqrt{" * depth + "1" + "}" * depth,
            r"\frac{" * depth + "1",
            "[" * depth,
            "|" * depth,
            "1," * depth + "1",
            "1+" * depth + "1",
            "1/" * depth + "1",
            "2^" * depth + "2",
            "=" * depth,
            r"\left(" * depth,
            "7" * depth,
            "0." + "3" * depth,
            r"\text{" * depth + "a" + "}" * depth,
            "\\" * depth,
            "$" * depth,
            "%" * depth,
            "√" * depth + "2",
            "\u0301" * depth,
            "\u200b" * depth,
        ]
    return [
        *answers,
        "\ud800",
        "\x00",
        "\x1b[2J",
        "\u202e5",
        "५",
        "5\u20dd",
        "∞",
        r"\infty-\infty",
        r"\frac{0}{0}",
        r"\frac{1}{0}",
        "NaN",
        "inf",
        "-inf",
        "1/0",
        "0^0",
        r"\sqrt{-1}^{\infty}",
        r"\unknowncommand{5}{6}",
        r"\begin{array}{c" + "c" * 4000 + "}" + "1&" * 4000 + r"1\end{array}",
        r"\begin{pmatrix}" + r"1\\" * 3000 + r"1\end{pmatrix}",
        r"\begin{cases}" * 300 + "1",
    ]


def whole_responses() -> list[str]:
    """Hostile texts around the box, or without one."""
    return [
        "",
        r"\boxed{" * 20_000,
        r"\boxed{5" + "{" * 60_000,
        "}" * 60_000 + r"\boxed{6}",
        r"\boxed{}" * 20_000,
        r"\boxed{6}" * 3000,
        r"\boxed " * 20_000,
        "\\boxed{\\text{" * 5000,
        "<think>" * 20_000 + r"\boxed{6}",
        "</think>" * 20_000 + r"\boxed{6}",
        "$" * 120_000,
        r"\(" * 60_000,
        "the answer is " * 9000,
        "The answer is 6. " * 8000,
        "1" * 120_000,
        "#### " * 20_000,
        "\n" * 120_000 + r"\boxed{6}",
        (r"\frac{1}{2} " * 10_000) + r"\boxed{6}",
        r"\boxed{6} \boxed{7} \boxed{8}",
        "\x00" * 60_000 + r"\boxed{6}",
    ]


def hostile_pairs() -> list[tuple[str, str]]:
    """(response, gold) pairs; answers take the golds in turn."""
    answers = [*towers(), *factorials(), *loops(), *algebra(), *shapes(), *PAYLOADS]
    responses = [boxed(answer) for answer in answers] + whole_responses()
    return [(response, GOLDS[n % len(GOLDS)]) for n, response in enumerate(responses)]
