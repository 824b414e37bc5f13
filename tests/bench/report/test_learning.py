"""The table that sets a trained model beside its untrained self."""

from dataclasses import replace
from pathlib import Path

import pytest

from bench.report.tables import LEARNING, report
from tests.bench.records import make, write

pytestmark = pytest.mark.usefixtures("known")


def trained(**given: object) -> object:
    record = make("accuracy", miou=20.0, **given)
    return replace(record, samples={"loss": [4.0] * 10 + [3.0] * 100 + [1.0] * 10})


def untrained(**given: object) -> object:
    return replace(make("accuracy", recipe="untrained", miou=2.0, **given), samples={"loss": [4.0]})


def table(tmp_path: Path, *records: object) -> list[str]:
    folder = write(tmp_path / "results" / "box", records)  # pyright: ignore[reportArgumentType]
    report(folder.parent)
    path = folder / LEARNING
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [line for line in lines if line.startswith("| vit")]


def test_loss_and_metric_before_and_after(tmp_path: Path) -> None:
    assert table(tmp_path, trained(), untrained()) == [
        "| vit_pico | 16 | linear | 128x128 | short | 4.00 | 1.00 | 2.0 | 20.0 |"
    ]


def test_means_over_seeds(tmp_path: Path) -> None:
    other = replace(make("accuracy", seed=1, miou=30.0), samples={"loss": [6.0] * 10 + [3.0] * 10})
    (line,) = table(tmp_path, trained(), other, untrained())
    assert line.endswith("| 5.00 | 2.00 | 2.0 | 25.0 |")


def test_only_the_same_model_is_compared(tmp_path: Path) -> None:
    assert table(tmp_path, trained(), untrained(patch=8)) == []
    assert table(tmp_path, trained(), untrained(head="upernet")) == []
    assert table(tmp_path, untrained()) == []


def test_a_table_that_records_no_longer_give_is_removed(tmp_path: Path) -> None:
    assert table(tmp_path, trained(), untrained())
    assert table(tmp_path, trained()) == []
    assert not (tmp_path / "results" / "box" / LEARNING).exists()


def test_a_training_that_tells_no_loss_is_left_out(tmp_path: Path) -> None:
    assert table(tmp_path, replace(trained(), samples={}), untrained()) == []  # pyright: ignore[reportArgumentType]
