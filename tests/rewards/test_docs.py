"""The examples in docs/verifier.md give the reasons that it states."""

from pathlib import Path

import pytest

from rewards import Reason, Verifier

PAGE = Path(__file__).parents[2] / "docs" / "verifier.md"


@pytest.fixture(scope="module")
def examples():
    rows = (line.strip("| ").split(" | ")[-3:] for line in PAGE.read_text().splitlines())
    cells = [[cell.strip("`") for cell in row] for row in rows if len(row) == 3]
    # rows with two reasons are those of prompts that open <think>, below
    return [tuple(row) for row in cells if row[2] in set(Reason) and row[1] not in set(Reason)]


def test_the_page_has_an_example_for_every_reason_that_one_can_provoke(examples):
    reasons = {Reason(reason) for _, _, reason in examples}
    assert reasons == set(Reason) - {Reason.TIMEOUT, Reason.WORKER_DIED}
    assert len(examples) > 25


def test_every_example_is_true(examples):
    with Verifier() as verifier:
        verdicts = verifier.verify_many([(response, gold) for response, gold, _ in examples])
    found = [verdict.reason.value for verdict in verdicts]
    assert found == [reason for _, _, reason in examples]


def test_every_example_of_a_prompt_that_opens_think_is_true():
    rows = (line.strip("| ").split(" | ") for line in PAGE.read_text().splitlines())
    cells = [[cell.strip("`") for cell in row] for row in rows if len(row) == 4]
    examples = [row for row in cells if {row[2], row[3]} <= set(Reason)]
    assert {row[3] for row in examples} == {"correct", "no_answer"}
    pairs = [(response, gold) for response, gold, _, _ in examples]
    for column, closed in ((2, False), (3, True)):
        with Verifier(require_closed_think=closed) as verifier:
            found = [verdict.reason.value for verdict in verifier.verify_many(pairs)]
        assert found == [row[column] for row in examples]
