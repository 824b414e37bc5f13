"""Whatever is in the catalogue keeps its contract: a new file is tested by being there."""

import re
from functools import cache

import pytest
import torch

import bench
from backbones.contract import Backbone, Unsupported
from bench import catalogue
from heads.contract import Boxes

BACKBONES = list(catalogue.entries("backbones"))
HEADS = list(catalogue.entries("heads"))
PICO = [name for name in BACKBONES if name.endswith("_pico")]
CLASSES = 5
# The same code as the published sizes of a head, quick enough to run for real.
LIGHT = [name for name in HEADS if name.endswith("_pico") or f"{name}_pico" not in HEADS]


def backbone(name, *, patch=None, size=(128, 128), attention="auto"):
    entry = catalogue.get("backbones", name)
    return entry.load().build(name, patch=patch or entry.facts["patch"], size=size, attention=attention)


@cache
def form(name):
    """Levels and divisor of a backbone at its native patch size."""
    with torch.device("meta"):
        body = backbone(name)
    return body.levels, body.divisor


def target(task, batch, size, *, empty=False):
    height, width = size
    if task == "segmentation":
        generator = torch.Generator().manual_seed(1)
        mask = torch.randint(0, CLASSES, (batch, height, width), generator=generator)
        return torch.full_like(mask, 255) if empty else mask
    xyxy = torch.tensor([[2.0, 3.0, width - 5.0, height - 4.0], [1.0, 1.0, 17.0, 18.0]])
    one = Boxes(xyxy=xyxy, labels=torch.tensor([1, CLASSES - 1]), ignore=torch.zeros(2, dtype=torch.bool))
    none = Boxes(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), ignore=torch.zeros(0, dtype=torch.bool))
    return [none if empty else one for _ in range(batch)]


@pytest.mark.parametrize("name", BACKBONES)
def test_backbone_gives_the_maps_that_its_levels_state(name):
    """On the meta device, at the native patch size, at a size that is not square."""
    entry = catalogue.get("backbones", name)
    _, divisor = form(name)
    with torch.device("meta"):
        height, width = 3 * divisor, 5 * divisor
        body = backbone(name, size=(height, width))
        maps = body(torch.empty(2, 3, height, width))
    assert isinstance(body, Backbone)
    assert body.size == (height, width)
    strides = [level.stride for level in body.levels]
    assert strides == sorted(strides), "finest first"
    wanted = [(2, level.channels, height // level.stride, width // level.stride) for level in body.levels]
    assert [tuple(one.shape) for one in maps] == wanted
    assert body.tokens == height * width // entry.facts["patch"] ** 2


@pytest.mark.parametrize("name", PICO)
def test_pico_backbone_runs_for_real_and_its_maps_are_finite(name):
    body = backbone(name, size=(64, 96)).eval()
    with torch.inference_mode():
        maps = body(torch.rand(1, 3, 64, 96))
    assert all(torch.isfinite(one).all() for one in maps)
    assert all(one.std() > 0 for one in maps)


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("patch", [7, 4096])
def test_impossible_patch_is_refused_with_the_nearest(name, patch):
    with pytest.raises(Unsupported, match=r"nearest: \d"):
        backbone(name, patch=patch)


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("size", [(1, 1), (129, 128), (128, 130)])
def test_impossible_size_is_refused_and_the_nearest_ones_work(name, size):
    with pytest.raises(Unsupported, match="nearest: ") as error:
        backbone(name, size=size)
    nearest = re.findall(r"(\d+)x(\d+)", str(error.value).partition("nearest: ")[2])
    assert nearest
    with torch.device("meta"):
        for height, width in nearest[:1] + nearest[-1:]:
            assert backbone(name, size=(int(height), int(width))).size == (int(height), int(width))


@pytest.mark.parametrize("name", PICO)
def test_image_of_another_size_is_refused(name):
    with torch.device("meta"), pytest.raises(Unsupported, match="built for 128x128"):
        backbone(name)(torch.empty(1, 3, 128, 160))


@pytest.mark.parametrize("name", PICO)
def test_backbone_normalises_for_itself(name):
    body = backbone(name)
    assert "mean" not in body.state_dict(), "normalisation is no weight"
    seen = []
    body.features = lambda image: seen.append(image) or ()
    body(torch.stack([body.mean.expand(1, 3, 128, 128)[0], (body.mean + body.std).expand(1, 3, 128, 128)[0]]))
    assert torch.allclose(seen[0][0], torch.zeros(3, 128, 128), atol=1e-6)
    assert torch.allclose(seen[0][1], torch.ones(3, 128, 128), atol=1e-5)


@pytest.mark.parametrize("name", PICO)
def test_attention_kernels_agree(name):
    torch.manual_seed(0)
    fused = backbone(name, size=(64, 64), attention="fused").eval()
    unfused = backbone(name, size=(64, 64), attention="unfused").eval()
    unfused.load_state_dict(fused.state_dict())
    kinds = [{m.fused_attn for m in body.modules() if hasattr(m, "fused_attn")} for body in (fused, unfused)]
    assert kinds == [{True}, {False}]
    image = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        for one, other in zip(fused(image), unfused(image), strict=True):
            assert torch.allclose(one, other, atol=1e-4)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("name", BACKBONES)
def test_every_head_takes_every_backbone(name, head):
    """From the levels alone, which is all that a head may know, at an odd multiple of the divisor."""
    levels, divisor = form(name)
    size = (3 * divisor, 5 * divisor)
    entry = catalogue.get("heads", head)
    with torch.device("meta"):
        top = entry.load().build(head, levels=levels, classes=CLASSES)
        maps = tuple(torch.empty(2, one.channels, size[0] // one.stride, size[1] // one.stride) for one in levels)
        top(maps, size)
    assert top.task == entry.facts["task"]
    assert top.classes == CLASSES


@pytest.mark.parametrize("head", LIGHT)
@pytest.mark.parametrize("name", PICO)
def test_gradients_reach_every_parameter_and_predictions_have_their_form(name, head):
    torch.manual_seed(0)
    size = (64, 96)
    model = bench.build(name, head, size=size, classes=CLASSES)
    image = torch.rand(2, 3, *size)
    loss = model.loss(model(image), target(model.task, 2, size))
    assert loss.ndim == 0
    loss.backward()
    without = [key for key, parameter in model.named_parameters() if parameter.grad is None]
    # The deepest prefix token reaches no grid cell after the last block, but its attention did; nothing may be unused.
    assert not without
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())
    model.eval()
    with torch.inference_mode():
        prediction = model.decode(model(image), (100, 70))
    if model.task == "segmentation":
        assert prediction.shape == (2, 100, 70)
        assert prediction.dtype == torch.int64
        assert 0 <= prediction.min() <= prediction.max() < CLASSES
    else:
        assert len(prediction) == 2
        for boxes in prediction:
            assert boxes.xyxy.shape == (len(boxes.labels), 4)
            assert (boxes.scores.diff() <= 0).all()
            assert (boxes.xyxy >= 0).all()
            assert (boxes.xyxy[:, 2::2] <= 70).all()
            assert (boxes.xyxy[:, 3] <= 100).all()


@pytest.mark.parametrize("head", LIGHT)
def test_empty_truth_gives_a_finite_loss_with_gradients(head):
    torch.manual_seed(0)
    size = (64, 64)
    model = bench.build("vit_pico", head, size=size, classes=CLASSES)
    loss = model.loss(model(torch.rand(2, 3, *size)), target(model.task, 2, size, empty=True))
    assert torch.isfinite(loss)
    loss.backward()


@pytest.mark.parametrize("name", PICO)
@pytest.mark.parametrize("head", LIGHT)
def test_bfloat16_weights_predict(name, head):
    """The artifact of a bf16 row: everything cast, as latency times it."""
    torch.manual_seed(0)
    model = bench.build(name, head, size=(64, 64), classes=CLASSES).eval().to(torch.bfloat16)
    with torch.inference_mode():
        prediction = model.decode(model(torch.rand(1, 3, 64, 64, dtype=torch.bfloat16)), (64, 64))
    assert len(prediction) == 1


@pytest.mark.parametrize("head", LIGHT)
def test_a_seed_repeats_and_another_differs(head):
    def weights(seed):
        torch.manual_seed(seed)
        return torch.cat([p.flatten() for p in bench.build("vit_pico", head, size=(64, 64), classes=3).parameters()])

    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))


PUBLISHED = [
    # Parameters of timm's classifier less its 1000-class head: 5,717,416 - 193,000 and so on (published.csv).
    ("vit_tiny", (224, 224), 5_717_416 - 192_000 - 1_000),
    ("vit_small", (224, 224), 22_050_664 - 384_000 - 1_000),
    ("vit_base", (224, 224), 86_567_656 - 768_000 - 1_000),
    ("deit_small", (224, 224), 22_436_432 - 2 * 385_000),
    # Swin also leaves the norm before its classifier: 2 x 768.
    ("swin_tiny", (224, 224), 28_288_354 - 768_000 - 1_000 - 2 * 768),
    ("swin_base", (224, 224), 87_768_224 - 1_024_000 - 1_000 - 2 * 1024),
]


@pytest.mark.parametrize(("name", "size", "parameters"), PUBLISHED)
def test_parameters_are_the_published_ones(name, size, parameters):
    with torch.device("meta"):
        body = backbone(name, size=size)
    assert sum(parameter.numel() for parameter in body.parameters()) == parameters
