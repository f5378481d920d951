"""The real vLLM in this process: one engine beside the trainer, weights handed over in memory."""

from __future__ import annotations

import gc
import itertools
import logging
import os
import traceback
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from difflib import get_close_matches
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlvr.common.errors import ConfigError, RunError
from rlvr.distributed.world import World
from rlvr.engines.engine import (
    CacheLoad,
    Engine,
    EngineLost,
    Request,
    Response,
    SamplingParams,
    Session,
    hf_overrides,
)

if TYPE_CHECKING:
    from torch import Tensor

    from rlvr.config.train import ModelConfig, RolloutConfig
    from rlvr.engines.weights.fingerprint import Piece


QUIET_ON_CPU = (
    "vllm.config.vllm",
    "vllm.engine.arg_utils",
    "vllm.model_executor.layers.indexer_topk",
    "vllm.platforms.cpu",
    "vllm.v1.worker.cpu_worker",
)
"""vLLM's loggers that warn at every start on a CPU of what is set there on purpose, or missing."""


def _set_environment(kv_cache_gib: int) -> None:
    """Sets what vLLM reads once, at import."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # the engine shares our process and weights
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", str(kv_cache_gib))
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")  # the trainer uses the same cores
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("DO_NOT_TRACK", "1")


def _remove_leftovers(world: World, width: int) -> None:
    """Removes shared memory of killed runs: vLLM on CPU names what `width` ranks share by their
    numbers alone, and would find it. Runs that use the same name have opened it and keep it."""
    first = world.rank // width * width
    names = "-".join(map(str, range(first, first + width)))
    if world.rank == first:
        for path in Path("/dev/shm").glob(f"*-tp:0-[[]{names}[]]-cpushm_*"):
            path.unlink(missing_ok=True)
    world.gather(None)  # nobody may create what a slower rank would still remove


@contextmanager
def _settable_threads() -> Iterator[None]:
    """Undoes at the end that vLLM on CPU makes torch.set_num_threads a no-op in the whole process.

    vLLM protects a binding to cores, which it makes in processes of its own only.
    """
    import torch

    set_num_threads = torch.set_num_threads
    try:
        yield
    finally:
        torch.set_num_threads = set_num_threads


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
        _set_environment(rollout.kv_cache_gib)
        import torch

        warnings.filterwarnings("ignore", category=FutureWarning, module="vllm")
        from vllm import LLM

        # whoever imported vLLM first
        logging.getLogger("vllm").setLevel(os.environ["VLLM_LOGGING_LEVEL"].upper())
        options: dict[str, Any] = {"enable_prefix_caching": True, "disable_log_stats": True}
        if not torch.cuda.is_available():
            for name in QUIET_ON_CPU:
                logging.getLogger(name).setLevel(logging.ERROR)
            if rollout.tensor_parallel_size > 1:
                _remove_leftovers(world, rollout.tensor_parallel_size)
            # vLLM rewinds the generator of a request whose prefill was split, which CPU ones cannot
            options |= {"enforce_eager": True, "enable_chunked_prefill": False}
            options["max_num_batched_tokens"] = max(8192, model.max_len)
        if max_lora_rank:
            options |= {"enable_lora": True, "max_lora_rank": max_lora_rank, "max_loras": 1}
        if world.size > 1:
            # inside the ranks' process group: each takes its own GPU, neighbours share an engine
            options["distributed_executor_backend"] = "external_launcher"
        options |= known_args(rollout.engine_args)
        options["hf_overrides"] = hf_overrides(model.dtype, rollout.engine_args)
        before = torch.cuda.memory_allocated()
        with _settable_threads():
            self._llm: Any = LLM(
                model=path,
                revision=model.revision,
                trust_remote_code=model.trust_remote_code,
                dtype=model.dtype,
                max_model_len=model.max_len,
                max_num_seqs=rollout.max_num_seqs,
                tensor_parallel_size=rollout.tensor_parallel_size,
                gpu_memory_utilization=rollout.gpu_memory_utilization,
                enable_sleep_mode=rollout.sleep,
                # the ratio needs the probabilities that tokens were drawn with, not the model's
                logprobs_mode="processed_logprobs",
                skip_tokenizer_init=False,
                use_tqdm_on_load=False,
                seed=seed,
                **options,
            )
        self._held_gib = (torch.cuda.memory_allocated() - before) / 2**30
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
                name, prompt, _sampling_params(sampling, request), lora_request=self._adapter
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
            self.finished[output.request_id] = _response(output.outputs[0])
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
        return [_response(output.outputs[0]) for output in outputs]

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

        with self._alive() as llm:
            outputs = llm.generate(
                [{"prompt_token_ids": ids} for ids in sequences],
                VllmParams(max_tokens=1, prompt_logprobs=0, flat_logprobs=True, detokenize=False),
                use_tqdm=False,
                lora_request=self._adapter,
            )
        return [
            _flat(output.prompt_logprobs, len(ids) - 1)
            for output, ids in zip(outputs, sequences, strict=True)
        ]

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> int:
        counted = _Counter(weights)  # a stream: the merged weights never exist all at once
        with self._alive() as llm, _without_warnings():
            llm.collective_rpc("reload_weights", kwargs={"weights_iterator": iter(counted)})
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


def known_args(engine_args: dict[str, Any]) -> dict[str, Any]:
    """The arguments. Raises: ConfigError for one that this vLLM does not have."""
    import torch
    from vllm import EngineArgs

    known = {field.name for field in fields(EngineArgs)}
    if engine_args.get("enable_chunked_prefill") and not torch.cuda.is_available():
        raise ConfigError(
            "rollout.engine_args.enable_chunked_prefill = true: on CPU vLLM would draw other"
            " samples with the same seed; remove it"
        )
    for name in engine_args:
        if name not in known:
            close = get_close_matches(name, known, n=1)
            meant = f"did you mean {close[0]}?" if close else "see the options of vllm serve"
            raise ConfigError(f"rollout.engine_args.{name}: vLLM has no such argument; {meant}")
    return engine_args


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


def _sampling_params(sampling: SamplingParams, request: Request) -> Any:
    from vllm import SamplingParams as VllmParams
    from vllm.sampling_params import RequestOutputKind

    return VllmParams(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        min_p=sampling.min_p,
        max_tokens=sampling.max_len - len(request.begun_ids),
        stop_token_ids=list(sampling.stop_token_ids),
        seed=request.seed,
        logprobs=0 if sampling.logprobs else None,
        flat_logprobs=True,
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def _response(output: Any) -> Response:
    token_ids = list(output.token_ids)
    logprobs = [] if output.logprobs is None else _flat(output.logprobs, len(token_ids))
    return Response(token_ids, logprobs, truncated=output.finish_reason == "length")


def _flat(found: Any, num_tokens: int) -> list[float]:
    """The log-probability of each token, as vLLM has them in one list: two objects per token would
    be millions for the garbage collector in a step."""
    values = [] if found is None else found.logprobs
    assert len(values) == num_tokens, (len(values), num_tokens)
    return values
