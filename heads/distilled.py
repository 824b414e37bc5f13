"""DeiT's second classifier for pixels: one head learns from the truth, a second one beside a token of its own.

Touvron et al. 2021 (arXiv 2012.12877): a distillation token goes through the blocks beside the class token, its own
classifier learns from a teacher's decisions, and both classifiers are averaged in a prediction. Pixels have no class
token, so here both heads read the tokens of the grid, and the second one adds the special token to each of them.
"""

import torch
from jaxtyping import Float
from timm.layers.norm import LayerNorm2d
from torch import Tensor, nn

from backbones.contract import Level, TokenBackbone
from heads.contract import Raw, Target, TokenHead
from heads.segmentation import SegmentationHead

CATALOGUE = {"distilled_linear": {"task": "segmentation", "norms": True, "reads": "deepest"}}


class DistilledLinear(TokenHead, SegmentationHead):
    """Two `heads.linear` probes of the deepest tokens; the second one's tokens have the special token added to each.

    The special token is the last one before the grid: DeiT's distillation token, a plain ViT's class token; of a
    network without any, nothing is added. In training without a teacher both learn from the truth; with one (`distil`),
    the first does and the second learns from the teacher's decisions. A prediction averages the probabilities of both.

    Args:
        levels: of the backbone; the last one's channels are the width D of its tokens.
        classes: K.
    """

    blocks = 0

    def __init__(self, levels: tuple[Level, ...], classes: int) -> None:
        super().__init__(classes)
        width = levels[-1].channels
        self.truth = nn.Sequential(LayerNorm2d(width), nn.Conv2d(width, classes, kernel_size=1))
        self.taught = nn.Sequential(LayerNorm2d(width), nn.Conv2d(width, classes, kernel_size=1))

    def attend(self, backbone: TokenBackbone, image: Float[Tensor, "B 3 H W"]) -> Raw:
        """In training the logits of both heads, (B, K, h, w) each; in evaluation those of their mean probabilities."""
        tokens = backbone.embed(image)
        for index in range(backbone.depth):
            tokens = backbone.block(index, tokens)
        tokens = backbone.norm(tokens)
        grid = tokens[:, backbone.prefix :].transpose(1, 2).unflatten(2, backbone.grid)
        beside = grid
        if backbone.prefix:
            beside = grid + tokens[:, backbone.prefix - 1, :, None, None]
        truth, taught = self.truth(grid), self.taught(beside)
        if self.training:
            return truth, taught
        both = torch.stack([truth.float().log_softmax(1), taught.float().log_softmax(1)])
        return both.logsumexp(0).to(truth.dtype)

    def loss(self, raw: Raw, target: Target) -> Float[Tensor, ""]:
        """Mean of the losses of both heads, see `SegmentationHead.loss`; of logits of an evaluation, theirs."""
        if not isinstance(raw, tuple):
            return super().loss(raw, target)
        truth, taught = raw
        return (super().loss(truth, target) + super().loss(taught, target)) / 2

    def distil(
        self, raw: Raw, target: Target, scores: Float[Tensor, "B K _ _"], *, share: float, temperature: float
    ) -> Float[Tensor, ""]:
        """DeiT's hard distillation: the second head learns the class of the teacher's largest score at every pixel."""
        if not isinstance(raw, tuple):
            return super().distil(raw, target, scores, share=share, temperature=temperature)
        truth, taught = raw
        return (1 - share) * super().loss(truth, target) + share * super().loss(taught, scores.argmax(1))


def build(name: str, *, levels: tuple[Level, ...], classes: int) -> DistilledLinear:
    """Head ``name`` over a backbone's ``levels``."""
    if name not in CATALOGUE:
        raise KeyError(name)
    return DistilledLinear(levels, classes)
