"""A training from end to end: what is recorded follows from what is kept of every image."""

import errno
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch

from backbones.contract import Unsupported
from bench import catalogue
from bench.errors import UserError
from bench.measures import accuracy
from bench.plan.case import resolve
from bench.plan.cell import Cell
from bench.plan.measure import IMAGES, IMAGES_LOST, MODEL, MODEL_LOST, RESUMED, TEACHER, TRAINED, Context, Outcome
from bench.plan.recipe import Recipe, Teacher
from bench.stats.overlap import Overlaps
from bench.stats.precision import Detections
from bench.store import images, states
from tests.bench.records import CELL

Measured = Callable[..., Outcome]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images are drawn once for all tests."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def measured(cache: Path) -> Measured:
    """Train with the smoke recipe, images kept in a folder."""
    small = Cell(**{**CELL, "recipe": "smoke", "height": 64, "width": 64})

    def run(folder: Path | None, *, report=lambda *_: None, models=None, state=None, **fields: object) -> Outcome:
        cell = replace(small, **fields)
        case = resolve(cell, cache=cache)
        return accuracy.measure(cell, Context(report, 1, case, images=folder, models=models, state=state))

    return run


@pytest.mark.parametrize(
    ("head", "kind", "some"),
    [
        ("linear", Overlaps, {"miou", "foreground_miou", "pixel_accuracy", "miou_large", "boundary_miou", "class_iou"}),
        ("fcos_pico", Detections, {"ap", "ap50", "ap75", "ap_small", "ar_1", "ar_10", "ar_100", "class_ap"}),
        pytest.param(
            "mask_rcnn_pico",
            Detections,
            {"ap", "mask_ap", "mask_ap_large", "mask_ar_100"},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_the_recorded_figures_follow_from_the_images(measured, tmp_path, head, kind, some) -> None:
    values = dict(measured(tmp_path / "images", head=head).values)
    arrays = images.read(tmp_path / "images", str(values[IMAGES]))
    assert arrays is not None
    kept = kind.from_arrays(arrays)
    assert len(kept.images) == 16, "as many as the recipe asks for"
    # Which of a pair is found is counted beside the images: they keep hits and misses, not what was taken for what.
    beside = {IMAGES, TRAINED, "train_s", "data_wait_pct", "pair_accuracy"}
    assert accuracy.figures(kept) == {name: value for name, value in values.items() if name not in beside}
    assert 0 < values["data_wait_pct"] < 100
    assert some <= values.keys()
    assert not any(name.startswith("coco") for name in values), "scenes state no areas"
    weights = np.ones((1, 16), np.uint8)
    for name, value in values.items():
        found = kept.figure(name, weights)
        assert found is None or np.isnan(found[0]) or found[0] == value


def test_images_that_cannot_be_kept_cost_no_accuracy(measured, tmp_path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    values = measured(blocked).values
    assert isinstance(values["miou"], float)
    assert IMAGES not in values
    assert str(values[IMAGES_LOST]).startswith(f"{blocked} cannot be written to (")


def same(one: Outcome, other: Outcome) -> bool:
    """Losses and figures bit by bit, times apart."""
    apart = {"train_s", "data_wait_pct", RESUMED}
    first, second = (
        {name: value for name, value in found.values.items() if name not in apart} for found in (one, other)
    )
    return first == second and one.samples == other.samples


@pytest.mark.parametrize("recipe", ["smoke", "smoke+freeze=true+pipeline=2"])
@pytest.mark.parametrize("head", ["linear", "fcos_pico"])
def test_a_cell_that_was_cut_off_ends_with_the_same_figures(measured, tmp_path, monkeypatch, head, recipe) -> None:
    def cut(stage, step, *_):
        if (stage, step) == ("training", 5):
            raise KeyboardInterrupt

    monkeypatch.setenv(states.VARIABLE, "1e-9")
    wanted = measured(tmp_path / "images", head=head, recipe=recipe)
    state = tmp_path / "training" / "a.state"
    with pytest.raises(KeyboardInterrupt):
        measured(tmp_path / "images", head=head, recipe=recipe, state=state, report=cut)
    found = measured(tmp_path / "images", head=head, recipe=recipe, state=state)
    assert 1 <= found.values[RESUMED] <= 5
    assert same(found, wanted)
    assert RESUMED not in wanted.values


@pytest.mark.slow
def test_a_cell_whose_process_was_killed_ends_with_the_same_figures(measured, cache, tmp_path, monkeypatch) -> None:
    script = """
        import os, signal, sys
        from dataclasses import replace
        from pathlib import Path
        from bench.measures import accuracy
        from bench.plan.case import resolve
        from bench.plan.cell import Cell
        from bench.plan.measure import Context
        from tests.bench.records import CELL

        def report(stage, step, *_):
            if (stage, step) == ("training", 4):
                os.kill(os.getpid(), signal.SIGKILL)

        cache, state = map(Path, sys.argv[1:])
        cell = Cell(**{**CELL, "recipe": "smoke", "height": 64, "width": 64})
        accuracy.measure(cell, Context(report, 1, resolve(cell, cache=cache), state=state))
    """
    monkeypatch.setenv(states.VARIABLE, "1e-9")
    wanted = measured(tmp_path / "images")
    command = [sys.executable, "-c", textwrap.dedent(script), str(cache), str(tmp_path / "a.state")]
    env = {**os.environ, "PYTHONPATH": str(catalogue.ROOT)}
    assert subprocess.run(command, env=env, check=False).returncode == -signal.SIGKILL
    found = measured(tmp_path / "images", state=tmp_path / "a.state")
    assert 1 <= found.values[RESUMED] <= 4
    assert same(found, wanted)


def test_a_model_that_cannot_be_kept_costs_no_accuracy(measured, tmp_path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    values = measured(None, models=blocked).values
    assert isinstance(values["miou"], float)
    assert MODEL not in values
    assert str(values[MODEL_LOST]).startswith(f"{blocked} cannot be written to (")


@pytest.mark.parametrize("how", ["no folder", "too long a name", "a full disk"])
def test_a_picture_that_cannot_be_written_costs_no_accuracy(cache, tmp_path, monkeypatch, how) -> None:
    folder = tmp_path / "pictures"
    if how == "no folder":
        folder.write_text("a file")
    elif how == "too long a name":
        monkeypatch.setattr(accuracy.pictures, "name", lambda fields: "a" * 300 + ".png")
    else:
        monkeypatch.setattr(accuracy, "draw", mock.Mock(side_effect=OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))))
    cell = Cell(**{**CELL, "recipe": "smoke", "height": 64, "width": 64})
    said: list[str] = []
    context = Context(lambda *_: None, 1, resolve(cell, cache=cache), folder, say=said.append)
    values = accuracy.measure(cell, context).values
    assert isinstance(values["miou"], float)
    assert len(said) == 1
    assert said[0].startswith(f"prediction pictures cannot be written to {folder} (")


@pytest.fixture
def taught(tmp_path: Path) -> Callable[..., Outcome]:
    """Train by a recipe whose teacher is a small model of scenes; what is kept lies below the folder of results."""
    numbers = {"steps": 2, "batch": 2, "lr": 1e-3, "val_images": 4, "pipeline": 2}
    teacher = Teacher(backbone="vit_pico", head="linear", resolution="64x64", recipe="smoke")
    small = Cell(**{**CELL, "height": 64, "width": 64, "patch": 16, "backbone": "vit_pico", "head": "linear"})
    folder = tmp_path / "results" / "m"

    def run(**changes: object) -> Outcome:
        fields = {"recipe": "smoke"} if changes.get("keep") else {"recipe": "mine@1"}
        cell = replace(small, **fields, **{name: value for name, value in changes.items() if name == "head"})
        stated = (
            None if changes.get("keep") else Recipe(**numbers, teacher=teacher, teacher_share=changes.get("share", 0.5))
        )
        case = resolve(cell, cache=tmp_path / "cache", stated=stated)
        models = folder / "models" if changes.get("keep") else None
        return accuracy.measure(cell, Context(lambda *_: None, 1, case, pictures=folder / "pictures", models=models))

    return run


def test_a_teacher_is_found_among_the_kept_models_and_noted(taught, monkeypatch, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"Train it first: densebench run --keep-models .*--backbone vit_pico"):
        taught()
    assert TEACHER not in taught(share=0.0).values, "without a say it is not asked for"
    digest = taught(keep=True).values[MODEL]
    alone, with_teacher = taught(share=0.0), taught(share=1.0)
    assert with_teacher.values[TEACHER] == digest
    assert with_teacher.samples["loss"] != alone.samples["loss"]
    with pytest.raises(Unsupported, match="predicts detection"):
        taught(head="fcos_pico")


def test_kept_features_are_of_what_made_them(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An edited backbone finds none of what it was before."""
    case = resolve(Cell(**{**CELL, "recipe": "smoke", "height": 64, "width": 64}), cache=cache)
    data = case.split("train")
    keys = []
    for digest in ("before", "after"):
        monkeypatch.setattr("bench.plan.source.digest", lambda _, digest=digest: digest)
        keys.append(accuracy.frozen_key(case, data, "train"))
    differing = {name for name in keys[0] if keys[0][name] != keys[1][name]}
    assert differing == {"backbone"}
    assert keys[1]["backbone"] == "vit_pico revision 1, source after"


def test_a_training_that_would_not_come_out_the_same_says_so():
    assert accuracy.unrepeatable(torch.device("cpu")) == {}
    (said,) = accuracy.unrepeatable(torch.device("cuda", 1)).values()
    assert said.startswith("on cuda sums are added up in another order each time")
