"""How fast do time, memory and MACs grow with the input, and at which size do two backbones swap places?

A *series* is what agrees in every field of the cell that its measure depends on, but for the input size (laws over
pixels) or for input and patch size (laws over tokens, where there are several patches). `bench.stats.power` fits it.

Times of one session are compared as they are. Times of several are compared through the anchor, the cell that was timed
in the rounds of all of them: each is its ratio to the anchor, round by round, times one reference (a median of the
anchor over the sessions), so that what the machine drifted in between cancels. What is not tied to the others so is
left out, and so is what was taken in company; both are counted. The standard error of a point is that of its interval
and of the noise floor of its session together, the floor being what two processes of one cell differ by, and so a
point's by 1/√2. Memory and MACs are taken as exact, as `compare` takes them.

Two backbones *swap* between two sizes where `bench.report.claims` lets one claim one order at the one and the other at
the other. Between neighbours the size is interpolated (`bench.stats.power.crossing`), from ratios whose intervals have
the noise floor added; with sizes in between that are not told apart it is somewhere in there. Nothing is extrapolated.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Any

import numpy as np

from bench.plan.measure import Column, Measure
from bench.report.claims import Claim, against_anchor, claim, processes
from bench.report.rows import Part, Table, columns
from bench.stats.power import DISTINCT, Crossing, Law, crossing, law
from bench.stats.ranking import Noise
from bench.store.record import Record

QUANTITIES = ("latency_ms", "peak_mib", "gmacs")
SWAPPING = ("latency_ms", "peak_mib")
"""What laws are of, and what backbones swap places in."""
OVER: Mapping[str, tuple[str, ...]] = {"pixels": ("height", "width"), "tokens": ("patch", "height", "width")}
"""Abscissa -> the fields that vary along it."""
OF_BACKBONE = ("backbone", "patch", "attention", "window")
"""What two series under one head that may swap places differ in: which backbone, and how it runs."""
_AT_ONCE = 2**18
"""Figures that are compared with each other in one piece; what is more would not stay in a processor's cache."""
_HALF = 1.96
"""Half of a 95 % interval in standard errors."""


@dataclass(frozen=True)
class Point:
    """A measurement in a series.

    value: of a time, at the common speed of the anchor. error: standard error of its logarithm; 0 for exact, infinite
    for not known.
    """

    part: Part
    record: Record
    pixels: int
    tokens: float | None
    value: float
    error: float
    tie: tuple[str, str] = ("", "")
    """What its times are comparable within: an anchor, or a session."""

    @property
    def size(self) -> str:
        """Input, as a side where it is a square."""
        height, width = self.part.fields["height"], self.part.fields["width"]
        return str(height) if height == width else f"{height}x{width}"


@dataclass(frozen=True)
class Series:
    """Points along an abscissa, in its order.

    over: a key of `OVER`. fields: those that all points share. company, untied: measurements that were left out.
    """

    measure: Measure
    column: Column
    over: str
    fields: Mapping[str, Any]
    points: tuple[Point, ...]
    company: int = 0
    untied: int = 0

    @property
    def patches(self) -> int:
        """How many patch sizes there are."""
        return len({point.part.fields["patch"] for point in self.points})

    def xs(self) -> list[float]:
        """Abscissae of the points."""
        return [float(getattr(point, self.over)) for point in self.points]

    def law(self, start: int = 0) -> Law | None:
        """Of the points from this one on; None where there are too few sizes."""
        chosen = self.points[start:]
        if len(chosen) < DISTINCT:
            return None
        return law(self.xs()[start:], [point.value for point in chosen], [point.error for point in chosen])

    def laws(self) -> list[tuple[int, Law]]:
        """(first point, law): of all points; where that does not hold, also of the most that follow one to the last."""
        whole = self.law()
        if whole is None:
            return []
        if whole.verdict in ("holds", "unknown"):
            return [(0, whole)]
        later = ((start, self.law(start)) for start in range(1, len(self.points)) if self.xs()[start] > self.xs()[0])
        found = next(((start, one) for start, one in later if one is not None and one.verdict == "holds"), None)
        return [(0, whole), *([found] if found else [])]


@dataclass(frozen=True)
class Swap:
    """Two series under one head whose figures swap among the sizes that both have.

    first: smaller at the smaller size of a swap. kind: "swaps" (between neighbours that may both be claimed), "within"
    (with sizes in between that are not told apart) or "not told apart" (the figures swap, and no claim does). between:
    the two sizes; unclear: those between them. at: the interpolated size in pixels; None where there is none.
    """

    first: Series
    second: Series
    kind: str
    between: tuple[Point, Point] | None = None
    unclear: tuple[Point, ...] = ()
    at: Crossing | None = None


@dataclass(frozen=True)
class Laws:
    """All of one table.

    swaps: pairs whose figures swap. kept: title of a figure -> pairs whose figures do not.
    """

    table: Table
    series: tuple[Series, ...]
    swaps: tuple[Swap, ...]
    kept: Mapping[str, int]


def found(tables: Iterable[Table]) -> list[Laws]:
    """Those of every table that has any; series that have a law alone."""
    known = []
    for table in tables:
        measured = _measured(table)
        over_pixels = list(_series(measured, "pixels"))
        patches = {part.fields["patch"] for _, _, parts in measured for part in parts}
        several = [one for one in _series(measured, "tokens") if one.patches > 1] if len(patches) > 1 else []
        lawful = tuple(one for one in [*over_pixels, *several] if one.law() is not None)
        swaps, kept = _swaps([one for one in over_pixels if one.column.name in SWAPPING])
        if lawful or swaps:
            known.append(Laws(table, lawful, tuple(swaps), kept))
    return known


# Points and series.


_Measured = list[tuple[Measure, Column, dict[Part, float | None]]]
"""Each of `QUANTITIES`, with the parts that have it and their tokens."""


def _measured(table: Table) -> _Measured:
    known = {column.name: (measure, column) for measure, column in columns(table.task)}
    tokens = [count.mean if (count := row.values.get("tokens")) else None for row in table.rows]
    return [(*known[name], _parts(table, tokens, *known[name])) for name in QUANTITIES if name in known]


def _series(measured: _Measured, over: str) -> Iterator[Series]:
    reference = _References()
    for measure, column, parts in measured:
        groups: dict[tuple[Any, ...], list[tuple[Part, float | None]]] = defaultdict(list)
        company: dict[tuple[Any, ...], int] = defaultdict(int)
        names = sorted(name for name in measure.fields if name not in (*OVER[over], "seed"))
        for part, tokens in parts.items():
            key = tuple([part.fields[name] for name in names])
            if part.values[column.name].company:
                company[key] += 1
            elif over == "pixels" or tokens is not None:
                groups[key].append((part, tokens))
        for key, group in groups.items():
            # Samples are read where there is something to compare alone.
            sizes = len({_pixels(part) if over == "pixels" else tokens for part, tokens in group})
            if sizes > 1 and (sizes >= DISTINCT or _swapping(measure, column, over)):
                points = [_point(measure, column, part, tokens, reference) for part, tokens in group]
                tied = _tied(points, over)
                ordered = sorted(tied, key=lambda point: (getattr(point, over), point.part.place))
                fields = dict(zip(names, key, strict=True))
                yield Series(measure, column, over, fields, tuple(ordered), company[key], len(points) - len(tied))


def _swapping(measure: Measure, column: Column, over: str) -> bool:
    """Whether series of too few sizes for a law count, too; of times, they may set the reference of an anchor."""
    return column.name == measure.interleaved or (over == "pixels" and column.name in SWAPPING)


def _parts(table: Table, tokens: Sequence[float | None], measure: Measure, column: Column) -> dict[Part, float | None]:
    """Part -> tokens (of each row of the table), of those that have the column; in the order of their cells."""
    found: dict[Part, float | None] = {}
    if column.name not in table.names:
        return found
    for row, count in zip(table.rows, tokens, strict=True):
        part = row.parts.get(measure.name)
        # A cost that stands beside a training of an earlier revision is there a second time, under its own name.
        if part is None or column.name not in part.values or not _own(part):
            continue
        found[part] = found.get(part) if count is None else count
    known = {part: tokens for part, tokens in found.items() if part.values[column.name].mean > 0}
    return dict(sorted(known.items(), key=lambda item: item[0].place))


def _own(part: Part) -> bool:
    mine, measured = part.fields, part.records[0].fields
    return mine["backbone"] == measured["backbone"] and mine["head"] == measured["head"]


def _pixels(part: Part) -> int:
    return int(part.fields["height"]) * int(part.fields["width"])


def _point(measure: Measure, column: Column, part: Part, tokens: float | None, reference: "_References") -> Point:
    record = next(one for one in part.records if one.status == "ok")
    value = part.values[column.name].mean
    return Point(part, record, _pixels(part), tokens, *_figure(measure, column, record, value, reference))


class _References:
    """Of an anchor the median in the first of its sessions that was asked for: any one number serves all alike."""

    def __init__(self) -> None:
        self._known: dict[str, float] = {}

    def of(self, record: Record) -> float:
        """The reference of the record's anchor, which it has."""
        anchor = str(record.values.get("anchor", ""))
        if anchor not in self._known:
            self._known[anchor] = median(record.samples["anchor_ms"])
        return self._known[anchor]


def _figure(
    measure: Measure, column: Column, record: Record, value: float, reference: _References
) -> tuple[float, float, tuple[str, str]]:
    """Value, standard error of its logarithm, and what it is comparable within."""
    if column.name != measure.interleaved:
        return value, 0.0, ("", "")
    floor = record.values.get(measure.floor)
    known = floor / 100 / math.sqrt(2) if isinstance(floor, int | float) else math.inf
    anchored, anchor = against_anchor(measure, record), str(record.values.get("anchor", ""))
    if anchored is not None:
        half = math.log(anchored.high / anchored.low) / 2
        return anchored.value * reference.of(record), math.hypot(half, known) / _HALF, ("anchor", anchor)
    margin = record.values.get(measure.margin)
    half = margin / 100 if isinstance(margin, int | float) else math.inf
    return value, math.hypot(half, known) / _HALF, ("session", str(record.values.get("session", "")))


def _tied(points: Sequence[Point], over: str) -> list[Point]:
    """The points that are comparable with each other: the set with the most sizes."""
    if len({point.tie for point in points}) == 1:
        return list(points)
    groups: dict[tuple[str, str], list[Point]] = defaultdict(list)
    for point in points:
        groups[point.tie].append(point)
    return max(
        (groups[tie] for tie in sorted(groups)),
        key=lambda group: len({getattr(point, over) for point in group}),
    )


# Swaps.


def _swaps(known: Sequence[Series]) -> tuple[list[Swap], dict[str, int]]:
    """Pairs whose figures swap, and how many keep their order, by title of the figure."""
    groups: dict[tuple[Any, ...], list[Series]] = defaultdict(list)
    for one in known:
        same = tuple(item for item in sorted(one.fields.items()) if item[0] not in OF_BACKBONE)
        groups[one.column.name, same].append(one)
    swaps: list[Swap] = []
    kept: dict[str, int] = defaultdict(int)
    for group in groups.values():
        pairs, keeping = _candidates(group)
        kept[group[0].column.title] += keeping
        swaps += [swap for first, second in pairs for swap in _swap(first, second)]
    return swaps, {title: count for title, count in kept.items() if count}


def _candidates(group: Sequence[Series]) -> tuple[list[tuple[Series, Series]], int]:
    """Pairs of different backbones whose order is not one at all sizes that both have; and how many have one.

    All pairs are looked at in arrays, many at once: of a thousand backbones there are half a million.
    """
    places = {size: index for index, size in enumerate(sorted({_size(point) for one in group for point in one.points}))}
    values = np.full((len(group), len(places)), np.nan)
    for line, one in enumerate(group):
        for point in one.points:
            values[line, places[_size(point)]] = point.value
    _, backbones = np.unique([str(one.fields["backbone"]) for one in group], return_inverse=True)
    pairs: list[tuple[Series, Series]] = []
    keeping = 0
    lines = np.arange(len(group))
    for some in np.array_split(lines, 1 + len(group) ** 2 // _AT_ONCE):
        more, less, common = (np.zeros((len(some), len(group)), dtype) for dtype in (bool, bool, int))
        for figures in values.T:
            apart = figures - figures[some, None]
            more |= apart > 0
            less |= apart < 0
            common += np.isfinite(apart)
        rivals = (backbones != backbones[some, None]) & (lines > some[:, None]) & (common > 1)
        swapping = rivals & more & less
        keeping += int(rivals.sum() - swapping.sum())
        pairs += [(group[some[line]], group[other]) for line, other in np.argwhere(swapping).tolist()]
    return pairs, keeping


def _size(point: Point) -> tuple[int, int]:
    return int(point.part.fields["height"]), int(point.part.fields["width"])


def _swap(first: Series, second: Series) -> list[Swap]:
    """All swaps of two series whose figures swap."""
    others = {_size(point): point for point in second.points}
    pairs = [(point, others[_size(point)]) for point in first.points if _size(point) in others]
    spread = processes(first.measure, (point.record for point in (*first.points, *second.points)))
    claims = [_claim(first, point, other, spread) for point, other in pairs]
    signs = [
        _sign(point, other, said) if said.different else 0 for (point, other), said in zip(pairs, claims, strict=True)
    ]
    claimed = [index for index, sign in enumerate(signs) if sign]
    swaps = [
        _between(first, second, pairs, claims, left, right)
        for left, right in pairwise(claimed)
        if signs[left] != signs[right]
    ]
    if swaps:
        return swaps
    start = next(
        sign for (point, other), said in zip(pairs, claims, strict=True) if (sign := _sign(point, other, said))
    )
    return [Swap(*((first, second) if start < 0 else (second, first)), "not told apart")]


def _claim(series: Series, point: Point, other: Point, spread: Noise) -> Claim:
    if point.error == other.error == 0:
        return Claim(None, None, float(point.value == other.value))
    return claim(series.measure, point.record, other.record, series.column.name, between=spread)


def _sign(point: Point, other: Point, said: Claim) -> int:
    """1 where the first is larger, -1 where the second is."""
    ratio = point.value / other.value if said.ratio is None else said.ratio.value
    return (ratio > 1) - (ratio < 1)


def _between(
    first: Series,
    second: Series,
    pairs: Sequence[tuple[Point, Point]],
    claims: Sequence[Claim],
    left: int,
    right: int,
) -> Swap:
    ends = [_ratio(*pairs[index], claims[index]) for index in (left, right)]
    between = (pairs[left][0], pairs[right][0])
    unclear = tuple(point for point, _ in pairs[left + 1 : right])
    one, other = (first, second) if _sign(*pairs[left], claims[left]) < 0 else (second, first)
    apart = between[0].pixels < between[1].pixels
    if unclear or not apart or ends[0] is None or ends[1] is None:
        return Swap(one, other, "within", between, unclear)
    return Swap(one, other, "swaps", between, (), crossing((between[0].pixels, between[1].pixels), ends[0], ends[1]))


def _ratio(point: Point, other: Point, said: Claim) -> tuple[float, float, float] | None:
    """First over second with its interval, to which the noise floor is added; None where no ratio is known."""
    if point.error == other.error == 0:
        exact = point.value / other.value
        return exact, exact, exact
    if said.ratio is None or said.floor is None:
        return None
    value, low, high = said.ratio.value, said.ratio.low, said.ratio.high
    below = math.hypot(math.log(value / low), said.floor)
    above = math.hypot(math.log(high / value), said.floor)
    return value, value * math.exp(-below), value * math.exp(above)
