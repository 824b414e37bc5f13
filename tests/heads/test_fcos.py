"""FCOS: where its locations lie, what its loss counts, and whether it finds a box."""

import math

import pytest
import timm
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from torchvision.ops import box_iou

from backbones.contract import Features, Level
from heads.contract import Boxes
from heads.fcos import FCOS, FCOSOutput, build
from heads.pyramid import map_size

LEVELS = (Level(8, 16), Level(16, 16), Level(32, 16))
SIZE = (64, 96)


def maps(levels: tuple[Level, ...], size: tuple[int, int], batch: int = 1) -> Features:
    """Random feature maps of an image of ``size``."""
    return tuple(torch.randn(batch, level.channels, *map_size(size, level.stride)) for level in levels)


def truth(*boxes: tuple[float, float, float, float], labels: list[int], ignore: list[bool] | None = None) -> Boxes:
    """Objects of one image."""
    return Boxes(
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.tensor(labels, dtype=torch.int64),
        ignore=None if ignore is None else torch.tensor(ignore, dtype=torch.bool),
    )


def blank(head: FCOS, size: tuple[int, int], logit: float = -9.0) -> FCOSOutput:
    """Raw output of one image that sees nothing anywhere."""
    cells = sum(math.prod(map_size(size, stride)) for stride in head.strides)
    return {
        "size": size,
        "logits": torch.full((1, cells, head.classes), logit, requires_grad=True),
        "regression": torch.ones(1, cells, 4, requires_grad=True),
        "centerness": torch.zeros(1, cells, 1, requires_grad=True),
    }


def pico(classes: int = 3, levels: tuple[Level, ...] = LEVELS) -> FCOS:
    """The small variant."""
    return build("fcos_pico", levels=levels, classes=classes)


def test_shapes_strides_and_the_prior() -> None:
    head = pico()
    raw = head(maps(LEVELS, SIZE, batch=2), SIZE)
    cells = 8 * 12 + 4 * 6 + 2 * 3
    assert (raw["logits"].shape, raw["regression"].shape) == ((2, cells, 3), (2, cells, 4))
    assert raw["centerness"].shape == (2, cells, 1)
    assert raw["size"] == SIZE
    assert raw["logits"].sigmoid().mean().item() == pytest.approx(0.01, rel=0.2)
    assert build("fcos", levels=LEVELS, classes=3).strides == (8, 16, 32, 64, 128)


def test_coarse_maps_reach_the_finest_locations() -> None:
    head = pico()
    fine, middle, coarse = maps(LEVELS, SIZE)
    before, after = (head((fine, middle, x), SIZE)["regression"][:, : 8 * 12] for x in (coarse, -coarse))
    assert (before - after).abs().max().item() > 1e-4


def test_locations_are_the_centres_of_the_cells() -> None:
    squares = pico().anchors((64, 96), torch.device("cpu"))
    torch.testing.assert_close(squares[0][0], torch.tensor([2.0, 2.0, 6.0, 6.0]))
    torch.testing.assert_close(squares[0][13], torch.tensor([10.0, 10.0, 14.0, 14.0]))
    torch.testing.assert_close(squares[2][-1], torch.tensor([72.0, 40.0, 88.0, 56.0]))
    # 70 px are 9 cells of stride 8, each of 7.8 px.
    first = pico().anchors((70, 98), torch.device("cpu"))[0][0]
    torch.testing.assert_close((first[:2] + first[2:]) / 2, torch.tensor([98 / 13 / 2, 70 / 9 / 2]))


def test_loss_without_objects_is_focal_loss_of_background() -> None:
    head = pico(classes=1)
    raw = blank(head, (64, 64), logit=0.0)
    cells = 64 + 16 + 4
    loss = head.loss(raw, [truth(labels=[])])
    # Focal loss of a background location at probability ½: (1 - alpha)·½²·ln 2, alpha ¼, divided by max(1, 0 objects).
    assert loss.item() == pytest.approx(cells * 0.75 * 0.25 * math.log(2), rel=1e-5)
    loss.backward()
    gradient = raw["logits"].grad
    assert gradient is not None
    assert gradient.isfinite().all()


@pytest.mark.parametrize(
    "boxes",
    [
        truth(labels=[]),
        truth((10, 10, 10, 10), labels=[0]),
        truth((10, 10, 10, 50), (0, 0, 64, 96), labels=[2, 1]),
        truth((10, 10, 40, 40), labels=[1], ignore=[True]),
        truth((0, 0, 0.5, 0.5), labels=[0]),
    ],
)
def test_loss_and_gradient_are_finite_for_awkward_truth(boxes: Boxes) -> None:
    head = pico()
    loss = head.loss(head(maps(LEVELS, SIZE, batch=2), SIZE), [boxes, truth(labels=[])])
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())


def test_scale_decides_the_level() -> None:
    head = pico(classes=1)
    size = (256, 256)
    squares = head.anchors(size, torch.device("cpu"))
    counts = [len(level) for level in squares]
    # Farthest sides from the sampled centres: under 32 px, 32 to 64 px, over 64 px.
    for box, expected in [((100, 100, 130, 130), 0), ((76, 76, 144, 144), 1), ((4, 4, 252, 252), 2)]:
        raw = blank(head, size)
        head.loss(raw, [truth(box, labels=[0])]).backward()
        assert raw["centerness"].grad is not None
        used = [bool(part.any()) for part in raw["centerness"].grad.split(counts, dim=1)]
        assert used == [level == expected for level in range(3)]


def test_ignored_boxes_silence_the_background_in_them_only() -> None:
    head = pico(classes=2)
    box = (16.0, 16.0, 40.0, 40.0)

    def gradient(target: Boxes) -> tuple[float, Tensor]:
        raw = blank(head, (64, 64), logit=0.0)
        loss = head.loss(raw, [target])
        loss.backward()
        assert raw["logits"].grad is not None
        return loss.item(), raw["logits"].grad[0, :64].reshape(8, 8, 2)

    nothing, pushed = gradient(truth(labels=[]))
    ignored, quiet = gradient(truth(box, labels=[1], ignore=[True]))
    assert ignored < nothing
    assert pushed.abs().min().item() > 0.0
    assert quiet[2:5, 2:5].abs().max().item() == 0.0
    quiet[2:5, 2:5] = pushed[2:5, 2:5]
    torch.testing.assert_close(quiet, pushed)


def test_an_object_in_an_ignored_box_is_learnt() -> None:
    head = pico(classes=2)
    raw = blank(head, (64, 64), logit=0.0)
    target = truth((0, 0, 64, 64), (16, 16, 40, 40), labels=[0, 1], ignore=[True, False])
    head.loss(raw, [target]).backward()
    assert raw["logits"].grad is not None
    centre = raw["logits"].grad[0, 3 * 8 + 3]
    assert centre[1].item() < 0.0  # up with its class
    assert centre[0].item() > 0.0  # down with the other
    assert raw["logits"].grad[0, 0].abs().max().item() == 0.0


def test_decode_by_hand() -> None:
    head = pico(classes=3)
    raw = blank(head, (64, 64), logit=-20.0)
    with torch.no_grad():
        # Cell (3, 2) of stride 8 has its centre at x 20, y 28; sides at 1, 2, 0.5, 1.5 strides.
        raw["logits"][0, 3 * 8 + 2, 1] = 2.0
        raw["regression"][0, 3 * 8 + 2] = torch.tensor([1.0, 2.0, 0.5, 1.5])
        # A worse copy beside it, of the same class and nearly the same box: suppressed.
        raw["logits"][0, 3 * 8 + 3, 1] = 1.0
        raw["regression"][0, 3 * 8 + 3] = torch.tensor([2.0, 2.0, -0.5, 1.5]).clamp(min=0)
        # Another class far off, that reaches beyond the border; cell (0, 0) of stride 32.
        raw["logits"][0, 64 + 16, 2] = 0.0
        raw["regression"] *= 2  # in squares, of which two are a stride
    (found,) = head.decode(raw, (64, 64))
    assert found.labels.tolist() == [1, 2]
    assert found.scores is not None
    assert found.scores.tolist() == pytest.approx([math.sqrt(0.8807971 * 0.5), 0.5])
    torch.testing.assert_close(found.xyxy, torch.tensor([[12.0, 12.0, 24.0, 40.0], [0.0, 0.0, 48.0, 48.0]]))
    (scaled,) = head.decode(raw, (32, 128))
    torch.testing.assert_close(scaled.xyxy, torch.tensor([[24.0, 6.0, 48.0, 20.0], [0.0, 0.0, 96.0, 24.0]]))


def test_decode_keeps_the_best_hundred_sorted() -> None:
    head = pico()
    raw = head(maps(LEVELS, (128, 128), batch=2), (128, 128))
    raw["logits"] = torch.randn_like(raw["logits"])
    for found in head.decode(raw, (128, 128)):
        assert found.scores is not None
        assert len(found.xyxy) == len(found.labels) == len(found.scores) == 100
        assert (found.scores.diff() <= 0).all()
        assert (found.xyxy[:, 2:] >= found.xyxy[:, :2]).all()


def test_decode_of_nothing_is_empty() -> None:
    (found,) = pico().decode(blank(pico(), SIZE, logit=-30.0), SIZE)
    assert found.xyxy.shape == (0, 4)
    assert found.labels.dtype == torch.int64


@pytest.mark.parametrize("levels", [LEVELS, (Level(16, 32),)])
def test_overfits_one_box(levels: tuple[Level, ...]) -> None:
    torch.manual_seed(0)
    head = pico(classes=3, levels=levels)
    features = maps(levels, SIZE)
    box = (20.0, 12.0, 70.0, 50.0)
    target = [truth(box, labels=[2])]
    optimizer = torch.optim.AdamW(head.parameters(), lr=0.003)
    for _ in range(50):
        optimizer.zero_grad()
        head.loss(head(features, SIZE), target).backward()
        optimizer.step()
    (found,) = head.decode(head(features, SIZE), SIZE)
    assert found.labels[0].item() == 2
    assert box_iou(found.xyxy[:1], torch.tensor([box])).item() > 0.8


@pytest.mark.parametrize(("levels", "size"), [((Level(14, 16),), (70, 98)), ((Level(16, 16),), (48, 80))])
def test_odd_sizes_and_the_meta_device(levels: tuple[Level, ...], size: tuple[int, int]) -> None:
    for name in ("fcos", "fcos_pico"):
        head = build(name, levels=levels, classes=2)
        features = maps(levels, size)
        raw = head(features, size)
        assert head.loss(raw, [truth((5, 5, 30, 40), labels=[1])]).isfinite()
        meta = head.to("meta")(tuple(x.to("meta") for x in features), size)
        assert meta["logits"].shape == raw["logits"].shape


def test_other_precisions_and_layouts() -> None:
    head = pico()
    features = maps(LEVELS, SIZE)
    target = [truth((5, 5, 30, 40), labels=[1])]
    expected = head.loss(head(features, SIZE), target)
    nhwc = tuple(x.to(memory_format=torch.channels_last) for x in features)
    torch.testing.assert_close(head.loss(head(nhwc, SIZE), target), expected, atol=1e-3, rtol=1e-3)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = head.loss(head(features, SIZE), target)
    half = head.bfloat16()(tuple(x.bfloat16() for x in features), SIZE)
    assert half["logits"].dtype == torch.bfloat16
    for loss in (mixed, head.loss(half, target)):
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, expected, atol=0.0, rtol=0.05)
    (found,) = head.decode(half, SIZE)
    assert found.scores is not None
    assert (found.xyxy.dtype, found.scores.dtype) == (torch.float32, torch.float32)


def test_pixels_are_no_target_for_boxes() -> None:
    head = pico()
    with pytest.raises(TypeError, match="boxes of each image"):
        head.loss(blank(head, SIZE), torch.zeros(1, 64, 96, dtype=torch.int64))


def test_over_a_resnet_50_it_is_the_published_detector() -> None:
    """32,269,600 parameters and 128.207 GMACs (torchvision's FCOS_ResNet50_FPN_Weights), whose norms are frozen."""
    levels = tuple(Level(4 << i, 256 << i) for i in range(4))
    with torch.device("meta"), torch.inference_mode():
        body = timm.create_model("resnet50", features_only=True, out_indices=(1, 2, 3, 4)).eval()
        head = build("fcos", levels=levels, classes=91).eval()
        with FlopCounterMode(display=False) as counter:
            head(tuple(body(torch.empty(1, 3, 800, 800))), (800, 800))
    norms = sum(p.numel() for name, p in body.named_parameters() if "bn" in name or "downsample.1" in name)
    assert sum(p.numel() for model in (body, head) for p in model.parameters()) - norms == 32_269_600
    assert counter.get_total_flops() / 2e9 == pytest.approx(128.207, abs=0.001)
