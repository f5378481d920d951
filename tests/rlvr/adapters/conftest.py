"""Policies of every method on the tiny model, and real update steps for them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from rlvr.policy.policy import TokenRow
from tests.rlvr import plain
from tests.rlvr.adapters import trained
from tests.rlvr.adapters.trained import PROMPTS, Trained


@pytest.fixture(scope="session")
def make_trained(make_recipe) -> Callable[..., Trained]:
    """A policy of a method at step 0 with its optimizer; settings as in the adapter section."""
    return functools.partial(trained.make, make_recipe)


@pytest.fixture(scope="session")
def base_logprobs(tiny_policy) -> torch.Tensor:
    """What the untouched model gives on the prompts, by transformers alone."""
    model = AutoModelForCausalLM.from_pretrained(tiny_policy, attn_implementation="eager")
    return plain.token_logprobs(model, [TokenRow(p[:1], p[1:]) for p in PROMPTS])


@pytest.fixture(scope="session")
def tiny_base(tiny_policy) -> Path:
    """Folder of the model that every method starts from."""
    return tiny_policy
