"""The engine without vLLM: the trainer's own model, sampled row by row from its own generator."""

from __future__ import annotations

import inspect
import math
from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import DynamicCache
from transformers.generation import logits_process

from rlvr.common.errors import ConfigError
from rlvr.engines.engine import Engine, Request, Response, SamplingParams, Session
from rlvr.engines.inverse_transform import inverse_transform, uniform
from rlvr.engines.stop_tokens import ends_of
from rlvr.engines.weights.arrival import sent_names, sent_weights
from rlvr.engines.weights.fingerprint import Piece, whole_piece
from rlvr.engines.weights.vllm_weights import FACTORS
from rlvr.policy.language_model import LanguageModel
from rlvr.policy.logits import HALF_TOLERANCE, TOLERANCE, transform_of
from rlvr.policy.logprob_head import head_outputs
from rlvr.policy.packing import TokenRow

if TYPE_CHECKING:
    from torch import Tensor

BATCH_ROWS = 64
"""Rows generated at a time."""


def check_cache(model: LanguageModel) -> None:
    """Raises: ConfigError for a model that gives other probabilities token after token, behind the
    padding of a batch, than in one pass: it keeps what it has read elsewhere than in the cache it
    is given, or reads the padding too."""
    if model.packs_rows:  # known to be exact (tested)
        return
    error = math.inf
    if "past_key_values" in inspect.signature(model.causal_lm.forward).parameters:
        error = _cache_error(model)
    if not error <= (TOLERANCE if model.dtype == torch.float32 else HALF_TOLERANCE):
        raise ConfigError(
            f'rollout.engine = "transformers": {type(model.causal_lm).__name__} keeps its state in'
            " a cache of its own kind, with which nothing can be generated here (off by"
            f' {error:.3g} nats); set it to "vllm", or take another model'
        )


def _cache_error(model: LanguageModel) -> float:
    """Largest difference (nats) between drawn tokens' probabilities and those of one pass."""
    encoded = model.tokenizer("What is 1 + 1? It is 2.", add_special_tokens=False)["input_ids"]
    ids = encoded or [0, 1]
    requests = [Request(ids[: max(1, len(ids) // 3)], 0), Request(ids, 1)]
    responses = TransformersEngine(model).generate(requests, SamplingParams(max_len=4))
    rows = [TokenRow(q.prompt_ids, r.token_ids) for q, r in zip(requests, responses, strict=True)]
    with torch.no_grad():
        once_T = model.logprobs(rows, 1.0)[0]
    drawn_T = torch.tensor([p for r in responses for p in r.logprobs], device=once_T.device)
    return float((once_T - drawn_T).abs().max())


class TransformersEngine(Engine):
    """Generates with the policy's own model, so a sync has nothing to move."""

    name = "transformers"

    def __init__(self, model: LanguageModel) -> None:
        self._model = model
        self._ends = ends_of(model.causal_lm.generation_config, model.tokenizer)

    def open(self, sampling: SamplingParams) -> TransformersSession:
        return TransformersSession(self._model, self._ends | set(sampling.stop_token_ids), sampling)

    @torch.no_grad()
    def score(self, sequences: Sequence[list[int]]) -> list[list[float]]:
        # a prompt of one token: all that follow are scored
        rows = [TokenRow(ids[:1], ids[1:]) for ids in sequences]
        logp_T, _ = self._model.logprobs(rows, temperature=1.0)
        lengths = [len(row.response_ids) for row in rows]
        return [part.tolist() for part in logp_T.split(lengths)]

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> int:
        return 0

    def load_adapter(self, folder: Path) -> int:
        return 0

    def read_back(self, names: Sequence[str]) -> dict[str, list[Piece]]:
        """What the policy that generates has: the same tensors, unless it is another policy."""
        factors = any(name.endswith(FACTORS) for name in names)
        mode, wanted = "adapter" if factors else "merged", set(names)
        own = sent_names(self._model, mode, everything=True)
        modules = [module for module, mine in own.items() if wanted.intersection(mine)]
        return {
            name: [whole_piece(value)]
            for name, value in sent_weights(self._model, mode, modules, everything=True)
        }

    def close(self) -> None:
        pass


class TransformersSession(Session):
    """Batches of at most BATCH_ROWS rows in all; rows that join later are a batch of their own."""

    def __init__(self, model: LanguageModel, ends: set[int], sampling: SamplingParams) -> None:
        self._model, self._ends, self._sampling = model, ends, sampling
        self._waiting: deque[list[tuple[int, Request]]] = deque()
        self._batches: list[_Batch] = []
        self._num_asked = 0

    @property
    def num_running(self) -> int:
        return sum(map(len, self._waiting)) + sum(len(one.running) for one in self._batches)

    def add(self, requests: Sequence[Request]) -> None:
        numbered = list(enumerate(requests, self._num_asked))
        self._num_asked += len(requests)
        for first in range(0, len(numbered), BATCH_ROWS):
            self._waiting.append(numbered[first : first + BATCH_ROWS])

    @torch.no_grad()
    def step(self) -> list[tuple[int, Response]]:
        while self._waiting and len(self._waiting[0]) + self._num_decoding <= BATCH_ROWS:
            self._batches.append(_Batch(self._model, self._waiting.popleft(), self._sampling))
        finished = [one for batch in self._batches for one in batch.step(self._ends)]
        self._batches = [batch for batch in self._batches if batch.running]
        return finished

    @property
    def _num_decoding(self) -> int:
        return sum(len(batch.running) for batch in self._batches)

    def pause(self) -> tuple[list[tuple[int, Response]], list[tuple[int, Response]]]:
        begun = [one for batch in self._batches for one in batch.so_far()]
        idle = [(number, Response([], [], False)) for part in self._waiting for number, _ in part]
        self.close()
        return [], begun + idle

    def close(self) -> None:
        self._batches.clear()
        self._waiting.clear()


class _Batch:
    """Rows decoded together, padded on the left."""

    def __init__(
        self, model: LanguageModel, rows: Sequence[tuple[int, Request]], sampling: SamplingParams
    ) -> None:
        self._model, self._sampling = model, sampling
        self._numbers = [number for number, _ in rows]
        requests = [request for _, request in rows]
        prompts = [[*request.prompt_ids, *request.begun_ids] for request in requests]
        longest, device = max(map(len, prompts)), model.device
        pads = [longest - len(ids) for ids in prompts]
        self._ids_NL = torch.tensor(
            [[0] * pad + ids for pad, ids in zip(pads, prompts, strict=True)], device=device
        )
        self._mask_NL = torch.tensor(
            [[0] * pad + [1] * (longest - pad) for pad in pads], device=device
        )
        self._generators = [torch.Generator(device).manual_seed(r.seed) for r in requests]
        self._max_lens = [sampling.max_len - len(request.begun_ids) for request in requests]
        self._tokens: list[list[int]] = [[] for _ in requests]
        self._logprobs: list[list[float]] = [[] for _ in requests]
        self.running = set(range(len(requests)))
        cache = model.prefix(len(requests))
        if cache is None:
            cache = DynamicCache(config=model.causal_lm.config)
        else:
            # the trained positions of the cache stand before the padding
            ones = self._mask_NL.new_ones(len(requests), cache.get_seq_length())
            self._mask_NL = torch.cat([ones, self._mask_NL], 1)
        self._cache = cache

    def step(self, ends: set[int]) -> list[tuple[int, Response]]:
        """Decodes a token of every row; the responses that it finished, with their numbers."""
        next_N, logp_N = draw(self._next_logits(), self._sampling, self._generators)
        finished = []
        for row in sorted(self.running):
            self._tokens[row].append(int(next_N[row]))
            self._logprobs[row].append(float(logp_N[row]))
            ended = self._tokens[row][-1] in ends
            if ended or len(self._tokens[row]) == self._max_lens[row]:
                self.running.remove(row)
                finished.append((self._numbers[row], self._response(row, truncated=not ended)))
        # rows that have ended are decoded with the others; their tokens are dropped
        self._ids_NL = next_N.unsqueeze(1)
        self._mask_NL = torch.cat([self._mask_NL, torch.ones_like(self._ids_NL)], dim=1)
        return finished

    def so_far(self) -> list[tuple[int, Response]]:
        """What each unfinished row has, with its number."""
        return [
            (self._numbers[row], self._response(row, truncated=False))
            for row in sorted(self.running)
        ]

    def _response(self, row: int, truncated: bool) -> Response:
        return Response(self._tokens[row], self._logprobs[row], truncated)

    def _next_logits(self) -> Tensor:
        """[N, V] in float32."""
        # positions skip the padding: a row's do not depend on the longest of its batch
        positions_NL = (self._mask_NL.cumsum(dim=1) - 1).clamp(min=0)
        causal_lm: Any = self._model.causal_lm
        inputs: dict[str, Any] = {
            "input_ids": self._ids_NL,
            "attention_mask": self._mask_NL,
            "position_ids": positions_NL[:, -self._ids_NL.shape[1] :],
            "past_key_values": self._cache,
            "use_cache": True,
        }
        if self._model.dtype == torch.float32:
            return causal_lm(**inputs, logits_to_keep=1).logits[:, -1].float()
        with self._model.autocast():  # the model's own forward pass would round its logits
            hidden_NH = causal_lm.base_model(**inputs).last_hidden_state[:, -1]
            outputs_NV = head_outputs(hidden_NH, causal_lm.get_output_embeddings())
        return transform_of(causal_lm)(outputs_NV)


def _warpers(sampling: SamplingParams) -> logits_process.LogitsProcessorList:
    """Temperature and truncation, in transformers' own order."""
    warpers = logits_process.LogitsProcessorList()
    warpers.append(logits_process.TemperatureLogitsWarper(float(sampling.temperature)))
    if sampling.top_k:
        warpers.append(logits_process.TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        warpers.append(logits_process.TopPLogitsWarper(sampling.top_p))
    if sampling.min_p > 0:
        warpers.append(logits_process.MinPLogitsWarper(sampling.min_p))
    return warpers


def draw(
    logits_NV: Tensor, sampling: SamplingParams, generators: Sequence[torch.Generator]
) -> tuple[Tensor, Tensor]:
    """([N] tokens, [N] their log-probabilities after temperature and truncation)."""
    if sampling.temperature == 0:
        logp_NV = logits_NV.log_softmax(dim=-1)
        next_N = logits_NV.argmax(dim=-1)
        return next_N, logp_NV.gather(1, next_N.unsqueeze(1)).squeeze(1)
    # without token ids, which none of these warpers reads
    logp_NV = _warpers(sampling)(None, logits_NV).log_softmax(dim=-1)  # pyright: ignore
    next_N = inverse_transform(logp_NV.exp(), uniform(generators, logp_NV.device))
    return next_N, logp_NV.gather(1, next_N.unsqueeze(1)).squeeze(1)
