"""The numbers of records by column, or by ``column[class]``: what is unknown is not there."""

from collections.abc import Iterable, Iterator, Mapping
from functools import cache, lru_cache
from typing import Any

from bench.plan.measure import TIMED, measures
from bench.stats.ranking import Stat
from bench.store.record import Record

_NUMBERS = frozenset({bool, int, float})


class OfOne(Mapping[str, Stat]):
    """Those of a single record, as statistics of one seed; none of one that is not ok.

    They are made when they are asked for: of a hundred thousand records with a hundred classes most never are.
    ``company``: of those of them that company changes, whether they were taken in any.
    """

    __slots__ = ("_crowded", "_record", "_values")

    def __init__(self, record: Record, *, company: bool) -> None:
        self._record = record
        self._values: Mapping[str, Any] = record.values if record.status == "ok" else {}
        self._crowded = timed(record.measure) if company else ()

    def __getitem__(self, name: str) -> Stat:
        if (number := self._number(name)) is None:
            raise KeyError(name)
        return Stat(number, None, 1, name in self._crowded)

    def get(self, name: str, default: Any = None) -> Any:
        """As of any mapping, and quicker than what they have in common."""
        number = self._number(name)
        return default if number is None else Stat(number, None, 1, name in self._crowded)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._number(name) is not None

    def __iter__(self) -> Iterator[str]:
        return (name for name, _ in self._numbers())

    def __len__(self) -> int:
        return len(self._numbers())

    def _number(self, name: str) -> float | None:
        number = self._values.get(name)
        if number is None and name.endswith("]"):
            column, _, rest = name.partition("[")
            of_classes = self._values.get(column)
            number = of_classes.get(rest[:-1]) if isinstance(of_classes, dict) else None
        return number if type(number) in _NUMBERS else None

    def _numbers(self) -> list[tuple[str, float]]:
        return numbers(self._record) if self._values else []


def numbers(record: Record) -> list[tuple[str, float]]:
    """The known numbers of a record by column, or by ``column[class]``."""
    found: list[tuple[str, Any]] = []
    for name, value in record.values.items():
        if isinstance(value, dict):
            found += zip(_labels(name, tuple(value)), value.values(), strict=True)
        else:
            found.append((name, value))
    return [pair for pair in found if type(pair[1]) in _NUMBERS]


def names(records: Iterable[Record]) -> set[str]:
    """The columns that any of them knows a number of, but for those of classes."""
    found: set[str] = set()
    others: set[str] = set()  # have been no number so far
    for record in records:
        if record.status == "ok" and not record.values.keys() <= found:
            for name in record.values.keys() - found - others:
                (found if type(record.values[name]) in _NUMBERS else others).add(name)
            found |= {name for name in others & record.values.keys() if type(record.values[name]) in _NUMBERS}
    return found


def classes(parts: Iterable[Mapping[str, Any]]) -> Mapping[str, tuple[str, ...]]:
    """Column -> its classes, in the order in which records have them, of those columns that hold a number a class.

    Equal ones are one object: a thousand records have the same classes.

    Args:
        parts: values of records.
    """
    found: dict[str, tuple[str, ...]] = {}
    for values in parts:
        for column, value in values.items():
            if isinstance(value, dict):
                before, here = found.get(column, ()), tuple(value)
                if None in value.values():
                    here = tuple(name for name, number in value.items() if number is not None)
                found[column] = here if before in ((), here) else tuple(dict.fromkeys((*before, *here)))
    return _one(tuple(item for item in found.items() if item[1]))


@lru_cache(maxsize=1024)
def _one(classes: tuple[tuple[str, tuple[str, ...]], ...]) -> Mapping[str, tuple[str, ...]]:
    return dict(classes)


@cache
def timed(measure: str) -> frozenset[str]:
    """The columns of a measure that company changes."""
    columns = measures()[measure].columns
    return frozenset(one.name for one in columns if one.unit in TIMED or one.name.endswith("_ci_pct"))


@lru_cache(maxsize=1024)  # records of one data set have the same classes
def _labels(column: str, classes: tuple[str, ...]) -> list[str]:
    return [f"{column}[{name}]" for name in classes]
