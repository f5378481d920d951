"""The supervised warm start: a tiny policy on worked solutions, as a cached transformers folder."""

import hashlib
import json
import os
import random
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlvr.config import SftConfig
from rlvr.word_problems import Mistakes, generate, worked_solution

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import Qwen2Tokenizer, TrainerCallback

FORMAT = 1  # raised when the same recipe would give another result
_NUM_TOKENIZER_TEXTS = 6000


def cache_dir() -> Path:
    """Where results are kept: RLVR_CACHE, else `.cache/rlvr` in the project's root."""
    root = os.environ.get("RLVR_CACHE")
    return Path(root) if root else Path(__file__).resolve().parents[1] / ".cache" / "rlvr"


def sft_path(cfg: SftConfig) -> Path:
    """The folder that holds, or will hold, the result of this recipe: any change gives another."""
    text = json.dumps({"format": FORMAT, "recipe": cfg.model_dump(mode="json")}, sort_keys=True)
    key = hashlib.sha256(text.encode()).hexdigest()[:12]
    return cache_dir() / "sft" / f"{cfg.run.name}-{key}"


def run_sft(cfg: SftConfig) -> Path:
    """Train the recipe's policy, or find it in the cache; returns its transformers folder.

    The folder appears whole or not at all. A cached result is returned without loading torch.
    """
    path = sft_path(cfg)
    if path.is_dir():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        _train(cfg, building)
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


def _train(cfg: SftConfig, folder: Path) -> None:
    """Write the trained model, its tokenizer and the recipe into `folder`."""
    import torch
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    from rlvr.tiny import build_model, build_tokenizer

    started = time.monotonic()
    pairs = solved_problems(cfg)
    model_cfg, train = cfg.model, cfg.train
    texts = (text for pair in pairs[: _NUM_TOKENIZER_TEXTS // 2] for text in pair)
    tokenizer = build_tokenizer(texts, model_cfg.vocab_size, model_cfg.context_len)
    model = build_model(tokenizer, seed=train.seed, **model_cfg.model_dump(exclude={"vocab_size"}))
    torch.set_num_threads(train.num_threads or len(os.sched_getaffinity(0)))
    trainer = SFTTrainer(
        model,
        args=SFTConfig(output_dir=str(folder / "trainer"), **_trainer_settings(cfg)),
        train_dataset=_tokenize(pairs, tokenizer),
        processing_class=tokenizer,
    )
    _make_quiet(trainer, started)
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
        "num_train_epochs": train.epochs,
        "weight_decay": train.weight_decay,
        "max_grad_norm": train.max_grad_norm,
        "adam_beta2": 0.98,
        "seed": train.seed,
        "train_sampling_strategy": "group_by_length",
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


def _tokenize(pairs: list[tuple[str, str]], tokenizer: "Qwen2Tokenizer") -> "Dataset":
    """Rows of input_ids, labels and length; the loss falls on the solution and the end token."""
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
    rows = {"input_ids": [], "labels": [], "length": []}
    encoded = (
        tokenizer(texts, add_special_tokens=False)["input_ids"] for texts in (prompts, completions)
    )
    for prompt, completion in zip(*encoded, strict=True):
        rows["input_ids"].append(prompt + completion)
        rows["labels"].append([-100] * len(prompt) + completion)
        rows["length"].append(len(prompt) + len(completion))
    return Dataset.from_dict(rows)


def _make_quiet(trainer: Any, started: float) -> None:
    """Replace the trainer's own output by one line of progress, rewritten on a terminal."""
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(_progress(started))


def _progress(started: float) -> "TrainerCallback":
    from rich.console import Console
    from transformers import TrainerCallback

    console = Console(stderr=True)

    class Progress(TrainerCallback):
        """Step, loss and seconds so far."""

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if logs and "loss" in logs:
                done = f"warm start: step {state.global_step}/{state.max_steps}"
                line = f"{done}, loss {float(logs['loss']):.3f}, {time.monotonic() - started:.0f} s"
                last = state.global_step + args.logging_steps > state.max_steps
                console.print(line, end="\n" if last or not console.is_terminal else "\r")

    return Progress()
