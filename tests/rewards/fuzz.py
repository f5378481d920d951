"""Fuzz extraction, golds, the judge and the whole verifier with text that is nearly mathematics.

    python tests/rewards/fuzz.py --seconds 600 --processes 2

Exits with 1 and prints the smallest failing example when a property breaks: no exception, nothing
slow however long a text grows, no verdict that depends on the order or on harmless decoration, x
equal to x, a changed digit never equal, no growth of memory.
"""

import argparse
import multiprocessing
import resource
import sys
import time
import traceback

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from rewards import Gold, Reason, Verifier
from rewards.extract import MODES, extract
from rewards.gold import Kind
from rewards.judging.judge import judge_fast
from tests.rewards.shapes import grown

FAST_S = 0.1  # the judge promises about 1 ms
MAX_GROWTH_KIB = 100 * 1024
COMMANDS = [
    *(r"\frac", r"\dfrac", r"\sqrt", r"\boxed", r"\text", r"\mathrm", r"\left", r"\right", r"\pi"),
    *(r"\cdot", r"\times", r"\pm", r"\infty", r"\cup", r"\in", r"\le", r"\ge", r"\ne", r"\neq"),
    *(r"\sin", r"\log", r"\ln", r"\binom", r"\sum", r"\int", r"\circ", r"\%", r"\$", r"\,", r"\\"),
    *(r"\begin{pmatrix}", r"\end{pmatrix}", r"\begin{cases}", r"\overline", r"\ldots", r"\mathbb"),
    *("<think>", "</think>", "####", "answer is", "and", "or", "cm", "dollars", "degrees", "mod"),
    *(
        "½",
        "√",
        "π",
        "−",
        "×",
        "²",
        "∞",
        "≤",
        "°",
        "，",
        "５",
        "\u200b",
        "\u0301",
        "\ud800",
        "\x00",
    ),
]
pieces = st.one_of(
    st.sampled_from(COMMANDS),
    st.sampled_from([*"{}{}()[]^_=+-*/,;:!|<>&.$ \n%"]),
    st.integers(-(10**30), 10**30).map(str),
    st.sampled_from([*"xyzniektfAB"]),
    st.text(max_size=5),
)
noise = st.lists(pieces, max_size=40).map("".join)
numbers = st.one_of(
    st.integers(-(10**12), 10**12).map(str),
    st.decimals(-(10**6), 10**6, allow_nan=False, places=3).map(str),
    st.tuples(st.integers(-999, 999), st.integers(1, 999)).map(
        lambda n: rf"\frac{{{n[0]}}}{{{n[1]}}}"
    ),
)


BINARY = (
    *("{}+{}", "{}-{}", r"{}\cdot {}", r"\frac{{{}}}{{{}}}", "{{{}}}^{{{}}}", "({},{})", "[{},{})"),
    *(r"\{{{},{}\}}", "{}={}", r"{}\le {}", r"\log_{{{}}}{{{}}}", r"\binom{{{}}}{{{}}}", "{}:{}"),
    *("{}, {}", r"\begin{{pmatrix}}{}\\{}\end{{pmatrix}}", r"({},1)\cup(2,{})"),
    *("{}；{}", r"{}\text{{ 或 }}{}", r"{}\text{{ or }}{}", r"{}\approx {}", r"\max({},{})"),
    *(r"\begin{{pmatrix}}{}&0\\1&{}\end{{pmatrix}}", r"{}\equiv {}\pmod 7", r"{}\pm {}", "{}<x<{}"),
    *(r"\begin{{cases}}x={}\\y={}\end{{cases}}", r"\sum_{{k={}}}^{{{}}}k^2", r"\sqrt[{}]{{{}}}"),
    *(r"\{{x\mid {}<{}\}}", r"\{{x\in\mathbb{{Z}}: {}\le x\le {}\}}", r"\int_{{{}}}^{{{}}}x\,dx"),
    *(r"{}+{}k\pi, k\in\mathbb{{Z}}", r"({}+2t,{}-t), t\in\mathbb{{Z}}", r"(\pm {},\pm {})"),
)
UNARY = (
    *(r"\sqrt{{{}}}", "({})", "-{}", "{}!", r"\sin({})", "|{}|", r"{}\%", r"{}\text{{ cm}}"),
    *(r"\cos {}", r"\tan\left({}\right)", r"\ln {}", "e^{{{}}}", r"e^{{i{}}}", r"\arcsin({})"),
    *(r"\arctan {}", r"\sinh {}", r"\cosh({})", r"\lfloor {}\rfloor", "f({})", "f(x)={}", "y={}"),
    *(r"{}^\circ", r"\sin {}^\circ", "{}元", "{}平方厘米", r"\fbox{{{}}}", r"\mathbf{{{}}}"),
    *(r"\text{{（}}{}\text{{）}}", "选{}", r"\prod_{{i=1}}^{{n}}{}", r"{}\text{{ for all }}x"),
    *(r"\{{x: x^2<{}\}}", r"|x|>{}", r"x^2-{}x=0", r"\{{{}+k\pi: k\in\mathbb{{Z}}\}}", "{}>0"),
    *(
        "\x0crac{{{}}}{{2}}",
        r"\lim_{{x\to 0}}{}",
        r"\overline{{{}}}",
        r"{}_2",
        "{}!!",
        "(-1)^{{{}}}",
    ),
)
leaves = st.one_of(numbers, st.sampled_from([*"xynkai", r"\pi", "e", r"\theta", r"\infty", "2x"]))
# The same value written in a way that only the symbolic stage can see through.
DISGUISES = (
    *(r"({})(\sin^2 1+\cos^2 1)", r"({})+\arctan 1-\frac{{\pi}}{{4}}", r"-e^{{i\pi}}({})"),
    *(r"({})\cdot\frac{{n!}}{{n(n-1)!}}", r"({})+\sin 2x-2\sin x\cos x", r"({})+\ln 6-\ln 2-\ln 3"),
    *(r"({})\cdot(\cosh^2 x-\sinh^2 x)", r"({})+\sqrt{{3+2\sqrt2}}-1-\sqrt2"),
)
SCALARS = (
    *("{}+{}", "{}-{}", r"{}\cdot {}", r"\frac{{{}}}{{{}}}", "({})^{{{}}}", r"\sqrt{{{}}}"),
    *(r"\sin({})", r"\cos({})", r"\ln({})", r"e^{{{}}}", r"\arctan({})", "({})!", r"\cosh({})"),
)


@st.composite
def expression(draw: st.DrawFn, depth: int = 3) -> str:
    """LaTeX that is an expression, mostly; as deep as depth."""
    form = draw(st.sampled_from(["{}", *UNARY, *BINARY])) if depth else "{}"
    if form == "{}":
        return draw(leaves)
    return form.format(*(draw(expression(depth - 1)) for _ in range(form.count("{}"))))


@st.composite
def scalar(draw: st.DrawFn, depth: int = 2) -> str:
    """LaTeX of a number or a function of x and n."""
    form = draw(st.sampled_from(["{}", *SCALARS])) if depth else "{}"
    if form == "{}":
        return draw(st.one_of(st.integers(1, 30).map(str), st.sampled_from(["x", "n", r"\pi"])))
    return form.format(*(draw(scalar(depth - 1)) for _ in range(form.count("{}"))))


expressions = expression()
near_misses = st.tuples(expressions, st.integers(0, 200), pieces).map(
    lambda edit: edit[0][: edit[1]] + edit[2] + edit[0][edit[1] + 1 :]
)
answers = st.one_of(expressions, near_misses, noise)


units = st.lists(pieces, min_size=1, max_size=4).map("".join).filter(bool)
shapes = st.tuples(noise, units, noise, st.one_of(st.just(""), units), noise)
lengths = st.sampled_from([1_000, 3_000, 8_000, 64_000])


def gold_or_none(text: str) -> Gold | None:
    try:
        return Gold.parse(text)
    except ValueError:
        return None


def timed(call, *arguments):
    elapsed_s = []
    for _ in range(3):  # a lazy import or a garbage collection is slow once, a bug always
        start = time.thread_time()  # processor time: a busy machine is no bug
        result = call(*arguments)
        elapsed_s.append(time.thread_time() - start)
        if elapsed_s[-1] < FAST_S:
            return result
    raise AssertionError(f"{call.__name__} took {min(elapsed_s):.2f} s")


def extraction_ends_with_an_answer_or_a_reason(response, mode):
    found = timed(extract, response, mode)
    assert (found.answer is None) == (found.reason is not None)


def a_gold_is_read_whole_or_refused_and_reads_its_own_text_alike(text):
    gold = timed(gold_or_none, text)
    if gold is not None:
        assert gold_or_none(gold.text) == gold


def the_fast_judge_ends_and_gives_a_known_reason(answer, gold_text):
    gold = gold_or_none(gold_text)
    if gold is not None:
        ruling = timed(judge_fast, answer, gold)
        assert ruling is None or ruling.reason in Reason


def a_grown_text_is_read_in_time(shape, num_chars, mode, wrap):
    text = grown(shape, num_chars)
    text = rf"\boxed{{{text}}}" if wrap else text
    found = timed(extract, text, mode)
    timed(gold_or_none, text)
    timed(judge_fast, found.answer or text, GROWN_GOLD)


def a_changed_digit_is_never_equal(number, place, shift):
    digits = [*str(abs(number))]
    place %= len(digits)
    digits[place] = str((int(digits[place]) + shift) % 10)
    other = int("".join(digits)) * (-1 if number < 0 else 1)
    gold = Gold.parse(str(number))
    ruling = judge_fast(str(other), gold)
    assert ruling is not None
    assert (ruling.reason is Reason.CORRECT) == (other == number)


def verifier_properties(verifier: Verifier) -> list:
    """The properties that need worker processes."""

    def verdicts_end_and_no_failure_is_ours(pairs):
        asked = [(rf"\boxed{{{answer}}}", gold) for answer, gold in pairs]
        verdicts = verifier.verify_many(asked)
        for verdict in verdicts:
            assert not verdict.stage.startswith("error:"), verdict
            assert verdict.reason is not Reason.WORKER_DIED, verdict
        again = verifier.verify_many(asked[::-1])[::-1]
        kept = [(verdict.reason, verdict.answer) for verdict in verdicts]
        ours = (Reason.TIMEOUT,)
        if not any(verdict.reason in ours for verdict in [*verdicts, *again]):
            assert [(verdict.reason, verdict.answer) for verdict in again] == kept

    def a_gold_equals_itself_however_it_is_decorated(text):
        gold = gold_or_none(text)
        if gold is None or extract(rf"\boxed{{{text}}}").answer is None:
            return
        forms = [
            rf"\boxed{{{text}}}",
            rf"$\boxed{{\displaystyle {text}}}$.",
            rf"\fbox{{}}\boxed{{ {text}\, }}",
        ]
        verdicts = verifier.verify_many([(form, gold) for form in forms])
        reasons = {verdict.reason for verdict in verdicts} - {Reason.TIMEOUT, Reason.TOO_LARGE}
        assert reasons <= {Reason.CORRECT}, (text, verdicts)

    def a_disguised_gold_ends_with_a_verdict_and_is_not_refused_by_sympy(text, disguise, near):
        gold = gold_or_none(text)
        if gold is None or gold.kind is not Kind.EXPRESSION:
            return
        right, wrong = verifier.verify_many(
            [
                (rf"\boxed{{{disguise.format(text)}{tail}}}", gold)
                for tail in ("", f"+10^{{-{near}}}")
            ]
        )
        for verdict in (right, wrong):
            assert not verdict.stage.startswith("error:"), verdict
            assert verdict.reason is not Reason.WORKER_DIED, verdict
        assert (right.reason, right.stage) != (Reason.WRONG, "symbolic"), right
        assert wrong.stage != "symbolic" or not wrong.correct, wrong

    several = st.lists(st.tuples(answers, answers), min_size=1, max_size=8)
    return [
        ((several,), verdicts_end_and_no_failure_is_ours),
        ((expressions,), a_gold_equals_itself_however_it_is_decorated),
        (
            (scalar(), st.sampled_from(DISGUISES), st.integers(20, 90)),
            a_disguised_gold_ends_with_a_verdict_and_is_not_refused_by_sympy,
        ),
    ]


GROWN_GOLD = Gold.parse(r"\frac{\sqrt3}{2}, 1")
PROPERTIES = [
    ((noise, st.sampled_from(MODES)), extraction_ends_with_an_answer_or_a_reason),
    ((answers,), a_gold_is_read_whole_or_refused_and_reads_its_own_text_alike),
    ((shapes, lengths, st.sampled_from(MODES), st.booleans()), a_grown_text_is_read_in_time),
    ((answers, answers), the_fast_judge_ends_and_gives_a_known_reason),
    (
        (st.integers(-(10**15), 10**15), st.integers(0, 14), st.integers(1, 9)),
        a_changed_digit_is_never_equal,
    ),
]


def run_properties(verifier: Verifier, num_examples: int, *, repeatable: bool = False) -> None:
    """Run every property on random examples, fresh or repeatable; raises when one breaks."""
    bounds = settings(
        max_examples=num_examples,
        deadline=None,
        derandomize=repeatable,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    for strategies, check in [*PROPERTIES, *verifier_properties(verifier)]:
        bounds(given(*strategies)(check))()


def fuzz(seconds: float) -> None:
    """Run the properties again and again until the time is over."""
    end = time.monotonic() + seconds
    num_rounds, first_kib = 0, 0
    with Verifier() as verifier:
        while time.monotonic() < end:
            run_properties(verifier, 200)
            num_rounds += 1
            if num_rounds == 3:
                first_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - (first_kib or 1 << 40)
        assert grown_kib < MAX_GROWTH_KIB, f"memory grew by {grown_kib} KiB"
        print(f"{num_rounds} rounds, memory grew by {max(0, grown_kib)} KiB, {verifier.stats()}")


def guarded(seconds: float) -> None:
    try:
        fuzz(seconds)
    except BaseException:
        traceback.print_exc()
        sys.exit(1)


def main() -> int:
    parser = argparse.ArgumentParser(description="Fuzz the verifier.")
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    spawn = multiprocessing.get_context("spawn")
    running = [
        spawn.Process(target=guarded, args=(options.seconds,)) for _ in range(options.processes)
    ]
    for process in running:
        process.start()
    for process in running:
        process.join()
    return int(any(process.exitcode for process in running))


if __name__ == "__main__":
    sys.exit(main())
