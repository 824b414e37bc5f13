"""DeiT: plain transformers trained on ImageNet alone, at the stride of the patch.

``deit_*`` (Touvron et al. 2021, arXiv 2012.12877) has a class and a distillation token; both are dropped from the grid.
``deit3_*`` (DeiT III, Touvron et al. 2022, arXiv 2204.07118) has no distillation token, scales every residual branch
(LayerScale, starting at 1e-4) and adds positions to the grid alone, not to the class token.
"""

from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer

from backbones.attention import set_attention
from backbones.contract import Attention, Window
from backbones.vit import PlainTransformer, check

CATALOGUE = {
    "deit_pico": {
        "patch": 16,
        "width": 96,
        "depth": 4,
        "heads": 3,
        "distilled": True,
        "doc": "distilled DeiT, 4 blocks of 96, for CPU training",
    },
    "deit_tiny": {
        "patch": 16,
        "width": 192,
        "depth": 12,
        "heads": 3,
        "distilled": True,
        "timm": "deit_tiny_distilled_patch16_224",
        "tag": "fb_in1k",
        "doc": "distilled DeiT-Ti, 12 blocks of 192",
    },
    "deit_small": {
        "patch": 16,
        "width": 384,
        "depth": 12,
        "heads": 6,
        "distilled": True,
        "timm": "deit_small_distilled_patch16_224",
        "tag": "fb_in1k",
        "doc": "distilled DeiT-S, 12 blocks of 384",
    },
    "deit_base": {
        "patch": 16,
        "width": 768,
        "depth": 12,
        "heads": 12,
        "distilled": True,
        "timm": "deit_base_distilled_patch16_224",
        "tag": "fb_in1k",
        "doc": "distilled DeiT-B, 12 blocks of 768",
    },
    "deit3_small": {
        "patch": 16,
        "training_revision": 2,
        "width": 384,
        "depth": 12,
        "heads": 6,
        "distilled": False,
        "timm": "deit3_small_patch16_224",
        "tag": "fb_in1k",
        "doc": "DeiT III-S, 12 blocks of 384",
    },
    "deit3_medium": {
        "patch": 16,
        "training_revision": 2,
        "width": 512,
        "depth": 12,
        "heads": 8,
        "distilled": False,
        "timm": "deit3_medium_patch16_224",
        "tag": "fb_in1k",
        "doc": "DeiT III-M, 12 blocks of 512",
    },
    "deit3_base": {
        "patch": 16,
        "training_revision": 2,
        "width": 768,
        "depth": 12,
        "heads": 12,
        "distilled": False,
        "timm": "deit3_base_patch16_224",
        "tag": "fb_in1k",
        "doc": "DeiT III-B, 12 blocks of 768",
    },
    "deit3_large": {
        "patch": 16,
        "training_revision": 2,
        "width": 1024,
        "depth": 24,
        "heads": 16,
        "distilled": False,
        "timm": "deit3_large_patch16_224",
        "tag": "fb_in1k",
        "doc": "DeiT III-L, 24 blocks of 1024",
    },
}


def build(
    name: str,
    *,
    patch: int,
    size: tuple[int, int],
    attention: Attention = "auto",
    window: Window = "keep",  # noqa: ARG001 - it has no windows
) -> PlainTransformer:
    """A DeiT with random weights; ``patch`` in pixels, ``size`` (H, W) in pixels.

    Raises:
        Unsupported: ``patch`` does not divide ``size``; names the nearest sizes that it does.
    """
    check(name, patch, size)
    facts = CATALOGUE[name]
    if facts["distilled"]:
        transformer = VisionTransformerDistilled(
            img_size=size,
            patch_size=patch,
            embed_dim=facts["width"],
            depth=facts["depth"],
            num_heads=facts["heads"],
            num_classes=0,
        )
    else:
        transformer = VisionTransformer(
            img_size=size,
            patch_size=patch,
            embed_dim=facts["width"],
            depth=facts["depth"],
            num_heads=facts["heads"],
            num_classes=0,
            global_pool="",
            no_embed_class=True,
            init_values=1e-4,  # its authors' `init_scale`
        )
    set_attention(transformer, attention)
    return PlainTransformer(transformer, patch=patch, size=size)
