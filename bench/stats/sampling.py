"""What samples taken in rounds say: medians with their confidence, ratios of cells, and what cannot be told apart.

Two cells that are timed in the same rounds (A B C, A B C, …) see the same weather, so the logarithm of their ratio in a
round is steadier than either time. Every figure here is made from the *medians of rounds*: the passes of one round
follow each other within a tenth of a second and agree with each other far better than with the next round, so counting
them as independent would promise a confidence that is not there.

Intervals are distribution-free: between the order statistics of the rounds that hold the median with 95 % probability
(David and Nagaraja 2003, Order Statistics, section 7.1), which takes six rounds at least.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import median

CONFIDENCE = 0.95
ROUNDS = 6
"""Fewest rounds whose smallest and largest hold the median with 95 % probability (1 - 2 / 2^6)."""
ENOUGH = {0.5: 1, 0.9: 64, 0.99: 662}
"""Quantile -> the samples that it takes."""


@dataclass(frozen=True)
class Interval:
    """A median and the ends of its 95 % confidence interval; infinite ends where there are too few rounds."""

    median: float
    low: float
    high: float

    @property
    def half(self) -> float:
        """Half of its width, as a share of the median."""
        return (self.high - self.low) / 2 / abs(self.median) if self.median else math.inf


@dataclass(frozen=True)
class Ratio:
    """One cell against another, timed in the same rounds.

    value: median over common rounds of first / second. low, high: its 95 % confidence interval. rounds: common ones.
    p: two-sided p-value of the ratio being 1; at most 5 % just where the interval excludes 1.
    """

    value: float
    low: float
    high: float
    rounds: int
    p: float

    def beyond(self, floor: float) -> float:
        """The p-value of a claim that the two differ: ``p``, or 1 where the ratio is no further off 1 than ``floor``.

        floor: noise floor of the run as a share, such as 0.01.
        """
        return self.p if abs(math.log(self.value)) > floor else 1.0


@cache
def rank(count: int) -> int | None:
    """How many order statistics to leave out at either end for a 95 % interval of the median; None: too few values.

    The largest d for which the binomial probability of fewer than d + 1 of ``count`` values below the median is at most
    2.5 %.
    """
    tail, found = 0.0, None
    for index in range(count // 2):
        tail += math.comb(count, index) / 2**count
        if tail > (1 - CONFIDENCE) / 2:
            break
        found = index
    return found


def interval(values: Sequence[float]) -> Interval:
    """Median of independent values with its confidence interval.

    Raises:
        ValueError: there are none.
    """
    if not values:
        raise ValueError("a median of no values was asked for")
    ordered = sorted(values)
    out = rank(len(ordered))
    if out is None:
        return Interval(median(ordered), -math.inf, math.inf)
    return Interval(median(ordered), ordered[out], ordered[-1 - out])


def beside_others(values: Sequence[float], left: float) -> Interval:
    """Median of values that were taken in company, with the interval in which the undisturbed one may be.

    From the smallest value, were it slowed down by all that others took, to the largest one. It is no confidence
    interval: rounds beside one steady neighbour agree with each other and are all too slow.

    Args:
        values: medians of rounds, at least one.
        left: share of its slowest CPU that the others left, 0 to 1; 0 where it is not known.
    """
    return Interval(median(values), left * min(values), max(values))


def by_round(samples: Sequence[float], rounds: Sequence[float]) -> dict[int, float]:
    """Round -> median of its samples.

    Raises:
        ValueError: the two are not of one length.
    """
    once = dict(zip(map(int, rounds), samples, strict=True))
    if len(once) == len(samples):
        return once
    groups: dict[int, list[float]] = defaultdict(list)
    for sample, index in zip(samples, rounds, strict=True):
        groups[int(index)].append(sample)
    return {index: values[0] if len(values) == 1 else median(values) for index, values in groups.items()}


def ratio(first: Mapping[int, float], second: Mapping[int, float]) -> Ratio | None:
    """First over second, from the medians of the rounds that they share; None where they share fewer than `ROUNDS`."""
    common = sorted(first.keys() & second.keys())
    if len(common) < ROUNDS:
        return None
    logs = [math.log(first[index] / second[index]) for index in common]
    found = interval(logs)
    return Ratio(math.exp(found.median), math.exp(found.low), math.exp(found.high), len(common), signs(logs))


def signs(values: Sequence[float]) -> float:
    """Two-sided p-value of a median of 0, by the sign test: what `interval` is turned round.

    A value of exactly 0 counts for either side.
    """
    fewer = min(sum(value <= 0 for value in values), sum(value >= 0 for value in values))
    return min(1.0, 2 * _below(fewer, len(values)))


@cache
def _below(most: int, count: int) -> float:
    """Probability of at most so many heads in so many throws."""
    return sum(math.comb(count, index) for index in range(most + 1)) / 2**count


def noise_floor(first: Mapping[int, float], second: Mapping[int, float]) -> float | None:
    """What a run cannot tell apart, as a share: how far a cell measured as two may differ from itself.

    It is the end of the confidence interval of A / A that is further from 1: what the two processes differ by, and what
    the rounds leave uncertain. None where the two share too few rounds.
    """
    found = ratio(first, second)
    return None if found is None else max(abs(math.log(found.low)), abs(math.log(found.high)))


def quantile(samples: Sequence[float], share: float) -> float | None:
    """A quantile of raw samples; None where there are too few of them for it (`ENOUGH`).

    Raises:
        KeyError: a share for which no sufficient number is known.
    """
    if len(samples) < ENOUGH[share]:
        return None
    ordered = sorted(samples)
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def enough(medians: Sequence[float], *, target: float) -> bool:
    """Whether the confidence interval of the median of rounds is within ``target`` (a share) on either side."""
    return len(medians) >= ROUNDS and interval(medians).half <= target


def rounds_of(samples: Mapping[str, Sequence[float]], series: str) -> dict[int, float]:
    """Round -> median of a series of a record's samples, without the rounds of ``disturbed_round``.

    A record that was taken without rounds has none.
    """
    if f"{series}_round" not in samples:
        return {}
    disturbed = {int(index) for index in samples.get("disturbed_round", ())}
    found = by_round(samples[series], samples[f"{series}_round"])
    return {index: value for index, value in found.items() if index not in disturbed}
