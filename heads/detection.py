"""What every detection head shares: truth in torchvision's form, anchors, what ignored boxes silence, RoI pooling.

Coordinates are xyxy in pixels of the image that went in, where pixel i covers i to i + 1. Cells lie as `heads.pyramid`
says: an (h, w) map covers an (H, W) image exactly. That is why anchors and RoI pooling are written here and not taken
from torchvision, whose anchors sit on the corners of the cells, round strides and sides to whole pixels, and whose
pooling is half a cell off and knows scales of powers of two alone. Where strides divide the image its anchors are these
ones but for half a stride.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, ParamSpec, TypeVar, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torchvision.models.detection._utils import Matcher as TorchvisionMatcher
from torchvision.ops import box_area, roi_align
from torchvision.ops.poolers import LevelMapper

from backbones.contract import Features
from heads.contract import Boxes, Target
from heads.pyramid import map_size

RATIOS = (0.5, 1.0, 2.0)
"""Height over width of the anchors of RetinaNet and Faster R-CNN."""

SPREAD = 2.0
"""Deviation of the logits that `dense_load` goes for at most, and at least half of it.

That is what trained detectors have. Over a ResNet-18 a published RetinaNet with random weights has 0.004, and at the
score threshold bfloat16 cannot tell logits apart that differ by less than 0.016."""

CLOSE, ROUNDS = 0.02, 5
"""`full_load` is content with this share of the candidates too many or too few, or ends after so many corrections."""

SAMPLES = 2
"""Points along each side of a cell of a pooled RoI, as torchvision has it for all its detectors."""


Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def uncompiled(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Leave a function out of `torch.compile`: how many boxes it works on is not known before they are there."""
    return cast("Callable[Arguments, Result]", torch.compiler.disable(function))


class NoBackbone(nn.Identity):
    """A stand-in: torchvision's detectors want to know the width of their backbone, and nothing else about it."""

    def __init__(self, out_channels: int) -> None:
        super().__init__()
        self.out_channels = out_channels


def objects(target: Target) -> list[Boxes]:
    """``target``, which must be that of detection.

    Raises:
        TypeError: it is a class per pixel.
    """
    if isinstance(target, Tensor):
        raise TypeError("a detection head learns from boxes of each image, got a tensor of classes per pixel")
    return target


def truth(boxes: Boxes, device: torch.device) -> dict[str, Tensor]:
    """One image's truth in the form that torchvision's losses take, without boxes that have no area.

    Returns:
        "boxes" (M, 4) float32 and "labels" (M,) of the objects to be found; "ignored" (M', 4), which is ours, the boxes
        of the others.
    """
    xyxy = boxes.xyxy.to(device, torch.float32).reshape(-1, 4)
    real = (xyxy[:, 2:] > xyxy[:, :2]).all(dim=1)
    wanted = to_find(boxes, device)
    return {"boxes": xyxy[wanted], "labels": boxes.labels.to(device)[wanted], "ignored": xyxy[real & ~wanted]}


def to_find(boxes: Boxes, device: torch.device) -> Bool[Tensor, " M"]:
    """Which boxes are objects to be found: neither ignored nor without area."""
    xyxy = boxes.xyxy.to(device).reshape(-1, 4)
    real = (xyxy[:, 2:] > xyxy[:, :2]).all(dim=1)
    return real if boxes.ignore is None else real & ~boxes.ignore.to(device)


def inside(points: Float[Tensor, "N 2"], boxes: Float[Tensor, "M 4"]) -> Bool[Tensor, " N"]:
    """Which points (x, y) lie in any of the boxes."""
    after = points[:, None] >= boxes[None, :, :2]
    before = points[:, None] <= boxes[None, :, 2:]
    return (after & before).all(dim=2).any(dim=1)


def mostly_inside(candidates: Float[Tensor, "N 4"], ignored: Float[Tensor, "M 4"]) -> Bool[Tensor, " N"]:
    """Which candidates (anchors, proposals) have at least half of their area in one of the ignored boxes.

    That is how COCO's evaluation excuses a detection by a crowd: the share of the detection counts, not the IoU, for a
    crowd is much larger than what is in it.
    """
    start = torch.maximum(candidates[:, None, :2], ignored[None, :, :2])
    end = torch.minimum(candidates[:, None, 2:], ignored[None, :, 2:])
    shared = (end - start).clamp(min=0).prod(dim=2)
    return (shared >= 0.5 * box_area(candidates)[:, None]).any(dim=1)


class Matcher(TorchvisionMatcher):
    """torchvision's, for which an object that no anchor overlaps at all is matched by none.

    The anchors that overlap an object most are its own even below the threshold. Where the most is nothing, torchvision
    gives it every anchor of the image.
    """

    def set_low_quality_matches_(self, matches: Tensor, all_matches: Tensor, match_quality_matrix: Tensor) -> None:
        """See torchvision; ``match_quality_matrix`` (M, N) is the IoU of each object with each anchor."""
        overlapped = match_quality_matrix.amax(dim=1) > 0
        super().set_low_quality_matches_(matches, all_matches, match_quality_matrix[overlapped])


def anchors(
    size: tuple[int, int],
    strides: Sequence[int],
    shapes: Sequence[Sequence[tuple[float, float]]],
    device: torch.device,
) -> list[Float[Tensor, "_ 4"]]:
    """Boxes around the centre of each cell of a pyramid, xyxy in pixels; they may reach beyond the image.

    Args:
        size: (H, W) of the image in pixels.
        strides: of the pyramid's L levels.
        shapes: for each level the (width, height) in pixels of its A anchors.
        device: of the result.

    Returns:
        L tensors (h·w·A, 4): row by row, cell by cell, the anchors of a cell side by side. They are not to be written
        to: what is on neither the CPU nor the meta device is kept for the next call.
    """
    grids = tuple((stride, tuple(sides)) for stride, sides in zip(strides, shapes, strict=True))
    # Making them costs a GPU many small kernels, and copies from the host that it waits for; of a CPU, whose memory is
    # counted, nothing is taken for good. While torch.export looks on they are no tensors that another call could use.
    made = _anchors if device.type in ("cpu", "meta") or torch.compiler.is_exporting() else _kept_anchors
    return list(made(size, grids, device))


_Grids = tuple[tuple[int, tuple[tuple[float, float], ...]], ...]
"""Stride, and (width, height) of the anchors of a cell, of each level."""


@functools.lru_cache(maxsize=8)
def _kept_anchors(size: tuple[int, int], grids: _Grids, device: torch.device) -> list[Tensor]:
    with torch.inference_mode(False):  # which may be on at the first call, and off at the next one
        return _anchors(size, grids, device)


def _anchors(size: tuple[int, int], grids: _Grids, device: torch.device) -> list[Tensor]:
    levels = []
    for stride, sides in grids:
        h, w = map_size(size, stride)
        y = (torch.arange(h, dtype=torch.float32, device=device) + 0.5) * (size[0] / h)
        x = (torch.arange(w, dtype=torch.float32, device=device) + 0.5) * (size[1] / w)
        y, x = torch.meshgrid(y, x, indexing="ij")
        half = torch.tensor(sides, dtype=torch.float32, device=device) / 2
        centre = torch.stack([x, y], dim=-1).reshape(-1, 1, 2)
        levels.append(torch.cat([centre - half, centre + half], dim=-1).reshape(-1, 4))
    return levels


def anchor_shapes(sides: Sequence[float]) -> tuple[tuple[float, float], ...]:
    """(width, height) of an anchor of every side for every ratio, in torchvision's order; its area is side²."""
    return tuple((side / math.sqrt(ratio), side * math.sqrt(ratio)) for ratio in RATIOS for side in sides)


@uncompiled
def roi_pool(
    maps: Features,
    boxes: Sequence[Float[Tensor, "_ 4"]],
    size: tuple[int, int],
    *,
    strides: Sequence[int],
    cells: int,
    canonical: float,
) -> Float[Tensor, "R C _ _"]:
    """RoIAlign (He et al. 2017, arXiv 1703.06870) of each box on the level of its size.

    A box of side ``canonical`` is pooled from stride 16, one of half or twice that side from the next finer or coarser
    level, as far as there is one (Lin et al. 2017, eq. 1, where it is 224).

    Args:
        maps: (B, C, h, w) of each stride, finest first.
        boxes: of each of the B images, xyxy in pixels.
        size: (H, W) of the image in pixels.
        strides: of the maps, each twice the one before.
        cells: of a side of the result.
        canonical: see above, in pixels.

    Returns:
        (R, C, cells, cells) float32, image by image; R is the number of all boxes.
    """
    mapper = LevelMapper(
        int(math.log2(strides[0])), int(math.log2(strides[-1])), cast("int", canonical), canonical_level=4
    )
    rois = torch.cat([nn.functional.pad(one, (1, 0), value=image) for image, one in enumerate(boxes)])
    chosen = mapper(list(boxes))
    pooled = rois.new_zeros(len(rois), maps[0].shape[1], cells, cells)
    for level, x in enumerate(maps):
        index = torch.where(chosen == level)[0]
        across, down = x.shape[-1] / size[1], x.shape[-2] / size[0]
        scaled = rois[index] * rois.new_tensor([1.0, across, down, across, down])
        # In float32: its kernels have no bfloat16.
        pooled[index] = roi_align(x.float(), scaled, cells, sampling_ratio=SAMPLES, aligned=True)
    return pooled


def scaled(xyxy: Float[Tensor, "M 4"], size: tuple[int, int], to: tuple[int, int]) -> Float[Tensor, "M 4"]:
    """Boxes of an image of ``size`` (H, W) pixels in pixels of the same image at size ``to``."""
    if size == to:
        return xyxy.clone()  # without a factor that would have to be copied to the device
    return xyxy * xyxy.new_tensor([to[1] / size[1], to[0] / size[0]] * 2)


class Scores(NamedTuple):
    """What a head's last classifying layer says of a batch, as `full_load` wants to know it.

    logits: of each level (B, n, C), or (R, C) of all proposals; C as the layer has them.
    margins: (M,) float32 of all boxes that may go into NMS: a box does if its margin and the shift are above 0.
    """

    logits: Sequence[Tensor]
    margins: Float[Tensor, " M"]


@torch.inference_mode()  # in which weights can be written that were made in it, and all others too
def full_load(
    layer: nn.Conv2d | nn.Linear,
    score: Callable[[], Scores],
    *,
    images: int,
    candidates: int,
    spread: float,
    background: bool = False,
) -> int:
    """See `heads.contract.Head.full_load`.

    Args:
        layer: makes the logits; changed in place.
        score: what ``layer`` says as it is now.
        images: B.
        candidates: wanted of an image.
        spread: if the logits deviate by half of this or less from place to place, the weights are scaled up until they
            deviate by more than half of it, and by no more than it.
        background: the first output of the layer alone is shifted, and down for more candidates; else all are, and up.

    Returns:
        Candidates of an image, the rounded mean.

    Raises:
        ValueError: less than one candidate.
    """
    if candidates < 1:
        raise ValueError(f"at least one candidate an image is wanted, got candidates={candidates}")
    assert layer.bias is not None, "torchvision's classifying layers have one"
    start = layer.bias.float().clone()
    step = torch.zeros_like(start)
    if background:
        step[0] = -1.0
    else:
        step.fill_(1.0)

    layer.bias.zero_()  # near 0 every dtype has digits to spare, at the usual start of -4.6 bfloat16 has not
    deviation = _deviation(score().logits)
    if 0 < deviation <= spread / 2:
        layer.weight.mul_(2.0 ** math.floor(math.log2(spread / deviation)))  # a power of 2 costs no digit
    layer.bias.copy_(start)

    wanted = images * candidates
    shift, best, found = 0.0, layer.bias.clone(), None
    for _ in range(ROUNDS):
        margins = score().margins.sort(descending=True).values
        margins = margins[margins.isfinite()]
        within = min(wanted, len(margins))
        if within == 0:
            break
        count = int((margins > 0).sum())
        if found is None or abs(count - within) < abs(found - within):
            best, found = layer.bias.clone(), count
        if abs(found - within) <= CLOSE * within:
            break
        shift += _shift(margins, within)
        layer.bias.copy_(start + shift * step)
    layer.bias.copy_(best)
    return round((found or 0) / images)


def _deviation(logits: Sequence[Tensor]) -> float:
    """Root mean square of the deviations from one place to another, within image, level and class."""
    squares = torch.cat([(one.float() - one.float().mean(dim=-2, keepdim=True)).square().flatten() for one in logits])
    return float(squares.mean().sqrt())


def _shift(margins: Float[Tensor, " M"], count: int) -> float:
    """What is to be added so that ``count`` of the falling margins are above 0, or as near to that as ties allow."""
    last = margins[count - 1]
    above, below = margins[margins > last], margins[margins < last]
    with_ties = len(margins) - len(below)
    if with_ties - count <= count - len(above) or len(above) == 0:
        return float(-(last + below[0]) / 2) if len(below) > 0 else float(1 - last)
    return float(-(last + above[-1]) / 2)


def dense_load(
    layer: nn.Conv2d,
    levels: Callable[[], Sequence[tuple[Float[Tensor, "B _ K"], Float[Tensor, "*_"]]]],
    *,
    most: int,
    images: int,
    candidates: int,
) -> int:
    """`full_load` of a head that classifies every cell of a pyramid, at each level by ``layer``.

    Args:
        layer: has A outputs for each of the K classes, the classes side by side.
        levels: of each level the logits as ``layer`` makes them now, (B, h·w·A, K), and those that it takes to be a
            candidate, of a shape that goes with it.
        most: candidates of one level of one image, the best.
        images: B.
        candidates: wanted of an image.
    """

    def score() -> Scores:
        logits, margins = [], []
        for one, needed in levels():
            logits.append(one.reshape(len(one), -1, layer.out_channels))
            over = (one.float() - needed).flatten(1)
            # Only these can be among the candidates, whatever is added to all of them.
            margins.append(over.topk(min(most, over.shape[1]), sorted=False).values.flatten())
        return Scores(logits, torch.cat(margins))

    return full_load(layer, score, images=images, candidates=candidates, spread=SPREAD)
