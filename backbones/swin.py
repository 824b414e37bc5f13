"""Swin: windowed attention, four levels at strides P, 2P, 4P and 8P (P = 4: 4 to 32).

``swin_*`` is the first version (Liu et al. 2021, arXiv 2103.14030), ``swinv2_*`` the second (Liu et al. 2022, arXiv
2111.09883), which compares directions only (cosine attention) and computes the bias of a relative position by a small
network instead of learning one for every offset.

At another input size than the published one the window is a choice:

* ``"keep"``: the published number of tokens. A map that the window does not divide is padded with zeros, and the
  window shrinks to a map that is smaller than it. Cost per pixel stays; a window sees less of a larger image.
* ``"scale"``: the published share of the map, so that there are as many windows as at the published size (window 7 at
  224 px, 14 at 448 px, 7 x 14 at 224 x 448 px). What a window sees stays; attention costs more per pixel as the image
  grows. The share is a fourth or an eighth of the patch grid, whose sides are multiples of 8: it is always whole.

The network of v2 takes offsets in units of the published window under both, as in its paper, so that an offset in
tokens means the same whatever the window.
"""

from typing import cast

from jaxtyping import Float
from timm.models.swin_transformer import SwinTransformer
from timm.models.swin_transformer_v2 import SwinTransformerV2
from torch import Tensor, nn

from backbones.attention import set_attention
from backbones.contract import Attention, Backbone, Features, Level, Window, check_patch, check_size
from backbones.parameters import without_decay

CATALOGUE = {
    "swin_pico": {
        "version": 1,
        "training_revision": 2,
        "patch": 4,
        "levels": "raw",
        "width": 24,
        "depths": [2, 2, 2, 2],
        "heads": [1, 2, 4, 8],
        "window": 4,
        "input": 128,
        "doc": "Swin, 24 wide, 2-2-2-2 blocks, window 4, for CPU training",
    },
    "swin_tiny": {
        "version": 1,
        "training_revision": 2,
        "patch": 4,
        "levels": "raw",
        "width": 96,
        "depths": [2, 2, 6, 2],
        "heads": [3, 6, 12, 24],
        "window": 7,
        "input": 224,
        "timm": "swin_tiny_patch4_window7_224",
        "tag": "ms_in1k",
        "doc": "Swin-T, 96 wide, 2-2-6-2 blocks, window 7",
    },
    "swin_small": {
        "version": 1,
        "training_revision": 2,
        "patch": 4,
        "levels": "raw",
        "width": 96,
        "depths": [2, 2, 18, 2],
        "heads": [3, 6, 12, 24],
        "window": 7,
        "input": 224,
        "timm": "swin_small_patch4_window7_224",
        "tag": "ms_in22k_ft_in1k",
        "doc": "Swin-S, 96 wide, 2-2-18-2 blocks, window 7",
    },
    "swin_base": {
        "version": 1,
        "training_revision": 2,
        "patch": 4,
        "levels": "raw",
        "width": 128,
        "depths": [2, 2, 18, 2],
        "heads": [4, 8, 16, 32],
        "window": 7,
        "input": 224,
        "timm": "swin_base_patch4_window7_224",
        "tag": "ms_in22k_ft_in1k",
        "doc": "Swin-B, 128 wide, 2-2-18-2 blocks, window 7",
    },
    "swin_large": {
        "version": 1,
        "training_revision": 2,
        "patch": 4,
        "levels": "raw",
        "width": 192,
        "depths": [2, 2, 18, 2],
        "heads": [6, 12, 24, 48],
        "window": 7,
        "input": 224,
        "timm": "swin_large_patch4_window7_224",
        "tag": "ms_in22k_ft_in1k",
        "doc": "Swin-L, 192 wide, 2-2-18-2 blocks, window 7",
    },
    "swinv2_tiny": {
        "version": 2,
        "training_revision": 2,
        "patch": 4,
        "levels": "raw",
        "width": 96,
        "depths": [2, 2, 6, 2],
        "heads": [3, 6, 12, 24],
        "window": 8,
        "input": 256,
        "timm": "swinv2_tiny_window8_256",
        "tag": "ms_in1k",
        "doc": "Swin v2-T, 96 wide, 2-2-6-2 blocks, window 8",
    },
    "swinv2_small": {
        "version": 2,
        "training_revision": 2,
        "patch": 4,
        "levels": "raw",
        "width": 96,
        "depths": [2, 2, 18, 2],
        "heads": [3, 6, 12, 24],
        "window": 8,
        "input": 256,
        "timm": "swinv2_small_window8_256",
        "tag": "ms_in1k",
        "doc": "Swin v2-S, 96 wide, 2-2-18-2 blocks, window 8",
    },
    "swinv2_base": {
        "version": 2,
        "training_revision": 2,
        "patch": 4,
        "levels": "raw",
        "width": 128,
        "depths": [2, 2, 18, 2],
        "heads": [4, 8, 16, 32],
        "window": 8,
        "input": 256,
        "timm": "swinv2_base_window8_256",
        "tag": "ms_in1k",
        "doc": "Swin v2-B, 128 wide, 2-2-18-2 blocks, window 8",
    },
    "swinv2_large": {
        "version": 2,
        "training_revision": 2,
        "patch": 4,
        "levels": "raw",
        "width": 192,
        "depths": [2, 2, 18, 2],
        "heads": [6, 12, 24, 48],
        "window": 12,
        "input": 192,
        "timm": "swinv2_large_window12_192",
        "tag": "ms_in22k",
        "doc": "Swin v2-L, 192 wide, 2-2-18-2 blocks, window 12",
    },
}
"""``window`` in tokens belongs to ``input`` px and patch 4; ``timm`` and ``tag`` as in `backbones.vit`. Trainings of
revision 1 had a drop path of 0.1 under every recipe."""
PATCHES = (1, 2, 4, 8, 16)


class Swin(Backbone):
    """timm's Swin with the output of each of its four stages as a level."""

    def __init__(
        self, transformer: SwinTransformer | SwinTransformerV2, *, patch: int, size: tuple[int, int], width: int
    ) -> None:
        super().__init__(size)
        # Levels are normed one by one, or by the head: the norm before a classifier would be dead weight.
        transformer.norm = nn.Identity()
        self.transformer = transformer
        self.levels = tuple(Level(patch << stage, width << stage) for stage in range(4))
        self.divisor = self.levels[-1].stride
        self.tokens = (size[0] // patch) * (size[1] // patch)

    def features(self, image: Float[Tensor, "B 3 H W"]) -> Features:
        """Four maps, (B, C·2^i, H/(P·2^i), W/(P·2^i))."""
        maps = self.transformer.forward_intermediates(image, norm=False, output_fmt="NCHW", intermediates_only=True)
        return tuple(cast("list[Tensor]", maps))

    @property
    def published(self) -> nn.Module:
        """The SwinTransformer or SwinTransformerV2 of timm; it lacks the norm before the classifier."""
        return self.transformer

    def no_weight_decay(self) -> set[str]:
        """See `Backbone.no_weight_decay`."""
        return without_decay(self)


def check(name: str, patch: int, size: tuple[int, int]) -> None:
    """Refuse what three mergings cannot halve.

    Raises:
        Unsupported: another patch size than `PATCHES`, or a patch grid whose sides are no multiples of 8.
    """
    check_patch(name, patch, PATCHES, because="its levels lie at strides P, 2P, 4P and 8P")
    check_size(f"{name} with patch {patch}", size, patch * 8, because="three mergings halve the patch grid")


def windows(policy: Window, *, window: int, published: int, patch: int, size: tuple[int, int]) -> tuple[int, int]:
    """(h, w) of a window in tokens.

    Args:
        policy: see the top of this file.
        window: in tokens, as published.
        published: input size in pixels that it was published for, at patch 4.
        patch: patch size in pixels.
        size: (H, W) of the input in pixels, multiples of 8 patches.
    """
    if policy == "keep":
        return (window, window)
    share = published // 4 // window
    return (size[0] // patch // share, size[1] // patch // share)


def build(
    name: str,
    *,
    patch: int,
    size: tuple[int, int],
    attention: Attention = "auto",
    window: Window = "keep",
) -> Swin:
    """A Swin with random weights; ``patch`` in pixels, ``size`` (H, W) in pixels.

    Raises:
        Unsupported: the three patch mergings cannot halve the grid of this patch and size; names the nearest sizes. Or
            v2 with attention="fused", which it does not have.
    """
    check(name, patch, size)
    facts = CATALOGUE[name]
    tokens, published = facts["window"], facts["input"]
    extent = windows(window, window=tokens, published=published, patch=patch, size=size)
    transformer: SwinTransformer | SwinTransformerV2
    if facts["version"] == 1:
        transformer = SwinTransformer(
            img_size=size,
            patch_size=patch,
            embed_dim=facts["width"],
            depths=tuple(facts["depths"]),
            num_heads=tuple(facts["heads"]),
            window_size=extent,
            num_classes=0,
            global_pool="",
            drop_path_rate=0.0,  # a recipe's choice, see `backbones.stochastic`
        )
    else:
        transformer = SwinTransformerV2(
            img_size=size,
            patch_size=patch,
            embed_dim=facts["width"],
            depths=tuple(facts["depths"]),
            num_heads=tuple(facts["heads"]),
            window_size=extent,
            num_classes=0,
            global_pool="",
            drop_path_rate=0.0,  # a recipe's choice, see `backbones.stochastic`
            # The window that each stage was trained with: its map was all that it could cover (L: 12, 12, 12, 6).
            pretrained_window_sizes=tuple(min(tokens, published // 4 >> stage) for stage in range(4)),
        )
    set_attention(transformer, attention)
    return Swin(transformer, patch=patch, size=size, width=facts["width"])
