"""The update of every weight of a checkpoint, one at a time: W_after - W_base.

Safetensors are opened, read and closed tensor by tensor, and a LoRA's update is formed from its own
factors, so memory is that of a few copies of the largest matrix.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from rlvr.common.errors import ConfigError
from rlvr.runs.reader import read_manifest

# DoRA's magnitude is stored without .weight by some versions of peft
_LORA = re.compile(r"base_model\.model\.(.+)\.lora_(A|B|magnitude_vector)(?:\.weight)?$")
ADAPTER_FILE, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"


@dataclass(frozen=True)
class Update:
    """One weight: its name in the base, its value there, and how it changed.

    factors: (A [r, I], B [O, r]) with dW = B A, or None where `dense` is the update. before comes
    in the type of its file.
    """

    name: str
    before: Tensor
    dense: Tensor | None = None
    factors: tuple[Tensor, Tensor] | None = None

    def delta(self) -> Tensor:
        """dW in float32."""
        if self.factors is not None:
            return self.factors[1] @ self.factors[0]
        assert self.dense is not None
        return self.dense

    @property
    def layer(self) -> int | None:
        """Number of its transformer block; None outside them."""
        return layer_of(self.name)

    @property
    def kind(self) -> str:
        """Name of its module, such as q_proj."""
        return self.name.removesuffix(".weight").rpartition(".")[2]

    @property
    def is_matrix(self) -> bool:
        """Whether it is a matrix inside a transformer block, neither embedding nor vector."""
        return self.before.ndim == 2 and self.layer is not None


def layer_of(name: str) -> int | None:
    """Number of the transformer block that a weight lies in; None outside them."""
    # the first number: an expert's comes behind its block's
    found = re.search(r"\.(\d+)\.", name)
    return int(found.group(1)) if found else None


class Weights:
    """The tensors of a transformers folder by name, read from disk when asked for."""

    def __init__(self, folder: Path) -> None:
        """Raises: ConfigError for a folder without safetensors."""
        index = folder / "model.safetensors.index.json"
        single = folder / "model.safetensors"
        self.folder = folder
        if index.is_file():
            self._files = {
                name: folder / file
                for name, file in json.loads(index.read_text())["weight_map"].items()
            }
        elif single.is_file():
            self._files = dict.fromkeys(_names(single), single)
        else:
            raise ConfigError(
                f"{folder}: neither adapter_model.safetensors nor model.safetensors; give a"
                " checkpoint folder of a run or a transformers folder"
            )

    @property
    def names(self) -> list[str]:
        return list(self._files)

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def get(self, name: str) -> Tensor:
        """One tensor, in the type of the file."""
        return _read(self._files[name], name)


def _names(file: Path) -> list[str]:
    from safetensors import safe_open

    with safe_open(file, "pt") as opened:
        return list(opened.keys())


def _read(file: Path, name: str) -> Tensor:
    """A copy: a tensor that still is the mapped file would keep its pages counted as ours."""
    from safetensors import safe_open

    with safe_open(file, "pt") as opened:
        return opened.get_tensor(name).clone()


def find_checkpoint(path: Path) -> Path:
    """The checkpoint folder at `path`; of a run folder, its newest. Raises: ConfigError."""
    if (path / "checkpoints").is_dir():
        from rlvr.runs.checkpoint import list_checkpoints

        found = list_checkpoints(path)
        if found:
            return found[-1]
    if not path.is_dir():
        raise ConfigError(f"{path}: no such folder; give a checkpoint or a run folder")
    return path


def is_adapter(checkpoint: Path) -> bool:
    """Whether the folder holds an adapter rather than a model."""
    return (checkpoint / ADAPTER_CONFIG).is_file()


def find_manifest(checkpoint: Path) -> dict[str, Any]:
    """The manifest of the run that the checkpoint lies in; {} where it lies in none."""
    return read_manifest(checkpoint.parent.parent)


def find_base(checkpoint: Path, given: str | None) -> Path:
    """The base's folder: as given, by the adapter's configuration, or by the run's manifest.

    Raises: ConfigError when none is known, or it is not on this machine.
    """
    name = given
    if name is None and is_adapter(checkpoint):
        name = json.loads((checkpoint / ADAPTER_CONFIG).read_text()).get("base_model_name_or_path")
    if name is None:
        # a whole model has no configuration of an adapter that would name it
        name = find_manifest(checkpoint).get("model")
    if name is None:
        raise ConfigError(f"{checkpoint}: its base is not recorded; give it with --base FOLDER")
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        # no .bin beside them: only safetensors are read
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors"]))
    except (OSError, ValueError, HfHubHTTPError) as error:
        raise ConfigError(
            f"{checkpoint}: its base {name!r} is neither a folder here nor a hub id that this"
            " machine can reach; give it with --base FOLDER"
        ) from error


def updates(checkpoint: Path, base: Path, layers: Sequence[int] | None = None) -> Iterator[Update]:
    """Every weight that training may have changed, in the base's names.

    layers: only these transformer blocks, and nothing outside them.
    Raises: ConfigError for a method that changes no weight, and for a base of another shape.
    """
    weights = Weights(base)
    if not is_adapter(checkpoint):
        return _whole_model(Weights(checkpoint), weights, layers)
    if _is_lora(checkpoint):
        return _lora(checkpoint, weights, layers)
    return _any_adapter(checkpoint, weights, layers)


def _is_lora(checkpoint: Path) -> bool:
    """Whether factors and magnitudes are all there is, on a base that was not quantised."""
    from rlvr.adapters.methods.quantized import BASE_FILE

    config = json.loads((checkpoint / ADAPTER_CONFIG).read_text())
    # fan_in_fan_out (GPT-2's Conv1D) stores the factors transposed
    plain = config.get("peft_type") == "LORA" and not config.get("fan_in_fan_out")
    names = _names(checkpoint / ADAPTER_FILE)
    return plain and not (checkpoint / BASE_FILE).exists() and all(map(_LORA.match, names))


def _wanted(name: str, layers: Sequence[int] | None) -> bool:
    return layers is None or layer_of(name) in layers


def _whole_model(after: Weights, before: Weights, layers: Sequence[int] | None) -> Iterator[Update]:
    for name in after.names:
        if name in before and _wanted(name, layers):
            yield _difference(name, before.get(name), after.get(name))


def _difference(name: str, before: Tensor, after: Tensor) -> Update:
    if before.shape != after.shape:
        raise ConfigError(
            f"{name}: {list(before.shape)} in the base, {list(after.shape)} in the checkpoint; give"
            " the base that it was trained from with --base"
        )
    # in float32: an update may lie below the steps of bfloat16
    return Update(name, before, dense=after.detach().cpu().float() - before.float())


def _lora(checkpoint: Path, weights: Weights, layers: Sequence[int] | None) -> Iterator[Update]:
    """Updates from the factors A and B, and DoRA's magnitudes; no model is loaded."""
    file = checkpoint / ADAPTER_FILE
    parts: dict[str, dict[str, str]] = {}
    for name in _names(file):
        module, part = _LORA.match(name).groups()  # pyright: ignore[reportOptionalMemberAccess]
        parts.setdefault(module, {})[part] = name
    config = json.loads((checkpoint / ADAPTER_CONFIG).read_text())
    for module, names in parts.items():
        name = f"{module}.weight"
        if not _wanted(name, layers):
            continue
        before = weights.get(name)
        a, b = _read(file, names["A"]).float(), _read(file, names["B"]).float()
        factors = (a, b * _scaling(config, module, len(a)))
        if factors[1].shape[0] != before.shape[0] or a.shape[1] != before.shape[1]:
            shape = [b.shape[0], a.shape[1]]
            raise ConfigError(
                f"{name}: {list(before.shape)} in the base, {shape} in the adapter; give the base"
                " that it was trained from with --base"
            )
        if "magnitude_vector" not in names:
            yield Update(name, before, factors=factors)
            continue
        # DoRA: a learned length along the direction of W + B A, row by row
        direction = before.float() + factors[1] @ factors[0]
        magnitude = _read(file, names["magnitude_vector"]).float()
        after = (magnitude / direction.norm(dim=1))[:, None] * direction
        yield _difference(name, before, after)


def _scaling(config: dict[str, Any], module: str, rank: int) -> float:
    from peft.utils.other import get_pattern_key

    patterns = config.get("alpha_pattern") or {}
    alpha = patterns.get(get_pattern_key(list(patterns), module), config["lora_alpha"])
    # rsLoRA divides by the root of the rank
    return alpha / (rank**0.5 if config.get("use_rslora") else rank)


def _any_adapter(
    checkpoint: Path, weights: Weights, layers: Sequence[int] | None
) -> Iterator[Update]:
    """Updates of the weights that moved, from the loaded model, merged module by module."""
    moved = False
    for name, after in _merged(checkpoint, weights.folder):
        if name in weights and _wanted(name, layers):
            update = _difference(name, weights.get(name), after)
            if bool(update.delta().any()):
                moved = True
                yield update
    if not moved:
        raise ConfigError(f"{checkpoint}: it changes no weight; there is no spectrum to look at")


def _merged(checkpoint: Path, base: Path) -> Iterator[tuple[str, Tensor]]:
    from transformers import AutoModelForCausalLM

    from rlvr.adapters.load import load_adapted
    from rlvr.adapters.merge import merged_weights
    from rlvr.policy.loading import load_whole

    read = AutoModelForCausalLM.from_pretrained
    # on CPU, in the base's own type: an update is a difference from what the file holds
    model = load_whole(read, str(base), dtype="auto", use_safetensors=True)
    adapted = load_adapted(model, checkpoint)
    try:
        yield from merged_weights(adapted)
    except ValueError as error:
        raise ConfigError(f"{checkpoint}: its update is no change of weights ({error})") from error
