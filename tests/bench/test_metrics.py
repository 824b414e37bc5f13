import numpy as np
import pytest
import torch

from bench.data.contract import Truth
from bench.metrics import BoxPrecision, Confusion
from heads.contract import Boxes


def truth(boxes, labels, ignore=None, size=(100, 100)):
    count = len(boxes)
    return Truth(
        size,
        None,
        np.asarray(boxes, np.float32).reshape(-1, 4),
        np.asarray(labels, np.int64),
        np.asarray(ignore if ignore is not None else [False] * count, bool),
    )


def found(boxes, labels, scores):
    return Boxes(torch.tensor(boxes).float().reshape(-1, 4), torch.tensor(labels).long(), torch.tensor(scores).float())


def test_iou_is_taken_over_the_data_set_and_not_per_image():
    confusion = Confusion(2)
    # Class 1: image one has 1 of 1 right; image two 0 of 3. Averaged per image it would be 0.5.
    confusion.add(torch.tensor([[0, 1]]), torch.tensor([[0, 1]]))
    confusion.add(torch.tensor([[1, 1, 1, 0]]), torch.tensor([[0, 0, 0, 0]]))
    assert confusion.iou() == pytest.approx([2 / 5, 1 / 4])
    assert confusion.pixel_accuracy() == pytest.approx(3 / 6)


def test_ignored_pixels_count_nowhere():
    confusion = Confusion(2)
    confusion.add(torch.tensor([[255, 1, 255]]), torch.tensor([[0, 1, 1]]))
    assert confusion.counts.tolist() == [[0, 0], [0, 1]]


def test_a_class_that_never_occurs_is_unknown_and_not_zero():
    confusion = Confusion(3)
    confusion.add(torch.tensor([0, 1]), torch.tensor([0, 0]))
    assert confusion.iou()[:2] == pytest.approx([0.5, 0.0])
    assert np.isnan(confusion.iou()[2])
    assert np.isnan(Confusion(3).pixel_accuracy())


@pytest.mark.parametrize("where", ["truth", "prediction"])
def test_labels_out_of_range_are_refused(where):
    good, bad = torch.tensor([0, 1]), torch.tensor([0, 2])
    with pytest.raises(ValueError, match=rf"{where} has label 2, wanted 0..1"):
        Confusion(2).add(*((bad, good) if where == "truth" else (good, bad)))


def test_perfect_boxes_have_ap_100_and_a_class_without_truth_none():
    precision = BoxPrecision(["a", "b"])
    precision.add(truth([[10, 10, 50, 50]], [0]), found([[10, 10, 50, 50]], [0], [0.9]))
    result = precision.result()
    assert result["ap"] == pytest.approx(100)
    assert result["class_ap"] == {"a": pytest.approx(100), "b": None}


def test_ap_of_a_hand_computed_case():
    """Two objects, one found first, then a false alarm: precision 1 up to recall 0.5, that is 51 of 101 points."""
    precision = BoxPrecision(["a"])
    boxes = [[0, 0, 40, 40], [60, 60, 100, 100]]
    precision.add(truth(boxes, [0, 0]), found([boxes[0], [50, 0, 90, 30]], [0, 0], [0.9, 0.8]))
    assert precision.result()["ap50"] == pytest.approx(100 * 51 / 101)


def test_iou_thresholds_count_from_50_to_95():
    precision = BoxPrecision(["a"])
    # IoU 0.80: right at 0.50, 0.55 ... 0.80 or 0.75, so 6 or 7 of 10 thresholds; 0.82 makes it 7.
    precision.add(truth([[0, 0, 100, 100]], [0]), found([[0, 0, 100, 82]], [0], [0.9]))
    result = precision.result()
    assert result["ap"] == pytest.approx(70)
    assert result["ap75"] == pytest.approx(100)


def test_ignored_objects_are_neither_missed_nor_false_alarms():
    precision = BoxPrecision(["a"])
    boxes = [[0, 0, 40, 40], [60, 60, 100, 100]]
    precision.add(truth(boxes, [0, 0], [False, True]), found(boxes[::-1], [0, 0], [0.9, 0.8]))
    assert precision.result()["ap"] == pytest.approx(100)


@pytest.mark.parametrize("side", [64, 1024])
def test_area_bins_are_shares_of_the_image(side):
    """A box of 1/16 of the side is small at every resolution: (1/16)² = 0.39 % is just above, (1/20)² below 0.33 %."""
    precision = BoxPrecision(["a"])
    box = [[0, 0, side / 20, side / 20]]
    precision.add(truth(box, [0], size=(side, side)), found(box, [0], [0.9]))
    result = precision.result()
    assert (result["ap_small"], result["ap_medium"], result["ap_large"]) == (pytest.approx(100), None, None)


def test_finding_nothing_is_zero_and_with_nothing_to_find_unknown():
    missed = BoxPrecision(["a", "b"])
    missed.add(truth([[0, 0, 10, 10]], [0]), found([], [], []))
    result = missed.result()
    assert (result["ap"], result["ap_large"]) == (0, None), "nothing large was there to be found"
    assert result["class_ap"] == {"a": 0, "b": None}
    empty = BoxPrecision(["a"])
    empty.add(truth([], []), found([], [], []))
    assert empty.result()["ap"] is None
