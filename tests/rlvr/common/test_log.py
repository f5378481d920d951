"""Messages: what their records carry, where they go, and how a program silences them."""

import io
import logging
import sys

import pytest

from rlvr.common.log import get_logger, of_run, to_stderr

logger = get_logger("rlvr.somewhere")


@pytest.fixture
def records():
    """Records as a handler of an embedding program gets them."""
    found: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = found.append
    parent = logging.getLogger("rlvr")
    parent.addHandler(handler)
    yield found
    parent.removeHandler(handler)


def test_a_record_carries_its_rank_and_its_run(records, monkeypatch):
    monkeypatch.setenv("RANK", "3")
    with of_run("night"):
        logger.warning("first")
    logger.warning("second")
    assert [(r.rank, r.run, r.getMessage()) for r in records] == [
        (3, "night", "first"),
        (3, "", "second"),
    ]


def test_a_message_of_one_run_in_one_process_stands_alone_on_its_line(capsys):
    with to_stderr(), of_run("night"):
        logger.info("100% of {braces} and %s stay")
    assert capsys.readouterr() == ("", "100% of {braces} and %s stay\n")


def test_several_runs_and_several_ranks_are_named_before_the_message(capsys, monkeypatch):
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "8")
    with to_stderr():
        logger.info("one")
        with of_run("lora_0", one_of_several=True), of_run("lora_0"):
            logger.info("two")
    assert capsys.readouterr().err == "[rank 3] one\n[lora_0, rank 3] two\n"


def test_a_block_inside_a_block_says_everything_once_and_the_outer_one_goes_on(capsys):
    with to_stderr():
        with to_stderr():
            logger.info("inner")
        logger.info("outer")
    assert capsys.readouterr().err == "inner\nouter\n"


def test_messages_follow_standard_error_when_it_is_swapped():
    with to_stderr(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stderr", stream := io.StringIO())
        logger.info("here")
    assert stream.getvalue() == "here\n"


def test_a_program_silences_the_packages_by_the_logger_of_their_name(records):
    parent = logging.getLogger("rlvr")
    level = parent.level
    parent.setLevel(logging.ERROR)
    logger.warning("unwanted")
    parent.setLevel(level)
    assert records == []
