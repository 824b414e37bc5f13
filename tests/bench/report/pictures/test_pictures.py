"""All kinds of pictures, from records to files."""

from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from bench.errors import UserError
from bench.report.pictures import FOLDER, draw, planned
from bench.report.rows import read
from bench.report.style import save
from bench.store.record import Record
from tests.bench.records import write
from tests.bench.report.cells import SIZES, record, scored, timed

KINDS = ("linear_grid", "linear_b1_scaling", "short_sizes", "short_class_iou", "128_b1_parts", "short_loss")


def everything() -> list[Record]:
    """Two backbones at two patch sizes and four sizes: enough for every kind."""
    found = []
    for ms, backbone in ((1.0, "vit_pico"), (2.0, "hybrid_pico")):
        for size in SIZES:
            time = ms * size**2 / 1e3
            parts = {"backbone_ms": time, "head_ms": time / 4, "post_ms": time / 8, "end_to_end_ms": 1.5 * time}
            found += [
                timed(size, time, backbone=backbone, **(parts if size == 128 else {})),
                record("memory", size, backbone=backbone, peak_mib=size),
            ]
        for patch in (8, 16):
            loss = [2.0 / (step + 1) for step in range(60)]
            given = {"backbone": backbone, "patch": patch, "miou_small": 5.0, "miou_medium": 9.0, "miou_large": 30.0}
            found += [scored(size, mean=10 * ms + patch, loss=loss, classes="a b", **given) for size in (64, 128)]
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_records_give_the_same_bytes_whatever_their_order(tmp_path: Path, kind: str) -> None:
    files = []
    for name, records in (("a", everything()), ("b", everything()[::-1])):
        tables = read(write(tmp_path / name, records)).tables
        (picture,) = [one for one in planned(tables) if one.name.endswith(kind)]
        files.append(save(picture.draw(), tmp_path / f"{name}.png"))
    first, second = files
    assert first.read_bytes().startswith(b"\x89PNG")
    assert first.read_bytes() == second.read_bytes()
    text = first.with_suffix(".svg").read_text(encoding="utf-8")
    assert text == second.with_suffix(".svg").read_text(encoding="utf-8")
    assert ET.fromstring(text).tag.endswith("svg")
    assert "dc:date" not in text
    assert "Matplotlib v" not in text


def test_every_kind_is_drawn_below_the_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.report.pictures.save", lambda _, path: path)
    folder = write(tmp_path / "r" / "box", everything())
    paths = draw(tmp_path / "r")
    assert {path.name for path in paths} == {f"segmentation_scenes_{kind}.png" for kind in KINDS}
    assert {path.parent for path in paths} == {folder / FOLDER}


def test_what_records_no_longer_give_is_removed_and_nothing_else(tmp_path: Path) -> None:
    folder = write(tmp_path / "r" / "box", [timed(64, 1.0)])
    old = [folder / FOLDER / name for name in ("segmentation_old.png", "segmentation_old.svg", "notes.txt")]
    (folder / FOLDER).mkdir()
    for path in old:
        path.write_text("old", encoding="utf-8")
    assert draw(tmp_path / "r") == []
    assert [path.exists() for path in old] == [False, False, True]


def test_where_there_is_nothing_to_draw_there_is_no_folder(tmp_path: Path) -> None:
    folder = write(tmp_path / "r" / "box", [timed(64, 1.0), scored(64)])
    assert draw(tmp_path / "r") == []
    assert not (folder / FOLDER).exists()


def test_pictures_of_one_name_are_told_apart(tmp_path: Path) -> None:
    records = [
        timed(128, 1.0, backbone_ms=1.0, head_ms=1.0, post_ms=1.0, backbone=name, threads=threads)
        for name in ("a", "b")
        for threads in (1, 2)
    ]
    tables = read(write(tmp_path / "box", records)).tables
    assert [picture.name for picture in planned(tables)] == [
        "segmentation_scenes_128_b1_parts",
        "segmentation_scenes_128_b1_parts_2",
    ]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    folder = write(tmp_path / "r" / "box", everything())
    (folder / FOLDER).write_text("a file", encoding="utf-8")
    with pytest.raises(UserError, match="figures cannot be written"):
        draw(tmp_path / "r")
