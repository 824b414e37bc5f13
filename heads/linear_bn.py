"""The batch-normed linear probe of DINOv2: all levels side by side, BatchNorm, one linear map to the classes.

Oquab et al. 2023 (arXiv 2304.07193), whose linear evaluation on segmentation normalises the frozen patch tokens by
batch norm and whose stronger variant ("+ms") concatenates those of four blocks; DINOv3 (Siméoni et al. 2025, arXiv
2508.10104) keeps the protocol. Their multi-scale testing belongs to an evaluation, not to a head.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import interpolate

from backbones.contract import Features, Level, Unsupported
from heads.segmentation import SegmentationHead

CATALOGUE = {"linear_bn": {"task": "segmentation", "norms": True, "light": True}}


class BatchNorm2d(nn.BatchNorm2d):
    """Torch's, which says what to do where it cannot work.

    `torch.nn.SyncBatchNorm.convert_sync_batchnorm` takes it for training on several devices, as published.
    """

    def forward(self, input: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:  # noqa: A002 - torch's name
        """Normalised by the batch in training, by the running statistics in evaluation.

        Raises:
            Unsupported: in training, a single value a channel: its variance says nothing.
        """
        if self.training and input.shape[0] * input.shape[2] * input.shape[3] == 1:
            raise Unsupported(
                "batch norm cannot train on one image whose map is a single cell, for each channel then has one value; "
                "take two images or more a batch, a larger image or a smaller patch"
            )
        return super().forward(input)


class LinearBN(SegmentationHead):
    """Levels resized to the finest one, concatenated, BatchNorm, and a 1x1 convolution to K classes.

    Of a plain ViT these are the depths that it exposes, and nothing is resized; of a pyramid its strides. Without
    dropout, and with the classifier's small initial weights (deviation 0.01, bias 0), as published. `heads.linear` is
    the same probe with LayerNorm, which needs no batch; here the scale of each channel is evened out over the batch, so
    a channel that is loud everywhere counts no more than a quiet one.

    Args:
        levels: of the backbone.
        classes: K.
    """

    def __init__(self, levels: tuple[Level, ...], classes: int) -> None:
        super().__init__(classes)
        channels = sum(level.channels for level in levels)
        self.norm = BatchNorm2d(channels)
        self.classifier = nn.Conv2d(channels, classes, kernel_size=1)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.get_parameter("bias"))

    def forward(self, features: Features, size: tuple[int, int]) -> Float[Tensor, "B K h w"]:  # noqa: ARG002 - contract
        """Logits at the resolution of the finest level.

        Raises:
            Unsupported: in training, one image whose finest map is a single cell.
        """
        finest = features[0].shape[-2:]
        maps = [
            x if x.shape[-2:] == finest else interpolate(x, size=finest, mode="bilinear", align_corners=False)
            for x in features
        ]
        return self.classifier(self.norm(torch.cat(maps, dim=1)))


def build(name: str, *, levels: tuple[Level, ...], classes: int) -> LinearBN:
    """Head ``name`` over a backbone's ``levels``."""
    if name not in CATALOGUE:
        raise KeyError(name)
    return LinearBN(levels, classes)
