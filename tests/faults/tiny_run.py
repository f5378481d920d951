"""A recipe small enough to be killed many times: a random policy, made-up problems."""

import os
from pathlib import Path

from tests.rlvr import small

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")


def write_recipe(folder: Path, steps: int, checkpoint_every: int, eval_every: int) -> Path:
    """A recipe, with its policy and its problems, in `folder`; runs go to `folder`/runs.

    No benchmark file is at hand then: runs do not compare their problems with them.
    """
    os.environ["RLVR_DATA"] = str(folder)
    from rlvr.config.toml import dump_toml, validate
    from rlvr.config.train import TrainRecipe

    problems = small.write_problems(folder / "digits.jsonl")
    tree = small.recipe_tree(
        small.write_policy(folder / "policy"),
        problems,
        optim={"lr": 1e-4},
        train={"steps": steps, "checkpoint_every": checkpoint_every, "num_threads": 1},
        eval={"path": str(problems), "limit": 10, "every": eval_every},
        track={"rollouts_per_step": 8},
        run={"dir": str(folder / "runs")},
    )
    path = folder / "recipe.toml"
    path.write_text(dump_toml(validate(tree, TrainRecipe)))
    return path


def read_metrics(run: Path) -> list[dict]:
    """Every line of metrics.jsonl, without what a clock, the machine or a killed worker decides."""
    return small.steady_metrics(run, "verify/")
