"""The scenes: one picture whatever the process, order and size; labels that fit; classes told apart as they should."""

import math
import os
import pickle
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from bench.data import _raster as art
from bench.data import scenes
from bench.data.contract import Sample, Task
from bench.errors import UserError

MANY = 200
LABEL = {name: value for value, name in enumerate(scenes.CLASSES)}
REPOSITORY = Path(scenes.__file__).parents[2]


@cache
def described(count: int = MANY) -> list[scenes.Description]:
    return [scenes.describe("train", index) for index in range(count)]


def of_class(*names: str) -> list[art.Thing]:
    labels = {LABEL[name] for name in names}
    return [thing for scene in described() for thing in scene.scene.things if thing.label in labels]


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> int:
    """A data set of six scenes, for what renders whole splits."""
    monkeypatch.setattr(scenes, "WORLD", replace(scenes.WORLD, counts=(("train", 6), ("val", 3))))
    return 6


@pytest.fixture
def rendered(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by the index of each scene that is rendered."""
    indices: list[int] = []
    render = scenes._render

    def counted(split: scenes.Split, index: int, size: tuple[int, int], world: object = None) -> NDArray[np.void]:
        indices.append(index)
        return render(split, index, size, world)

    monkeypatch.setattr(scenes, "_render", counted)
    return indices


def load(cache_: Path, task: Task = "segmentation", *, masks: bool = False) -> scenes.Scenes:
    return scenes.load("scenes", task=task, root=None, cache=cache_, split="train", masks=masks)


def same(one: Sample, other: Sample) -> bool:
    assert one.truth.mask is not None
    assert other.truth.mask is not None
    return np.array_equal(one.image, other.image) and np.array_equal(one.truth.mask, other.truth.mask)


def digest(indices: list[int]) -> str:
    rows = {index: scenes._render("val", index, (48, 40)).tobytes() for index in indices}
    return sha256(b"".join(rows[index] for index in sorted(rows))).hexdigest()


def test_scene_depends_on_no_process_and_no_order() -> None:
    code = f"from tests.bench.data.test_scenes import digest; print(digest({[4, 0, 3, 1, 2]}))"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OPENBLAS_NUM_THREADS": "1"}
    other = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)
    assert other.stdout.strip() == digest([0, 1, 2, 3, 4])


def test_scenes_and_splits_differ() -> None:
    looks = {
        scenes._render(split, index, (32, 32))["image"].tobytes() for split in ("train", "val") for index in range(20)
    }
    assert len(looks) == 40


def shrink(image: NDArray[np.uint8], factor: int) -> NDArray[np.float64]:
    height, width = image.shape[0] // factor, image.shape[1] // factor
    return image.reshape(height, factor, width, factor, -1).mean((1, 3))


@pytest.mark.parametrize("size", [(64, 64), (128, 128), (48, 96)])
def test_every_size_shows_the_same_scene(size: tuple[int, int]) -> None:
    agreement, foreground, difference = [], [], []
    for index in range(30):
        scene = scenes.describe("train", index).scene
        scene = replace(scene, ground=replace(scene.ground, grain=0.0))
        image, owner = art.paint(scene, size)
        fine_image, fine_owner = art.paint(scene, (size[0] * 4, size[1] * 4))
        votes = np.stack([shrink((fine_owner == i).astype(np.uint8), 4)[..., 0] for i in range(len(scene.things) + 1)])
        agreement.append((votes.argmax(0) == owner).mean())
        foreground.append((owner > 0).mean() / (fine_owner > 0).mean())
        difference.append(np.abs(shrink(fine_image, 4) - image).mean())
    assert min(agreement) > 0.95
    assert np.mean(agreement) > 0.98
    assert np.mean(foreground) == pytest.approx(1, abs=0.03)
    assert max(difference) < 2.5, "grey levels of 255, with the grain left out"


def test_a_line_thinner_than_a_pixel_keeps_its_ink() -> None:
    flat = art.Ground(np.zeros((3, art.WAVES + 2, art.WAVES + 2)), 0.0, (0, 0))
    shape = art.Stroke(0.5, 0.5, 0.3, 0.1, 0.05, 0.4, 1.5 / 128)
    line = art.Scene(flat, (), (art.Thing(1, shape, shape.extent, (1.0, 1.0, 1.0)),))
    ink = [art.paint(line, (size, size))[0].mean() for size in (32, 64, 512)]
    assert ink[0] == pytest.approx(ink[2], rel=0.05)
    assert ink[1] == pytest.approx(ink[2], rel=0.05)


def test_boxes_scale_exactly_and_stretch(tmp_path: Path, few: int) -> None:
    dataset = load(tmp_path, "detection")
    for index in range(few):
        small = dataset.sample(index, (32, 32)).truth
        for height, width in ((64, 64), (32, 96)):
            other = dataset.sample(index, (height, width)).truth
            np.testing.assert_allclose(other.boxes, small.boxes * np.tile([width / 32, height / 32], 2), rtol=1e-6)
            np.testing.assert_array_equal(other.labels, small.labels)
        np.testing.assert_allclose(dataset.truth(index).boxes, small.boxes * 8, rtol=1e-6)


@pytest.mark.parametrize("size", [(64, 64), (128, 128), (96, 160)])
def test_boxes_are_tight_round_the_outline(size: tuple[int, int]) -> None:
    """Each shape alone: no pixel's centre outside its box, and pixels near each of its sides."""
    height, width = size
    pixel = np.array([width, height, width, height])
    for scene in described(40):
        for thing in scene.scene.things:
            owner, (area,) = art.owners([thing], size)
            rows, columns = np.nonzero(owner)
            assert area == len(rows) > 0
            seen = np.array([columns.min() + 0.5, rows.min() + 0.5, columns.max() + 0.5, rows.max() + 0.5])
            gap = (seen - np.array(thing.extent) * pixel) * [1, 1, -1, -1]
            assert gap.min() > -1e-3
            # A sharp corner or a line's end lies between the centres of pixels: some way in, but not far.
            assert gap.max() < {art.Polygon: 6.0, art.Stroke: 4.0}.get(type(thing.shape), 2.0)
            assert np.allclose(thing.extent, thing.shape.extent)


def test_visible_pixels_lie_in_boxes_and_masks_name_the_topmost(tmp_path: Path, few: int) -> None:
    segmentation, detection = load(tmp_path), load(tmp_path, "detection")
    for index in range(few):
        mask, found = segmentation.sample(index, (64, 64)).truth.mask, detection.sample(index, (64, 64)).truth
        assert mask is not None
        inside = np.zeros((9, 64, 64), bool)
        centres = np.arange(64) + 0.5
        for (x0, y0, x1, y1), label in zip(found.boxes, found.labels, strict=True):
            across, down = (centres >= x0) & (centres <= x1), (centres >= y0) & (centres <= y1)
            inside[label + 1] |= down[:, None] & across
            assert (mask[down][:, across] == label + 1).any(), "an object that is nowhere to be seen"
        for value in range(1, 9):
            assert inside[value][mask == value].all()
    thing = replace(described(1)[0].scene.things[0], label=1)
    owner, _ = art.owners([thing, replace(thing, label=2)], (32, 32))
    assert set(np.unique(owner)) == {0, 2}


@pytest.mark.parametrize("size", [(64, 64), (48, 96), (256, 256)])
def test_instance_masks_are_what_is_seen_of_each_object(tmp_path: Path, few: int, size: tuple[int, int]) -> None:
    segmentation, detection = load(tmp_path), load(tmp_path, "detection", masks=True)
    overlaps = 0
    for index in range(few):
        truth, labels = detection.sample(index, size).truth, segmentation.sample(index, size).truth.mask
        things = scenes.describe("train", index).scene.things
        masks = truth.masks
        assert masks is not None
        assert (masks.shape, masks.dtype) == ((len(truth.labels), *size), np.bool_)
        assert masks.sum(0).max() == 1, "a pixel shows one object"
        np.testing.assert_array_equal((masks * (truth.labels + 1)[:, None, None].astype(np.uint8)).sum(0), labels)
        alone = np.stack([art.owners([thing], size)[0] == 1 for thing in things])
        for number, mask in enumerate(masks):
            np.testing.assert_array_equal(mask, alone[number] & ~alone[number + 1 :].any(0))
            overlaps += int((alone[number] & ~mask).sum())
            assert mask.any(), "too small to be seen"
        if size == scenes.TRUTH_SIZE:
            np.testing.assert_array_equal(detection.truth(index).masks, masks)
    assert overlaps > 0, "these scenes hide nothing, so they show nothing"


def test_masks_change_nothing_else_and_come_only_when_asked_for(tmp_path: Path, few: int, rendered: list[int]) -> None:
    plain, masked = load(tmp_path, "detection"), load(tmp_path, "detection", masks=True)
    for index in range(few):
        for one, other in (
            (plain.sample(index, (40, 40)).truth, masked.sample(index, (40, 40)).truth),
            (plain.truth(index), masked.truth(index)),
        ):
            assert one.masks is None
            assert other.masks is not None
            np.testing.assert_array_equal(one.boxes, other.boxes)
            np.testing.assert_array_equal(one.labels, other.labels)
        np.testing.assert_array_equal(plain.sample(index, (40, 40)).image, masked.sample(index, (40, 40)).image)
    assert len(rendered) == few, "one rendering serves both"
    assert load(tmp_path, masks=True).truth(0).masks is None, "segmentation has no objects"


def test_hidden_objects_are_left_out() -> None:
    big, small = art.Disk(0.5, 0.5, 0.2), art.Disk(0.5, 0.5, 0.1)
    below, above = (art.Thing(1, shape, shape.extent, (0.0, 0.0, 0.0)) for shape in (small, big))
    assert scenes._without_hidden([below, above]) == [above]
    assert scenes._without_hidden([above, below]) == [above, below]


def test_labels_shapes_and_ranges(tmp_path: Path, few: int) -> None:
    segmentation, detection = load(tmp_path), load(tmp_path, "detection")
    assert (segmentation.background, detection.background) == (0, None)
    assert detection.classes == segmentation.classes[1:]
    assert len(segmentation) == len(detection) == few
    for index in range(few):
        one, other = segmentation.sample(index, (40, 72)), detection.sample(index, (40, 72))
        np.testing.assert_array_equal(one.image, other.image)
        assert (one.image.shape, one.image.dtype) == ((40, 72, 3), np.uint8)
        assert one.image.flags.writeable, "torch warns of what it may not write to"
        assert one.truth.mask is not None
        assert (one.truth.mask.shape, one.truth.mask.dtype) == ((40, 72), np.uint8)
        assert one.truth.mask.max() <= 8
        assert one.truth.boxes.shape == (0, 4)
        truth = other.truth
        assert truth.mask is None
        assert (truth.boxes.dtype, truth.labels.dtype, truth.ignore.dtype) == (np.float32, np.int64, np.bool_)
        assert truth.boxes.shape == (len(truth.labels), 4)
        assert len(truth.labels) == len(truth.ignore) > 0
        assert (truth.boxes >= 0).all()
        assert (truth.boxes[:, [0, 2]] <= 72).all()
        assert (truth.boxes[:, [1, 3]] <= 40).all()
        assert (truth.boxes[:, 2:] > truth.boxes[:, :2]).all()
        assert set(truth.labels) <= set(range(8))
        exact = segmentation.truth(index)
        assert exact.size == (256, 256)
        np.testing.assert_array_equal(exact.mask, segmentation.sample(index, (256, 256)).truth.mask)
    with pytest.raises(IndexError):
        segmentation.sample(few, (32, 32))


def test_every_class_is_there_often_enough() -> None:
    pixels, objects, number = np.zeros(9), np.zeros(9), []
    for scene in described():
        owner, _ = art.owners(scene.scene.things, (64, 64))
        pixels += np.bincount(scenes._classes(scene.scene)[owner].ravel(), minlength=9)
        objects += np.bincount([thing.label for thing in scene.scene.things], minlength=9)
        number.append(len(scene.scene.things))
    assert (objects[1:] > 0.3 * MANY).all(), objects
    assert (pixels[1:] / pixels.sum() > 0.002).all(), pixels
    assert 0.75 < pixels[0] / pixels.sum() < 0.93
    assert 4 < np.mean(number) < 6
    assert min(number) >= 1
    assert max(number) <= scenes.WORLD.most


def alike(one: list[float], other: list[float]) -> bool:
    """Whether two samples' means differ by less than four standard errors."""
    error = math.sqrt(np.var(one) / len(one) + np.var(other) / len(other))
    return abs(float(np.mean(one)) - float(np.mean(other))) < 4 * error


MEASURES: dict[str, Callable[[art.Thing], float]] = {
    "red": lambda thing: thing.colour[0],
    "green": lambda thing: thing.colour[1],
    "blue": lambda thing: thing.colour[2],
    "width": lambda thing: thing.extent[2] - thing.extent[0],
    "x": lambda thing: (thing.extent[0] + thing.extent[2]) / 2,
    "y": lambda thing: (thing.extent[1] + thing.extent[3]) / 2,
}


@pytest.mark.parametrize("pair", [("stripes", "checks"), ("twin_light", "twin_dark")])
@pytest.mark.parametrize("measure", MEASURES)
def test_pairs_share_colours_sizes_and_places(pair: tuple[str, str], measure: str) -> None:
    one, other = ([MEASURES[measure](thing) for thing in of_class(name)] for name in pair)
    assert min(len(one), len(other)) > 60
    assert alike(one, other)


def test_no_class_has_colours_of_its_own() -> None:
    whole = [sum(thing.colour) for thing in of_class(*scenes.CLASSES[1:])]
    for name in scenes.CLASSES[1:]:
        assert alike([sum(thing.colour) for thing in of_class(name)], whole), name


def test_stripes_and_checks_cover_half_each_and_differ_in_texture() -> None:
    centres = ((np.arange(128) + 0.5) / 128).astype(np.float32)
    for crossed in (False, True):
        weave = art.Weave((0.0, 0.0, 0.0), 0.0625, 0.0, (0.1, 0.3), crossed)
        share = weave.share(centres, centres, 128)
        assert share.mean() == pytest.approx(0.5, abs=0.01)
        rows_differ = np.abs(share - share[:1]).max()
        assert rows_differ == pytest.approx(1, abs=0.2) if crossed else rows_differ < 1e-3
    assert {thing.weave.crossed for thing in of_class("checks") if thing.weave} == {True}
    assert {thing.weave.crossed for thing in of_class("stripes") if thing.weave} == {False}
    assert not any(thing.weave for thing in of_class("disk", "polygon", "twin_light"))


def test_the_cue_alone_decides_and_is_far_away() -> None:
    lights = 0
    for scene in described():
        twins = [thing for thing in scene.scene.things if thing.label >= LABEL["twin_light"]]
        assert len(scene.scene.marks) == (2 if twins else 0)
        assert (scene.cue is not None) == bool(twins)
        if scene.cue is None:
            continue
        lights += scene.cue.light
        assert {thing.label for thing in twins} == {LABEL["twin_light" if scene.cue.light else "twin_dark"]}
        owner, _ = art.owners(scene.scene.things, (64, 64))
        rows, columns = np.nonzero(scenes._classes(scene.scene)[owner] >= LABEL["twin_light"])
        x, y = (columns + 0.5) / 64, (rows + 0.5) / 64
        half = scenes.WORLD.cue / 2
        gap = np.hypot(np.maximum(abs(x - scene.cue.x) - half, 0), np.maximum(abs(y - scene.cue.y) - half, 0))
        assert gap.min() >= 0.5
        left, right = round(64 * (scene.cue.x - half)), round(64 * (scene.cue.x + half))
        top, bottom = round(64 * (scene.cue.y - half)), round(64 * (scene.cue.y + half))
        assert not owner[top:bottom, left:right].any(), "nothing may lie on the mark"
    assert lights / sum(scene.cue is not None for scene in described()) == pytest.approx(0.5, abs=0.12)


def test_turning_the_cue_changes_nothing_else() -> None:
    scene = next(scene for scene in described() if scene.cue)
    assert scene.cue is not None
    turned = replace(scene.scene, marks=scenes._marks(replace(scene.cue, light=not scene.cue.light), scenes.WORLD))
    one, other = art.paint(scene.scene, (100, 100))[0], art.paint(turned, (100, 100))[0]
    rows, columns = np.nonzero((one != other).any(-1))
    assert len(rows) > 100
    assert np.abs(rows + 0.5 - 100 * scene.cue.y).max() <= 50 * scenes.WORLD.cue + 1
    assert np.abs(columns + 0.5 - 100 * scene.cue.x).max() <= 50 * scenes.WORLD.cue + 1
    assert one.mean() == pytest.approx(other.mean(), abs=0.5), "the mean must not tell which it is"


def test_second_reader_finds_the_split_rendered(tmp_path: Path, few: int, rendered: list[int]) -> None:
    first = [load(tmp_path).sample(index, (32, 48)) for index in range(few)]
    assert sorted(rendered) == list(range(few))
    dataset = pickle.loads(pickle.dumps(load(tmp_path, "segmentation")))
    again = [dataset.sample(index, (32, 48)) for index in range(few)]
    assert len(rendered) == few
    for index in range(few):
        assert same(first[index], again[index])
        row = scenes._render("train", index, (32, 48))
        np.testing.assert_array_equal(first[index].image, row["image"][0])
        np.testing.assert_array_equal(first[index].truth.mask, row["mask"][0])
    assert len(pickle.dumps(dataset)) < 2000, "a mapped file must not travel with the data set"


def test_side_by_side_readers_render_once(tmp_path: Path, few: int, rendered: list[int]) -> None:
    barrier = threading.Barrier(3)

    def read() -> None:
        dataset = load(tmp_path)
        barrier.wait()
        dataset.sample(0, (32, 32))

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert sorted(rendered) == list(range(few))
    assert [path.suffix for path in sorted(tmp_path.iterdir())] == [".bin", ".lock"]


def corrupt(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "cut off":
        content = content[: len(content) // 2]
    elif how == "empty":
        content.clear()
    else:
        content[100] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("how", ["cut off", "empty", "one bit"])
@pytest.mark.usefixtures("few")
def test_corrupt_file_is_rendered_again(tmp_path: Path, rendered: list[int], how: str) -> None:
    sound = load(tmp_path).sample(0, (32, 32))
    (path,) = tmp_path.glob("*.bin")
    content = path.read_bytes()
    corrupt(path, how)
    dataset = load(tmp_path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert same(dataset.sample(0, (32, 32)), sound)
        dataset.sample(1, (32, 32))
    assert len(caught) == (how == "one bit"), "a wrong length is replaced quietly, as a missing file is"
    assert path.read_bytes() == content
    count = len(rendered)
    dataset.sample(2, (32, 32))
    load(tmp_path).sample(0, (32, 32))
    assert len(rendered) == count


@pytest.mark.usefixtures("few")
def test_unwritable_cache_warns_once_and_renders(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    dataset = load(blocked / "cache")
    with pytest.warns(RuntimeWarning, match="cannot be cached"):
        first = dataset.sample(0, (32, 32))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset.sample(1, (32, 32))
    assert same(first, load(tmp_path / "cache").sample(0, (32, 32)))


@pytest.mark.usefixtures("few")
def test_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.warns(RuntimeWarning, match="No space left"):
        load(tmp_path).sample(0, (32, 32))
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]


@pytest.mark.usefixtures("few")
def test_huge_splits_are_not_stored(tmp_path: Path, rendered: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scenes.Rendering, "LARGEST", 1000)
    load(tmp_path).sample(3, (32, 32))
    assert rendered == [3]
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("few")
def test_cache_name_follows_the_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load(tmp_path).sample(0, (32, 32))
    monkeypatch.setattr(scenes, "WORLD", replace(scenes.WORLD, contrast=0.5))
    load(tmp_path).sample(0, (32, 32))
    monkeypatch.setattr(scenes, "VERSION", scenes.VERSION + 1)
    load(tmp_path).sample(0, (32, 32))
    assert len(list(tmp_path.glob("*.bin"))) == 3


def test_unknown_names_say_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean scenes"):
        scenes.load("scene", task="detection", root=None, cache=tmp_path, split="val")
    with pytest.raises(UserError, match="did you mean val"):
        scenes.load("scenes", task="detection", root=None, cache=tmp_path, split="vals")  # pyright: ignore[reportArgumentType]
    with pytest.raises(UserError, match="segmentation"):
        scenes.load("scenes", task="depth", root=None, cache=tmp_path, split="val")  # pyright: ignore[reportArgumentType]


def test_import_brings_no_torch() -> None:
    code = "import sys, bench.data.scenes; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True)
