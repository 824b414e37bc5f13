"""Sums that stand for images repeated. That the figures are COCO's: `tests.bench.training.test_against_pycocotools`."""

import numpy as np

from bench.stats.precision import RECALLS, Detections, _points
from bench.training.box_metrics import BoxMetrics
from tests.bench.training import coco_reference as reference

COLUMNS = (*reference.STATS, "coco_ap_small", "coco_ap_large", "class_ap[a]", "class_ap[b]")


def some(*, masks=False):
    metrics = BoxMetrics(["a", "b", "c"])
    for truth, found in reference.images(np.random.default_rng(3), masks=masks):
        metrics.add(truth, found)
    return metrics.result()


def test_points_of_recall_are_those_of_a_search():
    """Fractions of whole numbers, as recalls are; rounding makes some of them less than the point they seem to be."""
    ways = np.array([hits / truths for truths in range(1, 400) for hits in range(truths + 1)])
    np.testing.assert_array_equal(_points(ways), np.searchsorted(RECALLS, ways, side="right"))


def test_long_lists_are_worked_on_in_parts(monkeypatch):
    found = some()
    weights = np.random.default_rng(0).multinomial(12, np.full(12, 1 / 12), 30).astype(np.uint8)
    at_once = found.figure("ap", weights)
    monkeypatch.setattr("bench.stats.precision._CHUNK", 300)
    np.testing.assert_array_equal(found.figure("ap", weights), at_once)
    assert len(set(at_once)) > 20


def test_columns_of_something_else_are_none():
    found = some()
    for column in (
        "miou",
        "ap60",
        "ar_2",
        "mask_ap",
        "mask_ar_100",
        "coco_mask_ap_small",
        "class_ap[strange]",
        "class_ap",
    ):
        assert found.figure(column) is None, column
    assert some(masks=True).figure("coco_mask_ap_large") is not None


def test_arrays_are_all_that_it_is():
    whole = some(masks=True)
    back = Detections.from_arrays(whole.arrays())
    assert back.classes == whole.classes
    for column in (*COLUMNS, "mask_ap", "mask_ap_small", "coco_mask_ap_medium", "mask_ar_10"):
        np.testing.assert_array_equal(back.figure(column), whole.figure(column), column)


def test_nothing_found_is_zero_and_nothing_to_be_found_unknown():
    images = reference.images(np.random.default_rng(0), count=4, objects=3, detections=0)
    metrics = BoxMetrics(["a", "b", "c"])
    for truth, found in images:
        metrics.add(truth, found)
    sure = np.array([len(truth.labels) and not truth.ignore.all() for truth, _ in images])
    assert sure.any()
    assert not sure.all()
    figures = metrics.result().figure("ap", np.eye(4, dtype=np.uint8))
    np.testing.assert_array_equal(figures, np.where(sure, 0.0, np.nan))
