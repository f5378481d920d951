"""The line of an error that stands in a message of one line."""

from rlvr.common.errors import first_line


def test_the_first_line_of_an_error_or_its_kind_where_it_says_nothing():
    assert first_line(ValueError("\n no such file\nmore")) == "no such file"
    assert first_line(OSError()) == "OSError"
    assert first_line(ValueError("x" * 300)) == "x" * 200
