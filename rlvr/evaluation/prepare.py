"""From the command line to a plan: engine, compute type, context, and a request per sample."""

from __future__ import annotations

import argparse
import hashlib
import json
import shlex
from collections.abc import Sequence
from typing import Any

from eval.benchmarks import LoadedBenchmark
from eval.generations import GenerationKey
from rlvr.common.errors import ConfigError, first_line
from rlvr.common.log import get_logger
from rlvr.data.chat import requires_closed_think
from rlvr.engines.choose import choose_engine, is_vllm_installed, why_not_vllm
from rlvr.engines.engine import SamplingParams
from rlvr.engines.stop_tokens import missing_end, stop_ids, unended
from rlvr.evaluation.plan import PromptStyle, SamplingJob, SamplingPlan, request
from rlvr.evaluation.targets import Target
from rlvr.policy.loading import context_len, fingerprint

logger = get_logger(__name__)

LONGEST = 32_768
"""Tokens of a response when --max-tokens is left out and the model takes more."""


def make_plan(
    args: argparse.Namespace,
    loaded: Sequence[LoadedBenchmark],
    style: PromptStyle,
    base: str,
    targets: Sequence[Target],
    keys: Sequence[GenerationKey],
) -> SamplingPlan:
    """Everything to sample, as if nothing were there yet. Raises: ConfigError."""
    config, tokenizer = _load(args, base)
    prompts = {
        (b.name, question.id): ids
        for b in loaded
        for question, ids in zip(
            b.questions[: args.limit],
            style.encode(b, b.questions[: args.limit], tokenizer),
            strict=True,
        )
    }
    requests = tuple(request(prompts[key[:2]], args.seed, key) for key in keys)
    stops = _stops(args, base, config, tokenizer, style)
    max_len, max_tokens = _context(args.max_tokens, prompts, config)
    engine = _engine(args.engine)
    return SamplingPlan(
        base,
        args.revision,
        args.trust_remote_code,
        engine,
        _dtype(args.dtype, config),
        max_len,
        SamplingParams(
            max_tokens, args.temperature, args.top_p, logprobs=False, stop_token_ids=stops
        ),
        args.gpu_memory_utilization,
        args.max_num_seqs,
        tuple(SamplingJob(served(t, args.adapters_as), tuple(keys), requests) for t in targets),
        _closed_think(args, style, tokenizer),
    )


def _closed_think(args: argparse.Namespace, style: PromptStyle, tokenizer: Any) -> bool:
    """What the command line says, else the recipe, else the chat template."""
    said = args.require_closed_think
    wanted = style.require_closed_think if said is None else said
    closed = requires_closed_think(wanted, tokenizer, style.chat_template)
    if closed and wanted is None:
        logger.info(
            "prompts end in <think>: only what follows a </think> is paid"
            " (--no-require-closed-think pays all)"
        )
    return closed


def settings_of(
    plan: SamplingPlan, target: Target, style: PromptStyle, seed: int
) -> dict[str, Any]:
    """The settings on which a sample with a given key depends; stored beside the samples."""
    chat = style.chat_template
    return {
        "model": plan.base,
        "revision": plan.revision,
        # by content: a folder of the same name may hold another checkpoint tomorrow
        "weights": fingerprint(plan.base),
        "adapter": target.folder,
        "adapter_weights": fingerprint(target.folder),
        "served": target.kind,
        "engine": plan.engine,
        "dtype": plan.dtype,
        "temperature": plan.sampling.temperature,
        "top_p": plan.sampling.top_p,
        "max_tokens": plan.sampling.max_len,
        "stop_token_ids": list(plan.sampling.stop_token_ids) or None,
        "seed": seed,
        "prompt": style.template,
        "system": style.system,
        "chat_template": chat and hashlib.sha256(chat.encode()).hexdigest(),
    }


def served(target: Target, wanted: str) -> Target:
    """The target as vLLM will serve it. Raises: ConfigError for a LoRA that is none."""
    import torch

    # on a CPU merged weights generate faster; on a GPU serving the adapter spares loading the model
    # again
    merge = wanted == "merged" or (wanted == "auto" and not torch.cuda.is_available())
    if target.kind == "lora" and merge:
        return Target(target.name, target.folder, "merged")
    if target.kind == "merged" and wanted == "lora":
        raise ConfigError(
            f"--adapters-as lora: {target.name} is not a plain LoRA adapter; leave this out"
        )
    return target


def _load(args: argparse.Namespace, base: str) -> tuple[Any, Any]:
    """(model's config, tokenizer). Raises: ConfigError when there is no such model."""
    from transformers import AutoConfig, AutoTokenizer

    options = {"revision": args.revision, "trust_remote_code": args.trust_remote_code}
    try:
        config = AutoConfig.from_pretrained(base, **options)
        return config, AutoTokenizer.from_pretrained(base, **options)
    except (OSError, ValueError, json.JSONDecodeError) as error:
        reason = first_line(error)
        raise ConfigError(
            f"--model {base}: no model can be loaded from there ({reason}); give a transformers"
            " folder, an adapter folder, or a hub id that this machine can reach"
        ) from error


def _stops(
    args: argparse.Namespace, base: str, config: Any, tokenizer: Any, style: PromptStyle
) -> tuple[int, ...]:
    """The tokens that end a response besides the model's own; says where a turn's end is none."""
    from transformers import GenerationConfig

    stops = stop_ids(args.stop, args.stop_token_ids, tokenizer, ("--stop", "--stop-token-ids"))
    try:
        settings = GenerationConfig.from_pretrained(base, revision=args.revision)
    except OSError:  # no generation_config.json
        settings = GenerationConfig.from_model_config(config)
    token = missing_end(settings, tokenizer, style.chat_template, stops)
    if token is not None:
        logger.warning(unended(token, f"give --stop {shlex.quote(token)}"))
    return stops


def _context(max_tokens: int | None, prompts: dict[Any, list[int]], config: Any) -> tuple[int, int]:
    """(context, longest response) in tokens."""
    (_, problem), ids = max(prompts.items(), key=lambda item: len(item[1]))
    # some models state no limit: state-space models and some remote code
    longest, room = len(ids), context_len(config)
    if room is None:
        return longest + (max_tokens or LONGEST), max_tokens or LONGEST
    if longest + (max_tokens or 1) > room:
        raise ConfigError(
            f"--max-tokens {max_tokens or 1}: with problem {problem}'s prompt of {longest} tokens"
            f" more than the model's {room}; at most {max(room - longest, 0)} are left"
        )
    chosen = max_tokens or min(LONGEST, room - longest)
    return longest + chosen, chosen


def _dtype(wanted: str, config: Any) -> str:
    if wanted != "auto":
        return wanted
    stored = getattr(config, "dtype", None)
    return str(stored).removeprefix("torch.") if stored is not None else "float32"


def _engine(wanted: str) -> str:
    """The engine that samples. Raises: ConfigError where it is not installed."""
    if wanted == "vllm" and not is_vllm_installed():
        raise ConfigError(
            "--engine vllm: vLLM is not installed; pip install 'rlvr[vllm]' (without a GPU: make"
            " install), or use --engine transformers"
        )
    reason = why_not_vllm() if wanted == "auto" else None
    if reason is not None:
        logger.warning(reason)
    return choose_engine(wanted)
