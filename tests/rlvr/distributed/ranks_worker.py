"""Two ranks out of one process: train recipes and resume run folders, one after another.

Arguments: .toml files to train by, run folders to resume, a .json file for what the ranks saw of
each other, .pt files named after a way to hold parts for what training so gives; the last two by a
recipe beside them. The ranks are forked when everything is imported, which takes half the time of a
launcher.
"""

import json
import math
import os
import signal
import socket
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from rewards import Gold, Verifier
from rlvr.algorithm.entropy_control import EntropyControl
from rlvr.common.errors import ConfigError, RunError
from rlvr.common.signals import Stopped
from rlvr.config.toml import load_recipe
from rlvr.config.train import TrainRecipe
from rlvr.data.problems import Problem
from rlvr.distributed import world as world_module
from rlvr.distributed.world import World, join_world
from rlvr.engines.transformers import TransformersEngine
from rlvr.training import loop as train
from rlvr.training.batch import UpdateConfig, make_batch
from rlvr.training.build import make_sampler
from rlvr.training.update import update
from tests.rlvr.cases import make_groups
from tests.rlvr.distributed import sharding_worker


def fail(mine: Exception | None) -> None:
    if mine is not None:
        raise mine


def raised(world: World) -> list[str]:
    """What this rank raises when rank 1 fails in three ways, and when rank 0 is stopped too."""
    died, stopped = RunError("the engine died"), Stopped(signal.SIGTERM)
    cases = [(None, died), (None, ConfigError("no such file")), (None, stopped), (stopped, died)]
    seen = []
    for case in cases:
        try:
            world.on_all_ranks(partial(fail, case[world.rank]))
        except (RunError, ConfigError, Stopped) as error:
            seen.append(f"{type(error).__name__}: {error}")
    return seen


def gradients(world: World, bucket_elements: int) -> dict[str, list | None]:
    """Gradients by name after the sum; on rank r those of c are r + 1."""
    world_module.BUCKET_ELEMENTS = bucket_elements
    a, b = (torch.nn.Parameter(torch.zeros(3)) for _ in range(2))
    c = torch.nn.Parameter(torch.zeros(2, 1, dtype=torch.bfloat16))
    if world.is_main:
        a.grad = torch.tensor([1.0, 2.0, 3.0])
    c.grad = torch.full_like(c, world.rank + 1)
    world.sum_gradients([a, b, c])
    found = {"a": a, "b": b, "c": c}
    return {name: None if p.grad is None else p.grad.tolist() for name, p in found.items()}


def not_finite(recipe: TrainRecipe, world: World) -> dict[str, float]:
    """What an update does to which one row, on one of the ranks, brings a loss of nan."""
    policy, optimizer = sharding_worker.start(recipe, world)
    groups = make_groups()
    before = [p.detach().clone() for p in policy.trainable]
    batch = make_batch(groups, policy, UpdateConfig.of(recipe))
    entropy = EntropyControl(recipe.algorithm)
    batch.advantages_PG[0][0] = math.nan
    stats = update(policy, optimizer, batch, UpdateConfig.of(recipe), 0, entropy).metrics
    moved = [(p - start).abs().max() for p, start in zip(policy.trainable, before, strict=True)]
    return {"skipped": stats["optim/skipped"], "moved": float(max(moved))}


class Recording(TransformersEngine):
    """Remembers how many responses it was asked for."""

    num_asked = 0

    def open(self, sampling):
        session = super().open(sampling)
        add = session.add

        def count(requests):
            self.num_asked += len(requests)
            add(requests)

        session.add = count
        return session


def shared_out(recipe: TrainRecipe, met: dict[str, float], world: World) -> dict[str, Any]:
    """What one collection of six groups asks of this rank's engine, and what it logs of balance.

    met: mean lengths of the problems' responses so far; some had none.
    """
    policy, _ = sharding_worker.start(recipe, world)
    engine = Recording(policy)
    problems = [Problem(f"p{i}", (), "7", Gold.parse("7")) for i in range(6)]
    with Verifier(answer_mode="last_number", num_workers=1) as verifier:
        prompts = [[2, 3]] * 6
        parts = (engine, verifier, policy.decode)
        sampler = make_sampler(recipe, problems, prompts, *parts, world=world)
        sampler.load_state(sampler.state() | {"lengths": met})
        got = sampler.collect(0)
    means = {g.problem_id: g.num_tokens / len(g.responses) for g in got.groups}
    return {
        "num_asked": engine.num_asked,
        "imbalance": got.metrics["rollout/imbalance"],
        "order": [group.problem_id for group in got.groups],
        "learned": sampler.state()["lengths"] == met | means,
    }


def paused(recipe: TrainRecipe, world: World) -> list[Any]:
    """What three steps of partial rollouts train on and leave for the next."""
    policy, _ = sharding_worker.start(recipe, world)
    sizes = {"partial": True, "prompts_per_step": 2, "max_response_len": 40}
    sizes["stop_token_ids"] = tuple(range(2, 5))  # so that responses end at different ticks
    # a seed by which the third step trains on what an earlier one began, and leaves something
    seeded = recipe.train.model_copy(update={"seed": 5})
    rollout = recipe.rollout.model_copy(update=sizes)
    recipe = recipe.model_copy(update={"rollout": rollout, "train": seeded})
    problems = [Problem(f"p{i}", (), "7", Gold.parse("7")) for i in range(6)]
    prompts = [[2, 3 + i] for i in range(6)]
    with Verifier(answer_mode="last_number", num_workers=1) as verifier:
        parts = (TransformersEngine(policy), verifier, policy.decode)
        sampler = make_sampler(recipe, problems, prompts, *parts, world=world)
        steps = [sampler.collect(step) for step in range(3)]
        spans = [[group.spans() for group in step.groups] for step in steps]
        left = [
            [
                one["index"],
                sorted(one["ended"]),
                [len(x["token_ids"]) for x in one["begun"].values()],
            ]
            for one in sampler.state()["paused"]
        ]
    return [spans, left]


def stopped(world: World) -> list[str]:
    """What stops this rank when rank 1 alone is told to, at its third safe point."""
    seen = []
    for width in (1, 2):
        told = iter([None, None, Stopped(signal.SIGTERM) if world.rank else None])
        check = world.synchronized_stop(lambda told=told: fail(next(told)), width)
        try:
            for _ in range(3):
                check()
            seen.append("goes on")
        except Stopped as stopped:
            seen.append(str(stopped))
    return seen


def write_facts(path: Path, world: World) -> None:
    recipe = load_recipe(path.with_suffix(".toml"), [], TrainRecipe)
    met = {"p0": 900.0, "p1": 10.0, "p4": 10.0, "p5": 10.0}
    facts = {
        "raised": world.gather(raised(world)),
        "stopped": world.gather(stopped(world)),
        "shared_out": world.gather(shared_out(recipe, met, world)),
        "paused": world.gather(paused(recipe, world)),
        "not_finite": world.gather(not_finite(recipe, world)),
        "gradients": [*world.gather(gradients(world, 1)), *world.gather(gradients(world, 1 << 26))],
    }
    if world.is_main:
        path.write_text(json.dumps(facts))


def train_sharded(path: Path, world: World) -> None:
    recipe = load_recipe(path.with_suffix(".toml"), [], TrainRecipe)
    os.environ |= sharding_worker.WAYS[path.stem]
    found = sharding_worker.train(recipe, path.with_suffix(".run"), world)
    for name in sharding_worker.WAYS[path.stem]:
        del os.environ[name]
    if world.is_main:
        torch.save(found, path)


def fork(num_ranks: int) -> None:
    """Returns in each rank, which a launcher would have told the same; else ends with theirs."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    count = str(num_ranks)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "OMP_NUM_THREADS": "1"}
    children = []
    for rank in range(num_ranks):
        child = os.fork()
        if child == 0:
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            signal.alarm(240)
            return
        children.append(child)
    for _ in children:
        child, status = os.wait()
        if status:
            for other in children:
                with suppress(ProcessLookupError):
                    os.kill(other, signal.SIGKILL)
            sys.exit(1)
    sys.exit(0)


def main() -> None:
    fork(2)
    world = join_world()
    torch.set_num_threads(1)
    console = Console(quiet=True)
    for path in map(Path, sys.argv[1:]):
        if path.suffix == ".json":
            write_facts(path, world)
        elif path.suffix == ".pt":
            train_sharded(path, world)
        elif path.suffix == ".toml":
            train.train(load_recipe(path, [], TrainRecipe), path, console, world=world)
        else:
            train.resume(path, console, world=world)
    world.shutdown()


if __name__ == "__main__":
    main()
