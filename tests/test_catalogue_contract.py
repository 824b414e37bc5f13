"""Whatever is in the catalogue keeps its contract: a new file is tested by being there."""

import os
import pickle
import re
import subprocess
import sys
from dataclasses import fields, is_dataclass
from functools import cache

import pytest
import torch

import bench
from backbones.contract import Backbone, TokenBackbone, Unsupported
from backbones.shapes import shapes_only
from bench import catalogue
from heads.contract import Boxes, TokenHead, reads

BACKBONES = list(catalogue.entries("backbones"))
HEADS = list(catalogue.entries("heads"))
PICO = [name for name in BACKBONES if name.endswith("_pico")]
CLASSES = 5
# The same code as the published sizes of a head, quick enough to run for real.
LIGHT = [name for name in HEADS if name.endswith("_pico") or f"{name}_pico" not in HEADS]
# Every head on a plain and on a pyramidal backbone, every backbone under a head of either task.
PAIRS = list(
    dict.fromkeys(
        [(name, head) for head in LIGHT for name in ("vit_pico", "hybrid_pico")]
        + [(name, head) for name in PICO for head in ("linear", "fcos_pico")]
    )
)


def backbone(name, *, patch=None, size=(128, 128), attention="auto"):
    entry = catalogue.get("backbones", name)
    return entry.load().build(name, patch=patch or entry.facts["patch"], size=size, attention=attention)


SIZE = (448, 896)
"""Not square, and what patches of 14 and of 16 and the strides of every pyramid divide."""


@pytest.fixture(scope="session", autouse=True)
def shared(tmp_path_factory, worker_id):
    """A folder of this run alone, in which its processes leave the forms that they have found."""
    base = tmp_path_factory.getbasetemp()
    SHARED.append((base if worker_id == "master" else base.parent) / "forms")
    SHARED[-1].mkdir(exist_ok=True)


SHARED = []


@cache
def form(name):
    """Levels and divisor of a backbone at its native patch size, and the shapes of the maps that it gives.

    Seconds for a large one, so processes that share the tests share these.
    """
    kept = SHARED[-1] / name.replace(":", "-")
    if not kept.exists():
        mine = kept.with_name(f"{kept.name}.{os.getpid()}")
        mine.write_bytes(pickle.dumps(_form(name)))
        mine.rename(kept)
    return pickle.loads(kept.read_bytes())


def _form(name):
    with shapes_only():
        body = backbone(name, size=SIZE)
        maps = body(torch.empty(2, 3, *SIZE))
    assert isinstance(body, Backbone)
    assert body.size == SIZE
    assert body.tokens == SIZE[0] * SIZE[1] // catalogue.get("backbones", name).facts["patch"] ** 2
    return body.levels, body.divisor, [tuple(one.shape) for one in maps]


def form_key(name):
    """What tells the levels of backbones apart for a head, widths aside."""
    levels, divisor, _ = form(name)
    return tuple(level.stride for level in levels), divisor


def facts(head):
    return catalogue.get("heads", head).facts


def fits(name, head):
    """Whether the pair can exist: a head that works inside the blocks of a transformer needs one that shows them."""
    top = catalogue.get("heads", head).load()
    with shapes_only():
        inside = isinstance(top.build(head, levels=form("vit_pico")[0], classes=2), TokenHead)
        return not inside or isinstance(backbone(name), TokenBackbone)


def target(head, batch, size, *, empty=False, classes=CLASSES):
    height, width = size
    if facts(head)["task"] == "segmentation":
        generator = torch.Generator().manual_seed(1)
        mask = torch.randint(0, classes, (batch, height, width), generator=generator)
        return torch.full_like(mask, 255) if empty else mask
    xyxy = torch.tensor([[2.0, 3.0, width - 5.0, height - 4.0], [1.0, 1.0, 17.0, 18.0]])[: 0 if empty else 2]
    labels = torch.tensor([min(1, classes - 1), classes - 1])[: len(xyxy)]
    masks = None
    if facts(head).get("masks"):
        masks = torch.zeros(len(xyxy), height, width, dtype=torch.bool)
        for mask, (left, top, right, bottom) in zip(masks, xyxy.int().tolist(), strict=True):
            mask[top:bottom, left:right] = True
    ignore = torch.zeros(len(xyxy), dtype=torch.bool)
    return [Boxes(xyxy, labels, ignore=ignore, masks=masks) for _ in range(batch)]


@pytest.mark.parametrize("name", BACKBONES)
def test_backbone_gives_the_maps_that_its_levels_state(name):
    """On the meta device, at the native patch size, at a size that is not square."""
    levels, divisor, shapes = form(name)
    strides = [level.stride for level in levels]
    assert strides == sorted(strides), "finest first"
    assert SIZE[0] % divisor == SIZE[1] % divisor == 0
    assert shapes == [(2, level.channels, SIZE[0] // level.stride, SIZE[1] // level.stride) for level in levels]


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
def test_impossible_size_is_refused_with_the_nearest(name, size):
    with shapes_only(), pytest.raises(Unsupported, match=r"nearest: \d") as error:
        backbone(name, size=size)
    assert re.findall(r"(\d+)x(\d+)", str(error.value).partition("nearest: ")[2])
    assert error.value.nearest
    divisor = form(name)[1]
    assert all(side % divisor == 0 for nearest in error.value.nearest for side in nearest)


@pytest.mark.parametrize("name", [*PICO, "torchvision:vit_b_16", "torchvision:swin_t", "torchvision:resnet18"])
def test_the_nearest_sizes_work(name):
    for size in [(1, 1), (129, 128), (128, 130)]:
        with pytest.raises(Unsupported) as error:
            backbone(name, size=size)
        for nearest in {error.value.nearest[0], error.value.nearest[-1]}:
            with shapes_only():
                assert backbone(name, size=nearest).size == nearest


@pytest.mark.parametrize("name", PICO)
def test_image_of_another_size_is_refused(name):
    with shapes_only(), pytest.raises(Unsupported, match="built for 128x128"):
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
    assert kinds == ([set(), set()] if name == "cnn_pico" else [{True}, {False}]), "one has no attention"
    image = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        for one, other in zip(fused(image), unfused(image), strict=True):
            assert torch.allclose(one, other, atol=1e-4)


@pytest.mark.parametrize("head", HEADS)
def test_every_head_takes_the_levels_of_every_backbone(head):
    """From the levels alone, which is all that a head may know, at an odd multiple of the divisor."""
    entry = catalogue.get("heads", head)
    which = entry.facts.get("reads", "all")
    forms = {}
    for name in BACKBONES:
        levels, _, _ = form(name)
        forms.setdefault(form_key(name), (name, levels))
    # The larger sizes of a head share its code: for them two forms, one plain and one of several strides, are enough.
    chosen = (
        list(forms.items())
        if head in LIGHT
        else [(key, forms[key]) for key in (form_key("vit_base"), form_key("swin_tiny"))]
    )
    for (_, divisor), (name, every) in chosen:
        levels = tuple(every[index] for index in reads(every, which))
        size = (3 * divisor, 5 * divisor)
        with shapes_only():
            top = entry.load().build(head, levels=levels, classes=CLASSES)
            assert top.task == entry.facts["task"]
            assert top.classes == CLASSES
            if isinstance(top, TokenHead):
                body = backbone(name, size=size)
                if isinstance(body, TokenBackbone):
                    top.eval().attend(body, torch.empty(2, 3, *size))
                continue
            maps = tuple(torch.empty(2, one.channels, size[0] // one.stride, size[1] // one.stride) for one in levels)
            top.eval()(maps, size)


@pytest.mark.parametrize(("name", "head"), PAIRS)
def test_gradients_reach_every_parameter_and_predictions_have_their_form(name, head):
    torch.manual_seed(0)
    size = (64, 96)
    if not fits(name, head):
        with pytest.raises(Unsupported, match="take a plain ViT"):
            bench.build(name, head, size=size, classes=CLASSES)
        return
    model = bench.build(name, head, size=size, classes=CLASSES)
    image = torch.rand(2, 3, *size)
    loss = model.loss(model(image), target(head, 2, size))
    assert loss.ndim == 0
    loss.backward()
    without = [key for key, parameter in model.named_parameters() if parameter.grad is None]
    # A head that reads one of several strides leaves the stages behind it idle; nothing else may be unused.
    behind = "backbone." if one_of_several(model) else None
    assert not [key for key in without if behind is None or not key.startswith(behind)], without
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters() if parameter.grad is not None)
    model.eval()
    with torch.inference_mode():
        raw = model(image)
        prediction = model.decode(raw, (100, 70))
    if model.task == "segmentation":
        assert prediction.shape == (2, 100, 70)
        assert prediction.dtype == torch.int64
        assert 0 <= prediction.min() <= prediction.max() < CLASSES
        scores = model.scores(raw, (100, 70))
        assert scores.shape == (2, CLASSES, 100, 70)
        assert torch.equal(scores.argmax(1), prediction), "what decode takes the largest of"
    else:
        with pytest.raises(Unsupported, match="it predicts detection"):
            model.scores(raw, (100, 70))
        assert len(prediction) == 2
        for boxes in prediction:
            assert boxes.xyxy.shape == (len(boxes.labels), 4)
            assert (boxes.scores.diff() <= 0).all()
            assert (boxes.xyxy >= 0).all()
            assert (boxes.xyxy[:, 2::2] <= 70).all()
            assert (boxes.xyxy[:, 3] <= 100).all()
            assert (boxes.masks is not None) == bool(facts(head).get("masks"))
            assert boxes.masks is None or boxes.masks.shape == (len(boxes.labels), 100, 70)


def one_of_several(model):
    """Whether the head leaves some of a backbone's strides unread: its loss does not depend on the coarsest map."""
    size = model.backbone.size
    maps = [
        torch.rand(2, one.channels, size[0] // one.stride, size[1] // one.stride, requires_grad=True)
        for one in model.backbone.levels
    ]
    if isinstance(model.head, TokenHead) or len({one.stride for one in model.backbone.levels}) == 1:
        return False
    raw = model.head(tuple(maps), size)
    used = torch.autograd.grad(sum(t.sum() for t in tensors(raw) if t.requires_grad), maps, allow_unused=True)
    return used[-1] is None


@pytest.mark.parametrize("head", LIGHT)
def test_empty_truth_gives_a_finite_loss_with_gradients(head):
    torch.manual_seed(0)
    size = (64, 64)
    model = bench.build("vit_pico", head, size=size, classes=CLASSES)
    loss = model.loss(model(torch.rand(2, 3, *size)), target(head, 2, size, empty=True))
    assert torch.isfinite(loss)
    loss.backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters() if parameter.grad is not None)


@pytest.mark.parametrize("head", LIGHT)
def test_one_class_is_enough(head):
    torch.manual_seed(0)
    size = (64, 64)
    model = bench.build("vit_pico", head, size=size, classes=1)
    loss = model.loss(model(torch.rand(2, 3, *size)), target(head, 2, size, classes=1))
    assert torch.isfinite(loss)
    loss.backward()
    model.eval()
    with torch.inference_mode():
        prediction = model.decode(model(torch.rand(1, 3, *size)), size)
    labels = prediction if model.task == "segmentation" else prediction[0].labels
    assert (labels == 0).all()


@pytest.mark.parametrize("head", LIGHT)
def test_an_image_of_one_pixel_is_padded_when_asked(head):
    torch.manual_seed(0)
    with pytest.raises(Unsupported, match="nearest: 16x16"):
        bench.build("vit_pico", head, size=(1, 1), classes=2)
    model = bench.build("vit_pico", head, size=(1, 1), classes=2, padding="pad").eval()
    with torch.inference_mode():
        prediction = model.decode(model(torch.rand(1, 3, 1, 1)), (1, 1))
    if model.task == "segmentation":
        assert prediction.shape == (1, 1, 1)
    else:
        assert (prediction[0].xyxy <= 1).all()


@pytest.mark.parametrize(("name", "head"), PAIRS)
def test_bfloat16_weights_predict(name, head):
    """The artifact of a bf16 row: everything cast, as latency times it."""
    if not fits(name, head):
        pytest.skip("refused, see above")
    torch.manual_seed(0)
    model = bench.build(name, head, size=(64, 64), classes=CLASSES).eval().to(torch.bfloat16)
    with torch.inference_mode():
        prediction = model.decode(model(torch.rand(1, 3, 64, 64, dtype=torch.bfloat16)), (64, 64))
    assert len(prediction) == 1


@pytest.mark.parametrize("head", LIGHT)
def test_training_under_bfloat16_autocast_gives_finite_gradients(head):
    """As `bench.training` does it for a dtype below float32: the forward pass under autocast, the loss outside."""
    torch.manual_seed(0)
    model = bench.build("vit_pico", head, size=(64, 64), classes=CLASSES)
    with torch.autocast("cpu", torch.bfloat16):
        raw = model(torch.rand(2, 3, 64, 64))
    model.loss(raw, target(head, 2, (64, 64))).backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters() if parameter.grad is not None)


def tensors(raw):
    """Every tensor of a head's private output."""
    if isinstance(raw, torch.Tensor):
        return [raw]
    if is_dataclass(raw):
        return [tensor for field in fields(raw) for tensor in tensors(getattr(raw, field.name))]
    if isinstance(raw, dict):
        return [tensor for value in raw.values() for tensor in tensors(value)]
    if isinstance(raw, (list, tuple)):
        return [tensor for value in raw for tensor in tensors(value)]
    return []


@pytest.mark.parametrize("name", PICO)
def test_channels_last_gives_the_same(name):
    torch.manual_seed(0)
    model = bench.build(name, "upernet_pico", size=(64, 64), classes=CLASSES).eval()
    image = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        plain = model(image)
        turned = model.to(memory_format=torch.channels_last)(image.to(memory_format=torch.channels_last))
    assert torch.allclose(plain, turned, atol=1e-4)


COMPILED = """
import sys, torch, bench
from bench import catalogue
image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
for name in sys.argv[1:]:
    torch.manual_seed(0)
    torch.compiler.reset()
    model = bench.build(name, "fcos_pico", size=(64, 64), classes=5).eval()
    with torch.inference_mode():
        plain = model(image)
        # The graph is what is tested: a backend that builds no kernels keeps the compiler's minutes out of the suite.
        compiled = torch.compile(model, backend="eager")(image)
    for key in ("logits", "regression", "centerness"):
        assert plain[key].std() > 0
        torch.testing.assert_close(plain[key], compiled[key], atol=1e-4, rtol=1e-3)
    print("same:", name)
"""


@pytest.mark.slow
def test_compiled_gives_the_same():
    """One of each family through torch.compile, under a head whose forward pass has no data-dependent step.

    In a process without the checks of shapes that the tests put around every function: Dynamo cannot see through them.
    """
    done = subprocess.run(
        [sys.executable, "-c", COMPILED, *PICO], cwd=catalogue.ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert [line.removeprefix("same: ") for line in done.stdout.splitlines()] == PICO


@pytest.mark.parametrize("head", LIGHT)
def test_a_seed_repeats_and_another_differs(head):
    def weights(seed):
        torch.manual_seed(seed)
        return torch.cat([p.flatten() for p in bench.build("vit_pico", head, size=(64, 64), classes=3).parameters()])

    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.rand(1, 1, 64, 64), "expand"),
        (torch.rand(1, 4, 64, 64), "drop alpha"),
        (torch.rand(3, 64, 64), "batch of one"),
        (torch.zeros(1, 3, 64, 64, dtype=torch.uint8), "255"),
        (torch.rand(1, 3, 64, 96), "built for 64x64 px and got 64x96"),
    ],
)
@pytest.mark.parametrize("padding", ["refuse", "pad"])
def test_what_is_no_batch_of_rgb_images_is_refused_with_what_to_do(image, message, padding):
    model = bench.build("vit_pico", "linear", size=(64, 64), classes=2, padding=padding)
    for module in (model, model.backbone):
        with pytest.raises(Unsupported, match=message):
            module(image)


def test_a_padded_model_ignores_its_padding_and_predicts_at_the_asked_size():
    torch.manual_seed(0)
    with pytest.raises(Unsupported, match="nearest: 48x64, 48x80"):
        bench.build("vit_pico", "linear", size=(48, 70), classes=3)
    model = bench.build("vit_pico", "linear", size=(48, 70), classes=3, padding="pad").eval()
    assert model.backbone.size == (48, 80)
    image = torch.rand(2, 3, 48, 70)
    labels = torch.randint(0, 3, (2, 48, 70))
    raw = model(image)
    # The same picture on a mean-coloured canvas, through an unpadded model with the same weights.
    whole = bench.build("vit_pico", "linear", size=(48, 80), classes=3).eval()
    whole.load_state_dict(model.state_dict())
    canvas = model.backbone.mean.expand(2, 3, 48, 80).clone()
    canvas[..., :70] = image
    assert torch.equal(raw, whole(canvas))
    target = torch.full((2, 48, 80), 255)
    target[..., :70] = labels
    assert torch.equal(model.loss(raw, labels), whole.loss(raw, target))
    assert torch.equal(model.decode(raw, (48, 70)), whole.decode(raw, (48, 80))[..., :70])
    assert model.decode(raw, (96, 140)).shape == (2, 96, 140)
    assert torch.equal(model.scores(raw, (96, 140)).argmax(1), model.decode(raw, (96, 140)))


def test_boxes_of_a_padded_model_end_at_the_image():
    torch.manual_seed(0)
    model = bench.build("vit_pico", "fcos_pico", size=(60, 70), classes=3, padding="pad").eval()
    assert model.backbone.size == (64, 80)
    with torch.inference_mode():
        raw = model(torch.rand(1, 3, 60, 70))
        (boxes,) = model.decode(raw, (120, 140))
        (unpadded,) = model.head.decode(raw, (128, 160))
    assert len(unpadded.labels) >= len(boxes.labels) > 0
    assert (boxes.xyxy[:, 2] <= 140).all()
    assert (boxes.xyxy[:, 3] <= 120).all()
    assert (boxes.xyxy[:, 2:] > boxes.xyxy[:, :2]).all()


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
    with shapes_only():
        body = backbone(name, size=size)
    assert sum(parameter.numel() for parameter in body.parameters()) == parameters
