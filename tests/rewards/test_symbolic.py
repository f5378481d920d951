"""The symbolic stage: sympy objects built from trees, what they confirm and show different."""

import signal
import subprocess
import sys

import pytest
import sympy

from rewards.equality.build import NotSymbolic, build
from rewards.equality.solve import same_solutions
from rewards.equality.symbolic import (
    Comparison,
    OutOfTime,
    TimeLeft,
    differs_at_a_point,
    vanishes,
    within,
)
from rewards.gold import Gold
from rewards.judging.judge import judge_fast, judge_slow
from rewards.syntax.normalise import normalise
from rewards.syntax.read import read
from rewards.types import Reason, Ruling

pytestmark = pytest.mark.usefixtures("ample_time")


AMPLE = TimeLeft(1e3, 1e2, 1e4)  # a busy machine is no bug


def tree(text: str):
    node = read(normalise(text))
    assert node is not None, text
    return node


def ruling(answer: str, gold: str) -> Ruling:
    parsed = Gold.parse(gold)
    return judge_fast(answer, parsed) or judge_slow(answer, parsed)


SAME = [
    (r"\cos 3x", r"4\cos^3 x-3\cos x"),
    (r"\cosh 2x", r"2\sinh^2 x+1"),
    (r"\tan 15^\circ", r"2-\sqrt3"),
    (r"\cos 36^\circ", r"\frac{1+\sqrt5}{4}"),
    (r"2e^{2\pi i/3}", r"-1+i\sqrt3"),
    ("i^i", r"e^{-\pi/2}"),
    (r"\ln(x-20)+\ln 2", r"\ln(2x-40)"),
    (r"\frac{(2n)!}{2^n n!}", "(2n-1)!!"),
    (r"\binom{n+1}{k}", r"\binom{n}{k}+\binom{n}{k-1}"),
    (r"\sum_{k=1}^{n} k^3", r"\left(\frac{n(n+1)}{2}\right)^2"),
    (r"\arctan\frac12+\arctan\frac13", r"\frac{\pi}{4}"),
    (r"\pi-\arccos\frac13", r"\arccos\left(-\frac13\right)"),
    (r"2\arcsin\sqrt a", r"\arccos(1-2a)"),
    (r"\ln(x+\sqrt{x^2+1})", r"\operatorname{arsinh} x"),
    (r"\sqrt{x^4+2x^2+1}", "x^2+1"),
    (r"\max(a,b)", r"\frac{a+b+|a-b|}{2}"),
    ("f(x+1)+1", "1+f(1+x)"),
]
DIFFERENT = [
    (r"\sin x", r"\sin x+10^{-75}"),
    (r"\sqrt2+10^{-75}", r"\sqrt2"),
    (r"\sin^2 x+\cos^2 x", r"1+10^{-75}"),
    ("f(x+1)", "f(x+2)"),
    ("f(x)", "2f(x)"),
]


@pytest.mark.parametrize(("a", "b"), SAME)
def test_an_identity_is_shown(a, b):
    assert vanishes(tree(a), tree(b), AMPLE) is True


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (r"(x^2+1)(\sin^2 1+\cos^2 1+10^{-75})", "x^2+1"),
        (r"\sqrt{x^2+y^2}+10^{-75}y", r"\sqrt{x^2+y^2}"),
        (r"n!\cdot(\tan\frac{\pi}{4}+10^{-75}\sin n)", "n!"),
    ],
)
def test_more_digits_at_one_point_show_what_no_step_does(a, b):
    assert differs_at_a_point(tree(a), tree(b), AMPLE)
    assert ruling(a, b).reason is Reason.WRONG
    assert not differs_at_a_point(tree(b), tree(b), AMPLE)


@pytest.mark.parametrize(("a", "b"), DIFFERENT)
def test_a_difference_that_probes_cannot_see_is_shown(a, b):
    assert vanishes(tree(a), tree(b), AMPLE) is False
    assert ruling(a, b) == Ruling(Reason.WRONG, "symbolic")


@pytest.mark.parametrize(
    ("a", "b"),
    [(r"\sqrt{x^2}", "x"), (r"\ln x^2", r"2\ln x"), ("|x|", "x"), (r"\arcsin(\sin x)", "x")],
)
def test_what_holds_for_positive_values_only_is_refused_by_the_probes(a, b):
    assert Comparison()(tree(a), tree(b)) is not True or a.startswith(r"\ln")


def test_a_verdict_states_whether_sympy_has_confirmed_it():
    assert ruling(r"2\sin x\cos x", r"\sin 2x") == Ruling(Reason.CORRECT, "symbolic")
    assert ruling(r"\sin x+1", r"\sin 2x").reason is Reason.WRONG
    digits = "3.14159265358979323846264"
    assert ruling(digits, r"\pi") == Ruling(Reason.CORRECT, "probe")


def test_no_more_is_confirmed_once_the_budget_of_a_pair_is_spent():
    compare = Comparison(TimeLeft(0, 1, 1))
    assert compare(tree(r"\sin 2x"), tree(r"2\sin x\cos x")) is True
    assert compare.stage == "probe"


def test_text_in_a_name_stays_a_name():
    sympy = pytest.importorskip("sympy")
    name = "__import__('os').system('true')"
    assert build(("s", name)) == sympy.Symbol(name, real=True)
    call = build(("f", f"@{name}", (("n", 1, 1),)))
    assert isinstance(call.func, sympy.core.function.UndefinedFunction)


@pytest.mark.parametrize(
    "text",
    [
        r"x^{10^6}",
        r"(\sqrt2+1)^{100000}",
        r"\binom{x}{10^{9}}+\binom{10^9}{10^8}",
        "(10^5)!+x",
        r"\frac{x}{0}",
        r"\frac{1}{\sin 0}",
        r"\infty x",
        "+".join(f"x^{{{k}}}" for k in range(1, 101)),
    ],
)
def test_what_would_be_large_or_has_no_value_is_not_built(text):
    with pytest.raises(NotSymbolic):
        build(tree(text))


def test_work_without_end_is_interrupted_and_the_alarm_is_taken_back():
    def work_without_end():
        with within(0.01):
            while True:
                pass

    before = signal.getsignal(signal.SIGVTALRM)
    with pytest.raises(OutOfTime):
        work_without_end()
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0.0, 0.0)
    assert signal.getsignal(signal.SIGVTALRM) is before


@pytest.mark.process
def test_sympy_is_whole_after_a_first_use_without_time():
    script = (
        "from rewards.equality.symbolic import TimeLeft, vanishes\n"
        "from rewards.judging.in_worker import load, tree\n"
        r"sides = tree(r'\cos 3x'), tree(r'4\cos^3 x-3\cos x')"
        "\n"
        "print(vanishes(*sides, TimeLeft(0.001, 0.001, 60)))\n"
        "load()\n"
        "print(vanishes(*sides, TimeLeft(600, 600, 600)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.split()[-1] == "True"


SETS = [
    (r"\{x\mid x^2=4\}", r"\{-2,2\}", True),
    (r"\{x\mid x^2=4\}", r"\{2\}", False),
    (r"\{x\in\mathbb{Z}\mid x^2<5\}", r"\{-2,-1,0,1,2\}", True),
    (r"\{x\in\mathbb{Z}\mid x^2<5\}", r"(-\sqrt5,\sqrt5)", False),
    (r"x^2<9", "-3<x<3", True),
    (r"x^2<9", "-3<y<3", False),
    (r"x^2<9", r"[-3,3)", False),
    (r"\{x\mid x^2-2x-1\ge0\}", r"(-\infty,1-\sqrt2]\cup[1+\sqrt2,\infty)", True),
    (r"\{x\mid \frac1x>1\}", "(0,1)", True),
    (r"\{x\mid e^x>2\}", r"(\ln2,\infty)", True),
    (r"\{x\in[0,2\pi) : \sin x=0\}", r"\{0,\pi\}", True),
    (r"\{x\mid x^2<0\}", r"\emptyset", True),
]


@pytest.mark.parametrize(("gold", "answer", "expected"), SETS)
def test_a_set_that_the_gold_leaves_to_be_solved_is_solved(gold, answer, expected):
    assert same_solutions(tree(answer), tree(gold)) is expected
    assert (ruling(answer, gold).reason is Reason.CORRECT) is expected


@pytest.mark.parametrize(("gold", "answer", "expected"), SETS[7:11])
def test_an_answer_that_leaves_the_solving_to_the_reader_is_not_paid(gold, answer, expected):
    assert ruling(gold, answer).reason in (Reason.UNEVALUATED, Reason.WRONG)


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        (r"x=k\pi, k\in\mathbb{Z}", r"x=k\pi+10^{-12}, k\in\mathbb{Z}"),
        (r"\{k: k\in\mathbb{Z}\}", r"\{k+10^{-11}k: k\in\mathbb{Z}\}"),
        (r"2k\pi, k\in\mathbb{Z}", r"2k\pi+k(k^2-1)(k^2-4)(k^2-9)(k^2-16), k\in\mathbb{Z}"),
    ],
)
def test_families_that_agree_near_zero_alone_are_not_the_same(gold, answer):
    assert ruling(answer, gold).reason is not Reason.CORRECT


def test_what_sympy_has_cached_is_gone_when_a_step_runs_out_of_time():
    """An interrupted deduction leaves facts marked as unknown, which a later pair would be told."""
    from sympy.core.cache import CACHE

    def cached() -> int:
        return sum(function.cache_info().currsize for function in CACHE)

    x = sympy.Symbol("x", real=True)
    assert sympy.expand((x + 1) ** 5)
    assert cached()
    with pytest.raises(OutOfTime), within(0.05):  # noqa: PT012
        while True:
            sympy.expand((x + cached()) ** 9)
    assert not cached()
