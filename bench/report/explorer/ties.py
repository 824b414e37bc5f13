"""What cannot be told apart, for the page: worked out here, so that the page claims nothing of its own."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bench.plan.measure import Column, Measure, measures
from bench.report.claims import claim
from bench.report.evidence import chance
from bench.report.rows import Part, Row, Table, headline
from bench.report.standing import between
from bench.stats.family import Family, claimed, family
from bench.stats.ranking import Noise
from bench.stats.sampling import by_round, rounds_of
from bench.store.record import Record

LIMIT = 300
"""Most measurements of a group that are compared each with each; a larger group would take minutes and megabytes."""


@dataclass(frozen=True)
class Group:
    """Measurements of one column that may be compared.

    columns: what is said of them; the first is what was compared. recipe: of accuracies; None: of times. tied: of each
    part, the places of those that it cannot be told apart from; None: there are more than `LIMIT`. seed: what seed
    noise asks of a difference between means over n and m seeds, divided by √(1/n + 1/m); None: unknown, or no accuracy.
    text: how it was found out.
    """

    measure: str
    columns: tuple[str, ...]
    recipe: str | None
    parts: tuple[Part, ...]
    tied: tuple[tuple[int, ...], ...] | None
    seed: float | None
    text: str


def groups(table: Table) -> list[Group]:
    """Of accuracies one for each recipe, of times one for each measure that is taken in rounds."""
    return [*_accuracies(table), *_times(table)]


def _accuracies(table: Table) -> Iterable[Group]:
    top = headline(table.task)
    if top is None:
        return
    measure, column = top
    for recipe, noise in table.noise.items():
        rows = [row for row in table.rows if row.fields.get("recipe", "") == recipe]
        parts = _distinct(rows, measure.name, column.name)
        equal = chance(column.name, noise)
        whole = family((parts, equal))
        seed = noise.difference(1, 1, whole.level) / 2**0.5 if noise else None
        tied = _pairs(parts, claimed(equal, whole.level))
        text = _of_accuracy(table, recipe, column, whole, compared=tied is not None)
        yield Group(measure.name, (column.name,), recipe, parts, tied, seed, text)


def _of_accuracy(table: Table, recipe: str, column: Column, whole: Family, *, compared: bool) -> str:
    noise, paired = table.noise[recipe], table.paired[recipe]
    sentence = paired.sentence(column.title, noise, whole) if compared else ""
    found = [sentence] if sentence else []
    if not sentence or paired.paired < paired.parts:
        found.append(_of_noise(column, noise, whole))
    if not compared:
        found.append(f"With more than {LIMIT} measurements images are not compared, and seed noise alone decides.")
    return " ".join(found)


def _of_noise(column: Column, noise: Noise | None, whole: Family) -> str:
    if noise is None:
        return f"Seed noise of {column.title} is unknown (no row has two seeds): small differences may be chance."
    return (
        f"Seed noise of {column.title}: sd {noise.sd:.2f} ({noise.freedom} degrees of freedom); it takes a difference "
        f"of {noise.difference(1, 1, whole.level):.2f} to tell two rows of one seed each apart, "
        f"{noise.difference(2, 2, whole.level):.2f} of two ({whole.sentence()})."
    )


def _times(table: Table) -> Iterable[Group]:
    for measure in measures().values():
        series = measure.interleaved
        parts = _distinct(table.rows, measure.name, series) if series else ()
        parts = tuple(part for part in parts if not part.company)
        if not parts:
            continue
        light = {part: _light(part.records[0], series) for part in parts}
        equal = _chance(measure, light, between(measure, parts))
        whole = family((parts, equal))
        tied = _pairs(parts, claimed(equal, whole.level))
        rates = (column.name for column in measure.columns if column.name.endswith("images_per_s"))
        text = _of_times(measure, parts, whole, compared=tied is not None)
        yield Group(measure.name, (series, *rates), None, parts, tied, None, text)


def _chance(measure: Measure, light: Mapping[Part, Record], spread: Noise) -> Callable[[Part, Part], float]:
    return lambda one, other: claim(measure, light[one], light[other], between=spread).p


def _of_times(measure: Measure, parts: Sequence[Part], whole: Family, *, compared: bool) -> str:
    title = next(column.title for column in measure.columns if column.name == measure.interleaved)
    if not compared:
        return (
            f"With more than {LIMIT} of them, {title} is told apart only where 95 % confidence intervals do not "
            "overlap; `densebench compare` has the claims."
        )
    floors = sorted(part.values[measure.floor].mean for part in parts if measure.floor in part.values)
    known = f", {floors[0]:.1f} to {floors[-1]:.1f} %" if floors else ""
    return (
        f"{title.capitalize()} is told apart by the ratio in rounds that both were timed in ({whole.sentence()}), "
        f"where it is beyond the noise floor of the session{known}."
    )


def _distinct(rows: Iterable[Row], measure: str, column: str) -> tuple[Part, ...]:
    known = (row.parts[measure] for row in rows if measure in row.parts)
    return tuple(dict.fromkeys(part for part in known if column in part.values))


def _pairs(parts: Sequence[Part], differ: Callable[[Part, Part], bool]) -> tuple[tuple[int, ...], ...] | None:
    if len(parts) > LIMIT:
        return None
    found: list[list[int]] = [[] for _ in parts]
    for index, part in enumerate(parts):
        for place in range(index):
            if not differ(parts[place], part):
                found[place].append(index)
                found[index].append(place)
    return tuple(map(tuple, found))


def _light(record: Record, series: str) -> Record:
    """The same record with the medians of its rounds for samples: equal claims, found faster."""
    medians: dict[str, Mapping[int, float]] = {series: rounds_of(record.samples, series)}
    if "anchor_ms" in record.samples:
        medians["anchor_ms"] = by_round(record.samples["anchor_ms"], record.samples["anchor_ms_round"])
    samples: dict[str, Any] = {}
    for name, found in medians.items():
        if found:
            samples |= {name: tuple(found.values()), f"{name}_round": tuple(map(float, found))}
    return replace(record, samples=samples)
