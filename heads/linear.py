"""The least of all heads: one linear map from a cell's features to its classes.

What it scores is a property of the features, which makes it the probe of the suite (token-to-pixel, as in Segmenter's
linear decoder, Strudel et al. 2021, and DINOv2's linear evaluation, Oquab et al. 2023).
"""

from jaxtyping import Float
from timm.layers.norm import LayerNorm2d
from torch import Tensor, nn
from torch.nn.functional import interpolate

from backbones.contract import Features, Level
from heads.segmentation import SegmentationHead

CATALOGUE = {"linear": {"task": "segmentation", "norms": True, "reads": "deepest", "light": True}}


class Linear(SegmentationHead):
    """LayerNorm and a 1x1 convolution to K classes on every level, summed at the resolution of the finest.

    The norm is there for trainability: raw levels differ in scale by an order of magnitude from backbone to backbone
    and from level to level (a residual stream grows with depth), so that under one learning rate the loudest level
    would drown the others and some backbones would look worse than they are. LayerNorm rather than the BatchNorm of
    DINOv2's probe, since it neither depends on the batch nor needs more than one cell.
    """

    def __init__(self, levels: tuple[Level, ...], classes: int) -> None:
        super().__init__(classes)
        self.norms = nn.ModuleList(LayerNorm2d(level.channels) for level in levels)
        # The sum needs one bias, not one a level.
        self.classifiers = nn.ModuleList(
            nn.Conv2d(level.channels, classes, kernel_size=1, bias=i == 0) for i, level in enumerate(levels)
        )

    def forward(self, features: Features, size: tuple[int, int]) -> Float[Tensor, "B K h w"]:  # noqa: ARG002 - contract
        """Logits at the resolution of the finest level."""
        parts = [
            classifier(norm(x)) for x, norm, classifier in zip(features, self.norms, self.classifiers, strict=True)
        ]
        logits = parts[0]
        for part in parts[1:]:
            if part.shape[-2:] == logits.shape[-2:]:
                logits = logits + part
            else:
                logits = logits + interpolate(part, size=logits.shape[-2:], mode="bilinear", align_corners=False)
        return logits


def build(name: str, *, levels: tuple[Level, ...], classes: int) -> Linear:
    """Head ``name`` over a backbone's ``levels``."""
    if name not in CATALOGUE:
        raise KeyError(name)
    return Linear(levels, classes)
