"""DPT: four depths of a transformer reassembled at strides 4 to 32, fused from coarse to fine by residual units.

Ranftl et al. 2021 (arXiv 2103.13413), its segmentation model. Reassembling and residual units are
segmentation_models_pytorch's.
"""

import math

import torch
from jaxtyping import Float
from segmentation_models_pytorch.base.initialization import initialize_decoder
from segmentation_models_pytorch.decoders.dpt.decoder import ReassembleBlock, ResidualConvBlock
from torch import Tensor, nn
from torch.nn.functional import interpolate

from backbones.contract import Features, Level
from heads.contract import Raw
from heads.pyramid import Pyramid, map_size
from heads.segmentation import AuxiliaryLoss, auxiliary_classifier, use_group_norm

CATALOGUE = {
    "dpt": {"task": "segmentation", "channels": 256, "dropout": 0.1},
    "dpt_pico": {"task": "segmentation", "channels": 32, "dropout": 0.0},
}

STRIDES = (4, 8, 16, 32)
SHARES = {0: (8, 4, 2, 1), 1024: (4, 2, 1, 1)}
"""From which width D of a transformer on its maps at the four strides have D divided by what number of channels: 96,
192, 384, 768 in DPT-Base and 256, 512, 1024, 1024 in DPT-Large."""


class DPT(AuxiliaryLoss):
    """DPT on any backbone; logits have stride 2.

    Over a plain transformer, levels of one stride, four depths are reassembled as published: 1x1 convolution, then a
    transposed convolution (finer), nothing, or a 3x3 convolution with a stride (coarser), then 3x3 to ``channels``.
    Class and register tokens are not among the levels, so the readout is the paper's "ignore".
    A backbone of several strides gives each level at its own stride, by the last 3x3 convolution alone, as DPT-Hybrid
    takes its stem and MiDaS 3.1 takes Swin (Birkl et al. 2023, arXiv 2307.14460); a stride that it lacks is reassembled
    from the nearest level. What a power of two leaves of a ratio of strides (patch 14) is interpolated.

    Differences from the published code. Maps are scaled with ``align_corners=False``, which keeps every cell where it
    lies in the image (see `heads.pyramid`). The first residual unit of the coarsest level, which has nothing coarser to
    be added to, does not exist; there it has parameters that no gradient reaches. The unit that this level keeps has
    GroupNorm, since a map of stride 32 may be one cell, for which batch norm raises; the others keep batch norm. The
    last fixed scaling by two is left to `decode`.

    The auxiliary head (`set_auxiliary`) is on what the last fusion but one gives, at stride 4, and its loss counts 0.2.

    Args:
        levels: of the backbone.
        classes: K.
        channels: width of the fusion.
        dropout: share of the values dropped before the classifier.
    """

    auxiliary_weight = 0.2

    def __init__(self, levels: tuple[Level, ...], classes: int, *, channels: int, dropout: float) -> None:
        super().__init__(classes)
        with torch.device("meta"):  # which level goes to which stride is the pyramid's to say; its layers are not used
            self.sources = Pyramid(levels, STRIDES, taps=True).sources
        plain = len({level.stride for level in levels}) == 1
        self.reassemble = nn.ModuleList(
            _reassemble(levels[source], stride, channels, share=_shares(levels[source])[i] if plain else None)
            for i, (source, stride) in enumerate(zip(self.sources, STRIDES, strict=True))
        )
        self.fusions = nn.ModuleList(Fusion(channels, coarsest=stride == STRIDES[-1]) for stride in STRIDES)
        self.classifier = nn.Sequential(
            nn.Conv2d(channels, channels, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Conv2d(channels, classes, kernel_size=1),
        )
        initialize_decoder(self.reassemble)
        initialize_decoder(self.fusions)
        self._auxiliary = (channels, dropout)

    def make_auxiliary(self) -> nn.ModuleList:
        """See `AuxiliaryLoss.make_auxiliary`."""
        channels, dropout = self._auxiliary
        return nn.ModuleList([auxiliary_classifier(channels, channels, self.classes, dropout)])

    def forward(self, features: Features, size: tuple[int, int]) -> Raw:
        """Logits (B, K, ceil(H / 2), ceil(W / 2)), and those of the auxiliary head at stride 4 (`AuxiliaryLoss`)."""
        fused: Tensor | None = None
        before: Tensor | None = None
        for i in reversed(range(len(STRIDES))):
            x = _scaled(self.reassemble[i](features[self.sources[i]]), map_size(size, STRIDES[i]))
            before = fused
            fused = self.fusions[i](x, fused, map_size(size, STRIDES[i] // 2))
        logits = self.classifier(fused)
        if self.auxiliary is None or not self.supervised:
            return logits
        return logits, self.auxiliary[0](before)


class Fusion(nn.Module):
    """A map and what came from the coarser ones, through residual units, to twice the resolution."""

    def __init__(self, channels: int, *, coarsest: bool) -> None:
        super().__init__()
        self.own = nn.Identity() if coarsest else ResidualConvBlock(channels)
        self.both = ResidualConvBlock(channels)
        if coarsest:
            use_group_norm(self.both)
        self.project = nn.Conv2d(channels, channels, kernel_size=1)

    def forward(
        self, x: Float[Tensor, "B C h w"], coarser: Float[Tensor, "B C h w"] | None, size: tuple[int, int]
    ) -> Float[Tensor, "B C _ _"]:
        """The fused map at ``size`` (h, w) cells."""
        x = self.own(x)
        if coarser is not None:
            x = x + coarser
        return self.project(_scaled(self.both(x), size))


def _shares(level: Level) -> tuple[int, int, int, int]:
    return SHARES[max(least for least in SHARES if least <= level.channels)]


def _reassemble(level: Level, stride: int, channels: int, *, share: int | None) -> nn.Module:
    """``level`` at ``stride`` but for what a power of two leaves of the ratio; ``share``: of a plain transformer's."""
    doublings = round(math.log2(level.stride / stride))
    if share is None and doublings == 0:
        return nn.Conv2d(level.channels, channels, kernel_size=3, padding=1, bias=False)
    middle = max(1, level.channels // (share or 1))
    return ReassembleBlock(level.channels, middle, channels, upsample_factor=2.0**doublings)  # pyright: ignore[reportArgumentType] - below 1 is meant


def _scaled(x: Float[Tensor, "B C _ _"], size: tuple[int, int]) -> Float[Tensor, "B C h w"]:
    if (x.shape[-2], x.shape[-1]) == size:
        return x
    return interpolate(x, size=size, mode="bilinear", align_corners=False)


def build(name: str, *, levels: tuple[Level, ...], classes: int) -> DPT:
    """Head ``name`` over a backbone's ``levels``."""
    numbers = CATALOGUE[name]
    return DPT(
        levels,
        classes,
        channels=int(numbers["channels"]),
        dropout=float(numbers["dropout"]),
    )
