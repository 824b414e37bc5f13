"""Faster R-CNN: a region proposal network says where objects may be, a second stage pools each place and names it.

Ren et al. 2015 (arXiv 1506.01497) on a feature pyramid (Lin et al. 2017, arXiv 1612.03144), with torchvision's parts:
its RPN, matching, sampling, losses, box head and selection of detections.
"""

import math
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead, concat_box_prediction_layers
from torchvision.ops import box_iou, clip_boxes_to_image

from backbones.contract import Features, Level
from heads import detection, fixed
from heads.contract import Boxes, Head, Raw, Size, Target, Task, exported
from heads.pyramid import DetectionPyramid, doubling

CATALOGUE = {
    "faster_rcnn": {
        "task": "detection",
        "reads": "deepest",
        "channels": 256,
        "finest": 4,
        "coarsest": 32,
        "norm": False,
        "anchor": 8.0,
        "canonical": 224.0,
        "hidden": 1024,
        "proposals": 1000,
        "samples": 512,
        "doc": "Faster R-CNN as published: FPN of strides 4 to 64, 1000 proposals, two layers of 1024",
    },
    "faster_rcnn_pico": {
        "task": "detection",
        "reads": "deepest",
        "channels": 64,
        "finest": 8,
        "coarsest": 32,
        "norm": True,
        "anchor": 2.0,
        "canonical": 64.0,
        "hidden": 128,
        "proposals": 100,
        "samples": 64,
        "doc": "Faster R-CNN for CPU training: FPN of strides 8 to 64 with norms, 100 proposals, two layers of 128",
    },
}

CELLS = 7
"""Of a side of what is pooled for the box head."""

SPREAD = 0.5
"""Deviation of the logits of a class that `FasterRCNN.full_load` goes for, where there are few classes."""

SMALL = 1e-2
"""Pixels of a side below which torchvision's selection drops a box before NMS."""

OVERLAP = 0.5
"""IoU from which a proposal is of an object."""


@exported
class Proposing(NamedTuple):
    """Raw output while training: the first stage alone, since the second works on places that the truth decides.

    size: (H, W) pixels of the image that went in.
    maps: the pyramid.
    objectness: (B, N) logits of the N anchors: level by level (finest first), cell by cell, row by row.
    deltas: (B, N, 4) shifts of the centre in sides of the anchor, and logarithms of the factors of its sides.
    autocast: the dtype that autocast was on with, for the second stage to run under as well; None: it was off.
    """

    size: tuple[int, int]
    maps: Features
    objectness: Float[Tensor, "B N"]
    deltas: Float[Tensor, "B N 4"]
    autocast: torch.dtype | None


@exported
class Detected(NamedTuple):
    """Raw output in evaluation: what was found in each of the B images, scores falling.

    An exported model pads it to a fixed number of boxes an image, by ones with score 0.

    size: (H, W) pixels of the image that went in.
    boxes: xyxy in pixels of that image, float32. labels: 0..K-1. scores: 0..1.
    masks: of Mask R-CNN, probabilities on a grid of cells that covers the box.
    objectness, deltas: of the first stage, see `Proposing`; None where nothing ran.
    """

    size: tuple[int, int]
    boxes: list[Float[Tensor, "_ 4"]]
    labels: list[Int[Tensor, " _"]]
    scores: list[Float[Tensor, " _"]]
    masks: list[Float[Tensor, "_ _ _"]] | None = None
    objectness: Float[Tensor, "B N"] | None = None
    deltas: Float[Tensor, "B N 4"] | None = None


@dataclass(frozen=True)
class Samples:
    """The places of one image that the second stage learns from.

    boxes: (R, 4) xyxy in pixels. labels: (R,) 1..K, 0 for background.
    matched: (R,) index of the object among those to be found; without meaning for background.
    regression: (R, 4) wanted deltas.
    """

    boxes: Float[Tensor, "R 4"]
    labels: Int[Tensor, " R"]
    matched: Int[Tensor, " R"]
    regression: Float[Tensor, "R 4"]


class _Proposals(RegionProposalNetwork):
    """torchvision's first stage, deaf to the background in ignored boxes. Its anchors are given to it."""

    def __init__(self, channels: int, *, proposals: int) -> None:
        super().__init__(
            AnchorGenerator(),  # never asked
            RPNHead(channels, len(detection.RATIOS)),
            fg_iou_thresh=0.7,
            bg_iou_thresh=0.3,
            batch_size_per_image=256,
            positive_fraction=0.5,
            pre_nms_top_n={"training": 2 * proposals, "testing": proposals},
            post_nms_top_n={"training": 2 * proposals, "testing": proposals},
            nms_thresh=0.7,
        )
        self.proposal_matcher = detection.Matcher(0.7, 0.3, allow_low_quality_matches=True)

    def assign_targets_to_anchors(
        self, anchors: list[Tensor], targets: list[dict[str, Tensor]]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """See torchvision; an anchor of no object that lies mostly in an ignored box is not sampled (label -1)."""
        labels, boxes = super().assign_targets_to_anchors(anchors, targets)
        labels = [
            label.masked_fill((label == 0) & detection.mostly_inside(anchor, target["ignored"]), -1.0)
            for label, anchor, target in zip(labels, anchors, targets, strict=True)
        ]
        return labels, boxes

    def losses(
        self,
        objectness: Float[Tensor, "B N"],
        deltas: Float[Tensor, "B N 4"],
        anchors: Float[Tensor, "N 4"],
        truths: list[dict[str, Tensor]],
    ) -> Float[Tensor, ""]:
        """Sum of both losses over 256 sampled anchors an image; 0, with gradient 0, where there is none to sample."""
        everywhere = [anchors] * len(truths)
        labels, boxes = self.assign_targets_to_anchors(everywhere, truths)
        if not any(bool((label >= 0).any()) for label in labels):
            return 0 * (objectness.sum() + deltas.sum())
        wanted = list(self.box_coder.encode(boxes, everywhere))
        return sum(
            self.compute_loss(objectness.flatten(), deltas.flatten(0, 1), labels, wanted), objectness.new_zeros(())
        )


class FasterRCNN(Head):
    """Faster R-CNN on a pyramid of strides ``strides``, each twice the one before, and one more for the first stage.

    In training mode `forward` runs the first stage, and `loss` samples its proposals with the truth and runs the second
    stage on them. In evaluation mode `forward` runs both and selects the detections, NMS included, so that its time is
    that of the detector; how many proposals survive the NMS, and with them the time, depends on the image and the
    weights. On the meta device nothing can be selected: there all ``proposals`` are counted, or all anchors where there
    are fewer.

    Ignored boxes of the truth are honoured in both stages: an anchor or a proposal that lies by half or more in one and
    is of no object is not sampled.

    Args:
        levels: of the backbone.
        classes: K.
        channels: width of the pyramid.
        strides: of the pyramid, and of what the second stage pools from.
        norm: with LayerNorms in the FPN, which are not published.
        anchor: side of a level's square anchor, in strides; the published 8 makes 32 to 512 px of strides 4 to 64.
        canonical: side in pixels of a box that is pooled from stride 16, see `detection.roi_pool`.
        hidden: width of both layers of the box head.
        proposals: most places an image that the second stage looks at, twice as many in training.
        samples: proposals an image that it learns from, at most a quarter of them in objects.
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
        strides: tuple[int, ...],
        norm: bool,
        anchor: float,
        canonical: float,
        hidden: int,
        proposals: int,
        samples: int,
        score_threshold: float = 0.05,
        nms_threshold: float = 0.5,
        detections: int = 100,
    ) -> None:
        super().__init__()
        self.classes = classes
        self.canonical = canonical
        self.proposals = proposals
        self.pooled_strides = strides
        self.pyramid = DetectionPyramid(levels, strides, channels, coarser="pool", norm=norm)
        self.strides = self.pyramid.strides
        self.shapes = [detection.anchor_shapes([anchor * stride]) for stride in self.strides]
        self.rpn = _Proposals(channels, proposals=proposals)
        self.roi_heads = RoIHeads(
            box_roi_pool=None,
            box_head=TwoMLPHead(channels * CELLS**2, hidden),
            box_predictor=FastRCNNPredictor(hidden, classes + 1),
            fg_iou_thresh=OVERLAP,
            bg_iou_thresh=OVERLAP,
            batch_size_per_image=samples,
            positive_fraction=0.25,
            bbox_reg_weights=None,
            score_thresh=score_threshold,
            nms_thresh=nms_threshold,
            detections_per_img=detections,
        )

    def forward(self, features: Features, size: tuple[int, int]) -> Proposing | Detected:
        """Raw outputs for maps of an image of ``size`` (H, W) pixels: of the first stage in training, else of both."""
        first = self.first_stage(features, size)
        return first if self.training else self.detect(first)

    def first_stage(self, features: Features, size: tuple[int, int]) -> Proposing:
        """The pyramid, and what the first stage says of its anchors."""
        maps = self.pyramid(features, size)
        objectness, deltas = concat_box_prediction_layers(*self.rpn.head(list(maps)))
        images = len(maps[0])
        return Proposing(
            Size(size), maps, objectness.reshape(images, -1), deltas.reshape(images, -1, 4), _autocast(maps[0].device)
        )

    def anchors(self, size: tuple[int, int], device: torch.device) -> list[Float[Tensor, "_ 4"]]:
        """The anchors of each level, three a cell, xyxy in pixels of the input."""
        return detection.anchors(size, self.strides, self.shapes, device)

    @detection.uncompiled
    def propose(self, first: Proposing) -> list[Float[Tensor, "_ 4"]]:
        """The best places of each image, after NMS, xyxy in pixels of the input; without gradient."""
        device = first.objectness.device
        levels = self.anchors(first.size, device)
        images = len(first.objectness)
        places = self.rpn.box_coder.decode(first.deltas.detach().float().flatten(0, 1), [torch.cat(levels)] * images)
        kept, _ = self.rpn.filter_proposals(
            places.reshape(images, -1, 4),
            first.objectness.float(),
            [first.size] * images,
            [len(level) for level in levels],
        )
        return kept

    def pool(self, first: Proposing, boxes: list[Float[Tensor, "_ 4"]], cells: int) -> Float[Tensor, "R C _ _"]:
        """What the pyramid has at the boxes of each image, in the dtype of the second stage."""
        dtype = self.roi_heads.box_predictor.cls_score.weight.dtype
        if first.maps[0].is_meta:
            return first.maps[0].new_empty(sum(map(len, boxes)), first.maps[0].shape[1], cells, cells, dtype=dtype)
        maps = first.maps[: len(self.pooled_strides)]
        return detection.roi_pool(
            maps, boxes, first.size, strides=self.pooled_strides, cells=cells, canonical=self.canonical
        ).to(dtype)

    def classify(
        self, first: Proposing, boxes: list[Float[Tensor, "_ 4"]]
    ) -> tuple[Float[Tensor, "R _"], Float[Tensor, "R _"]]:
        """Logits (R, 1 + K), background first, and deltas (R, 4·(1 + K)) of all boxes, float32."""
        logits, deltas = self.roi_heads.box_predictor(self.roi_heads.box_head(self.pool(first, boxes, CELLS)))
        return logits.float(), deltas.float()

    def detect(self, first: Proposing) -> Detected:
        """The second stage on the proposals of the first."""
        images = len(first.objectness)
        if torch.compiler.is_exporting():
            selected = self.select_fixed(first)
        elif first.objectness.is_meta:
            proposals = [first.deltas.new_empty(min(self.proposals, first.deltas.shape[1]), 4)] * images
            self.classify(first, proposals)
            found = [first.deltas.new_empty(self.roi_heads.detections_per_img, 4)] * images
            selected = Detected(first.size, found, [one[:, 0].long() for one in found], [one[:, 0] for one in found])
        else:
            proposals = self.propose(first)
            logits, deltas = self.classify(first, proposals)
            selected = self.select(first.size, logits, deltas, proposals)
        return selected._replace(objectness=first.objectness, deltas=first.deltas)

    @detection.uncompiled
    def select(
        self,
        size: tuple[int, int],
        logits: Float[Tensor, "R _"],
        deltas: Float[Tensor, "R _"],
        proposals: list[Float[Tensor, "_ 4"]],
    ) -> Detected:
        """The best of what `classify` says of the proposals of each image, after NMS."""
        boxes, scores, labels = self.roi_heads.postprocess_detections(
            logits, deltas, proposals, [size] * len(proposals)
        )
        return Detected(size, boxes, [one - 1 for one in labels], scores)

    def select_fixed(self, first: Proposing) -> Detected:
        """Both stages with shapes that no image decides: always ``proposals`` places, some of them without area.

        What is found is the same, but for candidates beyond `fixed.CANDIDATES`.
        """
        levels, images = self.anchors(first.size, first.objectness.device), len(first.objectness)
        places = self.rpn.box_coder.decode(first.deltas.float().flatten(0, 1), [torch.cat(levels)] * images)
        boxes = fixed.proposals(
            places.reshape(images, -1, 4),
            first.objectness.float(),
            first.size,
            [len(level) for level in levels],
            most=self.proposals,
            smallest=self.rpn.min_size,
            threshold=self.rpn.nms_thresh,
        ).boxes
        logits, deltas = self.classify(first, list(boxes))
        scores = logits.softmax(dim=1)[:, 1:].reshape(images, -1)
        moved = clip_boxes_to_image(self.roi_heads.box_coder.decode(deltas, list(boxes)), first.size)[:, 1:]
        labels = torch.arange(self.classes, device=scores.device).expand(len(moved), -1)
        found = fixed.classified(
            moved.reshape(images, -1, 4),
            scores,
            labels.reshape(images, -1),
            score=self.roi_heads.score_thresh,
            smallest=SMALL,
            threshold=self.roi_heads.nms_thresh,
            most=self.roi_heads.detections_per_img,
        )
        return Detected(first.size, list(found.boxes), list(found.labels), list(found.scores))

    def deploy(self, raw: Raw, size: tuple[int, int]) -> tuple[Tensor, ...]:
        """See `Head.deploy`; both stages are in `forward`, and what is exported has fixed shapes already."""
        found: Detected = raw
        most = self.roi_heads.detections_per_img
        boxes = [detection.scaled(one, found.size, size) for one in found.boxes]
        return tuple(fixed.stacked(some, most) for some in (boxes, found.scores, found.labels))

    def smooth(self, raw: Raw) -> tuple[Tensor, ...]:
        """Objectness (B, N) and deltas (B, N, 4) of the first stage; all that follows is chosen by its NMS."""
        first: Proposing | Detected = raw
        if first.objectness is None or first.deltas is None:
            raise ValueError(f"these detections are not from the forward pass of a {type(self).__name__}")
        return first.objectness, first.deltas

    @torch.inference_mode()
    def full_load(self, features: Features, size: tuple[int, int], candidates: int) -> int:
        """See `Head.full_load`; candidates are pairs of proposal and class that go into the NMS of the second stage.

        The first stage needs no such help: it has no threshold, and its best ``proposals`` anchors always go into its
        NMS, or all where there are fewer. What the second stage looks at is what that leaves. Here the bias of the
        background is shifted. A pair that would not pass the score threshold without any background can be no
        candidate, so that there are fewer than 1 / threshold (20) of a proposal.
        """
        first = self.first_stage(features, size)
        proposals = self.propose(first)
        hidden = self.roi_heads.box_head(self.pool(first, proposals, CELLS))
        threshold = self.roi_heads.score_thresh

        def score() -> detection.Scores:
            raw, deltas = self.roi_heads.box_predictor(hidden)
            logits = raw.float()
            boxes = clip_boxes_to_image(self.roi_heads.box_coder.decode(deltas.float(), proposals), size)[:, 1:]
            share = logits[:, 1:].softmax(dim=1)  # among the classes, without the background
            possible = (share > threshold) & (boxes[..., 2:] - boxes[..., :2] >= SMALL).all(dim=2)
            # score > threshold <=> exp(background) < sum of exp(classes) x (share / threshold - 1)
            limit = logits[:, 1:].logsumexp(dim=1, keepdim=True) + (share / threshold - 1).log()
            return detection.Scores([raw], torch.where(possible, limit - logits[:, :1], -torch.inf).flatten())

        return detection.full_load(
            self.roi_heads.box_predictor.cls_score,
            score,
            images=len(proposals),
            candidates=candidates,
            # Equal classes are all over the threshold, or of 20 and more none is. The second need a wider spread.
            spread=SPREAD + math.log(max(1.0, self.classes * threshold)),
            background=True,
        )

    def sample(self, first: Proposing, truths: list[dict[str, Tensor]]) -> list[Samples]:
        """Places that the second stage learns from: proposals and the objects themselves, at most a quarter objects."""
        proposals = [
            one[(box_iou(truth["boxes"], one) >= OVERLAP).any(dim=0) | ~detection.mostly_inside(one, truth["ignored"])]
            for one, truth in zip(self.propose(first), truths, strict=True)
        ]
        shifted = [{**truth, "labels": truth["labels"] + 1} for truth in truths]
        parts = self.roi_heads.select_training_samples(proposals, shifted)
        return [
            Samples(boxes, labels, matched, regression)
            for boxes, matched, labels, regression in zip(*parts, strict=True)
        ]

    def loss(self, raw: Raw, target: Target) -> Float[Tensor, ""]:
        """Losses of both stages, four in all, in float32.

        ``target`` holds the boxes of each image in pixels of the input. Boxes without area are left out.

        Raises:
            RuntimeError: ``raw`` comes from evaluation mode.
        """
        if not isinstance(raw, Proposing):
            raise RuntimeError(  # noqa: TRY004 - the caller's mode is wrong, not the type that was passed
                f"the loss of {type(self).__name__} needs the raw output of training mode, which has proposals to "
                "sample, and got detections; call model.train() before the forward pass"
            )
        objects = detection.objects(target)
        device = raw.objectness.device
        truths = [detection.truth(boxes, device) for boxes in objects]
        anchors = torch.cat(self.anchors(raw.size, device))
        first = self.rpn.losses(raw.objectness.float(), raw.deltas.float(), anchors, truths)
        samples = self.sample(raw, truths)
        return first + self.second_loss(raw, samples, objects)

    def second_loss(
        self,
        first: Proposing,
        samples: list[Samples],
        objects: list[Boxes],  # noqa: ARG002 - Mask R-CNN's masks
    ) -> Float[Tensor, ""]:
        """Sum of the losses of the second stage; 0, with gradient 0, where nothing was sampled."""
        with self.precision(first):
            logits, deltas = self.classify(first, [one.boxes for one in samples])
        if len(logits) == 0:
            return logits.sum() + deltas.sum()
        return torch.stack(
            fastrcnn_loss(logits, deltas, [one.labels for one in samples], [one.regression for one in samples])
        ).sum()

    def precision(self, first: Proposing) -> AbstractContextManager[object]:
        """Autocast as it was in `forward`: a training loop takes the loss outside of it."""
        return cast(
            "AbstractContextManager[object]",
            torch.autocast(first.objectness.device.type, first.autocast, enabled=first.autocast is not None),
        )

    @torch.no_grad()
    def decode(self, raw: Raw, size: tuple[int, int]) -> list[Boxes]:
        """The best boxes of each image in pixels of ``size`` (H, W), float32, scores falling."""
        found: Detected = self.detect(raw) if isinstance(raw, Proposing) else without_padding(raw)
        return [
            Boxes(detection.scaled(boxes, found.size, size), labels, scores)
            for boxes, labels, scores in zip(found.boxes, found.labels, found.scores, strict=True)
        ]


def without_padding(found: Detected) -> Detected:
    """Detections of an exported model, whose number is fixed, without those that are none."""
    there = [scores > 0 for scores in found.scores]

    def kept(parts: list[Tensor]) -> list[Tensor]:
        return [one[some] for one, some in zip(parts, there, strict=True)]

    masks = None if found.masks is None else kept(found.masks)
    return found._replace(boxes=kept(found.boxes), labels=kept(found.labels), scores=kept(found.scores), masks=masks)


def _autocast(device: torch.device) -> torch.dtype | None:
    """The dtype that autocast is on with for this kind of device; None: it is off."""
    kind = device.type
    available = torch.amp.is_autocast_available(kind)
    return torch.get_autocast_dtype(kind) if available and torch.is_autocast_enabled(kind) else None


def build(name: str, *, levels: tuple[Level, ...], classes: int) -> FasterRCNN:
    """Head ``name`` over a backbone's ``levels``."""
    numbers = CATALOGUE[name]
    return FasterRCNN(
        levels,
        classes,
        channels=int(numbers["channels"]),
        strides=doubling(int(numbers["finest"]), int(numbers["coarsest"])),
        norm=bool(numbers["norm"]),
        anchor=float(numbers["anchor"]),
        canonical=float(numbers["canonical"]),
        hidden=int(numbers["hidden"]),
        proposals=int(numbers["proposals"]),
        samples=int(numbers["samples"]),
    )
