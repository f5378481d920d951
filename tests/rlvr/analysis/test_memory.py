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
    """Random bfloat16 weights: embedding and untied head, and these of the 28 layers."""
    folder.mkdir()
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.empty(shape, dtype=torch.bfloat16).normal_(0, 0.02, generator=generator)

    weights = {
        name: drawn(VOCAB, HIDDEN) for name in ("model.embed_tokens.weight", "lm_head.weight")
    }
    for layer in layers:
        weights |= {f"model.layers.{layer}.{n}.weight": drawn(*s) for n, s in SHAPES.items()}
    save_file(weights, folder / "model.safetensors")


def peak_gib(after: Path, base: Path, out: Path, *words: str) -> float:
    """Of a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, "analyze", after, "--base", base, "-o", out, *words],
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout.split()[-1])


@pytest.mark.slow
def test_a_full_checkpoint_of_a_1_5b_model_takes_less_than_8_gib(tmp_path):
    """Embeddings, head and 2 of the 28 layers. The rest adds time, not memory: what is kept of a
    layer is counted, and a run on one layer peaks no lower than that."""
    base, after = tmp_path / "base", tmp_path / "after"
    write_model(base, range(2), seed=0)
    write_model(after, range(2), seed=1)
    both = peak_gib(after, base, tmp_path / "both")
    one = peak_gib(after, base, tmp_path / "one", "--layers", "0")
    two = peak_gib(after, base, tmp_path / "two", "--layers", "0,1")
    print({"all tensors": both, "one layer": one, "two layers": two})
    whole = both + max(two - one, 0) * (LAYERS - 2)
    assert whole < 8
    facts = json.loads((tmp_path / "both" / "analysis.json").read_text())
    assert len(facts["modules"]) == 2 * len(SHAPES)
    assert {entry["kind"] for entry in facts["others"]} == {"embed_tokens", "lm_head"}
