"""What the page knows, as one compact object for JSON: columns of numbers, names by their index.

A number stands once, with the measurement (`bench.report.rows.Part`) that it is of; a row says which measurements it is
made of. What is sparse (spreads, reasons, company) is a mapping of indices.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from bench import catalogue
from bench.errors import printable
from bench.plan.cell import DEFAULTS, FIELDS
from bench.plan.measure import TIMED, TRAINED, Column, Measure, measures
from bench.report.explorer.ties import groups
from bench.report.rows import DERIVED, Part, Reading, Row, Table, columns, headline
from bench.report.standing import comparable, series_of
from bench.report.tables import COMPANY_NOTE, IN_COMPANY
from bench.stats.sampling import ROUNDS, interval, rounds_of
from bench.store import pictures
from bench.store.record import Record

FORMAT = 1
"""Version of the object, for whoever reads it out of the page."""
COST = "latency_ms"
"""What stands against accuracy at first, where it is known."""
PARTS = ("backbone_ms", "head_ms", "post_ms")
"""Columns that make up a latency, taken one by one: they need not add up to it."""

_Numbers = dict[str, dict[int, Any]]


def data(readings: Sequence[Reading], folders: Sequence[str]) -> dict[str, Any]:
    """The rows of all machines.

    Args:
        readings: of each machine.
        folders: where the pictures of each machine are, relative to the page, as an address; with its ``/``.
    """
    tables = [(place, table) for place, reading in enumerate(readings) for table in reading.tables]
    rows = [(place, table, row) for place, (_, table) in enumerate(tables) for row in table.rows]
    named = [name for name in FIELDS if name != "seed" and any(name in row.fields for *_, row in rows)]
    kept = _measures(rows)
    places = {measure["name"]: measure.pop("places") for measure in kept}
    for measure in kept:
        if found := _standing(measures().get(measure["name"]), [table for _, table in tables], places[measure["name"]]):
            measure["standing"] = found
    return {
        "format": FORMAT,
        "company": {"sign": IN_COMPANY, "note": COMPANY_NOTE},
        "machines": [
            [printable(one.folder.resolve().name), folder] for one, folder in zip(readings, folders, strict=True)
        ],
        "left_out": [dict(reading.left_out) for reading in readings],
        "tables": [_table(machine, table) for machine, table in tables],
        "rows": {
            "id": _ids(rows),
            "table": [place for place, *_ in rows],
            "rank": [str(table.ranks.get(row, "")) for _, table, row in rows],
            "bound": _coded([row.bound for *_, row in rows]),
        },
        "fields": {name: _coded([row.fields.get(name) for *_, row in rows]) for name in named},
        "defaults": {name: DEFAULTS[name] for name in named if name in DEFAULTS},
        "parts": list(PARTS),
        "measures": kept,
        "columns": _columns(kept),
        "groups": [_group(place, group, places) for place, (_, table) in enumerate(tables) for group in groups(table)],
        "view": view([table for _, table in tables]),
    }


def view(tables: Iterable[Table]) -> dict[str, Any]:
    """What is on show at first: one machine, task, data set, recipe and batch, and what is on the axes.

    The one with the most rows that have an accuracy and a latency; where none has, the most accuracies; where there are
    none either, the most rows.
    """
    best: tuple[tuple[int, int, int], dict[str, Any]] = ((-1, -1, -1), {})
    for table in tables:
        top = headline(table.task)
        value = top[1].name if top else ""
        by_context: dict[tuple[str, Any], list[Row]] = defaultdict(list)
        for row in table.rows:
            by_context[row.fields.get("recipe", ""), row.fields.get("batch", "")].append(row)
        for (recipe, batch), rows in by_context.items():
            scored = [row for row in rows if value in row.values]
            count = (sum(COST in row.values for row in scored), len(scored), len(rows))
            if count > best[0]:
                where = {"machine": table.machine, "task": table.task, "dataset": table.dataset}
                where |= {"recipe": recipe, "batch": batch}
                best = count, where | _axes(table.task, scored or rows, value if scored else "")
    return best[1]


def _axes(task: str, rows: Sequence[Row], value: str) -> dict[str, str]:
    """Cost and value: `COST` if any row has it, else the column with a better direction that most rows have."""
    counts = {column: sum(column.name in row.values for row in rows) for _, column in columns(task) if column.table}
    known = [column for column, count in counts.items() if column.better and count]
    known.sort(key=lambda column: (column.name != COST, -counts[column]))
    cost = next((column.name for column in known if column.better == "lower"), "")
    return {"x": cost, "y": value or next((column.name for column in known if column.name != cost), "")}


def _table(machine: int, table: Table) -> dict[str, Any]:
    entry = catalogue.entries("data").get(table.dataset.partition(":")[0])
    return {
        "machine": machine,
        "environment": table.environment.title(),
        "comparable": table.environment.comparable,
        "task": table.task,
        "dataset": table.dataset,
        "root": bool(entry and entry.facts.get("root")),
        "code": list(table.code),
    }


def _ids(rows: Sequence[tuple[int, Table, Row]]) -> list[str]:
    """A name for each row that stays when others are measured, for an address."""
    found: list[str] = []
    for _, table, row in rows:
        text = json.dumps([table.machine, table.environment.comparable, row.task, row.fields], default=str)
        found.append(hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:12])
    return found


def _coded(values: Sequence[Any]) -> dict[str, Any]:
    """Values by their index among the distinct ones, in order; -1: unknown."""
    known = {value for value in values if value is not None}
    distinct = sorted(known, key=lambda value: (isinstance(value, str), value))
    at = {value: index for index, value in enumerate(distinct)}
    return {"values": distinct, "at": [at.get(value, -1) for value in values]}


def _measures(rows: Sequence[tuple[int, Table, Row]]) -> list[dict[str, Any]]:
    """All measures of these rows with their parts; ``places``: part -> index, for `_group`."""
    present = {name for *_, row in rows for name in row.parts}
    found = []
    for name in sorted(present):
        parts = list(dict.fromkeys(row.parts[name] for *_, row in rows if name in row.parts))
        places: dict[Hashable, int] = {part: index for index, part in enumerate(parts)}
        at = [places[row.parts[name]] if name in row.parts else -1 for *_, row in rows]
        found.append(_measure(measures()[name], parts, at) | {"places": places})
    derived = [
        {column.name: stat for column in DERIVED.columns if (stat := row.values.get(column.name))} for *_, row in rows
    ]
    if any(derived):
        numbers = {
            column.name: {index: stats[column.name].mean for index, stats in enumerate(derived) if column.name in stats}
            for column in DERIVED.columns
        }
        in_company = {index: "" for index, stats in enumerate(derived) if any(stat.company for stat in stats.values())}
        found.append(
            {
                "name": DERIVED.name,
                "version": DERIVED.version,
                "doc": DERIVED.doc,
                "fields": [],
                "at": [index if stats else -1 for index, stats in enumerate(derived)],
                "numbers": {name: _dense(known, len(rows)) for name, known in numbers.items() if known},
                "company": in_company,
                "places": {},
            }
        )
    return found


def _measure(measure: Measure, parts: Sequence[Part], at: Sequence[int]) -> dict[str, Any]:
    numbers: _Numbers = defaultdict(dict)
    spread: _Numbers = defaultdict(dict)
    for index, part in enumerate(parts):
        for name, stat in part.values.items():
            numbers[name][index] = stat.mean
            if stat.n > 1:
                spread[name][index] = [stat.n, stat.sd]
    plain = {column.name: numbers[column.name] for column in measure.columns if column.name in numbers}
    trained = [record.values.get(TRAINED) for part in parts for record in part.records[-1:]]
    found = {
        "name": measure.name,
        "version": measure.version,
        "doc": measure.doc,
        "fields": list(measure.fields),
        "at": list(at),
        "status": _coded([part.status for part in parts]),
        "reason": {index: part.reason for index, part in enumerate(parts) if part.reason},
        "company": {index: part.company for index, part in enumerate(parts) if part.company},
        "numbers": {name: _dense(known, len(parts)) for name, known in plain.items()},
        "spread": dict(spread),
        "ends": _ends(measure, parts),
        "classes": _classes(measure, parts, numbers),
        "trained": _coded([text if isinstance(text, str) else None for text in trained]),
    }
    if measure.trains:
        found |= {"seeds": [[record.fields["seed"] for record in part.records] for part in parts]}
        found |= {"pictures": {index: names for index, part in enumerate(parts) if (names := _pictures(part))}}
    empty = ({}, {"values": [], "at": [-1] * len(parts)})
    return {name: value for name, value in found.items() if name == "numbers" or value not in empty}


def _standing(measure: Measure | None, tables: Sequence[Table], places: Mapping[Part, int]) -> _Numbers:
    """Column -> part -> its figure at one speed of the machine (`comparable`), where that is not what was measured.

    Rows are ordered by it, as in `compare`; what is shown is what was measured.
    """
    found: _Numbers = {}
    for column in measure.columns if measure is not None else ():
        if measure is None or not series_of(measure, column.name):
            continue
        for table in tables:
            known = (row.parts[measure.name] for row in table.rows if measure.name in row.parts)
            of = comparable((part for part in known if column.name in part.values), measure, column.name)
            moved = {places[part]: value for part, value in of.items() if value != part.values[column.name].mean}
            if moved:
                found.setdefault(column.name, {}).update(moved)
    return found


def _pictures(part: Part) -> list[str]:
    """Of what was trained; of an earlier revision a later one has drawn over it."""
    if any("@" in str(part.fields.get(name, "")) for name in ("backbone", "head")):
        return []
    return [pictures.name(record.fields) for record in part.records if record.status == "ok"] if _named(part) else []


def _named(part: Part) -> bool:
    wanted = ("dataset", "backbone", "patch", "head", "height", "width", "weights", "dtype", "attention", "recipe")
    return all(name in part.fields for name in wanted)


def _ends(measure: Measure, parts: Sequence[Part]) -> _Numbers:
    """Column -> part -> the two ends of its interval.

    95 % confidence intervals of medians of rounds; where the figure was taken in company, where it may be without.
    """
    if not measure.interleaved:
        return {}
    found: _Numbers = defaultdict(dict)
    names = [column.name for column in measure.columns]
    for index, part in enumerate(parts):
        record = part.records[0]
        for name in names:
            if name in part.values and (ends := _interval(measure, record, name)):
                found[name][index] = ends
        ends = found[measure.interleaved].get(index, [0.0])
        for rate in (name for name in names if name.endswith("images_per_s") and name in part.values):
            if ends[0] > 0:  # a time over which nothing is known has no rate
                scale = part.values[rate].mean * part.values[measure.interleaved].mean
                found[rate][index] = [scale / ends[1], scale / ends[0]]
    return {name: known for name, known in found.items() if known}


def _interval(measure: Measure, record: Record, column: str) -> list[float] | None:
    if record.company:
        start = column.removesuffix("_ms")
        ends = [record.values.get(f"{start}_{end}_ms") for end in ("low", "high")]
        known = [float(end) for end in ends if isinstance(end, int | float)]
        return known if column == measure.interleaved and len(known) == len(ends) else None
    medians = rounds_of(record.samples, column) if column.endswith("_ms") else {}
    if len(medians) < ROUNDS:
        return None
    found = interval(list(medians.values()))
    return [found.low, found.high]


def _classes(measure: Measure, parts: Sequence[Part], numbers: _Numbers) -> dict[str, Any]:
    """Column -> lists of class names, and of each part which list, and its numbers in that order."""
    found: dict[str, Any] = {}
    for column in measure.columns:
        start = f"{column.name}["
        if not any(name.startswith(start) for name in numbers):
            continue
        lists: dict[tuple[str, ...], int] = {}
        at, values = [], []
        for part in parts:
            names = tuple(name for name in part.values if name.startswith(start))
            at.append(lists.setdefault(names, len(lists)) if names else -1)
            values.append([part.values[name].mean for name in names])
        shown = [[name[len(start) : -1] for name in names] for names in lists]
        found[column.name] = {"names": shown, "at": at, "values": values}
    return found


def _columns(kept: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The columns that any row has, in the order of tables."""
    known = {name for measure in kept for name in (*measure["numbers"], *measure.get("classes", {}))}
    return [_column(measure, column) for measure, column in columns() if column.name in known]


def _column(measure: Measure, column: Column) -> dict[str, Any]:
    timed = column.unit in TIMED or column.name.endswith("_ci_pct")
    return asdict(column) | {"measure": measure.name, "timed": timed}


def _group(place: int, group: Any, places: Mapping[str, Mapping[Part, int]]) -> dict[str, Any]:
    of_measure = places[group.measure]
    return {
        "table": place,
        "measure": group.measure,
        "columns": list(group.columns),
        "recipe": group.recipe,
        "parts": [of_measure[part] for part in group.parts],
        "tied": group.tied,
        "seed": group.seed,
        "text": group.text,
    }


def _dense(known: Mapping[int, float], count: int) -> list[float | None]:
    return [known.get(index) for index in range(count)]
