"""The policy: a transformers model with its adapter, and its log-probabilities of sequences."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.optim import Optimizer
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from rlvr.adapters import get_method
from rlvr.adapters.base import Method, Setup
from rlvr.adapters.budget import match_rank
from rlvr.adapters.merge import merged_weights, reference_on
from rlvr.adapters.methods.full import frozen_copy
from rlvr.adapters.methods.prompt import prompt_cache
from rlvr.adapters.state import adapter_state, adapter_tensors, load_adapter_state
from rlvr.adapters.targets import check_adapted, check_modules, named_after
from rlvr.common.errors import ConfigError
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
from rlvr.policy.attention import bucketed, cap_attention, packed_hidden, packs, take, use_packing
from rlvr.policy.loading import check_len, load_whole
from rlvr.policy.logits import check_logits, transform_of
from rlvr.policy.logprob_head import token_logprobs
from rlvr.policy.loss_scale import LossScale
from rlvr.policy.packing import TokenRow, buckets, lines, pack, to_device


@dataclass
class Policy:
    """The trained model. `reference` is a frozen copy under full fine-tuning with a KL penalty.

    adapter: its settings, with the seed in force and the rank that adapter.match picked.
    strategy: how the ranks share it. loss_scale: in float16 only.
    logits_check: the trainer's log-probabilities held to the model's own, when it was loaded.
    """

    model: nn.Module
    tokenizer: Any
    method: Method
    adapter: AdapterConfig
    dtype: torch.dtype
    device: torch.device
    path: str
    reference: PreTrainedModel | None = None
    strategy: ShardingStrategy = field(default_factory=lambda: ShardingStrategy(World.alone()))
    logits_check: dict[str, float | None] = field(default_factory=dict)
    loss_scale: LossScale | None = None

    @property
    def causal_lm(self) -> Any:
        """The transformers model inside, adapters in place."""
        return self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model

    @property
    def trainable(self) -> list[nn.Parameter]:
        return [p for p in self.model.parameters() if p.requires_grad]

    def logprobs(
        self, rows: Sequence[TokenRow], temperature: float, entropy_grad: bool = False
    ) -> tuple[Tensor, Tensor]:
        """([T] log-probabilities, [T] entropies) of the rows' response tokens, one row after
        another. entropy_grad: entropies carry a gradient too."""
        prefix = self.prefix(len(rows))
        return self._logprobs(self.causal_lm, rows, temperature, entropy_grad, prefix)

    @contextlib.contextmanager
    def reference_at_hand(self) -> Iterator[None]:
        """Keeps the frozen copy, if there is one, on the device; outside it waits in CPU memory."""
        copied = None if self.strategy.shards_weights else self.reference
        if copied is not None:
            nn.Module.to(copied, self.device)
        yield
        if copied is not None:
            nn.Module.to(copied, "cpu")

    def decode(self, token_ids: Sequence[int]) -> str:
        """Response tokens to text, without special tokens."""
        return self.tokenizer.decode(token_ids, skip_special_tokens=True)

    def prefix(self, num_rows: int) -> Any | None:
        """A key-value cache of trained positions before every row; None for most methods."""
        with self.autocast():
            return prompt_cache(self.model, num_rows)

    @torch.no_grad()
    def reference_logprobs(self, rows: Sequence[TokenRow], temperature: float) -> Tensor:
        """[T] log-probabilities by the reference: the pristine base, or what was frozen of the
        start (`reference_on`, or the copy)."""
        if isinstance(self.model, PeftModel):
            with reference_on(self.model):
                return self._logprobs(self.causal_lm, rows, temperature)[0]
        assert self.reference is not None, "full fine-tuning with KL keeps a frozen copy"
        return self._logprobs(self.reference, rows, temperature)[0]

    def _logprobs(
        self,
        causal_lm: Any,
        rows: Sequence[TokenRow],
        temperature: float,
        entropy_grad: bool = False,
        prefix: Any | None = None,
    ) -> tuple[Tensor, Tensor]:
        def work() -> tuple[Tensor, Tensor]:
            with self.autocast():  # inside: DeepSpeed turns it off around a pass
                if prefix is None and packs(causal_lm):
                    packing = pack(rows, self.device, bucketed(self.device, self.dtype))
                    hidden_TH, targets_T = packed_hidden(causal_lm, packing), packing.targets_T
                else:
                    hidden_TH, targets_T = _padded_hidden(causal_lm, rows, prefix, self.device)
                return token_logprobs(
                    hidden_TH,
                    causal_lm.get_output_embeddings(),
                    targets_T,
                    temperature,
                    causal_lm.config.get_text_config().vocab_size,
                    entropy_grad,
                    transform=transform_of(causal_lm),
                )

        return self.strategy.run(causal_lm, work)

    def micro_batches(self, rows: Sequence[TokenRow], max_tokens: int) -> list[list[int]]:
        """Indices of rows for forward passes of at most `max_tokens` tokens, or one row."""
        if self.packs_rows:
            return lines(rows, max_tokens)
        return buckets([len(row) for row in rows], max_tokens)

    def num_positions(self, rows: Sequence[TokenRow]) -> int:
        """Positions that attention runs over for the rows of one forward pass, with padding."""
        lengths = [len(row) - 1 for row in rows]
        if not self.packs_rows:
            return len(lengths) * max(lengths)
        if not bucketed(self.device, self.dtype):
            return sum(lengths)
        return sum(len(part) * lengths[part[0]] for part in buckets(lengths))

    @property
    def packs_rows(self) -> bool:
        """Whether rows go through the layers end to end; else they are padded and bucketed."""
        prompts = isinstance(self.model, PeftModel) and self.model.active_peft_config
        return packs(self.causal_lm) and not (prompts and prompts.is_prompt_learning)

    def check_logits(self) -> None:
        """Holds the fast head to the model's own logits. Raises: ConfigError where they differ."""
        with self.autocast():
            self.logits_check = check_logits(self.causal_lm, self.tokenizer, self.dtype)

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Computation in the compute type: some adapters keep float32 beside a bfloat16 base."""
        if self.dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    def engine_weights(self) -> Iterator[tuple[str, Tensor]]:
        """(name, tensor) of every weight that training changes, as the engine must hold it."""
        return merged_weights(self.model)

    def set_checkpointing(self, every: int) -> None:
        """Recomputes the activations of every n-th layer in the backward pass; 0: of none."""
        if not every:
            self.model.eval()
            return
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
        """A peft adapter folder, or a transformers model folder, with the tokenizer beside."""
        self.save_adapter(folder)
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
            else:
                model.save_pretrained(folder)

    def training_state(self) -> dict[str, Any]:
        """What a checkpoint needs to continue, besides the folder that `save` writes."""
        schedule = self.method.schedule
        return {
            "adapter": adapter_state(self.model) if isinstance(self.model, PeftModel) else None,
            "schedule": schedule.state(self.model) if schedule else None,
            "loss_scale": self.loss_scale.state() if self.loss_scale else None,
        }

    def load_training_state(self, folder: Path, state: dict[str, Any]) -> None:
        """Puts back what `save` and `training_state` gave, bit for bit."""
        if state["adapter"] is not None:
            load_adapter_state(self.model, state["adapter"])
        else:
            read = AutoModelForCausalLM.from_pretrained
            saved = load_whole(read, str(folder), dtype=torch.float32, use_safetensors=True)
            live = dict(self.model.named_parameters())
            for name, value in saved.named_parameters():
                copy_into(live[name], value.detach())
        self.strategy.loaded()
        if self.method.schedule:
            schedule = moved(state["schedule"], self.device)
            self.method.schedule.load_state(self.model, schedule)
        if self.loss_scale and state.get("loss_scale"):  # older checkpoints have none
            self.loss_scale.load_state(state["loss_scale"])


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
    Raises: ConfigError for a model that cannot be found or read, or modules that it does not have.
    """
    method = get_method(adapter)
    if device is None:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = getattr(torch, model_config.dtype)
    base, tokenizer = load_base(model_config, path, dtype)
    wanted: set[str] = set()
    if "target_modules" in method.options:
        check_modules(base, adapter.target_modules)
        wanted = named_after(base, adapter.target_modules)
    base.to(device)
    use_packing(base)
    reference = None
    if keep_reference and not method.keeps_base:
        reference = frozen_copy(base)
    adapter = match_rank(method, adapter, base.config)
    rows = encode_rows(tokenizer) if method.needs_rows and encode_rows else None
    adapter = adapter.model_copy(update={"seed": seed if adapter.seed is None else adapter.seed})
    model = method.apply(base, Setup(adapter, adapter.seed or 0, num_updates, rows)).eval()
    check_adapted(model, wanted)
    scale = LossScale() if dtype == torch.float16 else None
    policy = Policy(
        model,
        tokenizer,
        method,
        adapter,
        dtype,
        device,
        path,
        reference,
        ShardingStrategy(world),
        loss_scale=scale,
    )
    policy.check_logits()
    return policy


def _padded_hidden(
    causal_lm: Any, rows: Sequence[TokenRow], prefix: Any | None, device: torch.device
) -> tuple[Tensor, Tensor]:
    """([T, H] hidden states that predict the response tokens, [T] those tokens), rows padded."""
    longest = max(len(row) for row in rows) - 1
    ids_NL = torch.zeros(len(rows), longest, dtype=torch.long)
    mask_NL = torch.zeros(len(rows), longest, dtype=torch.long)
    predicts = []
    for i, row in enumerate(rows):
        last = len(row) - 1
        ids_NL[i, :last] = torch.tensor(row.prompt_ids + row.response_ids[:-1])
        mask_NL[i, :last] = 1
        predicts.append(torch.arange(len(row.prompt_ids) - 1, last) + i * longest)
    if prefix is not None:
        trained_NV = torch.ones(len(rows), prefix.get_seq_length(), dtype=torch.long)
        mask_NL = torch.cat([trained_NV, mask_NL], dim=1)
    targets_T = torch.tensor([token for row in rows for token in row.response_ids])
    hidden_NLH = causal_lm.base_model(
        input_ids=to_device(ids_NL, device),
        attention_mask=to_device(mask_NL, device),
        past_key_values=prefix,
        use_cache=False,
    ).last_hidden_state
    hidden_TH = take(hidden_NLH.flatten(0, 1), to_device(torch.cat(predicts), device))
    return hidden_TH, to_device(targets_T, device)


def load_base(model_config: ModelConfig, path: str, dtype: torch.dtype) -> tuple[Any, Any]:
    """(model, tokenizer) from a folder or the hub, safetensors only. Raises: ConfigError."""
    tokenizer = load_tokenizer(model_config, path)
    read = partial(load_whole, AutoModelForCausalLM.from_pretrained)
    model = _load(read, model_config, path, dtype=dtype, use_safetensors=True)
    check_len(model.config, model_config.max_len, path)
    cap_attention(model)
    return model, tokenizer


def load_tokenizer(model_config: ModelConfig, path: str) -> Any:
    """The tokenizer of a folder or of the hub. Raises: ConfigError."""
    return _load(AutoTokenizer.from_pretrained, model_config, path)


def _load(read: Callable[..., Any], model_config: ModelConfig, path: str, **options: Any) -> Any:
    try:
        return read(
            path,
            revision=model_config.revision,
            trust_remote_code=model_config.trust_remote_code,
            **options,
        )
    except ConfigError:
        raise
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0][:200]
        raise ConfigError(
            f"model.path = {path!r}: no model can be loaded from there ({reason}); give a"
            " transformers folder with safetensors, or a hub id that this machine can reach"
        ) from error
