"""The example that people fork: it trains, and the engine answers with what was trained."""

import importlib.util
import math
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType

import pytest
import torch

from rlvr.algorithm.advantage import is_informative
from rlvr.policy.policy import TokenRow

EXAMPLE = Path(__file__).parents[2] / "examples" / "minimal_grpo.py"
STEPS = 3


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("minimal_grpo", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_stays_short_enough_to_read():
    assert len(EXAMPLE.read_text().splitlines()) <= 150


@pytest.mark.parametrize("engine", ["transformers", pytest.param("vllm", marks=pytest.mark.engine)])
def test_weights_move_and_reach_the_engine(example, make_recipe, tiny_policy, engine):
    recipe = make_recipe(
        rollout={"engine": engine, "prompts_per_step": 4},
        algorithm={"preset": "grpo"},
        sampling={"dynamic": False},
    )
    with ExitStack() as stack:
        parts = example.build(recipe, str(tiny_policy), stack)
        before = [parameter.clone() for parameter in parts.policy.trainable]
        steps = list(example.train(parts, recipe, STEPS))
        after = parts.policy.trainable
        assert len(steps) == STEPS
        assert all(0 <= reward <= 1 and math.isfinite(loss) for reward, loss in steps)
        assert any(reward > 0 for reward, _ in steps)
        assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
        row = TokenRow(parts.prompts[0][:4], parts.prompts[0][4:])
        own_T = parts.policy.logprobs([row], 1.0)[0].detach()
        scored_T = torch.tensor(parts.engine.score([parts.prompts[0]])[0][3:])
    torch.testing.assert_close(scored_T, own_T, atol=1e-3, rtol=0)


def test_the_update_raises_what_is_rewarded(example, make_recipe, tiny_policy):
    recipe = make_recipe(
        rollout={"prompts_per_step": 4},
        algorithm={"preset": "grpo", "kl_beta": 1e-4},
        sampling={"dynamic": False},
        optim={"lr": 3e-3},
    )
    with ExitStack() as stack:
        parts = example.build(recipe, str(tiny_policy), stack)
        groups = example.sample_groups(parts, recipe, step=0)
        config = example.UpdateConfig.of(recipe)
        batch = example.make_batch(groups, parts.policy, config)
        assert any(is_informative(group.rewards) for group in groups)

        def gain() -> float:
            """Sum of advantage times mean log-probability over all responses."""
            rows = [TokenRow(g.prompt_ids, r.token_ids) for g in groups for r in g.responses]
            values = [value for group in batch.advantages_PG for value in group]
            logp = [float(parts.policy.logprobs([row], 1.0)[0].mean()) for row in rows]
            return sum(value * x for value, x in zip(values, logp, strict=True))

        before = gain()
        example.update(parts, batch, config, step=0)
        assert gain() > before
