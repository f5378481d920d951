"""Checkpoints of the tiny policy, moved as training would move them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rlvr.config.train import AdapterConfig
from rlvr.policy.policy import Policy, load_policy


@pytest.fixture(scope="session")
def make_checkpoint(make_recipe, tmp_path_factory) -> Callable[..., tuple[Policy, Path]]:
    """(the live policy, the folder that it was saved to); settings as in the adapter section."""

    def make(seed: int = 0, **adapter: Any) -> tuple[Policy, Path]:
        recipe = make_recipe()
        assert recipe.model.path is not None
        given = AdapterConfig.model_validate(adapter)
        policy = load_policy(recipe.model, given, recipe.model.path, seed, False)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in policy.trainable:
                parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
        folder = tmp_path_factory.mktemp("checkpoint")
        policy.save(folder)
        return policy, folder

    return make
