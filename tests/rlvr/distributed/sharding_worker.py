"""Trains recipes for three steps on made-up groups, whole in one process or, by torchrun, in parts.

Arguments: a folder for what comes out, one with whole runs to continue by name, recipe files.
"""

import math
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.optim import Optimizer

from rlvr.adapters.facts import module_facts
from rlvr.adapters.merge import merged_weights
from rlvr.algorithm.entropy_control import EntropyControl
from rlvr.config.toml import load_recipe
from rlvr.config.train import TrainRecipe
from rlvr.distributed import zero
from rlvr.distributed.sharded_tensors import is_sharded, num_elements
from rlvr.distributed.world import World, join_world
from rlvr.policy.policy import Policy, load_policy
from rlvr.policy.reference import prepare_reference
from rlvr.policy.sharded import shard_policy
from rlvr.runs.checkpoint import load_checkpoint, save_checkpoint
from rlvr.training.batch import UpdateConfig, make_batch
from rlvr.training.teacher import load_teacher
from rlvr.training.update import update
from tests.rlvr.cases import make_groups, make_recipe

STEPS = 3
WAYS = {
    "fsdp2": {"ACCELERATE_USE_FSDP": "true"},
    "zero2": {"ACCELERATE_USE_DEEPSPEED": "true", zero.STAGE: "2"},
    "zero3": {"ACCELERATE_USE_DEEPSPEED": "true", zero.STAGE: "3"},
}
"""What the launcher sets for recipes/accelerate/NAME.yaml."""
CASES = {
    "lora": {
        "adapter": {"method": "lora", "rank": 4},
        "train": {"activation_checkpointing": 1},
        "algorithm": {"kl_beta": 0.01, "entropy_coef": 0.01},
    },
    "full": {"algorithm": {"kl_beta": 0.01}, "optim": {"updates_per_step": 2}},
    "tied": {},
}


def case(name: str, **more: dict[str, Any]) -> TrainRecipe:
    """A recipe with more micro-batches on one rank; its eps keeps rounding from training."""
    common: dict[str, dict[str, Any]] = {
        "algorithm": {"preset": "dapo"},
        "optim": {"eps": 1e-6, "lr": 1e-3},
        "train": {"tokens_per_microbatch": 16},
    }
    own = CASES[name] | more
    return make_recipe(**{k: common.get(k, {}) | own.get(k, {}) for k in common | own})


def start(recipe: TrainRecipe, world: World) -> tuple[Policy, Optimizer]:
    """The policy at step 0 and its optimizer, as a session builds them."""
    assert recipe.model.path is not None
    policy = load_policy(
        recipe.model,
        recipe.adapter,
        recipe.model.path,
        recipe.train.seed,
        keep_reference=recipe.algorithm.kl_beta > 0,
        num_updates=STEPS,
        encode_rows=lambda _: [list(range(2, 10 + i)) for i in range(8)],
        world=world,
    )
    world.copy_from_main(policy.model)
    shard_policy(policy, recipe.optim)
    if not policy.strategy.shards_weights:
        prepare_reference(policy, recipe.algorithm)
    policy.set_checkpointing(recipe.train.activation_checkpointing)
    return policy, policy.method.optimizer(policy.model, policy.adapter, recipe.optim)


def train(recipe: TrainRecipe, folder: Path, world: World, first_step: int = 0) -> dict[str, Any]:
    """Steps up to STEPS, each with a checkpoint in the folder; metrics, weights and layout."""
    policy, optimizer = start(recipe, world)
    if first_step:
        load_checkpoint(folder / "checkpoints" / f"step_{first_step}", policy, optimizer)
    facts = module_facts(policy.model)
    metrics, left_out = [], []
    for step in range(first_step, STEPS):
        config = UpdateConfig.of(recipe)
        batch = make_batch(make_groups(), policy, config, load_teacher(recipe, policy))
        entropy = EntropyControl(recipe.algorithm)
        if step == 1:
            left_out = _spoilt(policy, optimizer, recipe)
        metrics.append(update(policy, optimizer, batch, config, step, entropy).metrics)
        with policy.gathered(optimizer, only_main=True):
            world.on_main(partial(save_checkpoint, folder, step + 1, policy, optimizer, {}))
    parameters = dict(policy.model.named_parameters())
    with policy.gathered():
        in_sync = {n: is_sharded(p) for n, p in policy.model.named_parameters()}
    return {
        "facts": facts,
        "metrics": metrics,
        "left_out": left_out,
        "weights": {name: value.clone() for name, value in merged_weights(policy.model)},
        "held": {n: (_held(p), num_elements(p)) for n, p in parameters.items()},
        "in_sync": in_sync,
    }


def _spoilt(policy: Policy, optimizer: Optimizer, recipe: TrainRecipe) -> list[bool]:
    """Whether updates are left out whose loss, on one of the ranks, or whose verdict is bad."""
    groups, entropy = make_groups(), EntropyControl(recipe.algorithm)
    batch = make_batch(groups, policy, UpdateConfig.of(recipe), load_teacher(recipe, policy))
    for values in batch.advantages_PG:
        values[0] = math.nan
    stats = update(policy, optimizer, batch, UpdateConfig.of(recipe), 0, entropy).metrics
    num_updates = min(recipe.optim.updates_per_step, len(groups))
    refused = policy.strategy.step(policy.trainable, optimizer, 1.0, valid=False)
    return [stats["optim/skipped"] == num_updates, refused is None]


@torch.no_grad()
def _held(value: Any) -> int:
    if hasattr(value, "ds_tensor"):
        return value.ds_tensor.numel()
    return (value.to_local() if is_sharded(value) else value).numel()


def main() -> None:
    world = join_world()
    torch.set_num_threads(1)
    out, whole = map(Path, sys.argv[1:3])
    for path in map(Path, sys.argv[3:]):
        recipe = load_recipe(path, [], TrainRecipe)
        found = train(recipe, out / path.stem, world)
        begun = whole / path.stem / "checkpoints" / "step_1"
        folder = out / f"continued-{path.stem}"
        world.on_main(partial(shutil.copytree, begun, folder / "checkpoints" / "step_1"))
        found["continued"] = train(recipe, folder, world, first_step=1)["weights"]
        if world.is_main:
            torch.save(found, out / f"{path.stem}.pt")
    world.shutdown()


if __name__ == "__main__":
    main()
