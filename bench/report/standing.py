"""Where rows stand among each other by cost and value: claims, ranks, fronts."""

from collections.abc import Callable, Collection, Sequence
from itertools import groupby

import numpy as np

from bench.plan.measure import Measure
from bench.report.claims import claim
from bench.report.rows import Part
from bench.stats.ranking import Rank

Pair = tuple[Part, Part]
"""The parts that a row's cost and its value come from."""


def pareto(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Which (cost, value) points no other beats; less cost and more value are better, equal points stand together."""
    best = float("-inf")
    front = [False] * len(points)
    ordered = sorted(range(len(points)), key=lambda index: points[index][0])
    for _, same in groupby(ordered, key=lambda index: points[index][0]):
        group = list(same)
        top = max(points[index][1] for index in group)
        if top > best:
            best = top
            for index in group:
                front[index] = points[index][1] == top
    return front


def unbeaten(
    quiet: Sequence[Pair],
    front: Collection[Pair],
    place: Callable[[Pair], tuple[float, float]],
    beats: Callable[[Pair, Pair], bool],
) -> set[Pair]:
    """Those off the front that nothing is claimed to beat.

    Only what costs no more and is worth more can. Most rows are beaten by one of the front, which is short; the others
    lie close behind it, and few beat them even in figures.

    Args:
        quiet: cheapest first.
        front: of them.
        place: cost and worth of one.
        beats: whether the one is claimed to beat the other.
    """
    prices, worths = np.array([place(parts) for parts in quiet], dtype=float).reshape(-1, 2).T
    everywhere = np.arange(len(quiet))
    stairs = np.array([index for index, parts in enumerate(quiet) if parts in front], dtype=int)
    found: set[Pair] = set()
    for index, parts in enumerate(quiet):
        if parts in front:
            continue
        for some in (stairs, everywhere):  # cheapest first: what costs the least is the surest to cost less
            better = some[(prices[some] <= prices[index]) & (worths[some] > worths[index])]
            if any(beats(quiet[other], parts) for other in better):
                break
        else:
            found.add(parts)
    return found


def series_of(measure: Measure, column: str) -> str:
    """The samples that a column is the median or the rate of; "" for a column that was not timed in rounds."""
    if not measure.interleaved:
        return ""
    if column.endswith("images_per_s"):
        return measure.interleaved
    return column if column.endswith("_ms") and "_p9" not in column else ""


def costs_differ(measure: Measure, column: str, one: Part, other: Part) -> bool:
    """Whether a difference between two numbers may be claimed."""
    timed = series_of(measure, column)
    if not timed:
        return one.values[column].mean != other.values[column].mean
    return claim(measure, one.records[0], other.records[0], timed).different


def claimed_ranks(parts: Sequence[Part], measure: Measure, column: str) -> dict[Part, Rank]:
    """Ranks by what may be claimed; ``parts`` are in order, best first. Nothing may be of those in company."""
    groups: list[list[Part]] = []
    for part in dict.fromkeys(parts):
        if part.values[column].company:
            continue
        if groups and not costs_differ(measure, column, groups[-1][0], part):
            groups[-1].append(part)
        else:
            groups.append([part])
    ranks: dict[Part, Rank] = {}
    for group in groups:
        ranks |= dict.fromkeys(group, Rank(len(ranks) + 1, len(group) > 1))
    return ranks
