"""What every segmentation head shares: the loss on its logits, and the way from logits to a class per pixel."""

from abc import abstractmethod
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy, interpolate

from backbones.contract import Features
from heads.contract import IGNORE, Head, Raw, Target, Task


class SegmentationHead(Head):
    """Abstract: a subclass writes ``forward``, which returns logits (B, K, h, w) at whatever resolution it works.

    Attributes:
        loss_stride: every how many pixels, in both directions, the loss looks at the target. 1 is the usual loss on
            all pixels; 2 costs a quarter, which counts on a CPU, where a full-size cross-entropy over many classes can
            cost more than a small model itself.
        class_weights: (K,) weights of the classes in the loss, or None. Not saved with the weights of the model: they
            belong to the training recipe.
    """

    task: Task = "segmentation"
    loss_stride: int = 1
    class_weights: Tensor | None

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.register_buffer("class_weights", None, persistent=False)

    @abstractmethod
    def forward(self, features: Features, size: tuple[int, int]) -> Float[Tensor, "B K h w"]:
        """Logits for feature maps of an image of ``size`` (H, W) pixels."""

    def set_class_weights(self, weights: Float[Tensor, " K"]) -> None:
        """Weigh the classes in the loss.

        Raises:
            ValueError: there is not one weight for each class.
        """
        if weights.shape != (self.classes,):
            raise ValueError(f"{self.classes} classes need {self.classes} weights, got shape {tuple(weights.shape)}")
        device = next((parameter.device for parameter in self.parameters()), weights.device)
        self.class_weights = weights.detach().to(device, torch.float32)

    def loss(self, raw: Raw, target: Target) -> Float[Tensor, ""]:
        """Mean cross-entropy over the pixels of ``target`` (B, H, W) that are not 255, in float32.

        The logits are scaled bilinearly to the target; with a ``loss_stride`` of n to one n-th of it, against every
        n-th pixel from an offset drawn anew each time, so that in expectation every pixel has its say. With class
        weights the mean is weighted as in `torch.nn.functional.cross_entropy`. No pixel to count: 0, with gradient 0.
        """
        labels = subsample(_pixels(target).long(), self.loss_stride)
        height, width = labels.shape[-2:]
        logits = _resize(_tensor(raw).float(), (height, width))
        weights = None if self.class_weights is None else self.class_weights.float()
        total = cross_entropy(logits, labels, weight=weights, ignore_index=IGNORE, reduction="sum")
        counted = labels != IGNORE
        share = counted.sum() if weights is None else (weights[labels.where(counted, 0)] * counted).sum()
        # Where the share is 0 the total is an exact 0 too; dividing by 1 keeps it one instead of NaN.
        return total / share.where(share > 0, 1)

    def decode(self, raw: Raw, size: tuple[int, int]) -> Int[Tensor, "B H W"]:
        """Class of the largest bilinearly scaled logit at each of ``size`` (H, W) pixels.

        Image by image: full-size logits of a whole batch (150 classes, 512 x 2048 px: 0.6 GB an image) never exist.
        """
        logits = _tensor(raw).detach()
        return torch.cat([_resize(image.float(), size).argmax(dim=1) for image in logits.split(1)])


def subsample(labels: Int[Tensor, "B H W"], stride: int) -> Int[Tensor, "B _ _"]:
    """Every ``stride``-th pixel in both directions, from a random offset (torch's CPU generator)."""
    if stride == 1:
        return labels
    top, left = (int(torch.randint(min(stride, extent), ())) for extent in labels.shape[-2:])
    return labels[:, top::stride, left::stride]


def _resize(logits: Float[Tensor, "B K _ _"], size: tuple[int, int]) -> Float[Tensor, "B K h w"]:
    return interpolate(logits, size=size, mode="bilinear", align_corners=False)


def _tensor(raw: Any) -> Tensor:
    if not isinstance(raw, Tensor):
        raise TypeError(f"a segmentation head's raw output is a tensor of logits, got {type(raw).__name__}")
    return raw


def _pixels(target: Target) -> Tensor:
    if not isinstance(target, Tensor):
        raise TypeError(f"a segmentation head learns from a class per pixel, got {type(target).__name__}")
    return target
