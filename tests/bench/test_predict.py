"""Overlays of what a kept model sees, and the list of kept models, as a user asks for them."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from bench import cli
from bench.errors import UserError
from bench.model import build, kept
from bench.plan import models
from bench.plan.case import resolve
from bench.plan.cell import Cell
from bench.plan.measure import MODEL
from bench.predict import Photograph, predict
from bench.training.pictures import palette
from bench.training.predict import predictions
from tests.bench.records import CELL, make, write

SMALL = Cell(**{**CELL, "recipe": "smoke", "height": 64, "width": 64})


def keep(folder, **fields):
    case = resolve(replace(SMALL, **fields), cache=folder / "cache")
    return kept.keep(build.of_case(case), case, folder / "results" / "box" / models.FOLDER)


@pytest.fixture
def pictures(tmp_path):
    dice = np.random.default_rng(0)
    paths = []
    for name, size in (("wide", (50, 90)), ("tall", (120, 40))):
        paths.append(tmp_path / f"{name}.png")
        Image.fromarray(dice.integers(0, 256, (*size, 3), np.uint8)).save(paths[-1])
    return paths


@pytest.fixture
def call(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(*words):
        done = CliRunner().invoke(cli.app, [str(word) for word in words])
        if isinstance(done.exception, UserError):
            raise done.exception
        return done.exit_code, done.output

    return run


@pytest.mark.parametrize("changes", ["", "+pipeline=2+meet=letterbox", "+pipeline=2+meet=crop+windows=0.5"])
def test_an_overlay_shows_what_evaluation_would_find(tmp_path, pictures, changes):
    torch.manual_seed(0)
    case = resolve(replace(SMALL, recipe=f"smoke{changes}"), cache=tmp_path / "cache")
    digest = kept.keep(build.of_case(case), case, tmp_path / "models")
    one = models.opened(tmp_path / "models" / f"{digest}.safetensors")
    for seen in predict(one, pictures, tmp_path / "out"):
        data = Photograph(seen.image, one)
        ((_, truths, (found,)),) = predictions(kept.of(one), data, one.recipe, size=(64, 64), count=1)
        height, width = truths[0].size
        assert (height, width) == data.image.shape[:2]
        sheet = np.asarray(Image.open(seen.overlay)).astype(int)[:height, :width]
        colours, classes = np.array(palette(len(one.classes), one.background)), found.numpy()
        clear = classes == one.background
        assert (sheet[clear] == data.image[clear]).all()
        assert not clear.all()
        wanted = 0.45 * data.image + 0.55 * colours[classes]
        assert np.abs(sheet - wanted)[~clear].max() < 3
        assert "%" in seen.words


def test_a_picture_that_cannot_be_read_stops_no_other(tmp_path, pictures, call):
    digest = keep(tmp_path, head="fcos_pico")
    (tmp_path / "broken.png").write_text("no picture")
    code, text = call("predict", "--cell", digest[:6], "broken.png", "none.png", *pictures, pictures[0])
    assert code == 1
    assert "broken.png: cannot be read as an image" in text
    assert "2 of 5 pictures could not be read" in text
    assert sorted(path.name for path in (tmp_path / "predictions").iterdir()) == ["tall.png", "wide-2.png", "wide.png"]
    code, text = call("predict", "--cell", f"results/box/models/{digest}.safetensors", "--out", "there", pictures[0])
    assert code == 0
    assert (tmp_path / "there" / "wide.png").is_file()


def test_a_model_that_is_not_there_is_named(call, pictures):
    with pytest.raises(UserError, match="no kept model begins with abcdef"):
        call("predict", "--cell", "abcdef", pictures[0])


def test_kept_models_are_listed_with_their_accuracy_and_removed_on_request(tmp_path, call):
    assert "no kept models in results" in call("models")[1]
    first, second = keep(tmp_path), keep(tmp_path, head="fcos_pico", recipe="short")
    folder = tmp_path / "results" / "box"
    write(folder, [make("accuracy", miou=12.345, **{MODEL: first})])
    (folder / models.FOLDER / f"{'a' * 16}.safetensors").write_bytes(b"broken")
    found = {line["digest"]: line for line in json.loads(call("models", "--json")[1])}
    assert found.keys() == {first, second, "a" * 16}
    assert found[first]["accuracy"] == "mIoU 12.3 %"
    assert found[second]["accuracy"] == ""
    assert "fcos_pico 64x64 scenes, recipe short" in found[second]["what"]
    assert "cannot be read" in found["a" * 16]["what"]

    def there():
        return {path.stem for path in (folder / models.FOLDER).iterdir()}

    for words in (("--prune", first), ("--prune-all",)):
        assert "nothing was removed: add --yes" in call("models", *words)[1]
        assert len(there()) == 3
    call("models", "--prune", f"{'a' * 6},{first[:6]}", "--yes")
    assert there() == {second}
    call("models", "--prune-all", "--keep", second, "--yes")
    assert there() == {second}
    call("models", "--prune-all", "--yes")
    assert there() == set()
    for words, message in (
        (("--prune", "abcdef"), "no kept model begins with 'abcdef'"),
        (("--keep", "abcdef"), "--keep goes with --prune-all"),
        (("--prune", "abcdef", "--prune-all"), "give one of them"),
    ):
        with pytest.raises(UserError, match=message):
            call("models", *words)
