"""Accuracy of boxes and instance masks over a data set, collected image by image: COCO's matching."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias, cast

import numpy as np
from faster_coco_eval.core import mask as rle
from numpy.typing import NDArray
from torch import Tensor

from bench.data.contract import Truth
from bench.stats.precision import MOST, THRESHOLDS, Detections, Matches
from bench.training.matching import AREAS, Range, match
from heads.contract import Boxes

# COCO's areas (32² and 96² pixels) are absolute and were made for photographs of about 640x480. Areas are scaled to an
# image of that area, so that "small" is the same share of the picture at every resolution.
REFERENCE_AREA = 640 * 480

_Shape: TypeAlias = list[float] | dict[str, Any]
"""A box (x, y, width, height), or a mask as the library's compressed run lengths."""


class BoxMetrics:
    """Matches of every image. Boxes always, masks where the predictions have them.

    The area that sorts an object into small, medium or large is a share of the picture: that of its box for boxes, and
    of its mask for masks. Where the truth states areas, COCO's own evaluation is there, too: those areas, in pixels,
    for both.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = tuple(classes)
        self._images: list[int] = []
        self._detections: list[tuple[NDArray[Any], ...]] = []
        self._matches: dict[str, list[tuple[NDArray[Any], ...]]] = defaultdict(list)
        self._count = 0

    def add(self, truth: Truth, found: Boxes) -> None:
        """One image: its truth, and what was found, in pixels of the same size.

        Raises:
            ValueError: masks were found and the truth has none, or some of another size.
        """
        assert found.scores is not None, "a prediction has scores"
        score = found.scores.float().cpu().numpy()
        label = found.labels.cpu().numpy()
        order = np.lexsort((-score, label))  # a stable one
        first = np.searchsorted(label[order], label[order])
        place = np.arange(len(order)) - first
        order, place = order[place < MOST], place[place < MOST]
        score, label = score[order], label[order]
        self._detections.append((score, np.full(len(order), len(self._images)), label, place))
        self._images.append(truth.fingerprint())
        boxes = _xywh(found.xyxy.float().cpu().numpy()[order])
        self._match("box", truth, label, _xywh(truth.boxes), boxes)
        if found.masks is not None:
            _check_masks(truth, found.masks)
            assert truth.masks is not None, "checked"
            self._match("mask", truth, label, encoded(truth.masks), encoded(found.masks.cpu().numpy()[order]))
        self._count += len(order)

    def _match(
        self,
        kind: str,
        truth: Truth,
        label: NDArray[np.int64],
        wanted: Sequence[_Shape],
        found: Sequence[_Shape],
    ) -> None:
        """Match boxes with boxes, or masks with masks; `found` by class and falling score."""
        ranges = dict(_ranges(truth, _areas(wanted), _areas(found)))
        bits = np.zeros((2, len(ranges), len(label)), np.uint16)
        truths = np.zeros((len(ranges), len(self.classes)), np.int64)
        for row, one in enumerate(ranges.values()):
            counted = truth.labels[~(one.outside(one.truth) | truth.ignore)]
            truths[row] = np.bincount(counted, minlength=len(self.classes))
        for number in np.unique(label):
            ours, theirs = np.flatnonzero(label == number).tolist(), np.flatnonzero(truth.labels == number).tolist()
            crowd = truth.ignore[theirs]
            overlap = _overlap([found[index] for index in ours], [wanted[index] for index in theirs], crowd)
            of_class = [Range(one.truth[theirs], one.found[ours], one.low, one.high) for one in ranges.values()]
            bits[:, :, ours] = match(overlap, crowd, of_class)
        for row, name in enumerate(ranges):
            hit, ignored = bits[:, row]
            entry = np.flatnonzero(ignored != (1 << len(THRESHOLDS)) - 1)
            self._matches[kind + name].append((truths[row], entry + self._count, hit[entry], ignored[entry]))

    def result(self) -> Detections:
        """All images.

        Raises:
            ValueError: the predictions of some images had masks and those of others had none.
        """
        if 0 < (masks := len(self._matches.get("mask", ()))) < len(self._images):
            raise ValueError(f"{masks} of {len(self._images)} predictions have masks; want all or none")
        score, image, label, place = (np.concatenate(parts) for parts in zip(*self._detections, strict=True))
        matches = {}
        for name, images in self._matches.items():
            if len(images) == len(self._images):  # areas are stated for all images, or used for none
                truths, *entries = zip(*images, strict=True)
                matches[name] = Matches(np.stack(truths), *(np.concatenate(parts) for parts in entries))
        return Detections(np.array(self._images, np.uint64), self.classes, score, image, label, place, matches)


def _ranges(truth: Truth, wanted: NDArray[np.float64], found: NDArray[np.float64]) -> Iterator[tuple[str, Range]]:
    """Ending of its name -> range of areas: all, by shares of the picture, by stated areas."""
    yield "", Range(wanted, found)
    scale = REFERENCE_AREA / (truth.size[0] * truth.size[1])
    for name, (low, high) in AREAS.items():
        yield f"_{name}", Range(wanted * scale, found * scale, low, high)
    if truth.areas is not None:
        for name, (low, high) in AREAS.items():
            yield f"_coco_{name}", Range(truth.areas.astype(np.float64), found, low, high)


def _check_masks(truth: Truth, masks: Tensor) -> None:
    if truth.masks is None or tuple(masks.shape[1:]) != truth.size:
        has = "none" if truth.masks is None else f"some of {truth.size}"
        raise ValueError(f"masks of {tuple(masks.shape[1:])} pixels were found and the truth has {has}")


def _areas(shapes: Sequence[_Shape]) -> NDArray[np.float64]:
    return np.array([rle.area(one) if isinstance(one, dict) else one[2] * one[3] for one in shapes], np.float64)


def _overlap(found: list[_Shape], wanted: list[_Shape], crowd: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(D, G) IoU; for a crowd the share of the detection that is in it."""
    if not found or not wanted:
        return np.zeros((len(found), len(wanted)))
    overlap: Any = rle.iou(cast("Any", found), cast("Any", wanted), crowd.astype(np.uint8).tolist())
    return np.asarray(overlap, np.float64)


def encoded(masks: NDArray[np.bool_]) -> list[_Shape]:
    """Compressed run lengths of each mask of (M, H, W). The library's own encoder takes ten times as long."""
    return [_run_lengths(mask) for mask in masks]


def _run_lengths(mask: NDArray[np.bool_]) -> _Shape:
    """Runs of a mask (H, W) column by column, the first one of pixels that are not in it."""
    height, width = mask.shape
    columns = np.flatnonzero(mask.any(0))
    edges = np.zeros(0, np.int64)
    if len(columns):
        flat = mask[:, columns[0] : columns[-1] + 1].ravel(order="F")
        edges = np.flatnonzero(np.diff(flat, prepend=False, append=False)) + columns[0] * height
    counts = np.trim_zeros(np.diff(edges, prepend=0, append=height * width), "b")
    return cast("_Shape", rle.frPyObjects({"size": [height, width], "counts": counts.tolist()}, height, width))


def _xywh(xyxy: NDArray[np.float32]) -> list[_Shape]:
    wide = xyxy.astype(np.float64)
    return np.concatenate([wide[:, :2], wide[:, 2:] - wide[:, :2]], 1).tolist()
