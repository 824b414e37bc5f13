"""How fast do time, memory and MACs grow with the input, and at which size do two backbones swap places?

A *series* is what agrees in every field of the cell that its measure depends on, but for the input size (laws over
pixels) or for input and patch size (laws over tokens, where there are several patches). `bench.stats.power` fits it.

Times of one session are compared as they are. Times of several are compared through the anchor, the cell that was timed
in the rounds of all of them: each is its ratio to the anchor, round by round, times one reference (the median of the
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
from dataclasses import dataclass, field
from itertools import combinations, pairwise
from statistics import median
from typing import Any

from bench.plan.measure import Column, Measure
from bench.report.claims import Claim, against_anchor, claim
from bench.report.rows import Part, Table, columns, order
from bench.stats.power import Crossing, Law, crossing, law
from bench.store.record import Record

QUANTITIES = ("latency_ms", "peak_mib", "gmacs")
SWAPPING = ("latency_ms", "peak_mib")
"""What laws are of, and what backbones swap places in."""
OVER: Mapping[str, tuple[str, ...]] = {"pixels": ("height", "width"), "tokens": ("patch", "height", "width")}
"""Abscissa -> the fields that vary along it."""
OF_BACKBONE = ("backbone", "patch", "attention", "window")
"""What two series under one head that may swap places differ in: which backbone, and how it runs."""
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
    """How two series under one head compare over the sizes that both have.

    first: smaller at the smaller size of a swap. kind: "swaps" (between neighbours that may both be claimed), "within"
    (with sizes in between that are not told apart), "not told apart" (the figures swap, and no claim does), "unclaimed"
    (no claim at any size) or "keeps". between: the two sizes; unclear: those between them. at: the interpolated size in
    pixels; None where there is none.
    """

    first: Series
    second: Series
    kind: str
    between: tuple[Point, Point] | None = None
    unclear: tuple[Point, ...] = ()
    at: Crossing | None = None


@dataclass(frozen=True)
class Laws:
    """All of one table."""

    table: Table
    series: tuple[Series, ...]
    swaps: tuple[Swap, ...] = field(default=())


def found(tables: Iterable[Table]) -> list[Laws]:
    """Those of every table that has any; series that have a law alone."""
    known = []
    for table in tables:
        over_pixels = list(_series(table, "pixels"))
        several = [
            one for one in _series(table, "tokens") if len({point.part.fields["patch"] for point in one.points}) > 1
        ]
        lawful = tuple(one for one in [*over_pixels, *several] if one.law() is not None)
        swaps = tuple(_swaps([one for one in over_pixels if one.column.name in SWAPPING]))
        if lawful or any(swap.kind != "keeps" for swap in swaps):
            known.append(Laws(table, lawful, swaps))
    return known


# Points and series.


def _series(table: Table, over: str) -> Iterator[Series]:
    quantities = {
        column.name: (measure, column) for measure, column in columns(table.task) if column.name in QUANTITIES
    }
    reference = _references(table)
    for name in (name for name in QUANTITIES if name in quantities):
        measure, column = quantities[name]
        groups: dict[tuple[Any, ...], list[Point]] = defaultdict(list)
        company: dict[tuple[Any, ...], int] = defaultdict(int)
        for point in _points(table, measure, column, reference):
            key = tuple(item for item in point.part.fields.items() if item[0] not in OVER[over])
            if point.part.values[name].company:
                company[key] += 1
            elif over == "pixels" or point.tokens is not None:
                groups[key].append(point)
        for key, points in groups.items():
            tied = _tied(points, over)
            ordered = sorted(tied, key=lambda point: (getattr(point, over), order(point.part.fields)))
            yield Series(measure, column, over, dict(key), tuple(ordered), company[key], len(points) - len(tied))


def _points(table: Table, measure: Measure, column: Column, reference: Mapping[str, float]) -> Iterator[Point]:
    tokens: dict[Part, float | None] = {}
    for row in table.rows:
        part = row.parts.get(measure.name)
        if part is None or column.name not in part.values:
            continue
        count = row.values.get("tokens")
        tokens[part] = tokens.get(part) if count is None else count.mean
    for part in sorted(tokens, key=lambda part: order(part.fields)):
        record = next(one for one in part.records if one.status == "ok")
        # A cost that stands beside a training of an earlier revision is there a second time, under its own name.
        own = all(part.fields[name] == record.fields[name] for name in ("backbone", "head"))
        value = part.values[column.name].mean
        if own and value > 0:
            pixels = int(part.fields["height"]) * int(part.fields["width"])
            yield Point(part, record, pixels, tokens[part], *_figure(measure, column, record, value, reference))


def _figure(
    measure: Measure, column: Column, record: Record, value: float, reference: Mapping[str, float]
) -> tuple[float, float, tuple[str, str]]:
    """Value, standard error of its logarithm, and what it is comparable within."""
    if column.name != measure.interleaved:
        return value, 0.0, ("", "")
    floor = record.values.get(measure.floor)
    known = floor / 100 / math.sqrt(2) if isinstance(floor, int | float) else math.inf
    anchored, anchor = against_anchor(measure, record), str(record.values.get("anchor", ""))
    if anchored is not None:
        half = math.log(anchored.high / anchored.low) / 2
        return anchored.value * reference[anchor], math.hypot(half, known) / _HALF, ("anchor", anchor)
    margin = record.values.get(measure.margin)
    half = margin / 100 if isinstance(margin, int | float) else math.inf
    return value, math.hypot(half, known) / _HALF, ("session", str(record.values.get("session", "")))


def _references(table: Table) -> dict[str, float]:
    """Anchor -> its median over the sessions of a table, each counted once."""
    sessions: dict[str, dict[str, float]] = defaultdict(dict)
    for part in {part: None for row in table.rows for part in row.parts.values()}:
        for record in part.records:
            if samples := record.samples.get("anchor_ms"):
                sessions[str(record.values.get("anchor", ""))][str(record.values.get("session", ""))] = median(samples)
    return {anchor: median(found.values()) for anchor, found in sessions.items()}


def _tied(points: Sequence[Point], over: str) -> list[Point]:
    """The points that are comparable with each other: the set with the most sizes."""
    groups: dict[tuple[str, str], list[Point]] = defaultdict(list)
    for point in points:
        groups[point.tie].append(point)
    return max(
        (groups[tie] for tie in sorted(groups)),
        key=lambda group: len({getattr(point, over) for point in group}),
    )


# Swaps.


def _swaps(known: Sequence[Series]) -> Iterator[Swap]:
    groups: dict[tuple[Any, ...], list[Series]] = defaultdict(list)
    for one in known:
        same = tuple(item for item in one.fields.items() if item[0] not in OF_BACKBONE)
        groups[one.column.name, same].append(one)
    for group in groups.values():
        for first, second in combinations(group, 2):
            if first.fields["backbone"] != second.fields["backbone"]:
                yield from _swap(first, second)


def _swap(first: Series, second: Series) -> list[Swap]:
    """All swaps of two series; one that says that there is none; nothing where they share fewer than two sizes."""
    others = {(point.part.fields["height"], point.part.fields["width"]): point for point in second.points}
    pairs = [
        (point, other)
        for point in first.points
        if (other := others.get((point.part.fields["height"], point.part.fields["width"])))
    ]
    if len({point.pixels for point, _ in pairs}) < 2:
        return []
    claims = [_claim(first, point, other) for point, other in pairs]
    signs = [_sign(point, other) if said.different else 0 for (point, other), said in zip(pairs, claims, strict=True)]
    claimed = [index for index, sign in enumerate(signs) if sign]
    swaps = [
        _between(first, second, pairs, claims, left, right)
        for left, right in pairwise(claimed)
        if signs[left] != signs[right]
    ]
    if swaps:
        return swaps
    seen = [sign for point, other in pairs if (sign := _sign(point, other))]
    if {-1, 1} <= set(seen):
        one, other = (first, second) if seen[0] < 0 else (second, first)
        return [Swap(one, other, "not told apart")]
    return [Swap(first, second, "keeps" if claimed or not seen else "unclaimed")]


def _claim(series: Series, point: Point, other: Point) -> Claim:
    if point.error == other.error == 0:
        return Claim(None, None, point.value != other.value)
    return claim(series.measure, point.record, other.record, series.column.name)


def _sign(point: Point, other: Point) -> int:
    return (point.value > other.value) - (point.value < other.value)


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
    one, other = (first, second) if _sign(*pairs[left]) < 0 else (second, first)
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
