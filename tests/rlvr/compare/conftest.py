"""A comparison recipe over the tiny random policy, generated with transformers."""

from collections.abc import Callable
from pathlib import Path

import pytest

from rlvr.compare.resolve import Comparison, open_comparison


@pytest.fixture
def write_comparison(make_recipe, digit_problems, tmp_path) -> Callable[..., Path]:
    """Writes base.toml and compare.toml; the latter's path. text: methods and further tables."""
    from rlvr.config.toml import toml_text

    def write(text: str, budget: str = "steps = 2", seeds: str = "[0, 1]", **sections) -> Path:
        sections = {
            "eval": {"path": str(digit_problems), "limit": 20},
            "train": {"steps": 9, "checkpoint_every": 0},
        } | sections
        recipe = make_recipe(**sections)
        given = recipe.model_dump(mode="json", exclude_unset=True, exclude_none=True)
        (tmp_path / "base.toml").write_text(toml_text(given))
        path = tmp_path / "compare.toml"
        path.write_text(
            f'[compare]\nname = "cmp"\nbase = "base.toml"\ndir = "{tmp_path / "runs"}"\n'
            f"seeds = {seeds}\n[budget]\n{budget}\n{text}"
        )
        return path

    return write


@pytest.fixture
def open_written(write_comparison) -> Callable[..., Comparison]:
    """The opened comparison; arguments as for write_comparison, and overrides."""

    def opened(text: str, overrides=(), **options) -> Comparison:
        return open_comparison(write_comparison(text, **options), overrides)

    return opened
