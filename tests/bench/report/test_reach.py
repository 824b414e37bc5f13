"""The curve of steps until solved, over the distance of the mark."""

from dataclasses import replace
from pathlib import Path

import pytest

from bench.report import reach
from bench.report.figure import figures
from bench.report.rows import read
from bench.report.tables import REACH, report
from bench.store.record import Record
from tests.bench.records import make, write

pytestmark = pytest.mark.usefixtures("known")


def look(distance: float, solved: int | None, pair: float | None, **given: object) -> Record:
    values = {"miou": 20.0, "solved_step": solved, "pair_accuracy": pair, "most_steps": 400}
    found = make("accuracy", dataset=f"scenes:distance={distance}", **values)
    return replace(found, fields={**found.fields, **given})


SEEDS = [look(0.05, 100, 91.0), look(0.05, 200, 93.0, seed=1), look(0.5, None, 52.0), look(0.5, 300, 90.0, seed=1)]
OTHER = [
    look(0.05, 50, 95.0, backbone="cnn"),
    look(0.2, None, None, backbone="cnn"),
    look(0.5, None, 49.6, backbone="cnn"),
]


def lines(folder: Path) -> list[str]:
    report(folder.parent)
    path = folder / REACH
    text = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [line for line in text if line.startswith(("| vit", "| cnn", "| backbone"))]


def test_a_model_is_a_line_and_a_seed_that_fails_fails_the_cell(tmp_path: Path) -> None:
    assert lines(write(tmp_path / "r" / "box", SEEDS + OTHER)) == [
        "| backbone | patch | head | input | weights | recipe | 0.05 | 0.2 | 0.5 |",
        "| cnn | 16 | linear | 128x128 | random | short | 50 | no | no (50 %) |",
        "| vit_pico | 16 | linear | 128x128 | random | short | 150 (2) |  | no (71 %) |",
    ]


def test_a_seed_that_found_nothing_is_not_left_out(tmp_path: Path) -> None:
    records = [look(0.05, 100, 91.0), look(0.05, None, None, seed=1), look(0.2, 50, 95.0)]
    assert lines(write(tmp_path / "r" / "box", records))[1].endswith("| no (91 %) | 50 |")


def test_what_differs_in_more_than_the_distance_is_another_curve(tmp_path: Path) -> None:
    others = [replace(one, fields={**one.fields, "dtype": "bf16"}) for one in SEEDS]
    folder = write(tmp_path / "r" / "box", SEEDS + others)
    assert [curve.name for curve in reach.curves(read(folder).tables)] == ["vit_pico/16 bf16", "vit_pico/16 fp32"]


def test_one_distance_is_no_curve(tmp_path: Path) -> None:
    folder = write(tmp_path / "r" / "box", SEEDS[:2])
    assert lines(folder) == []
    assert reach.draw(read(folder).tables, folder / "reach.png") is None


def test_a_table_that_records_no_longer_give_is_removed(tmp_path: Path) -> None:
    assert lines(write(tmp_path / "r" / "box", SEEDS))
    assert lines(write(tmp_path / "r" / "box", [])) == []


def test_the_picture_is_drawn_beside_the_tables(tmp_path: Path) -> None:
    folder = write(tmp_path / "r" / "box", SEEDS + OTHER)
    drawn = figures(folder.parent)
    assert [path.name for path in drawn] == ["reach.png"]
    first = drawn[0].read_bytes()
    assert first.startswith(b"\x89PNG")
    figures(folder.parent)
    assert drawn[0].read_bytes() == first, "the same records give the same bytes"


def test_what_is_no_distance_is_no_curve(tmp_path: Path) -> None:
    strange = [replace(one, fields={**one.fields, "dataset": f"{one.fields['dataset']}.1.2"}) for one in OTHER]
    assert lines(write(tmp_path / "r" / "box", strange)) == []
