"""Ultralytics YOLO: what data.yaml may say, boxes and polygons, and what is broken in people's files."""

# The name of a test says what it shows.

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from bench.data import yolo
from bench.data.contract import Dataset, Split
from bench.errors import DataError
from tests.bench.data import fixtures


def load(root: Path, split: Split = "train", *, masks: bool = False) -> Dataset:
    return yolo.load("yolo", task="detection", root=root, cache=root.parent / "cache", split=split, masks=masks)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return fixtures.write_yolo(tmp_path / "own")


def names_of(dataset: Dataset) -> list[str]:
    return [dataset.files(index)[0].stem for index in range(len(dataset))]


def lines(root: Path, *content: str, index: int = 0) -> Path:
    path = root / "labels" / "train" / f"image_{index:03d}.txt"
    fixtures.write_list(path, content)
    return path


def write_yaml(root: Path, text: str) -> None:
    (root / "data.yaml").write_text(text, encoding="utf-8")


def test_boxes_are_where_the_rectangles_are_and_no_file_is_background(root: Path) -> None:
    assert yolo.check(root, "detection") == ""
    train, val = load(root), load(root, "val")
    assert (len(train), len(val), train.classes) == (4, 2, ("disc", "box"))
    for index in range(3):
        np.testing.assert_allclose(train.truth(index).boxes, [fixtures.rectangle(index)], atol=1e-3)
        assert train.truth(index).labels.tolist() == [index % 2]
    background = train.sample(3, (20, 30)).truth
    assert (background.boxes.shape, background.labels.shape, background.ignore.shape) == ((0, 4), (0,), (0,))
    assert len(train.files(3)) == 1


def test_an_empty_file_is_background_too(root: Path) -> None:
    lines(root)
    assert load(root).truth(0).boxes.shape == (0, 4)


@pytest.mark.parametrize("names", ["[disc, box]", "\n- disc\n- box", "{0: disc, 1: box}", "\n  1: box\n  0: disc"])
def test_names_are_a_list_or_a_dict(tmp_path: Path, names: str) -> None:
    assert load(fixtures.write_yolo(tmp_path / "own", names=names)).classes == ("disc", "box")


def test_names_are_taken_as_they_are_written(tmp_path: Path) -> None:
    root = fixtures.write_yolo(tmp_path / "own", names="[no, 007]")  # YAML would make them False and 7
    assert load(root).classes == ("no", "007")
    write_yaml(root, "train: images/train\nval: images/val\nnc: 2\n")
    assert load(root).classes == ("class_0", "class_1")


SPLITS = [
    "train: images/train\nval: images/val",
    "train: ./images/train/\nvalid: images/val",
    "train: [images/train]\nval:\n  - images/val",
    "path: /content/datasets/own\ntrain: images/train\nval: images/val",
    "path: ../datasets/own\ntrain: images/train\nval: images/val",
    "train: ../images/train\nval: ../images/val",
    "train: /content/own/images/train\nval: C:\\data\\own\\images\\val",
    "path: images\ntrain: train\nval: val",
    "train: train.txt\nval: val.txt",
]


@pytest.mark.parametrize("text", SPLITS)
def test_splits_are_folders_lists_or_text_files_of_any_machine(root: Path, text: str) -> None:
    write_yaml(root, f"{text}\nnames: [disc, box]\n")
    # Relative to the list, to the root, absolute, and of another machine.
    places = ("./images/train", "images/train", str(root / "images" / "train"), "/content/own/images/train")
    fixtures.write_list(root / "train.txt", [f"{place}/image_{i:03d}.jpg" for i, place in enumerate(places)])
    fixtures.write_list(root / "val.txt", ["./images/val/image_004.jpg", "./images/val/image_005.jpg"])
    assert yolo.check(root, "detection") == ""
    assert names_of(load(root)) == [f"image_00{index}" for index in range(4)]
    assert names_of(load(root, "val")) == ["image_004", "image_005"]
    assert len(load(root, "val").truth(0).boxes) == 1


def test_several_folders_are_one_split(root: Path) -> None:
    (root / "images" / "more" / "deep").mkdir(parents=True)
    (root / "labels" / "more" / "deep").mkdir(parents=True)
    for folder, suffix in (("images", ".jpg"), ("labels", ".txt")):
        source = root / folder / "train" / f"image_001{suffix}"
        source.rename(root / folder / "more" / "deep" / source.name)
    write_yaml(root, "train: [images/train, images/more]\nval: images/val\nnames: [disc, box]\n")
    train = load(root)
    assert sorted(names_of(train)) == [f"image_00{index}" for index in range(4)]
    assert train.truth(3).labels.tolist() == [1]


def test_roboflows_folders_and_labels_beside_pictures(root: Path, tmp_path: Path) -> None:
    (root / "train").mkdir()
    (root / "valid").mkdir()
    for split, folder in (("train", "train"), ("val", "valid")):
        for kind in ("images", "labels"):
            (root / kind / split).rename(root / folder / kind)
    write_yaml(root, "train: ../train/images\nval: ../valid/images\nnc: 2\nnames: ['disc', 'box']\n")
    assert len(load(root).truth(1).boxes) == 1
    beside = fixtures.write_yolo(tmp_path / "beside", yaml="train: train\nval: val\n")
    for split in ("train", "val"):
        (beside / "images" / split).rename(beside / split)
        for path in (beside / "labels" / split).iterdir():
            path.rename(beside / split / path.name)
    assert len(load(beside).truth(1).boxes) == 1


def test_without_val_train_is_split_and_said(tmp_path: Path) -> None:
    root = fixtures.write_yolo(tmp_path / "own", train=20, val=1, yaml="train: images/train\n")
    assert yolo.check(root, "detection").startswith("val is 20 % of the pictures of train (images/train), by a hash")
    train, val = names_of(load(root)), names_of(load(root, "val"))
    assert sorted(train + val) == [f"image_{index:03d}" for index in range(20)]
    assert len(val) >= 1


@pytest.mark.parametrize("val", ["images/train", "./images/train/", "../images/train"])
def test_val_is_never_made_of_train_in_silence(root: Path, val: str) -> None:
    write_yaml(root, f"train: images/train\nval: {val}\nnames: [disc, box]\n")
    assert "by a hash of the names" in yolo.check(root, "detection")
    assert not set(names_of(load(root))) & set(names_of(load(root, "val")))


def test_a_val_inside_of_train_is_refused(root: Path) -> None:
    write_yaml(root, "train: images\nval: images/val\nnames: [disc, box]\n")
    with pytest.raises(DataError, match=r"data\.yaml: 2 images are in train and in val \(.*image_004.jpg"):
        load(root)


def polygon_mask(index: int) -> NDArray[np.bool_]:
    return fixtures.label_map(1, index) == 1


def test_polygons_are_boxes_and_instance_masks(tmp_path: Path) -> None:
    root = fixtures.write_yolo(tmp_path / "own", polygons=True)
    np.testing.assert_allclose(load(root).truth(0).boxes, [fixtures.rectangle(0)], atol=1e-3)
    assert load(root).truth(0).masks is None
    dataset = load(root, masks=True)
    for index in range(3):
        masks = dataset.truth(index).masks
        assert masks is not None
        np.testing.assert_array_equal(masks[0], polygon_mask(index))
    background = dataset.truth(3).masks
    assert background is not None
    assert background.shape == (0, *fixtures.SIZE)
    assert dataset.verify(0).masks is None


def test_boxes_alone_serve_all_but_masks(root: Path) -> None:
    with pytest.raises(DataError, match="boxes and no polygons, so there are no instance masks"):
        load(root, masks=True)
    lines(root, "0 0.1 0.1 0.5 0.1 0.5 0.5")
    dataset = load(root, masks=True)
    assert dataset.verify(0).size == fixtures.SIZE
    for look in (dataset.verify, dataset.truth):
        with pytest.raises(DataError, match=r"image_001\.txt: has an object with a box and no polygon"):
            look(1)


def test_key_points_behind_a_box_are_not_read(root: Path) -> None:
    write_yaml(root, "train: images/train\nval: images/val\nkpt_shape: [2, 3]\nnames: [disc, box]\n")
    lines(root, "1 0.5 0.5 0.5 0.5 0.1 0.1 2 0.2 0.2 1")
    np.testing.assert_allclose(load(root).truth(0).boxes, [[12, 9, 36, 27]])


def test_the_same_line_twice_is_one_object_and_boxes_are_clipped(root: Path) -> None:
    lines(root, "0 0.5 0.5 0.5 0.5", "0 0.5 0.5 0.5 0.5", "1 0.9 0.5 0.4 0.5", "1 0.5 0.5 0 0.2", "0.0 0.5 0.5 1.005 1")
    truth = load(root).truth(0)
    np.testing.assert_allclose(
        truth.boxes, [[12, 9, 36, 27], [33.6, 9, 48, 27], [24, 14.4, 24, 21.6], [0, 0, 48, 36]], atol=1e-4
    )
    assert truth.ignore.tolist() == [False, False, True, False]


BROKEN = [
    ("2 0.5 0.5 0.1 0.1", "line 1 has class 2; there are 2 .*so classes are 0 to 1"),
    ("-1 0.5 0.5 0.1 0.1", "line 1 has class -1"),
    ("0.5 0.5 0.5 0.1 0.1", r"line 1 has class 0\.5"),
    ("0 240 180 50 40", "line 1 lies outside the picture; want numbers in 0 to 1"),
    ("0 0.5 0.5 nan 0.1", "line 1 lies outside the picture"),
    ("0 0.5 0.5 0.1", "line 1 has 4 numbers; want 5"),
    ("0 0.5 0.5 0.1 0.1 0.9", "line 1 has 6 numbers; want 5"),
    ("cat 0.5 0.5 0.1 0.1", "line 1 holds what is no number"),
    ("0 0.5 0.5 0.1 0.1 0.2 0.2 0.3", "line 1 has 8 numbers"),
]


@pytest.mark.parametrize(("line", "said"), BROKEN)
def test_a_broken_line_names_file_and_line(root: Path, line: str, said: str) -> None:
    path = lines(root, line)
    for look in (load(root).truth, load(root).verify):
        with pytest.raises(DataError, match=rf"labels/train/{path.name}: {said}"):
            look(0)
    assert load(root).verify(1).labels.size == 1


def test_labels_in_another_encoding_and_labels_without_a_picture_are_named(root: Path) -> None:
    lines(root).write_bytes(b"\xff\xfe0")
    with pytest.raises(DataError, match=r"image_000\.txt: cannot be read as UTF-8"):
        load(root).verify(0)
    fixtures.write_list(root / "labels" / "train" / "lost.txt", ["0 0.5 0.5 0.1 0.1"])
    fixtures.write_list(root / "labels" / "train" / "classes.txt", ["disc", "box"])
    dataset = load(root)
    assert len(dataset) == 5
    with pytest.raises(DataError, match=r"images/train/lost\.jpg: no such file"):
        dataset.verify(4)


YAMLS = [
    ("names: [a, b]\n", "does not state 'train'"),
    ("train: images/train\n", "'names' is None; want a list of names"),
    ("train: images/nowhere\nnames: [a]\n", "train is images/nowhere, which is not there"),
    ("train: labels\nnames: [a]\n", "no pictures in what it names for train"),
    ("train: {a: 1}\nnames: [a]\n", "'train' is .*; want a folder, a list"),
    ("train: images/train\nnames: {0: a, 2: b}\n", "want each of 0 to 1 once"),
    ("train: images/train\nnames: [a, a]\n", "names the class 'a' more than once"),
    ("train: images/train\nnc: 3\nnames: [a]\n", "nc is 3, but there are 1 names"),
    ("train: [images/train\n", "cannot be read as YAML"),
    ("- a\n", "has no keys such as names"),
    ("[" * 5000, "cannot be read as YAML"),
    ("", "has no keys such as names"),
]


@pytest.mark.parametrize(("text", "said"), YAMLS)
def test_a_broken_data_yaml_is_one_sentence(root: Path, text: str, said: str) -> None:
    write_yaml(root, text)
    with pytest.raises(DataError, match=rf"data\.yaml: .*{said}") as error:
        yolo.check(root, "detection")
    assert len(str(error.value)) < 700


def test_labels_that_are_all_missing_are_named(root: Path) -> None:
    for path in (root / "labels" / "train").iterdir():
        path.unlink()
    with pytest.raises(DataError, match=r"no labels in .*labels/train; want Ultralytics' layout"):
        yolo.check(root, "detection")


def test_the_yaml_may_have_another_name_but_not_two(root: Path) -> None:
    (root / "data.yaml").rename(root / "cells.yaml")
    (root / "other.yml").write_text("key: value\n")
    assert len(load(root)) == 4
    (root / "more.yaml").write_text((root / "cells.yaml").read_text())
    with pytest.raises(DataError, match=r"cells\.yaml, more\.yaml could each be data\.yaml"):
        yolo.check(root, "detection")


def test_classes_txt_serves_where_there_is_no_yaml(root: Path) -> None:
    (root / "data.yaml").unlink()
    with pytest.raises(DataError, match=r"no data\.yaml; want Ultralytics"):
        yolo.check(root, "detection")
    (root / "classes.txt").write_text("disc\nbox\n")
    assert yolo.check(root, "detection") == ""
    assert load(root).classes == ("disc", "box")
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            for path in (root / kind / split).iterdir():
                path.rename(root / kind / path.name)
            (root / kind / split).rmdir()
    assert "val is 20 %" in yolo.check(root, "detection")
    assert len(load(root)) + len(load(root, "val")) == 6
