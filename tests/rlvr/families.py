"""Tiny random models of many families as ordinary folders, and their log-probabilities by
transformers alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

from rlvr.data import word_problems
from rlvr.warm_start import tiny_model as tiny

_PLAIN: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": None,
}
_GROUPED = _PLAIN | {"num_key_value_heads": 1}
_GEMMA = _GROUPED | {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 8}
_LATENT = _PLAIN | {
    "num_key_value_heads": 2,
    "q_lora_rank": 8,
    "kv_lora_rank": 8,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
}
_MAMBA = {"mamba_n_heads": 4, "mamba_d_state": 8, "mamba_n_groups": 1}
_EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 16}
_STATE = {
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
_GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 256, "bos_token_id": None}

_LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
_YARN = {"rope_type": "yarn", "factor": 4.0}
_SCALED = {"rope_theta": 10000.0, "original_max_position_embeddings": 64}
_QKV = ("q_proj", "k_proj", "v_proj", "o_proj")

FAMILIES: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    "qwen3": ("qwen3", _GROUPED | {"head_dim": 16}, ("q_proj",)),
    "qwen3_tied": ("qwen3", _GROUPED | {"head_dim": 16, "tie_word_embeddings": True}, ("q_proj",)),
    "llama": ("llama", _GROUPED | {"attention_bias": True, "mlp_bias": True}, _QKV),
    "llama_tied": (
        "llama",
        _GROUPED | {"tie_word_embeddings": True, "rope_parameters": _LLAMA3 | _SCALED},
        (*_QKV, "gate_proj", "up_proj", "down_proj"),
    ),
    "qwen2": ("qwen2", _GROUPED | {"rope_parameters": _YARN | _SCALED}, _QKV),
    "qwen2_tied": ("qwen2", _GROUPED | {"tie_word_embeddings": True}, _QKV),
    "mistral": ("mistral", _GROUPED | {"sliding_window": None}, _QKV),
    "mistral_window": ("mistral", _GROUPED | {"sliding_window": 8}, _QKV),
    "phi3": ("phi3", _GROUPED, ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")),
    "olmo2": ("olmo2", _GROUPED, _QKV),
    "smollm3": (
        "smollm3",
        _GROUPED | {"tie_word_embeddings": True, "no_rope_layers": [1, 0]},
        _QKV,
    ),
    "falcon": (
        "falcon",
        {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "alibi": False}
        | {"new_decoder_architecture": True, "num_kv_heads": 1, "bos_token_id": None}
        | {"tie_word_embeddings": True, "max_position_embeddings": 256, "bias": True},
        ("query_key_value", "dense"),
    ),
    "gpt_neox": ("gpt_neox", _PLAIN, ("query_key_value", "dense", "dense_h_to_4h")),
    "qwen2_moe": (
        "qwen2_moe",
        _GROUPED | _EXPERTS | {"num_experts": 4, "shared_expert_intermediate_size": 16},
        _QKV,
    ),
    "qwen3_moe": ("qwen3_moe", _GROUPED | _EXPERTS | {"head_dim": 16, "num_experts": 4}, _QKV),
    "gemma2": (
        "gemma2",
        _GEMMA | {"final_logit_softcapping": 30.0, "attn_logit_softcapping": 2.0},
        ("q_proj",),
    ),
    "gemma3": ("gemma3_text", _GEMMA, ("q_proj",)),
    "nanochat": ("nanochat", _GROUPED, ("q_proj",)),
    "granite": ("granite", _GROUPED | {"logits_scaling": 8.0}, ("q_proj",)),
    "cohere": ("cohere", _GROUPED | {"logit_scale": 0.25}, ("q_proj",)),
    "hyperclovax": ("hyperclovax", _GROUPED | {"logits_scaling": 0.25}, ("q_proj",)),
    "minicpm3": ("minicpm3", _LATENT | {"dim_model_base": 8}, ("o_proj",)),
    "falcon_h1": (
        "falcon_h1",
        _GROUPED | _MAMBA | {"mamba_d_ssm": 32, "mamba_d_head": 8, "lm_head_multiplier": 0.5},
        ("q_proj",),
    ),
    "mpt": ("mpt", {"d_model": 32, "n_heads": 2, "n_layers": 2, "logit_scale": 0.5}, ("out_proj",)),
    "gpt2": ("gpt2", _GPT2, ("c_attn", "c_proj", "c_fc")),
    "opt": ("opt", _PLAIN | {"ffn_dim": 48, "word_embed_proj_dim": 32}, ("q_proj",)),
    "phi": ("phi", _GROUPED, ("q_proj",)),
    "lfm2": ("lfm2", _GROUPED | {"layer_types": ["conv", "full_attention"]}, ("q_proj",)),
    "qwen3_5": ("qwen3_5_text", _GROUPED | _STATE | {"head_dim": 16}, ("q_proj",)),
    "qwen3_next": (
        "qwen3_next",
        _GROUPED
        | _STATE
        | _EXPERTS
        | {"head_dim": 16, "num_experts": 4, "shared_expert_intermediate_size": 16},
        ("q_proj",),
    ),
    "mixtral": ("mixtral", _GROUPED | {"num_local_experts": 4}, ("q_proj",)),
    "deepseek_v3": (
        "deepseek_v3",
        _LATENT
        | _EXPERTS
        | {"n_routed_experts": 4, "n_shared_experts": 1, "n_group": 1, "topk_group": 1}
        | {"first_k_dense_replace": 1},
        ("o_proj",),
    ),
    "recurrent_gemma": (
        "recurrent_gemma",
        _GROUPED
        | {"num_hidden_layers": 3, "lru_width": 32, "attention_window_size": 8}
        | {"logits_soft_cap": 30.0},
        ("q_proj",),
    ),
    "mamba2": (
        "mamba2",
        {"hidden_size": 32, "num_hidden_layers": 1, "num_heads": 4, "head_dim": 16}
        | {"state_size": 8, "n_groups": 1, "chunk_size": 8},
        ("in_proj",),
    ),
}
"""Family: model type, sizes and settings, modules for an adapter."""
ALWAYS_TIED = {"gemma2", "gemma3", "cohere"}
"""Families that vLLM takes with one weight for both ends only."""


def write_family(family: str, folder: Path, **settings: Any) -> Path:
    """A random model of the family with logits of the size of real ones, and a tokenizer."""
    kind, sizes, _ = FAMILIES[family]
    tokenizer = tiny.build_tokenizer(
        [row["problem"] for row in word_problems.generate("sft", 100, seed=0)]
    )
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    sizes = {"vocab_size": len(tokenizer), "tie_word_embeddings": False} | ends | sizes | settings
    return write_model(AutoModelForCausalLM.from_config(_config(kind, sizes)), tokenizer, folder)


def _config(kind: str, sizes: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    return AutoConfig.for_model(kind, **sizes)


def write_model(model: Any, tokenizer: Any, folder: Path) -> Path:
    """Draws the model's weights large enough and writes it with its tokenizer."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                nn.init.normal_(parameter, std=0.15)
        # a tied head as large would say the last token again and again
        is_tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
        model.get_output_embeddings().weight.mul_(2 if is_tied else 8)
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@torch.no_grad()
def true_logprobs(
    causal_lm: Any, rows: Sequence[tuple[list[int], list[int]]], temperature: float = 1.0
) -> torch.Tensor:
    """[T] log-probabilities of the responses' tokens by the model's own forward pass, row by
    row."""
    parts = []
    for prompt_ids, response_ids in rows:
        ids = torch.tensor([prompt_ids + response_ids])
        logits_LV = causal_lm(input_ids=ids, use_cache=False).logits[0].float() / temperature
        logp_LV = logits_LV - logits_LV.exp().sum(-1, keepdim=True).log()
        at = range(len(prompt_ids) - 1, len(prompt_ids) - 1 + len(response_ids))
        parts += [logp_LV[i, token] for i, token in zip(at, response_ids, strict=True)]
    return torch.stack(parts)
