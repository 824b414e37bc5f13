"""EoMT: queries run through the last blocks of the transformer itself; each answers with a class and a mask.

Kerssies et al. 2025, "Your ViT is Secretly an Image Segmentation Model" (arXiv 2503.19108), trained with the losses of
Mask2Former (Cheng et al. 2022, arXiv 2112.01527).
"""

import math
from collections.abc import Iterator
from typing import TypedDict

import torch
from jaxtyping import Bool, Float, Int
from timm.layers.norm import LayerNorm2d
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate

from backbones.contract import Level, TokenBackbone
from heads.contract import IGNORE, Raw, Target, Task, TokenHead
from heads.matching import assign, labels_at, mask_costs, mask_losses, sample, uncertain_points

CATALOGUE = {
    "eomt": {
        "task": "segmentation",
        "norms": True,
        "reads": "deepest",
        "blocks": 3,
        "queries": 100,
        "points": 12544,
        "training_revision": 2,
    },
    "eomt_pico": {
        "task": "segmentation",
        "norms": True,
        "reads": "deepest",
        "blocks": 2,
        "queries": 24,
        "points": 1024,
        "training_revision": 2,
    },
}

CLASS, MASK, DICE = 2.0, 5.0, 5.0
"""Weights of the losses and of the matching."""
NO_OBJECT = 0.1
"""Weight of the class "no object" in the cross-entropy."""
POWER = 0.9
"""Of the polynomial by which masked attention fades."""
LARGE = 1024
"""Token width of ViT-L, from which on the published models have one block more."""
STRIP = 1 << 22
"""Most numbers that `EoMT._strips` holds at full size at a time."""


class EoMTOutput(TypedDict):
    """Raw output: the answers before each block of the queries and after the last (in eval mode the last alone).

    classes: (L, B, Q, K + 1) logits, the last one is "no object".
    masks: (L, B, Q, h, w) logits, at stride 4 for patches of 16.
    """

    classes: Tensor
    masks: Tensor


class EoMT(TokenHead):
    """Encoder-only mask transformer for semantic segmentation.

    The queries go before the tokens of a plain transformer and take part in its last ``blocks`` blocks. In training,
    before each of these, every query answers with what it knows so far, and attends to no grid token outside its mask;
    to the other queries and the prefix tokens always, and to all tokens where its mask is empty (as Mask2Former does).
    This restriction is dropped at random, ever more often as the training goes on (`masking`), so that inference needs
    neither the masks nor the answers in between.

    Masks come from the grid's tokens, twice as fine for every doubling that leads from the patch to stride 4, rounded
    down but at least one, as published (patch 16: two, patch 14: one, so stride 7).

    Args:
        levels: of the backbone; the last one's channels are the width D of its tokens and its stride is the patch size.
        classes: K.
        blocks: how many of the last blocks the queries run through.
        queries: Q.
        points: S, how many points of a mask are compared with the truth.
    """

    task: Task = "segmentation"

    def __init__(self, levels: tuple[Level, ...], classes: int, *, blocks: int, queries: int, points: int) -> None:
        super().__init__()
        width, patch = levels[-1].channels, levels[-1].stride
        self.classes = classes
        self.blocks = blocks
        self.points = points
        self.done = 0.0
        self.class_weights: Tensor | None
        self.register_buffer("class_weights", None, persistent=False)
        self.queries = nn.Parameter(torch.randn(queries, width))
        self.classify = nn.Linear(width, classes + 1)
        self.embed = nn.Sequential(
            *(nn.Linear(width, width), nn.GELU()), *(nn.Linear(width, width), nn.GELU()), nn.Linear(width, width)
        )
        doublings = max(1, int(math.log2(patch)) - 2)
        self.upscale = nn.Sequential(*(_double(width) for _ in range(doublings)))

    def set_class_weights(self, weights: Float[Tensor, " K"]) -> None:
        """Weigh the classes in the cross-entropy over the queries' classes, beside the weight of "no object"."""
        self.class_weights = weights.detach().to(self.queries.device, torch.float32)

    def set_progress(self, done: float) -> None:
        """See `Head.set_progress`; masked attention fades with it."""
        self.done = done

    def attend(self, backbone: TokenBackbone, image: Float[Tensor, "B 3 H W"]) -> EoMTOutput:
        """Raw outputs for an RGB image in 0..1 of the size that the backbone was built for."""
        tokens = backbone.embed(image)
        before = backbone.depth - self.blocks
        for index in range(before):
            tokens = backbone.block(index, tokens)
        tokens = torch.cat([self.queries.to(tokens.dtype).expand(len(tokens), -1, -1), tokens], dim=1)
        answers = []
        for step in range(self.blocks):
            mask = None
            if self.training:
                answers.append(self.answer(backbone.norm(tokens), backbone.grid))
                probability = masking(step, self.blocks, self.done)
                if probability > 0:
                    mask = self.restrict(answers[-1][1].detach(), backbone.grid, tokens.shape[1], probability)
            tokens = backbone.block(before + step, tokens, mask)
        answers.append(self.answer(backbone.norm(tokens), backbone.grid))
        classes, masks = zip(*answers, strict=True)
        return {"classes": torch.stack(classes), "masks": torch.stack(masks)}

    def smooth(self, raw: Raw) -> tuple[Tensor, ...]:
        """Class and mask logits of the last answer, (B, Q, K + 1) and (B, Q, h, w)."""
        output: EoMTOutput = raw
        return output["classes"][-1], output["masks"][-1]

    def answer(
        self, tokens: Float[Tensor, "B N D"], grid: tuple[int, int]
    ) -> tuple[Float[Tensor, "B Q _"], Float[Tensor, "B Q h w"]]:
        """Class and mask logits of the queries, the first of the normalised tokens, from the grid, the last of them."""
        queries = tokens[:, : len(self.queries)]
        cells = tokens[:, -grid[0] * grid[1] :].transpose(1, 2).unflatten(2, grid)
        masks = torch.einsum("bqd,bdhw->bqhw", self.embed(queries), self.upscale(cells))
        return self.classify(queries), masks

    def restrict(
        self, masks: Float[Tensor, "B Q h w"], grid: tuple[int, int], count: int, probability: float
    ) -> Bool[Tensor, "B 1 N N"]:
        """Who may attend to whom among ``count`` tokens, if each query keeps to its mask with that probability."""
        inside = interpolate(masks.float(), size=grid, mode="bilinear", align_corners=False).flatten(2) > 0
        free = ~inside.any(dim=2)
        if probability < 1:
            free |= torch.rand(free.shape, device=free.device) >= probability
        allowed = torch.ones(len(masks), 1, count, count, dtype=torch.bool, device=masks.device)
        allowed[:, 0, : len(self.queries), -inside.shape[2] :] = inside | free.unsqueeze(2)
        return allowed

    def loss(self, raw: Raw, target: Target) -> Float[Tensor, ""]:
        """Class, mask and dice loss, summed over the answers.

        Each class that an image of ``target`` (B, H, W) shows is one object. Its mask is compared at points that are
        drawn anew each time (torch's generator), mask losses are divided by the number of pairs; points on 255 count
        for nothing, and an image that is 255 everywhere for nothing at all. No image left: 0, with gradient 0.
        """
        output: EoMTOutput = raw
        classes, masks = output["classes"].float(), output["masks"].float()
        labels = _pixels(target)
        present = [shown[shown != IGNORE] for shown in map(torch.unique, labels)]
        layer, image, query, label = self._match(classes, masks, labels, present)

        wanted = torch.full(classes.shape[:3], self.classes, device=classes.device)
        wanted[layer, image, query] = label
        classes_weigh = wanted.new_ones(self.classes, dtype=torch.float32)
        if self.class_weights is not None:
            classes_weigh = self.class_weights
        weight = torch.cat([classes_weigh, classes_weigh.new_tensor([NO_OBJECT])])[wanted]
        weight = weight * torch.tensor([len(shown) > 0 for shown in present], device=weight.device)[:, None]
        entropy = cross_entropy(classes.flatten(0, 2), wanted.flatten(), reduction="none").view_as(weight) * weight
        total = weight.sum(dim=(1, 2))
        class_loss = (entropy.sum(dim=(1, 2)) / total.where(total > 0, 1)).sum()

        found = masks[layer, image, query]
        points = uncertain_points(found, self.points)
        truth = labels_at(labels, image, points)
        mask_loss, dice = mask_losses(
            sample(found.unsqueeze(1), points)[:, 0], truth == label[:, None], truth != IGNORE
        )
        pairs = max(1, len(label) // len(classes))
        return CLASS * class_loss + (MASK * mask_loss.sum() + DICE * dice.sum()) / pairs

    @torch.no_grad()
    def _match(
        self,
        classes: Float[Tensor, "L B Q _"],
        masks: Float[Tensor, "L B Q h w"],
        labels: Int[Tensor, "B H W"],
        present: list[Int[Tensor, " _"]],
    ) -> tuple[Int[Tensor, " A"], Int[Tensor, " A"], Int[Tensor, " A"], Int[Tensor, " A"]]:
        """Layer, image, query and class of each pair."""
        layers, images, queries = classes.shape[:3]
        points = torch.rand(images, self.points, 2, device=masks.device)
        values = sample(masks.transpose(0, 1).flatten(1, 2), points)
        truth = labels_at(labels, torch.arange(images, device=masks.device), points)
        costs = []
        for image, shown in enumerate(present):
            cross_entropy, dice = mask_costs(values[image], truth[image] == shown[:, None], truth[image] != IGNORE)
            probability = classes[:, image].flatten(0, 1).softmax(dim=1)[:, shown]
            costs += (MASK * cross_entropy + DICE * dice - CLASS * probability).split(queries)
        rows = []
        for index, (query, thing) in enumerate(assign(costs)):
            image, layer = divmod(index, layers)
            place = query.new_tensor([layer, image]).expand(len(query), 2)
            rows.append(torch.cat([place, query[:, None], present[image][thing][:, None]], dim=1))
        layer, image, query, label = torch.cat(rows).unbind(1)
        return layer, image, query, label

    @torch.no_grad()
    def decode(self, raw: Raw, size: tuple[int, int]) -> Int[Tensor, "B H W"]:
        """Class of the largest of the `scores` at each pixel.

        This is done image by image in strips of rows: Q masks of a whole image (100 queries, 1024 x 2048 px: 0.8 GB)
        never exist.
        """
        output: EoMTOutput = raw
        prediction = torch.empty(len(output["masks"][-1]), *size, dtype=torch.int64, device=output["masks"].device)
        for image, top, scores in self._strips(output, size):
            prediction[image, top : top + scores.shape[1]] = scores.argmax(dim=0)
        return prediction

    @torch.no_grad()
    def scores(self, raw: Raw, size: tuple[int, int]) -> Float[Tensor, "B K H W"]:
        """Sum over the queries of class probability times mask probability, mask logits scaled bilinearly."""
        output: EoMTOutput = raw
        masks = output["masks"][-1]
        found = torch.empty(len(masks), self.classes, *size, device=masks.device)
        for image, top, scores in self._strips(output, size):
            found[image, :, top : top + scores.shape[1]] = scores
        return found

    def deploy(self, raw: Raw, size: tuple[int, int]) -> tuple[Tensor, ...]:
        """See `Head.deploy`; Q masks of each whole image exist at one time."""
        output: EoMTOutput = raw
        weights = output["classes"][-1].float().softmax(dim=-1)[..., :-1]
        masks = interpolate(output["masks"][-1].float(), size=size, mode="bilinear", align_corners=False).sigmoid()
        return (torch.einsum("bqk,bqhw->bkhw", weights, masks).argmax(dim=1),)

    def _strips(self, output: EoMTOutput, size: tuple[int, int]) -> Iterator[tuple[int, int, Float[Tensor, "K _ W"]]]:
        """Image, first row and scores of one strip after the other."""
        classes, masks = output["classes"][-1].float().softmax(dim=-1)[..., :-1], output["masks"][-1].float()
        rows = max(1, STRIP // (size[1] * (masks.shape[1] + self.classes)))
        for image, (weights, logits) in enumerate(zip(classes, masks, strict=True)):
            for top in range(0, size[0], rows):
                strip = _strip(logits, size, top, min(top + rows, size[0])).sigmoid()
                yield image, top, torch.einsum("qk,qhw->khw", weights, strip)


def masking(step: int, blocks: int, done: float) -> float:
    """Probability that the queries of block ``step`` of ``blocks`` keep to their masks when ``done`` of 0..1 is over.

    1 at first and 0 at last. Each block's fall takes a sixth of the training; the first block's begins after one sixth,
    the last block's after four, the others' evenly between, as in the published schedules of three and four blocks.
    """
    start = 1 / 6 + (step / (blocks - 1) / 2 if blocks > 1 else 0.0)
    return (1 - min(1.0, max(0.0, (done - start) * 6))) ** POWER


def _double(width: int) -> nn.Sequential:
    """Twice the resolution (published: ScaleBlock)."""
    return nn.Sequential(
        nn.ConvTranspose2d(width, width, kernel_size=2, stride=2),
        nn.GELU(),
        nn.Conv2d(width, width, kernel_size=3, padding=1, groups=width, bias=False),
        LayerNorm2d(width),
    )


def _strip(maps: Float[Tensor, "Q h w"], size: tuple[int, int], top: int, bottom: int) -> Float[Tensor, "Q _ W"]:
    """Rows ``top`` to ``bottom`` of the maps scaled bilinearly to ``size`` (H, W)."""
    source = ((torch.arange(top, bottom, device=maps.device) + 0.5) * (maps.shape[1] / size[0]) - 0.5).clamp(min=0)
    above = source.long().clamp(max=maps.shape[1] - 1)
    below = (above + 1).clamp(max=maps.shape[1] - 1)
    rows = maps[:, above].lerp(maps[:, below], (source - above)[:, None])
    return interpolate(rows[None], size=(bottom - top, size[1]), mode="bilinear", align_corners=False)[0]


def _pixels(target: Target) -> Tensor:
    if not isinstance(target, Tensor):
        raise TypeError(f"a segmentation head learns from a class per pixel, got {type(target).__name__}")
    return target.long()


def build(name: str, *, levels: tuple[Level, ...], classes: int) -> EoMT:
    """Head ``name`` over a backbone's ``levels``; the published ViT-L has one block of queries more than the others."""
    numbers = CATALOGUE[name]
    larger = 1 if name == "eomt" and levels[-1].channels >= LARGE else 0
    return EoMT(
        levels,
        classes,
        blocks=int(numbers["blocks"]) + larger,
        queries=int(numbers["queries"]),
        points=int(numbers["points"]),
    )
