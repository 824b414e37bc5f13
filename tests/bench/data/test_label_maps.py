"""Pictures and label maps in two folders, and the files that name their classes."""

# The name of a test says what it shows.

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.data import _names, label_maps
from bench.data.contract import Dataset, Split
from bench.errors import DataError
from tests.bench.data import fixtures


def load(root: Path, split: Split = "train") -> Dataset:
    return label_maps.load("label_maps", task="segmentation", root=root, cache=root.parent / "cache", split=split)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return fixtures.write_label_maps(tmp_path / "own")


def shown(dataset: Dataset, index: int = 0) -> np.ndarray:
    mask = dataset.truth(index).mask
    assert mask is not None
    return mask


FORMS = [
    {"form": "{kind}/{split}"},
    {"form": "{split}/{kind}"},
    {"form": "{kind}/{split}", "kinds": ("images", "labels"), "splits": ("train", "valid")},
    {"form": "{split}/{kind}", "kinds": ("image", "annotations"), "splits": ("training", "validation")},
    {"form": "{kind}/{split}", "kinds": ("img_dir", "ann_dir"), "ending": "_labelTrainIds"},
    {"form": "{kind}/{split}", "ending": "_mask"},
    {"form": "{split}", "ending": "_mask", "splits": ("train", "valid", "test")},
]


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_folders_and_names_as_people_have_them(tmp_path: Path, form: dict) -> None:
    root = fixtures.write_label_maps(tmp_path / "own", **form)
    assert label_maps.check(root, "segmentation") == ""
    train, val = load(root), load(root, "val")
    assert (len(train), len(val)) == (4, 2)
    assert train.classes == val.classes == ("background", "class_1", "class_2")
    assert train.background == 0
    for index in range(4):
        np.testing.assert_array_equal(shown(train, index), fixtures.label_map(1 + index % 2, index))
        assert train.verify(index).size == fixtures.SIZE


@pytest.mark.parametrize(
    ("form", "splits"), [("{kind}", ("train",)), ("{kind}/{split}", ("train",)), ("{split}/{kind}", ("train", "test"))]
)
def test_one_folder_is_split_and_said(tmp_path: Path, form: str, splits: tuple[str, ...]) -> None:
    root = fixtures.write_label_maps(tmp_path / "own", form=form, splits=splits, count=20)
    assert label_maps.check(root, "segmentation").startswith("val is 20 % of the pictures in ")
    train, val = load(root), load(root, "val")
    assert len(train) + len(val) == 20
    assert len(val) >= 1


@pytest.mark.parametrize("mode", ["L", "1", "RGB", "P"])
def test_maps_of_0_and_255_are_binary(tmp_path: Path, mode: str) -> None:
    root = fixtures.write_label_maps(tmp_path / "own", values=(0, 255))
    for path in root.glob("masks/*/*.png"):
        with Image.open(path) as image:
            grey = image.copy()
        if mode == "P":
            grey.putpalette([value for level in range(256) for value in (level, level, level)])
        else:
            grey = grey.convert(mode)
        grey.save(path)
    dataset = load(root)
    expected = ("background", "class_1") if mode == "1" else ("background", "foreground")
    assert dataset.classes == expected
    np.testing.assert_array_equal(shown(dataset), fixtures.label_map(1, 0))


@pytest.mark.parametrize(
    ("names", "classes"), [("crack\n", ("background", "crack")), ("sound\ncrack\n", ("sound", "crack"))]
)
def test_binary_maps_take_their_names(tmp_path: Path, names: str, classes: tuple[str, ...]) -> None:
    root = fixtures.write_label_maps(tmp_path / "own", values=(0, 255))
    (root / "classes.txt").write_text(names)
    dataset = load(root, "val")
    assert dataset.classes == classes
    np.testing.assert_array_equal(shown(dataset), fixtures.label_map(1, 4))


def test_255_beside_other_labels_is_ignored(tmp_path: Path) -> None:
    root = fixtures.write_label_maps(tmp_path / "own", values=(0, 1, 255))
    dataset = load(root)
    assert dataset.classes == ("background", "class_1")
    np.testing.assert_array_equal(shown(dataset, 1), fixtures.label_map(255, 1))


def test_a_val_map_of_0_and_255_keeps_the_meaning_of_train(tmp_path: Path) -> None:
    root = fixtures.write_label_maps(tmp_path / "own")
    fixtures.write_labels(root / "masks" / "val" / "image_004.png", fixtures.label_map(255, 4), palette=False)
    np.testing.assert_array_equal(shown(load(root, "val")), fixtures.label_map(255, 4))


COLOURED = [
    ("labelmap.txt", "# label:color_rgb:parts:actions\nbackground:0,0,0::\ndisc:200,40,40::\nbox:40,200,40::\n"),
    ("classes.txt", "background 0 0 0\ndisc 200 40 40\nbox 40 200 40\n"),
    ("class_dict.csv", "name,r,g,b\nbackground,0,0,0\ndisc,200,40,40\nbox,40,200,40\n"),
    ("classes.json", json.dumps({"background": [0, 0, 0], "disc": [200, 40, 40], "box": "#28c828"})),
    (
        "labels.json",
        json.dumps(
            {
                "labels": [
                    {"name": "box", "id": 2, "color": "#28c828"},
                    {"name": "background", "id": 0, "color": [0, 0, 0]},
                    {"name": "disc", "id": 1, "color": [200, 40, 40]},
                ]
            }
        ),
    ),
]


@pytest.mark.parametrize(("file", "text"), COLOURED)
@pytest.mark.parametrize("place", ["", "masks"])
def test_colours_are_read_where_a_file_gives_them(root: Path, file: str, text: str, place: str) -> None:
    for index in range(6):
        split = "train" if index < 4 else "val"
        fixtures.write_image(root / "masks" / split / f"image_{index:03d}.png", fixtures.picture(1 + index % 2, index))
    (root / place / file).write_text(text)
    dataset = load(root)
    assert dataset.classes == ("background", "disc", "box")
    for index in range(4):
        np.testing.assert_array_equal(shown(dataset, index), fixtures.label_map(1 + index % 2, index))
    stained = fixtures.picture(1, 0)
    stained[0] = (9, 8, 7)
    fixtures.write_image(root / "masks" / "train" / "image_000.png", stained)
    with pytest.raises(DataError, match=r"image_000\.png: colour 9,8,7 is the colour of no class"):
        load(root).verify(0)


NAMED = [
    ("classes.txt", "sky\ntree\n7 up\n"),
    ("classes.txt", "0 sky\n1 tree\n2 7 up\n"),
    ("classes.txt", "2: 7 up\n"),
    ("labelmap.txt", "sky:::\ntree:::\n7 up:::\n"),
    ("classes.json", '["sky", "tree", "7 up"]'),
    ("classes.json", '{"0": "sky", "1": "tree", "2": "7 up"}'),
    ("label_map.json", '{"tree": 1, "sky": 0, "7 up": 2}'),
    ("classes.json", '{"classes": [{"title": "sky"}, {"title": "tree"}, {"title": "7 up"}]}'),
    ("_classes.csv", "Pixel Value, Class\n0, sky\n1, tree\n2, 7 up\n"),
]


@pytest.mark.parametrize(("file", "text"), NAMED)
def test_names_come_in_many_forms(tmp_path: Path, file: str, text: str) -> None:
    path = tmp_path / file
    path.write_text(text)
    expected = ("2: 7 up",) if text == "2: 7 up\n" else ("sky", "tree", "7 up")
    assert _names.read(path).classes == expected
    assert _names.find(tmp_path / "nowhere", tmp_path) == path


def test_whoever_counts_from_1_means_0_as_background(tmp_path: Path) -> None:
    path = tmp_path / "classes.json"
    path.write_text('{"disc": 1, "box": 2}')
    assert _names.read(path).classes == ("background", "disc", "box")


BAD_NAMES = [
    ("classes.json", '{"a": 0, "b": 2}', "want each of 0 to 1 once"),
    ("classes.json", '{"a": ', "cannot be read as JSON"),
    ("classes.json", "[" * 100000, "cannot be read as JSON"),
    ("classes.json", '{"a": {"x": []}}', "in a form that is known"),
    ("classes.json", '{"a": [1e999, 0, 0]}', "in a form that is known"),
    ("classes.json", "3", "names 0 classes"),
    ("classes.txt", "", "names 0 classes"),
    ("classes.txt", "a\na\n", "names the class 'a' more than once"),
    ("classes.txt", "\n".join(map(str, range(1000, 1300))), "names 300 classes; want 1 to 255"),
    ("class_dict.csv", "name,r,g,b\na,1,2\n", "line 2, 'a,1,2'"),
    ("class_dict.csv", "name,r,g,b\na,1,2,300\n", "colour 1,2,300 is out of range"),
    ("class_dict.csv", "name,r,g,b\na,1,2,3\nb,1,2,3\n", "one colour to two classes"),
]


@pytest.mark.parametrize(("file", "text", "said"), BAD_NAMES)
def test_a_bad_file_of_names_is_named_before_anything_runs(root: Path, file: str, text: str, said: str) -> None:
    (root / file).write_text(text)
    with pytest.raises(DataError, match=rf"{file}: .*{said}"):
        label_maps.check(root, "segmentation")


def test_colours_that_nobody_gives_are_refused_with_what_to_do(root: Path) -> None:
    for path in root.glob("masks/train/*.png"):
        fixtures.write_image(path, fixtures.picture(1, 0))
    with pytest.raises(DataError, match=r"a coloured label map.*labelmap\.txt, one 'name:r,g,b::' a line"):
        load(root)


def test_a_label_out_of_range_is_its_files_fault(root: Path) -> None:
    (root / "classes.txt").write_text("disc\nbox\n")
    assert load(root).verify(0).size == fixtures.SIZE
    said = r"image_001\.png: label 2 is out of range; there are 2 classes.*does classes\.txt lack one, such as backgr"
    with pytest.raises(DataError, match=said):
        load(root).verify(1)


def test_maps_that_hold_nothing_are_refused(tmp_path: Path) -> None:
    root = fixtures.write_label_maps(tmp_path / "own", values=(0, 0))
    with pytest.raises(DataError, match="hold background only"):
        load(root)
    many = fixtures.write_label_maps(tmp_path / "many", values=(0, 255))
    (many / "classes.txt").write_text("a\nb\nc\n")
    with pytest.raises(DataError, match="hold background only"):
        load(many)


def test_a_broken_map_costs_no_other_and_all_of_them_are_named(root: Path) -> None:
    fixtures.truncate(root / "masks" / "train" / "image_001.png", 0)
    dataset = load(root)
    assert dataset.classes == ("background", "class_1", "class_2")
    with pytest.raises(DataError, match=r"image_001\.png: cannot be read as an image"):
        dataset.verify(1)
    for path in root.glob("masks/train/*.png"):
        path.write_bytes(b"no picture")
    with pytest.raises(DataError, match="None of the 4 train label maps can be read"):
        load(root)


def test_jpeg_label_maps_are_refused_as_they_mix_labels(root: Path) -> None:
    for path in root.glob("masks/*/*.png"):
        path.rename(path.with_suffix(".jpg"))
    with pytest.raises(DataError, match=r"masks holds JPEG files, which mix the labels .* save label maps as PNG"):
        label_maps.check(root, "segmentation")


def test_what_is_missing_is_named_with_the_layout(root: Path) -> None:
    for path in root.glob("masks/train/*.png"):
        path.rename(path.with_name(f"other_{path.name}"))
    with pytest.raises(DataError, match=r"no picture in images/train has a label map of its name in masks/train; want"):
        label_maps.check(root, "segmentation")
    shutil.rmtree(root / "masks")
    with pytest.raises(DataError, match=r"no folder of pictures beside one of label maps \(there is images\); want"):
        label_maps.check(root, "segmentation")


def test_ade20k_is_not_taken_for_something_else(tmp_path: Path) -> None:
    root = fixtures.write_ade20k(tmp_path / "own")
    with pytest.raises(DataError, match="this is ADE20K, where 0 is no class: give it as --dataset ade20k"):
        label_maps.check(root, "segmentation")
