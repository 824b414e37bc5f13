"""Published data sets with label maps of their own kind: ADE20K, Cityscapes, COCO-Stuff, COCO panoptic."""

# The name of a test says what it shows.

import json
from pathlib import Path

import numpy as np
import pytest

from bench.data import ade20k, cityscapes, coco_panoptic, coco_stuff
from bench.data.contract import Dataset, Split
from bench.errors import DataError
from tests.bench.data import fixtures


def load(module, root: Path, split: Split = "train") -> Dataset:
    name = next(iter(module.CATALOGUE))
    return module.load(name, task="segmentation", root=root, cache=root.parent / "cache", split=split)


def shown(dataset: Dataset, index: int = 0) -> np.ndarray:
    mask = dataset.truth(index).mask
    assert mask is not None
    return mask


@pytest.mark.parametrize("below", ["", "ADEChallengeData2016"])
def test_ade20k_ignores_0_and_counts_from_1(tmp_path: Path, below: str) -> None:
    fixtures.write_ade20k(tmp_path / below)
    assert ade20k.check(tmp_path, "segmentation") == ""
    train = load(ade20k, tmp_path)
    assert (len(train), len(load(ade20k, tmp_path, "val")), len(train.classes)) == (4, 2, 150)
    assert train.classes[:3] == ("wall", "name 2", "name 3")
    for index in range(4):
        np.testing.assert_array_equal(shown(train, index), fixtures.label_map(index % 2, index, background=255))


def test_ade20k_without_its_names_and_with_a_label_too_many(tmp_path: Path) -> None:
    root = fixtures.write_ade20k(tmp_path / "own")
    (root / "objectInfo150.txt").unlink()
    assert load(ade20k, root).classes[::149] == ("class_1", "class_150")
    path = root / "annotations" / "training" / "image_000.png"
    fixtures.write_labels(path, fixtures.label_map(150, 0), palette=False)
    assert shown(load(ade20k, root)).max(initial=0, where=shown(load(ade20k, root)) != 255) == 149
    fixtures.write_labels(path, fixtures.label_map(151, 0), palette=False)
    with pytest.raises(
        DataError, match=r"image_000\.png: label 151 is out of range; ADE20K's labels are 0 .* 1 to 150"
    ):
        load(ade20k, root).verify(0)
    (root / "objectInfo150.txt").write_text("Idx\tName\n1\twall\n")
    with pytest.raises(DataError, match=r"objectInfo150\.txt: names 1 classes; want 150"):
        ade20k.check(root, "segmentation")


@pytest.mark.parametrize("kind", ["labelIds", "labelTrainIds"])
def test_cityscapes_has_its_19_classes(tmp_path: Path, kind: str) -> None:
    root = fixtures.write_cityscapes(tmp_path / "own", kind=kind)
    assert cityscapes.check(root, "segmentation") == ""
    train = load(cityscapes, root)
    assert (len(train), len(load(cityscapes, root, "val")), len(train.classes)) == (4, 2, 19)
    assert [train.classes[index] for index in (0, 11, 13, 18)] == ["road", "person", "car", "bicycle"]
    for index in range(4):
        expected = fixtures.label_map((13, 11)[index % 2], index)
        expected[0] = 255
        np.testing.assert_array_equal(shown(train, index), expected)


def test_cityscapes_all_ids(tmp_path: Path) -> None:
    """Worked from labels.py of cityscapesscripts: id -> trainId."""
    root = fixtures.write_cityscapes(tmp_path / "own")
    path = root / "gtFine" / "train" / "aachen" / "aachen_000000_000019_gtFine_labelIds.png"
    labels = np.zeros(fixtures.SIZE, np.uint8)
    labels[0, :34] = np.arange(34)
    fixtures.write_labels(path, labels, palette=False)
    pairs = {7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11, 25: 12, 26: 13}
    pairs |= {27: 14, 28: 15, 31: 16, 32: 17, 33: 18}
    assert shown(load(cityscapes, root))[0, :34].tolist() == [pairs.get(label, 255) for label in range(34)]
    labels[0, 0] = 34
    fixtures.write_labels(path, labels, palette=False)
    with pytest.raises(DataError, match=r"label 34 is out of range; labelIds are 0 to 33"):
        load(cityscapes, root).verify(0)


def test_cityscapes_takes_the_maps_that_are_there(tmp_path: Path) -> None:
    root = fixtures.write_cityscapes(tmp_path / "own", kind="labelTrainIds")
    fixtures.write_cityscapes(root, kind="labelIds")
    assert "labelIds" in load(cityscapes, root).files(0)[1].name
    for path in root.glob("gtFine/*/*/*labelIds.png"):
        path.unlink()
    assert "labelTrainIds" in load(cityscapes, root).files(0)[1].name
    for path in root.glob("gtFine/val/*/*.png"):
        path.unlink()
    with pytest.raises(
        DataError, match=r"no picture in leftImg8bit/val has a \*_labelTrainIds\.png in gtFine/val; want"
    ):
        cityscapes.check(root, "segmentation")


def test_cityscapes_names_a_map_without_a_picture(tmp_path: Path) -> None:
    root = fixtures.write_cityscapes(tmp_path / "own")
    (root / "leftImg8bit" / "train" / "bonn" / "bonn_000003_000019_leftImg8bit.png").unlink()
    with pytest.raises(DataError, match=r"bonn_000003_000019_leftImg8bit\.png: no such file"):
        load(cityscapes, root).verify(3)


STUFF = [
    ("stuffthingmaps/{split}2017", (255, 0, 91), 171, ("person", "banner")),
    ("stuffthingmaps_trainval2017/{split}2017", (255, 0, 181), 171, ("person", "wood")),
    ("annotations/stuff_{split}2017_pixelmaps", (0, 183, 92), 92, ("other", "banner")),
    ("stuff_{split}2017_pixelmaps", (0, 183, 182), 92, ("other", "wood")),
]


@pytest.mark.parametrize(("folder", "values", "count", "names"), STUFF)
def test_coco_stuff_in_its_forms(
    tmp_path: Path, folder: str, values: tuple[int, ...], count: int, names: tuple[str, str]
) -> None:
    root = fixtures.write_coco_stuff(tmp_path / "own", folder=folder, values=values)
    assert coco_stuff.check(root, "segmentation") == ""
    train = load(coco_stuff, root)
    assert (len(train), len(load(coco_stuff, root, "val")), len(train.classes)) == (4, 2, count)
    for index in range(4):
        label = train.classes.index(names[index % 2])
        np.testing.assert_array_equal(shown(train, index), fixtures.label_map(label, index, background=255))
    assert train.background is None


def test_coco_stuff_as_mmsegmentation_makes_it(tmp_path: Path) -> None:
    root = fixtures.write_coco_stuff(tmp_path / "own", values=(255, 0, 80))
    for path in root.glob("stuffthingmaps/*/*.png"):
        path.rename(path.with_name(f"{path.stem}_labelTrainIds.png"))
    train = load(coco_stuff, root)
    np.testing.assert_array_equal(shown(train, 1), fixtures.label_map(80, 1, background=255))
    assert train.classes[80] == "banner", "the first of stuff follows the 80 things"


def test_coco_stuff_refuses_what_is_no_category_and_half_of_it(tmp_path: Path) -> None:
    root = fixtures.write_coco_stuff(tmp_path / "own", values=(255, 0, 11))  # a street sign, which occurs nowhere
    with pytest.raises(DataError, match=r"label 11 is out of range; stuffthingmaps hold"):
        load(coco_stuff, root).verify(1)
    (root / "val2017").rename(root / "elsewhere")
    with pytest.raises(DataError, match="no folder val2017 with the pictures; want COCO-Stuff's layout"):
        coco_stuff.check(root, "segmentation")
    (root / "stuffthingmaps" / "val2017").rename(root / "maps")
    with pytest.raises(DataError, match="label maps of train2017 alone, those of the other split are missing"):
        coco_stuff.check(root, "segmentation")


def test_coco_panoptic_has_the_classes_of_its_segments(tmp_path: Path) -> None:
    root = fixtures.write_coco_panoptic(tmp_path / "own")
    assert coco_panoptic.check(root, "segmentation") == ""
    for _ in range(2):  # parsed, and from what was kept
        train = load(coco_panoptic, root)
        assert train.classes == ("person", "dog", "sky-other-merged")
        for index in range(4):
            expected = fixtures.label_map(index % 2, index, background=2)
            expected[0] = 255
            np.testing.assert_array_equal(shown(train, index), expected)
    assert len(list((tmp_path / "cache").glob("panoptic-*.npz"))) == 2


def test_coco_panoptic_maps_may_lie_in_the_root_and_json_may_be_old(tmp_path: Path) -> None:
    root = fixtures.write_coco_panoptic(tmp_path / "own")
    for split in ("train", "val"):
        (root / "annotations" / f"panoptic_{split}2017").rename(root / f"panoptic_{split}2017")
    assert load(coco_panoptic, root).verify(0).size == fixtures.SIZE
    (root / "panoptic_val2017").rename(root / "gone")
    with pytest.raises(DataError, match="no folder annotations/panoptic_val2017; want COCO's panoptic layout"):
        coco_panoptic.check(root, "segmentation")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"id": 7, "category_id": 1}, r"000000001000\.png: panoptic_train2017\.json lists no segment 3226956"),
        ({"id": 3226956, "category_id": 5}, r"000000001000\.png: .* a category that it does not list"),
        ({"id": 1 << 80, "category_id": 1}, r"panoptic_train2017\.json: annotation .* lacks a listed image_id"),
        ({"id": 3226956}, r"panoptic_train2017\.json: annotation .* lacks a listed image_id"),
    ],
)
def test_a_broken_panoptic_json_is_named(tmp_path: Path, change: dict[str, int], said: str) -> None:
    root = fixtures.write_coco_panoptic(tmp_path / "own")
    path = root / "annotations" / "panoptic_train2017.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["annotations"][0]["segments_info"][0] = change
    fixtures.write_json(path, content)
    with pytest.raises(DataError, match=said):
        load(coco_panoptic, root).verify(0)
