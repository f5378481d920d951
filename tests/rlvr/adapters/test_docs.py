"""The documentation's table against the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from transformers import Qwen2Config

from rlvr.adapters import METHODS
from rlvr.adapters.budget import count_parameters
from rlvr.config import AdapterConfig

TEXT = (Path(__file__).parents[3] / "docs" / "adapters.md").read_text()
ROWS = {m[1]: m[2] for m in re.finditer(r"^\| `(\w+)` \|.*\| ([\d,]+) \|$", TEXT, re.MULTILINE)}
BLOCKS = {"boft"}  # its layers cannot be made without memory


def test_the_documentation_lists_exactly_the_methods_that_exist():
    assert list(ROWS) == list(METHODS)


@pytest.mark.slow
@pytest.mark.parametrize("method", sorted(METHODS.keys() - BLOCKS))
def test_the_documented_counts_are_the_real_ones(method):
    shape = Qwen2Config(
        vocab_size=151936,
        hidden_size=1536,
        intermediate_size=8960,
        num_hidden_layers=28,
        num_attention_heads=12,
        num_key_value_heads=2,
        tie_word_embeddings=False,
    )
    rank = {"rank": 32} if "rank" in METHODS[method].options else {}
    count = count_parameters(METHODS[method], AdapterConfig(method=method, **rank), shape)
    assert f"{count:,}" == ROWS[method]
