"""Pixel counts against definitions that are written down again, slowly, and against torchmetrics."""

import numpy as np
import pytest
import torch
from torchmetrics.classification import MulticlassConfusionMatrix, MulticlassJaccardIndex

from bench.data.contract import IGNORE
from bench.data.images import mask_truth
from bench.measures.accuracy import figures
from bench.stats.overlap import SHARES, SIZES, Overlaps
from bench.training.boundary import COARSE, boundary_counts, distance, near_contour
from bench.training.components import by_size, sizes
from bench.training.label_metrics import LabelMetrics


def collected(pairs, classes=2, background=None) -> Overlaps:
    """Of (truth, prediction) pairs of label maps."""
    metrics = LabelMetrics([f"c{index}" for index in range(classes)], background)
    for truth, prediction in pairs:
        metrics.add(mask_truth(np.array(truth, np.uint8)), np.array(prediction))
    return metrics.result()


def blotches(random, classes, size=(40, 60), ignored=0.1):
    """A label map of blocks, so that components have some size."""
    coarse = random.integers(0, classes, (-(-size[0] // 5), -(-size[1] // 5)))
    labels = np.repeat(np.repeat(coarse, 5, 0), 5, 1)[: size[0], : size[1]]
    return np.where(random.random(size) < ignored, IGNORE, labels)


def pairs_of(random, count=4, classes=4):
    """Truths with predictions that are mostly right, of pictures of two sizes."""
    for index in range(count):
        size = ((40, 60), (31, 47))[index % 2]
        truth = blotches(random, classes, size)
        guess = np.where(random.random(size) < 0.7, truth, blotches(random, classes, size, 0))
        yield truth, np.where(guess == IGNORE, 0, guess)


def test_iou_is_taken_over_the_data_set_and_not_per_image():
    # Class 1: image one has 1 of 1 right; image two 0 of 3. Averaged per image it would be 0.5.
    found = figures(collected([([[0, 1]], [[0, 1]]), ([[1, 1, 1, 0]], [[0, 0, 0, 0]])]))
    assert found["class_iou"] == {"c0": pytest.approx(100 * 2 / 5), "c1": pytest.approx(100 / 4)}
    assert found["miou"] == pytest.approx((40 + 25) / 2)
    assert found["pixel_accuracy"] == pytest.approx(50)


def test_ignored_pixels_count_nowhere():
    random = np.random.default_rng(0)
    truth = blotches(random, 3, ignored=0.3)
    guess = blotches(random, 3, ignored=0)
    other = np.where(truth == IGNORE, (guess + 1) % 3, guess)
    one, two = (figures(collected([(truth, prediction)], 3)) for prediction in (guess, other))
    assert one == two


def test_a_class_that_never_occurs_is_unknown_and_not_zero():
    found = figures(collected([([[0, 1]], [[0, 0]])], 3))
    assert found["class_iou"] == {"c0": pytest.approx(50), "c1": 0, "c2": None}
    nothing = figures(collected([([[IGNORE]], [[0]])], 3))
    assert {nothing[name] for name in ("miou", "pixel_accuracy", "miou_small", "boundary_miou")} == {None}


def test_the_background_is_left_out_of_what_is_of_objects():
    found = figures(collected([([[0, 0, 0, 1]], [[0, 0, 1, 1]])], background=0))
    assert found["foreground_miou"] == pytest.approx(50)
    assert found["miou"] == pytest.approx((100 * 2 / 3 + 50) / 2)
    # All of it is a large share of so small a picture.
    assert (found["miou_small"], found["miou_large"]) == (None, pytest.approx(50))


@pytest.mark.parametrize("where", ["truth", "prediction"])
def test_labels_out_of_range_are_refused(where):
    good, bad = [[0, 1]], [[0, 2]]
    with pytest.raises(ValueError, match=rf"{where} has label 2, wanted 0..1"):
        collected([(bad, good) if where == "truth" else (good, bad)])


EDGES = {
    "random": list(pairs_of(np.random.default_rng(1))),
    "one class": [(np.zeros((3, 4)), np.zeros((3, 4), int))],
    "one class, never right": [(np.zeros((3, 4)), np.ones((3, 4), int))],
    "an image without truth": [([[IGNORE, IGNORE]], [[0, 3]]), ([[0, 1]], [[1, 1]])],
    "classes that are missing on one side": [([[0, 0, 1]], [[0, 2, 2]])],
}


@pytest.mark.parametrize("case", EDGES)
def test_iou_is_that_of_torchmetrics(case):
    matrix = MulticlassConfusionMatrix(4, ignore_index=IGNORE)
    jaccard = MulticlassJaccardIndex(4, average="none", ignore_index=IGNORE)
    for truth, prediction in EDGES[case]:
        given = torch.tensor(np.array(prediction)).long(), torch.tensor(np.array(truth)).long()
        matrix.update(*given)
        jaccard.update(*given)
    counts = matrix.compute().double()
    union = counts.sum(0) + counts.sum(1) - counts.diag()
    iou = 100 * counts.diag() / union
    found = figures(collected(EDGES[case], 4))
    known = union > 0
    assert found["miou"] == pytest.approx(float(iou[known].mean()), abs=1e-6)
    assert found["pixel_accuracy"] == pytest.approx(float(100 * counts.diag().sum() / counts.sum()), abs=1e-6)
    each = list(found["class_iou"].values())
    assert [value is not None for value in each] == known.tolist()
    assert [each[index] for index in np.flatnonzero(known)] == pytest.approx(iou[known].tolist(), abs=1e-6)
    # In single precision, and 0 for a class that never occurs.
    assert [value or 0 for value in each] == pytest.approx((100 * jaccard.compute()).tolist(), abs=1e-4)


def components(labels):
    """[(label, set of pixels)], by flooding from pixel to pixel."""
    left = {tuple(place) for place in np.argwhere(labels != IGNORE).tolist()}
    found = []
    while left:
        start = left.pop()
        label, edge, part = labels[start], [start], {start}
        while edge:
            y, x = edge.pop()
            near = {(y + down, x + right) for down in (-1, 0, 1) for right in (-1, 0, 1)} & left
            near = {place for place in near if labels[place] == label}
            left -= near
            part |= near
            edge += near
        found.append((int(label), part))
    return found


def size_of(part, labels):
    share = len(part) / labels.size
    return sum(share >= limit for limit in SHARES)


def test_counts_by_size_are_those_of_flooding():
    """In each size the hits, false alarms and misses are those of two sets of pixels, and sizes add up to the whole."""
    random = np.random.default_rng(2)
    for truth, prediction in pairs_of(random):
        guess = np.where(truth == IGNORE, IGNORE, prediction)
        wanted = np.zeros((3, 4, 3), int)
        for label, part in components(truth):
            hits = sum(guess[place] == label for place in part)
            wanted[size_of(part, truth), label] += (hits, 0, len(part) - hits)
        for label, part in components(guess):
            wanted[size_of(part, truth), label, 1] += sum(truth[place] != label for place in part)
        found = by_size(truth.astype(np.uint8), prediction, 4)
        np.testing.assert_array_equal(found, wanted)
        assert (wanted.sum((1, 2)) > 0).sum() >= 2, "more than one size is tried"
        labelled = truth != IGNORE
        right = labelled & (truth == guess)
        assert found.sum((0, 1)).tolist() == [right.sum(), (labelled & ~right).sum(), (labelled & ~right).sum()]


def test_a_slanted_line_is_one_object_and_shares_decide():
    labels = np.zeros((100, 100), np.uint8)
    np.fill_diagonal(labels[:33, :33], 1)  # 0.33 % of the picture, and 0.333 % are small
    assert set(sizes(labels)[labels == 1]) == {SIZES.index("small")}
    labels[33, 33] = 1
    assert set(sizes(labels)[labels == 1]) == {SIZES.index("medium")}
    labels[50:70, 50:65] = 1  # 3 %, apart from the line
    assert set(sizes(labels)[50:70, 50:65].ravel()) == {SIZES.index("large")}
    assert set(sizes(labels)[:40, :40][labels[:40, :40] == 1]) == {SIZES.index("medium")}


def test_a_false_alarm_counts_in_its_own_size_and_a_hit_in_that_of_its_object():
    truth = np.zeros((100, 100), int)
    truth[:50, :50] = 1
    truth[90, 90:95] = 1
    prediction = truth.copy()
    prediction[60, 60:63] = 1  # a small false alarm
    prediction[90, 90:95] = 0  # a small object that is missed
    found = figures(collected([(truth, prediction)], background=0))
    assert (found["miou_small"], found["miou_large"]) == (0, 100)
    prediction[90, 90:95] = 1
    found = figures(collected([(truth, prediction)], background=0))
    assert (found["miou_small"], found["miou_large"]) == (pytest.approx(100 * 5 / 8), 100)


def test_false_alarms_of_a_size_that_no_object_has_lower_no_mean():
    """As in COCO's AP by area: a class that has nothing small is not among those whose small objects are rated."""
    truth = np.zeros((100, 100), int)
    truth[:50, :50] = 1
    prediction = truth.copy()
    prediction[60, 60:63] = 1
    found = figures(collected([(truth, prediction)], background=0))
    assert (found["miou_small"], found["miou_large"]) == (None, 100)
    assert found["foreground_miou"] == pytest.approx(100 * 2500 / 2503)


def eroded(mask, times):
    """As the paper's code: a frame of nothing one pixel wide, then 3x3 erosions; beyond the frame all is mask."""
    framed = np.pad(mask, 1)
    for _ in range(times):
        wide = np.pad(framed, 1, constant_values=True)
        height, width = framed.shape
        framed = np.logical_and.reduce([wide[y : y + height, x : x + width] for y in range(3) for x in range(3)])
    return framed[1:-1, 1:-1]


def test_boundary_iou_is_the_published_one():
    random = np.random.default_rng(3)
    for share in (COARSE, 0.05, 1.0):
        inter = union = 0
        counts = np.zeros((4, 3), int)
        for truth, prediction in pairs_of(random):
            counts += boundary_counts(truth.astype(np.uint8), prediction, 4, share)
            reach = max(1, round(share * np.hypot(*truth.shape)))
            guess = np.where(truth == IGNORE, IGNORE, prediction)
            masks = [[labels == c for c in range(4)] for labels in (truth, guess)]
            bands = [[mask & ~eroded(mask, reach) for mask in side] for side in masks]
            inter += np.array([(true & found).sum() for true, found in zip(*bands, strict=True)])
            union += np.array([(true | found).sum() for true, found in zip(*bands, strict=True)])
        np.testing.assert_array_equal(counts[:, 0], inter)
        np.testing.assert_array_equal(counts.sum(1), union)


def test_boundaries_of_whole_pictures():
    assert distance((480, 640), COARSE) == 16
    assert distance((10, 10), COARSE) == 1, "one pixel at least"
    one = np.zeros((9, 9), np.uint8)
    inner = np.zeros((9, 9), bool)
    inner[2:7, 2:7] = True
    np.testing.assert_array_equal(near_contour(one, 2), ~inner)
    moved = np.zeros((100, 100), int)
    moved[20:80, 20:80] = 1
    shifted = np.roll(moved, 2, 1)
    found = figures(collected([(moved, shifted)]))
    assert found["fine_boundary_miou"] < found["boundary_miou"] < found["miou"] < 100
    assert figures(collected([(moved, moved)]))["boundary_miou"] == 100
