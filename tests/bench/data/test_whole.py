"""The picture in its own shape, for whoever cuts and zooms: of every data set the same promise."""

from pathlib import Path

import numpy as np
import pytest

from bench.data import camvid, coco, images, scenes, voc
from bench.data._subset import Without
from bench.data.contract import Dataset
from tests.bench.data import fixtures

SETS = ("camvid", "voc segmentation", "voc detection", "coco")


def load(name: str, folder: Path) -> Dataset:
    options = {"cache": folder / "cache", "split": "train"}
    if name == "camvid":
        root = fixtures.write_camvid(folder / "data", suffix=".jpg")
        return camvid.load("camvid", task="segmentation", root=root, **options)
    if name == "coco":
        return coco.load("coco", task="detection", root=fixtures.write_coco(folder / "data"), masks=True, **options)
    return voc.load("voc", task=name.split()[1], root=fixtures.write_voc(folder / "data"), **options)


@pytest.mark.parametrize("name", SETS)
def test_it_is_the_sample_at_the_size_of_the_truth(name: str, tmp_path: Path) -> None:
    data = load(name, tmp_path)
    for index in range(len(data)):
        truth = data.truth(index)
        whole, sample = data.whole(index, truth.size), data.sample(index, truth.size)
        np.testing.assert_array_equal(whole.image, sample.image)
        for field, value in vars(truth).items():
            np.testing.assert_array_equal(getattr(whole.truth, field), value)
        default = Dataset.whole(data, index, truth.size)
        np.testing.assert_array_equal(default.image, whole.image)


@pytest.mark.parametrize("name", SETS)
def test_of_a_large_picture_a_smaller_copy_is_enough(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = load(name, tmp_path)
    height, width = data.truth(0).size
    small = data.whole(0, (height // 4, width // 4))
    assert small.image.shape == (height // 4, width // 4, 3)
    assert small.truth.size == (height, width), "labels stay as they are"
    full = data.whole(0, (height, width)).image.astype(float)
    mean = full.reshape(height // 4, 4, width // 4, 4, 3).mean((1, 3))
    assert np.abs(mean - small.image).mean() < 3
    monkeypatch.setattr(images.Image, "open", None)
    assert data.whole(0, (height // 4, width // 4)) is small, "it is decoded once"


def test_a_scene_is_drawn_as_large_as_it_is_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scenes.Rendering, "LARGEST", 0)
    data = scenes.load("scenes", task="segmentation", root=None, cache=tmp_path, split="val")
    whole = data.whole(3, (30, 48))
    assert whole.image.shape == (48, 48, 3)
    np.testing.assert_array_equal(whole.image, data.sample(3, (48, 48)).image)
    assert whole.truth.size == (48, 48)
    assert data.flips == ("horizontal", "vertical")


def test_a_data_set_without_some_images_is_the_same_in_all_else(tmp_path: Path) -> None:
    data = load("camvid", tmp_path)
    data.flips = ("horizontal", "vertical")
    left = Without(data, [str(data.files(0)[0])])
    assert (len(left), left.flips) == (len(data) - 1, data.flips)
    assert left.whole(0, (9, 12)) is data.whole(1, (9, 12))
    promised = {name for name, value in vars(Dataset).items() if callable(value)}
    assert promised <= vars(Without).keys() | {"__annotate__"}, "what the contract promises is passed on"
