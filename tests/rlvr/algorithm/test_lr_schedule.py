"""Learning-rate schedules by hand."""

import pytest

from rlvr.algorithm.lr_schedule import lr_at
from rlvr.config.train import OptimConfig

TABLE = [
    ("constant", 0, [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]),
    ("constant", 4, [0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 1, 1]),
    ("linear", 0, [1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]),
    ("linear", 5, [0.2, 0.4, 0.6, 0.8, 1, 1, 0.8, 0.6, 0.4, 0.2]),
    ("wsd", 2, [0.5, 1, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25]),
]


@pytest.mark.parametrize(("schedule", "warmup_steps", "factors"), TABLE)
def test_a_schedule_takes_these_values_over_ten_steps(schedule, warmup_steps, factors):
    config = OptimConfig(lr=0.01, schedule=schedule, warmup_steps=warmup_steps, decay_frac=0.4)
    got = [lr_at(step, config, 10) for step in range(10)]
    assert got == pytest.approx([0.01 * f for f in factors])


def test_cosine_is_half_way_down_at_half_time():
    config = OptimConfig(lr=0.01, schedule="cosine")
    assert lr_at(0, config, 10) == 0.01
    assert lr_at(5, config, 10) == pytest.approx(0.005)
