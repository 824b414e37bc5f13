"""What a backbone promises: image in, feature maps out.

Shape letters used in the whole repository: B batch, H W pixels, h w cells of a feature map, C channels, N tokens,
D token width, K classes, P patch size.

This page is the whole contract; a family is one file beside it with

* ``CATALOGUE``, a *literal* dict of variant name -> its numbers (``patch`` is the native patch size). It is read
  without importing the file, so that planning never waits for torch;
* ``build(name, *, patch, size, attention) -> Backbone``.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn

Features: TypeAlias = tuple[Float[Tensor, "B _ _ _"], ...]
Attention: TypeAlias = Literal["auto", "fused", "unfused"]
"""Attention kernel: torch's fused one, the explicit softmax, or whatever the library picks for the model."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Unsupported(ValueError):
    """A combination that cannot exist, said in a sentence that names what would work instead."""


@dataclass(frozen=True)
class Level:
    """One feature map: image pixels per cell, and channels."""

    stride: int
    channels: int


class Backbone(nn.Module, ABC):
    """An image encoder whose output is described by its levels alone.

    Attributes:
        levels: finest first; two levels may share a stride, then the later one is the deeper one.
        divisor: height and width must be multiples of it.
        size: (H, W) in pixels that this instance was built for; position embeddings belong to that size.
        tokens: number of image tokens that the first attention block works on (H·W / P² for a plain ViT).
    """

    levels: tuple[Level, ...]
    divisor: int
    size: tuple[int, int]
    tokens: int
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        size: tuple[int, int],
        *,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        self.size = size
        # Python numbers -> buffers here, so that model.to(device, dtype) moves them; not saved with the weights.
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    @abstractmethod
    def features(self, image: Float[Tensor, "B 3 H W"]) -> Features:
        """Maps of a normalised image; map i is (B, C_i, H / stride_i, W / stride_i), NCHW."""

    def forward(self, image: Float[Tensor, "B 3 H W"]) -> Features:
        """Maps of an RGB image in 0..1.

        Raises:
            Unsupported: the image is not of the size that this backbone was built for.
        """
        if tuple(image.shape[-2:]) != self.size:
            raise Unsupported(
                f"this backbone was built for {self.size[0]}x{self.size[1]} px and got "
                f"{image.shape[-2]}x{image.shape[-1]}; build it with size={tuple(image.shape[-2:])}"
            )
        return self.features((image - self.mean) / self.std)


def check_size(name: str, size: tuple[int, int], divisor: int, *, because: str) -> None:
    """Refuse a size that the divisor does not divide, and say which nearest ones it does.

    Raises:
        Unsupported: height or width is not a positive multiple of ``divisor``.
    """
    height, width = size
    if height > 0 and width > 0 and height % divisor == 0 and width % divisor == 0:
        return
    choices = [f"{h}x{w}" for h in near(height, divisor) for w in near(width, divisor)]
    raise Unsupported(
        f"{name} cannot take {height}x{width} px: {because}, so height and width must be multiples of {divisor}; "
        f"nearest: {', '.join(choices)}"
    )


def near(value: int, divisor: int) -> tuple[int, ...]:
    """``value`` itself when ``divisor`` divides it, else the positive multiples on both sides, lower first."""
    if value > 0 and value % divisor == 0:
        return (value,)
    below = max(value, 0) // divisor * divisor
    return tuple(multiple for multiple in (below, below + divisor) if multiple > 0)


def check_patch(name: str, patch: int, choices: Sequence[int], *, because: str) -> None:
    """Refuse a patch size outside ``choices`` and say which of them are nearest.

    Raises:
        Unsupported: ``patch`` is not one of ``choices``.
    """
    if patch in choices:
        return
    nearest = sorted(sorted(choices, key=lambda choice: (abs(choice - patch), choice))[:2])
    raise Unsupported(f"{name} cannot have patch size {patch}: {because}; nearest: {', '.join(map(str, nearest))}")
