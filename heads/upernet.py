"""UPerNet: pyramid pooling over the coarsest map, a top-down pathway, and one fusion of all scales.

Xiao et al. 2018 (arXiv 1807.10221), with the numbers of Swin's ADE20K models (Liu et al. 2021, arXiv 2103.14030). The
decoder is segmentation_models_pytorch's.
"""

from jaxtyping import Float
from segmentation_models_pytorch.base.initialization import initialize_decoder
from segmentation_models_pytorch.decoders.upernet.decoder import UPerNetDecoder
from torch import Tensor, nn

from backbones.contract import Features, Level
from heads.contract import Raw, Target
from heads.pyramid import Pyramid
from heads.segmentation import SegmentationHead, use_group_norm

CATALOGUE = {
    "upernet": {"task": "segmentation", "channels": 512, "dropout": 0.1, "auxiliary": 256},
    "upernet_pico": {"task": "segmentation", "channels": 32, "dropout": 0.0, "auxiliary": 16},
}

STRIDES = (4, 8, 16, 32)
AUXILIARY = 0.4
"""Weight of the auxiliary loss."""


class UPerNet(SegmentationHead):
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
        self.auxiliary: nn.Module | None = None
        self._auxiliary = (widths[STRIDES.index(16)], auxiliary, dropout)

    def set_auxiliary(self) -> bool:
        """See `Head.set_auxiliary`."""
        inner, width, dropout = self._auxiliary
        self.auxiliary = nn.Sequential(
            nn.Conv2d(inner, width, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Dropout2d(dropout),
            nn.Conv2d(width, self.classes, kernel_size=1),
        ).to(next(self.classifier.parameters()).device)
        return True

    def forward(self, features: Features, size: tuple[int, int]) -> Raw:
        """Logits (B, K, ceil(H / 4), ceil(W / 4)); in training with an auxiliary head, its own at stride 16, too."""
        maps = self.pyramid(features, size)
        logits = self.classifier(self.decoder([maps[0], maps[0], *maps]))  # the first two are never read
        if self.auxiliary is None or not self.training:
            return logits
        return logits, self.auxiliary(maps[STRIDES.index(16)])

    def loss(self, raw: Raw, target: Target) -> Float[Tensor, ""]:
        """See `SegmentationHead.loss`; the auxiliary one counts `AUXILIARY` on top of it."""
        if isinstance(raw, tuple):
            logits, auxiliary = raw
            return super().loss(logits, target) + AUXILIARY * super().loss(auxiliary, target)
        return super().loss(raw, target)


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
