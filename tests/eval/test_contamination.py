"""Overlap of training rows with evaluation problems."""

import json

import pytest

from eval.benchmarks import LoadedBenchmark, Question, find_file, load_benchmark
from eval.contamination import check_contamination, grams, words
from eval.records import BENCHMARKS, Benchmark
from rlvr.data.check import questions, read_training_rows

EVAL = (
    "A gardener plants $n$ rows of tulips with $3n+2$ bulbs in each row and then removes "
    "\\left( 7 \\right) bulbs from the last row. How many bulbs remain when $n = 12$?"
)


def benchmark(*problems):
    rows = tuple(Question(f"q{i}", text, answer) for i, (text, answer) in enumerate(problems))
    return LoadedBenchmark(Benchmark("made", (), None, "own", 1), rows, "made", ())


def check(verifier, train, *problems):
    rows = [Question(f"t{i}", text, answer) for i, (text, answer) in enumerate(train)]
    return check_contamination(rows, [benchmark(*problems)], verifier)


def test_words_are_letters_or_digits_and_commands_are_dropped():
    assert words("Let \\frac{x12}{3} $\\alpha$ be 4.5") == ["let", "x", "12", "3", "be", "4", "5"]
    assert words("求和 n") == ["求", "和", "n"]
    assert grams("one two three") == set()
    assert len(grams("a b c d e f g h i j k")) == 2


def test_an_equal_text_is_exact_whatever_its_layout(verifier):
    layout = EVAL.replace("\\left( 7 \\right)", "(7)").replace("$", "").replace(". ", ".\n")
    report = check(verifier, [("Something else entirely.", "1"), (layout, "9")], (EVAL, "449"))
    (overlap,) = report.overlaps
    assert (overlap.row, overlap.exact, overlap.contaminated) == (1, True, True)
    assert report.contaminated_rows() == {1}
    assert report.benchmarks[0].exact == 1


def test_short_problems_are_found_only_when_equal(verifier):
    report = check(verifier, [("Find $2+2$", "4"), ("Find $2+3$", "5")], ("Find  $2+2$", "4"))
    assert [o.row for o in report.overlaps] == [0]


def test_a_near_text_counts_only_with_the_same_answer(verifier):
    near = EVAL.replace("How many bulbs remain when", "Find the number of bulbs left if")
    train = [(near, "\\frac{898}{2}"), (near, "450")]
    report = check(verifier, train, (EVAL, "449"))
    same, other = report.overlaps
    assert 0.6 <= same.score < 0.9
    assert (same.same_answer, same.contaminated) == (True, True)
    assert (other.same_answer, other.contaminated) == (False, False)
    assert report.contaminated_rows() == {0}
    assert report.contaminated_rows(every_pair=True) == {0, 1}
    assert (report.benchmarks[0].near, report.benchmarks[0].pairs) == (1, 2)


def test_any_answer_of_a_row_that_equals_any_of_the_problem_s_counts(verifier):
    near = EVAL.replace("How many bulbs remain when", "Find the number of bulbs left if")
    train = [
        Question("both", near, "450", others=("\\frac{898}{2}",)),
        Question("none", near, "450", others=("451",)),
    ]
    known = Question("q", EVAL, "448", others=("449",))
    bench = LoadedBenchmark(Benchmark("made", (), None, "own", 1), (known,), "made", ())
    report = check_contamination(train, [bench], verifier)
    assert [(o.train_id, o.same_answer) for o in report.overlaps] == [
        ("both", True),
        ("none", False),
    ]
    assert report.contaminated_rows() == {0}


def test_a_list_of_messages_is_compared_by_the_user_s_last_turn(verifier):
    turns = [("system", "Be brief."), ("user", "Hello."), ("assistant", "Yes?"), ("user", EVAL)]
    messages = [{"role": role, "content": text} for role, text in turns]
    sharegpt = [{"from": "human", "value": EVAL}, {"from": "gpt", "value": "449"}]
    rows = [{"chat": messages, "answer": ["449", "450"]}, {"chat": sharegpt, "answer": "449"}]
    read = list(questions(rows, "chat", "answer"))
    assert [(q.problem, q.answers) for q in read] == [(EVAL, ("449", "450")), (EVAL, ("449",))]
    with pytest.raises(ValueError, match=r"row 1: chat is not a list of messages"):
        list(questions([{"chat": ["text"], "answer": "1"}], "chat", "answer"))
    with pytest.raises(ValueError, match=r"row 1: no 'chat'"):
        list(questions([{"chat": messages[:1], "answer": "1"}], "chat", "answer"))


def test_an_extended_text_is_found_whatever_its_answer(verifier):
    report = check(verifier, [(EVAL + " Give the answer modulo 10.", "9")], (EVAL, "449"))
    assert report.overlaps[0].score == 1.0
    assert report.overlaps[0].contaminated


def test_a_problem_spread_over_rows_is_covered_but_in_no_row(verifier):
    tokens = EVAL.split(" ")
    halves = [" ".join(tokens[:22]), " ".join(tokens[9:])]
    report = check(verifier, [(h, "1") for h in halves], (EVAL, "449"))
    assert report.benchmarks[0].covered == 1
    assert report.benchmarks[0].exact + report.benchmarks[0].near == 0


def test_an_unrelated_set_has_no_overlap(verifier):
    report = check(verifier, [("How many primes lie below one hundred?", "25")], (EVAL, "449"))
    assert report.overlaps == ()
    assert report.summary()["contaminated_rows"] == 0


@pytest.mark.usefixtures("real_data")
def test_every_pair_known_to_be_in_the_real_files_is_found_with_its_score(verifier):
    listed = find_file("contamination.jsonl")
    assert listed is not None
    known = [json.loads(line) for line in listed.open()]
    against = [load_benchmark(name) for name in ("gsm8k", "math500", "olympiadbench", "amc2223")]
    compared = 0
    for name in ("gsm8k_train", "math_train", "math_test4500"):
        rows = read_training_rows(name)
        report = check_contamination(questions(rows, "problem", "answer"), against, verifier)
        found = {(o.train_id, o.eval_id): o for o in report.overlaps}
        present = {row["id"] for row in rows}
        for pair in known:
            if pair["train"] == name and pair["train_id"] in present:
                overlap = found[pair["train_id"], pair["eval_id"]]
                assert overlap.score == pytest.approx(pair["score"], abs=0.001)
                assert overlap.same_answer == pair["same_answer"]
                compared += 1
    assert compared == 39


@pytest.mark.usefixtures("real_data")
def test_evaluation_problems_put_back_into_a_filtered_set_are_all_found(verifier):
    rows = read_training_rows("dapo_math_en")
    clean = list(questions(rows, "problem", "answer"))
    amc = load_benchmark("amc2223")
    before = check_contamination(clean, [amc], verifier)
    leaked = [Question(f"leak{i}", q.problem, q.answer) for i, q in enumerate(amc.questions[:15])]
    after = check_contamination([*clean, *leaked], [amc], verifier)
    assert before.benchmarks[0].exact == 0
    assert after.benchmarks[0].exact == 15


@pytest.mark.usefixtures("real_data")
def test_all_benchmarks_against_the_largest_set_end(verifier):
    """Comparing every problem with every other would take hours."""
    rows = list(questions(read_training_rows("deepscaler"), "problem", "answer"))
    against = [load_benchmark(name) for name in BENCHMARKS if name != "aime26"]
    report = check_contamination(rows, against, verifier)
    assert report.num_rows == 38_077
