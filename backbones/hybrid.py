"""Convolutional stem under a plain transformer: fine maps from the stem, the coarsest from the transformer.

Two kinds, by how much of the work the stem does:

* ``hybrid_pico``, ``_tiny``, ``_small``: a light stem (Xiao et al. 2021, "Early convolutions help transformers see
  better", arXiv 2106.14881). Stride-2 3x3 convolutions, each with batch norm and ReLU, take the image down to the token
  stride and a 1x1 convolution makes tokens of it. The published models trade one transformer block for the stem:
  ViT_C-1GF is ``hybrid_tiny``, ViT_C-4GF ``hybrid_small``.
* ``hybrid_r…``: a residual network as the stem (R+ViT: Dosovitskiy et al. 2021, arXiv 2010.11929; Steiner et al. 2021,
  arXiv 2106.10270). R26 has 2-2-2-2 blocks and ends at stride 32, R50 3-4-9 at stride 16 or 3-4-6-3 at stride 32;
  weights are standardised and group norm follows.

Every map of the stem from stride 4 on that is finer than the tokens is a level: detail that a plain ViT never has.
"""

from typing import cast

import timm
from jaxtyping import Float
from timm.layers import ConvNormAct, HybridEmbed
from timm.models.resnetv2 import ResNetV2
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from backbones.attention import set_attention
from backbones.contract import Attention, Backbone, Features, Level, Window, check_patch, check_size
from backbones.parameters import without_decay

CATALOGUE = {
    "hybrid_pico": {
        "patch": 16,
        "width": 96,
        "depth": 4,
        "heads": 3,
        "doc": "convolutional stem and 4 transformer blocks of 96, for CPU training",
    },
    "hybrid_tiny": {
        "patch": 16,
        "width": 192,
        "depth": 11,
        "heads": 3,
        "doc": "ViT_C-1GF: convolutional stem and 11 transformer blocks of 192",
    },
    "hybrid_small": {
        "patch": 16,
        "width": 384,
        "depth": 11,
        "heads": 6,
        "doc": "ViT_C-4GF: convolutional stem and 11 transformer blocks of 384",
    },
    "hybrid_r26_s32": {
        "patch": 32,
        "timm": "vit_small_r26_s32_224",
        "tag": "augreg_in21k_ft_in1k",
        "doc": "R26+ViT-S/32: residual network of 8 blocks and 12 transformer blocks of 384",
    },
    "hybrid_r50_b16": {
        "patch": 16,
        "timm": "vit_base_r50_s16_224",
        "tag": "orig_in21k",
        "doc": "R50+ViT-B/16: residual network of 16 blocks and 12 transformer blocks of 768",
    },
    "hybrid_r50_l32": {
        "patch": 32,
        "timm": "vit_large_r50_s32_224",
        "tag": "augreg_in21k_ft_in1k",
        "doc": "R50+ViT-L/32: residual network of 16 blocks and 24 transformer blocks of 1024",
    },
}
"""``timm`` and ``tag`` as in `backbones.vit`; for a residual stem ``patch`` is the stride at which it ends."""
PATCHES = (8, 16, 32)
MULTIPLES = (1, 2, 4)
"""Cells of the residual stem's last map that one token can take, on a side."""
_EXPOSED = (4, 8)


class Hybrid(Backbone):
    """Stem maps at stride 4 and 8, then the transformer's map at stride P (a second map at stride 8 for P = 8)."""

    def __init__(self, *, width: int, depth: int, heads: int, patch: int, size: tuple[int, int]) -> None:
        super().__init__(size)
        convolutions = patch.bit_length() - 1
        # Channels double with every halving and end at the width of the tokens, as published for P = 16.
        channels = [max(8, width >> (convolutions - 1 - step)) for step in range(convolutions)]
        self.stem = nn.ModuleList(
            ConvNormAct(inner, outer, kernel_size=3, stride=2)
            for inner, outer in zip([3, *channels[:-1]], channels, strict=True)
        )
        self.grid = (size[0] // patch, size[1] // patch)
        # Its patch embedding of patch size 1 is the 1x1 convolution that ends the stem.
        self.transformer = VisionTransformer(
            img_size=self.grid,
            patch_size=1,
            in_chans=channels[-1],
            embed_dim=width,
            depth=depth,
            num_heads=heads,
            num_classes=0,
            global_pool="",
        )
        self.levels = (*(Level(s, channels[s.bit_length() - 2]) for s in _EXPOSED), Level(patch, width))
        self.divisor = patch
        self.tokens = self.grid[0] * self.grid[1]

    def features(self, image: Float[Tensor, "B 3 H W"]) -> Features:
        """Three maps: (B, C, H/4, W/4), (B, 2C, H/8, W/8) of the stem, (B, D, H/P, W/P) of the transformer."""
        maps = []
        for step, layer in enumerate(self.stem, 1):
            image = layer(image)
            if 1 << step in _EXPOSED:
                maps.append(image)
        tokens = self.transformer.forward_intermediates(
            image, indices=1, norm=True, output_fmt="NCHW", intermediates_only=True
        )
        return (*maps, *cast("list[Tensor]", tokens))

    def no_weight_decay(self) -> set[str]:
        """See `Backbone.no_weight_decay`."""
        return without_decay(self)


class ResidualHybrid(Backbone):
    """A residual network's maps from stride 4 on, as far as they are finer than the tokens, then timm's transformer."""

    def __init__(self, transformer: VisionTransformer, *, patch: int, size: tuple[int, int]) -> None:
        super().__init__(size)
        self.transformer = transformer
        self.grid = (size[0] // patch, size[1] // patch)
        _, stem = self._parts()
        # Entry 0 describes the stride-2 map of the first convolution, the others the stages.
        stages = tuple(Level(info["reduction"], info["num_chs"]) for info in stem.feature_info[1:])
        finer = tuple(level for level in stages if level.stride < patch)
        self.levels = (*finer, Level(patch, transformer.embed_dim))
        self.divisor = patch
        self.tokens = self.grid[0] * self.grid[1]
        self._finer = len(finer)

    def features(self, image: Float[Tensor, "B 3 H W"]) -> Features:
        """Maps (B, 256·2^i, H/(4·2^i), W/(4·2^i)) of the stem, then (B, D, H/P, W/P) after the transformer's norm."""
        embed, stem = self._parts()
        maps = []
        x = stem.stem(image)
        for stage in stem.stages:
            x = stage(x)
            maps.append(x)
        # What timm does behind the stem, from its public parts; the stem itself runs once.
        tokens = embed.proj(stem.norm(x)).flatten(2).transpose(1, 2)
        tokens = self.transformer.norm_pre(self.transformer.patch_drop(self.transformer._pos_embed(tokens)))  # noqa: SLF001
        for block in self.transformer.blocks:
            tokens = block(tokens)
        grid = self.transformer.norm(tokens)[:, self.transformer.num_prefix_tokens :]
        last = grid.transpose(1, 2).reshape(len(image), -1, *self.grid)
        return (*maps[: self._finer], last)

    @property
    def published(self) -> nn.Module:
        """The VisionTransformer of timm, whose patch embedding holds the residual network."""
        return self.transformer

    def no_weight_decay(self) -> set[str]:
        """See `Backbone.no_weight_decay`."""
        return without_decay(self)

    def _parts(self) -> tuple[HybridEmbed, ResNetV2]:
        embed = self.transformer.patch_embed
        assert isinstance(embed, HybridEmbed)
        stem = embed.backbone
        assert isinstance(stem, ResNetV2)
        return embed, stem


def build(
    name: str,
    *,
    patch: int,
    size: tuple[int, int],
    attention: Attention = "auto",
    window: Window = "keep",  # noqa: ARG001 - it has no windows
) -> Hybrid | ResidualHybrid:
    """A hybrid with random weights; ``patch`` (the stride of its tokens) and ``size`` (H, W) in pixels.

    Raises:
        Unsupported: the stem cannot reach that stride, or it does not divide the size; names the nearest.
    """
    facts = CATALOGUE[name]
    residual = "timm" in facts
    if residual:
        stride = facts["patch"]
        choices = tuple(stride * multiple for multiple in MULTIPLES)
        check_patch(name, patch, choices, because=f"its stem ends at stride {stride} and tokens are whole cells of it")
    else:
        check_patch(name, patch, PATCHES, because="its stem halves the image and is exposed at strides 4 and 8")
    check_size(f"{name} with patch {patch}", size, patch, because="the stem halves the image down to the token grid")
    backbone: Hybrid | ResidualHybrid
    if residual:
        transformer = timm.create_model(
            facts["timm"], img_size=size, patch_size=patch // facts["patch"], num_classes=0, global_pool=""
        )
        assert isinstance(transformer, VisionTransformer)
        backbone = ResidualHybrid(transformer, patch=patch, size=size)
    else:
        backbone = Hybrid(width=facts["width"], depth=facts["depth"], heads=facts["heads"], patch=patch, size=size)
    set_attention(backbone, attention)
    return backbone
