"""Loss and decoding that all segmentation heads share, on logits given by hand."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, interpolate

from backbones.contract import Features
from heads.contract import Boxes
from heads.segmentation import SegmentationHead, subsample


class Given(SegmentationHead):
    """Its logits are the first feature map."""

    def forward(self, features: Features, size: tuple[int, int]) -> Tensor:
        """The first map."""
        return features[0]


def labels(*shape: int, classes: int) -> Tensor:
    """Random classes."""
    return torch.randint(classes, shape)


def test_loss_by_hand() -> None:
    logits = torch.tensor([[[[0.0, 1.0]], [[0.0, -1.0]]]])  # (1, 2 classes, 1, 2)
    both = Given(2).loss(logits, torch.tensor([[[0, 1]]]))
    assert both.item() == pytest.approx((math.log(2) + math.log(1 + math.exp(2))) / 2)
    first = Given(2).loss(logits, torch.tensor([[[0, 255]]]))
    assert first.item() == pytest.approx(math.log(2))


def test_loss_upsamples_the_logits_to_the_target() -> None:
    logits, target = torch.randn(2, 5, 3, 4), labels(2, 12, 16, classes=5)
    full = interpolate(logits, size=(12, 16), mode="bilinear", align_corners=False)
    torch.testing.assert_close(Given(5).loss(logits, target), cross_entropy(full, target))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("loss_stride", [1, 2])
def test_nothing_to_count_is_a_zero_with_zero_gradient(*, weighted: bool, loss_stride: int) -> None:
    head = Given(3)
    head.loss_stride = loss_stride
    if weighted:
        head.set_class_weights(torch.tensor([0.0, 1.0, 2.0]))
    logits = torch.randn(1, 3, 2, 2, requires_grad=True)
    loss = head.loss(logits, torch.full((1, 5, 7), 255))
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss.item() == 0.0
    assert gradient.abs().sum().item() == 0.0


def test_ignored_pixels_have_no_gradient() -> None:
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    target = labels(1, 4, 4, classes=3)
    target[0, :2] = 255
    (gradient,) = torch.autograd.grad(Given(3).loss(logits, target), logits)
    assert gradient[0, :, :2].abs().max().item() == 0.0
    assert gradient[0, :, 2:].abs().min().item() > 0.0


def test_weighted_loss_is_torchs() -> None:
    head = Given(4)
    weights = torch.tensor([0.1, 1.0, 3.0, 0.0])
    head.set_class_weights(weights)
    logits, target = torch.randn(2, 4, 6, 6), labels(2, 6, 6, classes=4)
    target[:, 0] = 255
    expected = cross_entropy(logits, target, weight=weights, ignore_index=255)
    torch.testing.assert_close(head.loss(logits, target), expected)


def test_only_classes_of_weight_zero_is_finite() -> None:
    head = Given(2)
    head.set_class_weights(torch.tensor([0.0, 1.0]))
    assert head.loss(torch.randn(1, 2, 2, 2), torch.zeros(1, 2, 2, dtype=torch.int64)).item() == 0.0


def test_weights_must_fit_and_are_no_part_of_the_checkpoint() -> None:
    head = Given(3)
    with pytest.raises(ValueError, match="3 classes need 3 weights"):
        head.set_class_weights(torch.ones(2))
    head.set_class_weights(torch.ones(3))
    assert not head.state_dict()


def test_subsample_takes_each_offset_and_every_second_pixel() -> None:
    pixels = torch.arange(16).reshape(1, 4, 4)
    seen = {tuple(subsample(pixels, 2).flatten().tolist()) for _ in range(100)}
    assert seen == {(0, 2, 8, 10), (1, 3, 9, 11), (4, 6, 12, 14), (5, 7, 13, 15)}
    assert subsample(torch.zeros(1, 1, 1, dtype=torch.int64), 2).shape == (1, 1, 1)


def test_half_resolution_loss_looks_at_a_quarter_of_the_pixels() -> None:
    head = Given(3)
    head.loss_stride = 2
    logits, target = torch.randn(1, 3, 2, 2), labels(1, 4, 4, classes=3)
    expected = {round(cross_entropy(logits, target[:, top::2, left::2]).item(), 5) for top in (0, 1) for left in (0, 1)}
    assert {round(head.loss(logits, target).item(), 5) for _ in range(60)} == expected
    assert head.loss(logits, labels(1, 5, 7, classes=3)).isfinite()


def test_decode_is_upsample_and_argmax() -> None:
    logits = torch.randn(3, 6, 5, 7)
    expected = interpolate(logits, size=(23, 17), mode="bilinear", align_corners=False).argmax(1)
    prediction = Given(6).decode(logits.requires_grad_(), (23, 17))
    assert prediction.dtype == torch.int64
    assert torch.equal(prediction, expected)


def test_decode_never_holds_the_logits_of_two_images(monkeypatch: pytest.MonkeyPatch) -> None:
    batches = []

    def spy(x: Tensor, *, size: tuple[int, int], mode: str, align_corners: bool) -> Tensor:
        batches.append(len(x))
        return interpolate(x, size=size, mode=mode, align_corners=align_corners)

    monkeypatch.setattr("heads.segmentation.interpolate", spy)
    Given(2).decode(torch.randn(3, 2, 2, 2), (4, 4))
    assert batches == [1, 1, 1]


def test_bfloat16_logits_are_scored_in_float32() -> None:
    logits, target = torch.randn(1, 3, 4, 4).bfloat16(), labels(1, 8, 8, classes=3)
    head = Given(3)
    head.set_class_weights(torch.ones(3))
    head.bfloat16()
    loss = head.loss(logits, target)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, Given(3).loss(logits.float(), target))
    with torch.autocast("cpu", torch.bfloat16):
        assert head.loss(logits, target).dtype == torch.float32


def test_boxes_are_no_target_for_pixels() -> None:
    boxes = [Boxes(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))]
    with pytest.raises(TypeError, match="class per pixel"):
        Given(2).loss(torch.zeros(1, 2, 1, 1), boxes)
