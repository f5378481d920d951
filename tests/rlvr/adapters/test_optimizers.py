"""Optimizers by name, and the entropy bonus's controller."""

import sys

import pytest
import torch

from rlvr.adapters import METHODS
from rlvr.adapters.optimizers import build_optimizer
from rlvr.algorithm.entropy_control import EntropyControl
from rlvr.common.errors import ConfigError
from rlvr.config.algorithm import AlgorithmConfig
from rlvr.config.train import OptimConfig
from rlvr.training.preflight import check_optimizer


def parameter():
    return torch.nn.Parameter(torch.full((64, 128), 2.0))


@pytest.mark.parametrize("name", ["adamw", "adamw_8bit"])
def test_the_first_step_moves_every_weight_by_the_learning_rate(name):
    if name != "adamw":
        pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    weight = parameter()
    optimizer = build_optimizer([weight], OptimConfig(lr=0.125, name=name))
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    torch.testing.assert_close(weight.detach(), torch.full_like(weight, 1.875))


def test_parameter_groups_keep_their_own_learning_rate():
    a, b = parameter(), parameter()
    groups = [{"params": [a]}, {"params": [b], "lr": 0.5}]
    optimizer = build_optimizer(groups, OptimConfig(lr=0.25))
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.5]


def test_a_missing_package_is_one_clear_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ConfigError, match=r"pip install 'rlvr\[quantized\]'") as error:
        check_optimizer(METHODS["lora"], OptimConfig(lr=0.1, name="adamw_8bit"))
    assert "\n" not in str(error.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU can page")
def test_a_paged_optimizer_without_a_gpu_is_refused():
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    with pytest.raises(ConfigError, match="needs a GPU"):
        check_optimizer(METHODS["lora"], OptimConfig(lr=0.1, name="paged_adamw"))


def test_the_entropy_coefficient_is_steered_towards_the_target():
    config = AlgorithmConfig(
        entropy_coef=0.25, entropy_target=0.5, entropy_coef_step=0.25, entropy_coef_max=0.75
    )
    control, seen = EntropyControl(config), []
    for entropy in [0.6, 0.4, 0.4, 0.4, 0.4, 0.6]:
        seen.append(control.coef)
        control.observe(entropy)
    assert seen == [0.0, 0.0, 0.25, 0.5, 0.75, 0.75]
    assert control.coef == 0.0
    again = EntropyControl(config)
    again.load_state(control.state())
    again.observe(0.4)
    assert again.coef == 0.75


def test_a_constant_entropy_coefficient_stays():
    control = EntropyControl(AlgorithmConfig(entropy_coef=0.25))
    control.observe(3.0)
    assert control.coef == 0.25
    assert not EntropyControl(AlgorithmConfig()).enabled
