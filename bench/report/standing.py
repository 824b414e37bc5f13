"""Where rows stand among each other by cost and value: claims, ranks, fronts."""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import groupby
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.plan.measure import Measure
from bench.report.claims import Unlinked, against_anchor, claim, processes
from bench.report.rows import Part
from bench.stats.ranking import Noise, Rank

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
    may_differ: Callable[[int, NDArray[np.intp]], NDArray[np.bool_]] | None = None,
) -> set[Pair]:
    """Those off the front that nothing is claimed to beat.

    Only what costs no more and is worth more can. Most rows are beaten by one of the front, which is short; the others
    lie close behind it, and few beat them even in figures.

    Args:
        quiet: cheapest first.
        front: of them.
        place: cost and worth of one.
        beats: whether the one is claimed to beat the other.
        may_differ: which of some (by their places in ``quiet``) may be claimed to cost something else than one; the
            others are not asked about. None: all may.
    """
    prices, worths = np.array([place(parts) for parts in quiet], dtype=float).reshape(-1, 2).T
    everywhere = np.arange(len(quiet))
    stairs = np.array([index for index, parts in enumerate(quiet) if parts in front], dtype=int)
    looked_at = [(some, prices[some], worths[some]) for some in (stairs, everywhere)]
    found: set[Pair] = set()
    for index, parts in enumerate(quiet):
        if parts in front:
            continue
        for some, costs, values in looked_at:  # cheapest first: what costs the least is the surest to cost less
            end = np.searchsorted(costs, prices[index], side="right")
            better = some[:end][values[:end] > worths[index]]
            if may_differ is not None:
                better = better[(prices[better] == prices[index]) | may_differ(index, better)]
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


def costs_may_differ(
    parts: Sequence[Part], measure: Measure, column: str
) -> Callable[[int, NDArray[np.intp]], NDArray[np.bool_]] | None:
    """For `unbeaten`, of a cost's parts; None where any difference counts."""
    timed = series_of(measure, column)
    return Unlinked(measure, [part.records[0] for part in parts], timed).may_differ if timed else None


def comparable(parts: Iterable[Part], measure: Measure, column: str) -> dict[Part, float]:
    """A column of several parts as their claims see it, in its unit.

    What was timed in the rounds of an anchor is put at one speed of the machine: its ratio to the anchor, times the
    median of the anchor over all sessions. Two times of different days would else stand in another order than may be
    claimed of them. All else is what was measured.
    """
    figures = {part: part.values[column].mean for part in dict.fromkeys(parts)}
    timed = series_of(measure, column)
    links: dict[str, dict[Part, float]] = defaultdict(dict)
    anchors: dict[str, dict[Any, float]] = defaultdict(dict)
    for part in figures if timed else ():
        record = part.records[0]
        ratio = None if part.company else against_anchor(measure, record, timed)
        if ratio is not None:
            anchor, session = str(record.values.get("anchor")), str(record.values.get("session"))
            links[anchor][part] = ratio.value
            if session not in anchors[anchor]:
                anchors[anchor][session] = median(record.samples["anchor_ms"])
    for anchor, ratios in links.items():
        speed = median(anchors[anchor].values())
        for part, ratio in ratios.items():
            plain = part.records[0].values.get(timed)
            if isinstance(plain, int | float) and plain > 0:
                drift = ratio * speed / plain
                figures[part] *= drift if timed == column else 1 / drift
    return figures


def between(measure: Measure, parts: Iterable[Part]) -> Noise:
    """What processes differ by, from the sessions of all measurements of a table."""
    own = (part for part in parts if part.measure == measure.name) if measure.interleaved else ()
    return processes(measure, (part.records[0] for part in own))


def chance_of(measure: Measure, column: str, spread: Noise) -> Callable[[Part, Part], float]:
    """A function that gives the p-value of two measurements' being equal in a column that was timed or is exact.

    spread: of processes, see `between`.
    """
    timed = series_of(measure, column)
    known: dict[frozenset[Part], float] = {}

    def equal(one: Part, other: Part) -> float:
        if not timed:
            return float(one.values[column].mean == other.values[column].mean)
        pair = frozenset((one, other))
        if pair not in known:
            known[pair] = claim(measure, one.records[0], other.records[0], timed, between=spread).p
        return known[pair]

    return equal


def claimed_ranks(parts: Sequence[Part], column: str, differ: Callable[[Part, Part], bool]) -> dict[Part, Rank]:
    """Ranks by what may be claimed; ``parts`` are in order, best first. Nothing may be of those in company."""
    groups: list[list[Part]] = []
    for part in dict.fromkeys(parts):
        if part.values[column].company:
            continue
        if groups and not differ(groups[-1][0], part):
            groups[-1].append(part)
        else:
            groups.append([part])
    ranks: dict[Part, Rank] = {}
    for group in groups:
        ranks |= dict.fromkeys(group, Rank(len(ranks) + 1, len(group) > 1))
    return ranks
