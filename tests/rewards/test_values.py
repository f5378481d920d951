"""Exact, approximate and residue values of trees, against slow references."""

import random
from fractions import Fraction

import pytest

from rewards.equality.approx import Point, approx
from rewards.equality.exact import NotExact, TooLarge, Undefined, exact
from rewards.equality.guard import log_size
from rewards.equality.residue import MODULI, agree
from rewards.syntax.normalise import normalise
from rewards.syntax.parse import parse


def tree(text: str):
    return parse(normalise(text))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2^{10}", 1024),
        (r"\frac{3}{4}-\frac{1}{4}", Fraction(1, 2)),
        ("5!", 120),
        ("7!!", 105),
        (r"\binom{9}{4}", 126),
        (r"\sqrt{\frac{4}{9}}", Fraction(2, 3)),
        (r"\log_9 27", Fraction(3, 2)),
        (r"\lceil 2.1 \rceil", 3),
        ("4^{-3/2}", Fraction(1, 8)),
        (r"0.\overline{45}", Fraction(5, 11)),
        (r"1\frac{2}{3}", Fraction(5, 3)),
        ("1.5e3", 1500),
    ],
)
def test_exact_values(text, value):
    assert exact(tree(text)) == value


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("1/0", Undefined),
        ("0^{-1}", Undefined),
        ("9^{9^9}", TooLarge),
        ("(10^9)!", TooLarge),
        (r"\binom{10^{9}}{10^{8}}", TooLarge),
        ("x", NotExact),
        (r"\sqrt{2}", NotExact),
        (r"\pi", NotExact),
        (r"\log_{\binom{801963807}{44}}{7.859}", NotExact),
    ],
)
def test_what_has_no_exact_value_says_why(text, kind):
    with pytest.raises(kind):
        exact(tree(text))


CONSTANTS = [
    r"\sqrt{2}+\sqrt{3}",
    r"\sqrt[3]{7}-1",
    r"e^{-3}\pi",
    r"\sin 2 + \cos 3",
    r"\ln 7 - \ln 6",
    r"\arctan 5",
    r"(1+\sqrt{5})^{7}",
    r"\sqrt{1000001}-\sqrt{1000000}",
    r"\log_3 20",
    r"\tan 1.5",
    r"\frac{1}{\sqrt{2}-1.41421}",
    r"\sinh 3",
    r"2^{\sqrt{2}}",
    r"\cos\frac{\pi}{2}+1",
    r"\exp(-0.5)",
]


@pytest.mark.parametrize("text", CONSTANTS)
def test_the_error_bound_of_floats_holds(text):
    import mpmath

    from rewards.equality.probe import Evaluator

    node = tree(text)
    value, bound = approx(node, Point(0))
    with mpmath.workdps(60):
        context = mpmath.mp.clone()
        context.dps = 60
        truth = Evaluator(context, Point(0)).value(node)
        assert abs(truth - value) <= bound
        assert bound < 1e-7 * abs(truth)


@pytest.mark.parametrize("text", ["9^{9^{9}}", "(10^{7})!", r"\binom{10^6}{10^5}", "0.5^{10^{9}}"])
def test_sizes_beyond_floats_are_found_in_log_space(text):
    sign, size = log_size(tree(text))
    assert sign == 1
    assert abs(size) > 1000


def test_every_modulus_is_a_safe_prime_with_small_squares():
    from sympy import isprime

    for modulus in MODULI:
        assert isprime(modulus)
        assert isprime((modulus - 1) // 2)
        assert all(pow(prime, (modulus - 1) // 2, modulus) == 1 for prime in (2, 3, 5, 7))


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (r"\sqrt{12}", r"2\sqrt{3}"),
        ("4^{n}", "2^{2n}"),
        (r"\ln 12", r"2\ln 2+\ln 3"),
        ("e^{x+1}", "e e^x"),
        (r"\frac{1}{\sqrt{11}}", r"\frac{\sqrt{11}}{11}"),
        ("x^{1/2}x^{1/2}", "x"),
        (r"(a+b)^3", "a^3+3a^2b+3ab^2+b^3"),
    ],
)
def test_residues_know_the_laws_of_powers_roots_and_logarithms(left, right):
    assert agree(tree(left), tree(right)) is True


def test_residues_of_different_polynomials_differ():
    draw = random.Random(3)
    for _ in range(200):
        a, b, c = (draw.randint(-50, 50) for _ in range(3))
        left = tree(f"{a}x^2+{b}x+{c}".replace("+-", "-"))
        right = tree(f"{a}x^2+{b}x+{c + 1}".replace("+-", "-"))
        assert agree(left, right) is False


def test_a_symbol_has_the_same_value_in_every_process():
    assert round(Point(0).value("x"), 6) == round(Point(0).value("x"), 6)
    assert Point(0).value("x") != Point(0).value("y")
    assert Point(2).value("x") < 0 < Point(1).value("x")
