"""How sure each of many claims has to be, for all of them together to be 95 % sure.

Of n pairs of equal things one in twenty looks different at 95 % each, so that a large table claims something for
certain. Holm's procedure (Holm 1979, A simple sequentially rejective multiple test procedure, Scandinavian Journal of
Statistics 6) keeps the probability that a family of claims contains *any* false one at 5 %, whatever they depend on
each other: the smallest p-value has to be at most 5 % / n, the next at most 5 % / (n - 1), until one is not.

A family is all pairs of what is ranked together, and not only those that a ranking happens to look at: which ones it
looks at is decided by the data.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TypeVar

Item = TypeVar("Item")
ALPHA = 0.05
"""Share of families that may contain a false claim."""
MOST = 1000
"""Pairs up to which each is looked at. Of more, all have to pass Holm's first and hardest step, 5 % / n: that errs
towards ties, and the steps after it are little easier until nearly everything is claimed."""


@dataclass(frozen=True)
class Family:
    """Claims that are made together. pairs: how many could be. level: the p-value up to which one is made."""

    pairs: int
    level: float

    def sentence(self) -> str:
        """How sure a claim is."""
        if self.pairs <= 1:
            return "95 %"
        return f"95 % for all {self.pairs:,} comparisons of the table together, by Holm's correction"


ALONE = Family(1, ALPHA)
"""A single comparison, that somebody asked for."""


def holm(chances: Iterable[float]) -> float:
    """The level of a family by its p-values: those up to it are claimed."""
    ordered = sorted(chances)
    level = ALPHA / max(1, len(ordered))
    for index, chance in enumerate(ordered):
        step = ALPHA / (len(ordered) - index)
        if chance > step:
            break
        level = step
    return level


def claimed(chance: Callable[[Item, Item], float], level: float) -> Callable[[Item, Item], bool]:
    """Whether a difference of two may be claimed, by their p-value."""
    return lambda one, other: chance(one, other) <= level


def family(*groups: tuple[Sequence[Item], Callable[[Item, Item], float]]) -> Family:
    """All pairs within each of some groups, as one family.

    Args:
        groups: what may be compared with each other, and the p-value of two of them (of their being equal).
    """
    pairs = sum(len(items) * (len(items) - 1) // 2 for items, _ in groups)
    if pairs > MOST:
        return Family(pairs, ALPHA / pairs)
    # Two that are in several groups are compared once.
    known = {(chance, frozenset(pair)): chance(*pair) for items, chance in groups for pair in combinations(items, 2)}
    return Family(len(known), holm(known.values()))
