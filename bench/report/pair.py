"""``densebench compare --rows A B``: two rows, column by column, and what may be claimed of each difference.

A row is named by words: each is a value of one of its fields (``hybrid_pico/16 linear 128x128``), or ``field=value``
where the value alone could be of several. What neither text says has to be the same in both rows: the two then differ
in nothing that nobody asked about.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from difflib import get_close_matches
from itertools import product
from pathlib import Path
from typing import Any

from bench.errors import UserError, printable
from bench.plan.cell import DEFAULTS, FIELDS, SILENT
from bench.plan.measure import Column, Measure
from bench.report.choosing import check_known
from bench.report.claims import claim
from bench.report.evidence import compared
from bench.report.naming import IDENTITY, choices
from bench.report.rows import Part, Row, Table, columns, folders, noise, read
from bench.report.standing import between, series_of
from bench.report.tables import label, number
from bench.report.terminal import TableColumn, TerminalTable
from bench.stats.family import Family, holm
from bench.stats.ranking import Noise, Stat

_EXACT = "taken as exact"
_SHARED = tuple(name for name in FIELDS if name != "seed")


@dataclass(frozen=True)
class Line:
    """One column of two rows.

    ratio: whether what follows is second / first, else second - first. change, low, high: with its 95 % interval; None:
    unknown, or exact. p: p-value of their being equal; of what is exact 0 or 1, None: nothing is known of the noise.
    basis: what that rests on. claimed: whether a difference may be claimed, with all others that the table claims
    (`bench.stats.family`); None: as p.
    """

    column: Column
    first: Stat
    second: Stat
    ratio: bool
    change: float | None
    low: float | None
    high: float | None
    p: float | None
    basis: str
    claimed: bool | None = None

    @property
    def better(self) -> str:
        """``first``, ``second``, or "" where neither is claimed to be, or neither way is better."""
        if not self.claimed or self.column.better is None or self.first.mean == self.second.mean:
            return ""
        less = "first" if self.first.mean < self.second.mean else "second"
        more = "second" if less == "first" else "first"
        return less if self.column.better == "lower" else more


@dataclass(frozen=True)
class Pair:
    """Two rows of one table.

    differ: field -> its two values. lacking: columns that only one of them has. family: what is claimed of the others.
    """

    table: Table
    first: Row
    second: Row
    differ: dict[str, tuple[Any, Any]]
    lines: tuple[Line, ...]
    lacking: tuple[str, ...]
    family: Family

    def as_json(self) -> dict[str, Any]:
        """In plain lists and dicts; what is unknown is None."""
        return {
            "machine": self.table.machine,
            "environment": self.table.environment.comparable,
            "task": self.table.task,
            "dataset": self.table.dataset,
            "first": dict(self.first.fields),
            "second": dict(self.second.fields),
            "columns": [asdict(line) | {"column": line.column.name, "better": line.better} for line in self.lines],
            "lacking": list(self.lacking),
        }

    def render(self, *, wide: bool = False) -> TerminalTable:
        """For a terminal."""
        rows = {"first": self.first, "second": self.second}
        sides = {
            "first": [number(line.first, line.column, spread=line.first.n > 1) for line in self.lines],
            "second": [number(line.second, line.column, spread=line.second.n > 1) for line in self.lines],
        }
        body = [
            TableColumn("", [label(line.column) for line in self.lines], named=True),
            *(TableColumn(name, cells, right=True) for name, cells in sides.items()),
            TableColumn("second against first", [_change(line) for line in self.lines], right=True),
            TableColumn("better", [line.better or _unclaimed(line) for line in self.lines]),
            TableColumn("by", [line.basis for line in self.lines], 1),
        ]
        same = [f"{name} {value}" for name, value in self.first.fields.items() if name not in self.differ]
        caption = [
            *(f"{name}: {' '.join(choices(row.fields, IDENTITY))}" for name, row in rows.items()),
            "They differ in " + ", ".join(f"{name} ({a}, {b})" for name, (a, b) in self.differ.items()),
            f"Both: {', '.join(same)}",
            self.table.environment.title(),
            f"better: where a difference may be claimed ({self.family.sentence()}); = where it may not",
            *([f"Not known of both: {', '.join(self.lacking)}"] if self.lacking else []),
        ]
        return TerminalTable(f"{self.table.task} on {self.table.dataset}", body, caption=caption, wide=wide)


def pair(results: Path, first: str, second: str, *, machine: str | None = None, task: str | None = None) -> Pair:
    """Two rows by their words.

    Raises:
        UserError: no row has them, several pairs do, or it is one row; says what would tell them apart.
    """
    found = folders(results)
    check_known("machine", [machine] if machine else [], [printable(folder.name) for folder in found])
    tables = [table for folder in found if machine in {None, printable(folder.name)} for table in read(folder).tables]
    check_known("task", [task] if task else [], {table.task for table in tables})
    tables = [table for table in tables if task in {None, table.task}]
    matching = [(table, _chosen(table, first), _chosen(table, second)) for table in tables]
    for text, side in ((first, 1), (second, 2)):
        if not any(one[side] for one in matching):
            raise _no_row(text, tables)
    pairs = [(table, a, b) for table, ones, others in matching for a, b in _pairs(ones, others, first, second)]
    if not pairs:
        raise UserError(
            f"no row '{first}' agrees with a row '{second}' in all that neither text says; say more, e.g. recipe=NAME"
        )
    plainest = min(map(_plainness, pairs))
    pairs = [one for one in pairs if _plainness(one) == plainest]
    if len(pairs) > 1:
        raise UserError(f"{len(pairs)} pairs of rows are '{first}' and '{second}': {_choice(pairs)}")
    return _compared(*pairs[0])


def _chosen(table: Table, text: str) -> list[Row]:
    words = text.split()
    return [row for row in table.rows if words and all(word in _words(table, row) for word in words)]


def _words(table: Table, row: Row) -> set[str]:
    fields = row.fields
    plain = {str(value) for value in fields.values() if isinstance(value, str)}
    known = {f"{name}={value}" for name, value in fields.items()}
    both = {f"{fields.get('backbone')}/{fields.get('patch')}", row.input, f"machine={table.machine}", table.machine}
    return plain | known | both | ({str(fields["height"])} if fields.get("height") == fields.get("width") else set())


def _pairs(ones: Sequence[Row], others: Sequence[Row], first: str, second: str) -> "Iterator[tuple[Row, Row]]":
    """Of all pairs those that differ in as little as they must."""
    candidates = [(a, b, _differ(a, b)) for a, b in product(ones, others) if a is not b]
    if not candidates:
        return
    said = {*first.split(), *second.split()}
    yield from ((a, b) for a, b, differ in candidates if all(_said(name, a, b, said) for name in differ))


def _said(name: str, a: Row, b: Row, said: set[str]) -> bool:
    """Whether the words name this field of at least one of the two."""
    for row in (a, b):
        value = row.fields.get(name)
        words = {f"{name}={value}", str(value)} if isinstance(value, str) else {f"{name}={value}"}
        if name in {"height", "width"}:
            words |= {row.input, str(value)}
        if name in {"backbone", "patch"}:
            words.add(f"{row.fields.get('backbone')}/{row.fields.get('patch')}")
        if words & said:
            return True
    return False


def _differ(a: Row, b: Row) -> dict[str, tuple[Any, Any]]:
    pairs = {name: (a.fields[name], b.fields[name]) for name in _SHARED if name in a.fields and name in b.fields}
    return {name: values for name, values in pairs.items() if values[0] != values[1]}


def _no_row(text: str, tables: Sequence[Table]) -> UserError:
    there = {word for table in tables for row in table.rows for word in _words(table, row)}
    for word in text.split():
        if word not in there:
            close = get_close_matches(word, sorted(there), n=3, cutoff=0.5)
            hint = f"did you mean {' or '.join(close)}? " if close else ""
            return UserError(f"no row has the word '{word}': {hint}words are values of fields, or field=value")
    return UserError(f"no row has all of '{text}'; each of its words is of some row")


def _plainness(one: "tuple[Table, Row, Row]") -> tuple[int, int, int, int]:
    """Which of several pairs is meant: it differs in less, is not quantised, more is known of both, less is unusual."""
    _, a, b = one
    both = sum(
        len(a.parts[name].values.keys() & b.parts[name].values.keys()) for name in a.parts.keys() & b.parts.keys()
    )
    unusual = sum(a.fields.get(name, DEFAULTS[name]) != DEFAULTS[name] for name in _SHARED if name in DEFAULTS)
    narrow = sum(row.fields.get(name, usual) != usual for row in (a, b) for name, usual in SILENT.items())
    return len(_differ(a, b)), narrow, -both, unusual


def _choice(pairs: "Sequence[tuple[Table, Row, Row]]") -> str:
    """What would tell several pairs apart."""
    for name in ("machine", "dataset", "recipe", *_SHARED):
        for side in (1, 2):
            rows = [(table, (a, b)[side - 1]) for table, a, b in pairs]
            values = {table.machine if name == "machine" else str(row.fields.get(name, "?")) for table, row in rows}
            if len(values) > 1:
                which = ("first", "second")[side - 1]
                return f"say {name}=... of the {which}, one of {', '.join(sorted(values))}"
    return "they differ in nothing that a word could say"


def _compared(table: Table, first: Row, second: Row) -> Pair:
    lines, lacking = [], []
    for measure, column in columns(table.task):
        parts = first.parts.get(measure.name), second.parts.get(measure.name)
        # Of what has no better way (rounds, floors) a difference says nothing of the rows.
        if not measure.fields or not column.better or column.name.endswith("_ci_pct"):
            continue
        if not any(part and column.name in part.values for part in parts):
            continue
        if parts[0] is None or parts[1] is None or not all(column.name in part.values for part in parts if part):
            lacking.append(column.title)
        elif parts[0] is not parts[1]:
            lines.append(_line(measure, column, parts[0], parts[1], _spread(table, measure, column, parts[0])))
    tested = [line.p for line in lines if line.p is not None and line.basis != _EXACT]
    claims = Family(len(tested), holm(tested))
    lines = [replace(line, claimed=None if line.p is None else line.p <= claims.level) for line in lines]
    return Pair(table, first, second, _differ(first, second), tuple(lines), tuple(dict.fromkeys(lacking)), claims)


def _spread(table: Table, measure: Measure, column: Column, part: Part) -> Noise | None:
    """What a column of equal rows differs by: of seeds, or of processes."""
    of_table = [row.parts[measure.name] for row in table.rows if measure.name in row.parts]
    if measure.trains:
        recipe = part.fields.get("recipe")
        return noise([one for one in of_table if one.fields.get("recipe") == recipe], column.name)
    return between(measure, of_table) if series_of(measure, column.name) else None


def _line(measure: Measure, column: Column, first: Part, second: Part, spread: Noise | None) -> Line:
    one, other = first.values[column.name], second.values[column.name]
    if one.company or other.company:
        return Line(column, one, other, True, None, None, None, None, "taken in company")
    if timed := series_of(measure, column.name):
        # A rate is turned over: its ratio is that of the times of the first to the second.
        sides = (first, second) if column.name.endswith("per_s") else (second, first)
        found = claim(measure, sides[0].records[0], sides[1].records[0], timed, between=spread)
        if found.ratio is None:
            return Line(column, one, other, True, other.mean / one.mean, None, None, found.p, "no common rounds")
        ends = found.ratio.value, found.ratio.low, found.ratio.high
        return Line(column, one, other, True, *ends, found.p, f"{found.ratio.rounds} rounds")
    if measure.trains and column.unit == "%" and column.better:
        return _trained(column, first, second, spread)
    if measure.trains or measure.interleaved or column.unit in {"s", "W", "J"}:
        return Line(column, one, other, False, other.mean - one.mean, None, None, None, "nothing known of its noise")
    ratio = other.mean / one.mean if one.mean > 0 else None
    return Line(column, one, other, True, ratio, None, None, float(one.mean == other.mean), _EXACT)


def _trained(column: Column, first: Part, second: Part, spread: Noise | None) -> Line:
    one, other = first.values[column.name], second.values[column.name]
    paired = compared(second, first, column.name, spread)
    if paired is not None:
        known = math.isfinite(paired.low)
        ends = (paired.low, paired.high) if known else (None, None)
        basis = "images and seeds" if known else "seed noise unknown"
        return Line(column, one, other, False, paired.value, *ends, paired.p if known else None, basis)
    change = other.mean - one.mean
    if spread is None:
        return Line(column, one, other, False, change, None, None, None, "seed noise unknown")
    least = spread.difference(one.n, other.n)
    p = spread.chance(change, one.n, other.n)
    return Line(column, one, other, False, change, change - least, change + least, p, "seeds")


def _change(line: Line) -> str:
    if line.change is None:
        return ""
    start = f"x {line.change:.3g}" if line.ratio else f"{line.change:+.{line.column.digits}f}"
    if line.low is None or line.high is None:
        return start
    ends = [f"{end:.3g}" if line.ratio else f"{end:+.{line.column.digits}f}" for end in (line.low, line.high)]
    return f"{start} ({ends[0]} to {ends[1]})"


def _unclaimed(line: Line) -> str:
    if line.claimed is None:
        return "?"
    return "=" if not line.claimed else ""
