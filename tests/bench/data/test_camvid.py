"""CamVid in SegNet's layout, and the reading and resizing of pictures that all data sets on disk share."""

# The name of a test says what it shows.

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.data import camvid, images
from bench.data.contract import Dataset, Split
from bench.errors import DataError, UserError
from tests.bench.data import fixtures

REAL = Path(__file__).parents[3].parent / "shared" / "data" / "camvid"


def load(root: Path, split: Split = "train") -> Dataset:
    return camvid.load("camvid", task="segmentation", root=root, cache=root / "cache", split=split)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return fixtures.write_camvid(tmp_path / "camvid")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".JPG"])
def test_pictures_are_listed_by_name_in_both_formats(tmp_path: Path, suffix: str) -> None:
    root = fixtures.write_camvid(tmp_path, suffix=suffix)
    camvid.check(root, "segmentation")
    assert (len(load(root)), len(load(root, "val"))) == (4, 2)
    for index in range(4):
        x1, y1, x2, y2 = fixtures.rectangle(index)
        sample = load(root).sample(index, fixtures.SIZE)
        inside = sample.image[y1 + 2 : y2 - 2, x1 + 2 : x2 - 2].reshape(-1, 3).astype(int)
        assert np.abs(inside - fixtures.COLOURS[1 + index % 2]).max() <= 8
        assert sample.truth.mask is not None
        assert (sample.truth.mask[y1:y2, x1:x2] == (3, 8)[index % 2]).all()


def test_truth_is_the_stored_label_map_with_unlabelled_ignored(root: Path) -> None:
    truth = load(root).truth(1)
    expected = fixtures.label_map(8, 1, background=1)
    expected[0] = 255  # the row of label 11
    assert truth.size == fixtures.SIZE
    assert truth.mask is not None
    assert truth.mask.dtype == np.uint8
    np.testing.assert_array_equal(truth.mask, expected)
    assert truth.boxes.shape == (0, 4)
    assert truth.labels.shape == truth.ignore.shape == (0,)


def test_label_255_is_ignored_too_and_there_is_no_background(root: Path) -> None:
    labels = fixtures.label_map(255, 0, background=10)
    fixtures.write_labels(root / "trainannot" / "0001TP_000000.png", labels, palette=False)
    dataset = load(root)
    mask = dataset.truth(0).mask
    assert mask is not None
    assert set(np.unique(mask)) == {10, 255}
    assert dataset.background is None
    assert dataset.classes[0] == "Sky"
    assert dataset.classes[10] == "Bicyclist"
    assert len(dataset.classes) == 11


@pytest.mark.parametrize("size", [(18, 96), (72, 24), (36, 48), (37, 41)])
def test_samples_are_stretched_with_labels_unmixed(root: Path, size: tuple[int, int]) -> None:
    sample = load(root).sample(0, size)
    mask = sample.truth.mask
    assert mask is not None
    assert sample.image.shape == (*size, 3)
    assert sample.image.dtype == np.uint8
    assert mask.shape == sample.truth.size == size
    assert set(np.unique(mask)) <= {1, 3, 255}
    x1, y1, x2, y2 = fixtures.rectangle(0)
    scale_y, scale_x = size[0] / 36, size[1] / 48
    centre_y, centre_x = int((y1 + y2) / 2 * scale_y), int((x1 + x2) / 2 * scale_x)
    assert mask[centre_y, centre_x] == 3
    assert (mask == 3).mean() == pytest.approx(0.25, abs=0.05)
    assert tuple(sample.image[centre_y, centre_x]) == fixtures.COLOURS[1]


def test_shrinking_averages_instead_of_skipping_pixels() -> None:
    stripes = np.zeros((8, 8, 3), np.uint8)
    stripes[:, ::2] = 200
    shrunk = images.resize_image(stripes, (2, 2))
    assert np.abs(shrunk.astype(int) - 100).max() <= 15


@pytest.mark.parametrize("value", [12, 31, 254])
def test_a_label_out_of_range_names_file_value_and_range(root: Path, value: int) -> None:
    path = root / "trainannot" / "0001TP_000002.png"
    fixtures.write_labels(path, fixtures.label_map(value, 2), palette=False)
    with pytest.raises(DataError, match=rf"{path.name}: label {value} is out of range.*0 to 10, 11 or 255"):
        load(root).truth(2)


def test_label_maps_may_have_a_palette_but_not_be_coloured(root: Path) -> None:
    path = root / "trainannot" / "0001TP_000000.png"
    fixtures.write_labels(path, fixtures.label_map(7, 0), palette=True)
    mask = load(root).truth(0).mask
    assert mask is not None
    np.testing.assert_array_equal(mask, fixtures.label_map(7, 0))
    fixtures.write_image(path, fixtures.picture(1, 0))
    with pytest.raises(DataError, match=r"0001TP_000000\.png: a coloured label map"):
        load(root).truth(0)


@pytest.mark.parametrize(("depth", "top"), [(1, 1), (2, 3), (4, 15), (8, 200)])
def test_grey_label_maps_of_few_bits_keep_their_indices(tmp_path: Path, depth: int, top: int) -> None:
    labels = fixtures.label_map(top, 0, background=top // 2)
    fixtures.write_grey_labels(tmp_path / "labels.png", labels, depth)
    np.testing.assert_array_equal(images.read_labels(tmp_path / "labels.png"), labels)


@pytest.mark.parametrize("folder", ["train", "trainannot", "val", "valannot"])
def test_a_missing_folder_is_named_with_the_layout(root: Path, folder: str) -> None:
    shutil.rmtree(root / folder)
    with pytest.raises(DataError, match=rf"no folder {folder}; want SegNet's layout"):
        camvid.check(root, "segmentation")


def test_lonely_pictures_and_label_maps_are_named_and_cost_no_other(root: Path) -> None:
    (root / "trainannot" / "0001TP_000001.png").unlink()
    (root / "train" / "0001TP_000002.png").unlink()
    camvid.check(root, "segmentation")
    dataset = load(root)
    assert len(dataset) == 4
    with pytest.raises(DataError, match=r"trainannot/0001TP_000001\.png: no such file"):
        dataset.verify(1)
    with pytest.raises(DataError, match=r"train/0001TP_000002\.png: no such file"):
        dataset.verify(2)
    assert dataset.verify(0).size == dataset.verify(3).size == fixtures.SIZE


def test_empty_splits_and_ambiguous_names_are_refused(root: Path) -> None:
    shutil.copy(root / "val" / "0001TP_000004.png", root / "val" / "0001TP_000004.jpg")
    with pytest.raises(DataError, match=r"0001TP_000004\.jpg and 0001TP_000004\.png share one name"):
        camvid.check(root, "segmentation")
    for folder in ("val", "valannot"):
        shutil.rmtree(root / folder)
        (root / folder).mkdir()
    with pytest.raises(DataError, match="no pictures in val"):
        camvid.check(root, "segmentation")


def test_hidden_files_are_no_pictures(root: Path) -> None:
    (root / "train" / "._0001TP_000000.png").write_bytes(b"macOS")
    (root / "train" / "Thumbs.db").write_bytes(b"Windows")
    assert len(load(root)) == 4


def test_other_tasks_and_names_are_refused(root: Path) -> None:
    with pytest.raises(DataError, match="segmentation, not detection"):
        camvid.check(root, "detection")
    with pytest.raises(UserError, match="did you mean camvid"):
        camvid.load("camvit", task="segmentation", root=root, cache=root, split="train")


def test_a_label_map_of_another_size_is_refused(root: Path) -> None:
    fixtures.write_labels(root / "trainannot" / "0001TP_000000.png", np.zeros((36, 40), np.uint8))
    with pytest.raises(DataError, match=r"0001TP_000000\.png: 48 x 36 pixels, but its labels .* are of 40 x 36"):
        load(root).sample(0, (32, 32))
    with pytest.raises(DataError, match="but its labels"):
        load(root).verify(0)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("fraction", [0.0, 0.05, 0.6])
def test_a_truncated_picture_is_named(tmp_path: Path, suffix: str, fraction: float) -> None:
    root = fixtures.write_camvid(tmp_path, suffix=suffix, size=(120, 160))
    path = root / "train" / f"0001TP_000001{suffix}"
    fixtures.truncate(path, fraction)
    with pytest.raises(DataError, match=rf"{path.name}: cannot be read as an image"):
        load(root).sample(1, (32, 32))


def test_a_picture_that_has_gone_is_named(root: Path) -> None:
    dataset = load(root)
    (root / "train" / "0001TP_000000.png").unlink()
    with pytest.raises(DataError, match=r"0001TP_000000\.png: no such file"):
        dataset.sample(0, (32, 32))


@pytest.mark.parametrize(
    ("name", "mode"), [("a.png", "L"), ("a.png", "LA"), ("a.png", "RGBA"), ("a.png", "P"), ("a.jpg", "CMYK")]
)
def test_pictures_of_any_kind_become_rgb(tmp_path: Path, name: str, mode: str) -> None:
    fixtures.write_image(tmp_path / name, fixtures.picture(1, 0), mode)
    with Image.open(tmp_path / name) as stored:
        assert stored.mode == mode
    image = images.read_image(tmp_path / name)
    assert image.shape == (*fixtures.SIZE, 3)
    assert image.dtype == np.uint8
    grey = round(0.299 * 200 + 0.587 * 40 + 0.114 * 40)
    expected = (grey,) * 3 if mode in {"L", "LA"} else fixtures.COLOURS[1]
    x1, y1, x2, y2 = fixtures.rectangle(0)
    found = image[(y1 + y2) // 2, (x1 + x2) // 2].astype(int)
    # The "web" palette that Pillow chooses has steps of 51.
    np.testing.assert_allclose(found, expected, atol=26 if mode == "P" else 6)


def test_transparency_of_palette_pictures_is_dropped_silently(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1), 0)
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "a.png", transparency=b"\x00\xff")
    np.testing.assert_array_equal(images.read_image(tmp_path / "a.png"), [[[10, 20, 30], [40, 50, 60]]])


def test_deep_grey_pictures_keep_their_upper_bits(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 0x1234, 0xFFFF]], np.uint16)).save(tmp_path / "a.png")
    np.testing.assert_array_equal(images.read_image(tmp_path / "a.png")[0, :, 0], [0, 0x12, 0xFF])


def test_a_second_epoch_decodes_nothing(root: Path) -> None:
    dataset = load(root)
    first = [dataset.sample(index, (24, 32)) for index in range(4)]
    shutil.rmtree(root)
    for index in range(4):
        again = dataset.sample(index, (24, 32))
        np.testing.assert_array_equal(again.image, first[index].image)
        assert again.truth.mask is not None
        np.testing.assert_array_equal(again.truth.mask, first[index].truth.mask)
    with pytest.raises(DataError, match="no such file"):  # another size is another sample
        dataset.sample(0, (32, 24))


def test_changing_a_sample_does_not_change_the_next(root: Path) -> None:
    dataset = load(root)
    for _ in range(3):
        sample = dataset.sample(0, (24, 32))
        assert sample.truth.mask is not None
        assert sample.image.any()
        assert (sample.truth.mask == 3).any()
        sample.image[:] = 0
        sample.truth.mask[:] = 0


def test_the_cache_keeps_what_was_used_last_within_its_bytes(root: Path) -> None:
    dataset = load(root)
    samples = [dataset.sample(index, (10, 10)) for index in range(4)]
    made: list[int] = []

    def get(cache: images.SampleCache, index: int) -> None:
        def make() -> images.Sample:
            made.append(index)
            return samples[index]

        cache.get(index, make)

    cache = images.SampleCache(limit=2 * 400)  # (10, 10, 3) and (10, 10) bytes a sample
    for index in (0, 1, 0, 2, 0, 1):
        get(cache, index)
    assert made == [0, 1, 2, 1]  # 2 drove out 1, not 0
    assert cache.used == 800
    assert len(cache) == 2
    tiny = images.SampleCache(limit=399)
    get(tiny, 3)
    assert (len(tiny), tiny.used) == (0, 0)


def test_a_data_set_travels_to_a_worker_with_an_empty_cache(root: Path) -> None:
    dataset = load(root)
    dataset.sample(0, (360, 480))
    packed = pickle.dumps(dataset)
    assert len(packed) < 10_000
    assert len(pickle.loads(packed)) == 4


@pytest.mark.skipif(not REAL.is_dir(), reason="the real CamVid is not beside the repository")
def test_the_real_images() -> None:
    camvid.check(REAL, "segmentation")
    train, val = load(REAL), load(REAL, "val")
    assert (len(train), len(val)) == (367, 101)
    seen: set[int] = set()
    for index in range(0, 367, 60):
        truth = train.truth(index)
        assert truth.size == (360, 480)
        assert truth.mask is not None
        seen |= set(np.unique(truth.mask).tolist())
    assert seen == {*range(11), 255}
    sample = train.sample(0, (180, 320))
    mask = sample.truth.mask
    assert mask is not None
    assert sample.image.shape == (180, 320, 3)
    # Sky is brighter than road; a mix-up of files or of class order would not keep that.
    assert sample.image[mask == 0].mean() > sample.image[mask == 3].mean() + 40
