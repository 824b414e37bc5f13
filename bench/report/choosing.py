"""Which rows and which column somebody means: names from a command line, checked against what there is."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache

from bench.errors import UserError, unknown
from bench.plan.cell import FIELDS
from bench.plan.measure import Column, Measure
from bench.report.rows import Row, columns
from bench.stats.ranking import Stat

AXES = (*(name for name in FIELDS if name != "seed"), "resolution")
"""What rows can be chosen and identified by; ``resolution`` is ``HxW``, or one number for a square."""


def check_known(kind: str, names: Iterable[str], there: Iterable[str]) -> None:
    """Refuse a name that is not there.

    Raises:
        UserError: says what was probably meant.
    """
    for name in names:
        if name not in there:
            raise unknown(kind, name, there)


@cache  # tables ask for it once a row
def column_of(name: str) -> tuple[Measure, Column]:
    """A column, of which more or less is better, and its measure; ``column[class]`` is one.

    Raises:
        UserError: there is none of this name, or neither way is better.
    """
    known = {column.name: (measure, column) for measure, column in columns() if measure.fields}
    directed = [key for key, (_, column) in known.items() if column.better]
    found = known.get(name.partition("[")[0])
    if found is None:
        raise unknown("column", name, directed)
    if not found[1].better:
        raise UserError(f"column '{name}' has no better or worse; choose one of {', '.join(sorted(directed))}")
    return found


def of_class(column: Column, name: str) -> Column:
    """The column of one class, ``column[class]``, under its own name; of another name the column as it is."""
    _, bracket, rest = name.partition("[")
    return replace(column, name=name, title=f"{column.title} of {rest.removesuffix(']')}") if bracket else column


def check_class(name: str, rows: Iterable[Row]) -> None:
    """Refuse ``column[class]`` for a class, and a bare column of classes, that no row has; says which there are.

    Raises:
        UserError: that, or as for `column_of`.
    """
    measure, column = column_of(name)
    if "[" not in name and column.table:  # a bare column of numbers, one a row
        return
    plain, measure = name.partition("[")[0], measure.name
    parts = {row.parts[measure] for row in rows if measure in row.parts}
    classes = sorted({f"{plain}[{one}]" for known in {part.classes.get(plain, ()) for part in parts} for one in known})
    if (classes or "[" in name) and name not in classes:
        raise unknown("column", name, classes or [plain])


def axis_of(row: Row, axis: str) -> str:
    """A row's value of one of `AXES`, as a text; "" where it is unknown."""
    return row.input if axis == "resolution" else str(row.fields.get(axis, ""))


def normal(axis: str, text: str) -> str:
    """A value of an axis as rows have it: a side of a square is a size."""
    return f"{text}x{text}" if axis == "resolution" and text.isdigit() else text


def matches(row: Row, where: Mapping[str, Sequence[str]]) -> bool:
    """Whether a row has one of the values of every axis that is named."""
    return all(axis_of(row, axis) in {normal(axis, text) for text in values} for axis, values in where.items())


def stat_of(row: Row, name: str) -> Stat | None:
    """What is known of a row in a column of a measure; None: nothing."""
    measure, _ = column_of(name)
    part = row.parts.get(measure.name)
    return None if part is None else part.values.get(name)
