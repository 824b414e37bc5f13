"""What may be claimed of means over a few seeds: their noise, and which measurements are ties.

Seed noise of a column is its pooled sample standard deviation s over the parts with two seeds or more,
s² = Σ (nᵢ - 1) sᵢ² / f with f = Σ (nᵢ - 1). Two means over n₁ and n₂ seeds are told apart when they differ by more than
t(f) · s · √(1/n₁ + 1/n₂), the least significant difference (t(f): two-sided quantile of Student's t; about 2 for a
single comparison at 95 %, more where many are made together, see `bench.stats.family`). Going down from the best, one
joins the tie group of that group's best while it cannot be told apart from it.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeVar

from bench.stats.family import ALPHA

Item = TypeVar("Item")
_MANY = 1e9
"""Degrees of freedom that are as good as infinite."""


class Stat(NamedTuple):
    """Mean over seeds, sample standard deviation (None for one seed), number of seeds, and whether taken in company."""

    mean: float
    sd: float | None
    n: int
    company: bool = False


@dataclass(frozen=True)
class Rank:
    """Place from 1; tied: shared with another measurement."""

    place: int
    tied: bool

    def __str__(self) -> str:
        return f"{self.place}{'=' if self.tied else ''}"


@dataclass(frozen=True)
class Noise:
    """Seed noise of a column, in its unit, and the degrees of freedom that it is known with."""

    sd: float
    freedom: int

    def difference(self, n: int, m: int, level: float = ALPHA) -> float:
        """Least difference that tells means over n and m seeds apart at a level (`bench.stats.family`)."""
        return quantile(self.freedom, level) * self.sd * math.sqrt(1 / n + 1 / m)

    def chance(self, gap: float, n: int, m: int) -> float:
        """Two-sided p-value of two equal means over n and m seeds being so far apart, in the column's unit."""
        scale = self.sd * math.sqrt(1 / n + 1 / m)
        return tails(abs(gap) / scale, self.freedom) if scale else float(gap == 0)


def quantile(freedom: float, level: float = ALPHA) -> float:
    """What Student's t is beyond with probability ``level``, on either side together; infinite freedom: normal."""
    return float(-_student().stdtrit(min(freedom, _MANY), level / 2))


def tails(t: float, freedom: float) -> float:
    """Probability that Student's t is further off 0 than ``t``, on either side."""
    return float(2 * _student().stdtr(min(freedom, _MANY), -abs(t)))


def t95(freedom: float) -> float:
    """Two-sided 95 % quantile of Student's t for so many degrees of freedom."""
    return quantile(freedom)


def _student() -> Any:
    from scipy import special  # noqa: PLC0415, a tenth of a second, for those who claim something

    return special


def stat(values: Sequence[float]) -> Stat:
    """Mean and spread of one value or more."""
    if len(values) == 1:
        return Stat(values[0], None, 1)
    mean = math.fsum(values) / len(values)
    return Stat(mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)), len(values))


def pooled(stats: Iterable[Stat]) -> Noise | None:
    """Pooled standard deviation over those of two seeds or more; None if there are none."""
    spread = [(stat.n - 1, stat.sd) for stat in stats if stat.sd is not None]
    freedom = sum(count for count, _ in spread)
    squares = math.fsum(count * sd**2 for count, sd in spread)
    return Noise(math.sqrt(squares / freedom), freedom) if freedom else None


def ranked(
    stats: Mapping[Item, Stat], better: Literal["higher", "lower"] | None, apart: Callable[[Item, Item], bool]
) -> dict[Item, Rank]:
    """Ranks, best first; those that cannot be told ``apart`` from the best of their group share one.

    Equal means keep the order of ``stats``.
    """
    sign = -1 if better == "lower" else 1
    groups: list[list[Item]] = []
    for item in sorted(stats, key=lambda item: -sign * stats[item].mean):
        if groups and not apart(groups[-1][0], item):
            groups[-1].append(item)
        else:
            groups.append([item])
    ranks: dict[Item, Rank] = {}
    for group in groups:
        ranks |= dict.fromkeys(group, Rank(len(ranks) + 1, len(group) > 1))
    return ranks
