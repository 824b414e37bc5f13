"""``densebench compare``: what accuracy costs, and which rows nothing else beats.

A row is Pareto-optimal when no other row of its group costs at most as much and is at least as good, and better in one
of the two. A group is one environment, task, data set and recipe, and one value of every other field that makes two
costs incomparable (`_CONTEXT`). A row off the front is *near* it when every row that beats it does so by less, in cost
or in value, than may be claimed: it may belong there. Claims about values follow the images and seed noise
(`bench.report.evidence`), those about interleaved costs the noise floor of their session (`bench.report.claims`); any
other cost is taken as exact. All that a section claims of costs and values, in any of its groups, is one family: each
claim is as sure as it takes for all of them to be 95 % sure (`bench.stats.family`).

Times stand in the order of their claims: what was timed in several sessions is put at one speed of the machine
(`bench.report.standing.comparable`). The numbers that are shown are those that were measured, so a row may stand before
one of another session whose number is smaller. Costs are ranked, cheapest first: going down, a row joins the tie group
of that group's cheapest while nothing may be claimed between the two. A figure that was taken in company has no rank,
is on no front and keeps nothing off it.
"""

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import UserError, printable
from bench.plan.cell import FIELDS
from bench.plan.measure import Column, Measure
from bench.report.choosing import AXES, axis_of, check_class, check_known, column_of, matches, normal
from bench.report.evidence import Paired, chance, pairing
from bench.report.halves import each
from bench.report.naming import Naming, naming
from bench.report.rows import Part, Row, Table, folders, headline, noise, order, rank, read
from bench.report.sheet import texts_only
from bench.report.standing import (
    between,
    chance_of,
    claimed_ranks,
    comparable,
    costs_may_differ,
    pareto,
    series_of,
    unbeaten,
)
from bench.report.tables import COMPANY_NOTE, MARGIN, SPREAD, error_bar, label, number
from bench.report.terminal import TableColumn, TerminalTable, changes
from bench.stats.family import ALONE, Family, family
from bench.stats.ranking import Noise, Rank, Stat
from bench.store.store import no_collection

if TYPE_CHECKING:
    from rich.console import Group

_CONTEXT = ("recipe", "batch")
IMPORTANCE = ("rank", "cost rank", MARGIN, SPREAD)
"""Columns that a narrow terminal may leave out, what is left out last first; cost and value always stay."""


@dataclass(frozen=True)
class Point:
    """One row: its fields, its cost and value, and where it stands.

    rank: by value, within the group. cost_rank: by cost, likewise. pareto: on the front. near: off it by less than may
    be claimed. margin_pct: half of the 95 % confidence interval of the cost; None where it has none. A cost or value
    that was taken in company has no rank (None); ``span``: where the undisturbed cost may be.
    """

    fields: Mapping[str, Any]
    cost: Stat
    value: Stat
    rank: Rank | None
    cost_rank: Rank | None
    pareto: bool
    near: bool
    margin_pct: float | None = None
    span: tuple[float, float] | None = None


@dataclass(frozen=True)
class Lack:
    """A row without cost or value, and why."""

    fields: Mapping[str, Any]
    reason: str


@dataclass(frozen=True)
class Section:
    """Points that may be compared, cheapest first; in groups where recipe or batch differ."""

    machine: str
    environment: str
    title: str
    task: str
    dataset: str
    cost: Column
    value: Column
    points: tuple[Point, ...]
    lacking: tuple[Lack, ...]
    noise: Mapping[str, Noise | None]
    paired: Mapping[str, Paired]
    floors: tuple[float, ...] = ()
    """Noise floors of the sessions that the costs come from, in percent; none where a cost is no interleaved one."""
    family: Family = ALONE
    """All that it claims of costs and values."""
    drifts: bool = False
    """Whether costs or values were put at one speed of the machine, see `bench.report.standing.comparable`."""


@dataclass(frozen=True)
class Comparison:
    """What `compare` found; ``by``: the axes that every line shows."""

    by: tuple[str, ...]
    sections: tuple[Section, ...]

    def as_json(self) -> list[dict[str, Any]]:
        """Sections of rows in plain lists and dicts; what is unknown is None."""
        return [
            {
                "machine": section.machine,
                "environment": section.environment,
                "task": section.task,
                "dataset": section.dataset,
                "cost": section.cost.name,
                "value": section.value.name,
                "noise_floor_pct": max(section.floors, default=None),
                "comparisons": section.family.pairs,
                "level": section.family.level,
                "paired": {recipe: asdict(paired) for recipe, paired in section.paired.items()},
                "rows": [
                    {
                        "fields": dict(point.fields),
                        "cost": point.cost.mean,
                        "cost_margin_pct": point.margin_pct,
                        "cost_rank": point.cost_rank and point.cost_rank.place,
                        "cost_tied": point.cost_rank and point.cost_rank.tied,
                        "cost_in_company": point.cost.company,
                        "value": point.value.mean,
                        "sd": point.value.sd,
                        "n": point.value.n,
                        "pareto": point.pareto,
                        "near": point.near,
                        "rank": point.rank and point.rank.place,
                        "tied": point.rank and point.rank.tied,
                    }
                    for point in section.points
                ],
                "lacking": [asdict(lack) for lack in section.lacking],
            }
            for section in self.sections
        ]

    def as_csv(self) -> str:
        """Rows and lacking rows of `as_json` under one head; what is unknown is empty."""
        lines: list[dict[str, Any]] = []
        for section in self.as_json():
            about = {name: value for name, value in section.items() if not isinstance(value, list)}
            about = {f"{name}_column" if name in {"cost", "value"} else name: value for name, value in about.items()}
            for row in (*section["rows"], *section["lacking"]):
                fields = row.pop("fields")
                lines.append(
                    about | {name: fields.get(name, about.get(name)) for name in FIELDS if name != "seed"} | row
                )
        file = io.StringIO()
        writer = csv.DictWriter(file, dict.fromkeys(name for line in lines for name in line), lineterminator="\n")
        writer.writeheader()
        writer.writerows(dict(zip(line, texts_only(list(line.values())), strict=True)) for line in lines)
        return file.getvalue()

    def render(self, *, wide: bool = False) -> "Group":
        """For a terminal; ``wide``: every column, however wide that is."""
        from rich.console import Group  # noqa: PLC0415, --json needs no rich

        return Group(*(part for section in self.sections for part in _render(section, self.by, wide=wide)))


@no_collection()
def compare(
    results: Path,
    *,
    machine: str | None = None,
    task: str | None = None,
    cost: str = "latency_ms",
    value: str | None = None,
    where: Mapping[str, Sequence[str]] | None = None,
    by: Sequence[str] | None = None,
) -> Comparison:
    """Cost against value for the rows that ``where`` (axis -> values, as texts) leaves.

    Args:
        results: results folder.
        machine: name of a machine's folder; None: all of them.
        task: "segmentation" or "detection"; None: all of them.
        cost: column of the cost.
        value: column of the value, ``column[class]`` for one class; None: the headline of the task.
        where: values of axes (`AXES`) to keep.
        by: axes that every line shows; further fields are shown where they vary. None: backbone, patch, head, input.

    Raises:
        UserError: no records, or none that match; an unknown machine, task, column, axis or value.
    """
    where = where or {}
    check_known("axis", [*where, *(by or ())], AXES)
    cost_pair, value_pair = column_of(cost), column_of(value) if value else None
    found = folders(results)
    check_known("machine", [machine] if machine else [], [printable(folder.name) for folder in found])
    tables = [table for folder in found if machine in {None, printable(folder.name)} for table in read(folder).tables]
    check_known("task", [task] if task else [], {table.task for table in tables})
    tables = [table for table in tables if task in {None, table.task}]
    for axis, values in where.items():
        there = {axis_of(row, axis) for table in tables for row in table.rows} - {""}
        check_known(axis, [normal(axis, text) for text in values], there)
    for name in [cost, *([value] if value else [])]:
        check_class(name, [row for table in tables for row in table.rows])
    asked = []
    for table in tables:
        chosen = value_pair or headline(table.task)
        kept = [row for row in table.rows if matches(row, where)]
        if chosen and kept and {chosen[1].task, cost_pair[1].task} <= {None, table.task}:
            asked.append((table, kept, (cost, *cost_pair), (value or chosen[1].name, *chosen)))
    if not asked:
        raise UserError(f"no records under {results} match; leave out a filter, or measure them with `densebench run`")
    sections = each(lambda one: _section(*one), asked, lambda one: len(one[1]))
    return Comparison(tuple(by or ()), tuple(sections))


def _section(
    table: Table, rows: Sequence[Row], cost: tuple[str, Measure, Column], value: tuple[str, Measure, Column]
) -> Section:
    (cost_name, cost_measure, cost_column), (value_name, value_measure, value_column) = cost, value
    matters = [name for name in FIELDS if name in {*cost_measure.fields, *value_measure.fields}]
    groups: dict[tuple[Any, ...], dict[tuple[Part, Part], dict[str, Any]]] = {}
    lacking: dict[tuple[Part | None, Part | None], Lack] = {}
    for row in rows:
        # Rows that differ only in fields that neither number depends on are one point.
        fields = {name: row.fields[name] for name in matters if name in row.fields}
        parts = row.parts.get(cost_measure.name), row.parts.get(value_measure.name)
        if parts[0] and parts[1] and cost_name in parts[0].values and value_name in parts[1].values:
            context = tuple(str(fields.get(name, "")) for name in _CONTEXT)
            groups.setdefault(context, {})[parts[0], parts[1]] = fields
        else:
            lacking[parts] = Lack(fields, _why(row, {cost_name: cost_measure, value_name: value_measure}))
    noises: dict[str, Noise | None] = {}
    paired: dict[str, Paired] = {}
    sides: dict[tuple[Any, ...], tuple[_Side, _Side]] = {}
    every = [part for row in table.rows for part in row.parts.values()]
    exact = [chance_of(measure, name, between(measure, every)) for name, measure, _ in (cost, value)]
    for context, group in sorted(groups.items()):
        recipe = context[0]
        if recipe not in noises:
            of_measure = (row.parts[value_measure.name] for row in table.rows if value_measure.name in row.parts)
            of_recipe = [part for part in of_measure if part.fields.get("recipe", "") == recipe]
            noises[recipe] = noise(of_recipe, value_name)
            paired[recipe] = pairing((part for part in of_recipe if value_name in part.values), value_name)
        known = noises[recipe] is not None or bool(paired[recipe].paired)
        images = None if series_of(value_measure, value_name) else chance(value_name, noises[recipe])
        sides[context] = (
            _side(*cost, [parts[0] for parts in group], exact[0], known=False),
            _side(*value, [parts[1] for parts in group], images or exact[1], known=known),
        )
    claims = family(*((side.quiet, side.chance) for pair in sides.values() for side in pair if side.known))
    return Section(
        machine=table.machine,
        environment=table.environment.comparable,
        title=table.environment.title(),
        task=table.task,
        dataset=table.dataset,
        cost=cost_column,
        value=value_column,
        points=tuple(
            point for context, pair in sides.items() for point in _points(groups[context], *pair, claims.level)
        ),
        lacking=tuple(lacking.values()),
        noise=noises,
        paired=paired,
        floors=_floors(
            cost_measure if series_of(cost_measure, cost_name) else None,
            [parts[0] for group in groups.values() for parts in group],
        ),
        family=claims,
        drifts=any(side.drifts for pair in sides.values() for side in pair),
    )


@dataclass(frozen=True)
class _Side:
    """Cost or value of a group.

    figures: as its claims see them, see `comparable`. chance: p-value of two of them being equal. known: something is
    known of its noise. quiet: those that were taken by themselves.
    """

    name: str
    measure: Measure
    column: Column
    figures: Mapping[Part, float]
    chance: Callable[[Part, Part], float]
    known: bool

    @property
    def timed(self) -> bool:
        return bool(series_of(self.measure, self.name))

    @property
    def drifts(self) -> bool:
        return any(figure != part.values[self.name].mean for part, figure in self.figures.items())

    @property
    def quiet(self) -> list[Part]:
        return [part for part in self.figures if not part.values[self.name].company]


def _side(
    name: str,
    measure: Measure,
    column: Column,
    parts: Iterable[Part],
    chance: Callable[[Part, Part], float],
    *,
    known: bool,
) -> _Side:
    figures = comparable(parts, measure, name)
    known = known or bool(series_of(measure, name))
    return _Side(name, measure, column, figures, chance, known)


def _points(
    group: Mapping[tuple[Part, Part], Mapping[str, Any]], cost: _Side, value: _Side, level: float
) -> list[Point]:
    cheaper, better = 1 if cost.column.better == "lower" else -1, 1 if value.column.better == "higher" else -1

    def coordinates(parts: tuple[Part, Part]) -> tuple[float, float]:
        return cheaper * cost.figures[parts[0]], better * value.figures[parts[1]]

    def costs_differ(one: Part, other: Part) -> bool:
        return cost.chance(one, other) <= level

    def values_differ(one: Part, other: Part) -> bool:
        return value.chance(one, other) <= level

    ordered = sorted(group, key=lambda parts: (coordinates(parts)[0], -coordinates(parts)[1], order(group[parts])))
    stats = {part: part.values[value.name] for _, part in ordered}
    if value.timed:
        best_first = sorted(ordered, key=lambda parts: -coordinates(parts)[1])
        ranks = claimed_ranks([parts[1] for parts in best_first], value.name, values_differ)
    else:
        ranks = rank({part: stat for part, stat in stats.items() if not stat.company}, value.column, values_differ)
    quiet = [parts for parts in ordered if not parts[0].values[cost.name].company and not stats[parts[1]].company]
    front = {parts for parts, best in zip(quiet, pareto([coordinates(parts) for parts in quiet]), strict=True) if best}
    costs = claimed_ranks([parts[0] for parts in ordered], cost.name, costs_differ)

    def beats(one: tuple[Part, Part], other: tuple[Part, Part]) -> bool:
        """Whether one is claimed to be better than the other, and to cost no more."""
        (price, worth), (other_price, other_worth) = coordinates(one), coordinates(other)
        if price > other_price or (price < other_price and not costs_differ(one[0], other[0])):
            return False
        return worth > other_worth and values_differ(one[1], other[1])

    may_differ = costs_may_differ([parts[0] for parts in quiet], cost.measure, cost.name)
    nearly = unbeaten(quiet, front, coordinates, beats, may_differ) if cost.known or value.known else set()
    return [
        Point(
            group[parts],
            parts[0].values[cost.name],
            stats[parts[1]],
            ranks.get(parts[1]),
            costs.get(parts[0]),
            parts in front,
            parts in nearly,
            *_margins(parts[0], cost),
        )
        for parts in ordered
    ]


def _margins(part: Part, cost: _Side) -> tuple[float | None, tuple[float, float] | None]:
    """Half of the interval of a cost, and where an undisturbed one may be; see `Point`."""
    if series_of(cost.measure, cost.name) != cost.measure.interleaved or not cost.timed:
        return None, None
    margin = part.values.get(cost.measure.margin)
    series = cost.measure.interleaved.removesuffix("_ms")
    low, high = (part.values.get(f"{series}_{end}_ms") for end in ("low", "high"))
    span = (low.mean, high.mean) if low and high and cost.name == cost.measure.interleaved else None
    return margin.mean if margin else None, span


def _floors(measure: Measure | None, parts: Iterable[Part]) -> tuple[float, ...]:
    """The noise floors of interleaved measurements, in percent."""
    if measure is None:
        return ()
    return tuple(sorted({part.values[measure.floor].mean for part in parts if measure.floor in part.values}))


def _why(row: Row, wanted: Mapping[str, Measure]) -> str:
    found = []
    for name, measure in wanted.items():
        if name not in row.values:
            part = row.parts.get(measure.name)
            why = "not measured" if part is None else part.status if part.status != "ok" else "unknown"
            found.append(f"no {name}: {why}{f' ({part.reason})' if part and part.reason else ''}")
    return "; ".join(dict.fromkeys(found))


def _render(section: Section, by: Sequence[str], *, wide: bool) -> Iterable[Any]:
    from rich.text import Text  # noqa: PLC0415

    title = f"{section.task} on {section.dataset}: {section.value.title} against {section.cost.title}"
    named = naming([point.fields for point in section.points], by=by, headed=_CONTEXT)
    if section.points:
        caption = [section.title, *named.caption(), *_legend(section).split("\n")]
        yield TerminalTable(title, _columns(section, named), named.headings, caption=caption, wide=wide)
    else:
        yield Text(f"{title}: no row has both\n")
    if section.lacking:
        reasons = dict.fromkeys(lack.reason for lack in section.lacking)
        lacking = [lack for reason in reasons for lack in section.lacking if lack.reason == reason]
        lacks = naming([lack.fields for lack in lacking], by=by)
        yield TerminalTable(
            f"{section.task} on {section.dataset}, without {section.cost.title} or {section.value.title}",
            lacks.columns,
            changes([lack.reason for lack in lacking]),
            caption=lacks.caption(named.fixed),
            wide=wide,
        )


def _columns(section: Section, named: Naming) -> list[TableColumn]:
    points = section.points
    found = [
        TableColumn("", ["*" if point.pareto else "~" if point.near else "" for point in points]),
        replace(named.columns[0], joined=True),
        *named.columns[1:],
        TableColumn(label(section.cost), [number(point.cost, section.cost) for point in points], right=True),
        _bar(MARGIN, ["" if point.margin_pct is None else f"± {point.margin_pct:.1f} %" for point in points]),
        _rank("cost rank", [point.cost_rank for point in points]),
        TableColumn(label(section.value), [number(point.value, section.value) for point in points], right=True),
        _bar(SPREAD, [error_bar(point.value, section.value) for point in points]),
        _rank("rank", [point.rank for point in points]),
    ]
    return [column for column in found if any(column.cells)]


def _rank(title: str, ranks: Iterable[Rank | None]) -> TableColumn:
    return TableColumn(title, [str(rank or "") for rank in ranks], IMPORTANCE.index(title) + 1, right=True)


def _bar(title: str, cells: Sequence[str]) -> TableColumn:
    """An error bar, beside its number."""
    return TableColumn(title, cells, IMPORTANCE.index(title) + 1, joined=True)


def _legend(section: Section) -> str:
    known = {recipe: noise for recipe, noise in section.noise.items() if noise}
    legend = [
        "* Pareto-optimal: no row is both cheaper and better (in the same data set, recipe, batch and environment)"
    ]
    if section.floors:
        legend.append(
            "cost ± half of its 95 % confidence interval; equal cost ranks: no difference may be claimed "
            f"(noise floor of the sessions: {_range(section.floors)} %)"
        )
        if section.drifts:
            legend.append("times of several sessions are ordered by their ratio to the cell that all of them timed")
    images = False
    for recipe, spread in section.noise.items():
        where = f" under recipe {recipe}" if recipe and len(section.noise) > 1 else ""
        paired = section.paired[recipe]
        if sentence := paired.sentence(f"{section.value.title}{where}", spread, section.family):
            legend.append(sentence.removesuffix("."))
            images = True
        if spread is None or (sentence and paired.paired == paired.parts):
            continue
        least = f"differences under {spread.difference(1, 1, section.family.level):.2f} of one seed each"
        legend.append(f"equal ranks: within seed noise{where} ({least})")
    if section.family.pairs > 1:
        legend.append(f"claims: {section.family.sentence()}")
    if known or section.floors or images:
        legend.append("~ every row that beats it does so by less than may be claimed")
    if any(point.cost.company or point.value.company for point in section.points):
        legend.append(COMPANY_NOTE)
    if not known and not images:
        legend.append("seed noise is unknown: small differences may be chance")
    return "\n".join(legend)


def _range(values: Sequence[float]) -> str:
    ends = f"{min(values):.1f}", f"{max(values):.1f}"
    return ends[0] if ends[0] == ends[1] else f"{ends[0]} to {ends[1]}"
