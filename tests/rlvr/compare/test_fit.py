"""The parabola and its vertex on constructed points whose truth is known."""

import math

import numpy as np
import pytest

from rlvr.compare.learning_rate.fit import fit_parabola, means_by_lr, near_best
from rlvr.compare.learning_rate.grid import between, nearest, rate
from rlvr.compare.results import RatePoint

LRS = [rate(k) for k in range(-14, -9)]
VERTEX = 1.2e-3


def points(seeds=(0, 1), curvature=-0.02, noise=0.0, rng=None, lrs=LRS, vertex=VERTEX):
    """Values of a parabola in ln lr with its peak of 0.6 at `vertex`; seed s lies 0.05 s higher."""
    return [
        RatePoint(
            lr,
            seed,
            0.6
            + 0.05 * seed
            + curvature * (math.log(lr / vertex)) ** 2
            + (noise * rng.standard_normal() if rng else 0.0),
            20,
            None,
        )
        for lr in lrs
        for seed in seeds
    ]


def test_an_exact_parabola_gives_its_vertex_peak_and_coefficients():
    fit = fit_parabola(points())
    assert fit is not None
    assert fit.vertex_lr == pytest.approx(VERTEX)
    assert fit.ci95 == pytest.approx([VERTEX, VERTEX], rel=1e-4)
    assert fit.peak == pytest.approx(0.625), "the mean of both seeds"
    assert fit.r2 == pytest.approx(1.0)
    u = math.log(5e-4)
    c0, c1, c2 = fit.coefficients
    expected = 0.625 - 0.02 * math.log(5e-4 / VERTEX) ** 2
    assert c0 + c1 * u + c2 * u * u == pytest.approx(expected)


def test_a_seed_that_lies_higher_does_not_move_the_vertex_even_where_it_has_fewer_points():
    uneven = [p for p in points() if p.seed == 0 or p.lr < 1e-3]
    fit = fit_parabola(uneven)
    assert fit is not None
    assert fit.vertex_lr == pytest.approx(VERTEX)


@pytest.mark.parametrize("noise", [0.004, 0.01])
def test_the_interval_of_the_vertex_covers_it_19_times_in_20(noise):
    rng, covered = np.random.default_rng(0), 0
    for _ in range(1000):
        fit = fit_parabola(points(noise=noise, rng=rng))
        covered += fit is None or fit.ci95[0] <= VERTEX <= fit.ci95[1]
    assert 0.93 <= covered / 1000 <= 0.97, "no fit is an interval without ends: it covers"


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (points(curvature=0.02), "a minimum has no best rate"),
        (points(curvature=0.0, noise=0.02, rng=np.random.default_rng(1)), "flat within noise"),
        (points(lrs=LRS[:2]), "two rates"),
        (points(seeds=(0,), lrs=LRS[:3]), "no degree of freedom left"),
    ],
)
def test_no_fit_where_no_maximum_shows(made, why):
    assert fit_parabola(made) is None, why


def test_rates_that_diverged_and_rates_far_from_the_best_are_left_out_of_the_fit():
    made = points(lrs=[rate(k) for k in range(-20, -8)])
    made.append(RatePoint(rate(-8), 0, 0.9, 4, "kl"))
    assert rate(-8) not in means_by_lr(made)
    lrs = {p.lr for p in near_best(made, 5.7)}
    assert lrs == {rate(k) for k in range(-15, -8)}, "three steps on either side of rate(-12)"


def test_the_grid_has_four_rates_in_a_decade_and_equal_rates_are_equal_numbers():
    assert between(1e-3, 1e-2) == [0.001, 0.001778, 0.003162, 0.005623, 0.01]
    assert all(nearest(rate(k)) == k for k in range(-30, 1))
