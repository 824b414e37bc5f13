import numpy as np
import pytest
import torch

import bench
from bench.data.contract import IGNORE, Dataset, Sample, Truth
from bench.plan.measure import Invalid
from bench.plan.recipe import Recipe
from bench.training.train import augmentation, batches, class_weights, collate, tensors, train

SIZE = (32, 48)
CPU = torch.device("cpu")


class Halves(Dataset):
    """Left half dark, class 0; right half bright, class 1; one box around the bright half."""

    name, classes, background = "halves", ("dark", "bright"), 0

    def __init__(self, task="segmentation", count=6):
        self.task, self.count = task, count

    def __len__(self):
        return self.count

    def sample(self, index, size):
        height, width = size
        image = np.full((height, width, 3), 20 + index, np.uint8)
        image[:, width // 2 :] = 220
        return Sample(image, self.truth(index, size))

    def truth(self, index, size=SIZE):
        height, width = size
        if self.task == "segmentation":
            mask = np.zeros(size, np.uint8)
            mask[:, width // 2 :] = 1
            return Truth(size, mask, np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, bool))
        box = np.array([[width // 2, 0, width, height]], np.float32)
        return Truth(size, None, box, np.zeros(1, np.int64), np.zeros(1, bool))


class Pair(Halves):
    """Two objects of unlike colour with masks that fill their boxes, the second one ignored; label = its number."""

    def __init__(self, masks=True):
        super().__init__("detection")
        self.with_masks = masks

    def sample(self, index, size):
        truth = self.truth(index, size)
        image = np.zeros((*size, 3), np.uint8)
        for (left, top, right, bottom), value in zip(truth.boxes.astype(int), (100, 200), strict=True):
            image[top:bottom, left:right] = value
        return Sample(image, truth)

    def truth(self, index, size=SIZE):
        height, width = size
        boxes = np.array([[2, 3, width // 2 - 3, height // 2], [width // 2, height // 2, width - 1, height - 4]])
        masks = np.zeros((2, height, width), bool)
        for mask, (left, top, right, bottom) in zip(masks, boxes, strict=True):
            mask[top:bottom, left:right] = True
        kept = masks if self.with_masks else None
        return Truth(size, None, boxes.astype(np.float32), np.arange(2), np.array([False, True]), kept)


class Nothing(Halves):
    """Pictures without an object, or with a label map that is ignored all over."""

    def __init__(self, task, masks=False):
        super().__init__(task)
        self.with_masks = masks

    def truth(self, index, size=SIZE):
        mask = np.full(size, IGNORE, np.uint8) if self.task == "segmentation" else None
        masks = np.zeros((0, *size), bool) if self.with_masks else None
        return Truth(size, mask, np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, bool), masks)


def recipe(**changes):
    return Recipe(**{"steps": 12, "batch": 4, "lr": 3e-3, "flip": False, **changes})


def fit(plan, *, seed=0, dtype=torch.float32, head="linear"):
    data = Halves("detection" if head.startswith("fcos") else "segmentation")
    torch.manual_seed(seed)
    model = bench.build("vit_pico", head, size=SIZE, classes=2)
    losses = train(model, data, plan, size=SIZE, dtype=dtype, device=CPU, seed=seed, report=lambda *_: None)
    return model, losses


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_training_learns_what_is_plain_to_see(dtype):
    model, losses = fit(recipe(steps=25, class_weight_power=0.5, loss_stride=2), dtype=dtype)
    assert np.mean(losses[-5:]) < 0.5 * losses[0]
    image = torch.from_numpy(Halves().sample(0, SIZE).image).permute(2, 0, 1)[None].float() / 255
    model.eval()
    with torch.inference_mode():
        right = model.decode(model(image), SIZE)[0].numpy() == Halves().truth(0).mask
    # The grid of 16 px meets the middle at 24 px only up to interpolation.
    assert right.mean() > 0.75


def test_detection_trains():
    _, losses = fit(recipe(steps=10), head="fcos_pico")
    assert np.mean(losses[-3:]) < losses[0]


@pytest.mark.parametrize("head", ["linear", "fcos_pico"])
@pytest.mark.parametrize("scale", [None, (0.5, 2.0)])
def test_batches_without_anything_to_learn_train_all_the_same(head, scale):
    data = Nothing("detection" if head.startswith("fcos") else "segmentation")
    torch.manual_seed(0)
    model = bench.build("vit_pico", head, size=SIZE, classes=2)
    plan = recipe(steps=3, scale=scale, class_weight_power=0.5)
    losses = train(model, data, plan, size=SIZE, dtype=torch.float32, device=CPU, seed=0, report=lambda *_: None)
    assert np.isfinite(losses).all()
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())


def test_the_head_is_told_how_far_the_training_is(monkeypatch):
    told = []
    data = Halves()
    model = bench.build("vit_pico", "linear", size=SIZE, classes=2)
    monkeypatch.setattr(model.head, "set_progress", told.append)
    train(model, data, recipe(steps=4), size=SIZE, dtype=torch.float32, device=CPU, seed=0, report=lambda *_: None)
    assert told == [0, 0.25, 0.5, 0.75]


def test_a_seed_repeats_bit_by_bit_and_another_does_not():
    plan = recipe(steps=4, flip=True)
    assert fit(plan)[1] == fit(plan)[1]
    assert fit(plan)[1] != fit(plan, seed=1)[1]


def test_a_diverging_loss_is_invalid_and_says_where():
    with pytest.raises(Invalid, match=r"the loss became \S+ at step \d+ of 60"):
        fit(recipe(steps=60, lr=1e18, clip=1e30, warmup=0.0))


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


def test_class_weights_are_frequency_to_the_power_with_mean_one():
    weights = class_weights(Halves(), recipe(class_weight_power=0.5), (32, 32))
    assert weights.tolist() == pytest.approx([1, 1])

    class Quarter(Halves):
        def truth(self, index, size=SIZE):
            whole = super().truth(index, size)
            mask = np.zeros(size, np.uint8)
            mask[:, : size[1] // 4] = 1
            return Truth(size, mask, whole.boxes, whole.labels, whole.ignore)

    uneven = class_weights(Quarter(), recipe(class_weight_power=0.5), (32, 32))
    assert float(uneven[1] / uneven[0]) == pytest.approx(3**0.5, rel=1e-5)
    assert float(0.75 * uneven[0] + 0.25 * uneven[1]) == pytest.approx(1, rel=1e-5)


def test_norms_biases_positions_and_tokens_do_not_decay():
    from bench.training.train import _groups

    model = bench.build("deit_pico", "linear", size=SIZE, classes=2)
    decayed = {id(parameter) for parameter in _groups(model, 0.05)[0]["params"]}
    for name, parameter in model.named_parameters():
        plain = parameter.ndim == 1 or name.rpartition(".")[2] in {"pos_embed", "cls_token", "dist_token"}
        assert (id(parameter) in decayed) != plain, name


@pytest.mark.parametrize("size", [(32, 48), (48, 32)])
def test_zoom_of_one_leaves_an_image_of_any_shape_as_it_is(size):
    augment = augmentation(recipe(scale=(1.0, 1.0)), size, "segmentation")
    sample = Halves().sample(0, size)
    image, target = augment(*tensors(sample))
    assert torch.equal(image, torch.from_numpy(sample.image).permute(2, 0, 1))
    assert torch.equal(target["mask"], torch.from_numpy(sample.truth.mask))


def test_a_class_that_counting_did_not_meet_is_not_given_up():
    """Classes 1 and 2 are in the last image alone: spread counting meets them, counting the first does not."""

    class Late(Halves):
        classes = ("dark", "bright", "rare")

        def truth(self, index, size=SIZE):
            whole = super().truth(index, size)
            mask = np.zeros(size, np.uint8)
            if index == self.count - 1:
                mask[:8], mask[8:10] = 1, 2
            return Truth(size, mask, whole.boxes, whole.labels, whole.ignore)

    spread = class_weights(Late(count=3), recipe(class_weight_power=1.0), SIZE)
    assert spread[2] > spread[1] > spread[0] > 0
    first = class_weights(Late(count=3), recipe(class_weight_power=1.0, class_weight_images=1), SIZE)
    assert first.tolist() == [1, 1, 1]
