"""Two ranks that share a vLLM, of which rank 1 hands the old weights of some modules to its part.

Arguments: a recipe and a folder, where each rank writes what it raised, by sync mode.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from rlvr.config.toml import load_recipe
from rlvr.config.train import TrainRecipe
from rlvr.distributed.world import join_world
from rlvr.engines.vllm_local import VllmEngine
from rlvr.engines.weights.sync import Syncer, SyncError
from rlvr.policy.policy import load_policy
from tests.rlvr.engines.engine_cases import PROMPTS

STALE = "layers.0.self_attn.o_proj", "layers.1.mlp.up_proj", "layers.2.self_attn.v_proj"
"""Split by columns, and by rows of weights that vLLM holds fused."""


def main(path: str, folder: str) -> None:
    world = join_world()
    recipe = load_recipe(Path(path), [], TrainRecipe)
    model = recipe.model
    assert model.path is not None
    engine = VllmEngine(model, recipe.rollout, model.path, 8, world)
    seen = {}
    for mode in ("adapter", "merged"):
        policy = load_policy(model, recipe.adapter, model.path, 0, False, world=world)
        engine.drop_adapter()
        syncer = Syncer(recipe.rollout, policy, engine, mode, PROMPTS, world)
        syncer.sync()
        old = {n: v for n, v in policy.engine_weights() if any(s in n for s in STALE)}
        with torch.no_grad():
            for value in policy.trainable:
                value += 1e-3
        load_weights, load_adapter = engine.load_weights, engine.load_adapter
        if world.rank == 1:

            def some_old(weights, load=load_weights, old=old) -> int:
                return load([(name, old.get(name, value)) for name, value in weights])

            def some_zero(folder: Path, load=load_adapter) -> int:
                file = folder / "adapter_model.safetensors"
                weights = load_file(file)
                stale = [n for n in weights if "lora_B" in n and any(s in n for s in STALE)]
                save_file(weights | {n: torch.zeros_like(weights[n]) for n in stale}, file)
                return load(folder)

            engine.load_weights, engine.load_adapter = some_old, some_zero
        try:
            syncer.sync()
            seen[mode] = ""
        except SyncError as error:
            seen[mode] = str(error)
        engine.load_weights, engine.load_adapter = load_weights, load_adapter
    (Path(folder) / f"{world.rank}.json").write_text(json.dumps(seen))
    engine.close()
    world.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
