"""What a benchmark asks of every head: a crowded image for NMS, and outputs that rounding does not upset."""

import copy
import gc
import itertools
import subprocess
import sys
import weakref
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor
from torchvision.ops import boxes as torchvision_boxes

import bench
from backbones.contract import Features, Level
from bench import catalogue
from heads.contract import Boxes, Head, Model
from heads.faster_rcnn import Detected, FasterRCNN
from heads.pyramid import map_size

if TYPE_CHECKING:
    from collections.abc import Callable

LEVELS = (Level(8, 16), Level(16, 16), Level(32, 16))
SIZE = (160, 192)
DENSE, TWO_STAGE = ("fcos_pico", "retinanet_pico"), ("faster_rcnn_pico", "mask_rcnn_pico")
HEADS = list(catalogue.entries("heads"))
LIGHT = [name for name in HEADS if name.endswith("_pico") or f"{name}_pico" not in HEADS]
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def maps(dtype: torch.dtype = torch.float32, batch: int = 2) -> Features:
    """Random feature maps of images of `SIZE`."""
    generator = torch.Generator().manual_seed(1)
    shapes = [(batch, level.channels, *map_size(SIZE, level.stride)) for level in LEVELS]
    return tuple(torch.randn(shape, generator=generator).to(dtype) for shape in shapes)


def pico(name: str, classes: int = 4, dtype: torch.dtype = torch.float32) -> Head:
    """A small head with random weights."""
    torch.manual_seed(0)
    return catalogue.get("heads", name).load().build(name, levels=LEVELS, classes=classes).eval().to(dtype)


@pytest.fixture
def nms(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Boxes that went into each NMS and that came out of it."""
    seen: list[tuple[int, int]] = []
    real: Callable[..., Tensor] = torchvision_boxes.batched_nms

    def spy(boxes: Tensor, scores: Tensor, labels: Tensor, threshold: float) -> Tensor:
        kept = real(boxes, scores, labels, threshold)
        seen.append((len(boxes), len(kept)))
        return kept

    monkeypatch.setattr(torchvision_boxes, "batched_nms", spy)
    return seen


@torch.inference_mode()
def found(head: Head, features: Features) -> list[Boxes]:
    """The head's prediction."""
    prediction = head.decode(head(features, SIZE), SIZE)
    assert isinstance(prediction, list)
    return prediction


def into_nms(seen: list[tuple[int, int]]) -> float:
    """Mean over the two images, whose NMS came last: that of the first stage runs before."""
    return sum(before for before, _ in seen[-2:]) / 2


@pytest.mark.parametrize(
    ("name", "dtype"),
    [*itertools.product([*DENSE, "faster_rcnn_pico"], DTYPES), ("mask_rcnn_pico", torch.float32)],
)
@pytest.mark.parametrize("candidates", [300])
def test_as_many_candidates_as_asked_go_into_nms(
    name: str, candidates: int, dtype: torch.dtype, nms: list[tuple[int, int]]
) -> None:
    head, features = pico(name, dtype=dtype), maps(dtype)
    untouched = {key: value.clone() for key, value in head.state_dict().items()}
    found(head, features)
    everything = 100 * 4 if name in TWO_STAGE else 1000
    assert into_nms(nms) < 0.1 * candidates or into_nms(nms) > 0.7 * everything, "random weights would do by themselves"
    stated = head.full_load(features, SIZE, candidates)
    assert stated == pytest.approx(candidates, rel=0.1)
    boxes = found(head, features)
    assert into_nms(nms) == pytest.approx(stated, rel=0.1)
    for before, after in nms[-2:]:
        assert 1 < after < before
    assert all(1 <= len(one.labels) <= 100 for one in boxes)
    changed = {key for key, value in head.state_dict().items() if not torch.equal(value, untouched[key])}
    layer = "cls_score" if name in TWO_STAGE else "cls_logits"
    expected = {"bbox_reg.bias", f"{layer}.weight", f"{layer}.bias"}
    assert {".".join(key.split(".")[-2:]) for key in changed} <= expected
    assert head.full_load(features, SIZE, candidates) == pytest.approx(stated, rel=0.1), "a second time the same"


@pytest.mark.parametrize("name", ["retinanet_pico", "faster_rcnn_pico"])
@pytest.mark.parametrize("classes", [1, 20, 80])
def test_any_number_of_classes_can_be_crowded(name: str, classes: int, nms: list[tuple[int, int]]) -> None:
    """The 80 equal classes of random weights would have a score of 0.0125 each, and none a chance."""
    head, features = pico(name, classes), maps()
    stated = head.full_load(features, SIZE, 60)
    assert stated == pytest.approx(60, rel=0.1)
    found(head, features)
    assert into_nms(nms) == pytest.approx(stated, rel=0.1)


@pytest.mark.parametrize("name", [*DENSE, *TWO_STAGE])
def test_all_there_are_where_more_are_asked(name: str, nms: list[tuple[int, int]]) -> None:
    head, features = pico(name), maps()
    stated = head.full_load(features, SIZE, 1_000_000)
    found(head, features)
    assert into_nms(nms) == pytest.approx(stated, rel=0.1)
    cells = [20 * 24, 10 * 12, 5 * 6]
    if name in TWO_STAGE:
        assert 100 < stated <= 100 * 4
    else:  # the best 1000 of a level
        anchors = 9 if name == "retinanet_pico" else 1
        assert stated == pytest.approx(sum(min(1000, 4 * anchors * count) for count in cells), rel=0.02)


def test_logits_that_bfloat16_could_not_tell_apart(nms: list[tuple[int, int]]) -> None:
    """Weights of the size of a published RetinaNet's with random weights, whose logits differ by 0.004."""
    head, features = pico("retinanet_pico", dtype=torch.bfloat16), maps(torch.bfloat16)
    layer: Any = head.get_submodule("detector.head.classification_head.cls_logits")
    with torch.no_grad():
        layer.weight.mul_(0.025)
    stated = head.full_load(features, SIZE, 300)
    assert stated == pytest.approx(300, rel=0.1)
    found(head, features)
    assert into_nms(nms) == pytest.approx(stated, rel=0.1)


@pytest.mark.parametrize("name", [*DENSE, "faster_rcnn_pico"])
@pytest.mark.parametrize(("made_in", "called_in"), [(True, True), (False, True), (True, False)])
def test_weights_of_either_mode_can_be_written_in_either_mode(name: str, *, made_in: bool, called_in: bool) -> None:
    with torch.inference_mode(made_in):
        head, features = pico(name), maps()
    with torch.inference_mode(called_in):
        assert head.full_load(features, SIZE, 100) == pytest.approx(100, rel=0.1)
    assert all(parameter.requires_grad for parameter in head.parameters())
    assert not called_in or made_in or not next(head.parameters()).is_inference()


@pytest.mark.parametrize("name", [*DENSE, *TWO_STAGE])
def test_no_candidates_at_all_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="candidates=0"):
        pico(name).full_load(maps(), SIZE, 0)


@pytest.mark.parametrize("name", ["linear", "detr_pico", "eomt_pico"])
def test_a_head_without_nms_stays_as_it_is(name: str) -> None:
    head = bench.build("vit_pico", name, size=(64, 64), classes=3).head
    before = copy.deepcopy(head.state_dict())
    assert head.full_load((), (64, 64), 300) == 0
    assert all(torch.equal(value, before[key]) for key, value in head.state_dict().items())


def difference(one: tuple[Tensor, ...], other: tuple[Tensor, ...]) -> list[float]:
    """Relative L2 distance of each tensor."""
    return [float((a.float() - b.float()).norm() / b.float().norm()) for a, b in zip(one, other, strict=True)]


@torch.inference_mode()
def smooth(model: Model, image: Tensor) -> tuple[Tensor, ...]:
    """Of the model in evaluation mode."""
    return model.head.smooth(model(image))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name == "mask_rcnn_pico" else name for name in LIGHT]
)
def test_smooth_outputs_tell_another_image_but_not_another_precision(name: str) -> None:
    torch.manual_seed(0)
    model = bench.build("vit_pico", name, size=(64, 96), classes=5).eval()
    image, another = torch.rand(2, 2, 3, 64, 96).unbind()
    plain = smooth(model, image)
    assert plain
    assert all(one.is_floating_point() and one.ndim >= 2 and len(one) == 2 for one in plain)
    assert max(difference(smooth(model, another), plain)) > 5e-3
    torch.testing.assert_close(smooth(model, image), plain)
    rounded = smooth(copy.deepcopy(model).bfloat16(), image.bfloat16())
    assert max(difference(rounded, plain)) < 0.1
    assert max(difference(rounded, plain)) > 0


def test_queries_in_another_order_are_smooth() -> None:
    """Tokens that are as good as each other change places: the raw answers follow, what is compared does not."""
    model = bench.build("vit_pico", "detr_pico", size=(192, 192), classes=5).eval()
    image = torch.rand(2, 3, 192, 192, generator=torch.Generator().manual_seed(0))
    low = copy.deepcopy(model).bfloat16()
    with torch.inference_mode():
        raw, other = model(image), low(image.bfloat16())
    upset = difference(other["answers"][-1], raw["answers"][-1])
    assert max(upset) > 0.1
    assert max(difference(low.head.smooth(other), model.head.smooth(raw))) < 0.05


@pytest.mark.parametrize("name", TWO_STAGE)
def test_detections_bring_the_first_stage_along_and_not_its_maps(name: str) -> None:
    head, features = pico(name), maps()
    assert isinstance(head, FasterRCNN)
    alive: list[weakref.ref[Tensor]] = []
    first: list[tuple[int, int]] = []

    def watch(_module: object, _inputs: object, output: Features) -> None:
        alive.extend(weakref.ref(one) for one in output)

    def watch_first(_module: object, _inputs: object, output: tuple[list[Tensor], list[Tensor]]) -> None:
        first.extend((sum(one[0].numel() for one in part), len(part)) for part in output)

    head.pyramid.register_forward_hook(watch)
    head.rpn.head.register_forward_hook(watch_first)
    with torch.inference_mode():
        raw = head(features, SIZE)
    gc.collect()
    assert isinstance(raw, Detected)
    assert len(alive) == 4
    assert not any(one() is not None for one in alive)
    objectness, deltas = head.smooth(raw)
    assert objectness is raw.objectness
    assert (objectness.numel(), deltas.numel()) == (2 * first[0][0], 2 * first[1][0])
    for one in (objectness, deltas):  # nothing larger behind them
        assert one.untyped_storage().nbytes() == one.numel() * one.element_size()
    with torch.device("meta"):
        meta = head.to("meta").smooth(head(tuple(x.to("meta") for x in features), SIZE))
    assert [one.shape for one in meta] == [objectness.shape, deltas.shape]


def test_detections_of_elsewhere_have_no_first_stage() -> None:
    with pytest.raises(ValueError, match="forward pass"):
        pico("faster_rcnn_pico").smooth(Detected(SIZE, [], [], []))


COMPILED = """
import sys, torch
from tests.heads.test_load import SIZE, maps, pico
for name in sys.argv[1:]:
    head, features = pico(name), maps()
    compiled = torch.compile(head, backend="eager")
    with torch.inference_mode():
        plain, traced = head(features, SIZE), compiled(features, SIZE)
        torch.testing.assert_close(head.smooth(traced), head.smooth(plain))
"""


@pytest.mark.slow
def test_compiled_they_give_the_same() -> None:
    """Traced, without the minutes of a code generator; in a process without checks of shapes, which do not trace."""
    command = [sys.executable, "-c", COMPILED, "mask_rcnn_pico", "detr_pico"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=catalogue.ROOT, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
