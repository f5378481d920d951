"""Errors whose message is for the user: a mistake in a recipe, a run that cannot continue."""


class ConfigError(ValueError):
    """A user's mistake in a recipe or on the command line; the message is one line with the
    remedy."""


class RunError(RuntimeError):
    """A run that cannot continue although its recipe is valid; the message says what was seen."""


def first_line(error: BaseException, length: int = 200) -> str:
    """The beginning of the message's first line; the kind of error where it has no message."""
    lines = str(error).strip().splitlines()
    return lines[0][:length] if lines else type(error).__name__
