"""A value of a wrong type in any field of any recipe is refused in one line, whatever reads the
field before it is validated."""

import pytest

from rlvr.common.errors import ConfigError
from rlvr.config.compare import CompareRecipe
from rlvr.config.sft import FinetuneRecipe
from rlvr.config.toml import validate
from rlvr.config.train import TrainRecipe
from rlvr.config.warm_start import WarmStartRecipe
from tests.rlvr.config.test_needs import MINIMAL, tree_of

WRONG = (["x"], {"a": 1}, [[1]], True, 3.5, "x")


def fields(kind) -> list[str]:
    return [
        f"{name}.{inner}"
        for name, field in kind.model_fields.items()
        for inner in getattr(field.annotation, "model_fields", {})
    ] + [*kind.model_fields]


@pytest.mark.parametrize("kind", [TrainRecipe, FinetuneRecipe, WarmStartRecipe, CompareRecipe])
def test_no_value_of_a_wrong_type_ends_in_a_traceback(kind):
    rates = {"optim.lr": {"lora": 1e-4}} if kind is TrainRecipe else {}
    refused = 0
    for more in ({}, rates):
        for key in fields(kind):
            for value in WRONG:
                tree = tree_of(MINIMAL.get(kind, {}) | more | {key: value}) if "." in key else None
                tree = tree or tree_of(MINIMAL.get(kind, {}) | more) | {key: value}
                try:
                    validate(tree, kind)
                except ConfigError as error:
                    refused += "\n" not in str(error)
    assert refused > 3 * len(fields(kind))
