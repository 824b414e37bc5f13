"""The look at every file: all that is broken at once, what labels hold, and what is kept of it."""

# The name of a test says what it shows.

import json
import os
from pathlib import Path

import numpy as np
import pytest

from bench.data import camvid, coco, images, label_maps, voc, yolo
from bench.data._subset import Without
from bench.data.contract import Dataset
from bench.data.examine import Broken, Seen, examine
from bench.errors import DataError
from tests.bench.data import fixtures
from tests.bench.data.fixtures import Thing


def voc_of(root: Path) -> Dataset:
    return voc.load("voc", task="detection", root=root, cache=root.parent / "cache", split="train")


def camvid_of(root: Path) -> Dataset:
    return camvid.load("camvid", task="segmentation", root=root, cache=root / "cache", split="train")


def test_all_that_is_broken_comes_at_once_with_its_reason(tmp_path: Path) -> None:
    root = fixtures.write_voc(tmp_path / "own", train=9)
    pictures, labels = root / "JPEGImages", root / "Annotations"
    fixtures.truncate(pictures / "image_000.jpg", 0.6)
    (pictures / "image_001.jpg").write_bytes(b"")
    (pictures / "image_002.jpg").write_bytes(b"<html>not found</html>")
    (pictures / "image_003.jpg").unlink()
    (labels / "image_004.xml").write_text("<annotation>")
    fixtures.write_annotation(labels / "image_005.xml", [Thing("disc", (100, 5, 120, 9))])
    fixtures.write_annotation(labels / "image_006.xml", [Thing("disc", (9, 5, 2, 9))])
    fixtures.write_image(pictures / "image_007.jpg", fixtures.picture(1, 7, (72, 96)))
    found = examine(voc_of(root), tmp_path / "cache")
    assert len(found.images) == 9
    assert len(found.seen) == 1
    reasons = {one.picture.stem: one.reason for one in found.broken}
    said = {
        "image_000": "image_000.jpg: cannot be read as an image",
        "image_001": "image_001.jpg: cannot be read as an image (0 bytes)",
        "image_002": "image_002.jpg: cannot be read as an image",
        "image_003": "image_003.jpg: no such file",
        "image_004": "image_004.xml: cannot be read as XML",
        "image_005": "image_005.xml: the box 100, 5, 120, 9 of object 'disc' lies outside",
        "image_006": "image_006.xml: the box 9, 5, 2, 9 of object 'disc' is inverted",
        "image_007": "image_007.xml: made for a picture of 48 x 36 pixels, but",
    }
    assert reasons.keys() == said.keys()
    for stem, text in said.items():
        assert text in reasons[stem]


def test_unknown_classes_and_masks_out_of_range_are_broken(tmp_path: Path) -> None:
    root = fixtures.write_yolo(tmp_path / "yolo")
    fixtures.write_list(root / "labels" / "train" / "image_001.txt", ["7 0.5 0.5 0.1 0.1"])
    dataset = yolo.load("yolo", task="detection", root=root, cache=tmp_path, split="train")
    (broken,) = examine(dataset, tmp_path / "cache").broken
    assert "image_001.txt: line 1 has class 7" in broken.reason
    root = fixtures.write_label_maps(tmp_path / "masks")
    (root / "classes.txt").write_text("a\nb\n")
    dataset = label_maps.load("label_maps", task="segmentation", root=root, cache=tmp_path, split="train")
    found = examine(dataset, tmp_path / "cache").broken
    assert [one.picture.name for one in found] == ["image_001.jpg", "image_003.jpg"]
    root = fixtures.write_coco(tmp_path / "coco")
    path = root / "annotations" / "instances_train2017.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["segmentation"] = {"size": [1, 1], "counts": [1]}
    fixtures.write_json(path, content)
    for with_masks in (False, True):
        dataset = coco.load("coco", task="detection", root=root, cache=tmp_path, split="train", masks=with_masks)
        assert len(examine(dataset, tmp_path / "cache", str(with_masks)).broken) == with_masks


def test_what_labels_hold_is_counted(tmp_path: Path) -> None:
    seen = examine(camvid_of(fixtures.write_camvid(tmp_path / "camvid")), tmp_path / "cache").seen[0]
    x1, y1, x2, y2 = fixtures.rectangle(0)
    area = (x2 - x1) * (y2 - y1)
    assert seen == Seen(fixtures.SIZE, {1: 35 * 48 - area, 3: area}, 48, ())
    root = fixtures.write_voc(tmp_path / "own")
    things = [Thing("disc", (1, 1, 10, 20)), Thing("disc", (5, 5, 9, 9), difficult=True), Thing("box", (1, 1, 4, 2))]
    fixtures.write_annotation(root / "Annotations" / "image_000.xml", things)
    seen = examine(voc_of(root), tmp_path / "cache").seen[0]
    assert (seen.counts, seen.ignored, list(seen.boxes)) == ({0: 1, 1: 1}, 1, [(20.0, 10.0), (2.0, 4.0)])


def test_no_picture_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = fixtures.write_voc(tmp_path / "own")
    monkeypatch.setattr(images.Image.Image, "load", lambda self: pytest.fail("decoded"))
    assert len(examine(voc_of(root), tmp_path / "cache").seen) == 4


def test_files_are_looked_at_again_only_where_they_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = fixtures.write_voc(tmp_path / "own")
    looked: list[int] = []
    verify = voc.VOCDetection.verify
    monkeypatch.setattr(voc.VOCDetection, "verify", lambda self, index: (looked.append(index), verify(self, index))[1])

    def look() -> list[int]:
        looked.clear()
        again = examine(voc_of(root), tmp_path / "cache")
        assert len(again.images) == 4
        return sorted(looked)

    first = examine(voc_of(root), tmp_path / "cache")
    assert look() == []
    assert examine(voc_of(root), tmp_path / "cache") == first
    fixtures.truncate(root / "JPEGImages" / "image_002.jpg", 0.5)
    assert look() == [2]
    assert look() == [2], "what is broken is not kept: it may be mended"
    os.utime(root / "Annotations" / "image_001.xml", ns=(1, 1))
    assert look() == [1, 2]
    (kept,) = (tmp_path / "cache").glob("looked-*.json")
    for text in ("[broken", '{"x": 3}', "[]", json.dumps({key: [1, 2] for key in json.loads(kept.read_text())})):
        kept.write_text(text)
        assert look() == [0, 1, 2, 3]


def test_two_looks_do_not_drive_each_other_out(tmp_path: Path) -> None:
    root = fixtures.write_voc(tmp_path / "own")
    for kind in ("train", "val"):
        examine(voc_of(root), tmp_path / "cache", kind)
    assert len(list((tmp_path / "cache").glob("looked-*.json"))) == 2


def test_a_cache_that_cannot_be_written_does_no_harm(tmp_path: Path) -> None:
    root = fixtures.write_voc(tmp_path / "own")
    (tmp_path / "file").write_text("no folder")
    assert len(examine(voc_of(root), tmp_path / "file" / "cache").seen) == 4


def test_names_that_are_no_utf8_are_looked_at_too(tmp_path: Path) -> None:
    root = fixtures.write_camvid(tmp_path / "camvid")
    for folder in ("train", "trainannot"):
        source = root / folder / "0001TP_000001.png"
        source.rename(os.fsdecode(os.fsencode(root / folder) + b"/\xff\x1b[31m.png"))
    dataset = camvid_of(root)
    assert len(examine(dataset, tmp_path / "cache").seen) == 4
    fixtures.truncate(next(path for path in dataset.files(3) if path.parent.name == "train"), 0.3)
    (broken,) = examine(dataset, tmp_path / "cache").broken
    assert isinstance(broken, Broken)


def test_progress_ends_at_the_total(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    root = fixtures.write_voc(tmp_path / "own")
    examine(voc_of(root), tmp_path / "cache", report=lambda done, total: told.append((done, total)))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_a_data_set_without_some_images_is_the_others_in_order(tmp_path: Path) -> None:
    root = fixtures.write_voc(tmp_path / "own")
    whole = voc_of(root)
    rest = Without(whole, [str(whole.files(1)[0]), "/no/such/picture.jpg"])
    assert [rest.files(index)[0].stem for index in range(len(rest))] == ["image_000", "image_002", "image_003"]
    assert (rest.name, rest.task, rest.classes) == (whole.name, whole.task, whole.classes)
    for index, other in enumerate((0, 2, 3)):
        np.testing.assert_array_equal(rest.truth(index).boxes, whole.truth(other).boxes)
        np.testing.assert_array_equal(rest.verify(index).boxes, whole.verify(other).boxes)
        np.testing.assert_array_equal(rest.sample(index, (8, 8)).image, whole.sample(other, (8, 8)).image)
    with pytest.raises(DataError, match="all of its 4 images are left out"):
        Without(whole, [str(whole.files(index)[0]) for index in range(4)])
