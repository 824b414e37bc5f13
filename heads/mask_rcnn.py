"""Mask R-CNN: Faster R-CNN with a third branch that draws the mask of each detected object inside its box.

He et al. 2017 (arXiv 1703.06870), with torchvision's mask head and predictor.
"""

from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import roi_align

from backbones.contract import Level, Unsupported
from heads import detection, fixed
from heads.contract import Boxes, Raw, Target
from heads.faster_rcnn import Detected, FasterRCNN, Proposing, Samples, without_padding
from heads.pyramid import doubling

CATALOGUE = {
    "mask_rcnn": {
        "task": "detection",
        "reads": "deepest",
        "masks": True,
        "channels": 256,
        "finest": 4,
        "coarsest": 32,
        "norm": False,
        "anchor": 8.0,
        "canonical": 224.0,
        "hidden": 1024,
        "proposals": 1000,
        "samples": 512,
        "convs": 4,
        "doc": "Mask R-CNN as published: FPN of strides 4 to 64, 1000 proposals, masks of 28 x 28 for 100 detections",
    },
    "mask_rcnn_pico": {
        "task": "detection",
        "reads": "deepest",
        "masks": True,
        "channels": 64,
        "finest": 8,
        "coarsest": 32,
        "norm": True,
        "anchor": 2.0,
        "canonical": 64.0,
        "hidden": 128,
        "proposals": 100,
        "samples": 64,
        "convs": 2,
        "doc": "Mask R-CNN for CPU training: Faster R-CNN pico with masks of 28 x 28",
    },
}

CELLS = 14
"""Of a side of what is pooled for the mask head; masks have twice as many."""

PASTED_AT_ONCE = 1 << 24
"""Pixels of masks that are float at the same time while they are pasted: 64 MB."""


class MaskRCNN(FasterRCNN):
    """Faster R-CNN with masks: of the sampled places in objects in training, of the detections in evaluation.

    The mask branch runs in `forward` in evaluation, on the detections that are left after NMS (``detections`` at most,
    and that many on the meta device); `decode` pastes the masks into the image.

    Args:
        levels: of the backbone.
        classes: K.
        channels: width of the pyramid and of the mask branch.
        convs: 3x3 convolutions of the mask branch.
        strides: see `FasterRCNN`, as for those below.
        norm: with LayerNorms in the FPN, which are not published.
        anchor: side of a level's square anchor, in strides.
        canonical: side in pixels of a box that is pooled from stride 16.
        hidden: width of both layers of the box head.
        proposals: most places an image that the second stage looks at.
        samples: proposals an image that it learns from.
        score_threshold: least score of a detection.
        nms_threshold: IoU over which the lower of two boxes of a class goes.
        detections: most boxes an image.
    """

    def __init__(
        self,
        levels: tuple[Level, ...],
        classes: int,
        *,
        channels: int,
        convs: int,
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
        super().__init__(
            levels,
            classes,
            channels=channels,
            strides=strides,
            norm=norm,
            anchor=anchor,
            canonical=canonical,
            hidden=hidden,
            proposals=proposals,
            samples=samples,
            score_threshold=score_threshold,
            nms_threshold=nms_threshold,
            detections=detections,
        )
        self.mask_head = MaskRCNNHeads(channels, [channels] * convs, dilation=1)
        # One mask more than classes, for the background, that nothing reads: so are the published weights.
        self.mask_predictor = MaskRCNNPredictor(channels, channels, classes + 1)

    def draw(
        self, first: Proposing, boxes: list[Float[Tensor, "_ 4"]], labels: list[Int[Tensor, " _"]]
    ) -> Float[Tensor, "R 28 28"]:
        """Mask logits of each box for its label in 0..K-1, float32."""
        logits = self.mask_predictor(self.mask_head(self.pool(first, boxes, CELLS)))
        chosen = torch.cat(labels) + 1
        return logits[torch.arange(len(chosen), device=chosen.device), chosen].float()

    def detect(self, first: Proposing) -> Detected:
        """The second stage on the proposals of the first, and the masks of what it found, as probabilities."""
        found = super().detect(first)
        masks = self.draw(first, found.boxes, found.labels).sigmoid()
        return found._replace(masks=list(masks.split([len(boxes) for boxes in found.boxes])))

    def loss(self, raw: Raw, target: Target) -> Float[Tensor, ""]:
        """Losses of Faster R-CNN and the cross-entropy of the masks, five in all, in float32.

        Raises:
            Unsupported: the truth has objects and no masks.
            RuntimeError: ``raw`` comes from evaluation mode.
        """
        for boxes in detection.objects(target):
            if boxes.masks is None and len(boxes.labels) > 0:
                raise Unsupported(
                    "Mask R-CNN learns from instance masks, and the data set has boxes alone; take a data set with "
                    "instance masks, or the head faster_rcnn"
                )
        return super().loss(raw, target)

    def second_loss(self, first: Proposing, samples: list[Samples], objects: list[Boxes]) -> Float[Tensor, ""]:
        """See `FasterRCNN`; a mask is learnt at the sampled places in objects alone, and for their class alone."""
        boxes = super().second_loss(first, samples, objects)
        places = [one.boxes[one.labels > 0] for one in samples]
        with self.precision(first):
            logits = self.draw(first, places, [one.labels[one.labels > 0] - 1 for one in samples])
        if len(logits) == 0:
            return boxes + logits.sum()
        wanted = [
            crop(masks, place, one.matched[one.labels > 0], logits.shape[-1])
            for masks, place, one in zip(_masks(objects, logits.device), places, samples, strict=True)
        ]
        return boxes + binary_cross_entropy_with_logits(logits, torch.cat(wanted))

    @torch.no_grad()
    def decode(self, raw: Raw, size: tuple[int, int]) -> list[Boxes]:
        """The best objects of each image in pixels of ``size`` (H, W), scores falling, with masks of that size."""
        found: Detected = self.detect(raw) if isinstance(raw, Proposing) else without_padding(raw)
        assert found.masks is not None, "detect drew them"
        return [
            replace(boxes, masks=paste(masks, boxes.xyxy, size))
            for boxes, masks in zip(super().decode(found, size), found.masks, strict=True)
        ]

    def deploy(self, raw: Raw, size: tuple[int, int]) -> tuple[Tensor, ...]:
        """See `Head.deploy`."""
        found: Detected = raw
        assert found.masks is not None, "detect drew them"
        boxes, scores, labels = super().deploy(raw, size)
        masks = fixed.stacked(found.masks, scores.shape[1])
        pasted = torch.stack([paste(some, place, size) for some, place in zip(masks, boxes, strict=True)])
        return boxes, scores, labels, pasted


def _masks(objects: list[Boxes], device: torch.device) -> list[Bool[Tensor, "_ _ _"]]:
    """Masks of the objects to be found in each image, in the order of `detection.truth`."""
    masks = []
    for boxes in objects:
        if boxes.masks is None:  # and no objects
            masks.append(torch.zeros(0, 1, 1, dtype=torch.bool, device=device))
        else:
            masks.append(boxes.masks.to(device)[detection.to_find(boxes, device)])
    return masks


def crop(
    masks: Bool[Tensor, "M H W"], boxes: Float[Tensor, "R 4"], matched: Int[Tensor, " R"], cells: int
) -> Float[Tensor, "R _ _"]:
    """The share of each of ``cells`` x ``cells`` cells of a box that is covered by the mask with its index."""
    if len(boxes) == 0:
        return boxes.new_zeros(0, cells, cells)
    rois = torch.cat([matched[:, None].to(boxes), boxes], dim=1)
    return roi_align(masks[:, None].to(boxes), rois, cells, aligned=True)[:, 0]


def paste(masks: Float[Tensor, "R m m"], boxes: Float[Tensor, "R 4"], size: tuple[int, int]) -> Bool[Tensor, "R H W"]:
    """Masks over boxes (xyxy in pixels) as masks of an image of ``size`` (H, W): where the probability is ½ or more.

    A pixel takes the bilinearly interpolated probability at its centre, and 0 outside of the box. Not torchvision's
    `paste_masks_in_image`, which rounds boxes to whole pixels and makes them a pixel larger.
    """
    pasted = []
    at_once = max(1, PASTED_AT_ONCE // (size[0] * size[1]))
    for some, place in zip(masks.split(at_once), boxes.split(at_once), strict=True):
        # Bilinear interpolation is separable: (H, m) weights, the mask, (m, W) weights.
        down = _hats(place[:, 1], place[:, 3], size[0], some.shape[-2])
        across = _hats(place[:, 0], place[:, 2], size[1], some.shape[-1])
        pasted.append(down @ some @ across.mT >= 0.5)
    return torch.cat(pasted) if pasted else boxes.new_zeros(0, *size, dtype=torch.bool)


def _hats(
    start: Float[Tensor, " R"], end: Float[Tensor, " R"], pixels: int, cells: int
) -> Float[Tensor, "R pixels cells"]:
    """Weight of each cell between ``start`` and ``end`` at the centre of each pixel, by linear interpolation."""
    centre = torch.arange(pixels, device=start.device, dtype=start.dtype) + 0.5
    cell = torch.arange(cells, device=start.device, dtype=start.dtype)
    share = (centre - start[:, None]) / (end - start).clamp(min=1e-6)[:, None]
    # Between a border and the middle of the cell beside it there is nothing to interpolate with.
    along = (share * cells - 0.5).clamp(0, cells - 1)
    weights = (1 - (along[:, :, None] - cell).abs()).clamp(min=0)
    return weights * ((share >= 0) & (share < 1))[:, :, None]


def build(name: str, *, levels: tuple[Level, ...], classes: int) -> MaskRCNN:
    """Head ``name`` over a backbone's ``levels``."""
    numbers = CATALOGUE[name]
    return MaskRCNN(
        levels,
        classes,
        channels=int(numbers["channels"]),
        convs=int(numbers["convs"]),
        strides=doubling(int(numbers["finest"]), int(numbers["coarsest"])),
        norm=bool(numbers["norm"]),
        anchor=float(numbers["anchor"]),
        canonical=float(numbers["canonical"]),
        hidden=int(numbers["hidden"]),
        proposals=int(numbers["proposals"]),
        samples=int(numbers["samples"]),
    )
