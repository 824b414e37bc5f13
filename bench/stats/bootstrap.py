"""Two models on the same images: the difference of a figure, and what it would be on other images and other seeds.

A hierarchical, paired bootstrap (Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapters 8 and 13):

* *Images* are drawn with replacement (`bench.stats.resample`), the same ones for both models and for all of their
  seeds, so that what makes an image hard for both cancels.
* *Seeds* are drawn with replacement within each model, once for every sample of images, where both have `SEEDS` or
  more. Fewer seeds do not tell their own spread, and a resample of n of them is too narrow by √((n-1)/n) and has no
  tails (of one seed it is a point): there the difference is moved instead by the seed noise that is pooled over a
  table (`ranking.Noise`), times √(1/n₁ + 1/n₂) and a draw from Student's t with the degrees of freedom that the noise
  is known with. Where no noise is known, nothing may be claimed.

A difference is one when the 95 % percentile interval of all this excludes 0. Where many are claimed together
(`bench.stats.family`), each has to be surer than 2000 samples can show, so p-values are read from the interval: it is
stretched about its middle, as that of a Student's t with the degrees of freedom that the seeds leave, until it reaches
0. At 95 % that is the interval as it is. Random numbers are seeded: equal inputs give equal intervals.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.stats.ranking import Noise, t95, tails

SEEDS = 6
"""Seeds of either model from which on their own spread is used."""
_TAIL = 2.5


@dataclass(frozen=True)
class Replicates:
    """A figure of one model: (S,) of each of its seeds on all images, and (S, R) on each of R samples of them."""

    whole: NDArray[np.float64]
    resampled: NDArray[np.float64]


@dataclass(frozen=True)
class Difference:
    """First less second, of means over seeds, and its 95 % interval; infinite ends where nothing may be claimed.

    freedom: degrees of freedom that the seeds' noise is known with.
    """

    value: float
    low: float
    high: float
    freedom: float = math.inf

    @property
    def p(self) -> float:
        """Two-sided p-value of no difference."""
        middle, half = (self.low + self.high) / 2, (self.high - self.low) / 2
        if not math.isfinite(half):
            return 1.0
        return tails(t95(self.freedom) * middle / half, self.freedom) if half else float(middle == 0)

    @property
    def different(self) -> bool:
        """Whether a difference may be claimed, if it is all that is claimed."""
        return not self.low <= 0 <= self.high


def difference(first: Replicates, second: Replicates, noise: Noise | None) -> Difference:
    """Compare two models whose samples of images are the same.

    Args:
        first: a model.
        second: what it is set against.
        noise: seed noise of the figure; used where one of the two has fewer than `SEEDS` seeds.

    Raises:
        ValueError: they have not been resampled equally often.
    """
    if first.resampled.shape[1] != second.resampled.shape[1]:
        counts = f"{first.resampled.shape[1]} and {second.resampled.shape[1]}"
        raise ValueError(f"{counts} samples of images cannot be paired; draw both with `resamples`")
    value = float(first.whole.mean() - second.whole.mean())
    n, m = len(first.whole), len(second.whole)
    if min(n, m) >= SEEDS:
        generators = np.random.default_rng([1, n]), np.random.default_rng([2, m])
        freedom = n + m - 2
        wider = t95(freedom) / t95(math.inf)
        sides = [
            _seeds_drawn(one, wider, generator) for one, generator in zip((first, second), generators, strict=True)
        ]
        drawn = sides[0] - sides[1]
    elif noise is None:
        return Difference(value, -math.inf, math.inf)
    else:
        freedom = noise.freedom
        drawn = first.resampled.mean(0) - second.resampled.mean(0)
        steps = np.random.default_rng(3).standard_t(noise.freedom, len(drawn))
        drawn = drawn + noise.sd * math.sqrt(1 / n + 1 / m) * steps
    return _of_draws(value, drawn, freedom)


def of_one_training(first: Replicates, second: Replicates) -> Difference:
    """Compare two ways to run the same weights, of one seed: between them nothing but the images is drawn."""
    value = float(first.whole.mean() - second.whole.mean())
    return _of_draws(value, first.resampled.mean(0) - second.resampled.mean(0), math.inf)


def _of_draws(value: float, drawn: NDArray[np.float64], freedom: float) -> Difference:
    known = drawn[~np.isnan(drawn)]
    if not len(known):
        return Difference(value, -math.inf, math.inf)
    low, high = np.percentile(known, [_TAIL, 100 - _TAIL])
    return Difference(value, float(low), float(high), freedom)


def _seeds_drawn(model: Replicates, wider: float, generator: np.random.Generator) -> NDArray[np.float64]:
    """(R,) mean over as many seeds as there are, drawn anew for each sample of images.

    wider: by how much wider than a normal distribution's the interval of so few seeds has to be.
    """
    count, samples = model.resampled.shape
    mean = model.resampled.mean(0)
    drawn = np.take_along_axis(model.resampled, generator.integers(0, count, (count, samples)), 0).mean(0)
    return mean + math.sqrt(count / (count - 1)) * wider * (drawn - mean)
