"""The engine protocol: generate with a seed per sample, score given tokens, take new weights."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from rlvr.common.errors import ConfigError, RunError

if TYPE_CHECKING:
    from torch import Tensor

    from rlvr.engines.weights.fingerprint import Piece

R = TypeVar("R")


class EngineLost(RunError):
    """The engine died; another one may do the same work."""


def refusal(reason: str, engine: str, mode: str) -> ConfigError:
    """The error of an engine that does not take the model or its adapter, with the remedy.

    engine: as in rollout.engine. mode: of the sync.
    """
    lines = [line for line in reason.splitlines() if line.strip()] or ["no reason given"]
    remedy = 'set rollout.engine = "transformers"'
    if mode == "adapter":
        remedy = f'set rollout.sync = "merged"; if that is refused too, {remedy}'
    return ConfigError(
        f'rollout.engine = "{engine}": it does not take this model (rollout.sync is "{mode}"):'
        f" {' '.join(lines)[:400]}; {remedy}"
    )


def head_override(dtype: str) -> dict[str, str]:
    """vLLM's hf_overrides for a model of this type: logits are added up and kept in float32, as
    the trainer's are (`rlvr.policy.logprob_head`)."""
    return {} if dtype == "float32" else {"head_dtype": "float32"}


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How tokens are drawn. temperature 0 is greedy; top_k 0 keeps all; max_len in tokens.

    logprobs: whether responses carry them; without them vLLM is a little faster. stop_token_ids:
    tokens that end a response as the model's own ends do.
    """

    max_len: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    logprobs: bool = True
    stop_token_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Request:
    """One response wanted: the prompt's token ids and the seed of every draw in it."""

    prompt_ids: list[int]
    seed: int


@dataclass(frozen=True, slots=True)
class Response:
    """One response. logprobs: of each token, as drawn (after temperature). truncated: hit max_len.

    token_ids end with the end-of-sequence or stop token unless truncated.
    """

    token_ids: list[int]
    logprobs: list[float]
    truncated: bool


@dataclass(frozen=True, slots=True)
class CacheLoad:
    """How full vLLM's key-value cache was. preemptions: times that a running response was put back
    to make room for others, and computed again. peak_frac: largest fraction of the cache in use."""

    preemptions: int
    peak_frac: float


class Engine(Protocol):
    """The boundary between the trainer and whatever generates."""

    name: str
    lost: bool = False
    """Whether it died: every further call raises EngineLost."""
    cache_load: CacheLoad | None = None
    """Of the last `stream`, once it has ended; None where the engine does not tell."""

    def stream(
        self, requests: Sequence[Request], sampling: SamplingParams
    ) -> Generator[list[tuple[int, Response]], None, None]:
        """Yields after every decoding step the responses that it finished, often none, each with
        the index of its request. Closing the generator aborts the rest.

        Which finishes when depends on the tokens alone, unless the engine's `name` is vllm_server.
        """
        ...

    def generate(self, requests: Sequence[Request], sampling: SamplingParams) -> list[Response]:
        """One response per request, in order."""
        done = dict(pair for finished in self.stream(requests, sampling) for pair in finished)
        return [done[index] for index in range(len(requests))]

    def score(self, sequences: Sequence[list[int]]) -> list[list[float]]:
        """Log-probability (temperature 1) of each token after the first, given those before it."""
        ...

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> int:
        """Replaces the named weights and forgets cached prefixes; the number of bytes taken."""
        ...

    def load_adapter(self, folder: Path) -> int:
        """Serves the low-rank adapter in `folder` from now on, without it; the bytes read."""
        ...

    def read_back(self, names: Sequence[str]) -> Mapping[str, Sequence[Piece]]:
        """Fingerprints of the weights that it serves, by name: one or several pieces of each,
        without those that it cannot read.

        Names are those of `load_weights`; a module X's low-rank factors, zero where no adapter is
        served, are X.lora_A.weight and X.lora_B.weight.
        """
        ...

    def sleep(self) -> None:
        """Gives up GPU memory, where the engine can, until `wake`; nothing is asked in between."""

    def wake(self) -> None:
        """Ends `sleep`; it serves what it served before."""

    def close(self) -> None:
        """Releases memory and processes."""
        ...

    def retry(self, work: Callable[[], R]) -> R:
        """The result of `work`, which uses this engine and has to be repeated in full when it dies;
        only a RestartingEngine does that."""
        return work()


class ForwardingEngine(Engine):
    """Passes every call on to `engine`."""

    def __init__(self, engine: Engine) -> None:
        self.name = engine.name
        self.engine = engine

    @property
    def cache_load(self) -> CacheLoad | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.engine.cache_load

    def stream(
        self, requests: Sequence[Request], sampling: SamplingParams
    ) -> Generator[list[tuple[int, Response]], None, None]:
        return self.engine.stream(requests, sampling)

    def score(self, sequences: Sequence[list[int]]) -> list[list[float]]:
        return self.engine.score(sequences)

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> int:
        return self.engine.load_weights(weights)

    def load_adapter(self, folder: Path) -> int:
        return self.engine.load_adapter(folder)

    def read_back(self, names: Sequence[str]) -> Mapping[str, Sequence[Piece]]:
        return self.engine.read_back(names)

    def sleep(self) -> None:
        self.engine.sleep()

    def wake(self) -> None:
        self.engine.wake()

    def close(self) -> None:
        self.engine.close()
