"""Peak memory of `rlvr analyze` on files of a 1.5B model's shapes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

HIDDEN, INNER, KEY_VALUE, VOCAB, LAYERS = 1536, 8960, 256, 151_936, 28
SHAPES = {
    "self_attn.q_proj": (HIDDEN, HIDDEN),
    "self_attn.k_proj": (KEY_VALUE, HIDDEN),
    "self_attn.v_proj": (KEY_VALUE, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HIDDEN),
    "mlp.gate_proj": (INNER, HIDDEN),
    "mlp.up_proj": (INNER, HIDDEN),
    "mlp.down_proj": (HIDDEN, INNER),
}
MEASURE = """
import resource, sys
from rlvr.cli import main
code = main(sys.argv[1:])
print("peak_gib", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
sys.exit(code)
"""


def write_model(folder: Path, layers: range, seed: int) -> None:
    """Random bfloat16 weights of these layers; of none: embedding and untied head."""
    folder.mkdir()
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.empty(shape, dtype=torch.bfloat16).normal_(0, 0.02, generator=generator)

    outside = () if layers else ("model.embed_tokens.weight", "lm_head.weight")
    weights = {name: drawn(VOCAB, HIDDEN) for name in outside}
    for layer in layers:
        weights |= {f"model.layers.{layer}.{n}.weight": drawn(*s) for n, s in SHAPES.items()}
    save_file(weights, folder / "model.safetensors")


def peak_gib(after: Path, base: Path, out: Path) -> float:
    """Of a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, "analyze", after, "--base", base, "-o", out],
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout.split()[-1])


@pytest.mark.slow
def test_a_full_checkpoint_of_a_1_5b_model_takes_less_than_8_gib(tmp_path):
    """Embeddings and head first; then one and two of the 28 layers, and the line through both: what
    a layer leaves behind is its entries in the result."""
    peaks = []
    for layers in (range(0), range(1), range(2)):
        base, after = tmp_path / f"base{len(layers)}", tmp_path / f"after{len(layers)}"
        write_model(base, layers, seed=0)
        write_model(after, layers, seed=1)
        peaks.append(peak_gib(after, base, tmp_path / "out"))
        facts = json.loads((tmp_path / "out" / "analysis.json").read_text())
        assert len(facts["modules"]) == len(layers) * len(SHAPES)
        assert len(facts["others"]) == (0 if layers else 2)
    outside, one, two = peaks
    whole = max(outside, two) + max(two - one, 0) * (LAYERS - 2)
    print(f"outside the layers {outside:.2f}, 1 layer {one:.2f}, 2 layers {two:.2f}")
    print(f"all 28 layers at most {whole:.2f} GiB")
    assert whole < 8
