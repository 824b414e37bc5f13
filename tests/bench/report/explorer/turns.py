"""Synthetic records of times in rounds, for the explorer's tests."""

from pathlib import Path
from typing import Any

from PIL import Image

from bench.errors import printable
from bench.plan.measure import COMPANY
from bench.store import pictures
from bench.store.record import Record
from tests.bench.records import CELL, make, write

ROUNDS = 12


def turn(cost: float, **given: Any) -> Record:
    """A time with rounds that drift alike for all cells of the session, and scatter by 1 % in their own way."""
    wobble = [1 + (index % 3 - 1) / 100 for index in range(ROUNDS)]
    series = [cost * (1 + (index - 5.5) / 100) * step for index, step in enumerate(wobble)]
    samples = {"turn_ms": series, "turn_ms_round": [float(index) for index in range(ROUNDS)]}
    known = {"turn_ms": cost, "turn_ci_pct": 3.0, "noise_floor_pct": 2.0, "session": "s"} | given
    return make("turns", samples=samples, **known)


def model(backbone: str, miou: list[float], cost: float, **cell: Any) -> list[Record]:
    """What is measured of one backbone: accuracies of as many seeds, a time, its size."""
    found = [make("accuracy", backbone=backbone, seed=seed, miou=value, **cell) for seed, value in enumerate(miou)]
    found.append(make("complexity", backbone=backbone, params_m=cost / 10, **cell))
    return [*found, turn(cost, backbone=backbone, **cell)]


HOSTILE = "<img src=x onerror=window.hacked=1></script>\u2028\"'`$&"
SHOWN = printable(HOSTILE)
"""As it is read: what ends a line is escaped."""
COMPETING = [
    *model("best", [30.0, 32.0], 20.0),
    *model("close", [29.0, 31.0], 15.0),
    *model("far", [10.0, 11.0], 12.0),
    *model("quick", [12.0], 11.9),
    *model("worse", [5.0], 30.0),
]
"""``best`` and ``close`` are not told apart by accuracy, nor ``far`` and ``quick``, either way."""


def two_machines(folder: Path) -> None:
    """Machines ``one`` and ``two``, with pictures of ``best``, another recipe and task, failures, company."""
    classes = {"disc": 80.0, HOSTILE: 20.0}
    odd = [
        make("accuracy", backbone="odd", miou=13.5, class_iou=classes),
        turn(5.0, backbone="odd", **{COMPANY: "a neighbour was busy", "turn_low_ms": 2.0, "turn_high_ms": 6.0}),
        make("complexity", backbone="odd", params_m=9.0),
        make("accuracy", backbone="broken", miou=1.0),
        make("turns", backbone="broken", status="oom", reason=f"no room for {HOSTILE}"),
    ]
    others = [*model("long", [50.0], 18.0, recipe="long"), *model("fcos", [], 25.0, head="fcos")]
    others.append(make("accuracy", backbone="fcos", head="fcos", ap=7.0))
    write(folder / "one", [*COMPETING, *odd, *others])
    write(folder / "two", [*model("best", [33.0], 40.0), *model(HOSTILE, [30.0], 50.0)])
    (folder / "one" / pictures.FOLDER).mkdir()
    for seed in (0, 1):
        named = CELL | {"backbone": "best", "seed": seed}
        Image.new("RGB", (8, 6), "red").save(folder / "one" / pictures.FOLDER / pictures.name(named))


def many() -> list[Record]:
    """Records of 10,000 rows: of each of ten backbones, 25 recipes beside 40 batches."""
    found: list[Record] = []
    for index in range(10):
        name = f"vit_{index}"
        times = {batch: batch * (3.0 + index) + index / 7 for batch in range(1, 41)}
        found += [make("latency", backbone=name, batch=batch, latency_ms=time) for batch, time in times.items()]
        scores = {f"recipe_{recipe:02}": 20.0 + 2 * index + recipe / 10 for recipe in range(25)}
        found += [make("accuracy", backbone=name, recipe=recipe, miou=score) for recipe, score in scores.items()]
    return found
