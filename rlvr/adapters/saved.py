"""What a folder says of the policy saved in it: what another run goes on from, or is refused for.

Beside peft's own files lie POLICY_FILE and, for an adapter, ADAPTER_FILE with every tensor of its
layers as it was trained. peft's folder of PiSSA and its kin holds base plus update, which is what
others load, and not the factors that training moves.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rlvr.adapters import METHODS
from rlvr.adapters.state import adapter_state, adapter_tensors
from rlvr.common.errors import ConfigError, first_line
from rlvr.config.adapter import AdapterConfig
from rlvr.distributed.sharded_tensors import copy_into, shape

POLICY_FILE = "rlvr_policy.json"
ADAPTER_FILE = "rlvr_adapter.safetensors"
PEFT_FILE = "adapter_config.json"

FREE = {"match", "dropout", "calibration_rows", "lora_plus", "adalora"}
"""Settings that may change: they decide the rank, which is compared, or how training goes on."""
NOT_KEPT = {
    "base_model_name_or_path",
    "revision",
    "inference_mode",
    "peft_version",
    "auto_mapping",
    "runtime_config",
    "lora_dropout",
    "init_lora_weights",
    "eva_config",
    "task_type",
}
"""Entries of peft's settings that say nothing about what the saved tensors compute."""


@dataclass(frozen=True, slots=True)
class SavedPolicy:
    """config: settings in force, with the rank and the seed. base: folder or hub id of what it was
    trained on; base_weights: their fingerprint, None where it is not known. dtype: that the base
    was computed in, by its name in a recipe."""

    config: AdapterConfig
    base: str
    base_weights: str | None
    dtype: str


def write_saved(model: Any, folder: Path, saved: SavedPolicy) -> None:
    """Writes what `read_saved` and `load_saved` read; for a whole model without tensors, which
    transformers' own files hold."""
    from peft import PeftModel
    from safetensors.torch import save_file

    if isinstance(model, PeftModel):
        # safetensors refuses tensors that are not contiguous
        tensors = {name: t.cpu().contiguous() for name, t in adapter_state(model).items()}
        save_file(tensors, folder / ADAPTER_FILE)
    tree = {
        # what goes on from this folder begins here, not where its own run began
        "adapter": saved.config.model_dump(mode="json", exclude={"start_from"}),
        "base": saved.base,
        "base_weights": saved.base_weights,
        "dtype": saved.dtype,
    }
    (folder / POLICY_FILE).write_text(json.dumps(tree, indent=1))


def read_saved(folder: Path) -> SavedPolicy | None:
    """The record of the folder's policy; None with peft's files alone. Raises: ConfigError."""
    try:
        tree = json.loads((folder / POLICY_FILE).read_text())
        config = AdapterConfig.model_validate(tree["adapter"])
        return SavedPolicy(config, tree["base"], tree["base_weights"], tree["dtype"])
    except FileNotFoundError:
        if (folder / PEFT_FILE).is_file():
            return None
        raise ConfigError(
            f"{folder}: no saved adapter ({POLICY_FILE} or {PEFT_FILE}); give the folder of a run,"
            " of a checkpoint or of an adapter, and a whole model as model.path"
        ) from None
    # ValueError: cut off; KeyError and TypeError: JSON of something else
    except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
        raise ConfigError(
            f"{folder}: {POLICY_FILE} cannot be read ({first_line(error)}); give a folder that is"
            " whole"
        ) from error


def check_settings(saved: SavedPolicy, config: AdapterConfig) -> None:
    """Raises: ConfigError where `config` would make another adapter than the saved one."""
    then, method = saved.config, METHODS[config.method]
    names = ["method"]
    # full training keeps no base: whole weights, whose shapes no setting decides
    if then.method == config.method and method.keeps_base:
        names += sorted(method.options - FREE)
    for name in names:
        before, now = getattr(then, name), getattr(config, name)
        # their order means nothing: peft keeps a set
        if name == "target_modules":
            before, now = sorted(before), sorted(now)
        if now is None and (name == "seed" or (name == "rank" and config.match)):
            continue  # taken from the folder; picked on loading
        if before != now:
            remedy = "remove it" if before is None else f"set it to {_shown(before)}"
            raise ConfigError(
                f"adapter.{name} = {_shown(now)}: adapter.start_from ="
                f" {config.start_from!r} was trained with {_shown(before)}; {remedy}"
            )


def _shown(value: Any) -> str:
    if value is None:
        return "the default"
    return value.model_dump_json() if hasattr(value, "model_dump_json") else json.dumps(value)


def check_base(saved: SavedPolicy, folder: Path, path: str, weights: str | None) -> None:
    """Raises: ConfigError where the base at `path`, of these weights, is not the saved one's."""
    # None: a hub id that is not in the cache of this machine, with nothing to hash
    if saved.base_weights and weights and saved.base_weights != weights:
        raise ConfigError(
            f"{folder}: was trained on {saved.base} (weights {saved.base_weights}), and {path} has"
            f" others ({weights}); give that base"
        )


def peft_settings(folder: Path) -> dict[str, Any]:
    """peft's settings of an adapter folder. Raises: ConfigError."""
    try:
        return json.loads((folder / PEFT_FILE).read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{folder}: {PEFT_FILE} cannot be read ({error}); give it whole"
        ) from error


def load_saved(model: Any, folder: Path) -> None:
    """Writes the folder's tensors into a model made by the same method and settings, bit for bit.

    Raises: ConfigError for tensors that are not the model's.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        saved = load_file(folder / ADAPTER_FILE)
    except (OSError, SafetensorError) as error:
        raise ConfigError(
            f"{folder}: {ADAPTER_FILE} cannot be read ({error}); give a folder that is whole"
        ) from error
    live = adapter_tensors(model)
    odd = sorted(live.keys() ^ saved.keys())
    odd += [name for name in live.keys() & saved.keys() if shape(live[name]) != saved[name].shape]
    if odd:
        raise ConfigError(
            f"{folder}: {odd[0]} is not as the recipe's settings make it (ranks that data gave out"
            " are not made again); give the settings and the base that it was trained with"
        )
    for name, value in saved.items():
        copy_into(live[name], value)


def load_peft(model: Any, folder: Path, config: AdapterConfig) -> None:
    """`load_saved` for a folder of peft's own, where peft saves all that is trained.

    Raises: ConfigError for a method of which it does not, other settings, or missing weights.
    """
    import peft
    from safetensors.torch import load_file

    from rlvr.adapters.methods import quantized

    method = METHODS[config.method]
    given = f"adapter.start_from = {str(folder)!r}"
    # the 4-bit methods save peft's own files, and the settings of their base beside them
    if method.save is not None and method not in quantized.METHODS:
        raise ConfigError(
            f"{given}: peft's files of {method.name} hold its update and not the factors that are"
            f" trained; give a checkpoint with {ADAPTER_FILE}"
        )
    then = peft_settings(folder)
    # through JSON, as the folder's were: sets become lists there
    now = json.loads(json.dumps(model.peft_config["default"].to_dict(), default=_json))
    for key in sorted(then.keys() & now.keys() - NOT_KEPT):
        # lists that were sets are in the order of the process that wrote them
        before, here = (sorted(v) if isinstance(v, list) else v for v in (then[key], now[key]))
        if before != here:
            raise ConfigError(
                f"{given}: was trained with peft's {key} = {before!r}, the recipe's settings make"
                f" {here!r}; make them equal"
            )
    saved = load_file(folder / "adapter_model.safetensors")
    # what peft would write now; the keys that it calls missing on loading are not to be trusted
    odd = sorted(
        peft.get_peft_model_state_dict(model, save_embedding_layers=False).keys() ^ saved.keys()
    )
    if odd:
        raise ConfigError(f"{given}: has no place or no weight for {odd[0]}; give a whole folder")
    peft.set_peft_model_state_dict(model, saved)


def _json(value: Any) -> Any:
    return sorted(value) if isinstance(value, set) else str(value)
