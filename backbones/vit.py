"""Plain vision transformer (Dosovitskiy et al. 2021, arXiv 2010.11929): four depths, all at the stride of the patch.

In a catalogue ``timm`` is the architecture of timm whose published checkpoints have the names and the native geometry
of this one, and ``tag`` is the one among them that timm takes by default; an entry without them has no checkpoint.
"""

from typing import cast

from jaxtyping import Bool, Float
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from backbones.attention import set_attention
from backbones.contract import Attention, Features, Level, TokenBackbone, Window, check_patch, check_size
from backbones.parameters import without_decay

CATALOGUE = {
    "vit_pico": {
        "patch": 16,
        "width": 96,
        "depth": 4,
        "heads": 3,
        "doc": "plain ViT, 4 blocks of 96, for CPU training",
    },
    "vit_tiny": {
        "patch": 16,
        "width": 192,
        "depth": 12,
        "heads": 3,
        "timm": "vit_tiny_patch16_224",
        "tag": "augreg_in21k_ft_in1k",
        "doc": "plain ViT-Ti, 12 blocks of 192",
    },
    "vit_small": {
        "patch": 16,
        "width": 384,
        "depth": 12,
        "heads": 6,
        "timm": "vit_small_patch16_224",
        "tag": "augreg_in21k_ft_in1k",
        "doc": "plain ViT-S, 12 blocks of 384",
    },
    "vit_base": {
        "patch": 16,
        "width": 768,
        "depth": 12,
        "heads": 12,
        "timm": "vit_base_patch16_224",
        "tag": "augreg2_in21k_ft_in1k",
        "doc": "plain ViT-B, 12 blocks of 768",
    },
    "vit_large": {
        "patch": 16,
        "width": 1024,
        "depth": 24,
        "heads": 16,
        "timm": "vit_large_patch16_224",
        "tag": "augreg_in21k_ft_in1k",
        "doc": "plain ViT-L, 24 blocks of 1024",
    },
    "vit_huge": {
        "patch": 14,
        "width": 1280,
        "depth": 32,
        "heads": 16,
        "timm": "vit_huge_patch14_224",
        "tag": "orig_in21k",
        "doc": "plain ViT-H, 32 blocks of 1280",
    },
}
PATCHES = tuple(range(1, 65))


class PlainTransformer(TokenBackbone):
    """A timm plain transformer: the output of the blocks at each quarter of its depth, all at the stride of the patch.

    Every level passes the final norm, as in DINOv2's evaluation; prefix tokens are dropped.
    """

    def __init__(self, transformer: VisionTransformer, *, patch: int, size: tuple[int, int]) -> None:
        super().__init__(size)
        self.transformer = transformer
        self.depth = len(transformer.blocks)
        self.width = transformer.embed_dim
        self.prefix = transformer.num_prefix_tokens
        self.grid = (size[0] // patch, size[1] // patch)
        self.taps = quarters(self.depth)
        self.levels = (Level(patch, self.width),) * len(self.taps)
        self.divisor = patch
        self.tokens = self.grid[0] * self.grid[1]

    def features(self, image: Float[Tensor, "B 3 H W"]) -> Features:
        """Maps (B, D, H/P, W/P), one for each kept level."""
        taps = self.taps if self.kept is None else [self.taps[index] for index in self.kept]
        maps = self.transformer.forward_intermediates(
            image, indices=list(taps), norm=True, output_fmt="NCHW", intermediates_only=True
        )
        return tuple(cast("list[Tensor]", maps))

    def embed(self, image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B N D"]:
        """See `TokenBackbone.embed`."""
        tokens = self.transformer.patch_embed(self.normalised(image))
        return self.transformer.norm_pre(self.transformer.patch_drop(self.transformer._pos_embed(tokens)))  # noqa: SLF001

    def block(
        self, index: int, tokens: Float[Tensor, "B N D"], mask: Bool[Tensor, "B 1 N N"] | None = None
    ) -> Float[Tensor, "B N D"]:
        """See `TokenBackbone.block`."""
        return self.transformer.blocks[index](tokens, attn_mask=mask)

    def norm(self, tokens: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        """See `TokenBackbone.norm`."""
        return self.transformer.norm(tokens)

    @property
    def published(self) -> nn.Module:
        """The VisionTransformer of timm."""
        return self.transformer

    def no_weight_decay(self) -> set[str]:
        """See `Backbone.no_weight_decay`."""
        return without_decay(self)


def quarters(depth: int) -> tuple[int, ...]:
    """Indices of the blocks that end each quarter of the depth (12: 2, 5, 8, 11), fewer where there are not four."""
    return tuple(sorted({max(0, round(depth * share / 4) - 1) for share in range(1, 5)}))


def check(name: str, patch: int, size: tuple[int, int]) -> None:
    """Refuse what the patch grid cannot hold.

    Raises:
        Unsupported: the patch size is no size, or does not divide the input.
    """
    check_patch(name, patch, PATCHES, because="a patch is 1 to 64 pixels wide")
    check_size(f"{name} with patch {patch}", size, patch, because="the patch grid has to cover the image exactly")


def build(
    name: str,
    *,
    patch: int,
    size: tuple[int, int],
    attention: Attention = "auto",
    window: Window = "keep",  # noqa: ARG001 - it has no windows
) -> PlainTransformer:
    """A ViT with random weights; ``patch`` in pixels, ``size`` (H, W) in pixels.

    Raises:
        Unsupported: ``patch`` does not divide ``size``; names the nearest sizes that it does.
    """
    check(name, patch, size)
    facts = CATALOGUE[name]
    transformer = VisionTransformer(
        img_size=size,
        patch_size=patch,
        embed_dim=facts["width"],
        depth=facts["depth"],
        num_heads=facts["heads"],
        num_classes=0,
        global_pool="",
    )
    set_attention(transformer, attention)
    return PlainTransformer(transformer, patch=patch, size=size)
