"""Segmenter's mask transformer: class tokens among the patch tokens; a patch belongs to the class it points towards.

Strudel et al. 2021 (arXiv 2105.05633), with the numbers of their ADE20K models. Its layers are timm's.
"""

from typing import cast

import torch
from jaxtyping import Float
from timm.layers import trunc_normal_
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn.functional import normalize

from backbones.contract import Features, Level
from heads.segmentation import SegmentationHead
from heads.setr import DeepMap

CATALOGUE = {
    "segmenter": {
        "task": "segmentation",
        "norms": True,
        "reads": "deepest",
        "width": None,  # that of the encoder
        "layers": 2,
        "head_width": 64,
        "training_revision": 2,
        "dropout": 0.1,
    },
    "segmenter_pico": {
        "task": "segmentation",
        "norms": True,
        "reads": "deepest",
        "width": 96,
        "layers": 2,
        "head_width": 32,
        "training_revision": 2,
        "dropout": 0.0,
    },
}


MANY = 50
"""Classes from which on a LayerNorm over them leaves room for a confident answer: a softmax of up to 0.96."""


class ClassScale(nn.Module):
    """In the place of the LayerNorm over the classes where there are few: a fixed factor, weight and bias learned.

    LayerNorm takes mean and deviation out of K scores, so the largest is at most √(K - 1) deviations above the mean:
    with 9 classes a softmax of it starts with at most 0.75, and goes beyond as slowly as the weights grow. Of two
    scores that leaves a sign, whose gradient is all but 0: such a head stays at chance even on four images that it sees
    again and again. Of one score it leaves nothing. √D brings the cosines of random directions in D dimensions to
    deviation 1, where LayerNorm brings them too.
    """

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.factor = width**0.5
        self.weight = nn.Parameter(torch.ones(classes))
        self.bias = nn.Parameter(torch.zeros(classes))

    def forward(self, scores: Float[Tensor, "B N K"]) -> Float[Tensor, "B N K"]:
        """Logits."""
        return scores * (self.factor * self.weight) + self.bias


class Segmenter(SegmentationHead):
    """K class tokens and the patch tokens through pre-norm transformer layers; logits are their cosines, normalised.

    The tokens are those of a `heads.setr.DeepMap`: over a plain ViT those of its last map, as published; over a pyramid
    the map nearest to stride 16 beside the coarser ones, each with a LayerNorm, since raw stages differ in scale.

    Over the K cosines of a cell comes a LayerNorm, as published, for `MANY` classes or more; for fewer a `ClassScale`.
    With one class there is nothing to learn under a cross-entropy: the loss and its gradients are 0, and every pixel is
    predicted to be of that class.

    The layers' attention runs in the kernel that timm picks (torch's fused one where it has one).

    Args:
        levels: of the backbone.
        classes: K.
        width: D of the decoder, a multiple of ``head_width``; None for that of the encoder, rounded to a multiple.
        layers: of the transformer.
        head_width: channels of an attention head.
        dropout: in the layers.

    Raises:
        ValueError: heads of ``head_width`` do not make up ``width``.
    """

    def __init__(
        self,
        levels: tuple[Level, ...],
        classes: int,
        *,
        width: int | None,
        layers: int,
        head_width: int,
        dropout: float,
    ) -> None:
        super().__init__(classes)
        self.map = DeepMap(levels, norm="joined")
        if width is None:
            width = max(1, round(self.map.width / head_width)) * head_width
        if width % head_width:
            raise ValueError(f"a width of {width} cannot be made of heads of {head_width}; take a multiple of it")
        self.project = nn.Linear(self.map.channels, width)
        self.class_tokens = nn.Parameter(torch.empty(1, classes, width))
        self.layers = nn.Sequential(
            *(
                Block(width, width // head_width, mlp_ratio=4, qkv_bias=True, proj_drop=dropout, attn_drop=dropout)
                for _ in range(layers)
            )
        )
        self.norm = nn.LayerNorm(width)
        self.patch_projection = nn.Parameter(torch.randn(width, width) * width**-0.5)
        self.class_projection = nn.Parameter(torch.randn(width, width) * width**-0.5)
        self.mask_norm = nn.LayerNorm(classes) if classes >= MANY else ClassScale(classes, width)
        trunc_normal_(self.class_tokens, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def no_weight_decay(self) -> set[str]:
        """The tokens of the classes, as in its authors' code."""
        return {"class_tokens"}

    def forward(self, features: Features, size: tuple[int, int]) -> Float[Tensor, "B K h w"]:  # noqa: ARG002 - contract
        """Logits at the stride of the tokens."""
        x = self.map(features)
        cells = x.shape[-2:]
        patches = self.project(x.flatten(2).transpose(1, 2))
        tokens = torch.cat([patches, self.class_tokens.expand(len(patches), -1, -1)], dim=1)
        tokens = self.norm(self.layers(tokens))
        patches, classes = tokens.split([tokens.shape[1] - self.classes, self.classes], dim=1)
        # An epsilon that fp16 can hold; torch's own would be 0 there.
        patches = normalize(patches @ self.patch_projection, dim=-1, eps=1e-6)
        classes = normalize(classes @ self.class_projection, dim=-1, eps=1e-6)
        logits = self.mask_norm(patches @ classes.transpose(1, 2))
        return logits.transpose(1, 2).unflatten(2, (cells[0], cells[1]))


def build(name: str, *, levels: tuple[Level, ...], classes: int) -> Segmenter:
    """Head ``name`` over a backbone's ``levels``."""
    numbers = CATALOGUE[name]
    return Segmenter(
        levels,
        classes,
        width=cast("int | None", numbers["width"]),
        layers=int(numbers["layers"]),
        head_width=int(numbers["head_width"]),
        dropout=float(numbers["dropout"]),
    )
