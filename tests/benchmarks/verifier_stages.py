"""Which stage of the judge pays, and how far the symbolic stage confirms what probes suggest.

    python tests/benchmarks/verifier.py --stages

Run in one process and with more time than workers have, so that a busy machine changes no count.
"""

from collections import Counter
from collections.abc import Iterator, Sequence

from rewards import Gold, Reason
from rewards.equality.equivalence import equal
from rewards.equality.exact import NotExact
from rewards.equality.probe import same_slow
from rewards.equality.scalar import Same
from rewards.equality.symbolic import Comparison, TimeLeft
from rewards.extract import extract
from rewards.judging.in_worker import warm_up
from rewards.judging.judge import judge_fast, judge_slow
from rewards.syntax.normalise import normalise
from rewards.syntax.read import read
from tests.benchmarks import verifier_inputs as inputs
from tests.benchmarks.verifier_inputs import Pair

COLUMNS = (
    *("pairs", "left to a worker", "probes agree", "confirmed", "overruled", "open"),
    *(
        "overruled and right",
        "open and wrong",
        "settled by sympy alone",
        "math-verify asked",
        "paid by it",
    ),
)


def stages() -> Iterator[tuple[str, Counter[str]]]:
    """Counts under COLUMNS for every set of labelled pairs."""
    warm_up()
    for name, pairs in inputs.every_pair().items():
        yield name, counted(pairs)


def counted(pairs: Sequence[Pair]) -> Counter[str]:
    """The counts of one set of pairs; true and false ones must get what their labels say."""
    counts = Counter(pairs=len(pairs))
    for pair in pairs:
        answer = extract(pair.response, pair.mode).answer
        try:
            gold = Gold.parse(pair.gold)
        except ValueError:
            continue
        if answer is None or judge_fast(answer, gold) is not None:
            continue
        counts["left to a worker"] += 1
        ruling = judge_slow(answer, gold)
        counts["math-verify asked"] += ruling.stage == "math-verify"
        counts["paid by it"] += ruling == (Reason.CORRECT, "math-verify")
        if ruling.stage not in ("probe", "symbolic"):
            continue
        compare = Comparison(TimeLeft(5.0, 1.0, 600.0))
        paid = agree(answer, gold, compare)
        by_probe = compare.stage == "probe"
        if agree(answer, gold, same_slow):
            counts["probes agree"] += 1
            counts["confirmed"] += paid and not by_probe
            counts["overruled"] += not paid
            counts["overruled and right"] += not paid and pair.label
            counts["open"] += paid and by_probe
            counts["open and wrong"] += paid and by_probe and not pair.label
        else:
            counts["settled by sympy alone"] += ruling.stage == "symbolic" or paid
    return counts


def agree(answer: str, gold: Gold, compare: Same) -> bool:
    """Whether the answer is the gold by the given comparison of scalars."""
    node = read(normalise(answer))
    try:
        return bool(node and gold.node and equal(node, gold.node, compare))
    except (NotExact, RecursionError, ValueError, OverflowError, ZeroDivisionError):
        return False


def print_stages() -> None:
    print(f"| set | {' | '.join(COLUMNS)} |")
    print("|---" * (1 + len(COLUMNS)) + "|")
    for name, counts in stages():
        print(f"| {name} | {' | '.join(str(counts[column]) for column in COLUMNS)} |", flush=True)
