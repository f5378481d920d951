"""What holds for a family, by real runs of a tiny random model of it, and the table of that.

`python -m tests.rlvr.family_runs` prints the table of docs/models.md, minutes of runs; with names
of cases, their rows.
"""

from __future__ import annotations

import logging
import sys
import tempfile
from collections.abc import Iterator, Sequence
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
from tests.rlvr.families import ALWAYS_TIED, FAMILIES, true_logprobs, write_family

PROMPTS = [[7 * i % 90 + 8 for i in range(n)] for n in (5, 9, 12, 7)]
PAIRS = [(ids[:1], ids[1:]) for ids in PROMPTS]
QUIET = Console(quiet=True)
METHODS = ("lora", "dora", "full")
CLOSE: Any = {"atol": 1e-3, "rtol": 0}
"""Nats, between vLLM and transformers in float32."""

TABLE = {
    "llama": "Llama: untied, biases",
    "llama_tied": "Llama 3.2, SmolLM2: tied, scaled positions",
    "qwen2": "Qwen 2, Qwen 2.5: untied, YaRN",
    "qwen2_tied": "Qwen 2.5 up to 3B: tied",
    "qwen3": "Qwen 3: untied",
    "qwen3_tied": "Qwen 3 up to 4B: tied",
    "gemma2": "Gemma 2: tied, soft caps, windows",
    "gemma3": "Gemma 3 (text): tied, windows",
    "mistral": "Mistral: no window",
    "mistral_window": "Mistral 0.1: window",
    "phi3": "Phi-3, Phi-4: fused q/k/v and gate/up",
    "olmo2": "OLMo 2",
    "smollm3": "SmolLM3: tied, layers without positions",
    "falcon": "Falcon: tied, parallel attention",
    "gpt_neox": "GPT-NeoX, Pythia: untied, biases",
    "qwen2_moe": "Qwen 2 MoE: adapters on attention",
    "qwen3_moe": "Qwen 3 MoE: adapters on attention",
}
"""The families of docs/models.md, by their names in `families`."""
HEAD = "| case | family | packed rows | vLLM's class | LoRA | DoRA | full |\n" + "|---" * 7 + "|"


@dataclass(frozen=True)
class Held:
    """packing: whether rows go through the layers end to end. engine: vLLM's class of the model.
    syncs: by method, the ways of its weights to vLLM; without a method that it is refused for."""

    packing: bool
    engine: str
    syncs: dict[str, list[str]]

    def row(self, family: str) -> str:
        """The family's line in the table."""
        ways = [", ".join(self.syncs.get(method, ["transformers engine"])) for method in METHODS]
        packed = "yes" if self.packing else "no"
        cells = (f"`{family}`", TABLE[family], packed, f"`{self.engine}`", *ways)
        return f"| {' | '.join(cells)} |"


class Kept(WarmEngine):
    """One engine for all runs of a family, whose probabilities of PROMPTS are asked in the end."""

    def scores(self) -> torch.Tensor:
        assert self._engine is not None
        return torch.tensor([p for part in self._engine.score(PROMPTS) for p in part])

    @property
    def class_name(self) -> str:
        """Of the model in vLLM."""
        engine: Any = self._engine
        return engine._llm.llm_engine.collective_rpc(_class_name)[0]


def _class_name(worker: Any) -> str:
    return type(worker.model_runner.get_model()).__name__


@contextmanager
def _warnings() -> Iterator[list[str]]:
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


def recipe_of(
    model: Path, data: Path, folder: Path, method: str, targets: Sequence[str], **rollout: Any
) -> TrainRecipe:
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


def through(recipe: TrainRecipe, engine: Kept) -> None:
    """A run that goes through: its weights arrive and can be read back, its checkpoint has what the
    engine served last, and stopped and resumed it is the same."""
    with _warnings() as warnings:
        run = train(named(recipe, recipe.adapter.method), Path("x.toml"), QUIET, engine)
    assert not [line for line in warnings if "be read back" in line]
    served = engine.scores()
    last = reloaded(recipe, run / "checkpoints" / "step_2")
    torch.testing.assert_close(true_logprobs(last, PAIRS), served, **CLOSE)
    base = true_logprobs(_plain(recipe.model.path), PAIRS)
    assert (base - served).abs().max() > 0.01, "the run moved nothing"
    stopped = named(recipe, f"{recipe.adapter.method}-stopped")
    again = train(stopped, Path("x.toml"), QUIET, engine, lambda *_: True)
    assert len(small.read_lines(again)) == 1
    resume(again, QUIET, engine)
    assert small.steady_metrics(again) == small.steady_metrics(run)


def reloaded(recipe: TrainRecipe, checkpoint: Path) -> Any:
    """The checkpoint as peft or transformers alone load it."""
    if recipe.adapter.method == "full":
        return _plain(checkpoint)
    return PeftModel.from_pretrained(_plain(recipe.model.path), str(checkpoint))


def _plain(folder: Any) -> Any:
    # only this attention has every family's soft cap
    return AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")


def vllm_serves(recipe: TrainRecipe, checkpoint: Path) -> bool:
    """Whether a vLLM of its own takes the checkpoint's folder; what it then serves is compared."""
    is_full = recipe.adapter.method == "full"
    path = str(checkpoint) if is_full else str(recipe.model.path)
    try:
        if not is_full:
            policy = load_policy(recipe.model, recipe.adapter, path, 0, keep_reference=False)
            refuse_experts(policy, "adapter")
        engine = VllmEngine(recipe.model, recipe.rollout, path, None if is_full else 8)
    except ValueError as error:
        if "does not support LoRA" in str(error) or "mixture of experts" in str(error):
            return False
        raise
    try:
        if not is_full:
            engine.load_adapter(checkpoint)
        found = torch.tensor([p for part in engine.score(PROMPTS) for p in part])
    finally:
        engine.close()
    torch.testing.assert_close(found, true_logprobs(reloaded(recipe, checkpoint), PAIRS), **CLOSE)
    return True


def measure(family: str, folder: Path) -> Held:
    """What holds for the family: every method's run of two steps goes through, is stopped and
    resumed, and its checkpoint is loaded by peft or transformers and by vLLM."""
    model = write_family(family, folder / "model", **_sizes(family))
    data = small.write_problems(folder / "digits.jsonl")
    recipes = {
        method: recipe_of(model, data, folder, method, FAMILIES[family][2], engine="vllm")
        for method in METHODS
    }
    syncs: dict[str, list[str]] = {}
    engine = Kept()
    try:
        for method, recipe in recipes.items():
            try:
                through(recipe, engine)
            except ConfigError as error:
                if "vLLM does not take this model's experts" not in str(error):
                    raise
            else:
                syncs[method] = ["merged"]
        name = engine.class_name
    finally:
        engine.close()
    for method in syncs.keys() & {"lora", "full"}:
        taken = vllm_serves(recipes[method], folder / method / "checkpoints" / "step_2")
        if method == "lora" and taken:
            syncs[method].append("adapter")
        assert taken or method == "lora"
    plain = recipes["lora"]
    policy = load_policy(plain.model, plain.adapter, str(model), 0, keep_reference=False)
    return Held(policy.packs_rows, name, syncs)


def _sizes(family: str) -> dict[str, Any]:
    """With heads of 32 numbers, the fewest that vLLM's attention on a CPU takes."""
    sizes: dict[str, Any] = {"hidden_size": 64}
    if "head_dim" in FAMILIES[family][1]:
        sizes["head_dim"] = 32
    if family in ALWAYS_TIED:
        sizes["tie_word_embeddings"] = True
    return sizes


if __name__ == "__main__":
    print(HEAD)
    for one in sys.argv[1:] or TABLE:
        with tempfile.TemporaryDirectory() as place:
            print(measure(one, Path(place)).row(one), flush=True)
