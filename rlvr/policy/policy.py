"""The policy: the language model that is trained, with its adapter, reference and checkpoints."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.optim import Optimizer
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from rlvr.adapters import get_method
from rlvr.adapters.base import Method, Setup
from rlvr.adapters.budget import match_rank
from rlvr.adapters.export import save_as_lora, save_as_peft, saves_as_lora
from rlvr.adapters.merge import as_in_files, merged_weights, reference_on
from rlvr.adapters.methods.full import frozen_copy
from rlvr.adapters.rounding import skip_input_casts
from rlvr.adapters.saved import (
    SavedPolicy,
    check_base,
    check_settings,
    load_peft,
    load_saved,
    read_saved,
    write_saved,
)
from rlvr.adapters.state import adapter_tensors, load_adapter_state
from rlvr.adapters.targets import check_adapted, check_modules, named_after
from rlvr.config.train import AdapterConfig, ModelConfig
from rlvr.distributed.sharded_tensors import (
    Slot,
    copy_into,
    moved,
    temporarily_gathered,
    without_hooks,
)
from rlvr.distributed.strategy import ShardingStrategy
from rlvr.distributed.world import World
from rlvr.policy.attention import use_packing
from rlvr.policy.language_model import (
    LanguageModel,
    compute_type,
    default_device,
    load_base,
    visiting,
)
from rlvr.policy.loading import base_fingerprint, load_whole
from rlvr.policy.loss_scale import LossScale
from rlvr.policy.packing import TokenRow
from rlvr.policy.shared_base import own_trained

T = TypeVar("T")


@dataclass
class Policy(LanguageModel):
    """The trained language model: a method and its settings, a reference, a way to share it.

    adapter: the method's settings, with the seed in force and the rank that adapter.match picked.
    reference: a frozen copy under full fine-tuning with a KL penalty. strategy: how the ranks share
    it. loss_scale: in float16 only. base_weights: a fingerprint of the base's files. held: what was
    trained of an adapter when it became the reference, by name; None where `reference_on` gives it.
    """

    method: Method
    adapter: AdapterConfig
    reference: PreTrainedModel | None = None
    strategy: ShardingStrategy = field(default_factory=lambda: ShardingStrategy(World.alone()))
    loss_scale: LossScale | None = None
    base_weights: str | None = None
    held: dict[str, Tensor] | None = None

    @property
    def saves_scaled_factors(self) -> bool:
        return self.method.save is not None or not saves_as_lora(self.model)

    def _run(self, causal_lm: Any, work: Callable[[], T]) -> T:
        return self.strategy.run(causal_lm, work)

    @property
    def trainable(self) -> list[nn.Parameter]:
        return [p for p in self.model.parameters() if p.requires_grad]

    @contextlib.contextmanager
    def reference_on_device(self) -> Iterator[None]:
        """Keeps the frozen copy, if there is one, on the device; outside it waits in CPU memory."""
        copied = None if self.strategy.shards_weights else self.reference
        with contextlib.nullcontext() if copied is None else visiting(copied, self.device):
            yield

    @torch.no_grad()
    def reference_logprobs(self, rows: Sequence[TokenRow], temperature: float) -> Tensor:
        """[T] log-probabilities by the reference: the pristine base, or what was frozen of the
        start (`reference_on`, or the copy), or of a later policy (`reset_reference`)."""
        if self.held is not None:
            with self._held_in_place(self.held):
                return self.logprobs(rows, temperature)[0]
        if isinstance(self.model, PeftModel):
            with reference_on(self.model):
                return self._logprobs(self.causal_lm, rows, temperature)[0]
        assert self.reference is not None, "full fine-tuning with KL keeps a frozen copy"
        return self._logprobs(self.reference, rows, temperature)[0]

    @contextlib.contextmanager
    def _held_in_place(self, held: dict[str, Tensor]) -> Iterator[None]:
        """Inside the block the trained tensors are the reference's."""
        live = {name: p for name, p in self.model.named_parameters() if name in held}
        trained = {name: p.data for name, p in live.items()}
        for name, p in live.items():
            # by data: the optimizer knows these parameters, not others
            p.data = held[name]
        try:
            yield
        finally:
            for name, p in live.items():
                p.data = trained[name]

    @torch.no_grad()
    def reset_reference(self) -> None:
        """Makes the policy as it is now the reference policy."""
        if self.reference is not None:
            source = dict(self.model.named_parameters())
            for name, value in self.reference.named_parameters():
                value.copy_(source[name])
        else:
            trained = ((n, p) for n, p in self.model.named_parameters() if p.requires_grad)
            self.held = {name: p.detach().clone() for name, p in trained}

    def engine_weights(self) -> Iterator[tuple[str, Tensor]]:
        """(name, tensor) of every weight that training changes, as the engine must hold it."""
        return as_in_files(self.model, merged_weights(self.model))

    def set_checkpointing(self, every: int) -> None:
        """Recomputes the activations of every n-th layer in the backward pass; 0: of none."""
        if not every:
            self.model.eval()
            return
        # reentrant ones give no gradient where a layer's inputs need none: behind frozen embeddings
        self.causal_lm.gradient_checkpointing_enable({"use_reentrant": False})
        self.model.train()  # transformers checkpoints in training mode only; dropout is 0
        for i, layer in enumerate(self._layers()):
            layer.gradient_checkpointing = i % every == 0

    def compile_layers(self) -> None:
        """Compiles the decoder layers one by one, for any number of tokens; not attention."""
        for layer in self._layers():
            layer.compile(dynamic=True)

    def _layers(self) -> list[Any]:
        return [m for m in self.causal_lm.modules() if isinstance(m, GradientCheckpointingLayer)]

    def save(self, folder: Path) -> None:
        """A peft adapter folder, or a transformers model folder, with the tokenizer and what a run
        goes on from beside."""
        self.save_adapter(folder)
        with self.gathered():
            dtype = str(self.dtype).removeprefix("torch.")
            saved = SavedPolicy(self.adapter, self.path, self.base_weights, dtype)
            write_saved(self.model, folder, saved)
        self.tokenizer.save_pretrained(folder)

    def saved_tensors(self) -> list[Tensor]:
        """What `save` writes: an adapter's own tensors, or every parameter."""
        if isinstance(self.model, PeftModel):
            return list(adapter_tensors(self.model).values())
        return list(self.model.parameters())

    @contextlib.contextmanager
    def gathered(
        self, optimizer: Optimizer | None = None, only_main: bool = False
    ) -> Iterator[None]:
        """Inside the block, what `save` writes is full, in CPU memory; so is optimizer state.

        An adapter's frozen base stays sharded. only_main: full on rank 0, the others only help.
        """
        strategy = self.strategy
        with contextlib.ExitStack() as stack:
            keep = strategy.keeps(only_main)
            stack.enter_context(temporarily_gathered(self._saved_slots(), keep))
            if strategy.shards_weights:
                stack.enter_context(without_hooks(self.model))
            if optimizer is not None:
                stack.enter_context(strategy.gathered_state(optimizer, only_main))
            yield

    def _saved_slots(self) -> Iterator[Slot]:
        wanted = {id(value) for value in self.saved_tensors()}
        for module in self.model.modules():
            for name, parameter in module._parameters.items():
                if id(parameter) in wanted:
                    yield module._parameters, name

    def save_adapter(self, folder: Path) -> None:
        """What `save` writes, without the tokenizer."""
        model: Any = self.model
        with self.gathered():
            if self.method.save:
                self.method.save(model, folder, self.adapter)
            elif isinstance(model, PeftModel):
                save_as_peft(model, folder)
            else:
                model.save_pretrained(folder)

    def save_for_engine(self, folder: Path) -> None:
        """The adapter as a LoRA folder, which vLLM serves, where `save_adapter` writes another."""
        if saves_as_lora(self.model):
            self.save_adapter(folder)
        else:
            with self.gathered():
                save_as_lora(self.model, folder)

    def training_state(self) -> dict[str, Any]:
        """What a checkpoint needs to continue, besides the folder that `save` writes."""
        schedule = self.method.schedule
        return {
            "schedule": schedule.state(self.model) if schedule else None,
            "loss_scale": self.loss_scale.state() if self.loss_scale else None,
        }

    def load_training_state(self, folder: Path, state: dict[str, Any]) -> None:
        """Puts back what `save` and `training_state` gave, bit for bit."""
        if state.get("adapter") is not None:  # of a checkpoint from before it was a file
            load_adapter_state(self.model, state["adapter"])
        else:
            self._load_weights(folder)
        self.strategy.loaded()
        if self.method.schedule:
            schedule = moved(state["schedule"], self.device)
            self.method.schedule.load_state(self.model, schedule)
        if self.loss_scale and state.get("loss_scale"):  # older checkpoints have none
            self.loss_scale.load_state(state["loss_scale"])

    def _load_weights(self, folder: Path) -> None:
        """The weights that `save` wrote. Raises: ConfigError where they are not this policy's."""
        if isinstance(self.model, PeftModel):
            load_saved(self.model, folder)
            return
        read = AutoModelForCausalLM.from_pretrained
        # float32 holds every number of the 16-bit types
        saved = load_whole(read, str(folder), dtype=torch.float32, use_safetensors=True)
        live = dict(self.model.named_parameters())
        for name, value in saved.named_parameters():
            copy_into(live[name], value.detach())

    def continue_from(self, folder: Path) -> None:
        """Takes the weights of a folder that `save` wrote, or of one of peft's, bit for bit.

        Raises: ConfigError for another method, other settings or another base.
        """
        saved = read_saved(folder)
        if saved is None:
            load_peft(self.model, folder, self.adapter)
            return
        check_settings(saved, self.adapter)
        check_base(saved, folder, self.path, self.base_weights)
        self._load_weights(folder)


def load_policy(
    model_config: ModelConfig,
    adapter: AdapterConfig,
    path: str,
    seed: int,
    keep_reference: bool,
    num_updates: int = 1000,
    encode_rows: Callable[[Any], list[list[int]]] | None = None,
    device: torch.device | None = None,
    world: World = World.alone(),
) -> Policy:
    """The policy at step 0. `path` is a folder or hub id.

    num_updates: optimizer steps of the run. encode_rows(tokenizer): token ids of training problems,
    called where the method's initialisation looks at data. device: None takes a GPU, if there
    is one. world: the ranks that train it.
    Raises: ConfigError for a model that cannot be found or read, modules that it does not have, or
    an adapter.start_from that is not of this method, these settings and this base.
    """
    method = get_method(adapter)
    device, dtype = device or default_device(), compute_type(model_config)
    base, tokenizer = load_base(model_config, path, device)
    wanted: set[str] = set()
    if "target_modules" in method.options:
        check_modules(base, adapter.target_modules)
        wanted = named_after(base, adapter.target_modules)
    # before the copy, which has to compute as the policy does
    use_packing(base)
    reference = None
    if keep_reference and not method.keeps_base:
        # before the method is applied, which may train the base itself
        reference = frozen_copy(base)
    adapter = match_rank(method, adapter, base.config)
    start = Path(adapter.start_from) if adapter.start_from else None
    if adapter.seed is None:
        # what a saved adapter's seed drew may be no tensor: FourierFT's choice of frequencies
        kept = read_saved(start) if start else None
        adapter = adapter.model_copy(update={"seed": kept.config.seed if kept else seed})
    # what data would initialise, a saved adapter overwrites
    rows = encode_rows(tokenizer) if method.needs_rows and encode_rows and not start else None
    setup = Setup(adapter, adapter.seed or 0, num_updates, rows, overwritten=start is not None)
    model = method.apply(base, setup).eval()
    check_adapted(model, wanted)
    # after the method, which decides what is trained
    own_trained(model)
    if dtype != torch.float32:
        skip_input_casts(model)
    scale = LossScale() if dtype == torch.float16 else None
    strategy = ShardingStrategy(world)
    weights = base_fingerprint(path, model_config.revision)
    policy = Policy(
        model, tokenizer, dtype, device, path, method, adapter, reference, strategy, scale, weights
    )
    if start is not None:
        policy.continue_from(start)
        if keep_reference:
            # the reference is the start, not the base behind it
            policy.reset_reference()
    policy.check_logits()
    return policy
