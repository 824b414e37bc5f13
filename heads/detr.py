"""DETR: a transformer answers with a fixed set of boxes, matched one to one with the objects; no anchors, no NMS.

Carion et al. 2020 (arXiv 2005.12872). ``detr`` is the published model on whatever map a backbone ends in. It is known
to need hundreds of epochs, so the small ``detr_pico`` takes what later work found against that; see `DETR`.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple, TypedDict

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, l1_loss, one_hot
from torchvision.ops import (
    box_convert,
    clip_boxes_to_image,
    generalized_box_iou,
    generalized_box_iou_loss,
    sigmoid_focal_loss,
)

from backbones.contract import Features, Level
from heads.contract import Boxes, Head, Raw, Size, Target, Task, exported
from heads.detection import mostly_inside, objects, truth
from heads.matching import assign

CATALOGUE = {
    "detr": {
        "task": "detection",
        "reads": "deepest",
        "channels": 256,
        "queries": 100,
        "encoders": 6,
        "decoders": 6,
        "heads": 8,
        "hidden": 2048,
        "dropout": 0.1,
        "two_stage": False,
    },
    "detr_pico": {
        "task": "detection",
        "reads": "deepest",
        "channels": 96,
        "queries": 40,
        "encoders": 1,
        "decoders": 2,
        "heads": 4,
        "hidden": 192,
        "dropout": 0.0,
        "two_stage": True,
    },
}

CLASS, L1, GIOU = 1.0, 5.0, 2.0
"""Weights of the losses and of the matching; with two stages, of the class `FOCAL`."""
FOCAL = 2.0
"""Weight of the class under the focal loss (Deformable DETR)."""
ALPHA, GAMMA = 0.25, 2.0
"""Of the focal loss."""
NO_OBJECT = 0.1
"""Weight of the class "no object" in the cross-entropy."""
PRIOR = 0.01
"""Probability of a class at the start, under the focal loss."""
SIDE = 0.25
"""Sides of the box that a cell's proposal starts from, as a share of the image."""


@exported
class Answer(NamedTuple):
    """What a set of queries says.

    logits: (B, Q, K + 1), the last one is "no object"; with two stages (B, Q, K), each class for itself.
    boxes: (B, Q, 4) centre x, centre y, width, height, in 0..1 of the image.
    """

    logits: Tensor
    boxes: Tensor


class DETROutput(TypedDict):
    """Raw output.

    size: (H, W) pixels of the image that went in.
    answers: after each decoder layer, and before them the proposals if there are; in eval mode the last alone.
    proposals: with two stages, of all N tokens as queries; else None.
    """

    size: Size
    answers: list[Answer]
    proposals: Answer | None


class _EncoderLayer(nn.Module):
    """Self-attention and MLP, each with dropout and residual; positions are added to queries and keys.

    The norm follows the residual as in the original transformer, or comes before the attention and the MLP (pre-norm).
    """

    def __init__(self, channels: int, heads: int, hidden: int, dropout: float, *, pre_norm: bool) -> None:
        super().__init__()
        self.pre_norm = pre_norm
        self.attention = nn.MultiheadAttention(channels, heads, dropout=dropout, batch_first=True)
        self.mlp = _mlp(channels, hidden, dropout)
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(2))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "B N D"], where: Float[Tensor, "N D"]) -> Float[Tensor, "B N D"]:
        """Tokens after the layer; ``where``: their positions."""
        before, after = _norms(self.norms, pre_norm=self.pre_norm)
        seen = before[0](x)
        placed = seen + where
        x = after[0](x + self.dropout(self.attention(placed, placed, seen, need_weights=False)[0]))
        return after[1](x + self.dropout(self.mlp(before[1](x))))


class _DecoderLayer(nn.Module):
    """Self-attention of the queries, cross-attention to the tokens, MLP; built as the encoder's layer."""

    def __init__(self, channels: int, heads: int, hidden: int, dropout: float, *, pre_norm: bool) -> None:
        super().__init__()
        self.heads = heads
        self.pre_norm = pre_norm
        self.among = nn.MultiheadAttention(channels, heads, dropout=dropout, batch_first=True)
        self.across = nn.MultiheadAttention(channels, heads, dropout=dropout, batch_first=True)
        self.mlp = _mlp(channels, hidden, dropout)
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(3))
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Float[Tensor, "B Q D"],
        where: Float[Tensor, "B Q D"],
        tokens: Float[Tensor, "B N D"],
        token_where: Float[Tensor, "N D"],
        bias: Float[Tensor, "B Q N"] | None,
    ) -> Float[Tensor, "B Q D"]:
        """Queries after the layer; ``bias`` is added to the logits of the cross-attention of all heads."""
        before, after = _norms(self.norms, pre_norm=self.pre_norm)
        seen = before[0](x)
        placed = seen + where
        x = after[0](x + self.dropout(self.among(placed, placed, seen, need_weights=False)[0]))
        mask = None if bias is None else bias.repeat_interleave(self.heads, dim=0)
        found, _ = self.across(before[1](x) + where, tokens + token_where, tokens, attn_mask=mask, need_weights=False)
        x = after[1](x + self.dropout(found))
        return after[2](x + self.dropout(self.mlp(before[2](x))))


class DETR(Head):
    """DETR on the last level of a backbone, which is the deepest of its coarsest (stride 32, or P of a plain ViT).

    Ignored boxes of the truth are matched with no query, and a query without an object whose box lies in one by half
    or more is not told that nothing is there.

    ``two_stage`` changes what the many epochs of DETR are needed for, each change as published elsewhere:

    * every token of the encoder proposes a class and a box around its cell, learnt like the answers of a layer; the
      best become the queries: the token as content, its box as the place to start from. Each layer moves the box on
      instead of stating it anew (Zhu et al. 2021, Deformable DETR, arXiv 2010.04159, two-stage, with refinement);
    * the class is learnt by a focal loss without "no object", and the best pairs of query and class are the detections;
      the projected map passes a GroupNorm (both as there);
    * the position of a query comes from the sines of the four numbers of its box (Liu et al. 2022, DAB-DETR, arXiv
      2201.12329), and cross-attention is weighed by a Gaussian around it (Gao et al. 2021, SMCA, arXiv 2101.07448);
    * norms come before attention and MLP (an option of DETR's own).

    Args:
        levels: of the backbone.
        classes: K.
        channels: width of the transformer, a multiple of 8 and of ``heads``.
        queries: Q, the most objects that it can find in an image.
        encoders: layers of the encoder.
        decoders: layers of the decoder; each has a loss of its own.
        heads: of every attention.
        hidden: width inside the MLPs.
        dropout: rate of it.
        two_stage: see above.
        detections: most boxes an image, with two stages (else Q).
    """

    task: Task = "detection"

    def __init__(
        self,
        levels: tuple[Level, ...],
        classes: int,
        *,
        channels: int,
        queries: int,
        encoders: int,
        decoders: int,
        heads: int,
        hidden: int,
        dropout: float,
        two_stage: bool,
        detections: int = 100,
    ) -> None:
        super().__init__()
        self.classes = classes
        self.slots = queries
        self.detections = detections
        self.two_stage = two_stage
        self.encoders = nn.ModuleList(
            _EncoderLayer(channels, heads, hidden, dropout, pre_norm=two_stage) for _ in range(encoders)
        )
        self.decoders = nn.ModuleList(
            _DecoderLayer(channels, heads, hidden, dropout, pre_norm=two_stage) for _ in range(decoders)
        )
        for parameter in self.parameters():  # of the transformer
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)
        self.project = nn.Sequential(nn.Conv2d(levels[-1].channels, channels, kernel_size=1))
        self.norm = nn.LayerNorm(channels)
        self.classify = nn.Linear(channels, classes if two_stage else classes + 1)
        self.regress = nn.Sequential(
            *(nn.Linear(channels, channels), nn.ReLU()),
            *(nn.Linear(channels, channels), nn.ReLU()),
            nn.Linear(channels, 4),
        )
        if two_stage:
            self.project.append(nn.GroupNorm(channels // 8, channels))  # 32 groups of 256 channels, as published
            self.encoded = nn.LayerNorm(channels)
            self.locate = nn.Sequential(nn.Linear(2 * channels, channels), nn.ReLU(), nn.Linear(channels, channels))
            nn.init.constant_(self.classify.bias, math.log(PRIOR / (1 - PRIOR)))
            # The first boxes are those that the refinement starts from.
            nn.init.zeros_(self.regress.get_parameter("4.weight"))
            nn.init.zeros_(self.regress.get_parameter("4.bias"))
        else:
            self.queries = nn.Parameter(torch.randn(queries, channels))

    def forward(self, features: Features, size: tuple[int, int]) -> DETROutput:
        """Raw outputs for feature maps of an image of ``size`` (H, W) pixels."""
        x = self.project(features[-1])
        h, w = x.shape[-2:]
        cells = centres(h, w, x.device)
        tokens = x.flatten(2).transpose(1, 2)
        answers = self._refine(tokens, cells) if self.two_stage else self._read(tokens, cells)
        return {
            "size": Size(size),
            "answers": answers if self.training else answers[-1:],
            "proposals": answers[0] if self.two_stage else None,
        }

    def smooth(self, raw: Raw) -> tuple[Tensor, ...]:
        """Logits (B, Q, K + 1) and boxes (B, Q, 4) of the last answer.

        With two stages logits (B, N, K) and boxes (B, N, 4) of the proposals, and the logits (B, Q, K) of the last
        answer, those of each class in order of size. For the best proposals become queries, best first: of nearly equal
        ones another comes first or is in, and a query has another token's box, while the set of logits hardly changes.
        """
        output: DETROutput = raw
        last = output["answers"][-1]
        if output["proposals"] is None:
            return last
        return *output["proposals"], last.logits.sort(dim=1).values

    def _read(self, tokens: Float[Tensor, "B N D"], cells: Float[Tensor, "N 2"]) -> list[Answer]:
        """The published way: learned positions ask, and each layer's answer stands for itself."""
        # Cells count from 1 to h and w here, in the place of their centres.
        # (Half a cell is the first centre; as numbers it would be copied from the host, which no CUDA graph may do.)
        where = sines((cells + cells[0]).flip(1), tokens.shape[2] // 2).to(tokens.dtype)  # y first
        for encoder in self.encoders:
            tokens = encoder(tokens, where)
        asking = self.queries.expand(len(tokens), -1, -1)
        queries = torch.zeros_like(asking)
        answers = []
        for depth, decoder in enumerate(self.decoders, 1):
            queries = decoder(queries, asking, tokens, where, None)
            if self.training or depth == len(self.decoders):
                answer = self.norm(queries)
                answers.append(Answer(self.classify(answer), self.regress(answer).float().sigmoid()))
        return answers

    def _refine(self, tokens: Float[Tensor, "B N D"], cells: Float[Tensor, "N 2"]) -> list[Answer]:
        """With two stages: tokens propose, and the layers refine the best proposals."""
        half = tokens.shape[2] // 2
        where = sines(cells, half).to(tokens.dtype)
        for encoder in self.encoders:
            tokens = encoder(tokens, where)
        tokens = self.encoded(tokens)
        start = torch.cat([cells, torch.full_like(cells, SIDE)], dim=1).logit()
        moved = start + self.regress(tokens).float()
        answers = [Answer(self.classify(tokens), moved.sigmoid())]
        best = answers[0].logits.amax(dim=2).topk(min(self.slots, tokens.shape[1]), dim=1).indices.unsqueeze(2)
        queries = tokens.gather(1, best.expand(-1, -1, tokens.shape[2]))
        reference = moved.detach().gather(1, best.expand(-1, -1, 4))
        for decoder in self.decoders:
            box = reference.sigmoid()
            place = self.locate(sines(box, half).to(tokens.dtype))
            queries = decoder(queries, place, tokens, where, gaussian(box, cells).to(tokens.dtype))
            answer = self.norm(queries)
            moved = reference + self.regress(answer).float()
            reference = moved.detach()
            answers.append(Answer(self.classify(answer), moved.sigmoid()))
        return answers

    def loss(self, raw: Raw, target: Target) -> Float[Tensor, ""]:
        """Class, L1 and GIoU loss, summed over the answers; box losses are divided by the objects of the batch.

        ``target`` holds the boxes of each image in pixels of the input; those without area are left out.
        """
        output: DETROutput = raw
        answers = [Answer(answer.logits.float(), answer.boxes.float()) for answer in output["answers"]]
        height, width = output["size"]
        truths = [truth(boxes, answers[0].boxes.device) for boxes in objects(target)]
        scale = answers[0].boxes.new_tensor([width, height, width, height])
        things = [box_convert(one["boxes"] / scale, "xyxy", "cxcywh") for one in truths]
        labels = [one["labels"] for one in truths]
        ignored = [one["ignored"] / scale for one in truths]
        count = max(1, sum(map(len, labels)))
        pairs = assign(self._costs(answers, things, labels))
        total = answers[0].logits.new_zeros(())
        for depth, (logits, boxes) in enumerate(answers):
            wanted = torch.full(logits.shape[:2], self.classes, device=logits.device)
            silent = torch.zeros_like(wanted, dtype=torch.bool)
            found, objective = [], []
            for image, (query, thing) in enumerate(pairs[depth * len(truths) : (depth + 1) * len(truths)]):
                wanted[image, query] = labels[image][thing]
                silent[image] = mostly_inside(_xyxy(boxes[image].detach()), ignored[image])
                found.append(boxes[image, query])
                objective.append(things[image][thing])
            counted = ~silent | (wanted != self.classes)
            total = total + self._class_loss(logits, wanted, counted, count)
            total = total + _box_loss(torch.cat(found), torch.cat(objective)) / count
        return total

    @torch.no_grad()
    def _costs(
        self, answers: Sequence[Answer], things: Sequence[Float[Tensor, "_ 4"]], labels: Sequence[Int[Tensor, " _"]]
    ) -> list[Float[Tensor, "_ _"]]:
        """What it costs that a query answers for an object, answer by answer, image by image."""
        costs = []
        for logits, boxes in answers:
            classes = self._class_cost(logits)
            for image, (thing, label) in enumerate(zip(things, labels, strict=True)):
                apart = generalized_box_iou(_xyxy(boxes[image]), _xyxy(thing))
                costs.append(classes[image][:, label] + L1 * torch.cdist(boxes[image], thing, p=1) - GIOU * apart)
        return costs

    def _class_cost(self, logits: Float[Tensor, "B Q _"]) -> Float[Tensor, "B Q _"]:
        if not self.two_stage:
            return -CLASS * logits.softmax(dim=2)
        # What the focal loss of this class would change by.
        here = sigmoid_focal_loss(logits, torch.ones_like(logits), ALPHA, GAMMA)
        return FOCAL * (here - sigmoid_focal_loss(logits, torch.zeros_like(logits), ALPHA, GAMMA))

    def _class_loss(
        self, logits: Float[Tensor, "B Q _"], wanted: Int[Tensor, "B Q"], counted: Bool[Tensor, "B Q"], count: int
    ) -> Float[Tensor, ""]:
        if self.two_stage:
            labels = one_hot(wanted, self.classes + 1)[..., :-1].to(logits.dtype)
            return FOCAL * (sigmoid_focal_loss(logits, labels, ALPHA, GAMMA) * counted.unsqueeze(2)).sum() / count
        weight = torch.where(wanted == self.classes, NO_OBJECT, 1.0) * counted
        loss = cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="none").view_as(weight) * weight
        # Where nothing counts the sum is an exact 0 too.
        total = weight.sum()
        return CLASS * loss.sum() / total.where(total > 0, 1)

    @torch.no_grad()
    def decode(self, raw: Raw, size: tuple[int, int]) -> list[Boxes]:
        """Boxes of each image in pixels of ``size`` (H, W), float32, scores falling; nothing is suppressed.

        As published: each query with its best class, however likely "no object" is. With two stages: the best pairs of
        query and class.
        """
        output: DETROutput = raw
        answer = output["answers"][-1]
        scale = torch.tensor([size[1], size[0]] * 2, device=answer.boxes.device)
        detections = []
        for logits, boxes in zip(answer.logits.float(), answer.boxes.float(), strict=True):
            if self.two_stage:
                scores, pairs = logits.sigmoid().flatten().topk(min(self.detections, logits.numel()))
                chosen, labels = pairs // self.classes, pairs % self.classes
            else:
                best, classes = logits.softmax(dim=1)[:, :-1].max(dim=1)
                scores, chosen = best.sort(descending=True)
                labels = classes[chosen]
            detections.append(Boxes(clip_boxes_to_image(_xyxy(boxes[chosen]) * scale, size), labels, scores))
        return detections

    def deploy(self, raw: Raw, size: tuple[int, int]) -> tuple[Tensor, ...]:
        """See `Head.deploy`; every place has a box."""
        answer = raw["answers"][-1]
        logits, boxes = answer.logits.float(), answer.boxes.float()
        if self.two_stage:
            scores, pairs = logits.sigmoid().flatten(1).topk(min(self.detections, logits[0].numel()), dim=1)
            chosen, labels = pairs.div(self.classes, rounding_mode="floor"), pairs % self.classes
        else:
            best, classes = logits.softmax(dim=2)[..., :-1].max(dim=2)
            scores, chosen = best.sort(dim=1, descending=True)
            labels = classes.gather(1, chosen)
        scale = torch.tensor([size[1], size[0]] * 2, device=boxes.device)
        found = boxes.gather(1, chosen.unsqueeze(2).expand(-1, -1, 4))
        xyxy = clip_boxes_to_image(_xyxy(found.flatten(0, 1)) * scale, size)
        return xyxy.reshape(found.shape), scores, labels


def sines(values: Float[Tensor, "*N V"], channels: int) -> Float[Tensor, "*N C"]:
    """Each of V numbers in 0..1 as ``channels`` sines and cosines of wavelengths 1 to 10 000; C = V x channels."""
    exponents = torch.arange(channels // 2, device=values.device) / (channels // 2)
    angles = 2 * math.pi * values.float().unsqueeze(-1) / 10_000**exponents
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-3)


def gaussian(boxes: Float[Tensor, "B Q 4"], cells: Float[Tensor, "N 2"]) -> Float[Tensor, "B Q N"]:
    """Logarithm of a Gaussian around each box (centre x, centre y, width, height) at each cell's centre, all in 0..1.

    Its deviation is a quarter of a side of the box, and no less than a cell: a box between two cells has to see one.
    """
    half = (boxes[..., 2:] / 8).maximum(cells[0])  # of the deviation: the first centre is half a cell from the borders
    distance = (cells - boxes[..., None, :2]) / half.unsqueeze(-2)
    return -distance.square().sum(dim=-1) / 8


def centres(h: int, w: int, device: torch.device) -> Float[Tensor, "N 2"]:
    """Centres (x, y) of the cells of a map, row by row, in 0..1."""
    y = (torch.arange(h, device=device) + 0.5) / h
    x = (torch.arange(w, device=device) + 0.5) / w
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).flatten(0, 1)


def _norms(norms: nn.ModuleList, *, pre_norm: bool) -> tuple[Sequence[nn.Module], Sequence[nn.Module]]:
    """What comes before each part of a layer, and what after its residual."""
    nothing = [nn.Identity()] * len(norms)
    return (list(norms), nothing) if pre_norm else (nothing, list(norms))


def _mlp(channels: int, hidden: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, channels))


def _xyxy(boxes: Float[Tensor, "*N 4"]) -> Float[Tensor, "*N 4"]:
    return box_convert(boxes, "cxcywh", "xyxy")


def _box_loss(found: Float[Tensor, "A 4"], wanted: Float[Tensor, "A 4"]) -> Float[Tensor, ""]:
    apart = generalized_box_iou_loss(_xyxy(found), _xyxy(wanted), reduction="sum")
    return L1 * l1_loss(found, wanted, reduction="sum") + GIOU * apart


def build(name: str, *, levels: tuple[Level, ...], classes: int) -> DETR:
    """Head ``name`` over a backbone's ``levels``."""
    numbers = CATALOGUE[name]
    return DETR(
        levels,
        classes,
        channels=int(numbers["channels"]),
        queries=int(numbers["queries"]),
        encoders=int(numbers["encoders"]),
        decoders=int(numbers["decoders"]),
        heads=int(numbers["heads"]),
        hidden=int(numbers["hidden"]),
        dropout=float(numbers["dropout"]),
        two_stage=bool(numbers["two_stage"]),
    )
