"""Breaks the real vLLM in the middle of a run and compares with a run in which it lives.

vLLM's own step raises once, as it does when a kernel fails; the run must start another engine and
end with the same weights and metrics. Exit code 0 when it does.

    python -m tests.faults.engine
"""

import argparse
import sys
import tempfile
from pathlib import Path

from tests.faults.tiny_run import read_metrics, write_recipe

STEPS = 3


def run(recipe: Path, name: str, end=None) -> Path:
    """Trains with vLLM; the run folder."""
    from rich.console import Console

    from rlvr.config.toml import load_recipe
    from rlvr.config.train import TrainRecipe
    from rlvr.training.loop import train

    words = ["--run.name", name, "--rollout.engine", "vllm"]
    return train(load_recipe(recipe, words, TrainRecipe), recipe, Console(), end=end)


def break_vllm(step: int, _metrics: dict[str, float]) -> bool:
    """Lets the tenth decoding step after the first training step raise."""
    if step == 1:
        from vllm.v1.engine.llm_engine import LLMEngine

        whole, calls = LLMEngine.step, []

        def fails_once(engine):
            calls.append(1)
            if len(calls) == 10:
                raise RuntimeError("CUDA error: an illegal memory access was encountered")
            return whole(engine)

        LLMEngine.step = fails_once
    return False


def main() -> int:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    from rlvr.common.environment import set_environment

    set_environment()
    with tempfile.TemporaryDirectory(prefix="rlvr-engine-") as folder:
        recipe = write_recipe(Path(folder), STEPS, checkpoint_every=1, eval_every=2)
        calm = run(recipe, "calm")
        broken = run(recipe, "broken", break_vllm)
        weights = Path("checkpoints") / f"step_{STEPS}" / "adapter_model.safetensors"
        same = (calm / weights).read_bytes() == (broken / weights).read_bytes()
        same = same and read_metrics(calm) == read_metrics(broken)
    print("the run with a new engine ended as the calm one" if same else "DIFFERENT")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
