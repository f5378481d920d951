"""`rlvr init NAME`: writes a short, commented recipe from a few options or questions."""

from __future__ import annotations

import argparse
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlvr.adapters import check_adapter
from rlvr.common.errors import ConfigError
from rlvr.common.files import write_whole
from rlvr.common.gpus import GPUS, gpu_named
from rlvr.config.toml import validate, value_text
from rlvr.config.train import DataConfig, TrainRecipe

QUICKSTART = "quickstart"
GENERATED = "generated:word_problems"
QUESTIONS = {
    "model": (
        QUICKSTART,
        "folder or hub id of the policy; quickstart: the tiny one, made here without a download",
    ),
    "data": (
        GENERATED,
        "file or hub dataset of problems with answers; generated:word_problems: made here",
    ),
    "gpu": (None, f"COUNTxNAME of {', '.join(GPUS)}, or cpu"),
    "method": ("lora", "what is trained, a name of `rlvr adapters`: lora, dora, full, ..."),
}
"""Each option: its default, and what is asked on a terminal where it is not given."""
PROBLEM_FIELDS = ("problem", "question", "prompt")
ANSWER_FIELDS = ("answer", "solution", "final_answer", "expected_answer")
ALL_WEIGHTS = ("full", "full_frozen_embeddings", "galore", "apollo")


def main(words: Sequence[str]) -> int:
    """Writes the recipe; the exit code. Raises: ConfigError; then nothing is written."""
    parser = argparse.ArgumentParser(
        prog="rlvr init",
        description="Write a short recipe to go on from. On a terminal it asks for what is not"
        " given; elsewhere it takes the defaults.",
    )
    parser.add_argument("name", help="of the recipe; it becomes NAME.toml in this folder")
    for name, (default, text) in QUESTIONS.items():
        note = f" (default: {default or 'the GPU of this machine, else cpu'})"
        parser.add_argument(f"--{name}", help=text + note)
    args = parser.parse_args(list(words))
    path = Path(args.name if args.name.endswith(".toml") else f"{args.name}.toml")
    if path.exists():
        raise ConfigError(f"{path}: is there already; choose another name")
    if not path.parent.is_dir():
        raise ConfigError(f"{path.parent}: no such folder; make it, or choose another name")
    answers = {name: getattr(args, name) or _ask(name) for name in QUESTIONS}
    text = recipe_text(**answers)
    # read back first: a recipe that is refused is not written
    recipe = validate(tomllib.loads(text), TrainRecipe)
    check_adapter(recipe.adapter)
    write_whole(path, text)
    print(f"{path}\nnext: rlvr plan {path}, rlvr doctor {path}, rlvr train {path}")
    return 0


def _ask(name: str) -> str:
    default, text = QUESTIONS[name]
    default = default or _gpu_here()
    if not sys.stdin.isatty():
        return default
    print(f"{name}: {text}", file=sys.stderr)
    try:
        return input(f"  [{default}] ").strip() or default
    except EOFError:
        return default


def _gpu_here() -> str:
    """The GPUs of this machine as a plan names them, else cpu."""
    import torch

    if not torch.cuda.is_available():
        return "cpu"
    found = gpu_named(torch.cuda.get_device_name())
    return f"{torch.cuda.device_count()}x{found.name}" if found else "cpu"


def recipe_text(model: str, data: str, gpu: str, method: str) -> str:
    """The recipe: what has no default, and what the answers change; the rest stands at its default.

    Raises: ConfigError for a GPU that is not known, or data without a field to train on.
    """
    from rlvr.plan.hardware import parse_cluster

    _, device = parse_cluster(gpu)
    tiny = model == QUICKSTART
    everything = method in ALL_WEIGHTS
    lr = (2e-4 if everything else 1e-3) if tiny else (1e-6 if everything else 1e-5)
    lines = [
        f"# {'The tiny policy of the quickstart' if tiny else model} on {data}, DAPO, {method}.",
        "# Written by rlvr init. Other settings have their defaults; config.toml of a run has all.",
        f"# hardware: {gpu}",
        "",
        "[model]",
    ]
    if tiny:
        lines += ['sft_recipe = "recipes/quickstart_sft.toml" # made once, in about 2 minutes']
        lines += ["max_len = 256 # context in tokens: prompt plus response"]
    else:
        lines += [f"path = {value_text(model)}"]
    if device is None:
        lines += ['dtype = "float32" # a CPU is no faster with 16 bits']
    lines += ["", *_data_lines(data, tiny), ""]
    if tiny:
        lines += ["[rollout]", "max_response_len = 96 # tokens", ""]
    lines += [
        *(["[adapter]", f"method = {value_text(method)}", ""] if method != "lora" else []),
        "[optim]",
        f"lr = {lr:g} # a place to start for {method}; rlvr lr-find finds the best",
        "",
        "[train]",
        f"steps = {80 if tiny else 300} # of 16 problems with 8 responses each",
    ]
    if device is not None:
        lines += ["activation_checkpointing = 1 # a third more time for a tenth of the memory"]
    return "\n".join([*lines, "", *_eval_lines(data)])


def _data_lines(data: str, tiny: bool) -> list[str]:
    lines = ["[data]", f"path = {value_text(data)}"]
    if data.startswith("generated:"):
        lines += ["limit = 4000 # problems to generate"]
    else:
        lines += _field_lines(data)
    if not tiny:
        request = "{problem}\nReason step by step, and put your final answer within \\boxed{}."
        lines += [f"prompt_template = {value_text(request)}"]
    return lines


def _field_lines(data: str) -> list[str]:
    """The fields of a local file that have not the usual names; of a hub dataset a reminder."""
    from rlvr.data.rows import find_data_file, read_rows

    try:
        find_data_file(data)
    except ConfigError:
        return ["# problem_field, answer_field: where they are not called problem and answer"]
    rows, source = read_rows(DataConfig(path=data), "data")
    row: dict[str, Any] = next(rows, {})
    lines = []
    for setting, names in (("problem_field", PROBLEM_FIELDS), ("answer_field", ANSWER_FIELDS)):
        found = next((name for name in names if name in row), None)
        if found is None:
            raise ConfigError(
                f"--data {data}: {source} has no field {' or '.join(names)}; it has"
                f" {', '.join(row) or 'no rows'}. Rename one, or write data.{setting} by hand"
            )
        if found != names[0]:
            lines.append(f"{setting} = {value_text(found)}")
    return lines


def _eval_lines(data: str) -> list[str]:
    if data.startswith("generated:"):
        return [
            "[eval] # accuracy before and after, with its interval",
            f"path = {value_text(data)}",
            "limit = 500 # held-out problems",
            "",
        ]
    return [
        "# [eval] # accuracy before and after, with its interval",
        '# path = "FILE.jsonl" # held-out problems',
        "",
    ]
