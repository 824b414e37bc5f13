"""A training from end to end: what is recorded follows from what is kept of every image."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench.measures import accuracy
from bench.plan.case import resolve
from bench.plan.cell import Cell
from bench.plan.measure import IMAGES, IMAGES_LOST, TRAINED, Context, Outcome
from bench.stats.overlap import Overlaps
from bench.stats.precision import Detections
from bench.store import images
from tests.bench.records import CELL

Measured = Callable[..., Outcome]


@pytest.fixture
def measured(tmp_path: Path) -> Measured:
    """Train with the smoke recipe, images kept in a folder."""
    small = Cell(**{**CELL, "recipe": "smoke", "height": 64, "width": 64})

    def run(folder: Path | None, **fields: object) -> Outcome:
        cell = replace(small, **fields)
        context = Context(lambda *_: None, 1, resolve(cell, cache=tmp_path / "cache"), images=folder)
        return accuracy.measure(cell, context)

    return run


@pytest.mark.parametrize(
    ("head", "kind", "some"),
    [
        ("linear", Overlaps, {"miou", "foreground_miou", "pixel_accuracy", "miou_large", "boundary_miou", "class_iou"}),
        ("fcos_pico", Detections, {"ap", "ap50", "ap75", "ap_small", "ar_1", "ar_10", "ar_100", "class_ap"}),
        pytest.param(
            "mask_rcnn_pico",
            Detections,
            {"ap", "mask_ap", "mask_ap_large", "mask_ar_100"},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_the_recorded_figures_follow_from_the_images(measured, tmp_path, head, kind, some) -> None:
    values = dict(measured(tmp_path / "images", head=head).values)
    arrays = images.read(tmp_path / "images", str(values[IMAGES]))
    assert arrays is not None
    kept = kind.from_arrays(arrays)
    assert len(kept.images) == 16, "as many as the recipe asks for"
    beside = {IMAGES, TRAINED, "train_s", "data_wait_pct"}
    assert accuracy.figures(kept) == {name: value for name, value in values.items() if name not in beside}
    assert 0 < values["data_wait_pct"] < 100
    assert some <= values.keys()
    assert not any(name.startswith("coco") for name in values), "scenes state no areas"
    weights = np.ones((1, 16), np.uint8)
    for name, value in values.items():
        found = kept.figure(name, weights)
        assert found is None or np.isnan(found[0]) or found[0] == value


def test_images_that_cannot_be_kept_cost_no_accuracy(measured, tmp_path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    values = measured(blocked).values
    assert isinstance(values["miou"], float)
    assert IMAGES not in values
    assert str(values[IMAGES_LOST]).startswith(f"{blocked} cannot be written to (")
