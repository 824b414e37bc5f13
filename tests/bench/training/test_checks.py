"""Looks at a model in the course of its training, and the scenes that they are made on."""

import time

import numpy as np
import pytest
import torch

import bench
from bench.data import scenes
from bench.errors import UserError
from bench.plan import recipe
from bench.plan.dataset import Roots
from bench.plan.recipe import Recipe
from bench.training.checks import Checks, PairAccuracy, pair_accuracy
from bench.training.train import train

LIGHT, DARK = 7, 8


def test_the_right_one_of_a_pair_is_counted_where_either_is_found():
    truth = np.array([[LIGHT] * 4, [DARK] * 4, [0] * 4])
    pair = PairAccuracy((LIGHT, DARK))
    pair.add(truth, np.array([[LIGHT, LIGHT, LIGHT, DARK], [DARK, DARK, LIGHT, 0], [LIGHT] * 4]))
    assert pair.result() == pytest.approx(100 * (3 / 4 + 2 / 3) / 2)


def test_whoever_always_says_the_same_guesses():
    truth = np.array([[LIGHT] * 6, [DARK] * 6])
    pair = PairAccuracy((LIGHT, DARK))
    pair.add(truth, np.full_like(truth, LIGHT))
    assert pair.result() == 50


def test_a_pair_that_is_hardly_found_has_no_accuracy():
    truth = np.array([[LIGHT] * 6, [DARK] * 6])
    pair = PairAccuracy((LIGHT, DARK))
    pair.add(truth, np.array([[LIGHT] + [0] * 5, [DARK] + [0] * 5]))
    assert pair.result() is None


@pytest.mark.parametrize("distance", [0.05, 0.5])
def test_twins_of_a_variant_lie_at_their_distance_from_the_mark(distance):
    world = scenes.variant(f"distance={distance}")
    gaps, light = [], []
    for index in range(40):
        described = scenes.describe("val", index, world)
        twins = [thing for thing in described.scene.things if thing.label >= LIGHT]
        assert twins, "every scene has some"
        assert described.cue is not None
        assert {thing.label for thing in twins} == {LIGHT if described.cue.light else DARK}
        light.append(described.cue.light)
        for thing in twins:
            x0, y0, x1, y1 = thing.extent
            apart = np.hypot((x0 + x1) / 2 - described.cue.x, (y0 + y1) / 2 - described.cue.y)
            gaps.append(apart - np.hypot(x1 - x0, y1 - y0) / 2 - world.cue / np.sqrt(2))
    assert distance <= min(gaps)
    assert max(gaps) <= distance + 0.1
    assert 8 < sum(light) < 32


def test_a_variant_has_files_of_its_own_and_the_scenes_keep_theirs(tmp_path):
    plain, near = (
        scenes.load("scenes", task="segmentation", root=None, cache=tmp_path, split="val", instance=one)
        for one in ("", "distance=0.05")
    )
    assert (plain.sample(0, (32, 32)).image != near.sample(0, (32, 32)).image).any()
    names = sorted(path.name for path in tmp_path.glob("*.bin"))
    assert [("distance" in name) for name in names] == [False, True]
    assert (near.truth(3).mask == np.asarray(near.sample(3, scenes.TRUTH_SIZE).truth.mask)).all()


@pytest.mark.parametrize("name", ["scenes:distance=2", "scenes:far", "scenes:distance=", "scenes:distance=0.30"])
def test_what_is_no_variant_is_refused(name):
    with pytest.raises(UserError, match=r"distance=D|variant"):
        Roots().resolve(name)


def test_training_ends_when_the_pair_is_told_apart(tmp_path, monkeypatch):
    plan = Recipe(steps=12, batch=2, lr=1e-3, check_every=4, until=90, val_images=2)
    data, val = (
        scenes.load("scenes", task="segmentation", root=None, cache=tmp_path, split=split, instance="distance=0.1")
        for split in ("train", "val")
    )
    looks = iter([None, 95.0])

    def look(*_, **__):
        torch.rand(7)  # whatever a look draws
        time.sleep(0.2)
        return next(looks)

    monkeypatch.setattr("bench.training.checks.pair_accuracy", look)
    monkeypatch.setattr(scenes.Rendering, "LARGEST", 0)  # two thousand scenes are not needed
    torch.manual_seed(0)
    model = bench.build("cnn_pico", "linear", size=(32, 32), classes=len(data.classes))
    checks = Checks(val, plan, size=(32, 32))
    options = {"size": (32, 32), "dtype": torch.float32, "device": torch.device("cpu"), "seed": 0}
    began = time.perf_counter()
    trained = train(model, data, plan, report=lambda *_: None, checks=checks, **options)
    assert trained.seconds <= time.perf_counter() - began - 0.4, "looks are no training"
    assert len(trained.losses) == 8
    assert (checks.seen, checks.solved) == ([(4, None), (8, 95.0)], 8)
    assert model.training, "a look leaves it as it was"
    again = Checks(val, plan, size=(32, 32))
    again.load_state_dict(checks.state_dict())
    assert again.solved == 8


def test_a_look_leaves_the_generators_as_they_were(tmp_path, monkeypatch):
    val = scenes.load("scenes", task="segmentation", root=None, cache=tmp_path, split="val", instance="distance=0.1")
    plan = Recipe(steps=3, batch=1, lr=1e-3, check_every=2, val_images=2)
    model = bench.build("cnn_pico", "linear", size=(32, 32), classes=len(val.classes))
    checks = Checks(val, plan, size=(32, 32))
    monkeypatch.setattr("bench.training.checks.pair_accuracy", lambda *_, **__: float(torch.rand(1)))
    before = torch.random.get_rng_state()
    assert checks.enough(model, 2) is False, "without a limit it goes on"
    assert (torch.random.get_rng_state() == before).all()
    assert [step for step in (1, 2, 3) if checks.due(step)] == [2, 3], "after the last step, too"


def test_pair_accuracy_of_a_model_is_what_its_labels_say(tmp_path, monkeypatch):
    monkeypatch.setattr(scenes.Rendering, "LARGEST", 0)
    val = scenes.load("scenes", task="segmentation", root=None, cache=tmp_path, split="val", instance="distance=0.1")
    model = bench.build("cnn_pico", "linear", size=(32, 32), classes=len(val.classes)).eval()
    with torch.no_grad():
        for one in model.head.classifiers:
            one.weight.zero_()
        model.head.classifiers[0].bias.copy_(torch.eye(len(val.classes))[LIGHT])
    plan = Recipe(steps=1, batch=1, lr=1e-3, check_every=1, val_images=12)
    assert pair_accuracy(model, val, plan, size=(32, 32)) == 50, "it takes everything for one of them"


def test_until_without_looks_is_refused():
    with pytest.raises(ValueError, match="check_every"):
        Recipe(steps=1, batch=1, lr=1, until=90)
    with pytest.raises(ValueError, match="ema"):
        Recipe(steps=1, batch=1, lr=1, check_every=1, ema=0.9)
    assert recipe.load("context", "segmentation").check_every == 50


def test_the_receptive_field_of_the_small_cnn_is_what_its_file_says():
    body = bench.build("cnn_pico", "linear", size=(256, 256), classes=2).backbone.eval()
    for module in body.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.constant_(module.weight, 0.01)  # nothing cancels, so whatever is seen has a gradient
    image = torch.rand(1, 3, 256, 256, requires_grad=True)
    body(image)[-1][0, :, 8, 8].sum().backward()
    assert image.grad is not None
    seen = image.grad.abs().sum((0, 1)).nonzero()
    assert (seen.amax(0) - seen.amin(0) + 1).tolist() == [95, 95]
