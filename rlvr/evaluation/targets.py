"""Which model and which adapters: from what the user names to folders and how each is served."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rlvr.adapters.export import VLLM_RANKS
from rlvr.adapters.load import is_mergeable
from rlvr.adapters.methods.quantized import BASE_FILE
from rlvr.common.errors import ConfigError
from rlvr.common.log import get_logger

logger = get_logger(__name__)

Kind = Literal["base", "lora", "merged", "live"]

BASE = "none"
"""The name under which --adapter asks for the base itself."""


@dataclass(frozen=True, slots=True)
class Target:
    """What is evaluated under one name.

    folder: the adapter's; None is the base. kind: base; lora (vLLM serves the adapter as it is);
    merged (as base plus update); live (only transformers can run it). rank: of a lora, else 0.
    """

    name: str
    folder: str | None
    kind: Kind
    rank: int = 0


def resolve(model: str, adapters: Sequence[str]) -> tuple[str, list[Target]]:
    """(base model's folder or hub id, what to evaluate on it).

    model: a transformers folder, a hub id, or an adapter folder, which names its base. adapters:
    adapter folders, or BASE for the base itself. Raises: ConfigError.
    """
    if _settings_file(model).is_file():
        adapters, model = [model, *adapters], _base_of(model)
    targets = [_target(folder, model) for folder in adapters] or [Target("model", None, "base")]
    seen: dict[str, int] = {}
    named = []
    for target in targets:
        seen[target.name] = again = seen.get(target.name, 0) + 1
        name = f"{target.name}-{again}" if again > 1 else target.name
        named.append(Target(name, target.folder, target.kind, target.rank))
    return model, named


def _settings_file(folder: str) -> Path:
    return Path(folder) / "adapter_config.json"


def _base_of(folder: str) -> str:
    base = json.loads(_settings_file(folder).read_text()).get("base_model_name_or_path")
    if not base:
        raise ConfigError(f"{folder}: its adapter_config.json names no base; give it with --model")
    if Path(base).is_absolute() and not Path(base).is_dir():
        raise ConfigError(
            f"{folder}: its base {base} is not there; give the base with --model and this folder"
            " with --adapter"
        )
    return base


def _target(folder: str, model: str) -> Target:
    if folder == BASE:
        return Target("base", None, "base")
    if not _settings_file(folder).is_file():
        raise ConfigError(
            f"--adapter {folder}: not an adapter folder (no adapter_config.json); a whole model is"
            f" evaluated by a call of its own, --model {folder}"
        )
    settings = json.loads(_settings_file(folder).read_text())
    base = settings.get("base_model_name_or_path")
    # not an error: a base moves between machines, and its name says little
    if base and Path(base).resolve() != Path(model).resolve():
        logger.warning(f"{folder}: was trained on {base}, evaluated on {model}")
    kind = _kind(folder, settings)
    return Target(
        _name(Path(folder).resolve()), folder, kind, settings["r"] if kind == "lora" else 0
    )


def _kind(folder: str, settings: dict) -> Kind:
    if not is_mergeable(settings["peft_type"]):
        return "live"
    # PiSSA, OLoRA and others move the base's weights too; vLLM would add B A to the old ones
    start = settings.get("init_lora_weights", True)
    plain = (
        settings["peft_type"] == "LORA"
        and not (Path(folder) / BASE_FILE).exists()
        and not any(settings.get(k) for k in ("use_dora", "modules_to_save", "layer_replication"))
        and settings.get("bias", "none") == "none"
        and (isinstance(start, bool) or start == "gaussian")
        and not settings.get("rank_pattern")
        and not settings.get("alpha_pattern")
        and settings["r"] <= VLLM_RANKS[-1]
    )
    return "lora" if plain else "merged"


def _name(path: Path) -> str:
    """`RUN-step_N` for a run's checkpoint, else the folder's name."""
    if path.parent.name == "checkpoints":
        return f"{path.parent.parent.name}-{path.name}"
    return path.name
