"""Reads a TOML recipe with `--section.key value` overrides, and writes the resolved one.

A wrong key, value or combination raises `ConfigError`: one line that names the setting, its value,
the rule and the remedy.
"""

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from rlvr.common.errors import ConfigError
from rlvr.config.needs import drop, ignored, resolved
from rlvr.config.rules import check_rules

R = TypeVar("R", bound=BaseModel)


def load_recipe(path: str | Path, overrides: Sequence[str], kind: type[R]) -> R:
    """The recipe at `path` with `--section.key value` overrides applied.

    Raises: ConfigError for a missing or malformed file, an unknown key, a value out of range or a
    combination that cannot work.
    """
    tree = read_tree(path, overrides, kind)
    if _is_of_a_run(Path(path)):
        _drop_ignored(tree, kind, {key for key, _ in parse_overrides(overrides)})
    return validate(tree, kind)


def _is_of_a_run(path: Path) -> bool:
    return path.name == "config.toml" and path.with_name("manifest.json").is_file()


def _drop_ignored(tree: dict[str, Any], kind: type[BaseModel], keep: set[str]) -> None:
    """Removes what nothing reads from a run's recipe, where nobody has written it: older versions
    kept every setting there, and an override may switch others off."""
    for key in [key for key, _ in ignored(_parse(tree, kind)) if key not in keep]:
        drop(tree, key)


def read_tree(path: str | Path, overrides: Sequence[str], kind: type[BaseModel]) -> dict[str, Any]:
    """The recipe as nested dicts, overrides applied, not yet validated. Raises: ConfigError."""
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"{path}: no such recipe; `rlvr recipes` lists those that come with rlvr")
    try:
        tree = tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error
    for key, value in parse_overrides(overrides):
        _set(tree, key, value, kind)
    return tree


def _set(tree: dict[str, Any], key: str, value: Any, kind: type[BaseModel]) -> None:
    """Puts the value at tree[section][...][name]."""
    *sections, name = key.split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
        if not isinstance(tree, dict):
            break
    if not sections or not name or not isinstance(tree, dict):
        raise ConfigError(f"--{key}: settings are named --section.key{_nearest_text(key, kind)}")
    tree[name] = value


def validate(tree: dict[str, Any], kind: type[R]) -> R:
    """A recipe, or a section of one, of class `kind` from nested dicts, its rules checked.

    Raises: ConfigError, one line.
    """
    recipe = _parse(tree, kind)
    check_rules(recipe)
    return recipe


def _parse(tree: dict[str, Any], kind: type[R]) -> R:
    """The recipe with every field in its range. Raises: ConfigError."""
    try:
        return kind.model_validate(_without_removed(tree))
    except ValidationError as error:
        raise ConfigError(_one_line(error, kind)) from None


_REMOVED = {
    "adapter.emulate_inplace_merge": (
        False,
        "no longer a setting: remove it; tests/benchmarks/svd_control.py runs this control",
    )
}
"""Former settings: the value that changes nothing, which config.toml of an older run may hold, and
what to do about any other."""


def _without_removed(tree: dict[str, Any]) -> dict[str, Any]:
    for key, (harmless, remedy) in _REMOVED.items():
        section, name = key.split(".")
        values = tree.get(section)
        if isinstance(values, dict) and name in values:
            if values[name] is not harmless:
                raise ConfigError(f"{key} = {values[name]!r}: {remedy}")
            tree = tree | {section: {k: v for k, v in values.items() if k != name}}
    return tree


def parse_overrides(words: Sequence[str]) -> list[tuple[str, Any]]:
    """(key, value) pairs from `--section.key value` or `--section.key=value` words."""
    pairs, words = [], list(words)
    while words:
        word = words.pop(0)
        if not word.startswith("--") or len(word) < 3:
            raise ConfigError(f"{word}: expected --section.key value")
        key, equals, text = word[2:].partition("=")
        if not equals:
            if not words:
                raise ConfigError(f"--{key}: a value is missing; write --{key} VALUE")
            text = words.pop(0)
        pairs.append((key, _toml_value(text)))
    return pairs


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text  # a bare word: --adapter.method dora needs no quotes


def _keys(kind: type[BaseModel], prefix: str = "") -> list[str]:
    names = []
    for name, field in kind.model_fields.items():
        sub = field.annotation
        # of a list of tables, such as [[data.source]], the settings of one
        inner = [part for part in (sub, *get_args(sub)) if isinstance(part, type)]
        tables = [part for part in inner if issubclass(part, BaseModel)]
        names += [prefix + name, *(key for t in tables for key in _keys(t, f"{prefix}{name}."))]
    return names


def _without_numbers(key: str) -> str:
    """The setting, whichever table of a list it stands in."""
    return ".".join(part for part in key.split(".") if not part.isdigit())


def _nearest_text(key: str, kind: type[BaseModel]) -> str:
    keys, key = _keys(kind), _without_numbers(key)
    near = difflib.get_close_matches(key, keys, n=1, cutoff=0.5)
    last = key.rpartition(".")[2]
    # a right name in the wrong section can be far from every key
    near = near or [k for k in keys if k.rpartition(".")[2] == last]
    return (
        f"; did you mean {near[0]}?" if near else f"; sections are {', '.join(kind.model_fields)}"
    )


_RULES = {
    "rollout.group_size": "advantages need at least 2 responses per prompt; set it to 8",
    "data.source.weight": "must lie in (0, 1], the weights of all sources adding up to 1; a source"
    " that is not wanted is left out",
    "optim.lr": "must lie in (0, 1]; on a 1.5B model LoRA takes about 1e-5, full about 1e-6",
}
"""Rules that say more than pydantic's message."""


def _one_line(error: ValidationError, kind: type[BaseModel]) -> str:
    first = error.errors()[0]  # one line for the user; the next one shows once this is fixed
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"{key}: unknown setting{_nearest_text(key, kind)}"
    if first["type"] == "missing":
        return f"{key}: missing; add it to the recipe or pass --{key} VALUE"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "value_error":
        return message
    rule = _RULES.get(_without_numbers(key), f"{message[0].lower()}{message[1:]}")
    return f"{key} = {first['input']!r}: {rule}"


def dump_toml(recipe: BaseModel) -> str:
    """The resolved recipe as TOML that `load_recipe` reads back to an equal recipe: defaults stand
    in it, what is None or not read does not."""
    return toml_text(resolved(recipe))


def toml_text(tree: Mapping[str, Any]) -> str:
    """Nested dicts of JSON-ready values as TOML."""
    return "\n".join(line for name, values in tree.items() for line in _tables(name, values))


def _tables(name: str, values: Mapping[str, Any] | list[dict[str, Any]]) -> list[str]:
    """A [name] table, or as many [[name]] as there are."""
    if isinstance(values, Mapping):
        return _table(name, values)
    # what is a table inside stands in one line
    return [
        line
        for one in values
        for line in (f"[[{name}]]", *(f"{k} = {value_text(v)}" for k, v in one.items()), "")
    ]


def _table(name: str, values: Mapping[str, Any]) -> list[str]:
    """A [name] table and the tables inside it."""
    plain = [f"{k} = {value_text(v)}" for k, v in values.items() if not isinstance(v, dict)]
    lines = [f"[{name}]", *plain, ""]
    for key, inner in values.items():
        if isinstance(inner, dict):
            lines += _table(f"{name}.{key}", inner)
    return lines


def value_text(value: Any) -> str:
    """A value as it stands behind the = in TOML."""
    match value:
        # before int, of which it is a subclass
        case bool():
            return "true" if value else "false"
        case int() | float():
            return repr(value)
        case str():
            escaped = "".join(_TOML_ESCAPES.get(c, c) for c in value)
            return f'"{escaped}"'
        case list():
            return "[" + ", ".join(value_text(v) for v in value) + "]"
        case dict():  # of a list: tables by themselves have a place of their own
            return "{ " + ", ".join(f"{k} = {value_text(v)}" for k, v in value.items()) + " }"
    raise AssertionError(f"{value!r}: no TOML form")


# in a string TOML takes control characters, but for the tab, as escapes only
_TOML_ESCAPES = {chr(i): f"\\u{i:04x}" for i in [*range(32), 127]} | {'"': '\\"', "\\": "\\\\"}
