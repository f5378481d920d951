"""The real vLLM in this process: one engine beside the trainer, weights handed over in memory."""

from __future__ import annotations

import gc
import itertools
import logging
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlvr.common.errors import RunError
from rlvr.distributed.world import World
from rlvr.engines.engine import (
    CacheLoad,
    Engine,
    EngineLost,
    Request,
    Response,
    SamplingParams,
    Session,
)
from rlvr.engines.vllm_requests import flat_logprobs, response_of, scoring_params, vllm_params
from rlvr.engines.vllm_start import refuse_head, start_llm

if TYPE_CHECKING:
    from torch import Tensor

    from rlvr.config.train import ModelConfig, RolloutConfig
    from rlvr.engines.weights.fingerprint import Piece


class VllmEngine(Engine):
    """vLLM's LLM class, driven with token ids only, one decoding step at a time."""

    name = "vllm"

    def __init__(
        self,
        model: ModelConfig,
        rollout: RolloutConfig,
        path: str,
        max_lora_rank: int | None,
        world: World = World.alone(),
        seed: int = 0,
        num_adapters: int = 1,
    ) -> None:
        """path: the policy's folder or hub id. max_lora_rank: None where adapters come merged.
        num_adapters: served at a time, see `vllm_shared`."""
        started = start_llm(model, rollout, path, max_lora_rank, world, seed, num_adapters)
        self._llm: Any = started[0]
        self._held_gib = started[1]
        self._adapter: Any = None
        self._numbers, self._running = itertools.count(), dict[str, str]()
        self.finished: dict[str, Any] = {}
        self._has_served = False
        self._can_sleep, self._asleep = rollout.sleep, False

    def open(self, sampling: SamplingParams) -> VllmSession:
        return VllmSession(self, sampling, self._adapter, self.step)

    def begin(self, request: Request, sampling: SamplingParams, adapter: Any) -> tuple[str, Any]:
        """Asks for a response by an adapter, or None: its name in `finished` and for `end`, and the
        scheduler's record of it. Raises: EngineLost."""
        self._has_served = True
        token_ids = [*request.prompt_ids, *request.begun_ids]
        name = self.ask(token_ids, vllm_params(sampling, request), adapter)
        return name, self._scheduler.requests[self._running[name]]

    def ask(self, token_ids: list[int], params: Any, adapter: Any) -> str:
        """Gives vLLM a request; its name in `finished`. Raises: EngineLost."""
        name = str(next(self._numbers))
        prompt: Any = {"type": "token", "prompt_token_ids": token_ids}
        with self._alive() as llm:
            self._running[name] = llm.llm_engine.add_request(
                name, prompt, params, lora_request=adapter
            )
        return name

    def step(self) -> float:
        """Decodes one step of all that runs; vLLM's outputs of what ends go to `finished`. The
        fraction of the cache in use. Raises: EngineLost."""
        with self._alive() as llm:
            outputs: list[Any] = llm.llm_engine.step()
            usage = self._scheduler.kv_cache_manager.usage
        for output in outputs:
            del self._running[output.request_id]
            self.finished[output.request_id] = output
        return usage

    @property
    def _scheduler(self) -> Any:
        # asked itself: vLLM's statistics cost a record per response and step
        return self._llm.llm_engine.engine_core.engine_core.scheduler

    @property
    def is_idle(self) -> bool:
        """Whether nothing has been asked for that has not ended."""
        return not self._running

    def end(self, names: Sequence[str]) -> list[Response]:
        """Ends these; what each has so far."""
        if self.lost or not names:
            return [Response([], [], truncated=False) for _ in names]
        from vllm.v1.engine import FinishReason

        ids = [self._running.pop(name) for name in names]
        engine = self._llm.llm_engine
        # vLLM itself makes this output of a request that it aborts, for its asynchronous engine
        states = [engine.output_processor.request_states[each] for each in ids]
        outputs = [one.make_request_output([], None, FinishReason.ABORT, None) for one in states]
        engine.abort_request(ids, internal=True)
        return [response_of(output.outputs[0]) for output in outputs]

    @contextmanager
    def _alive(self) -> Iterator[Any]:
        """vLLM's LLM; whatever it raises in the block is its end. Raises: EngineLost."""
        import torch

        if self.lost:
            raise EngineLost("vLLM died before")
        # A thread takes over the number of torch's threads when it first asks torch for it. vLLM's
        # own operators do not ask, and vLLM dies where the number changes within a step.
        torch.get_num_threads()
        # vLLM draws from torch's global generator, on CPU for seeded requests too. A resumed run
        # syncs once more than one that was never stopped, so without this the two would differ.
        rng = torch.get_rng_state()
        try:
            yield self._llm
        except RunError:
            raise
        except Exception as error:
            self.lost = True
            if self._has_served:  # else it is a refusal, for which one line is enough
                traceback.print_exc()
            traceback.clear_frames(error.__traceback__)  # they keep its memory
            raise EngineLost(f"vLLM: {type(error).__name__}: {error}") from error
        finally:
            torch.set_rng_state(rng)

    def score(self, sequences: Sequence[list[int]]) -> list[list[float]]:
        return self.score_by(self._adapter, self.step, sequences)

    def score_by(
        self, adapter: Any, step: Callable[[], object], sequences: Sequence[list[int]]
    ) -> list[list[float]]:
        """`score` by this adapter, or None, in steps of the whole engine."""
        params = scoring_params()
        names = [self.ask(ids, params, adapter) for ids in sequences]
        while not all(name in self.finished for name in names):
            step()
        outputs = [self.finished.pop(name) for name in names]
        return [
            flat_logprobs(output.prompt_logprobs, len(ids) - 1)
            for output, ids in zip(outputs, sequences, strict=True)
        ]

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> int:
        from rlvr.engines.weights.vllm_reload import reload

        counted = _Counter(weights)  # a stream: the merged weights never exist all at once
        with self._alive() as llm, _without_warnings():
            llm.collective_rpc(reload, kwargs={"weights_iterator": iter(counted)})
        self._forget_prefixes()
        return counted.num_bytes

    def load_adapter(self, folder: Path) -> int:
        self._adapter, num_bytes = self.adapter_of(folder, 1)
        self._forget_prefixes()
        return num_bytes

    def adapter_of(self, folder: Path, number: int) -> tuple[Any, int]:
        """(what requests name the folder's adapter by, its bytes); takes the place of the one that
        had this number, from 1."""
        from vllm.lora.request import LoRARequest

        refuse_head(folder)
        with self._alive() as llm:
            llm.llm_engine.add_lora(LoRARequest("policy", number, str(folder), load_inplace=True))
        # loaded: requests only name it. Cached prefixes are told apart by the folder's path
        adapter = LoRARequest(f"policy{number}", number, str(folder))
        return adapter, sum(file.stat().st_size for file in folder.glob("*.safetensors"))

    def read_back(self, names: Sequence[str]) -> dict[str, list[Piece]]:
        return self.read_back_of(self._adapter, names)

    def read_back_of(self, adapter: Any, names: Sequence[str]) -> dict[str, list[Piece]]:
        """`read_back` of this adapter, or None."""
        from rlvr.engines.weights.vllm_weights import read

        asked = {"names": names, "adapter": adapter.lora_int_id if adapter else False}
        with self._alive() as llm:
            return llm.collective_rpc(read, kwargs=asked)[0]  # of ranks side by side, this one's

    def _forget_prefixes(self) -> None:
        with self._alive() as llm:
            forgotten = llm.reset_prefix_cache()
        if not forgotten:
            raise RunError("vLLM kept prefixes of the old weights: requests are still running")

    def drop_adapter(self) -> None:
        """Serves the base without an adapter from now on."""
        self._adapter = None
        self._llm.reset_prefix_cache()

    def sleep(self) -> None:
        if self._can_sleep:
            with self._alive() as llm:
                llm.sleep(level=1)  # 2 would drop the base's weights, which no sync brings back
            self._asleep = True

    def wake(self) -> None:
        if self._asleep:
            import torch

            torch.cuda.empty_cache()  # vLLM maps its memory again, which torch may still cache
            with self._alive() as llm:
                llm.wake_up()
            self._asleep = False

    def held_gib(self) -> float:
        return self._held_gib

    def close(self) -> None:
        llm, self._llm = self._llm, None
        if llm is None:
            return
        import torch

        llm.llm_engine.engine_core.shutdown()
        # the next engine needs the memory, and measures what is free when it starts
        del llm
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Hides vLLM's warnings of weights that a sync leaves out: what arrives is read back."""
    logger = logging.getLogger("vllm")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


class VllmSession(Session):
    """Responses of one caller, by one adapter; a step is one of the whole engine."""

    def __init__(
        self,
        engine: VllmEngine,
        sampling: SamplingParams,
        adapter: Any,
        step: Callable[[], float],
    ) -> None:
        """step: the engine's, or one that waits for others who share it."""
        self._engine, self._sampling = engine, sampling
        self._adapter, self._step = adapter, step
        self._names: dict[str, int] = {}
        self._scheduled: list[Any] = []
        self._peak_frac = 0.0

    @property
    def num_running(self) -> int:
        return len(self._names)

    def add(self, requests: Sequence[Request]) -> None:
        for request in requests:
            name, scheduled = self._engine.begin(request, self._sampling, self._adapter)
            self._names[name] = len(self._scheduled)
            self._scheduled.append(scheduled)

    def step(self) -> list[tuple[int, Response]]:
        if not self._ended():
            self._peak_frac = max(self._peak_frac, self._step())
        return self._take(self._ended())

    def pause(self) -> tuple[list[tuple[int, Response]], list[tuple[int, Response]]]:
        finished = self._take(self._ended())
        names, self._names = self._names, {}
        return finished, list(zip(names.values(), self._engine.end(list(names)), strict=True))

    def close(self) -> None:
        self.pause()

    def cache_load(self) -> CacheLoad:
        return CacheLoad(sum(one.num_preemptions for one in self._scheduled), self._peak_frac)

    def _ended(self) -> set[str]:
        # a step of another session may have ended responses of this one
        return self._engine.finished.keys() & self._names.keys()

    def _take(self, names: Iterable[str]) -> list[tuple[int, Response]]:
        outputs = [(self._names.pop(name), self._engine.finished.pop(name)) for name in names]
        pairs = [(number, response_of(output.outputs[0])) for number, output in outputs]
        return sorted(pairs, key=itemgetter(0))


class _Counter:
    """Yields weights and counts their bytes."""

    def __init__(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        self._weights, self.num_bytes = weights, 0

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        for name, value in self._weights:
            self.num_bytes += value.numel() * value.element_size()
            yield name, value
