"""What a folder of weights has to be before a run trusts it: whole, and read at its own context."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from rlvr.common.errors import ConfigError

CHUNK, NUM_CHUNKS = 1 << 20, 64
SHOWN = 4
"""Tensors that a message names."""
BY_LENGTH = frozenset({"longrope", "dynamic"})
"""Kinds of rotary embedding whose frequencies transformers picks by the longest row of a pass."""
BUFFERS = re.compile(r"rotary_emb\.|\.attn\.(masked_)?bias$|\.attention\.(masked_)?bias$")
"""Tables that older checkpoints hold beside the weights: models make them themselves."""


def load_whole(read: Callable[..., Any], folder: str, **options: Any) -> Any:
    """The model that `read(folder, **options)`, a `from_pretrained`, gives.

    Raises: ConfigError where a weight of the model is not in the folder, and would stay random, or
    one of the folder's has no place in the model. vLLM reads the same folder, so what is refused
    here does not reach it either.
    """
    try:
        model, found = read(folder, output_loading_info=True, **options)
    except RuntimeError as error:  # sizes that differ
        # transformers raises no class of its own for this, but names its option
        if "ignore_mismatched_sizes" not in str(error):
            raise
        raise ConfigError(
            f"model.path = {folder!r}: its weights have other sizes than its config.json says"
            f" ({_last_line(error)}); make both of one model"
        ) from error
    missing = sorted(found["missing_keys"])
    unused = sorted(key for key in found["unexpected_keys"] if not BUFFERS.search(key))
    if not missing and not unused:
        return model
    parts = []
    if missing:
        parts.append(f"has no {_names(missing)}, which would stay random")
    if unused:
        parts.append(f"has {_names(unused)}, which the model has no place for")
    raise ConfigError(
        f"model.path = {folder!r}: {' and '.join(parts)}; save the model again with the names of"
        f" its architecture ({type(model).__name__}), or correct its config.json"
    )


def _names(keys: list[str]) -> str:
    more = f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
    return ", ".join(keys[:SHOWN]) + more


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in lines if "MISMATCH" in line or "mismatch" in line), lines[0])[
        :200
    ]


def fingerprint(path: str | None) -> str | None:
    """Which weights a folder holds: a hash of its files, of evenly spread parts of those above 64
    MiB; None for a hub id or no folder."""
    if path is None or not Path(path).is_dir():
        return None
    digest = hashlib.sha256()
    for file in sorted(Path(path).glob("*.safetensors")):
        size = file.stat().st_size
        digest.update(f"{file.name} {size}".encode())
        with file.open("rb") as content:
            # parts of a large file do: any training step changes bytes everywhere
            for start in range(0, size, max(CHUNK, size // NUM_CHUNKS)):
                content.seek(start)
                digest.update(content.read(CHUNK))
    return digest.hexdigest()[:16]


def base_fingerprint(path: str, revision: str | None) -> str | None:
    """`fingerprint` of a folder, or of what is here of a hub id; None where that is nothing."""
    if Path(path).is_dir():
        return fingerprint(path)
    from huggingface_hub import snapshot_download

    try:
        return fingerprint(snapshot_download(path, revision=revision, local_files_only=True))
    except (OSError, ValueError):
        return None


def check_weights(folder: str, **options: Any) -> None:
    """As `load_whole`, by the files' headers alone: for engines that read the folder themselves.

    What transformers cannot open, other formats and 4-bit weights, is left to the engine. Raises:
    ConfigError.
    """
    from transformers import AutoModelForCausalLM

    read = AutoModelForCausalLM.from_pretrained
    try:
        load_whole(read, folder, device_map="meta", use_safetensors=True, **options)
    except ConfigError:  # it is a ValueError, too
        raise
    except (OSError, ImportError, ValueError):
        return


def refuse_gguf(path: str) -> None:
    """Raises: ConfigError, with the way to convert it, for a GGUF file or a folder of nothing else.

    transformers dequantises them, vLLM serves them quantised: trainer and engine would begin with
    different weights.
    """
    place = Path(path)
    files = [place] if place.suffix.lower() == ".gguf" else sorted(place.glob("*.gguf"))
    if not files or (place / "config.json").is_file():
        return
    read = f"from_pretrained({str(files[0].parent)!r}, gguf_file={files[0].name!r})"
    raise ConfigError(
        f"model.path = {path!r}: a GGUF file is not trained as it is; convert it once (pip install"
        f" gguf): AutoModelForCausalLM.{read}.save_pretrained(FOLDER), the same with AutoTokenizer,"
        " and give FOLDER; its weights come dequantised, what quantisation rounded away stays lost"
    )


def context_len(config: Any) -> int | None:
    """Tokens that a model takes with the same positions for every row; None where it has no limit.

    With frequencies picked by length, one row beyond the original context changes all others of its
    forward pass, and vLLM picks them once, by its longest context: there it is the original one.
    """
    config = config.get_text_config()
    longest = getattr(config, "max_position_embeddings", None)
    if _by_length(config):
        longest = min(
            [n for n in (longest, *_original_lens(config)) if n is not None], default=None
        )
    return longest


def check_len(config: Any, max_len: int, path: str) -> None:
    """Raises: ConfigError for rows longer than `context_len`."""
    longest = context_len(config)
    if longest is None or max_len <= longest:
        return
    why = f"{path} takes {longest} tokens; lower it"
    if _by_length(config.get_text_config()):
        why = (
            f"beyond {longest} tokens {path} changes its positions (rope_type"
            f" {' and '.join(sorted(_by_length(config.get_text_config())))}) by the longest row of"
            f" a pass, and for all rows of it; set it to {longest} or less"
        )
    raise ConfigError(f"model.max_len = {max_len}: {why}")


def _ropes(config: Any) -> Iterable[dict[str, Any]]:
    """The model's rotary settings; some have one for each type of layer."""
    ropes = getattr(config, "rope_parameters", None) or {}
    if "rope_type" in ropes:
        return [ropes]
    return [rope for rope in ropes.values() if isinstance(rope, dict)]


def _by_length(config: Any) -> set[str]:
    return {str(rope.get("rope_type")) for rope in _ropes(config)} & BY_LENGTH


def _original_lens(config: Any) -> list[int | None]:
    return [
        rope.get("original_max_position_embeddings")
        for rope in _ropes(config)
        if rope.get("rope_type") in BY_LENGTH
    ]
