"""FCOS: every cell of a pyramid says whether it lies in an object, of which class, and how far its four sides are.

Tian et al. 2019 and 2020 (arXiv 1904.01355, 2006.09214), on torchvision's parts: its convolutions, matching (centre
sampling, scale ranges), losses (focal, GIoU, centre-ness) and selection of detections.
"""

from functools import partial
from typing import TypedDict, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.models.detection import fcos as parts

from backbones.contract import Features, Level
from heads import detection, fixed, selection
from heads.contract import Boxes, Head, Raw, Size, Target, Task
from heads.pyramid import DetectionPyramid, doubling

CATALOGUE = {
    "fcos": {
        "task": "detection",
        "reads": "deepest",
        "channels": 256,
        "convs": 4,
        "finest": 8,
        "coarsest": 32,
        "coarser": True,
        "square": 1.0,
        "norm": False,
        "doc": "FCOS as published: FPN of strides 8 to 128, 4 convolutions a tower",
    },
    "fcos_pico": {
        "task": "detection",
        "reads": "deepest",
        "channels": 64,
        "convs": 2,
        "finest": 8,
        "coarsest": 32,
        "coarser": False,
        "square": 0.5,
        "training_revision": 2,
        "norm": True,
        "doc": "FCOS for CPU training: strides 8 to 32, half the ranges, 64 wide, 2 convolutions a tower, FPN norms",
    },
}

GROUP = 8
"""Channels a group of a GroupNorm: the 32 groups of 256 channels that are published, kept for narrower heads."""

CENTRAL = 1.5
"""Strides from the centre of an object within which its locations lie (centre sampling)."""

REACH = 4.0
"""Squares from a location to a side, for `FCOS.full_load`: a level's objects begin where the farthest is at as many."""

NOWHERE = -30.0
"""A logit whose focal loss as background is below the last digit of a float32."""


class FCOSOutput(TypedDict):
    """Raw output of FCOS; the N locations go level by level (finest first), row by row.

    size: (H, W) pixels of the image that went in.
    logits: (B, N, K).
    regression: (B, N, 4) distances to left, top, right, bottom, in sides of their squares, not negative.
    centerness: (B, N, 1) logits.
    """

    size: Size
    logits: Tensor
    regression: Tensor
    centerness: Tensor


class _Towers(parts.FCOSHead):
    """The towers of torchvision, with two changes to how they start and one to their loss."""

    def __init__(self, channels: int, classes: int, convs: int, square: float) -> None:
        super().__init__(channels, num_anchors=1, num_classes=classes, num_convs=0)  # both towers are replaced
        norm = partial(nn.GroupNorm, channels // GROUP)
        self.classification_head = parts.FCOSClassificationHead(channels, 1, classes, convs, norm_layer=norm)
        self.regression_head = parts.FCOSRegressionHead(channels, 1, convs, norm_layer=norm)
        # Distances pass a ReLU. From a bias of 0 half of them start dead; the paper's exp(0) starts all at one stride.
        nn.init.constant_(self.regression_head.get_parameter("bbox_reg.bias"), 1 / square)

    def compute_loss(
        self,
        targets: list[dict[str, Tensor]],
        head_outputs: dict[str, Tensor],
        anchors: list[Tensor],
        matched_idxs: list[Tensor],
    ) -> dict[str, Tensor]:
        """Losses of torchvision, for which a location in an ignored box and in no object is no background."""
        silent = torch.stack(
            [
                detection.inside((anchor[:, :2] + anchor[:, 2:]) / 2, target["ignored"]) & (matched < 0)
                for target, anchor, matched in zip(targets, anchors, matched_idxs, strict=True)
            ]
        )
        logits = head_outputs["cls_logits"].masked_fill(silent.unsqueeze(-1), NOWHERE)
        return super().compute_loss(targets, {**head_outputs, "cls_logits": logits}, anchors, matched_idxs)


class FCOS(Head):
    """FCOS on a pyramid of strides ``strides``, each twice the one before, and two more on top with ``coarser``.

    Ignored boxes of the truth are honoured in the classification loss: a location whose centre lies in one, at any
    level, counts as background no more, while an object that lies in it is still learnt.

    Args:
        levels: of the backbone.
        classes: K.
        channels: width of pyramid and towers, a multiple of 8.
        convs: 3x3 convolutions of each tower.
        strides: of the pyramid. A level of stride s is responsible for objects whose farthest side is 4s to 8s pixels
            from the location times ``square``; the finest also for all smaller ones and the coarsest
            for all larger ones.
        coarser: with P6 and P7, as published.
        square: side of the square that stands for a location, in strides: ranges and distances are in multiples of it.
            With the published 1 all objects of a scene of 128 px are the finest level's; half of it shares them out, as
            the halved anchors of the other small detectors do. Which locations are central enough stays the same.
        norm: with LayerNorms in the FPN, which are not published.
        score_threshold: least score of a detection; low, since average precision wants the whole curve.
        nms_threshold: IoU over which the lower of two boxes of a class goes.
        detections: most boxes an image.
    """

    task: Task = "detection"

    def __init__(
        self,
        levels: tuple[Level, ...],
        classes: int,
        *,
        channels: int,
        convs: int,
        strides: tuple[int, ...],
        coarser: bool,
        norm: bool,
        square: float = 1.0,
        score_threshold: float = 0.05,
        nms_threshold: float = 0.6,
        detections: int = 100,
    ) -> None:
        super().__init__()
        self.classes = classes
        self.pyramid = DetectionPyramid(
            levels, strides, channels, coarser="convolutions" if coarser else "none", norm=norm
        )
        self.strides = self.pyramid.strides
        self.square = square
        self.detector = parts.FCOS(
            detection.NoBackbone(channels),
            classes,
            head=_Towers(channels, classes, convs, square),
            center_sampling_radius=CENTRAL / square,
            score_thresh=score_threshold,
            nms_thresh=nms_threshold,
            detections_per_img=detections,
        )

    def forward(self, features: Features, size: tuple[int, int]) -> FCOSOutput:
        """Raw outputs for feature maps of an image of ``size`` (H, W) pixels."""
        outputs = self.detector.head(list(self.pyramid(features, size)))
        return {
            "size": Size(size),
            "logits": outputs["cls_logits"],
            "regression": outputs["bbox_regression"],
            "centerness": outputs["bbox_ctrness"],
        }

    def anchors(self, size: tuple[int, int], device: torch.device) -> list[Float[Tensor, "_ 4"]]:
        """For each level a square of ``square`` strides around the centre of each cell, xyxy in pixels of the input."""
        sides = [stride * self.square for stride in self.strides]
        return detection.anchors(size, self.strides, [[(side, side)] for side in sides], device)

    def loss(self, raw: Raw, target: Target) -> Float[Tensor, ""]:
        """Focal + GIoU + centre-ness loss, each a sum over the locations divided by the number in objects.

        ``target`` holds the boxes of each image in pixels of the input. Boxes without area match no location.
        """
        output: FCOSOutput = raw
        squares = self.anchors(output["size"], output["logits"].device)
        truths = [detection.truth(boxes, output["logits"].device) for boxes in detection.objects(target)]
        losses = self.detector.compute_loss(
            truths,
            {
                "cls_logits": output["logits"].float(),
                "bbox_regression": output["regression"].float(),
                "bbox_ctrness": output["centerness"].float(),
            },
            [torch.cat(squares)] * len(truths),
            [len(level) for level in squares],
        )
        return torch.stack(list(losses.values())).sum()

    def full_load(self, features: Features, size: tuple[int, int], candidates: int) -> int:
        """See `Head.full_load`; candidates are pairs of location and class, at most torchvision's 1000 of a level.

        The score of a pair rises with its logit, however little centred the location is, so that one shift of all
        logits does. A location whose centre-ness alone is below the square of the threshold never is a candidate.

        Sides at a mean distance under `REACH` are moved there, by the bias of the distances: the boxes of random
        weights, two strides wide, overlap too little for NMS to drop any.
        """
        towers = cast("_Towers", self.detector.head)
        with torch.inference_mode():  # in which weights can be written that were made in it, and all others too
            missing = REACH - self(features, size)["regression"].float().mean()
            towers.regression_head.get_parameter("bbox_reg.bias").add_(missing.clamp(min=0))
        counts = [len(level) for level in self.anchors(size, features[0].device)]

        def levels() -> list[tuple[Tensor, Tensor]]:
            raw = self(features, size)
            least = self.detector.score_thresh**2 / raw["centerness"].float().sigmoid()
            needed = torch.where(least < 1, least, torch.nan).logit().nan_to_num(torch.inf)
            return list(zip(raw["logits"].split(counts, dim=1), needed.split(counts, dim=1), strict=True))

        return detection.dense_load(
            towers.classification_head.cls_logits,
            levels,
            most=self.detector.topk_candidates,
            images=len(features[0]),
            candidates=candidates,
        )

    @torch.no_grad()
    def decode(self, raw: Raw, size: tuple[int, int]) -> list[Boxes]:
        """The best boxes of each image in pixels of ``size`` (H, W), float32, scores falling.

        The score is the geometric mean of class probability and centre-ness.
        """
        output: FCOSOutput = raw
        height, width = output["size"]
        squares = self.anchors((height, width), output["logits"].device)
        if selection.in_whole_batches(output["logits"].device):
            found = self._select(output, squares)
        else:
            counts = [len(level) for level in squares]
            images = len(output["logits"])
            found = self.detector.postprocess_detections(
                {
                    "cls_logits": list(output["logits"].float().split(counts, dim=1)),
                    "bbox_regression": list(output["regression"].float().split(counts, dim=1)),
                    "bbox_ctrness": list(output["centerness"].float().split(counts, dim=1)),
                },
                [squares] * images,
                [(height, width)] * images,
            )
        return [
            Boxes(detection.scaled(image["boxes"], (height, width), size), image["labels"], image["scores"])
            for image in found
        ]

    def deploy(self, raw: Raw, size: tuple[int, int]) -> tuple[Tensor, ...]:
        """See `Head.deploy`."""
        output: FCOSOutput = raw
        scores = (output["logits"].float().sigmoid() * output["centerness"].float().sigmoid()).sqrt()
        squares = self.anchors(output["size"], scores.device)
        deltas, decode = output["regression"].float(), self.detector.box_coder.decode
        found = fixed.dense(scores, deltas, squares, decode, output["size"], self.detector)
        return found.scaled(output["size"], size)

    def _select(self, output: FCOSOutput, squares: list[Float[Tensor, "_ 4"]]) -> list[dict[str, Tensor]]:
        """What torchvision selects, of as many images at once as fit."""
        found = []
        for some in selection.pieces(output["logits"]):
            centered = output["centerness"][some].float().sigmoid()
            scores = (output["logits"][some].float().sigmoid() * centered).sqrt()
            deltas, decode = output["regression"][some].float(), self.detector.box_coder.decode
            found += selection.select(scores, deltas, squares, decode, output["size"], self.detector)
        return found


def build(name: str, *, levels: tuple[Level, ...], classes: int) -> FCOS:
    """Head ``name`` over a backbone's ``levels``."""
    numbers = CATALOGUE[name]
    return FCOS(
        levels,
        classes,
        channels=int(numbers["channels"]),
        convs=int(numbers["convs"]),
        strides=doubling(int(numbers["finest"]), int(numbers["coarsest"])),
        coarser=bool(numbers["coarser"]),
        norm=bool(numbers["norm"]),
        square=float(numbers["square"]),
    )
