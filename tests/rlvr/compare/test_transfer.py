"""The law of learning rates on constructed searches with known exponents."""

import math

import numpy as np
import pytest

from rlvr.common.errors import ConfigError
from rlvr.compare.learning_rate.transfer import (
    PastSearch,
    describe_laws,
    fit_power_law,
    fit_width_law,
    recall,
    remember,
)

POWERS = {"rank": -0.4, "batch": 0.5, "steps": -0.3, "num_params": -0.2}


def made(rng=None, noise=0.0, count=24) -> list[PastSearch]:
    """Searches that follow lr = 0.5 x the product of powers, times exp(noise)."""
    draw = np.random.default_rng(0)
    finds = []
    for _ in range(count):
        values = {
            "rank": int(draw.choice([4, 8, 16, 32, 64])),
            "batch": int(draw.choice([64, 128, 256])),
            "steps": int(draw.choice([20, 80, 320])),
            "num_params": int(draw.choice([700_000, 5_000_000, 100_000_000])),
        }
        log = math.log(0.5) + sum(POWERS[name] * math.log(v) for name, v in values.items())
        log += noise * rng.standard_normal() if rng is not None else 0.0
        finds.append(PastSearch("lora", math.exp(log), width=128, **values))
    return finds


def test_known_exponents_come_back():
    law = fit_power_law(made())
    assert law.c == pytest.approx(0.5)
    assert law.powers == pytest.approx(POWERS)
    assert law.loo_factor == pytest.approx(1.0)


def test_a_feature_that_does_not_vary_gets_no_power():
    finds = [f for f in made() if f.batch == 128]
    assert "batch" not in fit_power_law(finds).powers


def test_the_prediction_interval_holds_19_of_20_new_searches():
    rng, inside = np.random.default_rng(1), 0
    truth = made()[0]
    features = {n: float(getattr(truth, n)) for n in POWERS}
    for _ in range(600):
        prediction = fit_power_law(made(rng, 0.3)).predict(features)
        new = truth.lr * math.exp(0.3 * rng.standard_normal())
        inside += prediction.lo <= new <= prediction.hi
    assert 0.93 <= inside / 600 <= 0.97


def test_the_leave_one_out_error_is_that_of_fitting_without_each_search():
    finds = made(np.random.default_rng(2), 0.3, count=12)
    errors = []
    for i, find in enumerate(finds):
        law = fit_power_law(finds[:i] + finds[i + 1 :])
        guess = law.predict({n: float(getattr(find, n)) for n in POWERS}).lr
        errors.append(abs(math.log(guess / find.lr)))
    assert fit_power_law(finds).loo_factor == pytest.approx(math.exp(np.mean(errors)))


def test_outside_the_fitted_range_it_warns():
    law = fit_power_law(made())
    features = {"rank": 32.0, "batch": 128.0, "steps": 80.0, "num_params": 7e9}
    (warning,) = law.predict(features).outside
    assert "num_params = 7e+09" in warning
    assert any("outside the fitted range" in line for line in describe_laws(made(), PastSearch(
        "lora", 1e-4, 32, 128, 80, 7_000_000_000, 3584
    )))  # fmt: skip


@pytest.mark.parametrize(
    ("finds", "reason"),
    [
        (made(count=4), "searches"),
        (
            [PastSearch("lora", 1e-3 / r, r, 64 * r, 20, 7, 128) for r in (4, 8, 16, 32)],
            "vary together",
        ),
    ],
)
def test_too_little_is_said_and_not_fitted(finds, reason):
    with pytest.raises(ValueError, match=reason):
        fit_power_law(finds)
    assert reason in describe_laws(finds, finds[0])[0]


def test_mutransfer_scales_with_one_over_width():
    finds = [
        PastSearch("full", 0.1 / width, 0, 128, 80, width**2, width) for width in (64, 128, 512)
    ]
    law = fit_width_law(finds)
    assert law.predict(256) == pytest.approx(0.1 / 256)
    assert law.loo_factor == pytest.approx(1.0)


def test_the_store_keeps_searches_once_and_names_a_bad_line(tmp_path):
    path = tmp_path / "cache" / "lr_finds.jsonl"
    finds = made(count=3)
    for find in [*finds, finds[0]]:
        remember(find, path)
    assert recall(path) == finds
    assert recall(path, "dora") == []
    path.write_text(path.read_text() + "{broken\n")
    with pytest.raises(ConfigError, match="line 4"):
        recall(path)
