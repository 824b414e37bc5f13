"""Which boxes of a detector are left, as tensors whose shapes do not depend on the image: what can be exported.

The rules are those of `heads.selection` and torchvision, and so are the boxes above the padding. A place in a result
that no box is left for has score 0. The only thing whose size the image decides is what `torchvision.ops.nms` returns,
and it is taken back into a fixed size at once: runtimes have that operation (NonMaxSuppression in ONNX).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torchvision.models.detection import FCOS, RetinaNet
from torchvision.ops import clip_boxes_to_image, nms

from heads import detection
from heads.selection import candidates

NONE = -1.0
"""Score of a candidate that is none."""

CANDIDATES = 5000
"""Most pairs of proposal and class of an image that go into NMS: as many as a dense head over five levels has. In torch
there is no limit; a pair beyond it is one that so many others of the image have a higher score than."""


class Fixed(NamedTuple):
    """Boxes of a batch, N an image.

    boxes: (B, N, 4) xyxy in pixels, float32.
    scores: (B, N) in 0..1, falling; 0, and last, where there is no box.
    labels: (B, N) int64 in 0..K-1.
    """

    boxes: Float[Tensor, "B N 4"]
    scores: Float[Tensor, "B N"]
    labels: Int[Tensor, "B N"]

    def scaled(self, size: tuple[int, int], to: tuple[int, int]) -> "Fixed":
        """Boxes of an image of ``size`` (H, W) pixels in pixels of the same image at size ``to``."""
        return self._replace(boxes=detection.scaled(self.boxes.flatten(0, 1), size, to).reshape(self.boxes.shape))


def suppress(
    boxes: Float[Tensor, "T 4"], scores: Float[Tensor, " T"], groups: Int[Tensor, " T"], threshold: float, most: int
) -> tuple[Int[Tensor, " N"], Float[Tensor, " N"]]:
    """NMS of one image's candidates.

    Args:
        boxes: xyxy in pixels, not negative.
        scores: `NONE` of what is no candidate.
        groups: classes or levels, among each of which boxes suppress one another.
        threshold: IoU above which the lower one goes.
        most: boxes that are wanted.

    Returns:
        Places in T of the best that are left, and their scores, falling; `NONE` behind the last one.
    """
    there = scores > NONE
    # As torchvision does it: groups are moved apart, by more than any box reaches.
    reach = boxes.masked_fill(~there.unsqueeze(1), 0).max() + 1
    apart = boxes + (groups.to(boxes) * reach).unsqueeze(1)
    # What is none lies on one heap where no box is, and the first of it suppresses the others: NMS takes its time by
    # the boxes that are left. A box on the heap and one beside it are always there, for torchvision tells torch.export
    # that at least two are left.
    heap = torch.stack([torch.full_like(scores, corner) for corner in (-2.0, -2.0, -1.0, -1.0)], dim=1)
    apart = torch.cat([torch.where(there.unsqueeze(1), apart, heap), heap[:1], heap[:1] * 3])
    kept = nms(apart, nn.functional.pad(scores, (0, 2), value=NONE), threshold)
    left = torch.zeros(len(apart), device=scores.device).index_fill(0, kept, 1.0)[: len(scores)] > 0
    found, places = torch.where(left & there, scores, NONE).topk(min(most, len(scores)))
    return places, found


def dense(
    scores: Float[Tensor, "B N K"],
    deltas: Float[Tensor, "B N 4"],
    anchors: Sequence[Float[Tensor, "_ 4"]],
    decode: Callable[[Tensor, Tensor], Tensor],
    size: tuple[int, int],
    rules: FCOS | RetinaNet,
) -> Fixed:
    """`heads.selection.select`, of a fixed number."""
    highest, labels, places = candidates(scores, [len(level) for level in anchors], rules)
    chosen = deltas.gather(1, places.unsqueeze(2).expand(-1, -1, 4)).flatten(0, 1)
    decoded = decode(chosen, torch.cat(list(anchors))[places.flatten()])
    boxes = clip_boxes_to_image(decoded, size).reshape(*places.shape, 4)
    return _left(boxes, highest, labels, rules.nms_thresh, rules.detections_per_img)


def proposals(
    boxes: Float[Tensor, "B N 4"],
    objectness: Float[Tensor, "B N"],
    size: tuple[int, int],
    counts: Sequence[int],
    *,
    most: int,
    smallest: float,
    threshold: float,
) -> Fixed:
    """What torchvision's `RegionProposalNetwork.filter_proposals` keeps, of a fixed number; labels are levels.

    A place that is none is a box without area.

    Args:
        boxes: of the anchors, xyxy in pixels.
        objectness: logits.
        size: (H, W) of the image in pixels.
        counts: anchors of each level.
        most: of a level that go into NMS, and of all that come out of it.
        smallest: side in pixels below which a box is none.
        threshold: IoU of the NMS.
    """
    logits, chosen, levels, start = [], [], [], 0
    for level, some in enumerate(objectness.split(list(counts), dim=1)):
        highest, places = some.topk(min(most, some.shape[1]), dim=1)
        logits.append(highest)
        chosen.append(places + start)
        levels.append(torch.full_like(places, level))
        start += some.shape[1]
    index = torch.cat(chosen, dim=1)
    clipped = clip_boxes_to_image(boxes.gather(1, index.unsqueeze(2).expand(-1, -1, 4)), size)
    scores = _unless_small(clipped, torch.cat(logits, dim=1).sigmoid(), smallest)
    return _left(clipped, scores, torch.cat(levels, dim=1), threshold, most)


def classified(
    boxes: Float[Tensor, "B T 4"],
    scores: Float[Tensor, "B T"],
    labels: Int[Tensor, "B T"],
    *,
    score: float,
    smallest: float,
    threshold: float,
    most: int,
) -> Fixed:
    """What torchvision's `RoIHeads.postprocess_detections` keeps, of a fixed number.

    Args:
        boxes: of each pair of proposal and class, xyxy in pixels.
        scores: of the pairs.
        labels: classes.
        score: above which a pair is a candidate.
        smallest: side in pixels below which a box is none.
        threshold: IoU of the NMS.
        most: boxes that are wanted.
    """
    over = _unless_small(boxes, scores.where(scores > score, NONE), smallest)
    highest, places = over.topk(min(CANDIDATES, over.shape[1]), dim=1)
    chosen = boxes.gather(1, places.unsqueeze(2).expand(-1, -1, 4))
    return _left(chosen, highest, labels.gather(1, places), threshold, most)


def _unless_small(boxes: Float[Tensor, "B T 4"], scores: Float[Tensor, "B T"], smallest: float) -> Float[Tensor, "B T"]:
    return scores.where((boxes[..., 2:] - boxes[..., :2] >= smallest).all(dim=2), NONE)


def _left(
    boxes: Float[Tensor, "B T 4"],
    scores: Float[Tensor, "B T"],
    labels: Int[Tensor, "B T"],
    threshold: float,
    most: int,
) -> Fixed:
    """What NMS leaves of each image; the padding is 0 all over."""
    kept = [suppress(*image, threshold, most) for image in zip(boxes, scores, labels, strict=True)]
    places, found = torch.stack([one for one, _ in kept]), torch.stack([one for _, one in kept])
    none = found <= NONE
    return Fixed(
        boxes.gather(1, places.unsqueeze(2).expand(-1, -1, 4)).masked_fill(none.unsqueeze(2), 0),
        found.masked_fill(none, 0),
        labels.gather(1, places).masked_fill(none, 0),
    )


def stacked(parts: Sequence[Tensor], most: int) -> Tensor:
    """One tensor (B, ``most``, ...) of B tensors, each padded with 0."""
    return torch.stack([torch.cat([one, one.new_zeros(most - len(one), *one.shape[1:])]) for one in parts])
