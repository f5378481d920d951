"""A language model that scores tokens: log-probabilities and entropies of given sequences."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlvr.adapters.load import load_adapted
from rlvr.adapters.methods.prompt import prompt_cache
from rlvr.common.errors import ConfigError, first_line
from rlvr.config.train import ModelConfig
from rlvr.policy.attention import bucketed, cap_attention, packed_hidden, packs, take
from rlvr.policy.loading import check_len, load_whole, refuse_gguf
from rlvr.policy.logits import check_logits, transform_of
from rlvr.policy.logprob_head import token_logprobs
from rlvr.policy.packing import TokenRow, buckets, lines, pack, to_device
from rlvr.policy.shared_base import shared

T = TypeVar("T")

CPU = torch.device("cpu")


@dataclass
class LanguageModel:
    """A transformers model, adapters in place, with what it takes to score token sequences.

    model: plain or peft's. dtype: of the computation. path: the base's folder or hub id.
    logits_check: what `check_logits` measured.
    """

    model: nn.Module
    tokenizer: Any
    dtype: torch.dtype
    device: torch.device
    path: str
    logits_check: dict[str, float | None] = field(default_factory=dict, kw_only=True)

    @property
    def causal_lm(self) -> Any:
        """The transformers model inside, adapters in place."""
        return self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model

    @property
    def saves_scaled_factors(self) -> bool:
        """Whether a saved adapter folder has its scaling multiplied into the low-rank factors."""
        return False

    def decode(self, token_ids: Sequence[int]) -> str:
        """Response tokens to text, without special tokens."""
        return self.tokenizer.decode(token_ids, skip_special_tokens=True)

    def logprobs(
        self, rows: Sequence[TokenRow], temperature: float, entropy_grad: bool = False
    ) -> tuple[Tensor, Tensor]:
        """([T] log-probabilities, [T] entropies) of the rows' response tokens, one row after
        another. entropy_grad: entropies carry a gradient too."""
        prefix = self.prefix(len(rows))
        return self._logprobs(self.causal_lm, rows, temperature, entropy_grad, prefix)

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
                    # models that also read images keep it in the text part's configuration
                    causal_lm.config.get_text_config().vocab_size,
                    entropy_grad,
                    transform=transform_of(causal_lm),
                )

        return self._run(causal_lm, work)

    def _run(self, causal_lm: Any, work: Callable[[], T]) -> T:
        """work(), a forward pass of `causal_lm`."""
        return work()

    def prefix(self, num_rows: int) -> Any | None:
        """A key-value cache of trained positions before every row; None for most methods."""
        with self.autocast():
            return prompt_cache(self.model, num_rows)

    def micro_batches(self, rows: Sequence[TokenRow], max_tokens: int) -> list[list[int]]:
        """Indices of rows for forward passes of at most `max_tokens` tokens, or one row."""
        if self.packs_rows:
            return lines(rows, max_tokens)
        return buckets([len(row) for row in rows], max_tokens)

    def num_positions(self, rows: Sequence[TokenRow]) -> int:
        """Positions that attention runs over for the rows of one forward pass, with padding."""
        # a row's last token predicts nothing, and is not read
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


def _padded_hidden(
    causal_lm: Any, rows: Sequence[TokenRow], prefix: Any | None, device: torch.device
) -> tuple[Tensor, Tensor]:
    """([T, H] hidden states that predict the response tokens, [T] those tokens), rows padded."""
    # a row's last token predicts nothing
    longest = max(len(row) for row in rows) - 1
    ids_NL = torch.zeros(len(rows), longest, dtype=torch.long)
    mask_NL = torch.zeros(len(rows), longest, dtype=torch.long)
    predicts = []
    for i, row in enumerate(rows):
        last = len(row) - 1
        # from the left: positions count from 0, and causal attention never reaches the padding
        ids_NL[i, :last] = torch.tensor(row.prompt_ids + row.response_ids[:-1])
        mask_NL[i, :last] = 1
        # the state at a position predicts the token after it
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


@contextlib.contextmanager
def visiting(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Keeps the model on the device for the block; outside it waits in CPU memory."""
    nn.Module.to(model, device)
    try:
        yield
    finally:
        nn.Module.to(model, "cpu")


def load_frozen(
    config: ModelConfig,
    path: str,
    adapter: Path | None = None,
    device: torch.device | None = None,
) -> LanguageModel:
    """The model of a folder or hub id, with the adapter of a folder; none of it trains.

    device: None takes a GPU, if there is one. Raises: ConfigError.
    """
    device = device or default_device()
    model, tokenizer = load_base(config, path, device)
    model = model.eval() if adapter is None else load_adapted(model, adapter)
    model.requires_grad_(False)
    loaded = LanguageModel(model, tokenizer, compute_type(config), device, path)
    loaded.check_logits()
    return loaded


def default_device() -> torch.device:
    """The GPU, if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def compute_type(config: ModelConfig) -> torch.dtype:
    """torch's type of model.dtype."""
    return getattr(torch, config.dtype)


LOADS_TO = frozenset({"cpu", "cuda"})
"""Types of devices that transformers reads weights to without a copy in CPU memory first."""


def load_base(model_config: ModelConfig, path: str, device: torch.device = CPU) -> tuple[Any, Any]:
    """(model on the device, tokenizer) from a folder or the hub, safetensors only.

    Weights go to a GPU one by one: none of a machine's ranks holds the model in CPU memory. Raises:
    ConfigError.
    """
    tokenizer = load_tokenizer(model_config, path)
    read = partial(load_whole, AutoModelForCausalLM.from_pretrained)
    dtype = compute_type(model_config)
    first = device if device.type in LOADS_TO else CPU
    # never from a pickle, which can run code
    model = shared(
        (path, model_config.model_dump_json(), str(device)),
        lambda: _load(
            read, model_config, path, dtype=dtype, use_safetensors=True, device_map={"": first}
        ).to(device),
    )
    check_len(model.config, model_config.max_len, path)
    cap_attention(model)
    return model, tokenizer


def load_tokenizer(model_config: ModelConfig, path: str) -> Any:
    """The tokenizer of a folder or of the hub. Raises: ConfigError."""
    return _load(AutoTokenizer.from_pretrained, model_config, path)


def _load(read: Callable[..., Any], model_config: ModelConfig, path: str, **options: Any) -> Any:
    refuse_gguf(path)
    try:
        return read(
            path,
            revision=model_config.revision,
            trust_remote_code=model_config.trust_remote_code,
            **options,
        )
    except ConfigError:  # it is a ValueError, too
        raise
    except (OSError, ValueError) as error:
        reason = first_line(error)
        raise ConfigError(
            f"model.path = {path!r}: no model can be loaded from there ({reason}); give a"
            " transformers folder with safetensors, or a hub id that this machine can reach"
        ) from error
