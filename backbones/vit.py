"""Plain vision transformer (Dosovitskiy et al., 2021): one level at the stride of the patch."""

from typing import cast

from jaxtyping import Float
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from backbones.attention import set_attention
from backbones.contract import Attention, Backbone, Features, Level, check_patch, check_size

CATALOGUE = {
    "vit_pico": {
        "patch": 16,
        "width": 96,
        "depth": 4,
        "heads": 3,
        "doc": "plain ViT, 4 blocks of 96, for CPU training",
    },
    "vit_tiny": {"patch": 16, "width": 192, "depth": 12, "heads": 3, "doc": "plain ViT-Ti, 12 blocks of 192"},
    "vit_small": {"patch": 16, "width": 384, "depth": 12, "heads": 6, "doc": "plain ViT-S, 12 blocks of 384"},
    "vit_base": {"patch": 16, "width": 768, "depth": 12, "heads": 12, "doc": "plain ViT-B, 12 blocks of 768"},
}
PATCHES = tuple(range(1, 65))


class PlainTransformer(Backbone):
    """A timm plain transformer whose last block, normalised, is the only level; prefix tokens are dropped."""

    def __init__(self, transformer: VisionTransformer, *, patch: int, size: tuple[int, int]) -> None:
        super().__init__(size)
        self.transformer = transformer
        self.levels = (Level(patch, transformer.embed_dim),)
        self.divisor = patch
        self.tokens = (size[0] // patch) * (size[1] // patch)

    def features(self, image: Float[Tensor, "B 3 H W"]) -> Features:
        """One map (B, D, H/P, W/P)."""
        maps = self.transformer.forward_intermediates(
            image, indices=1, norm=True, output_fmt="NCHW", intermediates_only=True
        )
        return tuple(cast("list[Tensor]", maps))


def check(name: str, patch: int, size: tuple[int, int]) -> None:
    """Refuse what the patch grid cannot hold.

    Raises:
        Unsupported: the patch size is no size, or does not divide the input.
    """
    check_patch(name, patch, PATCHES, because="a patch is 1 to 64 pixels wide")
    check_size(f"{name} with patch {patch}", size, patch, because="the patch grid has to cover the image exactly")


def build(name: str, *, patch: int, size: tuple[int, int], attention: Attention = "auto") -> PlainTransformer:
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
