"""Golds: parsed whole, of the right kind, refused with a reason when nothing could equal them."""

import json
import os
import pickle
from pathlib import Path

import pytest

from rewards.extract import extract
from rewards.gold import Gold, Kind
from rewards.judging.judge import judge_fast
from rewards.types import Reason

DATA = Path(os.environ.get("RLVR_DATA", "../shared/data"))

KINDS = [
    ("7", Kind.INTEGER),
    ("-1,250", Kind.INTEGER),
    (r"\frac{2}{7}", Kind.RATIONAL),
    ("3/8", Kind.RATIONAL),
    ("0.75", Kind.DECIMAL),
    (r"3\sqrt{2}", Kind.EXPRESSION),
    ("x^2+1", Kind.EXPRESSION),
    ("y=2x", Kind.EQUATION),
    ("(2,5)", Kind.TUPLE),
    (r"\{2,5\}", Kind.SET),
    (r"\mathbb{R}", Kind.SET),
    ("2,5", Kind.LIST),
    ("[2,5)", Kind.INTERVAL),
    (r"(1,2)\cup(3,4)", Kind.INTERVAL),
    (r"x\ge2", Kind.RELATION),
    (r"x\equiv1\pmod4", Kind.RELATION),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", Kind.MATRIX),
    ("2+3i", Kind.COMPLEX),
    ("201_3", Kind.BASED),
    ("7:45", Kind.TIME),
    ("3:8", Kind.RATIO),
    (r"\text{(D)}", Kind.CHOICE),
    ("D", Kind.CHOICE),
    (r"\text{Tuesday}", Kind.TEXT),
    ("hexagon", Kind.TEXT),
    (r"5\text{ cm}", Kind.INTEGER),
    (r"\$12", Kind.INTEGER),
    ("-1./4", Kind.RATIONAL),
    ("np.arctan(3)", Kind.EXPRESSION),
]


@pytest.mark.parametrize(("text", "kind"), KINDS)
def test_a_gold_knows_its_kind(text, kind):
    assert Gold.parse(text).kind is kind


@pytest.mark.parametrize(
    "text",
    ["", "   ", "$$", r"\boxed{}", "nan", r"\text{}", "{1", r"\frac{1}{0}", "...", "x" * 4000],
)
def test_an_unusable_gold_is_refused_with_a_remedy(text):
    with pytest.raises(ValueError, match=r"drop|correct|shorten|put"):
        Gold.parse(text)


def test_a_gold_that_is_no_text_is_refused():
    with pytest.raises(ValueError, match="string"):
        Gold.parse(5)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    "text",
    [
        "$8$",
        r"\(8\)",
        r"\boxed{8}",
        "#### 8",
        "#### #### 8",
        r"\boxed{\boxed{8}}",
        r"Thus it is \boxed{8}.",
    ],
)
def test_a_wrapped_gold_is_unwrapped(text):
    assert judge_fast("8", Gold.parse(text)) is not None


@pytest.mark.parametrize(
    ("text", "part"), [(r"5\sqrt{11}", "5"), ("x^2+4", "4"), ("2y-7", "7"), (r"\frac{3}{5}", "5")]
)
def test_a_gold_never_shrinks_to_a_number_inside_it(text, part):
    ruling = judge_fast(part, Gold.parse(text))
    assert ruling is not None
    assert ruling.reason is Reason.WRONG


def test_a_gold_is_small_and_survives_pickling():
    gold = Gold.parse(r"\frac{3+\sqrt{5}}{2}")
    packed = pickle.dumps(gold)
    assert pickle.loads(packed) == gold
    assert len(packed) < 600


def distinct_golds() -> list[str]:
    found = set()
    for path in sorted(DATA.glob("*.jsonl")):
        for line in path.open(encoding="utf-8"):
            answer = json.loads(line).get("answer")
            if isinstance(answer, str):
                found.add(answer)
    return sorted(found)


@pytest.mark.skipif(not DATA.is_dir(), reason=f"no datasets at {DATA}: set RLVR_DATA")
def test_the_golds_of_the_datasets_pay_themselves_or_are_refused():
    golds = distinct_golds()
    refused, unpaid = [], []
    for text in golds:
        try:
            gold = Gold.parse(text)
        except ValueError:
            refused.append(text)
            continue
        answer = extract(f"so \\boxed{{{text}}}.").answer
        ruling = judge_fast(answer, gold) if answer else None
        if ruling is None or ruling.reason is not Reason.CORRECT:
            unpaid.append(text)
    assert len(golds) > 100
    assert len(refused) <= 0.001 * len(golds), refused
    assert len(unpaid) <= 0.001 * len(golds), unpaid
