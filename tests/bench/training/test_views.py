import numpy as np
import pytest
import torch

from bench.data.contract import IGNORE, Truth
from bench.training import loader, series
from bench.training.views import see_image, see_mask, see_objects, starts, view
from tests.bench.training.data import Blobs
from tests.bench.training.test_train import CPU, recipe


def seen(image, mask, part):
    canvas, labels = np.zeros((3, *part.size), np.uint8), np.full(part.size, IGNORE, np.uint8)
    see_image(image, part, canvas)
    see_mask(mask, part, labels)
    return canvas, labels


def middle(weights):
    """(y, x) of the centre of mass, in pixels."""
    y, x = np.indices(weights.shape) + 0.5
    total = weights.sum()
    return np.array([(weights * y).sum() / total, (weights * x).sum() / total])


def apart(make, size):
    """Distance (y, x) of image and labels, the mean over blobs scaled by 0.6 to 1.6, in pixels of the input."""
    found = []
    plan = recipe(steps=75, batch=8, scale=(0.6, 1.6), flip=True, flip_vertical=True)
    for image, mask in make(Blobs(size=size), plan.model_copy(update={"meet": "stretch"}), size):
        for one, labels in zip(image.numpy(), mask.numpy(), strict=True):
            blob = np.where(labels == IGNORE, 0, labels)
            found.append(middle(one[0].astype(float)) - middle(blob.astype(float)))
    assert len(found) == 600
    return np.abs(np.mean(found, axis=0))


def second(data, plan, size):
    return loader.batches(data, plan, size=size, device=CPU, seed=0, mean=torch.zeros(1, 3, 1, 1), workers=0)


def first(data, plan, size):
    # Without the flips, which would hide a shift by shifting the other way.
    torch.manual_seed(0)
    plan = plan.model_copy(update={"flip": False, "flip_vertical": False})
    return series.batches(data, plan, size=size, device=CPU, seed=0)


def test_a_zoom_leaves_labels_where_the_image_is():
    """The fault that the second pipeline was made for: the first moves masks by half a pixel."""
    assert apart(first, (90, 120)) == pytest.approx([0.5, 0.5], abs=0.1), "what its records were made with"
    assert apart(second, (90, 120)) == pytest.approx([0, 0], abs=0.03)


@pytest.mark.parametrize("meet", ["stretch", "crop", "letterbox"])
@pytest.mark.parametrize("picture", [(40, 60), (60, 40), (37, 53)])
@pytest.mark.parametrize("zoom", [0.4, 1.0, 2.3])
def test_a_view_fills_the_input_or_shows_all_of_a_side(meet, picture, zoom):
    size = (48, 64)
    for where in ((0.0, 0.0), (0.5, 0.3), (0.999, 0.999)):
        part = view(picture, size, meet, zoom=zoom, where=where)
        for span, of, to in zip((part.rows, part.columns), picture, size, strict=True):
            assert 0 <= span.start < span.end <= of
            assert 0 <= span.place < span.place + span.size <= to
            assert span.size == to or (span.start, span.end) == (0, of), "no padding beside what is cut off"
        ratios = [to / of for of, to in zip(picture, size, strict=True)]
        wanted = {"stretch": ratios, "crop": [max(ratios)] * 2, "letterbox": [min(ratios)] * 2}[meet]
        for span, ratio in zip((part.rows, part.columns), wanted, strict=True):
            # Whole pixels on both sides.
            assert span.zoom == pytest.approx(ratio * zoom, rel=0.6 / min(span.size, span.end - span.start))
    corners = [view(picture, size, meet, zoom=zoom, where=(edge, edge)) for edge in (0.0, 0.999)]
    assert corners[0].rows.start == corners[0].rows.place == 0
    assert corners[1].rows.end == picture[0]
    assert corners[1].rows.place + corners[1].rows.size == size[0]


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("upside_down", [False, True])
@pytest.mark.parametrize("zoom", [0.6, 1.0, 1.7])
def test_image_mask_boxes_and_shapes_stay_together(mirrored, upside_down, zoom):
    """One picture with a rectangle, whose labels are at twice the resolution of the image."""
    image, mask = np.zeros((50, 70, 3), np.uint8), np.zeros((100, 140), np.uint8)
    image[20:30, 25:45], mask[40:60, 50:90] = 255, 1
    boxes = np.array([[50, 40, 90, 60]], np.float32)
    truth = Truth((100, 140), None, boxes, np.array([3]), np.array([False]), mask[None].astype(bool))
    size = (64, 64)
    part = view((50, 70), size, "letterbox", zoom=zoom, where=(0.3, 0.4), mirrored=mirrored, upside_down=upside_down)
    canvas, labels = seen(image, mask, part)
    top, bottom, left, right = part.place
    assert (labels[top:bottom, left:right] != IGNORE).all()
    assert (labels == IGNORE).sum() == 64 * 64 - (bottom - top) * (right - left), "labels end where the picture does"
    outside = np.ones(size, bool)
    outside[top:bottom, left:right] = False
    assert (canvas[:, outside] == 0).all()
    bright, shape = canvas[0] > 127, labels == 1
    assert (bright ^ shape).sum() <= 0.06 * shape.sum() + 4, "but for the rim"
    objects = see_objects(truth, part)
    assert objects.labels.tolist() == [3]
    assert np.array_equal(objects.masks[0], shape)
    rows, columns = shape.nonzero()
    tight = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    assert np.abs(objects.boxes[0] - tight).max() <= 0.51


def test_what_a_crop_leaves_of_an_object():
    """Four objects: inside, cut, cut down to a sliver, outside; and a tiny one that is whole."""
    boxes = np.array(
        [[10, 10, 20, 20], [35, 0, 60, 20], [39, 0, 60, 20], [50, 50, 60, 60], [5, 5, 5.5, 5.5]], np.float32
    )
    masks = np.zeros((5, 80, 80), bool)
    for mask, (left, top, right, bottom) in zip(masks, boxes.astype(int), strict=True):
        mask[top:bottom, left:right] = True
    truth = Truth((80, 80), None, boxes, np.arange(5), np.zeros(5, bool), masks)
    part = view((80, 80), (40, 40), "stretch", zoom=2.0)
    found = see_objects(truth, part)
    assert found.labels.tolist() == [0, 1, 4], "a sliver of less than 2 pixels is nothing to be found"
    assert found.boxes.tolist() == [[10, 10, 20, 20], [35, 0, 40, 20], [5, 5, 5.5, 5.5]]
    assert found.ignore.tolist() == [False, False, True], "an object without a pixel is ignored"
    assert not truth.ignore.any(), "the sample itself stays as it is"
    assert found.masks.shape == (3, 40, 40)
    nothing = Truth((80, 80), None, boxes[:0], np.arange(0), np.zeros(0, bool), masks[:0])
    assert see_objects(nothing, part).masks.shape == (0, 40, 40)


def test_zooming_in_shows_what_the_picture_has():
    """A stripe of one pixel in a picture of four times the input survives a zoom of four, and not one of one."""
    image = np.zeros((128, 128, 3), np.uint8)
    image[:, ::2] = 255
    canvas = np.zeros((3, 32, 32), np.uint8)
    see_image(image, view((128, 128), (32, 32), "stretch", zoom=4.0), canvas)
    assert set(np.unique(canvas)) == {0, 255}
    see_image(image, view((128, 128), (32, 32), "stretch"), canvas)
    assert np.ptp(canvas) < 20


def test_a_view_of_all_at_its_own_size_is_the_picture():
    dice = np.random.default_rng(0)
    image, mask = dice.integers(0, 256, (30, 40, 3), np.uint8), dice.integers(0, 9, (30, 40), np.uint8)
    for meet in ("stretch", "crop", "letterbox"):
        canvas, labels = seen(image, mask, view((30, 40), (30, 40), meet))
        assert np.array_equal(canvas, image.transpose(2, 0, 1))
        assert np.array_equal(labels, mask)
        assert view((30, 40), (30, 40), meet).place == (0, 30, 0, 40)


@pytest.mark.parametrize(
    ("of", "found"), [(10, [0]), (11, [0, 1]), (24, [0, 7, 14]), (25, [0, 7, 14, 15]), (17, [0, 7])]
)
def test_windows_cover_a_side_and_end_with_it(of, found):
    assert starts(of, 10, 7) == found
    covered = {pixel for start in found for pixel in range(start, start + 10)}
    assert covered == set(range(of))
