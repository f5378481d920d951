"""The engine protocol: generate with a seed per sample, score given tokens, take new weights."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

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


CPU_BLOCK = 32
"""Tokens of a block of vLLM's cache on a CPU. The responses to a problem share whole blocks of its
prompt; vLLM's own 128 are longer than most prompts there. Its kernels want multiples of 32."""


def hf_overrides(dtype: str, engine_args: Mapping[str, Any]) -> dict[str, Any]:
    """vLLM's argument of this name for a model of this type, with what the recipe gives.

    Logits of 16-bit models are added up and kept in float32, as the trainer's are
    (`rlvr.policy.logprob_head`).
    """
    head = {} if dtype == "float32" else {"head_dtype": "float32"}
    return head | engine_args.get("hf_overrides", {})


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
    """One response wanted: the prompt's token ids and the seed of every draw in it.

    begun_ids: tokens that the response has already, which count towards its longest length. What
    comes back are those after them.
    """

    prompt_ids: list[int]
    seed: int
    begun_ids: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class Response:
    """One response. logprobs: of each token, as drawn (after temperature). truncated: hit max_len.

    token_ids end with the end-of-sequence or stop token unless truncated. spans: (policy version,
    number of tokens) of the weights that sampled it, one after the other; empty where they are
    those of its group.
    """

    token_ids: list[int]
    logprobs: list[float]
    truncated: bool
    spans: list[tuple[int, int]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class CacheLoad:
    """How full vLLM's key-value cache was. preemptions: times that a running response was put back
    to make room for others, and computed again. peak_frac: largest fraction of the cache in use."""

    preemptions: int
    peak_frac: float


class Session(Protocol):
    """Responses under way in an engine. Requests may join between any two decoding steps."""

    by_clock: bool = False
    """Whether the clock decides which responses a step finishes. Otherwise that depends on the
    tokens and on when requests joined."""

    @property
    def num_running(self) -> int:
        """Responses that have been asked for and have not ended."""
        ...

    def add(self, requests: Sequence[Request]) -> None:
        """Asks for a response to each, numbered on from those asked before."""
        ...

    def step(self) -> list[tuple[int, Response]]:
        """Decodes one step; the responses that it finished, often none, each with its number."""
        ...

    def pause(self) -> tuple[list[tuple[int, Response]], list[tuple[int, Response]]]:
        """Cuts off every response that is running: (those that had ended all the same, what the
        others have so far), with their numbers. The session is over then."""
        ...

    def close(self) -> None:
        """Aborts what is running."""
        ...

    def cache_load(self) -> CacheLoad | None:
        """How full the cache was so far; None where the engine does not tell."""
        return None


class Engine(Protocol):
    """The boundary between the trainer and whatever generates."""

    name: str
    lost: bool = False
    """Whether it died: every further call raises EngineLost."""

    def open(self, sampling: SamplingParams) -> Session:
        """A session whose responses are drawn so. It is closed before weights change."""
        ...

    def stream(
        self, requests: Sequence[Request], sampling: SamplingParams
    ) -> Generator[list[tuple[int, Response]], None, None]:
        """Yields after every decoding step the responses that it finished, often none, each with
        the index of its request. Closing the generator aborts the rest."""
        with closing(self.open(sampling)) as session:
            session.add(requests)
            while session.num_running:
                yield session.step()

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

    def held_gib(self) -> float:
        """What it took of this process's GPU memory when it started (GiB), asleep or not."""
        return 0.0

    def close(self) -> None:
        """Releases memory and processes."""
        ...

    def retry(self, work: Callable[[], R], lost: EngineLost | None = None) -> R:
        """The result of `work`, which uses this engine and has to be repeated in full when it dies;
        only a RestartingEngine does that. lost: why it has to be replaced first."""
        return work()


class ForwardingEngine(Engine):
    """Passes every call on to `engine`."""

    def __init__(self, engine: Engine) -> None:
        self.name = engine.name
        self.engine = engine

    def open(self, sampling: SamplingParams) -> Session:
        return self.engine.open(sampling)

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

    def held_gib(self) -> float:
        return self.engine.held_gib()

    def close(self) -> None:
        self.engine.close()
