"""What may be claimed of means over a few seeds: their noise, and which measurements are ties.

Seed noise of a column is its pooled sample standard deviation s over the parts with two seeds or more,
s² = Σ (nᵢ - 1) sᵢ² / f with f = Σ (nᵢ - 1). Two means over n₁ and n₂ seeds are told apart when they differ by more than
t(f) · s · √(1/n₁ + 1/n₂), an approximate 95 % least significant difference (t(f): two-sided quantile of Student's t,
about 2). Going down from the best, one joins the tie group of that group's best while it cannot be told apart from it.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

Item = TypeVar("Item")
_T95 = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23)


@dataclass(frozen=True)
class Stat:
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

    def difference(self, n: int, m: int) -> float:
        """Least difference that tells means over n and m seeds apart (approximately 95 %)."""
        return t95(self.freedom) * self.sd * math.sqrt(1 / n + 1 / m)


def t95(freedom: float) -> float:
    """Two-sided 95 % quantile of Student's t for so many degrees of freedom."""
    return _T95[int(freedom) - 1] if freedom <= len(_T95) else 1.96 + 2.7 / freedom


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
