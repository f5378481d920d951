"""What holds for a family, by real runs of a tiny random model of it: see `measure`."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from rich.console import Console
from transformers import AutoModelForCausalLM

from rlvr.common.errors import ConfigError
from rlvr.compare.execution.warm_engine import WarmEngine
from rlvr.config.toml import validate
from rlvr.config.train import TrainRecipe
from rlvr.engines.vllm_local import VllmEngine
from rlvr.policy.policy import load_policy
from rlvr.training.build import refuse_experts
from rlvr.training.loop import resume, train
from tests.rlvr import small
from tests.rlvr.families import FAMILIES, true_logprobs, write_family

PROMPTS = [[7 * i % 90 + 8 for i in range(n)] for n in (5, 9, 12, 7)]
PAIRS = [(ids[:1], ids[1:]) for ids in PROMPTS]
TOLERANCE = 1e-3
QUIET = Console(quiet=True)
METHODS = ("lora", "dora", "full")
BY_HEADS = {"hidden_size": 64, "head_dim": 32}
"""vLLM's attention on a CPU takes heads of 32 numbers and more."""


@dataclass(frozen=True)
class Held:
    """packing: whether rows go through the layers end to end. engine: what generates. syncs: by
    method, the ways of its weights to vLLM, or why it is refused. unread: modules that vLLM does
    not let be read back after full fine-tuning."""

    packing: bool
    engine: str
    syncs: dict[str, str]
    unread: str


class Kept(WarmEngine):
    """One engine for all runs of a family, whose probabilities of PROMPTS are asked in the end."""

    def scores(self) -> torch.Tensor:
        assert self._engine is not None
        return torch.tensor([p for part in self._engine.score(PROMPTS) for p in part])

    @property
    def backend(self) -> str:
        """The module of vLLM that has the model's class."""
        engine: Any = self._engine
        name = engine._llm.llm_engine.collective_rpc(_class_name)[0]
        return name


def _class_name(worker: Any) -> str:
    return type(worker.model_runner.get_model()).__name__


@contextmanager
def _messages() -> Iterator[list[str]]:
    """The warnings of rlvr in the block."""
    found: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(record.getMessage())

    handler = Keep(logging.WARNING)
    logging.getLogger("rlvr").addHandler(handler)
    try:
        yield found
    finally:
        logging.getLogger("rlvr").removeHandler(handler)


def recipe_of(model: Path, data: Path, folder: Path, method: str, targets: Any, **rollout: Any):
    """A run of two steps whose groups differ in length, so that each moves the weights."""
    adapter: dict[str, Any] = {"method": method}
    if method != "full":
        adapter |= {"rank": 4, "target_modules": list(targets)}
    tree = small.recipe_tree(
        model,
        data,
        run={"dir": str(folder)},
        sampling={"dynamic": False},
        reward={"length_weight": 1.0},
        # one token in a few ends a response: a random model's own end never comes
        rollout={"temperature": 2.0, "max_response_len": 12, "stop_token_ids": list(range(8, 60))}
        | rollout,
        train={"steps": 2},
        optim={"lr": 3e-3},
    )
    tree["adapter"] = adapter
    return validate(tree, TrainRecipe)


def named(recipe: TrainRecipe, name: str) -> TrainRecipe:
    return recipe.model_copy(update={"run": recipe.run.model_copy(update={"name": name})})


def through(recipe: TrainRecipe, engine: Kept) -> tuple[Path, list[str]]:
    """A run that went through, resumed as it would have gone on: its folder and warnings.

    The checkpoint is reloaded by peft or transformers alone, and has what the engine served last.
    """
    with _messages() as warnings:
        run = train(named(recipe, recipe.adapter.method), Path("x.toml"), QUIET, engine)
    served = engine.scores()
    last = run / "checkpoints" / "step_2"
    torch.testing.assert_close(true_logprobs(reloaded(recipe, last), PAIRS), served, **CLOSE)
    base = AutoModelForCausalLM.from_pretrained(recipe.model.path, attn_implementation="eager")
    assert (true_logprobs(base, PAIRS) - served).abs().max() > 0.01, "the run moved nothing"
    name = f"{recipe.adapter.method}-stopped"
    stopped = train(named(recipe, name), Path("x.toml"), QUIET, engine, lambda *_: True)
    assert len(small.read_lines(stopped)) == 1
    resume(stopped, QUIET, engine)
    assert small.steady_metrics(stopped) == small.steady_metrics(run)
    return run, warnings


CLOSE: Any = {"atol": TOLERANCE, "rtol": 0}


def reloaded(recipe: TrainRecipe, checkpoint: Path) -> Any:
    """The checkpoint as peft or transformers alone load it."""
    options = {"attn_implementation": "eager"}  # the only one that has every family's soft cap
    if recipe.adapter.method == "full":
        return AutoModelForCausalLM.from_pretrained(checkpoint, **options)
    base = AutoModelForCausalLM.from_pretrained(recipe.model.path, **options)
    return PeftModel.from_pretrained(base, str(checkpoint))


def served_by_vllm(recipe: TrainRecipe, checkpoint: Path) -> str:
    """The adapter folder or the model folder as vLLM serves it, held to its reload: "" where it
    does, else why not."""
    is_full = recipe.adapter.method == "full"
    if not is_full:
        policy = load_policy(recipe.model, recipe.adapter, str(recipe.model.path), 0, False)
        try:
            refuse_experts(policy, "adapter")
        except ConfigError as error:
            return f"refused: {error}"
    path = str(checkpoint) if is_full else str(recipe.model.path)
    try:
        engine = VllmEngine(recipe.model, recipe.rollout, path, None if is_full else 8)
    except Exception as error:  # vLLM's checks of a model raise anything
        return f"{type(error).__name__}: {error}"
    try:
        if not is_full:
            engine.load_adapter(checkpoint)
        found = torch.tensor([p for part in engine.score(PROMPTS) for p in part])
    finally:
        engine.close()
    torch.testing.assert_close(found, true_logprobs(reloaded(recipe, checkpoint), PAIRS), **CLOSE)
    return ""


def measure(family: str, folder: Path) -> Held:
    """What holds for the family. Every run is of two steps, and once more, stopped and resumed."""
    model = write_family(family, folder / "model", **sizes_of(family))
    data = small.write_problems(folder / "digits.jsonl")
    targets = FAMILIES[family][2]
    syncs, runs, unread = {}, {}, "none"
    engine, name = Kept(), "vllm"
    packing = False
    try:
        for method in METHODS:
            recipe = recipe_of(model, data, folder, method, targets, engine=name)
            try:
                runs[method], warnings = through(recipe, engine)
            except ConfigError as error:
                syncs[method] = f"refused: {error}"
                continue
            syncs[method] = "merged"
            told = [line for line in warnings if "be read back" in line]
            if method == "full" and told:
                unread = told[0]
        backend = engine.backend
    finally:
        engine.close()
    policy = load_policy(
        recipe_of(model, data, folder, "lora", targets).model,
        recipe_of(model, data, folder, "lora", targets).adapter,
        str(model),
        0,
        keep_reference=False,
    )
    packing = policy.packs_rows
    for method in ("lora", "full"):
        if method in runs:
            recipe = recipe_of(model, data, folder, method, targets, engine=name)
            why = served_by_vllm(recipe, runs[method] / "checkpoints" / "step_2")
            if method == "lora" and not why:
                syncs[method] += ", adapter"
            elif why:
                syncs[method] += f" ({why[:300]})"
    return Held(packing, backend, syncs, unread)


def sizes_of(family: str) -> dict[str, Any]:
    sizes = {"hidden_size": 64, "head_dim": 32}
    if family in ("gpt_neox", "falcon", "phi3"):
        sizes = {"hidden_size": 64}
    tied = FAMILIES[family][1].get("tie_word_embeddings", family in ("gemma2", "gemma3"))
    return sizes | {"tie_word_embeddings": tied}


if __name__ == "__main__":
    import sys
    import tempfile
    import traceback

    for one in sys.argv[1:]:
        with tempfile.TemporaryDirectory() as place:
            try:
                print("ROW", one, measure(one, Path(place)), flush=True)
            except Exception:
                print("ROW", one, "FAILED", traceback.format_exc()[-1800:], flush=True)
