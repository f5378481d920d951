"""The real vLLM in this process: one engine beside the trainer, weights handed over in memory."""

from __future__ import annotations

import gc
import itertools
import logging
import traceback
from collections.abc import Iterable, Iterator, Sequence
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
from rlvr.engines.vllm_requests import flat_logprobs, response_of, vllm_params
from rlvr.engines.vllm_start import start_llm

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
    ) -> None:
        """path: the policy's folder or hub id. max_lora_rank: None where adapters come merged."""
        started = start_llm(model, rollout, path, max_lora_rank, world, seed)
        self._llm: Any = started[0]
        self._held_gib = started[1]
        self._adapter: Any = None
        self._numbers, self._running = itertools.count(), dict[str, str]()
        self.finished: dict[str, Response] = {}
        self._has_served = False
        self._can_sleep, self._asleep = rollout.sleep, False

    def open(self, sampling: SamplingParams) -> VllmSession:
        return VllmSession(self, sampling)

    def begin(self, request: Request, sampling: SamplingParams) -> tuple[str, Any]:
        """Asks for a response: its name in `finished` and for `end`, and the scheduler's record of
        it. Raises: EngineLost."""
        name = str(next(self._numbers))
        prompt: Any = {
            "type": "token",
            "prompt_token_ids": [*request.prompt_ids, *request.begun_ids],
        }
        self._has_served = True
        with self._alive() as llm:
            self._running[name] = llm.llm_engine.add_request(
                name, prompt, vllm_params(sampling, request), lora_request=self._adapter
            )
            return name, self._scheduler.requests[self._running[name]]

    def step(self) -> float:
        """Decodes one step of all that runs; what ends goes to `finished`. The fraction of the
        cache in use. Raises: EngineLost."""
        with self._alive() as llm:
            outputs: list[Any] = llm.llm_engine.step()
            usage = self._scheduler.kv_cache_manager.usage
        for output in outputs:
            del self._running[output.request_id]
            self.finished[output.request_id] = response_of(output.outputs[0])
        return usage

    @property
    def _scheduler(self) -> Any:
        # asked itself: vLLM's statistics cost a record per response and step
        return self._llm.llm_engine.engine_core.engine_core.scheduler

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
        from vllm import SamplingParams as VllmParams

        # vLLM on CPU dies of several prompts at once where it has wrapped the head for adapters:
        # it takes a prompt's tokens for as many requests
        batches = [sequences] if self._adapter is None else [[ids] for ids in sequences]
        params = VllmParams(max_tokens=1, prompt_logprobs=0, flat_logprobs=True, detokenize=False)
        with self._alive() as llm:
            outputs = [
                output
                for batch in batches
                for output in llm.generate(
                    [{"prompt_token_ids": ids} for ids in batch],
                    params,
                    use_tqdm=False,
                    lora_request=self._adapter,
                )
            ]
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
        from vllm.lora.request import LoRARequest

        with self._alive() as llm:
            llm.llm_engine.add_lora(LoRARequest("policy", 1, str(folder), load_inplace=True))
        self._adapter = LoRARequest("policy", 1, str(folder))  # loaded: requests only name it
        self._forget_prefixes()
        return sum(file.stat().st_size for file in folder.glob("*.safetensors"))

    def read_back(self, names: Sequence[str]) -> dict[str, list[Piece]]:
        from rlvr.engines.weights.vllm_weights import read

        asked = {"names": names, "has_adapter": self._adapter is not None}
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
    """Responses of one caller; a step is one of the whole engine."""

    def __init__(self, engine: VllmEngine, sampling: SamplingParams) -> None:
        self._engine, self._sampling = engine, sampling
        self._names: dict[str, int] = {}
        self._scheduled: list[Any] = []
        self._peak_frac = 0.0

    @property
    def num_running(self) -> int:
        return len(self._names)

    def add(self, requests: Sequence[Request]) -> None:
        for request in requests:
            name, scheduled = self._engine.begin(request, self._sampling)
            self._names[name] = len(self._scheduled)
            self._scheduled.append(scheduled)

    def step(self) -> list[tuple[int, Response]]:
        if not self._ended():
            self._peak_frac = max(self._peak_frac, self._engine.step())
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
        pairs = [(self._names.pop(name), self._engine.finished.pop(name)) for name in names]
        return sorted(pairs, key=itemgetter(0))


class _Counter:
    """Yields weights and counts their bytes."""

    def __init__(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        self._weights, self.num_bytes = weights, 0

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        for name, value in self._weights:
            self.num_bytes += value.numel() * value.element_size()
            yield name, value
