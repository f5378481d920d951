"""What runs in the caller's process does work in proportion to the length of the text."""

import pytest

from rewards import extract as extraction
from rewards.extract import MODES, extract
from rewards.gold import Gold
from rewards.judging.judge import judge_fast
from rewards.syntax.normalise import MAX_LEN
from rewards.types import Reason
from tests.growth import slope
from tests.rewards.counting import num_calls, work
from tests.rewards.shapes import SHAPES, grown

MAX_EXPONENT = 1.3


def test_the_counter_sees_quadratic_work_in_python_and_in_c():
    def scan_again_and_again(text: str) -> None:
        for start in range(0, len(text), 8):
            text.find("z", start)

    def call_again_and_again(text: str) -> None:
        for _ in range(len(text) ** 2 // 64):
            len(text)

    for quadratic in (scan_again_and_again, call_again_and_again):
        small, large = (work(quadratic, "x" * size) for size in (500, 1000))
        assert slope(small, large, 2) > 1.8


@pytest.mark.parametrize("mode", MODES)
def test_extraction_passes_over_a_text_a_bounded_number_of_times(mode):
    steep = {}
    for name, shape in SHAPES.items():
        texts = [grown(shape, size) for size in (2_000, 16_000)]
        small, large = (work(lambda t: extract(t, mode), text, extraction) for text in texts)
        found = slope(small, large, len(texts[1]) / len(texts[0]))
        if found >= MAX_EXPONENT or large > 60 * len(texts[1]):
            steep[name] = (small, large)
    assert steep == {}


def test_golds_and_answers_up_to_the_longest_are_read_in_linear_work():
    def read_gold(text: str) -> None:
        try:
            Gold.parse(text)
        except ValueError:
            return

    def judge(text: str) -> None:
        judge_fast(text, gold)

    gold = Gold.parse(r"\frac{\sqrt3}{2}, 1")
    steep = {}
    for name, shape in SHAPES.items():
        for call in (read_gold, judge):
            texts = [grown(shape, size) for size in (MAX_LEN // 4, MAX_LEN)]
            small, large = (num_calls(lambda c=call, t=text: c(t)) for text in texts)
            if slope(small, large, 4) >= MAX_EXPONENT:
                steep[name, call.__name__] = (small, large)
    assert steep == {}


def test_the_outermost_of_many_nested_boxes_is_the_answer():
    for depth in (2, 300, 5_000):
        answer = extract(r"\boxed{" * depth + "5" + "}" * depth).answer
        assert answer == r"\boxed{" * (depth - 1) + "5" + "}" * (depth - 1)


@pytest.mark.parametrize("num_chars", [4_000, 64_000])
def test_a_longer_text_than_any_answer_is_refused_whole(num_chars):
    text = grown(SHAPES["sums"], num_chars)
    answer = extract(text).answer
    assert answer is not None
    ruling = judge_fast(answer, Gold.parse("5"))
    assert ruling is not None
    assert ruling.reason is Reason.TOO_LARGE


def test_a_gold_of_nested_boxes_is_refused_before_it_is_unwrapped_layer_by_layer():
    with pytest.raises(ValueError, match="shorten"):
        Gold.parse(grown(SHAPES["nested boxes"], 64_000))
    with pytest.raises(ValueError, match="boxes in boxes"):
        Gold.parse(grown(SHAPES["nested boxes"], 200))
