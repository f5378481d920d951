"""`rlvr merge RUN -o FOLDER`: what a run trained, as one plain transformers folder."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from rlvr.adapters.export import Rounded, merge_and_export
from rlvr.adapters.load import is_mergeable
from rlvr.adapters.saved import PEFT_FILE, check_base, peft_settings, read_saved
from rlvr.common.errors import ConfigError
from rlvr.config.train import ModelConfig
from rlvr.data.chat import read_template
from rlvr.data.sft_examples import make_chat
from rlvr.engines.stop_tokens import add_end
from rlvr.policy.language_model import LanguageModel, load_frozen, load_tokenizer
from rlvr.policy.loading import base_fingerprint
from rlvr.runs.checkpoint import find_checkpoint, refuse_damaged
from rlvr.runs.reader import read_config

DTYPES = ("float32", "bfloat16", "float16")
ANY_LEN = 16
"""The least context that a recipe can ask for: a merge asks for none."""


def merge(given: Path, out: Path, dtype: str = "float32", base: str | None = None) -> Rounded:
    """Writes the merged weights of a checkpoint, with tokenizer, chat template and generation
    settings, to the new folder `out`; what rounding them to `dtype` took.

    given: the folder of a run, a checkpoint or an adapter. base: where its base lies now; None
    takes the place that the folder names. Raises: ConfigError.
    """
    if out.exists():
        raise ConfigError(f"{out}: exists; give a new folder")
    folder = find_checkpoint(given)
    refuse_damaged(folder)
    loaded = _load(folder, base)
    _add_chat(loaded, read_config(folder.parent.parent))
    rounded = merge_and_export(loaded.model, out, getattr(torch, dtype))
    loaded.tokenizer.save_pretrained(out)
    return rounded


def _load(folder: Path, base: str | None) -> LanguageModel:
    """The checkpoint's model as it was trained: on the base in its compute type."""
    if not (folder / PEFT_FILE).is_file():
        whole = ModelConfig(path=str(folder), dtype="float32", max_len=ANY_LEN)
        return load_frozen(whole, str(folder))
    settings, saved = peft_settings(folder), read_saved(folder)
    if not is_mergeable(settings["peft_type"]):
        raise ConfigError(
            f"{folder}: {settings['peft_type']} is no change of weights and cannot be merged; load"
            " it with rlvr.adapters.load.load_adapted"
        )
    path = base or (saved.base if saved else settings["base_model_name_or_path"])
    dtype = saved.dtype if saved else "float32"
    config = ModelConfig.model_validate({"path": path, "dtype": dtype, "max_len": ANY_LEN})
    loaded = load_frozen(config, path, folder)
    if saved is not None:
        check_base(saved, folder, path, base_fingerprint(path, None))
    if (folder / "tokenizer_config.json").is_file():
        loaded.tokenizer = load_tokenizer(config, str(folder))
    return loaded


def _add_chat(loaded: LanguageModel, recipe: dict[str, Any]) -> None:
    """Puts the run's own chat template into the tokenizer, and the end of a turn that supervised
    training has taught among the tokens that end a response."""
    template = recipe.get("data", {}).get("chat_template")
    if template is not None:
        loaded.tokenizer.chat_template = read_template(template)
    if recipe and "rollout" not in recipe:
        add_end(loaded.causal_lm, make_chat(loaded.tokenizer, template).end_id)


def main(words: Sequence[str]) -> int:
    """Runs `rlvr merge`; the exit code. Raises: ConfigError."""
    parser = argparse.ArgumentParser(
        prog="rlvr merge",
        description="Write a checkpoint as one plain transformers folder, base plus update.",
    )
    parser.add_argument("folder", help="a run (its best checkpoint), a checkpoint or an adapter")
    parser.add_argument("-o", "--out", required=True, metavar="FOLDER", help="a new folder")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="default: float32")
    parser.add_argument("--base", metavar="PATH", help="the base, where it has moved")
    args = parser.parse_args(list(words))
    rounded = merge(Path(args.folder), Path(args.out), args.dtype, args.base)
    print(f"{args.out}: {rounded.text(args.dtype)}")
    return 0
