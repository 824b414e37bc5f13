import numpy as np
import pytest
import torch
from faster_coco_eval.core import mask as rle

from bench.data.contract import Truth
from bench.measures.accuracy import figures
from bench.training.box_metrics import BoxMetrics, encoded
from heads.contract import Boxes


def truth(boxes, labels, ignore=None, size=(100, 100), masks=None):
    count = len(boxes)
    return Truth(
        size,
        None,
        np.asarray(boxes, np.float32).reshape(-1, 4),
        np.asarray(labels, np.int64),
        np.asarray(ignore if ignore is not None else [False] * count, bool),
        masks,
    )


def found(boxes, labels, scores, masks=None):
    return Boxes(
        torch.tensor(boxes).float().reshape(-1, 4),
        torch.tensor(labels).long(),
        torch.tensor(scores).float(),
        masks=None if masks is None else torch.from_numpy(masks),
    )


def filled(boxes, size=(100, 100)):
    """(M, H, W), each mask its box."""
    masks = np.zeros((len(boxes), *size), bool)
    for mask, (left, top, right, bottom) in zip(masks, boxes, strict=True):
        mask[top:bottom, left:right] = True
    return masks


def test_perfect_boxes_have_ap_100_and_a_class_without_truth_none():
    precision = BoxMetrics(["a", "b"])
    precision.add(truth([[10, 10, 50, 50]], [0]), found([[10, 10, 50, 50]], [0], [0.9]))
    result = figures(precision.result())
    assert result["ap"] == pytest.approx(100)
    assert result["class_ap"] == {"a": pytest.approx(100), "b": None}


def test_ap_of_a_hand_computed_case():
    """Two objects, one found first, then a false alarm: precision 1 up to recall 0.5, that is 51 of 101 points."""
    precision = BoxMetrics(["a"])
    boxes = [[0, 0, 40, 40], [60, 60, 100, 100]]
    precision.add(truth(boxes, [0, 0]), found([boxes[0], [50, 0, 90, 30]], [0, 0], [0.9, 0.8]))
    assert figures(precision.result())["ap50"] == pytest.approx(100 * 51 / 101)


def test_iou_thresholds_count_from_50_to_95():
    precision = BoxMetrics(["a"])
    # IoU 0.80: right at 0.50, 0.55 ... 0.80 or 0.75, so 6 or 7 of 10 thresholds; 0.82 makes it 7.
    precision.add(truth([[0, 0, 100, 100]], [0]), found([[0, 0, 100, 82]], [0], [0.9]))
    result = figures(precision.result())
    assert result["ap"] == pytest.approx(70)
    assert result["ap75"] == pytest.approx(100)


def test_ignored_objects_are_neither_missed_nor_false_alarms():
    precision = BoxMetrics(["a"])
    boxes = [[0, 0, 40, 40], [60, 60, 100, 100]]
    precision.add(truth(boxes, [0, 0], [False, True]), found(boxes[::-1], [0, 0], [0.9, 0.8]))
    assert figures(precision.result())["ap"] == pytest.approx(100)


@pytest.mark.parametrize("side", [64, 1024])
def test_area_bins_are_shares_of_the_image(side):
    """A box of 1/16 of the side is small at every resolution: (1/16)² = 0.39 % is just above, (1/20)² below 0.33 %."""
    precision = BoxMetrics(["a"])
    box = [[0, 0, side / 20, side / 20]]
    precision.add(truth(box, [0], size=(side, side)), found(box, [0], [0.9]))
    result = figures(precision.result())
    assert (result["ap_small"], result["ap_medium"], result["ap_large"]) == (pytest.approx(100), None, None)


def test_finding_nothing_is_zero_and_with_nothing_to_find_unknown():
    missed = BoxMetrics(["a", "b"])
    missed.add(truth([[0, 0, 10, 10]], [0]), found([], [], []))
    result = figures(missed.result())
    assert (result["ap"], result["ap_large"]) == (0, None), "nothing large was there to be found"
    assert result["class_ap"] == {"a": 0, "b": None}
    empty = BoxMetrics(["a"])
    empty.add(truth([], []), found([], [], []))
    assert figures(empty.result())["ap"] is None


def triangles(boxes, size=(100, 100)):
    """(M, H, W), each mask the lower left half of its box, about half of its pixels."""
    masks = np.zeros((len(boxes), *size), bool)
    for mask, (left, top, right, bottom) in zip(masks, boxes, strict=True):
        y, x = np.mgrid[: bottom - top, : right - left]
        mask[top:bottom, left:right] = x / (right - left) <= y / (bottom - top)
    return masks


BOXES = [[0, 0, 40, 40], [60, 50, 100, 100]]


def test_perfect_masks_have_ap_100_and_filled_boxes_less():
    perfect, boxes_alone = BoxMetrics(["a"]), BoxMetrics(["a"])
    shown = truth(BOXES, [0, 0], masks=triangles(BOXES))
    perfect.add(shown, found(BOXES, [0, 0], [0.9, 0.8], triangles(BOXES)))
    boxes_alone.add(shown, found(BOXES, [0, 0], [0.9, 0.8], filled(BOXES)))
    result, other = figures(perfect.result()), figures(boxes_alone.result())
    assert (result["ap"], result["mask_ap"], result["mask_ap75"]) == (pytest.approx(100),) * 3
    assert other["ap"] == pytest.approx(100)
    # A triangle is 51 % of its box, so it counts at 0.50 and at no other of the ten thresholds.
    assert (other["mask_ap50"], other["mask_ap75"], other["mask_ap"]) == (pytest.approx(100), 0, pytest.approx(10))


def test_mask_ap_of_a_hand_computed_case():
    """Right, wrong, right, of three objects: precision 1 to recall 1/3, 2/3 to recall 2/3, 0 beyond: 34, 33 of 101."""
    places = [[0, 0, 30, 30], [40, 0, 70, 30], [0, 60, 30, 90]]
    masks = triangles(places)
    # The wrong one has the box of the second object and a mask that shares nothing with its own.
    guess = np.stack([masks[0], filled(places[1:2])[0] & ~masks[1], masks[1]])
    precision = BoxMetrics(["a"])
    boxes = [places[0], places[1], places[1]]
    precision.add(truth(places, [0] * 3, masks=masks), found(boxes, [0] * 3, [0.9, 0.8, 0.7], guess))
    result = figures(precision.result())
    assert result["mask_ap50"] == pytest.approx(100 * (34 + 33 * 2 / 3) / 101)
    # For boxes the second was right and the third is the false alarm.
    assert result["ap50"] == pytest.approx(100 * 67 / 101)


def test_masks_of_classes_and_images_are_kept_apart():
    precision = BoxMetrics(["a", "b"])
    masks = triangles(BOXES)
    precision.add(truth(BOXES, [0, 1], masks=masks), found(BOXES, [1, 0], [0.9, 0.8], masks))
    precision.add(truth(BOXES, [0, 1], masks=masks), found([], [], [], np.zeros((0, 100, 100), bool)))
    assert figures(precision.result())["mask_ap"] == 0
    precision = BoxMetrics(["a", "b"])
    precision.add(truth(BOXES, [0, 1], masks=masks), found(BOXES, [0, 1], [0.9, 0.8], masks))
    precision.add(truth([], [], masks=np.zeros((0, 100, 100), bool)), found(BOXES[:1], [1], [0.95], masks[:1]))
    # Class a is right; in class b a false alarm in the empty image comes before the right one: precision 1/2.
    assert figures(precision.result())["mask_ap50"] == pytest.approx((100 + 50) / 2)


def test_ignored_masks_are_neither_missed_nor_false_alarms():
    """A crowd takes any part of itself: the guess covers a quarter of it, and counts nowhere."""
    masks = filled(BOXES)
    part = filled([BOXES[0], [60, 50, 80, 75]])
    precision = BoxMetrics(["a"])
    boxes = [BOXES[0], [60, 50, 80, 75]]
    precision.add(truth(BOXES, [0, 0], [False, True], masks=masks), found(boxes, [0, 0], [0.5, 0.9], part))
    assert figures(precision.result())["mask_ap"] == pytest.approx(100)


@pytest.mark.parametrize("side", [80, 640])
def test_area_bins_of_masks_go_by_their_pixels_as_shares_of_the_image(side):
    """The box is large, the few pixels of it that are the object are small: each goes by its own area."""
    size = (side, side)
    box = [[0, 0, side // 2, side // 2]]  # 1/4 of the picture
    thin = filled([[0, 0, side // 20, side // 20]], size)  # 1/400 of the picture: 768 pixels of the reference
    precision = BoxMetrics(["a"])
    precision.add(truth(box, [0], size=size, masks=thin), found(box, [0], [0.9], thin))
    result = figures(precision.result())
    assert (result["ap_small"], result["ap_large"]) == (None, pytest.approx(100))
    bins = [result[f"mask_ap_{name}"] for name in ("small", "medium", "large")]
    assert bins == [pytest.approx(100), None, None]


def test_a_detection_outside_a_bin_is_no_false_alarm_in_it():
    """Areas of detections are scaled too: at 320x240 a mask of 20x20 is 1600 of the reference, and medium."""
    size = (240, 320)
    places = [[0, 0, 12, 12], [100, 100, 120, 120]]
    precision = BoxMetrics(["a"])
    shown = truth(places[:1], [0], size=size, masks=filled(places[:1], size))
    precision.add(shown, found(places[::-1], [0, 0], [0.9, 0.8], filled(places[::-1], size)))
    result = figures(precision.result())
    assert result["mask_ap_small"] == pytest.approx(100)
    assert result["mask_ap"] == pytest.approx(50)


def test_predictions_without_masks_have_no_mask_ap():
    precision = BoxMetrics(["a"])
    precision.add(truth(BOXES, [0, 0], masks=filled(BOXES)), found(BOXES, [0, 0], [0.9, 0.8]))
    assert not any(name.startswith("mask") for name in figures(precision.result()))


def test_no_mask_found_is_zero_and_with_nothing_to_find_unknown():
    none = np.zeros((0, 100, 100), bool)
    missed, nothing = BoxMetrics(["a"]), BoxMetrics(["a"])
    missed.add(truth(BOXES, [0, 0], masks=filled(BOXES)), found([], [], [], none))
    nothing.add(truth([], [], masks=none), found([], [], [], none))
    assert figures(missed.result())["mask_ap"] == 0
    assert figures(nothing.result())["mask_ap"] is None


def test_masks_must_be_those_of_the_truth_and_of_all_images():
    precision = BoxMetrics(["a"])
    with pytest.raises(
        ValueError, match=r"masks of \(50, 50\) pixels were found and the truth has some of \(100, 100\)"
    ):
        precision.add(truth(BOXES, [0, 0], masks=filled(BOXES)), found([], [], [], np.zeros((0, 50, 50), bool)))
    with pytest.raises(ValueError, match="the truth has none"):
        precision.add(truth(BOXES, [0, 0]), found(BOXES, [0, 0], [0.9, 0.8], filled(BOXES)))
    mixed = BoxMetrics(["a"])
    mixed.add(truth(BOXES, [0, 0], masks=filled(BOXES)), found(BOXES, [0, 0], [0.9, 0.8], filled(BOXES)))
    mixed.add(truth(BOXES, [0, 0], masks=filled(BOXES)), found(BOXES, [0, 0], [0.9, 0.8]))
    with pytest.raises(ValueError, match="1 of 2 predictions have masks"):
        figures(mixed.result())


def test_run_lengths_are_those_of_the_library():
    random = np.random.default_rng(0)
    for _ in range(100):
        height, width = random.integers(1, 9, 2)
        mask = random.random((height, width)) < random.choice([0, 0.1, 0.5, 0.9, 1])
        library = rle.encode(np.asfortranarray(mask.astype(np.uint8)))
        assert encoded(mask[None]) == [library]
    assert encoded(np.zeros((0, 3, 4), bool)) == []
