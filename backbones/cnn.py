"""A small convolutional network, for what a receptive field that ends does and does not see.

Pre-activation residual blocks (He et al. 2016, arXiv 1603.05027) at strides 4, 8 and 16 behind a stem of two
convolutions of stride 2. Unlike a ResNet-50 it is shallow enough for its receptive field to be smaller than the image:
a cell of the coarsest level sees the 95 x 95 pixels around it and nothing else.
"""

from jaxtyping import Float
from torch import Tensor, nn

from backbones.contract import Attention, Backbone, Features, Level, Window, check_patch, check_size

CATALOGUE = {
    "cnn_pico": {
        "patch": 4,
        "levels": "raw",
        "width": 48,
        "doc": "residual convolutions of 48, 96 and 192 channels at strides 4 to 16, for CPU training",
    }
}
LEVELS = 3
_STEM = 4


class Block(nn.Module):
    """Two 3x3 convolutions, each behind batch norm and ReLU, added to their input; the first may reduce."""

    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.before = nn.Sequential(nn.BatchNorm2d(inner), nn.ReLU())
        self.convolutions = nn.Sequential(
            nn.Conv2d(inner, outer, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outer),
            nn.ReLU(),
            nn.Conv2d(outer, outer, 3, 1, 1, bias=False),
        )
        self.shortcut = nn.Conv2d(inner, outer, 1, stride, bias=False) if stride > 1 else nn.Identity()

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B D _ _"]:
        """The map, of half the side where the block reduces."""
        x = self.before(x)
        return self.shortcut(x) + self.convolutions(x)


class ConvNet(Backbone):
    """Levels at strides 4, 8 and 16: the residual stream as it is."""

    def __init__(self, *, width: int, size: tuple[int, int]) -> None:
        super().__init__(size)
        self.stem = nn.Sequential(
            nn.Conv2d(3, width // 2, 3, 2, 1, bias=False),
            nn.BatchNorm2d(width // 2),
            nn.ReLU(),
            nn.Conv2d(width // 2, width, 3, 2, 1, bias=False),
        )
        widths = [width << stage for stage in range(LEVELS)]
        self.stages = nn.ModuleList(
            Block(widths[max(0, stage - 1)], widths[stage], stride=2 if stage else 1) for stage in range(LEVELS)
        )
        self.levels = tuple(Level(_STEM << stage, one) for stage, one in enumerate(widths))
        self.divisor = self.levels[-1].stride
        self.tokens = (size[0] // _STEM) * (size[1] // _STEM)

    def features(self, image: Float[Tensor, "B 3 H W"]) -> Features:
        """Three maps, (B, C·2^i, H / (4·2^i), W / (4·2^i))."""
        maps = []
        x = self.stem(image)
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return tuple(maps)


def build(
    name: str,
    *,
    patch: int,
    size: tuple[int, int],
    attention: Attention = "auto",  # noqa: ARG001 - it has none
    window: Window = "keep",  # noqa: ARG001 - nor windows
) -> ConvNet:
    """With random weights; ``patch`` in pixels, ``size`` (H, W) in pixels.

    Raises:
        Unsupported: another patch size than 4, or a size that 16 does not divide; names the nearest.
    """
    check_patch(name, patch, (_STEM,), because="its stem divides the image by 4")
    check_size(name, size, _STEM << (LEVELS - 1), because="its coarsest map has stride 16")
    return ConvNet(width=CATALOGUE[name]["width"], size=size)
