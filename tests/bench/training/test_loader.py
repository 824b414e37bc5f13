import threading
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional

from bench.data.contract import IGNORE
from bench.errors import DataError
from bench.training import loader
from bench.training.loader import Batch, BatchMaker, Sender, ahead, batches, draws, finished, jitter, workers_for
from heads.contract import Boxes
from tests.bench.training.data import SIZE, Blobs, Halves, Nothing, Pair
from tests.bench.training.test_train import CPU, fit, recipe

MEAN = torch.tensor([0.4, 0.5, 0.6]).view(1, 3, 1, 1)
FULL = {"flip": True, "flip_vertical": True, "scale": (0.5, 2.0), "jitter": 0.3, "meet": "letterbox"}


def made(data, plan, *, seed=0, workers=0, size=SIZE):
    return list(batches(data, plan, size=size, device=CPU, seed=seed, mean=MEAN, workers=workers))


def equal(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, Boxes):
        return all(equal(*pair) for pair in zip(vars(one).values(), vars(other).values(), strict=True))
    return one is other is None or all(equal(*pair) for pair in zip(one, other, strict=True))


@pytest.mark.parametrize("data", [Halves(), Pair()], ids=["segmentation", "detection"])
def test_the_number_of_threads_changes_no_bit(data):
    plan = recipe(steps=9, batch=3, **FULL)
    alone = made(data, plan, seed=5)
    for workers in (1, 3):
        assert equal(made(data, plan, seed=5, workers=workers), alone)
    assert not equal(made(data, plan, seed=6), alone)
    assert fit(plan.model_copy(update={"steps": 4}), workers=3)[1] == fit(plan.model_copy(update={"steps": 4}))[1]


def test_what_a_loss_draws_changes_no_batch():
    plan = recipe(steps=4, **FULL)
    alone = made(Halves(), plan)
    drawing = []
    for batch in batches(Halves(), plan, size=SIZE, device=CPU, seed=0, mean=MEAN, workers=0):
        drawing.append(batch)
        torch.rand(7)
        np.random.default_rng().random(3)
    assert equal(drawing, alone)


def test_one_option_does_not_move_the_draws_of_another():
    both = draws(recipe(**FULL), (), 3, 11)
    plain = draws(recipe(scale=(0.5, 2.0)), (), 3, 11)
    assert (both.zoom, both.where) == (plain.zoom, plain.where)
    assert both.brightness == draws(recipe(jitter=0.3), (), 3, 11).brightness
    assert plain.brightness == plain.contrast == plain.saturation == 1
    assert draws(recipe(), (), 3, 11).where == (0, 0), "what is not zoomed has nowhere to go"
    many = [draws(recipe(**FULL), (), 0, number) for number in range(400)]
    for values, low, high in (
        ([one.zoom for one in many], 0.5, 2.0),
        ([one.where[0] for one in many], 0, 1),
        ([one.contrast for one in many], 0.7, 1.3),
        ([float(one.mirrored) for one in many], 0, 1),
        ([float(one.upside_down) for one in many], 0, 1),
    ):
        assert low <= min(values) <= max(values) <= high
        assert np.mean(values) == pytest.approx((low + high) / 2, abs=0.1 * (high - low))


@pytest.mark.parametrize("flips", [(), ("horizontal",), ("horizontal", "vertical")])
def test_flips_are_as_the_data_allows_them_where_that_is_asked(flips):
    asked = recipe(flip="data", flip_vertical="data")
    many = [draws(asked, flips, 0, number) for number in range(40)]
    assert any(one.mirrored for one in many) == ("horizontal" in flips)
    assert any(one.upside_down for one in many) == ("vertical" in flips)
    told = [draws(recipe(flip=True), flips, 0, number) for number in range(40)]
    assert any(one.mirrored for one in told), "who says yes is not asked again"
    assert not any(one.upside_down for one in told)


def test_every_image_comes_once_an_epoch():
    plan = recipe(steps=3, batch=4)
    seen = [round(float(image[0, 0, 0]) * 255) - 20 for batch, _ in made(Halves(), plan, seed=3) for image in batch]
    assert sorted(seen[:6]) == sorted(seen[6:]) == list(range(6))
    assert seen[:6] != seen[6:]
    few = {
        round(float(image[0, 0, 0]) * 255) - 20
        for batch, _ in made(Halves(), recipe(steps=4, batch=4, train_images=2))
        for image in batch
    }
    assert few == {0, 1}


def test_padding_is_what_normalisation_takes_to_nothing_whatever_the_jitter():
    plan = recipe(steps=12, batch=4, **{**FULL, "scale": (0.4, 0.9)})
    for image, mask in made(Halves(), plan):
        hidden = (mask == IGNORE)[:, None].expand_as(image)
        assert hidden.any()
        assert torch.equal(image[hidden], MEAN.expand_as(image)[hidden])
        assert set(mask.unique().tolist()) == {0, 1, IGNORE}
        bright = image.mean(1) > 0.5
        assert ((bright == (mask == 1)) | (mask == IGNORE)).float().mean() > 0.97, "all but the rim between the halves"


def test_jitter_is_that_of_torchvision_but_for_rounding():
    dice = np.random.default_rng(0)
    picture = torch.from_numpy(dice.integers(60, 180, (3, 24, 36), np.uint8))
    canvas, out = torch.zeros(1, 3, 32, 40, dtype=torch.uint8), torch.empty(1, 3, 32, 40)
    canvas[0, :, 2:26, 3:39] = picture
    places = [(2, 26, 3, 39)]
    jitter(canvas, places, torch.tensor([[0.85, 1.2, 0.8]]), out)
    ours = out[0, :, 2:26, 3:39]
    theirs = picture.float() / 255
    theirs = functional.adjust_brightness(theirs, 0.85)
    theirs = functional.adjust_contrast(theirs, 1.2)
    theirs = functional.adjust_saturation(theirs, 0.8)
    assert (ours - theirs).abs().max() < 1e-3, "torchvision's grey adds up to 0.9999"
    jitter(canvas, places, torch.ones(1, 3), out)
    assert torch.equal(out.mul(255).round(), canvas.float()), "factors of 1 change nothing"


def test_no_object_has_the_right_form():
    for _, target in made(Nothing("detection", masks=True), recipe(steps=2, batch=2, **FULL)):
        for boxes in target:
            assert boxes.xyxy.shape == (0, 4)
            assert boxes.masks.shape == (0, *SIZE)
            assert boxes.masks.dtype == torch.bool


def test_masks_do_not_change_what_is_drawn():
    plan = recipe(steps=3, **FULL)
    for (image, target), (plain, boxes) in zip(made(Pair(), plan), made(Pair(masks=False), plan), strict=True):
        assert torch.equal(image, plain)
        assert all(equal(one.xyxy, other.xyxy) for one, other in zip(target, boxes, strict=True))
        assert {one.masks is None for one in target} == {False} != {one.masks is None for one in boxes}


def test_what_cannot_be_read_is_said_where_the_batch_would_have_come():
    class Broken(Halves):
        def whole(self, index, enough):
            if index == 4:
                raise DataError("picture 4 is broken")
            return super().whole(index, enough)

    got = []
    with pytest.raises(DataError, match="picture 4 is broken"):
        got.extend(batches(Broken(), recipe(batch=1), size=SIZE, device=CPU, seed=0, mean=MEAN, workers=2))
    order = BatchMaker(Halves(), recipe(batch=1), SIZE, 0).order
    assert len(got) == order.index(4)


def test_threads_are_ahead_by_so_much_and_end_with_who_takes():
    started, made = [], threading.Semaphore(0)

    def make(index):
        started.append(index)
        made.release()
        return index

    items = ahead(make, 50, 2, more=3)
    assert next(items) == 0
    assert all(made.acquire(timeout=10) for _ in range(6)), "one was taken, five are made ahead"
    assert not made.acquire(timeout=0.2), "memory is bounded"
    assert sorted(started) == list(range(6))
    items.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("loader")]
    assert list(ahead(lambda index: index, 5, 0)) == list(ahead(lambda index: index, 5, 3)) == list(range(5))


def test_making_batches_starts_no_threads_of_torch():
    """Beside a GPU there are many makers: a team of OpenMP for each of them would fight over the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        make = BatchMaker(Blobs(size=(600, 800)), recipe(steps=2, **{**FULL, "scale": (1.2, 2.0)}), (512, 512), 0)
        count, found = _threads(), []
        worker = threading.Thread(target=lambda: found.extend([make(0), _threads()]))
        worker.start()
        worker.join()
        assert found[1] == count + 1
    finally:
        torch.set_num_threads(before)


def _threads():
    return len(list(Path("/proc/self/task").iterdir()))


@pytest.mark.parametrize(
    ("kind", "threads", "workers"), [("cpu", 8, 1), ("cuda", 16, 15), ("cuda", 1, 1), ("cuda", 99, 16)]
)
def test_how_many_threads_make_batches(kind, threads, workers):
    assert workers_for(torch.device(kind), threads) == workers


class Recorded(torch.Tensor):
    """Says what is done with it, in place of a copy to a GPU."""

    log: ClassVar = []

    def pin_memory(self, *_):
        self.log.append("pinned")
        return self

    def to(self, *arguments, **options):
        self.log.append(("to", str(arguments[0]), options))
        return self

    def record_stream(self, stream):
        self.log.append(("kept for", stream))


def test_batches_are_copied_to_cuda_from_pinned_memory_on_a_stream_of_their_own(monkeypatch):
    log = Recorded.log = []

    class Stream:
        def __init__(self, device):
            log.append(("stream", str(device)))

        def synchronize(self):
            log.append("arrived")

    class On:
        def __init__(self, stream):
            assert isinstance(stream, Stream)

        def __enter__(self):
            log.append("on the side")

        def __exit__(self, *_):
            log.append("off it")

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", On)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: "main")
    batch = BatchMaker(Halves(), recipe(steps=1, batch=2), SIZE, 0)(0)
    batch = batch.map(lambda tensor: tensor.as_subclass(Recorded))
    send = Sender(torch.device("cuda:0"))
    there = send(batch)
    tensors = 2  # image and mask
    copy = ["pinned", ("to", "cuda:0", {"non_blocking": True})]
    assert log == [("stream", "cuda:0"), "on the side", *(copy * tensors), "off it", "arrived"]
    log.clear()
    send.received(there)
    assert log == [("kept for", "main")] * tensors


@pytest.mark.gpu
def test_batches_on_a_gpu_are_those_on_the_cpu():
    device = torch.device("cuda")
    plan = recipe(steps=6, batch=3, **FULL)
    for data in (Halves(), Pair()):
        there = batches(data, plan, size=SIZE, device=device, seed=0, mean=MEAN.to(device), workers=3)
        for (image, target), (wanted, truth) in zip(there, made(data, plan), strict=True):
            assert (image.cpu() - wanted).abs().max() < 1e-5
            if isinstance(target, torch.Tensor):
                assert torch.equal(target.cpu(), truth)
            else:
                assert all(equal(one.xyxy.cpu(), other.xyxy) for one, other in zip(target, truth, strict=True))


def test_a_photograph_comes_as_small_as_is_enough(tmp_path):
    """Decoded at a half or a quarter, it is the picture still, and its labels fit."""
    from bench.data.images import read_image

    dice = np.random.default_rng(0)
    coarse = Image.fromarray(dice.integers(0, 256, (30, 40, 3), np.uint8))
    for name, options in (("a.jpg", {"quality": 95}), ("b.png", {})):
        path = tmp_path / name
        coarse.resize((640, 480), Image.Resampling.BICUBIC).save(path, **options)
        full = read_image(path)
        assert full.shape == (480, 640, 3)
        for enough, shape in (
            ((240, 320), (240, 320)),
            ((121, 100), (240, 320)),
            ((120, 160), (120, 160)),
            ((9, 9), (15, 20)),
        ):
            small = read_image(path, enough=enough)
            assert small.shape == (*shape, 3)
            by = 480 // shape[0]
            mean = full.reshape(shape[0], by, shape[1], by, 3).mean((1, 3))
            assert np.abs(small - mean).mean() < 2
        assert read_image(path, enough=(241, 1)).shape == full.shape
    lying = read_image(path, lambda _: True, (240, 320))
    assert lying.shape == (240, 320, 3), "nothing turns what its EXIF does not turn"
    turned = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    coarse.resize((640, 480), Image.Resampling.BICUBIC).save(turned, exif=exif)
    small = read_image(turned, lambda _: True, (320, 240))
    assert small.shape == (320, 240, 3), "upright, and halved as upright pictures are"
    full = read_image(turned, lambda _: True).reshape(320, 2, 240, 2, 3).mean((1, 3))
    assert np.abs(small - full).mean() < 2
    odd = tmp_path / "odd.png"
    coarse.resize((642, 481)).save(odd)
    assert read_image(odd, enough=(10, 10)).shape == (481, 642, 3), "half a pixel would be left over"


def test_finished_batches_hold_floats_and_whole_numbers():
    batch = BatchMaker(Halves(), recipe(steps=1, batch=2), SIZE, 0)(0)
    assert isinstance(batch, Batch)
    image, mask = finished(batch, MEAN)
    assert (image.dtype, mask.dtype) == (torch.float32, torch.int64)
    assert image.is_contiguous()
    assert 0 <= image.min() <= image.max() <= 1
    assert loader.AHEAD >= 1
