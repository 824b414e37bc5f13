import numpy as np
import pytest

from bench.stats.overlap import VIEWS, Overlaps
from bench.stats.resample import resamples

COLUMNS = (
    "miou", "foreground_miou", "pixel_accuracy", "miou_small", "miou_medium", "miou_large", "boundary_miou",
    "fine_boundary_miou", "class_iou[b]",
)  # fmt: skip


def some(images=12, classes=3):
    """Counts in which a class is missing from some images and views."""
    random = np.random.default_rng(0)
    counts = {
        view: random.integers(0, 500, (images, classes, 3)) * (random.random((images, classes, 1)) < 0.5)
        for view in VIEWS
    }
    return Overlaps(np.arange(images, dtype=np.uint64), ("a", "b", "c")[:classes], 0, counts)


def picked(overlaps, which):
    counts = {view: counts[which] for view, counts in overlaps.counts.items()}
    return Overlaps(overlaps.images[which], overlaps.classes, overlaps.background, counts)


@pytest.mark.parametrize("column", COLUMNS)
def test_a_sample_is_worth_what_its_images_are_worth(column):
    overlaps, weights = some(), resamples(12, 40)
    found = overlaps.figure(column, weights)
    for index in range(40):
        alone = picked(overlaps, np.repeat(np.arange(12), weights[index])).figure(column)
        np.testing.assert_array_equal(alone, found[index : index + 1])
    assert len(set(found)) > 20


def test_what_a_sample_does_not_have_is_unknown():
    overlaps = some(2)
    overlaps.counts["small"][:] = np.array([0, 7])[:, None, None]
    found = overlaps.figure("miou_small", np.array([[2, 0], [0, 2]]))
    np.testing.assert_allclose(found, [np.nan, 100 / 3])


def test_columns_of_something_else_are_none():
    assert some().figure("ap") is None
    assert some().figure("class_iou[strange]") is None
    assert some().figure("class_iou") is None
    old = Overlaps(some().images, some().classes, None, {"all": some().counts["all"]})
    assert old.figure("miou") is not None
    assert old.figure("boundary_miou") is None


@pytest.mark.parametrize("background", [None, 0, 2])
def test_arrays_are_all_that_it_is(background):
    given = some()
    whole = Overlaps(given.images, given.classes, background, given.counts)
    back = Overlaps.from_arrays(whole.arrays())
    assert (back.classes, back.background) == (whole.classes, background)
    for column in COLUMNS:
        assert back.figure(column) == whole.figure(column)
