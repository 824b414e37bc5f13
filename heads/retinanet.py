"""RetinaNet: nine anchors at every cell of a pyramid, each classified and refined, trained with the focal loss.

Lin et al. 2017 (arXiv 1708.02002), on torchvision's parts: its towers, matching, losses and selection of detections.
"""

from functools import partial
from typing import TypedDict

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.models.detection import retinanet as parts

from backbones.contract import Features, Level
from heads import detection, fixed, selection
from heads.contract import Boxes, Head, Raw, Size, Target, Task
from heads.pyramid import DetectionPyramid, doubling

CATALOGUE = {
    "retinanet": {
        "task": "detection",
        "reads": "deepest",
        "channels": 256,
        "convs": 4,
        "finest": 8,
        "coarsest": 32,
        "coarser": True,
        "norm": False,
        "anchor": 4.0,
        "doc": "RetinaNet as published: FPN of strides 8 to 128, 4 convolutions a tower, 9 anchors a cell",
    },
    "retinanet_pico": {
        "task": "detection",
        "reads": "deepest",
        "channels": 64,
        "convs": 2,
        "finest": 8,
        "coarsest": 32,
        "coarser": False,
        "norm": True,
        "anchor": 2.0,
        "doc": "RetinaNet for CPU training: strides 8 to 32, 64 wide, 2 convolutions a tower, norms, smaller anchors",
    },
}

OCTAVES = (1.0, 2 ** (1 / 3), 2 ** (2 / 3))
"""Sides of a level's anchors, as multiples of the smallest."""

GROUP = 8
"""Channels a group of a GroupNorm, in towers that have one."""


class RetinaNetOutput(TypedDict):
    """Raw output of RetinaNet; the N anchors go level by level (finest first), cell by cell, row by row.

    size: (H, W) pixels of the image that went in.
    logits: (B, N, K).
    regression: (B, N, 4) shifts of the centre in sides of the anchor, and logarithms of the factors of its sides.
    """

    size: Size
    logits: Tensor
    regression: Tensor


class _Towers(parts.RetinaNetHead):
    """torchvision's towers and losses, at any depth, and deaf to the background in ignored boxes."""

    def __init__(self, channels: int, classes: int, convs: int, *, norm: bool) -> None:
        norm_layer = partial(nn.GroupNorm, channels // GROUP) if norm else None
        super().__init__(channels, len(OCTAVES) * len(detection.RATIOS), classes, norm_layer=norm_layer)
        # Its depth is fixed at the published 4.
        self.classification_head.conv = self.classification_head.conv[:convs]
        self.regression_head.conv = self.regression_head.conv[:convs]

    def compute_loss(
        self,
        targets: list[dict[str, Tensor]],
        head_outputs: dict[str, Tensor],
        anchors: list[Tensor],
        matched_idxs: list[Tensor],
    ) -> dict[str, Tensor]:
        """Losses of torchvision, for which an unmatched anchor that lies mostly in an ignored box is no background."""
        matched = [
            one.masked_fill(
                (one < 0) & detection.mostly_inside(anchor, target["ignored"]), detection.Matcher.BETWEEN_THRESHOLDS
            )
            for target, anchor, one in zip(targets, anchors, matched_idxs, strict=True)
        ]
        return super().compute_loss(targets, head_outputs, anchors, matched)


class RetinaNet(Head):
    """RetinaNet on a pyramid of strides ``strides``, each twice the one before, and two more on top with ``coarser``.

    An anchor is of the object that it overlaps with an IoU of 0.5 or more, or most of all anchors; background below
    0.4. Ignored boxes of the truth are honoured: an anchor that lies by half or more in one and is of no object is not
    counted as background.

    Args:
        levels: of the backbone.
        classes: K.
        channels: width of pyramid and towers.
        convs: 3x3 convolutions of each tower, at most the published 4.
        strides: of the pyramid.
        coarser: with P6 and P7, as published.
        norm: with LayerNorms in the FPN and GroupNorms of 8 channels in the towers, which are not published.
        anchor: side of a level's smallest square anchor, in strides; the published 4 makes 32 to 813 px of strides 8
            to 128.
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
        anchor: float,
        score_threshold: float = 0.05,
        nms_threshold: float = 0.5,
        detections: int = 100,
    ) -> None:
        super().__init__()
        self.classes = classes
        self.pyramid = DetectionPyramid(
            levels, strides, channels, coarser="convolutions" if coarser else "none", norm=norm
        )
        self.strides = self.pyramid.strides
        self.shapes = [
            detection.anchor_shapes([anchor * stride * octave for octave in OCTAVES]) for stride in self.strides
        ]
        self.detector = parts.RetinaNet(
            detection.NoBackbone(channels),
            classes,
            head=_Towers(channels, classes, convs, norm=norm),
            proposal_matcher=detection.Matcher(0.5, 0.4, allow_low_quality_matches=True),
            score_thresh=score_threshold,
            nms_thresh=nms_threshold,
            detections_per_img=detections,
        )

    def forward(self, features: Features, size: tuple[int, int]) -> RetinaNetOutput:
        """Raw outputs for feature maps of an image of ``size`` (H, W) pixels."""
        outputs = self.detector.head(list(self.pyramid(features, size)))
        return {"size": Size(size), "logits": outputs["cls_logits"], "regression": outputs["bbox_regression"]}

    def anchors(self, size: tuple[int, int], device: torch.device) -> list[Float[Tensor, "_ 4"]]:
        """The anchors of each level, nine a cell, xyxy in pixels of the input."""
        return detection.anchors(size, self.strides, self.shapes, device)

    def loss(self, raw: Raw, target: Target) -> Float[Tensor, ""]:
        """Focal loss + L1 loss of the regression, both a sum over the anchors divided by the number in objects.

        ``target`` holds the boxes of each image in pixels of the input. Boxes without area match no anchor.
        """
        output: RetinaNetOutput = raw
        device = output["logits"].device
        truths = [detection.truth(boxes, device) for boxes in detection.objects(target)]
        losses = self.detector.compute_loss(
            truths,
            {"cls_logits": output["logits"].float(), "bbox_regression": output["regression"].float()},
            [torch.cat(self.anchors(output["size"], device))] * len(truths),
        )
        return torch.stack(list(losses.values())).sum()

    def full_load(self, features: Features, size: tuple[int, int], candidates: int) -> int:
        """See `Head.full_load`; candidates are pairs of anchor and class, at most torchvision's 1000 of a level."""
        counts = [len(level) for level in self.anchors(size, features[0].device)]
        needed = torch.tensor(self.detector.score_thresh, device=features[0].device).logit()

        def levels() -> list[tuple[Tensor, Tensor]]:
            return [(level, needed) for level in self(features, size)["logits"].split(counts, dim=1)]

        return detection.dense_load(
            self.detector.head.classification_head.cls_logits,
            levels,
            most=self.detector.topk_candidates,
            images=len(features[0]),
            candidates=candidates,
        )

    @torch.no_grad()
    def decode(self, raw: Raw, size: tuple[int, int]) -> list[Boxes]:
        """The best boxes of each image in pixels of ``size`` (H, W), float32, scores falling."""
        output: RetinaNetOutput = raw
        anchors = self.anchors(output["size"], output["logits"].device)
        if selection.in_whole_batches(output["logits"].device):
            found = self._select(output, anchors)
        else:
            counts = [len(level) for level in anchors]
            images = len(output["logits"])
            found = self.detector.postprocess_detections(
                {
                    "cls_logits": list(output["logits"].float().split(counts, dim=1)),
                    "bbox_regression": list(output["regression"].float().split(counts, dim=1)),
                },
                [anchors] * images,
                [output["size"]] * images,
            )
        return [
            Boxes(detection.scaled(image["boxes"], output["size"], size), image["labels"], image["scores"])
            for image in found
        ]

    def deploy(self, raw: Raw, size: tuple[int, int]) -> tuple[Tensor, ...]:
        """See `Head.deploy`."""
        output: RetinaNetOutput = raw
        scores, deltas = output["logits"].float().sigmoid(), output["regression"].float()
        anchors, decode = self.anchors(output["size"], scores.device), self.detector.box_coder.decode_single
        found = fixed.dense(scores, deltas, anchors, decode, output["size"], self.detector)
        return found.scaled(output["size"], size)

    def _select(self, output: RetinaNetOutput, anchors: list[Float[Tensor, "_ 4"]]) -> list[dict[str, Tensor]]:
        """What torchvision selects, of as many images at once as fit."""
        found = []
        for some in selection.pieces(output["logits"]):
            scores = output["logits"][some].float().sigmoid()
            deltas, decode = output["regression"][some].float(), self.detector.box_coder.decode_single
            found += selection.select(scores, deltas, anchors, decode, output["size"], self.detector)
        return found


def build(name: str, *, levels: tuple[Level, ...], classes: int) -> RetinaNet:
    """Head ``name`` over a backbone's ``levels``."""
    numbers = CATALOGUE[name]
    return RetinaNet(
        levels,
        classes,
        channels=int(numbers["channels"]),
        convs=int(numbers["convs"]),
        strides=doubling(int(numbers["finest"]), int(numbers["coarsest"])),
        coarser=bool(numbers["coarser"]),
        norm=bool(numbers["norm"]),
        anchor=float(numbers["anchor"]),
    )
