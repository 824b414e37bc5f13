"""Limits on columns, as a person writes them: ``20ms``, ``2GiB``, ``latency_ms<=20``."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from bench.errors import UserError
from bench.plan.measure import Column
from bench.report.choosing import column_of, of_class

# SI prefixes are powers of 1000, IEC prefixes of 1024.
_UNITS: Mapping[str, Mapping[str, float]] = {
    "ms": {"ns": 1e-6, "us": 1e-3, "µs": 1e-3, "ms": 1, "s": 1e3},
    "s": {"ms": 1e-3, "s": 1, "min": 60, "h": 3600},
    "µs": {"ns": 1e-3, "us": 1, "µs": 1, "ms": 1e3, "s": 1e6},
    "MiB": {
        "B": 2**-20, "kB": 1e3 / 2**20, "MB": 1e6 / 2**20, "GB": 1e9 / 2**20, "KiB": 2**-10, "MiB": 1, "GiB": 2**10,
    },
    "M": {"k": 1e-3, "K": 1e-3, "M": 1, "B": 1e3, "G": 1e3},
    "G": {"M": 1e-3, "G": 1, "T": 1e3},
    "J": {"mJ": 1e-3, "J": 1, "kJ": 1e3},
    "W": {"mW": 1e-3, "W": 1, "kW": 1e3},
    "%": {"%": 1},
    "1/s": {"/s": 1, "1/s": 1},
}  # fmt: skip
"""Unit of a column -> what may be written -> how many of the column's unit that is."""
_TWO_WAYS = {
    ("MiB", "k"): ("kB", "KiB"), ("MiB", "K"): ("kB", "KiB"), ("MiB", "M"): ("MB", "MiB"), ("MiB", "G"): ("GB", "GiB"),
    ("ms", "m"): ("ms", "min"), ("s", "m"): ("ms", "min"),
}  # fmt: skip
"""What could be read as either of two."""
_NUMBER = r"([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)"
_AMOUNT = re.compile(rf"\s*{_NUMBER}\s*(.*?)\s*")
_EXPRESSION = re.compile(r"\s*([\w\[\] .:-]+?)\s*(<=|>=|<(?!=)|>(?!=))\s*(.+?)\s*")

OPTIONS = {
    "max-latency": "latency_ms",
    "min-images-per-s": "images_per_s",
    "max-memory": "peak_mib",
    "max-params": "params_m",
    "max-energy": "joules_per_image",
}
"""Options of the command line, and the columns that they limit."""

Bound = Literal["most", "least"]


@dataclass(frozen=True)
class Limit:
    """A bound on a column, in its unit; the bound itself is within. text: as somebody wrote it."""

    column: Column
    name: str
    bound: Bound
    value: float
    text: str

    def holds(self, value: float) -> bool:
        """Whether a value is within."""
        return value <= self.value if self.bound == "most" else value >= self.value

    def excess(self, value: float) -> float:
        """By which share of the limit a value is beyond it; 0 within."""
        beyond = value - self.value if self.bound == "most" else self.value - value
        return max(0.0, beyond) / abs(self.value) if self.value else (math.inf if beyond > 0 else 0.0)

    def __str__(self) -> str:
        unit = "" if self.column.unit.startswith("1/") else f" {self.column.unit}".rstrip()
        return f"{self.column.title} {'≤' if self.bound == 'most' else '≥'} {self.value:g}{unit}"


def amount(text: str, column: Column, option: str) -> float:
    """A number with its unit, in the unit of a column.

    Args:
        text: ``20ms``; without a unit where the column has none, or is a rate.
        column: what it is of.
        option: that it was given to, for errors.

    Raises:
        UserError: no number, no unit or one that the column does not have, or one that can be read in two ways.
    """
    return _amount(text, column, option, bare=column.unit in {"", "1/s", "steps", "%"})


def option(name: str, text: str) -> Limit:
    """A limit from an option of a command line: ``max-latency`` and ``20ms``.

    Raises:
        UserError: see `amount`.
    """
    column = column_of(OPTIONS[name])[1]
    bound: Bound = "most" if name.startswith("max") else "least"
    return Limit(column, column.name, bound, amount(text, column, f"--{name}"), f"--{name} {text}")


def is_expression(text: str) -> bool:
    """Whether a text has a sign of comparison, and so is for `expression`."""
    return bool(re.search(r"[<>]", text))


def expression(text: str) -> Limit:
    """A limit from ``COLUMN<=VALUE`` or ``COLUMN>=VALUE``; without a unit it is in the column's.

    Raises:
        UserError: no such expression or column, or see `amount`.
    """
    match = _EXPRESSION.fullmatch(text)
    if match is None:
        raise UserError(f"--where {text}: COLUMN<=VALUE or COLUMN>=VALUE is wanted, e.g. --where 'latency_ms<=20'")
    name, sign, value = match.groups()
    column = of_class(column_of(name)[1], name)
    if sign in "<>":
        raise UserError(f"--where {text}: a measured value is never just at a limit; write {name}{sign}={value}")
    number = _amount(value, column, f"--where {text}", bare=True)
    return Limit(column, name, "most" if sign == "<=" else "least", number, text)


def checked(limits: Iterable[Limit]) -> tuple[Limit, ...]:
    """These limits, once it is known that they do not contradict each other.

    Raises:
        UserError: two of one column on one side, or two that leave nothing between them.
    """
    found: dict[tuple[str, Bound], Limit] = {}
    for limit in limits:
        before = found.setdefault((limit.name, limit.bound), limit)
        if before != limit:
            raise UserError(f"'{before.text}' and '{limit.text}' both limit {limit.name}: give one of them")
    for (name, bound), limit in found.items():
        other = found.get((name, "least"))
        if bound == "most" and other is not None and other.value > limit.value:
            raise UserError(f"'{other.text}' and '{limit.text}' contradict each other: no {name} is within both")
    return tuple(found.values())


def _amount(text: str, column: Column, option: str, *, bare: bool) -> float:
    match = _AMOUNT.fullmatch(text)
    if match is None or not math.isfinite(float(match[1])):
        raise UserError(f"{option}: a number is wanted, e.g. {_example(column)}, and '{text}' came")
    number, unit = float(match[1]), match[2]
    units = _UNITS.get(column.unit, {column.unit: 1.0} if column.unit else {})
    if not unit:
        if bare:
            return number
        raise UserError(f"{option} {text}: of what? Say the unit, e.g. {_example(column)} ({_choice(list(units))})")
    if (column.unit, unit) in _TWO_WAYS:
        one, other = _TWO_WAYS[column.unit, unit]
        raise UserError(f"{option} {text}: that may be {match[1]}{one} or {match[1]}{other}: say which")
    if unit not in units:
        there = f"{column.title} is in {_choice(list(units))}" if units else f"{column.title} has no unit"
        raise UserError(f"{option} {text}: unknown unit '{unit}'; {there}")
    return number * units[unit]


def _example(column: Column) -> str:
    return f"20{'' if column.unit.startswith('1/') else column.unit}"


def _choice(units: Sequence[str]) -> str:
    return " or ".join([", ".join(units[:-1]), units[-1]] if len(units) > 1 else units)
