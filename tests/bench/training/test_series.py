import pytest
import torch

from bench.data.contract import IGNORE
from bench.training.series import augmentation, batches, collate, tensors
from tests.bench.training.data import SIZE, Halves, Nothing, Pair
from tests.bench.training.test_train import CPU, recipe


def test_every_image_comes_once_an_epoch():
    plan = recipe(steps=3, batch=4)
    seen = [
        round(float(image[0, 0, 0]) * 255) - 20
        for batch, _ in batches(Halves(), plan, size=SIZE, device=CPU, seed=3)
        for image in batch
    ]
    assert sorted(seen[:6]) == sorted(seen[6:]) == list(range(6))
    assert seen[:6] != seen[6:]


def test_fewer_training_images_can_be_asked_for():
    plan = recipe(steps=4, batch=4, train_images=2)
    seen = {
        round(float(image[0, 0, 0]) * 255) - 20
        for batch, _ in batches(Halves(), plan, size=SIZE, device=CPU, seed=0)
        for image in batch
    }
    assert seen == {0, 1}


@pytest.mark.parametrize("task", ["segmentation", "detection"])
def test_flips_move_image_and_labels_together(task):
    augment = augmentation(recipe(flip=True, flip_vertical=True), SIZE, task)
    torch.manual_seed(0)
    sides = set()
    for _ in range(20):
        image, target = augment(*tensors(Halves(task).sample(0, SIZE)))
        bright = image[0] > 128
        sides.add(bool(bright[0, 0]))
        if task == "segmentation":
            assert torch.equal(target["mask"] == 1, bright)
        else:
            left, top, right, bottom = target["boxes"][0].int().tolist()
            assert bright[top:bottom, left:right].all()
            assert int(bright.sum()) == (right - left) * (bottom - top)
    assert sides == {True, False}


@pytest.mark.parametrize("task", ["segmentation", "detection"])
def test_zoom_keeps_the_size_and_ignores_what_it_uncovers(task):
    augment = augmentation(recipe(scale=(0.5, 2.0)), SIZE, task)
    torch.manual_seed(0)
    uncovered = 0
    for _ in range(20):
        image, target = augment(*tensors(Halves(task).sample(0, SIZE)))
        assert image.shape == (3, *SIZE)
        if task == "segmentation":
            assert set(target["mask"].unique().tolist()) <= {0, 1, IGNORE}
            hidden = target["mask"] == IGNORE
            uncovered += int(hidden.sum())
            assert (image[:, hidden] == 0).all()
        else:
            assert len(target["boxes"]) == len(target["labels"]) == len(target["ignore"])
            assert (target["boxes"][:, 2:] - target["boxes"][:, :2] >= 2).all()
            assert (target["boxes"] >= 0).all()
    assert task == "detection" or uncovered > 0


@pytest.mark.parametrize("scale", [None, (0.4, 2.5)])
def test_instance_masks_move_with_their_boxes_and_are_dropped_with_them(scale):
    augment = augmentation(recipe(flip=True, flip_vertical=True, scale=scale), SIZE, "detection")
    torch.manual_seed(0)
    counts = set()
    for _ in range(60):
        image, target = augment(*tensors(Pair().sample(0, SIZE)))
        (boxes,) = collate([target], CPU)
        counts.add(len(boxes.labels))
        assert boxes.masks.shape == (len(boxes.labels), *SIZE)
        assert boxes.masks.dtype == torch.bool
        for box, label, ignore, mask in zip(boxes.xyxy, boxes.labels, boxes.ignore, boxes.masks, strict=True):
            assert bool(ignore) == (int(label) == 1), "labels, flags and masks stay together"
            rows, columns = mask.nonzero().T
            seen = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
            assert (seen - box).abs().max() <= 1, "a zoom rounds to whole pixels"
            # Antialiasing blends the object's rim with black, so the brightest pixel is of its own colour.
            assert abs(int(image[0][mask].max()) - 100 * (1 + int(label))) < 12
        if len(boxes.labels) < 2 or scale is None:
            continue
        outside = ~boxes.masks.any(0)
        assert not boxes.masks.all(0).any(), "what a crop uncovers is in no object"
        assert float(image[0][outside].float().median()) < 50
    assert counts == ({2} if scale is None else {0, 1, 2}), "some crops lose an object"


def test_masks_do_not_change_what_is_drawn():
    plan = recipe(steps=3, flip=True, scale=(0.5, 2.0), jitter=0.3)
    runs = []
    for masks in (True, False):
        torch.manual_seed(0)
        runs.append(list(batches(Pair(masks), plan, size=SIZE, device=CPU, seed=1)))
    for (image, target), (plain, boxes) in zip(*runs, strict=True):
        assert torch.equal(image, plain)
        for one, other in zip(target, boxes, strict=True):
            assert torch.equal(one.xyxy, other.xyxy)
            assert one.masks is not None
            assert other.masks is None


def test_an_object_without_a_pixel_left_is_ignored():
    _, target = tensors(Pair().sample(0, SIZE))
    target["masks"][0] = 0
    target["ignore"][:] = False
    (boxes,) = collate([target], CPU)
    assert boxes.ignore.tolist() == [True, False]
    assert target["ignore"].tolist() == [False, False], "the sample itself stays as it is"


@pytest.mark.parametrize("scale", [None, (0.5, 2.0)])
def test_no_object_has_no_mask_of_the_right_form(scale):
    plan = recipe(steps=2, batch=2, scale=scale, flip=True, jitter=0.2)
    for _, target in batches(Nothing("detection", masks=True), plan, size=SIZE, device=CPU, seed=0):
        for boxes in target:
            assert boxes.masks.shape == (0, *SIZE)
            assert boxes.masks.dtype == torch.bool


@pytest.mark.parametrize("size", [(32, 48), (48, 32)])
def test_zoom_of_one_leaves_an_image_of_any_shape_as_it_is(size):
    augment = augmentation(recipe(scale=(1.0, 1.0)), size, "segmentation")
    sample = Halves().sample(0, size)
    image, target = augment(*tensors(sample))
    assert torch.equal(image, torch.from_numpy(sample.image).permute(2, 0, 1))
    assert torch.equal(target["mask"], torch.from_numpy(sample.truth.mask))
