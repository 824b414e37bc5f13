"""Pascal VOC's layout: boxes, label maps, class names, and what is missing or broken in people's copies."""

# The name of a test says what it shows.

import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

from bench.data import voc
from bench.data.contract import Dataset, Split, Task
from bench.data.examine import examine
from bench.errors import DataError, UserError
from tests.bench.data import fixtures
from tests.bench.data.fixtures import Thing

REAL = Path(__file__).parents[3].parent / "shared" / "data" / "bccd"


def load(root: Path, task: Task, split: Split = "train") -> Dataset:
    return voc.load("voc", task=task, root=root, cache=root.parent / "cache", split=split)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return fixtures.write_voc(tmp_path / "own")


def annotate(root: Path, *things: Thing, index: int = 0, size: tuple[int, int] = fixtures.SIZE) -> Path:
    path = root / "Annotations" / f"image_{index:03d}.xml"
    fixtures.write_annotation(path, things, size=size)
    return path


def test_boxes_are_where_the_rectangles_are(root: Path) -> None:
    voc.check(root, "detection")
    splits: tuple[tuple[Split, int, int], ...] = (("train", 0, 4), ("val", 4, 2))
    for split, first, count in splits:
        dataset = load(root, "detection", split)
        assert len(dataset) == count
        assert dataset.classes == ("box", "disc")  # sorted, whichever the files name first
        assert dataset.background is None
        for index in range(count):
            truth = dataset.truth(index)
            assert truth.mask is None
            assert truth.size == fixtures.SIZE
            np.testing.assert_array_equal(truth.boxes, [fixtures.rectangle(first + index)])
            assert dataset.classes[truth.labels[0]] == ("disc", "box")[(first + index) % 2]


def test_one_based_inclusive_becomes_zero_based_half_open(root: Path) -> None:
    # Worked by hand: columns 1..48 of 48 are [0, 48); column 5 to 6 is two pixels, [4, 6).
    annotate(root, Thing("disc", (1, 1, 48, 36)), Thing("disc", (5, 7, 6, 9)), Thing("box", (10.5, 20.25, 12, 30.75)))
    truth = load(root, "detection").truth(0)
    expected = [[0, 0, 48, 36], [4, 6, 6, 9], [9.5, 19.25, 12, 30.75]]
    np.testing.assert_array_equal(truth.boxes, np.array(expected, np.float32))
    assert truth.boxes.dtype == np.float32
    assert truth.labels.dtype == np.int64
    assert truth.labels.tolist() == [1, 1, 0]
    assert truth.ignore.tolist() == [False, False, False]


def test_boxes_are_clipped_to_the_picture(root: Path) -> None:
    annotate(root, Thing("disc", (0, 0, 20, 49)), Thing("disc", (40, 30, 49, 37)))
    np.testing.assert_array_equal(load(root, "detection").truth(0).boxes, [[0, 0, 20, 36], [39, 29, 48, 36]])


def test_difficult_objects_and_boxes_without_extent_are_ignored_not_dropped(root: Path) -> None:
    things = [
        Thing("disc", (2, 2, 9, 9), difficult=True),
        Thing("disc", (2, 2, 9, 9)),
        Thing("box", (30, 20, 30, 20)),
        Thing("box", (30, 20, 40, 20)),
    ]
    annotate(root, *things)
    truth = load(root, "detection").truth(0)
    assert truth.ignore.tolist() == [True, False, True, True]
    assert truth.ignore.dtype == np.bool_
    np.testing.assert_array_equal(truth.boxes[2:], [[29, 19, 30, 20], [29, 19, 40, 20]])


def test_parts_are_no_objects(root: Path) -> None:
    part = Thing("head", (12, 12, 14, 14))
    annotate(root, Thing("disc", (10, 10, 20, 20), parts=(part, part)))
    dataset = load(root, "detection")
    assert dataset.classes == ("box", "disc")
    np.testing.assert_array_equal(dataset.truth(0).boxes, [[9, 9, 20, 20]])


def test_a_picture_without_objects_has_no_boxes(root: Path) -> None:
    annotate(root)
    truth = load(root, "detection").truth(0)
    assert truth.boxes.shape == (0, 4)
    assert truth.labels.shape == truth.ignore.shape == (0,)


@pytest.mark.parametrize(
    ("corners", "text"),
    [
        ((20, 5, 10, 9), "the box 20, 5, 10, 9 of object 'disc' is inverted"),
        ((10, 9, 20, 5), "is inverted"),
        (("nan", 5, 10, 9), "is inverted"),
        (("?", 5, 10, 9), "has no bndbox with the numbers"),
        (("", 5, 10, 9), "has no bndbox with the numbers"),
        ((100, 5, 120, 9), "lies outside the picture of 48 x 36 pixels"),
    ],
)
def test_broken_boxes_name_file_and_object(
    root: Path, corners: tuple[float | str, float, float, float], text: str
) -> None:
    path = annotate(root, Thing("disc", corners))
    with pytest.raises(DataError) as caught:
        load(root, "detection").truth(0)
    assert str(caught.value).startswith(str(path))
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("told", "fits"),
    [((36, 48), True), ((0, 0), True), ((35, 49), True), ((48, 36), True), ((72, 96), False), ((360, 480), False)],
)
def test_the_pictures_own_size_counts_unless_the_scale_is_another(
    root: Path, told: tuple[int, int], *, fits: bool
) -> None:
    path = annotate(root, Thing("disc", (5, 5, 20, 20)), size=told)
    dataset = load(root, "detection")
    if fits:
        assert dataset.truth(0).size == (36, 48)
    else:
        with pytest.raises(DataError, match=rf"{path.name}: made for a picture of {told[1]} x {told[0]} pixels"):
            dataset.truth(0)


def test_boxes_of_a_picture_that_was_turned_are_refused(root: Path) -> None:
    annotate(root, Thing("disc", (5, 5, 20, 46)), size=(48, 36))  # y to 46 in a picture that is stored 36 high
    with pytest.raises(DataError, match="made for a picture of 36 x 48 pixels"):
        load(root, "detection").truth(0)


@pytest.mark.parametrize("size", [(72, 24), (18, 96)])
def test_samples_scale_boxes_with_the_picture(root: Path, size: tuple[int, int]) -> None:
    annotate(root, Thing("disc", (5, 7, 16, 18)))  # [4, 16) x [6, 18)
    sample = load(root, "detection").sample(0, size)
    assert sample.image.shape == (*size, 3)
    assert sample.truth.size == size
    assert sample.truth.mask is None
    expected = [2, 12, 8, 36] if size == (72, 24) else [8, 3, 32, 9]
    np.testing.assert_allclose(sample.truth.boxes, [expected])
    assert sample.truth.boxes.dtype == np.float32


@pytest.mark.parametrize(("name", "mode"), [("image_000.jpg", "L"), ("image_000.png", "RGBA")])
def test_grey_and_transparent_pictures_are_rgb(root: Path, name: str, mode: str) -> None:
    (root / "JPEGImages" / "image_000.jpg").unlink()
    fixtures.write_image(root / "JPEGImages" / name, fixtures.picture(1, 0), mode)
    assert load(root, "detection").sample(0, fixtures.SIZE).image.shape == (36, 48, 3)


def test_a_truncated_picture_is_named(root: Path) -> None:
    fixtures.truncate(root / "JPEGImages" / "image_001.jpg", 0.7)
    with pytest.raises(DataError, match=r"image_001\.jpg: cannot be read as an image"):
        load(root, "detection").sample(1, (32, 32))


def test_images_come_in_the_order_of_the_list(root: Path) -> None:
    fixtures.write_list(root / "ImageSets" / "Main" / "train.txt", ["image_002", "image_000", "image_003"])
    dataset = load(root, "detection")
    boxes = [dataset.truth(index).boxes[0].tolist() for index in range(len(dataset))]
    assert boxes == [list(fixtures.rectangle(index)) for index in (2, 0, 3)]


def test_lists_may_come_from_windows_and_names_may_have_spaces(root: Path) -> None:
    for folder, suffix in (("JPEGImages", ".jpg"), ("Annotations", ".xml")):
        (root / folder / f"image_000{suffix}").rename(root / folder / f"my image 1{suffix}")
    listing = root / "ImageSets" / "Main" / "train.txt"
    listing.write_bytes(b"\xef\xbb\xbfmy image 1\r\nimage_001\r\n\r\n")
    voc.check(root, "detection")
    assert len(load(root, "detection")) == 2


@pytest.mark.parametrize("column", ["  1", " -1", " 0", "\t1"])
def test_a_second_column_is_not_part_of_the_name(root: Path, column: str) -> None:
    for task in ("Main", "Segmentation"):
        names = [f"image_{index:03d}{column if index else '  1'}" for index in range(4)]
        fixtures.write_list(root / "ImageSets" / task / "train.txt", names)
    assert voc.check(root, "detection") == voc.check(root, "segmentation") == ""
    assert [path.stem for path in pictures(load(root, "detection"))] == [f"image_{index:03d}" for index in range(4)]
    assert len(load(root, "segmentation")) == 4


def test_a_name_that_ends_in_a_number_is_a_name(root: Path) -> None:
    for folder, suffix in (("JPEGImages", ".jpg"), ("Annotations", ".xml")):
        (root / folder / f"image_000{suffix}").rename(root / folder / f"image 1{suffix}")
    fixtures.write_list(root / "ImageSets" / "Main" / "train.txt", ["image 1", "image_001", "image_002.jpg"])
    assert [path.stem for path in pictures(load(root, "detection"))] == ["image 1", "image_001", "image_002"]


def pictures(dataset: Dataset) -> list[Path]:
    return [dataset.files(index)[0] for index in range(len(dataset))]


@pytest.mark.parametrize("kept", ["default", "trainval", "train", "folder"])
def test_one_list_or_folder_alone_is_split_and_said(tmp_path: Path, kept: str) -> None:
    root = fixtures.write_voc(tmp_path / "own", train=16, val=4)
    names = [f"image_{index:03d}" for index in range(20)]
    shutil.rmtree(root / "ImageSets")
    if kept != "folder":
        for task in ("Main", "Segmentation"):
            fixtures.write_list(root / "ImageSets" / task / f"{kept}.txt", names)
    what = "the pictures in JPEGImages and Annotations" if kept == "folder" else f"the list ImageSets/Main/{kept}.txt"
    assert voc.check(root, "detection") == f"val is 20 % of {what}, by a hash of the names (seed 0)"
    train, val = pictures(load(root, "detection")), pictures(load(root, "detection", "val"))
    assert sorted(path.stem for path in train + val) == names
    assert val
    assert {path.stem for path in pictures(load(root, "segmentation", "val"))} == {path.stem for path in val}


@pytest.mark.parametrize("given", ["train", "val"])
def test_the_rest_of_trainval_is_the_other_list(root: Path, given: str) -> None:
    names = [f"image_{index:03d}" for index in range(6)]
    (root / "ImageSets" / "Main" / ("val.txt" if given == "train" else "train.txt")).unlink()
    fixtures.write_list(root / "ImageSets" / "Main" / "trainval.txt", names)
    assert voc.check(root, "detection") == ""
    assert [path.stem for path in pictures(load(root, "detection"))] == names[:4]
    assert [path.stem for path in pictures(load(root, "detection", "val"))] == names[4:]


def test_a_name_that_no_file_can_have_is_a_missing_file(root: Path, tmp_path: Path) -> None:
    fixtures.write_list(root / "ImageSets" / "Main" / "val.txt", ["image_004", "image\0005"])
    found = examine(load(root, "detection", "val"), tmp_path / "cache")
    assert (len(found.seen), len(found.broken)) == (1, 1)


def test_a_picture_in_both_lists_is_refused(root: Path) -> None:
    fixtures.write_list(root / "ImageSets" / "Main" / "val.txt", ["image_000", "image_004"])
    with pytest.raises(DataError, match=r"Main: 1 images are in train and in val \(image_000\)"):
        voc.check(root, "detection")


def test_an_image_listed_twice_is_refused(root: Path) -> None:
    fixtures.write_list(root / "ImageSets" / "Main" / "val.txt", ["image_004", "image_005", "image_004"])
    with pytest.raises(DataError, match=r"val\.txt: lists 1 images more than once \(image_004\)"):
        voc.check(root, "detection")


def test_a_missing_or_empty_list_is_named(root: Path) -> None:
    (root / "ImageSets" / "Segmentation" / "val.txt").write_text("\n")
    with pytest.raises(DataError, match=r"Segmentation/val\.txt: lists no image; want Pascal VOC"):
        voc.check(root, "segmentation")
    (root / "ImageSets" / "Segmentation" / "train.txt").unlink()
    (root / "ImageSets" / "Segmentation" / "val.txt").write_text("image_001\n")
    with pytest.raises(DataError, match=r"Segmentation: no list train\.txt; want Pascal VOC"):
        voc.check(root, "segmentation")
    voc.check(root, "detection")


@pytest.mark.parametrize(
    ("task", "folder", "suffix"),
    [
        ("detection", "JPEGImages", ".jpg"),
        ("detection", "Annotations", ".xml"),
        ("segmentation", "SegmentationClass", ".png"),
    ],
)
def test_listed_images_without_files_are_named_and_cost_no_other(
    root: Path, task: Task, folder: str, suffix: str
) -> None:
    for index in (0, 2):
        (root / folder / f"image_{index:03d}{suffix}").unlink()
    voc.check(root, task)
    dataset = load(root, task)
    for index in (0, 2):
        with pytest.raises(DataError, match=rf"{folder}/image_00{index}{suffix}: no such file"):
            dataset.verify(index)
    assert dataset.verify(1).size == dataset.verify(3).size == fixtures.SIZE
    for index in (1, 3):
        (root / folder / f"image_{index:03d}{suffix}").unlink()
    with pytest.raises(DataError, match=r"not one of the 4 images of train \(image_000, .* want Pascal VOC"):
        voc.check(root, task)


def test_segmentation_without_label_maps_says_so(root: Path) -> None:
    shutil.rmtree(root / "SegmentationClass")
    with pytest.raises(DataError, match=r"no folder SegmentationClass, which segmentation needs.*there is Annotations"):
        voc.check(root, "segmentation")
    voc.check(root, "detection")


def test_a_root_that_is_not_voc_shows_the_layout(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no folder JPEGImages.*want Pascal VOC's layout for detection"):
        voc.check(tmp_path, "detection")
    with pytest.raises(DataError, match="no such folder"):
        voc.check(tmp_path / "nothing", "detection")
    with pytest.raises(UserError, match="unknown task"):
        voc.check(tmp_path, "pose")
    with pytest.raises(UserError, match="unknown data set 'vic'"):
        voc.load("vic", task="detection", root=tmp_path, cache=tmp_path, split="train")


@pytest.mark.parametrize("below", ["VOC2012", "VOCdevkit/VOC2012"])
def test_the_root_may_be_above_the_year(tmp_path: Path, below: str) -> None:
    fixtures.write_voc(tmp_path / below)
    voc.check(tmp_path, "segmentation")
    assert len(load(tmp_path, "detection")) == 4


def test_several_years_are_listed(tmp_path: Path) -> None:
    for year in ("VOC2007", "VOC2012"):
        fixtures.write_voc(tmp_path / "VOCdevkit" / year)
    with pytest.raises(DataError, match=r"several VOC folders; give one.*VOC2007.*VOC2012"):
        voc.check(tmp_path, "detection")


def test_vocs_own_names_keep_vocs_order(tmp_path: Path) -> None:
    root = fixtures.write_voc(tmp_path / "own", classes=("tvmonitor", "cat"))
    dataset = load(root, "detection")
    assert dataset.classes == voc.CLASSES
    assert len(dataset.classes) == 20
    assert [int(dataset.truth(index).labels[0]) for index in range(2)] == [19, 7]


def test_names_of_both_splits_count_whichever_is_loaded(root: Path) -> None:
    annotate(root, Thing("arc", (2, 2, 9, 9)), index=5)
    assert load(root, "detection").classes == load(root, "detection", "val").classes == ("arc", "box", "disc")


def test_names_are_remembered_until_an_annotation_changes(root: Path, tmp_path: Path) -> None:
    assert load(root, "detection").classes == ("box", "disc")
    kept = list((tmp_path / "cache").iterdir())
    assert [path.suffix for path in kept] == [".json"]
    kept[0].write_text('["from the cache"]')
    assert load(root, "detection").classes == ("from the cache",)
    kept[0].write_text("[broken")
    assert load(root, "detection").classes == ("box", "disc")
    path = root / "Annotations" / "image_001.xml"
    before = path.stat()
    path.write_text(path.read_text().replace("<name>box<", "<name>arc<"))  # as many bytes as before
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert load(root, "detection").classes == ("arc", "box", "disc")


def test_a_cache_that_cannot_be_written_does_no_harm(root: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    dataset = voc.load("voc", task="detection", root=root, cache=tmp_path / "file" / "cache", split="train")
    assert dataset.classes == ("box", "disc")


@pytest.mark.parametrize("content", ["<annotation>", "", "<annotation><object><bndbox/></object></annotation>"])
def test_a_broken_annotation_is_named_and_costs_no_other(root: Path, content: str) -> None:
    (root / "Annotations" / "image_004.xml").write_text(content)
    dataset = load(root, "detection", "val")
    assert dataset.classes == ("box", "disc")
    for look in (dataset.truth, dataset.verify):
        with pytest.raises(DataError, match=r"image_004\.xml: (cannot be read as XML|an object without a name)"):
            look(0)
    assert len(dataset.verify(1).boxes) == 1


def test_a_strange_difficult_is_refused(root: Path) -> None:
    path = annotate(root, Thing("disc", (2, 2, 9, 9)))
    path.write_text(path.read_text().replace("<difficult>0<", "<difficult>maybe<"))
    with pytest.raises(DataError, match="difficult=maybe"):
        load(root, "detection").verify(0)


def test_annotations_without_any_object_are_refused(tmp_path: Path) -> None:
    root = fixtures.write_voc(tmp_path / "own", train=1, val=1)
    annotate(root)
    annotate(root, index=1)
    with pytest.raises(DataError, match="not one of the 2 listed annotations has an object"):
        load(root, "detection")


def test_label_maps_are_read_as_indices_not_colours(root: Path) -> None:
    voc.check(root, "segmentation")
    dataset = load(root, "segmentation")
    assert dataset.classes == ("background", "class_1", "class_2")
    assert dataset.background == 0
    for index in range(4):
        expected = fixtures.label_map(1 + index % 2, index)
        expected[0] = 255
        truth = dataset.truth(index)
        assert truth.size == fixtures.SIZE
        assert truth.boxes.shape == (0, 4)
        assert truth.mask is not None
        np.testing.assert_array_equal(truth.mask, expected)
    sample = dataset.sample(1, (72, 24))
    assert sample.image.shape == (72, 24, 3)
    assert sample.truth.mask is not None
    assert sample.truth.mask.shape == (72, 24)
    assert set(np.unique(sample.truth.mask)) == {0, 2, 255}


def test_a_label_that_no_train_map_has_is_out_of_range(root: Path) -> None:
    path = root / "SegmentationClass" / "image_004.png"
    fixtures.write_labels(path, fixtures.label_map(3, 4))
    with pytest.raises(DataError, match=rf"{path.name}: label 3 is out of range.*labels are 0 to 2.*labelmap\.txt"):
        load(root, "segmentation", "val").truth(0)


def test_label_maps_of_background_only_are_refused(root: Path) -> None:
    for index in range(4):
        fixtures.write_labels(root / "SegmentationClass" / f"image_{index:03d}.png", np.zeros((36, 48), np.uint8))
    with pytest.raises(DataError, match="background only"):
        load(root, "segmentation")


def test_labelmap_names_the_classes_and_decodes_coloured_maps(tmp_path: Path) -> None:
    root = fixtures.write_voc(tmp_path / "own", labelmap=True)
    path = root / "SegmentationClass" / "image_000.png"
    fixtures.write_image(path, fixtures.picture(2, 0))
    dataset = load(root, "segmentation")
    assert dataset.classes == ("background", "disc", "box")
    coloured, plain = dataset.truth(0).mask, dataset.truth(1).mask
    assert coloured is not None
    assert plain is not None
    np.testing.assert_array_equal(coloured, fixtures.label_map(2, 0))
    assert set(np.unique(plain)) == {0, 2, 255}
    stained = fixtures.picture(2, 0)
    stained[0], stained[1] = voc.BORDER, (9, 8, 7)
    fixtures.write_image(path, stained)
    with pytest.raises(DataError, match=r"image_000\.png: colour 9,8,7 is the colour of no class"):
        dataset.truth(0)
    stained[1] = voc.BORDER
    fixtures.write_image(path, stained)
    bordered = dataset.truth(0).mask
    assert bordered is not None
    assert (bordered[:2] == 255).all()


def test_coloured_maps_without_a_labelmap_are_refused(root: Path) -> None:
    fixtures.write_image(root / "SegmentationClass" / "image_001.png", fixtures.picture(2, 0))
    dataset = load(root, "segmentation")
    with pytest.raises(DataError, match=r"image_001\.png: a coloured label map"):
        dataset.verify(1)
    for index in range(4):
        fixtures.write_image(root / "SegmentationClass" / f"image_{index:03d}.png", fixtures.picture(2, 0))
    with pytest.raises(DataError, match=r"image_000\.png: a coloured label map"):
        load(root, "segmentation")


@pytest.mark.parametrize(
    ("text", "classes", "background"),
    [
        ("sky:1,2,3::\n_background_:0,0,0::\n", ("sky", "_background_"), 1),
        ("# comment\n\nsky\nsea:::\n", ("sky", "sea"), None),
        ("background:0,0,0::\ncat:64,0,0::\nignored:224,224,192::\n", ("background", "cat"), 0),
    ],
)
def test_labelmaps_as_people_write_them(
    root: Path, text: str, classes: tuple[str, ...], background: int | None
) -> None:
    (root / "labelmap.txt").write_text(text)
    dataset = load(root, "segmentation")
    assert dataset.classes == classes
    assert dataset.background == background


@pytest.mark.parametrize("line", ["cat:red::", ":1,2,3::", "dog:1,2::", "background:9,9,9::"])
def test_a_bad_labelmap_line_is_named_before_anything_runs(root: Path, line: str) -> None:
    (root / "labelmap.txt").write_text(f"background:0,0,0::\n{line}\n")
    with pytest.raises(DataError, match=r"labelmap\.txt: line 2"):
        voc.check(root, "segmentation")


def test_voc_itself_is_known_by_its_annotations_or_by_all_its_names(tmp_path: Path) -> None:
    genuine = fixtures.write_voc(tmp_path / "a", source="PASCAL VOC2012")
    assert load(genuine, "segmentation").classes == ("background", *voc.CLASSES)
    borrowed = fixtures.write_voc(tmp_path / "VOC2007")  # own data where training code insists on the name
    assert load(borrowed, "segmentation").classes == ("background", "class_1", "class_2")
    masks_only = fixtures.write_voc(tmp_path / "b" / "VOC2012", train=1, val=1)
    shutil.rmtree(masks_only / "Annotations")
    assert len(load(masks_only, "segmentation").classes) == 2
    for index in range(2):
        for folder, suffix in (("JPEGImages", ".jpg"), ("SegmentationClass", ".png")):
            source = masks_only / folder / f"image_{index:03d}{suffix}"
            source.rename(source.with_name(f"2007_00000{index}{suffix}"))
    for index, split in enumerate(("train", "val")):
        fixtures.write_list(masks_only / "ImageSets" / "Segmentation" / f"{split}.txt", [f"2007_00000{index}"])
    assert load(masks_only, "segmentation").classes == ("background", *voc.CLASSES)


def test_a_second_epoch_decodes_nothing_and_workers_get_a_small_copy(root: Path) -> None:
    dataset = load(root, "detection")
    first = [dataset.sample(index, (64, 64)) for index in range(4)]
    assert len(pickle.dumps(dataset)) < 10_000
    shutil.rmtree(root)
    for index in range(4):
        again = dataset.sample(index, (64, 64))
        np.testing.assert_array_equal(again.image, first[index].image)
        np.testing.assert_array_equal(again.truth.boxes, first[index].truth.boxes)


@pytest.mark.skipif(not REAL.is_dir(), reason="the real BCCD is not beside the repository")
def test_the_real_images(tmp_path: Path) -> None:
    voc.check(REAL, "detection")
    train, val = (
        voc.load("voc", task="detection", root=REAL, cache=tmp_path, split=split) for split in ("train", "val")
    )
    assert (len(train), len(val)) == (205, 87)
    assert train.classes == val.classes == ("Platelets", "RBC", "WBC")
    first = val.truth(0)  # BloodImage_00000: a white cell at 260, 177 to 491, 376 in VOC's count, then a red one
    assert first.size == (480, 640)
    np.testing.assert_array_equal(first.boxes[:2], [[259, 176, 491, 376], [77, 335, 184, 435]])
    assert first.labels[:2].tolist() == [2, 1]
    sample = val.sample(0, (240, 640))
    assert sample.image.shape == (240, 640, 3)
    np.testing.assert_array_equal(sample.truth.boxes[0], [259, 88, 491, 188])
    truths = [dataset.truth(index) for dataset in (train, val) for index in range(len(dataset))]
    clicks = [box.tolist() for truth in truths for box in truth.boxes[truth.ignore]]
    assert clicks == [[180, 328, 181, 329], [503, 336, 504, 337]]  # one pixel each: slips, not cells
    with pytest.raises(DataError, match="no folder SegmentationClass"):
        voc.check(REAL, "segmentation")
