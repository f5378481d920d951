"""The table of docs/adapters.md: `python -m rlvr.adapters.table` prints it."""

from __future__ import annotations

import re
from typing import Any

from rlvr.adapters import METHODS
from rlvr.adapters.base import DEFAULT_RANK, Method
from rlvr.adapters.budget import count_parameters
from rlvr.config.train import AdapterConfig

HEAD = "| method | paper | trains | merges | sync | trainable |\n|---|---|---|---|---|---:|"


def reference_shape() -> Any:
    """The transformers config of DeepSeek-R1-Distill-Qwen-1.5B."""
    from transformers import Qwen2Config

    return Qwen2Config(
        vocab_size=151936,
        hidden_size=1536,
        intermediate_size=8960,
        num_hidden_layers=28,
        num_attention_heads=12,
        num_key_value_heads=2,
        tie_word_embeddings=False,
    )


def row(method: Method, shape: Any) -> str:
    """One line: the method, and what it trains at rank 32 on a model of this shape."""
    config = AdapterConfig(method=method.name)
    if "rank" in method.options:
        config = AdapterConfig(method=method.name, rank=DEFAULT_RANK)
    count = count_parameters(method, config, shape)
    arxiv = re.fullmatch(r"\d{4}\.\d{5}", method.paper)
    paper = f"[{method.paper}](https://arxiv.org/abs/{method.paper})" if arxiv else method.paper
    syncs = ", ".join(method.syncs) or "transformers engine only"
    merges = "yes" if method.merges else "no"
    return f"| `{method.name}` | {paper} | {method.trains} | {merges} | {syncs} | {count:,} |"


if __name__ == "__main__":
    print(HEAD)
    for _method in METHODS.values():
        print(row(_method, reference_shape()))
