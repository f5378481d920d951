import hashlib
import json
import random

import pytest

from rlvr.data.word_problems import (
    LEVELS,
    MAX_LEVEL,
    MAX_TOTAL,
    SPLITS,
    Mistakes,
    generate,
    split_of,
    worked_solution,
)


def boxed(solution: str) -> str:
    return solution.rsplit("\\boxed{", 1)[1].removesuffix("}")


def test_every_split_holds_only_texts_that_hash_to_it_so_none_is_shared():
    texts = {split: {row["problem"] for row in generate(split, 600, seed=3)}
             for split in ("train", "heldout", "sft")}  # fmt: skip
    assert not texts["train"] & texts["heldout"]
    assert not texts["train"] & texts["sft"]
    assert not texts["heldout"] & texts["sft"]
    for split, problems in texts.items():
        assert {split_of(problem) for problem in problems} == {split}


def test_the_same_seed_gives_the_same_distinct_rows_and_another_seed_others():
    rows = generate("train", 500, seed=1)
    assert rows == generate("train", 500, seed=1)
    assert len({row["problem"] for row in rows}) == len({row["id"] for row in rows}) == 500
    assert rows != generate("train", 500, seed=2)


def test_levels_come_in_turn_and_their_number_is_the_number_of_steps():
    rows = generate("train", 20, seed=0, levels=(2, 5))
    assert [row["level"] for row in rows] == [2, 5] * 10
    assert all(len(row["plan"].split()) == 1 + row["level"] for row in rows)


def test_levels_1_to_5_stay_what_they_were_byte_by_byte():
    digest = hashlib.sha256()
    for split in SPLITS:
        for seed in (0, 1):
            rows, rng = generate(split, 400, seed), random.Random(seed)
            solutions = [worked_solution(row, rng, Mistakes(0.35, 0.1, 0.02)) for row in rows]
            digest.update(json.dumps([rows, solutions]).encode())
    expected = "0727eb70ebe200fc1a85a72ee2ead0b0d6d4226787552b59b5e98613a7dd036b"
    assert digest.hexdigest() == expected, "runs and warm starts of the quickstart would change"


def test_a_problem_of_the_highest_level_has_a_label_of_its_own_for_every_step():
    row = generate("train", 1, seed=0, levels=[MAX_LEVEL])[0]
    labels = [word for word in row["problem"].split() if word.endswith(")")]
    assert labels[:2] + labels[24:28] == ["a)", "b)", "y)", "z)", "aa)", "ab)"]
    assert len(set(labels)) == MAX_LEVEL
    lines = worked_solution(row, random.Random(0)).split("\n")[:-1]
    assert [line.split()[0] for line in lines] == labels


def test_a_level_named_twice_comes_twice_as_often():
    rows = generate("train", 30, seed=0, levels=(7, 12, 7))
    assert [row["level"] for row in rows] == [7, 12, 7] * 10


@pytest.mark.parametrize("level", [*LEVELS, 6, 20, MAX_LEVEL])
def test_a_solution_without_mistakes_is_true_line_by_line_and_ends_in_the_answer(level):
    for row in generate("sft", 200, seed=5, levels=[level]):
        *lines, last = worked_solution(row, random.Random(0)).split("\n")
        for line in lines:
            left, right = line.split(") ")[1].split("=")
            assert eval(left, {"__builtins__": {}}) == int(right)  # noqa: S307
        assert last == f"\\boxed{{{row['answer']}}}"
        assert lines[-1].endswith(f"={row['answer']}")
        assert 1 <= int(row["answer"]) <= MAX_TOTAL


def test_the_numbers_of_a_problem_are_those_of_its_plan():
    for row in generate("heldout", 300, seed=5):
        words = row["problem"].replace(".", "").split()
        digits = [int(word) for word in words if word.isdigit()]
        plan = row["plan"].replace("+", "").replace("-", "").split()
        expected = [int(n) for step in plan if step[0] not in "*/" for n in step.split("*")]
        assert digits == expected


def test_stopping_early_answers_with_the_result_before_the_last_step():
    row = generate("sft", 1, seed=0, levels=[4])[0]
    rng = random.Random(0)
    full = worked_solution(row, rng).split("\n")
    early = worked_solution(row, rng, Mistakes(stop_early=1.0)).split("\n")
    assert early[:-1] == full[: len(early) - 1]
    assert len(early) < len(full)
    assert boxed(early[-1]) == early[-2].split("=")[1]


def test_a_one_step_solution_never_stops_early():
    row = generate("sft", 1, seed=0, levels=[1])[0]
    assert boxed(worked_solution(row, random.Random(0), Mistakes(stop_early=1.0))) == row["answer"]


def test_a_wrong_operation_or_a_slip_is_carried_on_to_the_answer():
    for row in generate("sft", 100, seed=0, levels=[3]):
        for mistakes in (Mistakes(wrong_operation=1.0), Mistakes(slip=1.0)):
            *lines, last = worked_solution(row, random.Random(1), mistakes).split("\n")
            totals = [line.split("=")[1] for line in lines]
            assert boxed(last) == totals[-1]
            assert int(totals[-1]) >= 0


@pytest.mark.parametrize(
    ("mistakes", "true"), [(Mistakes(slip=1), False), (Mistakes(wrong_operation=1), True)]
)
def test_a_slip_is_a_false_equation_and_a_wrong_operation_a_true_one(mistakes, true):
    for row in generate("sft", 50, seed=2, levels=[3]):
        for line in worked_solution(row, random.Random(2), mistakes).split("\n")[:-1]:
            left, right = line.split(") ")[1].split("=")
            value = eval(left.replace("/", "//"), {"__builtins__": {}})  # noqa: S307
            assert (value == int(right)) == true, line


@pytest.mark.parametrize("kind", ["wrong_operation", "slip"])
def test_a_mistake_in_the_only_step_gives_a_wrong_answer(kind):
    for row in generate("sft", 100, seed=4, levels=[1]):
        solution = worked_solution(row, random.Random(0), Mistakes(**{kind: 1.0}))
        assert boxed(solution) != row["answer"], solution


def test_mistakes_lower_the_share_of_right_solutions_by_about_their_rates():
    rows = generate("sft", 2000, seed=0, levels=[2])
    rng = random.Random(0)
    right = sum(
        boxed(worked_solution(row, rng, Mistakes(stop_early=0.4))) == row["answer"] for row in rows
    )
    assert abs(right / len(rows) - 0.6) < 0.05


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "test", "num": 1, "seed": 0}, "split = 'test'"),
        ({"split": "train", "num": 1, "seed": 0, "levels": [53]}, r"levels = \[53\]"),
        ({"split": "train", "num": 1, "seed": 0, "levels": [0]}, r"levels = \[0\]"),
        ({"split": "train", "num": 1, "seed": 0, "levels": []}, r"levels = \[\]"),
    ],
)
def test_a_wrong_argument_is_named_with_its_remedy(arguments, message):
    with pytest.raises(ValueError, match=message):
        generate(**arguments)


def test_a_rate_outside_0_to_1_is_refused():
    with pytest.raises(ValueError, match=r"slip = 1\.5"):
        Mistakes(slip=1.5)
