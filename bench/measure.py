"""What a measure promises; one measure is one file in ``bench/measures``.

Such a file has a *literal* ``CATALOGUE`` with one entry, read without importing the file::

    CATALOGUE = {
        "latency": {
            "version": 1,                   # raise it when the number changes its meaning: old records no longer count
            "fields": ["backbone", ...],    # fields of Cell that the number depends on
            "exclusive": True,              # must have the machine to itself
            "seconds": 2.0,                 # a first guess of its duration, for the time left
            "columns": [{"name": "latency_ms", "unit": "ms", "better": "lower", "title": "latency"}, ...],
        }
    }

and a function ``measure(cell, context) -> Outcome``, run in a process of its own.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

from bench.catalogue import entries
from bench.cell import FIELDS
from bench.errors import UserError

Value = float | int | str | None | dict[str, float | None]


@dataclass(frozen=True)
class Column:
    """One number of a measure.

    better: which way is better; None: neither. task: of the heads that it applies to; None: all. digits: decimals in
    tables. table: shown in tables (a dict of one number a class is not). headline: the one that ranks a task's rows.
    """

    name: str
    unit: str
    title: str
    better: Literal["higher", "lower"] | None = None
    task: str | None = None
    digits: int = 1
    table: bool = True
    headline: bool = False


@dataclass(frozen=True)
class Measure:
    """The part of a measure that planning and reporting need."""

    name: str
    version: int
    fields: tuple[str, ...]
    columns: tuple[Column, ...]
    exclusive: bool
    seconds: float
    doc: str = ""


@dataclass(frozen=True)
class Outcome:
    """What a measure found.

    values: column name -> number; None is "unknown", never 0; a dict holds one number a class.
    samples: raw samples by name, in the unit that the name says.
    """

    values: Mapping[str, Value]
    samples: Mapping[str, Sequence[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Context:
    """What a measure may use beyond its cell.

    report: called with (stage, done, total) whenever there is progress to show.
    threads: CPU threads that this process was given.
    cache: folder for what can be made again.
    root: where the cell's data set lies; None for an embedded one.
    pictures: folder for pictures of predictions.
    """

    report: Callable[[str, int, int], None]
    threads: int
    cache: Path
    root: Path | None = None
    pictures: Path | None = None


class Invalid(Exception):
    """A measurement ended, but its number must not be used; the text says why. Becomes a row of status `invalid`."""


@cache
def measures() -> Mapping[str, Measure]:
    """All measures, in order of name.

    Raises:
        UserError: a file states a measure wrongly; names the file and the key.
    """
    return {name: _parse(name, entry.facts, entry.source, entry.doc) for name, entry in entries("measures").items()}


def _parse(name: str, facts: Mapping[str, Any], source: Path, doc: str) -> Measure:
    try:
        columns = tuple(Column(**column) for column in facts["columns"])
        measure = Measure(
            name=name,
            version=facts["version"],
            fields=tuple(field for field in FIELDS if field in facts["fields"]),
            columns=columns,
            exclusive=facts["exclusive"],
            seconds=facts["seconds"],
            doc=doc,
        )
    except (KeyError, TypeError) as error:
        raise UserError(f"measure '{name}' in {source}: {error}") from error
    if strange := set(facts["fields"]) - set(FIELDS):
        raise UserError(f"measure '{name}' in {source}: {', '.join(sorted(strange))}: no such field of Cell")
    return measure
