"""Which way up a picture is read: as its labels were made."""

# The name of a test says what it shows.

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from bench.data import camvid, coco, images, label_maps, voc, yolo
from bench.data.contract import Dataset
from bench.errors import DataError
from tests.bench.data import fixtures
from tests.bench.data.fixtures import Thing

TURNS: dict[int, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    2: np.fliplr,
    3: lambda image: np.rot90(image, 2),
    4: np.flipud,
    5: lambda image: np.transpose(image, (1, 0, 2)),
    6: lambda image: np.rot90(image, -1),
    7: lambda image: np.rot90(np.transpose(image, (1, 0, 2)), 2),
    8: lambda image: np.rot90(image, 1),
}
"""EXIF orientation -> what turns the stored pixels upright, from the EXIF standard."""


def store(path: Path, upright: NDArray[np.uint8], orientation: int) -> None:
    """Write a picture so that it is upright when it is turned as its EXIF says."""
    inverse = {6: 8, 8: 6}.get(orientation, orientation)
    fixtures.write_image(path, np.ascontiguousarray(TURNS[inverse](upright)), exif_orientation=orientation)


def wrong(dataset: Dataset, index: int, expected: NDArray[np.uint8]) -> float:
    """How far a sample at its own size is from the picture that is expected."""
    image = dataset.sample(index, dataset.truth(index).size).image
    assert image.shape == expected.shape
    return float(np.abs(image.astype(int) - expected).mean())


@pytest.mark.parametrize("orientation", TURNS)
def test_all_orientations_are_turned_upright_or_left(tmp_path: Path, orientation: int) -> None:
    shown = fixtures.picture(1, 0)
    store(tmp_path / "a.png", shown, orientation)
    np.testing.assert_array_equal(images.read_image(tmp_path / "a.png", lambda header: True), shown)
    header = images.read_header(tmp_path / "a.png")
    assert (header.orientation, header.upright) == (orientation, fixtures.SIZE)
    with Image.open(tmp_path / "a.png") as stored:
        np.testing.assert_array_equal(images.read_image(tmp_path / "a.png"), np.array(stored))


def coco_of(root: Path) -> Dataset:
    return coco.load("coco", task="detection", root=root, cache=root.parent / "cache", split="train", masks=True)


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_coco_turns_a_picture_whose_json_has_the_upright_size(tmp_path: Path, orientation: int) -> None:
    root = fixtures.write_coco(tmp_path / "own")
    store(root / "train2017" / "000000001000.jpg", fixtures.picture(1, 0), orientation)
    dataset = coco_of(root)
    assert wrong(dataset, 0, fixtures.picture(1, 0)) < 3
    assert wrong(dataset, 1, fixtures.picture(2, 1)) < 3
    np.testing.assert_array_equal(dataset.verify(0).boxes, [fixtures.rectangle(0)])


def test_coco_leaves_a_picture_whose_json_has_the_stored_size(tmp_path: Path) -> None:
    root = fixtures.write_coco(tmp_path / "own")
    fixtures.write_image(root / "train2017" / "000000001000.jpg", fixtures.picture(1, 0), exif_orientation=6)
    dataset = coco_of(root)
    assert wrong(dataset, 0, fixtures.picture(1, 0)) < 3
    assert dataset.verify(0).size == fixtures.SIZE


def test_a_size_that_fits_neither_frame_is_refused(tmp_path: Path) -> None:
    root = fixtures.write_coco(tmp_path / "own")
    fixtures.write_image(root / "train2017" / "000000001000.jpg", fixtures.picture(1, 0, (20, 48)), exif_orientation=6)
    for look in (lambda: coco_of(root).verify(0), lambda: coco_of(root).sample(0, (8, 8))):
        with pytest.raises(DataError, match=r"1000\.jpg: 48 x 20 pixels, but its labels .* are of 48 x 36"):
            look()


@pytest.mark.parametrize("others", [6, 1])
def test_where_the_size_does_not_tell_the_others_decide(tmp_path: Path, others: int) -> None:
    """Upside down: turned if those on their side were labelled upright, else left as it is stored."""
    root = fixtures.write_coco(tmp_path / "own")
    stored = np.ascontiguousarray(np.rot90(fixtures.picture(1, 0), 2))
    fixtures.write_image(root / "train2017" / "000000001000.jpg", stored, exif_orientation=3)
    if others == 6:
        store(root / "train2017" / "000000001007.jpg", fixtures.picture(2, 1), 6)
    expected = fixtures.picture(1, 0) if others == 6 else stored
    assert wrong(coco_of(root), 0, expected) < 3


def test_pictures_that_contradict_each_other_leave_the_rest_as_stored(tmp_path: Path) -> None:
    root = fixtures.write_coco(tmp_path / "own")
    stored = np.ascontiguousarray(np.rot90(fixtures.picture(1, 0), 2))
    fixtures.write_image(root / "train2017" / "000000001000.jpg", stored, exif_orientation=3)
    store(root / "train2017" / "000000001007.jpg", fixtures.picture(2, 1), 6)
    fixtures.write_image(root / "train2017" / "000000001014.jpg", fixtures.picture(1, 2), exif_orientation=6)
    assert wrong(coco_of(root), 0, stored) < 3


def voc_of(root: Path) -> Dataset:
    return voc.load("voc", task="detection", root=root, cache=root.parent / "cache", split="train")


@pytest.mark.parametrize("told", [fixtures.SIZE, (0, 0)])
def test_voc_turns_a_picture_whose_boxes_fit_upright(tmp_path: Path, told: tuple[int, int]) -> None:
    root = fixtures.write_voc(tmp_path / "own")
    store(root / "JPEGImages" / "image_000.jpg", fixtures.picture(1, 0), 6)
    reaching = Thing("disc", (2, 2, 47, 30))  # to column 47 of a picture that is stored 36 wide
    fixtures.write_annotation(root / "Annotations" / "image_000.xml", [reaching], size=told)
    dataset = voc_of(root)
    assert wrong(dataset, 0, fixtures.picture(1, 0)) < 3
    np.testing.assert_array_equal(dataset.verify(0).boxes, [[1, 1, 47, 30]])


@pytest.mark.parametrize(("told", "upright"), [((48, 36), True), ((36, 48), False)])
def test_voc_takes_the_frame_of_its_xml_where_the_boxes_fit_both(
    tmp_path: Path, told: tuple[int, int], *, upright: bool
) -> None:
    root = fixtures.write_voc(tmp_path / "own")
    fixtures.write_image(root / "JPEGImages" / "image_000.jpg", fixtures.picture(1, 0), exif_orientation=6)
    fixtures.write_annotation(root / "Annotations" / "image_000.xml", [Thing("disc", (5, 5, 20, 20))], size=told)
    assert voc_of(root).truth(0).size == ((48, 36) if upright else (36, 48))
    assert voc_of(root).sample(0, told).image.shape == (*told, 3)


def test_boxes_that_fit_the_stored_picture_alone_keep_it(tmp_path: Path) -> None:
    """Whatever the size in the XML, which tools that turn a picture swap in some exports."""
    root = fixtures.write_voc(tmp_path / "own")
    fixtures.write_image(root / "JPEGImages" / "image_000.jpg", fixtures.picture(1, 0), exif_orientation=6)
    fixtures.write_annotation(root / "Annotations" / "image_000.xml", [Thing("disc", (5, 5, 46, 20))], size=(48, 36))
    assert voc_of(root).truth(0).size == (36, 48)


def test_label_maps_decide_by_their_size(tmp_path: Path) -> None:
    root = fixtures.write_label_maps(tmp_path / "own")
    store(root / "images" / "train" / "image_000.jpg", fixtures.picture(1, 0), 8)
    fixtures.write_image(root / "images" / "train" / "image_001.jpg", fixtures.picture(2, 1), exif_orientation=8)
    dataset = label_maps.load("label_maps", task="segmentation", root=root, cache=root.parent / "cache", split="train")
    assert wrong(dataset, 0, fixtures.picture(1, 0)) < 3
    assert wrong(dataset, 1, fixtures.picture(2, 1)) < 3
    assert dataset.verify(0).size == dataset.verify(1).size == fixtures.SIZE


@pytest.mark.parametrize("orientation", [3, 6])
def test_yolo_is_upright_always(tmp_path: Path, orientation: int) -> None:
    root = fixtures.write_yolo(tmp_path / "own")
    store(root / "images" / "train" / "image_000.jpg", fixtures.picture(1, 0), orientation)
    dataset = yolo.load("yolo", task="detection", root=root, cache=root.parent / "cache", split="train")
    assert wrong(dataset, 0, fixtures.picture(1, 0)) < 3
    np.testing.assert_allclose(dataset.verify(0).boxes, [fixtures.rectangle(0)], atol=1e-3)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # Pillow's, when it opens the file
@pytest.mark.parametrize(
    "exif",
    [
        b"",
        b"II",
        b"II*\0\xff\xff\xff\xff",
        b"MM\0*\0\0\0\x08\xff\xff",
        b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x63\0",
    ],
)
def test_broken_exif_says_nothing(tmp_path: Path, exif: bytes) -> None:
    Image.fromarray(fixtures.picture(1, 0)).save(tmp_path / "a.jpg", exif=b"Exif\0\0" + exif)
    assert images.read_header(tmp_path / "a.jpg") == images.Header(fixtures.SIZE)
    assert images.read_image(tmp_path / "a.jpg", lambda header: True).shape == (36, 48, 3)


def test_a_whole_file_is_told_from_one_that_is_cut_off_without_decoding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[str] = []
    load = Image.Image.load
    monkeypatch.setattr(Image.Image, "load", lambda self: (decoded.append("x"), load(self))[1])
    for name in ("a.jpg", "a.png"):
        fixtures.write_image(tmp_path / name, fixtures.picture(1, 0, (120, 160)))
        decoded.clear()
        assert images.read_header(tmp_path / name, whole=True).size == (120, 160)
        assert not decoded
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content + b"a camera's own data")
        assert images.read_header(tmp_path / name, whole=True).size == (120, 160)
        (tmp_path / name).write_bytes(content[: len(content) * 2 // 3])
        with pytest.raises(DataError, match=rf"{name}: cannot be read as an image"):
            images.read_header(tmp_path / name, whole=True)


def claiming(height: int, width: int) -> bytes:
    """A PNG of a few bytes whose header claims to be so large."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rest = chunk(b"IDAT", zlib.compress(b"\0" * 10)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + rest


@pytest.mark.parametrize("side", [13_378, 100_000, 2**31 - 1])
@pytest.mark.parametrize("place", [0, 1])
def test_a_picture_or_label_map_that_would_fill_the_memory_is_named_and_not_decoded(
    tmp_path: Path, side: int, place: int
) -> None:
    root = fixtures.write_camvid(tmp_path / "camvid")
    opened = camvid.load("camvid", task="segmentation", root=root, cache=tmp_path / "cache", split="train")
    opened.files(0)[place].write_bytes(claiming(side, side))
    for look in (lambda: opened.verify(0), lambda: opened.sample(0, (32, 32)), lambda: opened.whole(0, (32, 32))):
        with pytest.raises(DataError, match=rf"000000.png: {side} x {side} pixels are more than 179 million"):
            look()


def test_a_large_picture_is_no_bomb_and_warns_of_nothing(tmp_path: Path) -> None:
    """12000 x 12000 pixels, of which Pillow warns by its own choice: warnings are errors here."""
    path = tmp_path / "mosaic.png"
    path.write_bytes(claiming(12_000, 12_000))
    with pytest.raises(DataError, match="truncated"):
        images.read_image(path)
