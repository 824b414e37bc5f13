"""Made-up records of the measures that there are, at cells of any choice."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from bench.plan.cell import Cell
from bench.plan.measure import measures
from bench.store.record import Record
from tests.bench.records import CELL

SIZES = (64, 128, 256, 512)


def record(measure: str, size: int, samples: Mapping[str, Sequence[float]] | None = None, **given: Any) -> Record:
    cell = asdict(Cell(**CELL | {"height": size, "width": size, "batch": 1}))
    cell |= {name: given.pop(name) for name in list(given) if name in cell}
    known = measures()[measure]
    fields = {name: cell[name] for name in known.fields}
    return Record(measure, known.version, fields, {}, "here", "ok", "", given, samples or {})


def timed(size: int, ms: float, *, session: str = "s", drift: float = 1.0, anchor: str = "a", **given: Any) -> Record:
    """A latency of 20 rounds with 1 % of noise, on a machine that drifts by a fifth while it is taken."""
    generator = random.Random(f"{size} {ms} {session} {given}")
    weather = [drift * (1 + index / 100) for index in range(20)]
    series = [ms * slow * generator.gauss(1, 0.01) for slow in weather]
    samples = {"latency_ms": series, "latency_ms_round": list(range(20))}
    if anchor:
        anchored = [7 * slow * generator.gauss(1, 0.01) for slow in weather]
        samples |= {"anchor_ms": anchored, "anchor_ms_round": list(range(20))}
    values = {"latency_ms": sorted(series)[10], "latency_ci_pct": 5.0, "noise_floor_pct": 2.0, "session": session}
    values |= {"anchor": anchor} if anchor else {}
    return record("latency", size, samples, **values, **given)


def straight(exponent: float, ms: float = 10.0, sizes: tuple[int, ...] = SIZES, **given: Any) -> list[Record]:
    return [timed(size, ms * (size / 64) ** (2 * exponent), **given) for size in sizes]


def scored(
    size: int, column: str = "miou", mean: float = 20.0, *, loss: Sequence[float] = (), classes: str = "", **given: Any
) -> Record:
    """An accuracy; of each class a tenth more than of the one before."""
    values: dict[str, Any] = {column: mean}
    if classes:
        figures = {name: mean * (1 + index / 10) for index, name in enumerate(classes.split())}
        values["class_iou" if column == "miou" else "class_ap"] = figures
    samples = {"loss": list(loss)} if loss else {}
    return record("accuracy", size, samples, **values, **given)
