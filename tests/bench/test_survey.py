"""The look at a folder: its layout, what labels hold, all that is broken, and the run that fits."""

# The name of a test says what it shows.

import json
import os
import shlex
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from bench import catalogue, run, survey
from bench.errors import UserError
from bench.plan import matrix
from bench.plan.dataset import Roots, layouts
from bench.plan.environment import describe
from bench.store.store import Store
from tests.bench.data import fixtures

ON_DISK = [name for name, entry in catalogue.entries("data").items() if entry.facts["root"]]


def look(root: Path, **options) -> survey.Found:
    return survey.look(root, root.parent / "cache", **options)


def text_of(found: survey.Found) -> str:
    console = Console(width=200, markup=False, no_color=True)
    with console.capture() as shown:
        for part in survey.render(found):
            console.print(part, soft_wrap=True)
    return shown.get()


@pytest.mark.parametrize("name", ON_DISK)
def test_every_layout_is_recognised_and_its_command_plans(name: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path / "cache"))
    root = fixtures.WRITERS[name](tmp_path / "own")
    found = look(root)
    assert found.ok
    first = found.surveys[0]
    assert first.layout.name == name
    words = shlex.split(first.command)
    assert words[:4] == ["densebench", "run", "--dataset", f"{name}:own"]
    options = dict(zip(words[2::2], words[3::2], strict=True))
    question = matrix.load("default").override(
        {axis: [options[f"--{axis}"]] for axis in ("dataset", "head", "resolution", "recipe")}
    )
    plan = run.plan(question, describe(), Store(tmp_path / "m"), Roots([options["--data-root"]]))
    assert plan.todo
    assert not any(planned.refused for planned in plan.planned)
    text = text_of(found)
    assert f"{name}:own, for {first.layout.task}" in text
    assert "no file is broken" in text
    assert first.command in text


def test_numbers_of_boxes_are_those_of_the_files(tmp_path: Path) -> None:
    root = fixtures.write_voc(tmp_path / "own")
    (detection,) = (one for one in look(root).surveys if one.layout.task == "detection")
    assert detection.classes == ("box", "disc")
    assert detection.objects is not None
    height, width = fixtures.SIZE
    # Every rectangle is half as high and half as wide as its picture.
    np.testing.assert_allclose(detection.objects.shares, 0.25)
    np.testing.assert_allclose(detection.objects.at(224), 224 * 224 / 4)
    assert detection.objects.below(224, 32) == 0
    assert detection.objects.below(32, 32) == 1
    content = json.loads(json.dumps(survey.as_json(look(root))))
    split = next(one for one in content["layouts"] if one["task"] == "detection")["splits"]["train"]
    assert split["images"] == 4
    assert split["height"] == {"min": height, "median": height, "max": height}
    assert split["width"]["max"] == width
    assert split["classes"] == split["images_with"] == {"box": 2, "disc": 2}
    assert split["objects_per_image"] == {"min": 1, "median": 1, "max": 1}
    assert split["ignored"] == 0


def test_numbers_of_label_maps_are_those_of_the_files(tmp_path: Path) -> None:
    root = fixtures.write_camvid(tmp_path / "own")
    (one,) = look(root).surveys
    assert one.objects is not None
    x1, y1, x2, y2 = fixtures.rectangle(0)
    share = (x2 - x1) * (y2 - y1) / (36 * 48)
    # In each picture the rectangle and what is around it, without the ignored row.
    np.testing.assert_allclose(one.objects.shares, [share] * 6 + [35 / 36 - share] * 6)
    split = survey.as_json(look(root))["layouts"][0]["splits"]["train"]
    assert split["ignored_share"] == pytest.approx(1 / 36)
    assert split["images_with"]["Road"] == split["images_with"]["Car"] == 2
    assert split["classes"]["Sky"] == 0
    assert "no label of train is of 8 of these classes: Bicyclist" in text_of(look(root))


def test_areas_are_of_parts_that_share_a_side() -> None:
    mask = np.array([[0, 1, 1, 0], [2, 0, 0, 1], [2, 2, 255, 1], [0, 0, 0, 0]], np.uint8)
    assert sorted(survey.areas(mask, background=0).tolist()) == [2, 2, 3]
    assert sorted(survey.areas(mask, background=None).tolist()) == [1, 1, 2, 2, 2, 3, 4]
    assert survey.areas(np.full((3, 3), 255, np.uint8), None).size == 0


def test_of_many_label_maps_some_are_searched_and_it_says_so(tmp_path: Path, monkeypatch) -> None:
    root = fixtures.write_camvid(tmp_path / "own")
    monkeypatch.setattr(survey, "PIXELS", 36 * 48 * 3)
    (one,) = look(root).surveys
    assert one.objects is not None
    assert (one.objects.images, one.objects.total) == (3, 6)
    assert "in 3 of 6 label maps" in text_of(look(root))


def test_all_broken_files_are_listed_and_nothing_else_is_lost(tmp_path: Path) -> None:
    root = fixtures.write_voc(tmp_path / "own", train=40)
    for index in range(30):
        fixtures.truncate(root / "JPEGImages" / f"image_{index:03d}.jpg", 0.5)
    found = look(root)
    assert not found.ok
    for one in found.surveys:
        assert len(one.broken) == 30
        assert one.command.endswith("--skip-broken")
    assert text_of(found).count("cannot be read as an image") == 60
    fixtures.truncate(root / "JPEGImages" / "image_040.jpg", 0.5)
    found = look(root)
    assert not any("--skip-broken" in one.command for one in found.surveys), "never out of val"


def test_a_layout_that_cannot_be_opened_says_why(tmp_path: Path) -> None:
    root = fixtures.write_coco(tmp_path / "own")
    fixtures.truncate(root / "annotations" / "instances_train2017.json")
    found = look(root)
    assert not found.ok
    assert "cannot be opened" in text_of(found)
    content = survey.as_json(found)["layouts"]
    assert "cannot be read as JSON" in content[0]["broken"][0]


NEAR = [
    ("voc", "JPEGImages", "voc", "no folder JPEGImages"),
    ("camvid", "valannot", "camvid", "no folder valannot"),
    ("yolo", "data.yaml", "yolo", "no data.yaml"),
    ("coco", "val2017", "coco", "no folder val2017"),
    ("cityscapes", "gtFine/val", "cityscapes", "no folder gtFine/val"),
    ("ade20k", "images/validation", "ade20k", "no folder images/validation"),
    ("label_maps", "images", "label_maps", "no folder of pictures beside one of label maps (there is masks)"),
    (
        "coco_panoptic",
        "annotations/panoptic_val2017.json",
        "coco_panoptic",
        "no file annotations/panoptic_val2017.json",
    ),
]


@pytest.mark.parametrize(("name", "gone", "nearly", "said"), NEAR)
def test_what_is_nearly_a_layout_says_what_is_missing(
    tmp_path: Path, name: str, gone: str, nearly: str, said: str
) -> None:
    root = fixtures.WRITERS[name](tmp_path / "own")
    (root / gone).rename(tmp_path / "gone")
    found = look(root)
    assert not found.ok
    assert found.surveys == ()
    assert found.near[0].name == nearly
    assert said in found.near[0].missing
    text = text_of(found)
    assert "is in none of the layouts" in text
    assert f"nearly {nearly}" in text
    assert said in text


def test_a_folder_of_data_sets_names_them(tmp_path: Path) -> None:
    for name in ("voc", "yolo"):
        fixtures.WRITERS[name](tmp_path / "all" / f"my {name}")
    found = look(tmp_path / "all")
    assert {name: layout.name for name, layout in found.inner.items()} == {"my voc": "voc", "my yolo": "yolo"}
    assert f"densebench data '{tmp_path}/all/my voc'" in text_of(found)


def test_an_empty_folder_is_near_to_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "near to none" in text_of(look(tmp_path / "empty"))
    with pytest.raises(UserError, match="nowhere is no folder"):
        look(tmp_path / "nowhere")


def test_a_data_set_may_be_named(tmp_path: Path) -> None:
    root = fixtures.write_ade20k(tmp_path / "own")
    assert [one.layout.name for one in look(root, only="ade20k").surveys] == ["ade20k"]
    (near,) = look(root, only="camvid").near
    assert "want SegNet's layout" in near.missing
    with pytest.raises(UserError, match="lies in no folder"):
        look(root, only="scenes")
    with pytest.raises(UserError, match="did you mean ade20k"):
        look(root, only="ade20")


def test_the_special_comes_before_the_general(tmp_path: Path) -> None:
    root = fixtures.write_ade20k(tmp_path / "own")
    (root / "objectInfo150.txt").unlink()  # own data in folders of these names, or ADE20K: both are offered
    assert [one.name for one in layouts(root) if not one.missing] == ["ade20k", "label_maps"]


def test_names_of_label_maps_are_no_coco_json(tmp_path: Path) -> None:
    root = fixtures.write_label_maps(tmp_path / "own")
    (root / "labels.json").write_text('["background", "disc", "box"]')
    assert [one.name for one in layouts(root) if not one.missing] == ["label_maps"]


def test_pictures_that_exif_turns_are_counted(tmp_path: Path) -> None:
    root = fixtures.write_coco(tmp_path / "own")
    sideways = np.ascontiguousarray(np.rot90(fixtures.picture(1, 0)))
    fixtures.write_image(root / "train2017" / "000000001000.jpg", sideways, exif_orientation=6)
    fixtures.write_image(root / "val2017" / "000000001028.jpg", fixtures.picture(1, 4), exif_orientation=6)
    for _ in range(2):  # looked at, and from what was kept
        found = look(root)
        assert found.ok
        said = "EXIF turns 2 pictures: 1 are read upright and 1 as they are stored, as their labels are"
        assert said in text_of(found)
        splits = survey.as_json(found)["layouts"][0]["splits"]
        assert [splits[split]["turned_upright"] for split in ("train", "val")] == [1, 0]
        assert [splits[split]["left_as_stored"] for split in ("train", "val")] == [0, 1]


def test_hostile_names_are_shown_as_they_are_and_can_be_run(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path / "cache"))
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/[red]b\xff,\x1b[31m")
    root = fixtures.write_yolo(Path(odd), names='["[/b]", "\\e[31m"]')
    victim = root / "images" / "train" / "image_000.jpg"
    victim.write_bytes(b"")
    lost = os.fsdecode(os.fsencode(victim.parent) + b"/\xfe\n.jpg")
    Path(lost).write_bytes(b"")
    found = look(root)
    text = text_of(found)
    assert "\x1b" not in text
    assert "[red]b\\udcff,\\x1b[31m" in text
    assert "\\udcfe\\n.jpg: cannot be read as an image (0 bytes)" in text
    text.encode("utf-8")
    json.dumps(survey.as_json(found)).encode()
    roots = Roots([str(root)])
    name, folder = roots.resolve("yolo")
    assert folder == root
    name.encode("utf-8")
    assert found.surveys[0].command.startswith("densebench run --dataset yolo --data-root")
