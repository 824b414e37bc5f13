"""COCO's layout: boxes, masks of polygons and run lengths, what is kept of a JSON, what is broken in people's files."""

# The name of a test says what it shows.

import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faster_coco_eval.core import mask as rle
from numpy.typing import NDArray

from bench import catalogue
from bench.data import _coco_json, coco, images
from bench.data.contract import Dataset, Split
from bench.errors import DataError, UserError
from bench.plan import dataset as datasets
from tests.bench.data import fixtures

REAL = Path(__file__).parents[3].parent / "shared" / "data" / "coco128"


def load(root: Path, split: Split = "train", *, masks: bool = False) -> Dataset:
    return coco.load("coco", task="detection", root=root, cache=root.parent / "cache", split=split, masks=masks)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return fixtures.write_coco(tmp_path / "own")


def edit(root: Path, change: Callable[[dict[str, Any]], object], split: Split = "train") -> Path:
    """Change the JSON of a split; returns its path."""
    path = root / "annotations" / f"instances_{split}2017.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    fixtures.write_json(path, content)
    return path


def annotations(content: dict[str, Any]) -> dict[int, dict[str, Any]]:
    return {annotation["id"]: annotation for annotation in content["annotations"]}


def masks_of(dataset: Dataset, index: int = 0) -> NDArray[np.bool_]:
    masks = dataset.truth(index).masks
    assert masks is not None
    return masks


def test_objects_are_where_the_rectangles_are(root: Path) -> None:
    coco.check(root, "detection")
    splits: tuple[tuple[Split, int, int], ...] = (("train", 0, 4), ("val", 4, 2))
    for split, first, count in splits:
        dataset = load(root, split, masks=True)
        assert len(dataset) == count
        assert dataset.classes == ("disc", "box")  # by category id, whatever order they are listed in
        assert dataset.background is None
        for index in range(count):
            truth = dataset.truth(index)
            assert (truth.size, truth.mask) == (fixtures.SIZE, None)
            np.testing.assert_array_equal(truth.boxes, [fixtures.rectangle(first + index)])
            assert dataset.classes[truth.labels[0]] == ("disc", "box")[(first + index) % 2]
            assert not truth.ignore.any()
            np.testing.assert_array_equal(masks_of(dataset, index)[0], fixtures.label_map(1, first + index) == 1)
            sample = dataset.sample(index, fixtures.SIZE)
            assert (
                np.abs(sample.image.astype(int) - fixtures.picture(1 + (first + index) % 2, first + index)).max() < 60
            )


def test_areas_are_those_that_are_stated_or_else_of_the_mask_or_the_box(root: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        stated, of_mask, broken, of_box = reversed(content["annotations"])  # in the order of the images
        stated["area"] = 12.5
        triangle = [10, 10, 20, 10, 10, 30]
        of_mask["segmentation"], broken["segmentation"], of_box["segmentation"] = [triangle], [[1, 2, 3]], []
        for annotation in (of_mask, broken, of_box):
            del annotation["area"]

    edit(root, change)
    dataset = load(root)
    areas = [truth.areas for truth in (dataset.truth(index) for index in range(4))]
    boxes = [dataset.truth(index).boxes[0] for index in range(4)]
    assert [area.tolist() for area in areas if area is not None] == [
        [12.5],
        [pytest.approx(100, abs=15)],
        *([float((right - left) * (bottom - top))] for left, top, right, bottom in boxes[2:]),
    ]
    assert dataset.sample(0, (32, 32)).truth.areas is None, "at another size they are not known"


def test_masks_come_only_when_asked_for(root: Path) -> None:
    assert load(root).truth(0).masks is None
    assert load(root).sample(0, (18, 24)).truth.masks is None
    sample = load(root, masks=True).sample(0, (18, 24))
    assert sample.truth.masks is not None
    assert (sample.truth.masks.shape, sample.truth.masks.dtype) == ((1, 18, 24), np.bool_)


@pytest.mark.parametrize("size", [(18, 96), (72, 24), (36, 48), (37, 41)])
def test_boxes_and_masks_are_stretched_with_the_picture(root: Path, size: tuple[int, int]) -> None:
    sample = load(root, masks=True).sample(1, size)
    x1, y1, x2, y2 = np.array(fixtures.rectangle(1)) * np.tile([size[1] / 48, size[0] / 36], 2)
    np.testing.assert_allclose(sample.truth.boxes, [[x1, y1, x2, y2]], rtol=1e-6)
    rows, columns = np.nonzero(sample.truth.masks[0])  # pyright: ignore[reportOptionalSubscript]
    # A pixel is in the mask where its centre is in the rectangle.
    assert y1 <= rows.min() + 0.5 <= rows.max() + 0.5 <= y2
    assert x1 <= columns.min() + 0.5 <= columns.max() + 0.5 <= x2
    assert len(rows) == pytest.approx((x2 - x1) * (y2 - y1), rel=0.15)
    seen = sample.image[sample.truth.masks[0]].astype(int)  # pyright: ignore[reportOptionalSubscript]
    assert np.abs(seen - fixtures.COLOURS[2]).mean() < 25


def test_masks_and_label_maps_are_resized_alike() -> None:
    labels = np.random.default_rng(0).integers(0, 5, (31, 47)).astype(np.uint8)
    for size in ((10, 20), (64, 96), (31, 47), (1, 1)):
        masks = images.resize_masks(labels == np.arange(5)[:, None, None], size)
        np.testing.assert_array_equal(masks.argmax(0), images.resize_mask(labels, size))


def test_parts_are_united_and_holes_in_run_lengths_kept(root: Path) -> None:
    ring = np.zeros(fixtures.SIZE, np.uint8)
    ring[5:20, 5:30] = 1
    ring[10:15, 10:20] = 0
    packed = rle.encode(np.asfortranarray(ring))
    flat = ring.ravel(order="F")
    counts = np.diff(np.flatnonzero(np.diff(flat, prepend=0, append=0)), prepend=0, append=flat.size).tolist()

    def change(content: dict[str, Any]) -> None:
        by_id = annotations(content)
        by_id[500]["segmentation"] = [[0, 0, 4, 0, 4, 4, 0, 4], [10, 10, 14, 10, 14, 12, 10, 12], [1, 2, 3, 4]]
        by_id[501]["segmentation"] = {"size": [36, 48], "counts": counts}
        by_id[502]["segmentation"] = {"size": [36, 48], "counts": packed["counts"].decode()}

    edit(root, change)
    dataset = load(root, masks=True)
    two = np.zeros(fixtures.SIZE, bool)
    two[:4, :4] = two[10:12, 10:14] = True
    np.testing.assert_array_equal(masks_of(dataset, 0), [two])
    np.testing.assert_array_equal(masks_of(dataset, 1), [ring == 1])
    np.testing.assert_array_equal(masks_of(dataset, 2), [ring == 1])


def test_crowds_are_ignored_and_images_without_objects_kept(root: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        by_id = annotations(content)
        runs = {"size": [36, 48], "counts": [0, 36 * 24, 36 * 24]}
        by_id[500] |= {"iscrowd": 1, "segmentation": runs, "bbox": [0, 0, 24, 36]}
        extra = {**by_id[501], "id": 900, "bbox": [10, 5, 20, 0], "segmentation": []}
        content["annotations"] = [by_id[500], by_id[501], by_id[503], extra]

    edit(root, change)
    dataset = load(root, masks=True)
    assert len(dataset) == 4
    crowd = dataset.truth(0)
    assert crowd.ignore.tolist() == [True]
    assert masks_of(dataset, 0)[0, :, :24].all()
    assert not masks_of(dataset, 0)[0, :, 24:].any()
    assert dataset.truth(1).ignore.tolist() == [False, True], "a box without extent is a slip"
    assert not masks_of(dataset, 1)[1].any()
    empty = dataset.sample(2, (20, 30)).truth
    assert (empty.boxes.shape, empty.labels.shape, empty.ignore.shape) == ((0, 4), (0,), (0,))
    assert empty.masks is not None
    assert empty.masks.shape == (0, 20, 30)


def test_boxes_are_clipped_and_those_of_another_picture_refused(root: Path) -> None:
    path = edit(root, lambda content: annotations(content)[500].update(bbox=[-0.5, 30.5, 10.25, 6.0]))
    np.testing.assert_array_equal(load(root).truth(0).boxes, [[0, 30.5, 9.75, 36]])
    for bbox in ([60, 5, 10, 10], [5, 40, 10, 10], [-20, 5, 10, 10], [5, 5, -3, 10], [5, 5, float("nan"), 3]):
        edit(root, lambda content, bbox=bbox: annotations(content)[500].update(bbox=bbox))
        said = rf"000000001000\.jpg: the bbox .* of annotation 500 is inverted or lies outside.*{path.name}"
        for look in (load(root).truth, load(root).verify):
            with pytest.raises(DataError, match=said):
                look(0)
        assert len(load(root).verify(1).boxes) == 1, "one bad box costs no other image"


@pytest.mark.parametrize("ending", ["2017", "2014", "", "_v2"])
@pytest.mark.parametrize("folder", ["", "images"])
def test_any_year_and_a_folder_images_are_taken(tmp_path: Path, ending: str, folder: str) -> None:
    root = fixtures.write_coco(tmp_path / "own", ending=ending)
    if folder:
        (root / folder).mkdir()
        for split in ("train", "val"):
            (root / f"{split}{ending}").rename(root / folder / f"{split}{ending}")
    coco.check(root, "detection")
    assert load(root, "val").sample(0, (36, 48)).image.shape == (36, 48, 3)


def test_of_several_years_2017_is_taken(tmp_path: Path) -> None:
    root = fixtures.write_coco(tmp_path / "own", ending="2014", train=2)
    fixtures.write_coco(root, ending="2015", train=2)
    with pytest.raises(DataError, match="holds train2014, train2015; which is meant"):
        coco.check(root, "detection")
    fixtures.write_coco(root)
    assert len(load(root)) == 4


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        ("train2017", "no folder train2017"),
        ("val2017", "no folder val2017"),
        ("annotations/instances_val2017.json", "no file annotations/instances_val2017.json"),
        ("annotations/instances_train2017.json", r"no annotations/instances_train\*.json"),
        ("annotations", r"no annotations/instances_train\*.json"),
    ],
)
def test_what_is_missing_is_named_with_the_layout(root: Path, gone: str, said: str) -> None:
    path = root / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(DataError, match=rf"{said}; want COCO's layout"):
        coco.check(root, "detection")


def test_check_opens_no_picture_and_parses_nothing(root: Path) -> None:
    path = root / "annotations" / "instances_train2017.json"
    fixtures.truncate(path)
    coco.check(root, "detection")
    with pytest.raises(DataError, match=rf"{path.name}: cannot be read as JSON"):
        load(root)
    path.write_bytes(b"")
    with pytest.raises(DataError, match=rf"{path.name}: no JSON object"):
        coco.check(root, "detection")
    shutil.rmtree(root / "val2017")
    (root / "val2017").mkdir()
    fixtures.write_coco(root.parent / "other")
    shutil.copy(root.parent / "other" / "annotations" / path.name, path)
    with pytest.raises(DataError, match="val2017: an empty folder"):
        coco.check(root, "detection")


def test_missing_and_broken_pictures_are_named(root: Path) -> None:
    folder = root / "train2017"
    fixtures.truncate(folder / "000000001000.jpg")
    with pytest.raises(DataError, match=r"000000001000\.jpg: cannot be read as an image"):
        load(root).sample(0, (36, 48))
    fixtures.write_image(folder / "000000001007.jpg", fixtures.picture(1, 1, (20, 48)))
    said = r"000000001007\.jpg: 48 x 20 pixels, but its labels in instances_train2017.json are of 48 x 36"
    for look in (lambda: load(root).sample(1, (36, 48)), lambda: load(root).verify(1)):
        with pytest.raises(DataError, match=said):
            look()
    (folder / "000000001014.jpg").unlink()
    for look in (lambda: load(root).sample(2, (36, 48)), lambda: load(root).verify(2)):
        with pytest.raises(DataError, match=r"train2017/000000001014\.jpg: no such file"):
            look()
    assert len(load(root).verify(3).boxes) == 1, "the others can still be used"


def test_pictures_may_lie_in_folders_of_their_own(root: Path) -> None:
    (root / "train2017" / "sub").mkdir()
    (root / "train2017" / "000000001000.jpg").rename(root / "train2017" / "sub" / "a.jpg")
    edit(root, lambda content: content["images"][0].update(file_name="sub/a.jpg"))
    assert load(root).sample(0, (36, 48)).image.shape == (36, 48, 3)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda content: content.pop("categories"), "has no list 'categories'"),
        (lambda content: content["categories"].append({"id": 2, "name": "x"}), "no category, or two of one id"),
        (lambda content: content["categories"].append({"id": 77, "name": "box"}), "two categories named box"),
        (lambda content: content["categories"][0].pop("name"), "a category lacks its id or name"),
        (lambda content: content["images"][0].pop("width"), "lacks an id, file_name, height or width"),
        (lambda content: content["images"][1].update(id=1000), "has the id of another one"),
        (lambda content: content["annotations"][0].update(image_id=3), "belongs to no image"),
        (lambda content: content.update(images=[1, 2]), "its list 'images' holds what is no object"),
        (lambda content: content["images"][0].update(height=float("inf")), "lacks an id, file_name, height or width"),
        (lambda content: content["images"][0].update(height=1 << 40), "no size of a picture"),
        (lambda content: content["categories"][0].update(id=True), "a category lacks its id"),
        (lambda content: content.update(annotations=[]), "not one of the 4 images has an object"),
    ],
)
def test_a_broken_json_is_named_with_what_is_wrong(root: Path, change: Any, said: str) -> None:
    path = edit(root, change)
    with pytest.raises(DataError, match=said) as error:
        load(root)
    assert str(path) in str(error.value)
    assert len(str(error.value)) < 600


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"category_id": 3}, "known category_id"),
        ({"category_id": None}, "known category_id"),
        ({"bbox": [1, 2, 3]}, "a bbox of four numbers"),
        ({"bbox": ["a", 2, 3, 4]}, "a bbox of four numbers"),
        ({"bbox": None, "segmentation": []}, "or a mask instead"),
    ],
)
def test_a_broken_annotation_is_the_fault_of_its_image(root: Path, change: dict[str, object], said: str) -> None:
    path = edit(root, lambda content: annotations(content)[501].update(change))
    with pytest.raises(DataError, match=rf"000000001007\.jpg: annotation .*501.* lacks .*{said}.*{path.name}"):
        load(root).truth(1)
    assert len(load(root).truth(0).boxes) == 1


def test_both_splits_must_have_the_same_classes(root: Path) -> None:
    edit(root, lambda content: content["categories"].append({"id": 90, "name": "cone"}), "val")
    with pytest.raises(DataError, match="have not the same categories: one of them alone has cone"):
        load(root)


@pytest.mark.parametrize(
    "segmentation",
    [
        {"size": [36, 48], "counts": [5, 5]},
        {"size": [36, 48], "counts": [5, 99999]},
        {"size": [48, 36], "counts": [36 * 48]},
        {"size": [36, 48], "counts": "zzzz"},
        {"counts": [36 * 48]},
        [[1, 2, 3, 4, 5, 6, 7]],
        [[1, 2, 3, 4, 5, "a"]],
    ],
)
def test_a_mask_that_cannot_be_drawn_names_its_annotation(root: Path, segmentation: object) -> None:
    edit(root, lambda content: annotations(content)[500].update(segmentation=segmentation))
    dataset = load(root, masks=True)
    for look in (dataset.truth, dataset.verify):
        with pytest.raises(DataError, match=r"1000\.jpg: the mask of annotation 500 cannot be drawn.*train2017\.json"):
            look(0)
    assert dataset.verify(1).masks is None
    assert masks_of(dataset, 1).any(), "one bad mask costs no other"


def test_boxes_alone_serve_all_but_masks(tmp_path: Path) -> None:
    root = fixtures.write_coco(tmp_path / "own", segmentation=False)
    assert len(load(root).truth(0).boxes) == 1
    with pytest.raises(
        DataError, match=r"2017\.json: not one annotation has a mask .* this file can serve heads that learn from boxes"
    ):
        load(root, masks=True)


@pytest.mark.parametrize("valid", [True, False])
def test_roboflows_export_and_its_project_that_is_no_class(tmp_path: Path, *, valid: bool) -> None:
    root = fixtures.write_roboflow(tmp_path / "own", train=8, valid=valid)
    note = coco.check(root, "detection")
    assert note.endswith("category 'shapes' (id 0, without objects) is no class")
    assert note.startswith("val is 20 % of train/_annotations.coco.json") != valid
    train, val = load(root), load(root, "val")
    assert train.classes == val.classes == ("disc", "box")
    assert (len(train), len(val)) == (8, 2) if valid else len(train) + len(val) == 8
    place = int(train.files(0)[0].stem[-4:]) // 7 - 1000 // 7
    assert train.verify(0).labels.tolist() == [place % 2]
    assert not {val.files(index)[0] for index in range(len(val))} & {train.files(i)[0] for i in range(len(train))}


@pytest.mark.parametrize("text", [True, False])
def test_a_category_that_has_objects_or_is_not_everybodys_is_a_class(tmp_path: Path, *, text: bool) -> None:
    root = fixtures.write_roboflow(tmp_path / "own")
    path = root / "valid" / "_annotations.coco.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["annotations"][0]["category_id"] = "0" if text else 0
    fixtures.write_json(path, content)
    assert coco.check(root, "detection") == ""
    assert load(root).classes == ("shapes", "disc", "box")
    fixtures.write_roboflow(root)
    for split in ("train", "valid"):
        path = root / split / "_annotations.coco.json"
        content = json.loads(path.read_text(encoding="utf-8"))
        content["categories"][1]["supercategory"] = "other"
        fixtures.write_json(path, content)
    assert load(root).classes == ("shapes", "disc", "box")


SINGLES = [
    ("annotations/instances_default.json", "images"),
    ("annotations/instances_default.json", "images/default"),
    ("annotations/instances_cells.json", "images/cells"),
    ("result.json", "images"),
    ("labels.json", "data"),
    ("_annotations.coco.json", "."),
]


@pytest.mark.parametrize(("source", "folder"), SINGLES)
def test_one_json_alone_is_split_and_said(tmp_path: Path, source: str, folder: str) -> None:
    other = fixtures.write_coco(tmp_path / "other", train=12)
    root = tmp_path / "own"
    (root / source).parent.mkdir(parents=True)
    shutil.copy(other / "annotations" / "instances_train2017.json", root / source)
    shutil.copytree(other / "train2017", root / folder, dirs_exist_ok=True)
    assert coco.check(root, "detection") == f"val is 20 % of {source}, by a hash of the names (seed 0)"
    train, val = load(root, masks=True), load(root, "val", masks=True)
    names = [dataset.files(index)[0].name for dataset in (train, val) for index in range(len(dataset))]
    assert sorted(names) == sorted(path.name for path in (other / "train2017").iterdir())
    assert len(val) >= 1
    for dataset in (train, val):
        for index in range(len(dataset)):
            place = (int(dataset.files(index)[0].stem) - 1000) // 7
            np.testing.assert_array_equal(dataset.verify(index).boxes, [fixtures.rectangle(place)])
            np.testing.assert_array_equal(masks_of(dataset, index)[0], fixtures.label_map(1, place) == 1)


def test_train_without_anything_of_val_is_split(root: Path) -> None:
    shutil.rmtree(root / "val2017")
    (root / "annotations" / "instances_val2017.json").unlink()
    assert "val is 20 % of annotations/instances_train2017.json" in coco.check(root, "detection")
    assert len(load(root)) + len(load(root, "val")) == 4


def test_ids_may_be_texts_and_annotation_ids_may_start_again(root: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        for image in content["images"]:
            image["id"] = f"img-{image['id']}"
        for category in content["categories"]:
            category["id"] = str(category["id"])
        for annotation in content["annotations"]:
            annotation["image_id"] = f"img-{annotation['image_id']}"
            annotation["category_id"] = str(annotation["category_id"])
            annotation["id"] = "1"

    edit(root, change)
    dataset = load(root, masks=True)
    assert dataset.classes == ("disc", "box")
    for index in range(4):
        np.testing.assert_array_equal(dataset.truth(index).boxes, [fixtures.rectangle(index)])
        assert masks_of(dataset, index).any()


def test_ids_that_are_words_are_in_the_order_of_the_alphabet(root: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        for entry in content["categories"]:
            entry["id"] = entry["name"]
        for annotation in content["annotations"]:
            annotation["category_id"] = {2: "disc", 5: "box"}[annotation["category_id"]]

    for split in ("train", "val"):
        edit(root, change, split)
    assert load(root).classes == ("box", "disc")
    assert load(root).truth(0).labels.tolist() == [1]


def test_what_is_left_out_follows_from_the_mask(root: Path) -> None:
    ring = np.zeros(fixtures.SIZE, np.uint8)
    ring[5:20, 6:30] = 1

    def change(content: dict[str, Any]) -> None:
        by_id = annotations(content)
        for annotation in by_id.values():
            for key in ("area", "iscrowd", "bbox"):
                del annotation[key]
        by_id[501]["segmentation"] = {
            "size": [36, 48],
            "counts": rle.encode(np.asfortranarray(ring))["counts"].decode(),
        }
        by_id[502]["bbox"] = []
        del by_id[503]["id"]

    edit(root, change)
    dataset = load(root)
    np.testing.assert_array_equal(dataset.truth(0).boxes, [fixtures.rectangle(0)])
    np.testing.assert_array_equal(dataset.truth(1).boxes, [[6, 5, 30, 20]])
    np.testing.assert_array_equal(dataset.truth(2).boxes, [fixtures.rectangle(2)])
    assert not dataset.truth(3).ignore.any()


@pytest.mark.parametrize(
    "name", ["sub\\{}", "sub/{}", "train2017\\sub\\{}", "/home/them/pictures/{}", "../../up/{}", "C:\\data\\{}"]
)
def test_file_names_of_other_machines_are_found(root: Path, name: str) -> None:
    (root / "train2017" / "sub").mkdir()
    inner = root / "train2017" / ("sub" if "sub" in name else "")
    first = root / "train2017" / "000000001000.jpg"
    first.rename(inner / first.name)
    edit(root, lambda content: content["images"][0].update(file_name=name.format(first.name)))
    assert load(root).sample(0, (36, 48)).image.shape == (36, 48, 3)


def test_nothing_outside_of_the_folder_is_read(root: Path) -> None:
    fixtures.write_image(root.parent / "secret.jpg", fixtures.picture(1, 0))
    edit(root, lambda content: content["images"][0].update(file_name="../../secret.jpg"))
    with pytest.raises(DataError, match=r"train2017/secret\.jpg: no such file"):
        load(root).verify(0)


def test_both_splits_may_lie_in_one_folder_but_not_share_pictures(root: Path) -> None:
    (root / "images").mkdir()
    for split in ("train", "val"):
        for path in (root / f"{split}2017").iterdir():
            path.rename(root / "images" / path.name)
        (root / f"{split}2017").rmdir()
    assert (len(load(root)), len(load(root, "val"))) == (4, 2)
    edit(root, lambda content: content["images"][0].update(file_name="000000001000.jpg"), "val")
    with pytest.raises(DataError, match=r"1 images are in train and in val \(.*000000001000.jpg\)"):
        load(root)


def counted(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Grows by each JSON that is parsed."""
    seen: list[Path] = []
    parsed = _coco_json.parsed

    def count(path: Path, *, masks: bool) -> _coco_json.Index:
        seen.append(path)
        return parsed(path, masks=masks)

    monkeypatch.setattr(_coco_json, "parsed", count)
    return seen


@pytest.mark.parametrize("masks", [False, True])
def test_a_json_is_parsed_once_until_it_changes(root: Path, monkeypatch: pytest.MonkeyPatch, masks: bool) -> None:
    seen = counted(monkeypatch)
    first = load(root, masks=masks)
    again = load(root, masks=masks)
    assert [path.name for path in seen] == ["instances_train2017.json", "instances_val2017.json"]
    assert first.classes == again.classes
    for index in range(4):
        one, other = first.truth(index), again.truth(index)
        for name in ("boxes", "labels", "ignore", "masks"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
            assert getattr(one, name) is None or getattr(one, name).dtype == getattr(other, name).dtype
    path = edit(root, lambda content: annotations(content)[500].update(bbox=[1, 1, 2, 2]))
    os.utime(path, ns=(1, 1))  # a clock may be coarser than this test is quick
    assert load(root, masks=masks).truth(0).boxes.tolist() == [[1, 1, 3, 3]]
    assert len(seen) == 3


@pytest.mark.parametrize("ending", [".npz", ".bin"])
def test_a_damaged_cache_is_made_again(root: Path, monkeypatch: pytest.MonkeyPatch, ending: str) -> None:
    whole = masks_of(load(root, masks=True))
    for path in (root.parent / "cache").glob(f"coco-*{ending}"):
        fixtures.truncate(path)
    seen = counted(monkeypatch)
    np.testing.assert_array_equal(masks_of(load(root, masks=True)), whole)
    assert seen


def test_an_unwritable_cache_costs_time_alone(root: Path) -> None:
    (root.parent / "cache").write_text("no folder")
    assert masks_of(load(root, masks=True)).any()


def test_a_pickled_data_set_still_reads(root: Path) -> None:
    load(root, masks=True)
    dataset = pickle.loads(pickle.dumps(load(root, masks=True)))
    np.testing.assert_array_equal(masks_of(dataset)[0], fixtures.label_map(1, 0) == 1)


def test_other_tasks_and_names_are_refused(root: Path) -> None:
    with pytest.raises(DataError, match="serves detection, not segmentation"):
        coco.check(root, "segmentation")
    with pytest.raises(UserError, match="did you mean coco"):
        coco.load("cocoa", task="detection", root=root, cache=root, split="val")
    with pytest.raises(IndexError):
        load(root).truth(4)


def test_data_sets_without_masks_are_refused_before_and_when_opened(tmp_path: Path) -> None:
    voc = fixtures.write_voc(tmp_path / "own")
    said = "voc has no instance masks.* there are some in coco, scenes"
    assert datasets.check("voc:own", "detection", voc) == ""
    refused = datasets.no_masks(catalogue.dataset("voc:own"))
    with pytest.raises(DataError, match=said) as error:
        datasets.load(catalogue.dataset("voc:own"), task="detection", root=voc, cache=tmp_path, split="val", masks=True)
    assert refused == str(error.value)
    own = fixtures.write_coco(tmp_path / "masks")
    assert datasets.no_masks(catalogue.dataset("coco:masks")) == datasets.no_masks(catalogue.dataset("scenes")) == ""
    opened = datasets.load(
        catalogue.dataset("coco:masks"), task="detection", root=own, cache=tmp_path, split="val", masks=True
    )
    assert masks_of(opened).any()


def test_import_brings_no_torch() -> None:
    code = "import sys, bench.data.coco; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=Path(coco.__file__).parents[2], check=True)


@pytest.mark.skipif(not REAL.is_dir(), reason="the real sample of COCO is not beside the repository")
def test_the_real_images(tmp_path: Path) -> None:
    coco.check(REAL, "detection")
    train, val = (
        coco.load("coco", task="detection", root=REAL, cache=tmp_path, split=split, masks=True)
        for split in ("train", "val")
    )
    assert (len(train), len(val), len(train.classes)) == (100, 100, 80)
    assert train.classes[:2] == ("person", "bicycle")
    assert train.classes[-1] == "toothbrush"
    first = train.truth(0)  # 000000000009: bowls, broccoli and oranges
    assert first.size == (480, 640)
    assert {train.classes[label] for label in first.labels} == {"bowl", "broccoli", "orange"}
    np.testing.assert_array_equal(first.boxes[0], [0, 14, 432, 387])
    mask = first.masks[0]  # pyright: ignore[reportOptionalSubscript]
    assert int(mask.sum()) == pytest.approx(22959, rel=0.01)  # the JSON's own area
    truths = [(dataset, index, dataset.truth(index)) for dataset in (train, val) for index in range(0, 100, 12)]
    for _, _, truth in truths:
        masks = truth.masks
        assert masks is not None
        for box, mask in zip(truth.boxes, masks, strict=True):
            rows, columns = np.nonzero(mask)
            assert len(rows)
            seen = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
            assert np.abs(seen - box)[:2].max() <= 20
    assert sum(int(ignore) for dataset in (train, val) for ignore in dataset._index.ignore) == 11  # pyright: ignore[reportAttributeAccessIssue]
