"""Errors whose message is for the user: a mistake in a recipe, a run that cannot continue."""


class ConfigError(ValueError):
    """A user's mistake in a recipe or on the command line; the message is one line with the
    remedy."""


class RunError(RuntimeError):
    """A run that cannot continue although its recipe is valid; the message says what was seen."""
