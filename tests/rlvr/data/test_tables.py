"""Settings, presets, methods and recipes, gone through table by table: none is left out."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import annotated_types
import pytest
from pydantic import BaseModel, ValidationError

from rlvr.adapters import METHODS
from rlvr.adapters.optimizers import OPTIMIZERS
from rlvr.algorithm.advantage import ESTIMATORS
from rlvr.algorithm.surrogate import CLIPS, RATIOS
from rlvr.compare.execution.executors import EXECUTORS
from rlvr.config.algorithm import AlgorithmConfig
from rlvr.config.base import AS_TEXT, OR_OWN
from rlvr.config.compare import CompareRecipe
from rlvr.config.presets import PRESETS
from rlvr.config.sft import FinetuneRecipe
from rlvr.config.toml import load_recipe
from rlvr.config.train import OptimConfig, TrainRecipe
from rlvr.config.warm_start import WarmStartRecipe

ROOT = Path(__file__).parents[3]
RECIPES = sorted((ROOT / "recipes").rglob("*.toml"))


def sections(*kinds: type[BaseModel]) -> dict[str, type[BaseModel]]:
    """Every block of settings that these recipes have, at any depth, by class name."""
    found: dict[str, type[BaseModel]] = {}
    for kind in kinds:
        for field in kind.model_fields.values():
            inner = [part for part in parts(field.annotation) if issubclass(part, BaseModel)]
            found |= {part.__name__: part for part in inner} | sections(*inner)
    return found


def parts(annotation: Any) -> Iterator[type]:
    """The classes that an annotation is built of."""
    inner = get_args(annotation)
    if not inner and isinstance(annotation, type):
        yield annotation
    for part in inner:
        yield from parts(part)


SECTIONS = sections(TrainRecipe, WarmStartRecipe, FinetuneRecipe, CompareRecipe)
FIELDS = [
    pytest.param(kind, name, id=f"{label}.{name}")
    for label, kind in SECTIONS.items()
    for name in kind.model_fields
]
NUMBERS = [
    param
    for param in FIELDS
    for kinds in [set(parts(param.values[0].model_fields[param.values[1]].annotation))]
    if kinds & {int, float} and bool not in kinds
]


def errors(kind: type[BaseModel], name: str, value: Any) -> list[str]:
    """What is said against this value of one field, whatever else the section needs."""
    try:
        kind.model_validate({name: value})
    except ValidationError as error:
        return [e["type"] for e in error.errors() if e["loc"][:1] == (name,)]
    return []


def test_the_tables_are_not_empty():
    assert len(SECTIONS) > 40
    assert len(NUMBERS) > 120


@pytest.mark.parametrize(("kind", "name"), FIELDS)
def test_a_setting_says_what_it_is_and_has_a_default_that_it_takes(kind, name):
    field = kind.model_fields[name]
    whole = [part for part in parts(field.annotation) if issubclass(part, BaseModel)]
    assert whole or len(field.description or "") > 8
    if not field.is_required():
        assert errors(kind, name, field.get_default(call_default_factory=True)) == []


@pytest.mark.parametrize(("kind", "name"), NUMBERS)
def test_a_number_is_no_boolean_and_not_nan(kind, name):
    whole = kind.model_fields[name].annotation
    several = any(getattr(part, "__origin__", part) is tuple for part in (whole, *get_args(whole)))
    for wrong in (True, False, float("nan")):
        assert errors(kind, name, [wrong, wrong] if several else wrong), wrong


STEPS = {int: 1, float: 1e-6}


@pytest.mark.parametrize(("kind", "name"), FIELDS)
def test_the_edge_of_every_bound_is_taken_and_what_lies_beyond_is_refused(kind, name):
    field = kind.model_fields[name]
    number = int if int in set(parts(field.annotation)) else float
    step = STEPS[number]
    for bound in field.metadata:
        match bound:
            case annotated_types.Ge(ge=edge):
                inside, outside = edge, edge - step
            case annotated_types.Gt(gt=edge):
                inside, outside = edge + step, edge
            case annotated_types.Le(le=edge):
                inside, outside = edge, edge + step
            case annotated_types.Lt(lt=edge):
                inside, outside = edge - step, edge
            case annotated_types.MinLen(min_length=1):
                assert errors(kind, name, [])
                continue
            case _ if bound in (OR_OWN, AS_TEXT):  # no bound: an import path besides the names
                assert errors(kind, name, "own.py:part") == []
                assert errors(kind, name, "own.py part")
                continue
            case _:
                assert getattr(bound, "pattern", None) or "pattern" in repr(bound), bound
                continue
        assert errors(kind, name, inside) == [], inside
        assert errors(kind, name, outside), outside


@pytest.mark.parametrize("wrong", [[1.0, 0.9], [0.9, -0.1], [0.9]])
def test_adamws_decay_rates_lie_below_1(wrong):
    assert errors(OptimConfig, "betas", wrong)
    assert errors(OptimConfig, "betas", [0.0, 0.999999]) == []


@pytest.mark.parametrize(
    ("kind", "name", "table"),
    [
        (AlgorithmConfig, "preset", PRESETS),
        (AlgorithmConfig, "advantage", ESTIMATORS),
        (AlgorithmConfig, "ratio", RATIOS),
        (AlgorithmConfig, "clip", CLIPS),
        (OptimConfig, "name", OPTIMIZERS),
        (SECTIONS["ExecutorConfig"], "kind", EXECUTORS),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_a_setting_may_be_is_what_there_is(kind, name, table):
    assert set(get_args(kind.model_fields[name].annotation)) == set(table)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_sets_parts_that_exist_to_values_that_are_taken(preset):
    assert set(PRESETS[preset]) <= set(AlgorithmConfig.model_fields)
    config = AlgorithmConfig(preset=preset)
    for name, value in PRESETS[preset].items():
        assert getattr(config, name) == value
    documented = (ROOT / "docs" / "algorithms.md").read_text()
    assert f"`{preset}`" in documented


def test_every_method_is_documented_has_its_own_name_and_options_that_exist():
    documented = (ROOT / "docs" / "adapters.md").read_text()
    fields = set(SECTIONS["AdapterConfig"].model_fields)
    for name, method in METHODS.items():
        assert method.name == name
        assert f"`{name}`" in documented
        assert method.options <= fields, name


def test_every_setting_of_the_adapter_is_an_option_of_some_method():
    used = set().union(*(method.options for method in METHODS.values()))
    # start_from is of every method, and none of its own
    assert set(SECTIONS["AdapterConfig"].model_fields) - {"method", "start_from"} == used


def kind_of(path: Path) -> type[BaseModel]:
    """By what the recipe has, as the commands are given it."""
    tree = tomllib.loads(path.read_text())
    if "compare" in tree:
        return CompareRecipe
    if not path.stem.endswith("_sft"):
        return TrainRecipe
    return FinetuneRecipe if "path" in tree.get("model", {}) else WarmStartRecipe


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_shipped_recipe_is_valid_as_it_is(path):
    load_recipe(path, [], kind_of(path))


def test_recipes_that_documentation_and_recipes_name_exist():
    for path in [*RECIPES, ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for name in re.findall(r"\brecipes/[\w./-]+\.toml", path.read_text()):
            assert (ROOT / name).is_file(), f"{path.name}: {name}"
