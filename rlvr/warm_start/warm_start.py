"""Trains a tiny policy on worked solutions, from nothing; a transformers folder in the cache."""

import hashlib
import json
import os
import random
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlvr.common.checkout import cache_dir
from rlvr.common.errors import ConfigError
from rlvr.config.warm_start import WarmStartRecipe
from rlvr.data.word_problems import Mistakes, generate, worked_solution

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import Qwen2Tokenizer, TrainerCallback

FORMAT = 1
"""Part of the cache key; raised when a change of code gives the same recipe another result."""
NUM_TOKENIZER_TEXTS = 6000
"""Problems and solutions that the tokenizer learns its merges from."""


def warm_start_path(recipe: WarmStartRecipe) -> Path:
    """The cache folder of this recipe's result, made or not; every setting changes its name."""
    # sorted: the order of fields in a class is no setting
    text = json.dumps({"format": FORMAT, "recipe": recipe.model_dump(mode="json")}, sort_keys=True)
    key = hashlib.sha256(text.encode()).hexdigest()[:12]
    return cache_dir() / "sft" / f"{recipe.run.name}-{key}"


def run_warm_start(recipe: WarmStartRecipe) -> Path:
    """The transformers folder of the recipe's policy: from the cache, else trained now.

    The folder appears complete or not at all. A cached result is returned without loading torch.
    Raises: ConfigError when the recipe asks for problems that do not exist.
    """
    path = warm_start_path(recipe)
    if path.is_dir():
        return path
    try:
        pairs = solved_problems(recipe)
    except ValueError as error:
        raise ConfigError(f"data.{error}") from None
    path.parent.mkdir(parents=True, exist_ok=True)
    # in the cache itself: a rename is atomic only within one file system
    building = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        _train(recipe, pairs, building)
        building.chmod(0o755)  # mkdtemp makes it private; others may share the cache
        try:
            building.rename(path)
        except OSError:
            if not path.is_dir():
                raise  # else another process finished the same recipe first
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return path


def solved_problems(recipe: WarmStartRecipe) -> list[tuple[str, str]]:
    """(problem, worked solution) pairs of the recipe, mistakes included."""
    data = recipe.data
    mistakes = Mistakes(data.stop_early, data.wrong_operation, data.slip)
    rng = random.Random(recipe.train.seed)
    rows = generate("sft", data.num_problems, recipe.train.seed, data.levels)
    return [(row["problem"], worked_solution(row, rng, mistakes)) for row in rows]


def _train(recipe: WarmStartRecipe, pairs: list[tuple[str, str]], folder: Path) -> None:
    """Writes the trained model, its tokenizer and the recipe into `folder`."""
    import torch
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    from rlvr.warm_start.tiny_model import build_model, build_tokenizer

    started = time.monotonic()
    shape, train = recipe.model, recipe.train
    texts = (text for pair in pairs[: NUM_TOKENIZER_TEXTS // 2] for text in pair)
    tokenizer = build_tokenizer(texts, shape.vocab_size, shape.context_len)
    model = build_model(tokenizer, seed=train.seed, **shape.model_dump(exclude={"vocab_size"}))
    torch.set_num_threads(train.num_threads or len(os.sched_getaffinity(0)))
    trainer = SFTTrainer(
        model,
        args=SFTConfig(output_dir=str(folder / "trainer"), **_trainer_settings(recipe)),
        train_dataset=_dataset(pairs, tokenizer, train.batch_size, random.Random(train.seed)),
        processing_class=tokenizer,
    )
    show_one_line(trainer, "warm start", started)
    trainer.train()
    shutil.rmtree(folder / "trainer", ignore_errors=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "sft_recipe.json").write_text(recipe.model_dump_json(indent=2))


def _trainer_settings(recipe: WarmStartRecipe) -> dict[str, Any]:
    import torch

    train = recipe.train
    return {
        "per_device_train_batch_size": train.batch_size,
        "learning_rate": train.lr,
        "lr_scheduler_type": "cosine",
        "warmup_steps": train.warmup_steps,
        "num_train_epochs": 1,
        "weight_decay": train.weight_decay,
        "max_grad_norm": train.max_grad_norm,
        "adam_beta2": 0.98,  # 0.999 averages over 1000 steps, about as many as there are
        "seed": train.seed,
        "train_sampling_strategy": "sequential",  # the dataset is in training order
        "max_length": None,  # trl would cut at 1024 tokens without a word
        "use_cpu": not torch.cuda.is_available(),
        # trl turns this and the next one on by default
        "bf16": False,
        "gradient_checkpointing": False,
        "dataloader_pin_memory": False,
        "save_strategy": "no",
        "logging_steps": 50,
        "report_to": [],
        "disable_tqdm": True,
    }


def _dataset(
    pairs: list[tuple[str, str]],
    tokenizer: "Qwen2Tokenizer",
    batch_size: int,
    rng: random.Random,
) -> "Dataset":
    """Rows of input_ids and labels in training order; only solution and end token have a loss."""
    from datasets import Dataset

    turns = [
        [{"role": "user", "content": problem}, {"role": "assistant", "content": solution}]
        for problem, solution in pairs
    ]
    prompts, wholes = (
        [str(tokenizer.apply_chat_template(m, tokenize=False, add_generation_prompt=g)) for m in c]
        for c, g in (([turn[:1] for turn in turns], True), (turns, False))
    )
    # prompt and completion apart, so that no token spans the border, as when the policy generates
    completions = [whole[len(prompt) :] for prompt, whole in zip(prompts, wholes, strict=True)]
    encoded = (tokenizer(t, add_special_tokens=False)["input_ids"] for t in (prompts, completions))
    rows = [
        {"input_ids": prompt + completion, "labels": [-100] * len(prompt) + completion}
        for prompt, completion in zip(*encoded, strict=True)
    ]
    order = batch_order([len(row["input_ids"]) for row in rows], batch_size, rng)
    return Dataset.from_list([rows[index] for index in order])


def batch_order(lengths: Sequence[int], batch_size: int, rng: random.Random) -> list[int]:
    """Every index once, in batches of rows of similar length that follow each other at random.

    Sorting only within chunks of 25 batches keeps the rows of a batch varied. transformers' own
    grouping also sorts the batches, from long to short, which trains much worse.
    """
    shuffled = rng.sample(range(len(lengths)), len(lengths))
    batches = []
    for start in range(0, len(shuffled), 25 * batch_size):
        chunk = sorted(shuffled[start : start + 25 * batch_size], key=lengths.__getitem__)
        batches += [chunk[i : i + batch_size] for i in range(0, len(chunk), batch_size)]
    # the one incomplete batch comes last: elsewhere it would shift the borders of all that follow
    partial = [batch for batch in batches if len(batch) < batch_size]
    batches = [batch for batch in batches if len(batch) == batch_size]
    rng.shuffle(batches)
    return [index for batch in batches + partial for index in batch]


def show_one_line(trainer: Any, name: str, started: float) -> None:
    """Replaces the trainer's own output by one line of progress, rewritten on a terminal."""
    from transformers import PrinterCallback

    # with disable_tqdm transformers prints the dict of every log by this
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(_progress(name, started))


def _progress(name: str, started: float) -> "TrainerCallback":
    from rich.console import Console
    from transformers import TrainerCallback

    console = Console(stderr=True)

    class Progress(TrainerCallback):
        """Step, loss and seconds so far."""

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if logs and "loss" in logs:
                done = f"{name}: step {state.global_step}/{state.max_steps}"
                line = f"{done}, loss {float(logs['loss']):.3f}, {time.monotonic() - started:.0f} s"
                last = state.global_step + args.logging_steps > state.max_steps
                console.print(line, end="\n" if last or not console.is_terminal else "\r")

    return Progress()
