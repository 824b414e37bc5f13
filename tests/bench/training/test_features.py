"""Kept features train and evaluate as the images do, and the backbone sees each image once."""

import numpy as np
import pytest
import torch

import bench
from bench.plan.recipe import Recipe
from bench.store.features import FeatureStore
from bench.training.features import FeatureSource, cacheable
from bench.training.loader import batches
from bench.training.predict import predictions
from bench.training.train import train
from tests.bench.training.data import Halves, Pair

CPU = torch.device("cpu")
SIZE = (32, 64)


def recipe(**changes):
    numbers = {"steps": 8, "batch": 4, "lr": 1e-2, "freeze": True, "meet": "letterbox", "flip": True}
    return Recipe(**{**numbers, **changes})


def model(backbone="vit_pico", head="linear"):
    torch.manual_seed(0)
    return bench.build(backbone, head, size=SIZE, classes=2)


def source_of(net, data, folder, limit=1 << 30, **key):
    return FeatureSource(net, data, {"test": "this", **key}, FeatureStore(folder, limit))


def fit(net, data, plan, source=None, *, workers=0, seed=0):
    told = {"size": SIZE, "dtype": torch.float32, "device": CPU, "seed": seed, "report": lambda *_: None}
    return train(net, data, plan, **told, workers=workers, source=source).losses


def data_for(head):
    return Pair(masks=False) if head == "fcos_pico" else Halves()


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("backbone", "head"), [("vit_pico", "linear"), ("swin_pico", "upernet_pico"), ("hybrid_pico", "fcos_pico")]
)
def test_losses_are_those_of_the_frozen_backbone_itself(tmp_path, backbone, head, workers):
    plan, data = recipe(flip_vertical=True), data_for(head)
    wanted = fit(model(backbone, head), data, plan)
    net = model(backbone, head)
    source = source_of(net, data, tmp_path)
    assert fit(net, data, plan, source, workers=workers) == pytest.approx(wanted, abs=1e-5)
    assert 6 <= source.computed <= 6 * 4, "six images in four mirrored forms at most"
    source.close()
    again = source_of(net := model(backbone, head), data, tmp_path)
    assert fit(net, data, plan, again, workers=workers) == pytest.approx(wanted, abs=1e-5)
    assert again.computed == 0, "nothing is computed twice"
    again.close()


def test_what_is_not_kept_is_computed_every_time(tmp_path):
    wanted = fit(model(), Halves(), recipe())
    net = model()
    source = source_of(net, Halves(), tmp_path, limit=10)
    assert fit(net, Halves(), recipe(), source) == pytest.approx(wanted, abs=1e-5)
    assert source.computed == 8 * 4


def test_levels_with_and_without_norms_are_kept_apart(tmp_path):
    plan = recipe()
    wanted = fit(model("swin_pico", "dpt_pico"), Halves(), plan)
    raw = model("swin_pico", "dpt_pico")
    raw.backbone.norms = None
    for net in (raw, model("swin_pico", "dpt_pico")):
        source = source_of(net, Halves(), tmp_path)
        losses = fit(net, Halves(), plan, source)
        source.close()
    assert losses == pytest.approx(wanted, abs=1e-5)


def test_heads_share_the_levels_that_they_have_in_common(tmp_path):
    plan = recipe()
    for head, expected in (("upernet_pico", True), ("linear", False)):
        net = model("vit_pico", head)
        source = source_of(net, Halves(), tmp_path)
        fit(net, Halves(), plan, source)
        source.close()
        assert (source.computed > 0) == expected, head


def test_another_key_has_other_features(tmp_path):
    for weights in ("a", "b"):
        net = model()
        source = source_of(net, Halves(), tmp_path, weights=weights)
        fit(net, Halves(), recipe(), source)
        assert source.computed > 0
        source.close()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_evaluation_from_what_is_kept_finds_the_same(tmp_path, dtype):
    net = model().eval().to(dtype)
    told = {"size": SIZE, "count": 6}
    wanted = [found for _, _, found in predictions(net, Halves(), recipe(), **told)]
    for computed in (6, 0):
        source = source_of(net, Halves(), tmp_path)
        found = [one for _, _, one in predictions(net, Halves(), recipe(), **told, source=source)]
        assert all(torch.equal(left, right) for left, right in zip(found, wanted, strict=True))
        assert source.computed == computed
        source.close()


def test_two_processes_meet_in_the_middle(tmp_path):
    plan, data = recipe(), Halves()
    one, two = source_of(model(), data, tmp_path), source_of(model(), data, tmp_path)
    one._open(24)
    two._open(24)
    assert (one._rows[0].first, two._rows[0].first) == (True, False)
    two.prepare(plan, size=SIZE, seed=0)
    one.prepare(plan, size=SIZE, seed=0)
    assert two.computed > 0
    assert one.computed == 0


@pytest.mark.parametrize(
    ("changes", "head", "kept"),
    [
        ({}, "linear", True),
        ({"meet": "stretch"}, "linear", True),
        ({"freeze": False}, "linear", False),
        ({"scale": (0.5, 1.0)}, "linear", False),
        ({"meet": "crop"}, "linear", False),
        ({"jitter": 0.1}, "linear", False),
        ({"erase": 0.1}, "linear", False),
        ({}, "eomt_pico", False),
    ],
)
def test_what_is_drawn_for_an_image_cannot_be_kept(changes, head, kept):
    assert cacheable(recipe(**changes), model("vit_pico", head)) == kept


def test_kept_features_are_those_of_the_mirrored_image(tmp_path):
    """A batch of mirrored pictures, from the disk: what the backbone makes of them, and labels that go with it."""
    plan, net = recipe(steps=3, flip_vertical=True), model()
    net.eval()
    source = source_of(net, Halves(), tmp_path)
    source.prepare(plan, size=SIZE, seed=5)
    told = {"size": SIZE, "seed": 5, "workers": 0}
    images = batches(Halves(), plan, device=CPU, mean=net.backbone.mean, **told)
    for (kept, mask), (image, wanted) in zip(source.batches(plan, **told), images, strict=True):
        assert torch.equal(mask, wanted)
        with torch.no_grad():
            for left, right in zip(kept, net.features(image), strict=True):
                np.testing.assert_allclose(left, right, atol=1e-5)


def test_shapes_that_were_lost_are_found_again_without_the_backbone(tmp_path):
    plan, data = recipe(), Halves()
    source = source_of(net := model(), data, tmp_path)
    fit(net, data, plan, source)
    source.close()
    (shapes,) = [path.parent for path in tmp_path.glob("*/index.json") if '"level": "shape"' in path.read_text()]
    (shapes / "rows.bin").write_bytes(b"")
    for _ in range(2):
        again = source_of(net := model(), data, tmp_path)
        fit(net, data, plan, again)
        assert again.computed == 0
        again.close()
