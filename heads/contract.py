"""What a head promises: feature maps in, a prediction per pixel or per object out.

This page is the whole contract; a head is one file beside it with

* ``CATALOGUE``, a *literal* dict of head name -> ``{"task": "segmentation" | "detection"}`` (and its numbers), read
  without importing the file;
* ``build(name, *, levels, classes) -> Head``.

A head never learns more about a backbone than its levels.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from backbones.contract import Backbone, Features

Task: TypeAlias = Literal["segmentation", "detection"]
Raw: TypeAlias = Any
"""Tensors private to the head (a tensor, or a tuple or dict of tensors): only its own loss and decode read them."""

IGNORE = 255
"""Label of the pixels that count neither in a loss nor in a metric."""


@dataclass
class Boxes:
    """The objects of one image, as truth (no scores) or as prediction.

    xyxy: (M, 4) float, pixels of the image that they belong to, x1 <= x2, y1 <= y2.
    labels: (M,) int64 in 0..K-1 (no background class).
    scores: (M,) float in 0..1, falling; None for truth.
    ignore: (M,) bool; truth that is neither to be found nor to be punished (VOC `difficult`, COCO crowd).
    """

    xyxy: Float[Tensor, "M 4"]
    labels: Int[Tensor, " M"]
    scores: Float[Tensor, " M"] | None = None
    ignore: Bool[Tensor, " M"] | None = None


Target: TypeAlias = Int[Tensor, "B H W"] | list[Boxes]
"""Truth of a batch: class per pixel (255 = ignore), or the objects of each image."""

Prediction: TypeAlias = Int[Tensor, "B H W"] | list[Boxes]
"""Class per pixel, or the objects of each image with scores."""


class Head(nn.Module, ABC):
    """Turns feature maps into predictions for one task.

    Attributes:
        task: what it predicts.
        classes: K; for segmentation with the background, for detection without.
        loss_stride: 2 asks for the pixel loss on every second row and column, which costs a quarter; a head without a
            loss per pixel has no use for it.
    """

    task: Task
    classes: int
    loss_stride: int = 1

    @abstractmethod
    def forward(self, features: Features, size: tuple[int, int]) -> Raw:
        """Raw outputs for feature maps of an image of ``size`` (H, W) pixels."""

    @abstractmethod
    def loss(self, raw: Raw, target: Target) -> Float[Tensor, ""]:
        """Scalar training loss; finite and differentiable for an empty or all-ignored target too."""

    @abstractmethod
    def decode(self, raw: Raw, size: tuple[int, int]) -> Prediction:
        """Prediction at ``size`` (H, W) pixels, which need not be the size of the input."""

    def set_class_weights(self, weights: Float[Tensor, " K"]) -> None:
        """Weights of the classes in the loss; a head that has no use for them leaves this as it is."""


class Model(nn.Module):
    """A backbone under a head: RGB image (B, 3, H, W) in 0..1 in, the head's raw outputs out.

    Training is ``model.loss(model(image), target)``, prediction ``model.decode(model(image), size)``.
    """

    backbone: Backbone
    head: Head

    def __init__(self, backbone: Backbone, head: Head) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    @property
    def task(self) -> Task:
        """Task of the head."""
        return self.head.task

    def forward(self, image: Float[Tensor, "B 3 H W"]) -> Raw:
        """Raw outputs of the head."""
        return self.head(self.backbone(image), (image.shape[-2], image.shape[-1]))

    def loss(self, raw: Raw, target: Target) -> Float[Tensor, ""]:
        """See `Head.loss`."""
        return self.head.loss(raw, target)

    @torch.no_grad()
    def decode(self, raw: Raw, size: tuple[int, int]) -> Prediction:
        """See `Head.decode`."""
        return self.head.decode(raw, size)
