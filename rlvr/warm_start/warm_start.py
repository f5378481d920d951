"""The supervised warm start: a tiny policy on worked solutions, as a cached transformers folder."""

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
from rlvr.config.warm_start import SftConfig
from rlvr.data.word_problems import Mistakes, generate, worked_solution

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import Qwen2Tokenizer, TrainerCallback

FORMAT = 1  # raised when the same recipe would give another result
_NUM_TOKENIZER_TEXTS = 6000


def sft_path(cfg: SftConfig) -> Path:
    """The folder that holds, or will hold, the result of this recipe: any change gives another."""
    text = json.dumps({"format": FORMAT, "recipe": cfg.model_dump(mode="json")}, sort_keys=True)
    key = hashlib.sha256(text.encode()).hexdigest()[:12]
    return cache_dir() / "sft" / f"{cfg.run.name}-{key}"


def run_sft(cfg: SftConfig) -> Path:
    """Train the recipe's policy, or find it in the cache; returns its transformers folder.

    The folder appears whole or not at all. A cached result is returned without loading torch.
    Raises: ConfigError when the problems that the recipe asks for do not exist.
    """
    path = sft_path(cfg)
    if path.is_dir():
        return path
    try:
        pairs = solved_problems(cfg)
    except ValueError as error:
        raise ConfigError(f"data.{error}") from None
    path.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        _train(cfg, pairs, building)
        building.chmod(0o755)
        try:
            building.rename(path)
        except OSError:
            if not path.is_dir():
                raise  # else another process finished the same recipe first
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return path


def solved_problems(cfg: SftConfig) -> list[tuple[str, str]]:
    """(problem, worked solution) pairs of the recipe, mistakes included."""
    data = cfg.data
    mistakes = Mistakes(data.stop_early, data.wrong_operation, data.slip)
    rng = random.Random(cfg.train.seed)
    rows = generate("sft", data.num_problems, cfg.train.seed, data.levels)
    return [(row["problem"], worked_solution(row, rng, mistakes)) for row in rows]


def _train(cfg: SftConfig, pairs: list[tuple[str, str]], folder: Path) -> None:
    """Write the trained model, its tokenizer and the recipe into `folder`."""
    import torch
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    from rlvr.warm_start.tiny_model import build_model, build_tokenizer

    started = time.monotonic()
    model_cfg, train = cfg.model, cfg.train
    texts = (text for pair in pairs[: _NUM_TOKENIZER_TEXTS // 2] for text in pair)
    tokenizer = build_tokenizer(texts, model_cfg.vocab_size, model_cfg.context_len)
    model = build_model(tokenizer, seed=train.seed, **model_cfg.model_dump(exclude={"vocab_size"}))
    torch.set_num_threads(train.num_threads or len(os.sched_getaffinity(0)))
    trainer = SFTTrainer(
        model,
        args=SFTConfig(output_dir=str(folder / "trainer"), **_trainer_settings(cfg)),
        train_dataset=_dataset(pairs, tokenizer, train.batch_size, random.Random(train.seed)),
        processing_class=tokenizer,
    )
    make_quiet(trainer, "warm start", started)
    trainer.train()
    shutil.rmtree(folder / "trainer", ignore_errors=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "sft_recipe.json").write_text(cfg.model_dump_json(indent=2))


def _trainer_settings(cfg: SftConfig) -> dict[str, Any]:
    import torch

    train = cfg.train
    return {
        "per_device_train_batch_size": train.batch_size,
        "learning_rate": train.lr,
        "lr_scheduler_type": "cosine",
        "warmup_steps": train.warmup_steps,
        "num_train_epochs": 1,
        "weight_decay": train.weight_decay,
        "max_grad_norm": train.max_grad_norm,
        "adam_beta2": 0.98,
        "seed": train.seed,
        "train_sampling_strategy": "sequential",  # the dataset is in training order
        "max_length": None,
        "use_cpu": not torch.cuda.is_available(),
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
    """Rows of input_ids and labels in training order; the loss falls on solution and end token."""
    from datasets import Dataset

    turns = [
        [{"role": "user", "content": problem}, {"role": "assistant", "content": solution}]
        for problem, solution in pairs
    ]
    prompts, wholes = (
        [str(tokenizer.apply_chat_template(m, tokenize=False, add_generation_prompt=g)) for m in c]
        for c, g in (([turn[:1] for turn in turns], True), (turns, False))
    )
    completions = [whole[len(prompt) :] for prompt, whole in zip(prompts, wholes, strict=True)]
    encoded = (tokenizer(t, add_special_tokens=False)["input_ids"] for t in (prompts, completions))
    rows = [
        {"input_ids": prompt + completion, "labels": [-100] * len(prompt) + completion}
        for prompt, completion in zip(*encoded, strict=True)
    ]
    order = batch_order([len(row["input_ids"]) for row in rows], batch_size, rng)
    return Dataset.from_list([rows[index] for index in order])


def batch_order(lengths: Sequence[int], batch_size: int, rng: random.Random) -> list[int]:
    """Every index once, so that consecutive batches hold like lengths but come in random order.

    Sorting only within chunks of 25 batches keeps the rows of a batch varied. The library's own
    grouping leaves the batches sorted too, from long to short, which trains much worse.
    """
    shuffled = rng.sample(range(len(lengths)), len(lengths))
    batches = []
    for start in range(0, len(shuffled), 25 * batch_size):
        chunk = sorted(shuffled[start : start + 25 * batch_size], key=lengths.__getitem__)
        batches += [chunk[i : i + batch_size] for i in range(0, len(chunk), batch_size)]
    partial = [batch for batch in batches if len(batch) < batch_size]
    batches = [batch for batch in batches if len(batch) == batch_size]
    rng.shuffle(batches)
    return [index for batch in batches + partial for index in batch]


def make_quiet(trainer: Any, name: str, started: float) -> None:
    """Replace the trainer's own output by one line of progress, rewritten on a terminal."""
    from transformers import PrinterCallback

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
