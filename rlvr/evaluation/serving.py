"""Serves the adapters of one loaded base one after the other and streams their responses."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.generations import Generation
from rlvr.common.errors import ConfigError, RunError
from rlvr.common.log import get_logger
from rlvr.config.train import ModelConfig, RolloutConfig
from rlvr.engines.engine import Engine, EngineLost, Request
from rlvr.engines.vllm_local import VllmEngine
from rlvr.evaluation.plan import SamplingJob, SamplingPlan
from rlvr.evaluation.targets import Target

if TYPE_CHECKING:
    from rlvr.engines.transformers import TransformersEngine
    from rlvr.policy.language_model import LanguageModel

logger = get_logger(__name__)

PROBE_LEN = 64


class TargetServer:
    """Holds the engine of a plan; `serve` makes it answer as one target."""

    def __init__(self, plan: SamplingPlan, speaks: bool = True) -> None:
        self._plan, self._speaks = plan, speaks
        self._vllm: VllmEngine | None = None
        self._tokenizer: Any = None
        self._weights_changed = False
        self._probe: list[list[int]] = []
        self._base_scores: list[list[float]] = []

    def sample(self, job: SamplingJob) -> Iterator[Generation]:
        """The job's generations, as they end."""
        engine, tokenizer = self._serve(job.target, job.requests)
        for finished in engine.stream(job.requests, self._plan.sampling):
            for place, response in finished:
                text = tokenizer.decode(response.token_ids, skip_special_tokens=True)
                reason = "length" if response.truncated else "stop"
                yield Generation(*job.keys[place], text, len(response.token_ids), reason)

    def _serve(self, target: Target, requests: Sequence[Request]) -> tuple[Engine, Any]:
        if self._plan.engine == "transformers" or target.kind == "live":
            return self._with_transformers(target)
        if self._vllm is None:
            probe = [request.prompt_ids[:PROBE_LEN] for request in requests[:2]]
            self._probe = [ids for ids in probe if len(ids) > 1]
            self._vllm, self._base_scores = self._start()
        self._hand_over(self._vllm, target)
        # vLLM ignores an adapter whose names match no module, without a word
        is_adapter = target.kind != "base" and bool(self._probe)
        if is_adapter and self._vllm.score(self._probe) == self._base_scores:
            self._say(f"{target.name}: gives the base's probabilities: untrained, or not applied")
        return self._vllm, self._tokenizer

    def _start(self) -> tuple[VllmEngine, list[list[float]]]:
        """(the engine, its log-probabilities of the probe). Raises: ConfigError."""
        plan = self._plan
        ranks = [job.target.rank for job in plan.jobs if job.target.kind == "lora"]
        from transformers import AutoTokenizer

        from rlvr.adapters.export import VLLM_RANKS
        from rlvr.policy.loading import check_weights

        # by headers, before vLLM starts, and with a remedy
        options = {"revision": plan.revision, "trust_remote_code": plan.trust_remote_code}
        check_weights(plan.base, **options)
        self._tokenizer = AutoTokenizer.from_pretrained(plan.base, **options)
        # vLLM takes these ranks only; a smaller adapter is padded up to the limit
        limit = min(r for r in VLLM_RANKS if r >= max(ranks)) if ranks else None
        engine = None
        try:
            engine = VllmEngine(_model_config(plan), _rollout_config(plan), plan.base, limit)
            # some kernels fail at their first pass only, as LoRA's on experts do without a GPU
            return engine, engine.score(self._probe)
        except EngineLost as error:
            if engine is not None:
                engine.close()
            raise _refusal(plan.base, str(error), bool(limit)) from error
        except (ConfigError, RunError):
            raise
        except Exception as error:  # vLLM's checks of a model raise anything
            raise _refusal(plan.base, f"{type(error).__name__}: {error}", bool(limit)) from error

    def _hand_over(self, engine: VllmEngine, target: Target) -> None:
        """Gives the engine the target's weights or adapter, on the base's own weights."""
        # from the pristine base every time, so that targets do not depend on their order
        engine.drop_adapter()
        if target.kind == "merged" or self._weights_changed:
            from rlvr.adapters.targets import servable_weights

            merged = target.kind == "merged"
            wanted = target if merged else Target("base", None, "base")
            model = load_target(self._plan, wanted, on_device=False)
            engine.load_weights(servable_weights(model.model))
            self._weights_changed = merged
            self._check(engine, model, target.name)
        if target.kind == "lora":
            assert target.folder is not None
            engine.load_adapter(Path(target.folder))

    def _check(self, engine: VllmEngine, model: LanguageModel, name: str) -> None:
        """Reads the weights back, then compares log-probabilities of the probe.

        Raises: SyncError for weights that did not arrive; in float32 for the probe, too.
        """
        from rlvr.engines.transformers import TransformersEngine
        from rlvr.engines.weights.arrival import compare, expected
        from rlvr.engines.weights.sync import TOLERANCE, SyncError, explain

        # every tensor, not a sample: a target is loaded once and everything else rests on it
        found = compare(expected(model, "merged", everything=True), engine)
        if found.differing:
            raise SyncError(f"{name}: {explain(found)}")
        if not self._probe:
            return
        both = zip(
            TransformersEngine(model).score(self._probe), engine.score(self._probe), strict=True
        )
        error = max(abs(a - b) for ours, theirs in both for a, b in zip(ours, theirs, strict=True))
        tolerance = TOLERANCE[model.dtype]
        if error <= tolerance:
            return
        text = (
            f"{name}: engine and transformers differ by {error:.3g} nats on fixed tokens (tolerance"
            f" {tolerance:g}), although the weights read back have arrived"
        )
        # in half precision two engines round differently, which is no fault
        if self._plan.dtype == "float32" or not math.isfinite(error):
            raise SyncError(text)
        self._say(text)

    def _with_transformers(self, target: Target) -> tuple[TransformersEngine, Any]:
        from rlvr.engines.transformers import TransformersEngine, check_cache

        if self._plan.engine == "vllm":
            self._say(f"{target.name}: vLLM cannot serve it; generating with transformers, slowly")
        model = load_target(self._plan, target, on_device=True)
        check_cache(model)
        return TransformersEngine(model), model.tokenizer

    def _say(self, line: str) -> None:
        if self._speaks:
            logger.info(line)

    def close(self) -> None:
        """Ends the engine."""
        if self._vllm is not None:
            self._vllm.close()


def _refusal(base: str, reason: str, has_lora: bool) -> ConfigError:
    remedy = f"{'--adapters-as merged or ' if has_lora else ''}--engine transformers"
    reason = " ".join(reason.split())[:400]
    return ConfigError(f"--engine vllm: it does not take {base}: {reason}; use {remedy}")


def load_target(plan: SamplingPlan, target: Target, on_device: bool) -> LanguageModel:
    """The base with a target's adapter in place, frozen; on the GPU, if any, or in CPU memory."""
    import torch

    from rlvr.policy.language_model import load_frozen

    folder = None if target.folder is None else Path(target.folder)
    device = None if on_device else torch.device("cpu")
    return load_frozen(_model_config(plan), plan.base, folder, device)


def _model_config(plan: SamplingPlan) -> ModelConfig:
    return ModelConfig(
        path=plan.base,
        revision=plan.revision,
        dtype=plan.dtype,  # pyright: ignore[reportArgumentType]
        max_len=plan.max_len,
        trust_remote_code=plan.trust_remote_code,
    )


def _rollout_config(plan: SamplingPlan) -> RolloutConfig:
    return RolloutConfig(
        max_response_len=1,
        gpu_memory_utilization=plan.gpu_memory_utilization,
        max_num_seqs=plan.max_num_seqs,
    )
