"""How often the interval of a search's vertex holds the true one, on simulated curves.

    python -m tests.benchmarks.vertex_coverage

A search adds seeds until its interval is narrow, so an interval that is narrow by luck ends it: it
covers less than one of a fixed number of runs.
"""

import argparse
import math

import numpy as np

from rlvr.compare.learning_rate.find import LrFind, RateSearch, conclude
from rlvr.compare.learning_rate.grid import rate
from rlvr.compare.results import RatePoint
from rlvr.config.compare import FindConfig

CURVATURE = -0.02
"""Of the held-out accuracy, per squared nat of the rate; the quickstart's are -0.05 to -0.12."""
SEED_SD = 0.01


def simulate(noise: float, rng: np.random.Generator) -> tuple[LrFind, float]:
    """A search around a centre within one grid step of the best rate, and that rate."""
    config = FindConfig()
    best = 1e-3 * 10 ** rng.uniform(-0.25, 0.25)
    heights = 0.65 + SEED_SD * rng.standard_normal(len(config.seeds))
    search = RateSearch(1e-3, config)
    while runs := search.next_runs():
        search.points += [
            RatePoint(rate(k), seed, heights[seed] + CURVATURE * math.log(rate(k) / best) ** 2
                  + noise * rng.standard_normal(), 20, None)
            for k, seed in runs
        ]  # fmt: skip
    return conclude("lora", "lora", 32, None, search.points, config), best


def main() -> None:
    """Prints a line per noise."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--searches", type=int, default=500)
    parser.add_argument("--noise", type=float, nargs="*", default=[0.004, 0.01, 0.02])
    args = parser.parse_args()
    for noise in args.noise:
        found = [simulate(noise, np.random.default_rng(i)) for i in range(args.searches)]
        fits = [(f.fit, best) for f, best in found if f.chosen_by == "fit" and f.fit is not None]
        covered = np.mean([fit.ci95[0] <= best <= fit.ci95[1] for fit, best in fits])
        factors = [math.exp(abs(math.log(f.chosen_lr / best))) for f, best in found]
        print(
            f"noise {noise:g}: believed {len(fits) / len(found):.2f}, covered {covered:.3f}, runs"
            f" {np.mean([len(f.points) for f, _ in found]):.1f}, factor of the chosen rate, 95th"
            f" percentile {np.quantile(factors, 0.95):.2f}"
        )


if __name__ == "__main__":
    main()
