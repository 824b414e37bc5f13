"""UPerNet: pyramid pooling over the coarsest map, a top-down pathway, and one fusion of all scales.

Xiao et al. 2018 (arXiv 1807.10221), with the numbers of Swin's ADE20K models (Liu et al. 2021, arXiv 2103.14030). The
decoder is segmentation_models_pytorch's.
"""

from segmentation_models_pytorch.base.initialization import initialize_decoder
from segmentation_models_pytorch.decoders.upernet.decoder import UPerNetDecoder
from torch import nn

from backbones.contract import Features, Level
from heads.contract import Raw
from heads.pyramid import Pyramid
from heads.segmentation import AuxiliaryLoss, auxiliary_classifier, use_group_norm

CATALOGUE = {
    "upernet": {"task": "segmentation", "norms": True, "channels": 512, "dropout": 0.1, "auxiliary": 256},
    "upernet_pico": {"task": "segmentation", "norms": True, "channels": 32, "dropout": 0.0, "auxiliary": 16},
}

STRIDES = (4, 8, 16, 32)


class UPerNet(AuxiliaryLoss):
    """UPerNet on maps of strides 4, 8, 16, 32; logits have stride 4.

    A backbone that has these four strides is taken exactly as published. Any other is brought to them by a `Pyramid`
    that keeps the widths; from a plain ViT of width D it takes four depths, the earliest at stride 4, as BEiT does (Bao
    et al. 2022, arXiv 2106.08254), but with D/4, D/2, D, D channels where BEiT's maps all have D.

    Batch norm cannot work in the pooling module: its first branch has one cell an image, so a batch of one raises in
    training and a batch of two reduces every channel to its sign; published training had 16 images in synchronised
    batches. That module gets GroupNorm, with equally many parameters. The rest keeps batch norm as published: with
    GroupNorm there too, 150 steps of 8 images reached 14 instead of 24 % mIoU (hybrid_pico, scenes, 128 px).

    Args:
        levels: of the backbone.
        classes: K.
        channels: width of the decoder, a multiple of 16.
        dropout: share of the channels dropped before the classifier.
        auxiliary: width of the auxiliary head (`set_auxiliary`): one 3x3 convolution and a classifier on the map of
            stride 16, whose loss counts 0.4, as in MMSegmentation's configurations of UPerNet.
    """

    auxiliary_weight = 0.4

    def __init__(
        self, levels: tuple[Level, ...], classes: int, *, channels: int, dropout: float, auxiliary: int = 256
    ) -> None:
        super().__init__(classes)
        self.pyramid = Pyramid(levels, STRIDES, taps=True)
        widths = [level.channels for level in self.pyramid.levels]
        # The decoder counts from strides 1 and 2, which it then leaves out; they have no channels here.
        self.decoder = UPerNetDecoder([0, 0, *widths], encoder_depth=len(widths) + 1, decoder_channels=channels)
        use_group_norm(self.decoder.psp)
        initialize_decoder(self.decoder)
        self.classifier = nn.Sequential(nn.Dropout2d(dropout), nn.Conv2d(channels, classes, kernel_size=1))
        self._auxiliary = (widths[STRIDES.index(16)], auxiliary, dropout)

    def make_auxiliary(self) -> nn.ModuleList:
        """See `AuxiliaryLoss.make_auxiliary`."""
        inner, width, dropout = self._auxiliary
        return nn.ModuleList([auxiliary_classifier(inner, width, self.classes, dropout)])

    def forward(self, features: Features, size: tuple[int, int]) -> Raw:
        """Logits (B, K, ceil(H / 4), ceil(W / 4)), and those of the auxiliary head at stride 16 (`AuxiliaryLoss`)."""
        maps = self.pyramid(features, size)
        logits = self.classifier(self.decoder([maps[0], maps[0], *maps]))  # the first two are never read
        if self.auxiliary is None or not self.supervised:
            return logits
        return logits, self.auxiliary[0](maps[STRIDES.index(16)])


def build(name: str, *, levels: tuple[Level, ...], classes: int) -> UPerNet:
    """Head ``name`` over a backbone's ``levels``."""
    numbers = CATALOGUE[name]
    return UPerNet(
        levels,
        classes,
        channels=int(numbers["channels"]),
        dropout=float(numbers["dropout"]),
        auxiliary=int(numbers["auxiliary"]),
    )
