"""SETR's three decoders for a transformer's maps: naive, progressive upsampling (PUP), multi-level aggregation (MLA).

Zheng et al. 2021 (arXiv 2012.15840), with the numbers of their ADE20K and Cityscapes models. MLA has the auxiliary
heads of the published training where a recipe asks for them. Those of the other two sit on earlier blocks, which these
decoders do not read and a backbone therefore does not give; they are left out.
"""

import math
from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Float
from timm.layers.norm import LayerNorm2d
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, interpolate

from backbones.contract import Features, Level
from heads.contract import Raw
from heads.linear_bn import BatchNorm2d
from heads.pyramid import nearest_level
from heads.segmentation import AuxiliaryLoss, SegmentationHead

CATALOGUE = {
    "setr_naive": {
        "task": "segmentation",
        "norms": True,
        "reads": "deepest",
        "channels": 256,
        "doc": "SETR naive: two 1x1 convolutions on the deepest map",
    },
    "setr_naive_pico": {
        "task": "segmentation",
        "norms": True,
        "reads": "deepest",
        "channels": 64,
        "doc": "SETR naive, 64 channels, for CPU training",
    },
    "setr_pup": {
        "task": "segmentation",
        "norms": True,
        "reads": "deepest",
        "channels": 256,
        "doc": "SETR-PUP: four rounds of 3x3 convolution and x2 upsampling on the deepest map",
    },
    "setr_pup_pico": {
        "task": "segmentation",
        "norms": True,
        "reads": "deepest",
        "channels": 32,
        "doc": "SETR-PUP, 32 channels, for CPU training",
    },
    "setr_mla": {
        "task": "segmentation",
        "norms": True,
        "channels": 256,
        "branch": 128,
        "doc": "SETR-MLA: four depths aggregated top-down, a branch of convolutions for each",
    },
    "setr_mla_pico": {
        "task": "segmentation",
        "norms": True,
        "channels": 64,
        "branch": 32,
        "doc": "SETR-MLA, 64 channels and branches of 32, for CPU training",
    },
}

STRIDE = 16
"""Pixels a cell of the maps that the published decoders work on."""
ROUNDS = 4
"""Convolutions of PUP."""
DEPTHS = 4
"""Maps that MLA aggregates."""
FACTOR = 4
"""By which MLA's branches are upsampled."""


class DeepMap(nn.Module):
    """One map out of a backbone's levels, for decoders that were published for a plain ViT's last map alone.

    It is the level whose stride is nearest to 16 (of several the deepest), and for a plain ViT nothing else. A pyramid
    that goes on to coarser levels has these resized bilinearly and put beside it: read alone, stride 16 would leave the
    last stage of a Swin or ResNet (half of its parameters) without a part in the prediction and without a gradient.

    Args:
        levels: of the backbone.
        norm: a LayerNorm on each map: "always", or only where several are "joined", since raw stages differ in scale.

    Attributes:
        sources: indices of the levels that are read, the one that gives the resolution first.
        stride: of the result.
        width: channels of the level that gives the resolution.
        channels: of the result.
    """

    def __init__(self, levels: tuple[Level, ...], *, norm: Literal["always", "joined"]) -> None:
        super().__init__()
        first = nearest_level(levels, STRIDE)
        self.stride = levels[first].stride
        self.width = levels[first].channels
        self.sources = (first, *(i for i, level in enumerate(levels) if level.stride > self.stride))
        widths = [levels[i].channels for i in self.sources]
        self.channels = sum(widths)
        normed = norm == "always" or len(widths) > 1
        self.norms = nn.ModuleList(LayerNorm2d(width) if normed else nn.Identity() for width in widths)

    def forward(self, features: Features) -> Float[Tensor, "B C h w"]:
        """The map (B, channels, h, w) with the cells of level ``sources[0]``."""
        cells = features[self.sources[0]].shape[-2:]
        maps = [norm(features[i]) for i, norm in zip(self.sources, self.norms, strict=True)]
        return torch.cat([resized(x, (cells[0], cells[1])) for x in maps], dim=1) if len(maps) > 1 else maps[0]


def resized(x: Float[Tensor, "B C _ _"], cells: tuple[int, int]) -> Float[Tensor, "B C h w"]:
    """A map at ``cells`` (h, w): bilinear to finer ones, the mean of the covered cells to coarser ones.

    Not bilinear to coarser ones too, where it would skip most of the cells (12 of 16 from stride 4 to 16).
    """
    if (x.shape[-2], x.shape[-1]) == cells:
        return x
    if x.shape[-2] >= cells[0] and x.shape[-1] >= cells[1]:
        return adaptive_avg_pool2d(x, cells)
    return interpolate(x, size=cells, mode="bilinear", align_corners=False)


def upsampled(x: Float[Tensor, "B C _ _"], factor: int, image: tuple[int, int]) -> Float[Tensor, "B C h w"]:
    """A map finer by ``factor``, though never finer than the ``image`` (H, W)."""
    return resized(x, (min(factor * x.shape[-2], image[0]), min(factor * x.shape[-1], image[1])))


def convolution(inner: int, outer: int, kernel: int) -> nn.Sequential:
    """Convolution that keeps the resolution, batch norm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(inner, outer, kernel, padding=kernel // 2, bias=False), BatchNorm2d(outer), nn.ReLU(inplace=True)
    )


class Naive(SegmentationHead):
    """LayerNorm, then 1x1 convolution, batch norm, ReLU and 1x1 convolution to K classes, on a `DeepMap`.

    The logits have the stride of the map. The published head scales them to the image in one bilinear step, which is
    what `heads.segmentation.SegmentationHead` does with them in loss and decode.

    Args:
        levels: of the backbone.
        classes: K.
        channels: between the two convolutions.
    """

    def __init__(self, levels: tuple[Level, ...], classes: int, *, channels: int) -> None:
        super().__init__(classes)
        self.map = DeepMap(levels, norm="always")
        self.hidden = convolution(self.map.channels, channels, 1)
        self.classifier = nn.Conv2d(channels, classes, kernel_size=1)

    def forward(self, features: Features, size: tuple[int, int]) -> Float[Tensor, "B K h w"]:  # noqa: ARG002 - contract
        """Logits at the stride of the map.

        Raises:
            Unsupported: in training, one image whose map is a single cell.
        """
        return self.classifier(self.hidden(self.map(features)))


class PUP(SegmentationHead):
    """LayerNorm, then four 3x3 convolutions (batch norm, ReLU) with x2 upsampling after each, on a `DeepMap`.

    From stride 16 this ends at the full resolution, where a 1x1 convolution gives K classes. From a coarser map it ends
    at stride / 16. From a finer one fewer steps lead to the full resolution (stride 8: three), and it is the first
    convolutions that are not followed by one, so that none ever runs at full resolution. Where the stride is no power
    of two (patch 14) the last step goes to the image's size and no further.

    Args:
        levels: of the backbone.
        classes: K.
        channels: of each convolution.
    """

    def __init__(self, levels: tuple[Level, ...], classes: int, *, channels: int) -> None:
        super().__init__(classes)
        self.map = DeepMap(levels, norm="always")
        widths = [self.map.channels, *[channels] * ROUNDS]
        self.rounds = nn.ModuleList(convolution(inner, outer, 3) for inner, outer in pairwise(widths))
        self.doublings = min(ROUNDS, math.ceil(math.log2(self.map.stride)))
        self.classifier = nn.Conv2d(channels, classes, kernel_size=1)

    def forward(self, features: Features, size: tuple[int, int]) -> Float[Tensor, "B K h w"]:
        """Logits (B, K, H, W) for a map of stride 16 or finer; from stride 32 they have stride 2.

        Raises:
            Unsupported: in training, one image whose map is a single cell.
        """
        x = self.map(features)
        for i, layer in enumerate(self.rounds):
            x = layer(x)
            if i >= ROUNDS - self.doublings:
                x = upsampled(x, 2, size)
        return self.classifier(x)


class MLA(AuxiliaryLoss):
    """Four maps, each through a branch of its own, joined at four times their resolution.

    Each map passes LayerNorm and a 1x1 convolution; from the deepest to the first they are added up; each sum passes a
    3x3 convolution, then the two of its branch, and is upsampled by 4. The branches are concatenated and a 1x1
    convolution gives K classes. All but the last convolution have batch norm and ReLU.

    A plain ViT gives its four depths. Of a pyramid the deepest level of each of the four coarsest strides is taken and
    brought to the stride nearest to 16, see `resized`. A backbone with fewer levels gets fewer branches.

    The auxiliary heads (`set_auxiliary`) are a 1x1 convolution to K classes on each sum after its 3x3 convolution; the
    loss of each counts 0.4, as in MMSegmentation's configuration.

    Args:
        levels: of the backbone.
        classes: K.
        channels: of the aggregated maps.
        branch: channels of each branch.
    """

    auxiliary_weight = 0.4

    def __init__(self, levels: tuple[Level, ...], classes: int, *, channels: int, branch: int) -> None:
        super().__init__(classes)
        self.sources = chosen(levels)
        read = tuple(levels[i] for i in self.sources)
        self.base = self.sources[nearest_level(read, STRIDE)]
        widths = [level.channels for level in read]
        self.norms = nn.ModuleList(LayerNorm2d(width) for width in widths)
        self.project = nn.ModuleList(convolution(width, channels, 1) for width in widths)
        self.fuse = nn.ModuleList(convolution(channels, channels, 3) for _ in widths)
        self.branches = nn.ModuleList(
            nn.Sequential(convolution(channels, branch, 3), convolution(branch, branch, 3)) for _ in widths
        )
        self.classifier = nn.Conv2d(len(widths) * branch, classes, kernel_size=1)
        self._channels = channels

    def make_auxiliary(self) -> nn.ModuleList:
        """See `AuxiliaryLoss.make_auxiliary`."""
        return nn.ModuleList(nn.Conv2d(self._channels, self.classes, kernel_size=1) for _ in self.sources)

    def forward(self, features: Features, size: tuple[int, int]) -> Raw:
        """Logits at a quarter of the stride nearest to 16: of stride 4 for a plain ViT of patch 16.

        Those of the auxiliary heads (`AuxiliaryLoss`), deepest first, have the stride nearest to 16 itself.

        Raises:
            Unsupported: in training, one image whose map is a single cell.
        """
        h, w = features[self.base].shape[-2:]
        total: Tensor | None = None
        parts: list[Tensor] = []
        others: list[Tensor] = []
        for i in reversed(range(len(self.sources))):
            x = self.project[i](resized(self.norms[i](features[self.sources[i]]), (h, w)))
            total = x if total is None else total + x
            aggregated = self.fuse[i](total)
            if self.auxiliary is not None and self.supervised:
                others.append(self.auxiliary[i](aggregated))
            parts.append(upsampled(self.branches[i](aggregated), FACTOR, size))
        logits = self.classifier(torch.cat(parts, dim=1))
        return (logits, *others) if others else logits


def chosen(levels: tuple[Level, ...]) -> tuple[int, ...]:
    """Indices, finest first, of the at most four levels that MLA aggregates.

    Of one stride: spread evenly over the depth, the last one included. Of several: the deepest of each, the four
    coarsest.
    """
    deepest = tuple({level.stride: i for i, level in enumerate(levels)}.values())
    if len(deepest) > 1:
        return tuple(sorted(deepest, key=lambda i: levels[i].stride))[-DEPTHS:]
    count = min(DEPTHS, len(levels))
    return tuple(len(levels) - 1 - (count - 1 - k) * len(levels) // count for k in range(count))


def build(name: str, *, levels: tuple[Level, ...], classes: int) -> Naive | PUP | MLA:
    """Head ``name`` over a backbone's ``levels``."""
    numbers = CATALOGUE[name]
    channels = int(numbers["channels"])
    if name.startswith("setr_naive"):
        return Naive(levels, classes, channels=channels)
    if name.startswith("setr_pup"):
        return PUP(levels, classes, channels=channels)
    return MLA(levels, classes, channels=channels, branch=int(numbers["branch"]))
