"""One base in memory for every policy: no method writes into what the others read."""

import pytest
import torch

from rlvr.adapters import METHODS
from rlvr.policy.language_model import load_base
from rlvr.policy.shared_base import sharing_bases
from tests.rlvr.adapters.trained import make


@pytest.mark.parametrize("method", METHODS)
def test_no_method_changes_the_base_that_others_share(make_recipe, method):
    recipe = make_recipe()
    with sharing_bases():
        base = load_base(recipe.model, recipe.model.path)[0]
        before = {name: value.clone() for name, value in base.state_dict().items()}
        alone = make(make_recipe, method)
        alone.train(2)
        moved = [p for p in alone.policy.trainable if p.grad is not None or p.requires_grad]
        assert moved
        for name, value in base.state_dict().items():
            assert torch.equal(value, before[name]), name


def test_a_second_policy_takes_no_second_base(make_recipe):
    recipe = make_recipe()
    with sharing_bases():
        first, second = (load_base(recipe.model, recipe.model.path)[0] for _ in range(2))
    ours = {name: p.data_ptr() for name, p in first.named_parameters()}
    assert ours == {name: p.data_ptr() for name, p in second.named_parameters()}
    assert not {id(p) for p in first.parameters()} & {id(p) for p in second.parameters()}
