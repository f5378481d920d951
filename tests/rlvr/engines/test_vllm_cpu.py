"""What vLLM on a CPU computes with our changes, against plain sums."""

from __future__ import annotations

import pytest
import torch

from rlvr.engines.vllm_cpu import multiply_by_adapter

pytest.importorskip("vllm")

SIZES, INPUTS, RANK = (6, 2, 2), 5, 3
"""Outputs of a fused layer's parts, as of queries, keys and values."""


@pytest.mark.parametrize("places", [[1, 1, 1, 1], [2, -1, 0, 2], [-1, -1, -1, -1], [0, 1, 2, -1]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_token_gets_the_update_of_its_own_adapter_and_no_other(places, dtype):
    from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

    multiply_by_adapter()
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(len(places), INPUTS, generator=draw).to(dtype)
    before = torch.randn(len(places), sum(SIZES), generator=draw).to(dtype)
    a = [torch.randn(3, 1, RANK, INPUTS, generator=draw).to(dtype) for _ in SIZES]
    b = [torch.randn(3, 1, size, RANK, generator=draw).to(dtype) for size in SIZES]
    wrapper = PunicaWrapperCPU(16, 4, "cpu")
    wrapper._token_lora_indices[: len(places)] = torch.tensor(places)
    wrapper.indices_len[0] = len(places)
    after = before.clone()
    wrapper.add_lora_linear(after, x, tuple(a), tuple(b), 0.5, SIZES)
    wanted = before.double()
    for token, place in enumerate(places):
        if place >= 0:
            parts = [0.5 * bb[place, 0].double() @ (aa[place, 0].double() @ x[token].double())
                     for aa, bb in zip(a, b, strict=True)]  # fmt: skip
            wanted[token] += torch.cat(parts)
    assert after.double() == pytest.approx(wanted, abs=1e-5 if dtype == torch.float32 else 0.1)
    untouched = [i for i, place in enumerate(places) if place < 0]
    assert torch.equal(after[untouched], before[untouched])
