"""Accuracy over a whole data set: a confusion matrix for label maps, COCO average precision for boxes and masks."""

import contextlib
import io
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias, cast

import numpy as np
import torch
from faster_coco_eval import COCO, COCOeval_faster
from faster_coco_eval.core import mask as rle
from jaxtyping import Bool, Int
from numpy.typing import NDArray
from torch import Tensor

from bench.data.contract import IGNORE, Truth
from heads.contract import Boxes

# COCO's area bins (32² and 96² pixels) are absolute and were made for photographs of about 640x480. Boxes and the areas
# of masks are scaled to an image of that area, so that "small" is the same share of the picture at every resolution.
REFERENCE_AREA = 640 * 480

_BINS = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
Result: TypeAlias = dict[str, float | dict[str, float | None] | None]


class Confusion:
    """Pixel counts over a data set, (K, K): row truth, column prediction. mIoU is taken once at the end.

    Averaging the IoU of single images instead would weigh a class by the images it is absent from.
    """

    def __init__(self, classes: int) -> None:
        self.counts: NDArray[np.int64] = np.zeros((classes, classes), np.int64)

    def add(self, truth: Int[Tensor, "*S"], prediction: Int[Tensor, "*S"]) -> None:
        """Count pixels; those of truth 255 are left out.

        Raises:
            ValueError: a label lies outside 0..K-1.
        """
        classes = len(self.counts)
        keep = truth != IGNORE
        truth, prediction = truth[keep].long(), prediction[keep].long()
        for name, labels in (("truth", truth), ("prediction", prediction)):
            if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
                raise ValueError(f"{name} has label {int(labels.max())}, wanted 0..{classes - 1} or {IGNORE}")
        counted = torch.bincount(truth * classes + prediction, minlength=classes * classes)
        self.counts += counted.reshape(classes, classes).cpu().numpy()

    def iou(self) -> NDArray[np.float64]:
        """(K,) intersection over union in 0..1; nan for a class that is neither in truth nor in prediction."""
        hit = np.diag(self.counts).astype(np.float64)
        union = self.counts.sum(0) + self.counts.sum(1) - hit
        return np.divide(hit, union, out=np.full_like(hit, np.nan), where=union > 0)

    def pixel_accuracy(self) -> float:
        """Share of the counted pixels that are right, 0..1; nan without pixels."""
        total = self.counts.sum()
        return float(np.diag(self.counts).sum() / total) if total else float("nan")


class BoxPrecision:
    """Collects objects image by image; COCO's AP (101 points, IoU 0.50:0.95, 100 detections) at the end.

    Boxes always, masks where the predictions have them. The area that sorts an object into small, medium or large is
    that of its box for boxes and of its mask for masks (COCO's own evaluation takes that of the mask for both).
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = list(classes)
        self._images: list[dict[str, int]] = []
        self._truths: list[dict[str, object]] = []
        self._found: list[dict[str, object]] = []
        self._mask_images: list[dict[str, int]] = []
        self._mask_truths: list[dict[str, object]] = []
        self._mask_found: list[dict[str, object]] = []

    def add(self, truth: Truth, found: Boxes) -> None:
        """One image: its truth, and what was found, in pixels of the same size.

        Raises:
            ValueError: masks were found and the truth has none, or some of another size.
        """
        image = len(self._images) + 1
        height, width = truth.size
        scale = (REFERENCE_AREA / (height * width)) ** 0.5
        if found.masks is not None:
            self._add_masks(image, truth, found)
        self._images.append({"id": image, "height": round(height * scale), "width": round(width * scale)})
        for box, label, ignore in zip(truth.boxes * scale, truth.labels, truth.ignore, strict=True):
            xywh = _xywh(box.tolist())
            self._truths.append(
                {
                    "id": len(self._truths) + 1,
                    "image_id": image,
                    "category_id": int(label) + 1,
                    "bbox": xywh,
                    "area": xywh[2] * xywh[3],
                    # "crowd" is COCO's word for: matching it costs nothing, missing it costs nothing.
                    "iscrowd": int(ignore),
                }
            )
        assert found.scores is not None, "a prediction has scores"
        for box, label, score in zip(
            found.xyxy.float().cpu() * scale, found.labels.cpu(), found.scores.cpu(), strict=True
        ):
            self._found.append(
                {
                    "image_id": image,
                    "category_id": int(label) + 1,
                    "bbox": _xywh(box.tolist()),
                    "score": float(score),
                }
            )

    def _add_masks(self, image: int, truth: Truth, found: Boxes) -> None:
        """The same for masks, at the resolution of the truth: their overlap does not change with scale, areas do."""
        assert found.masks is not None, "called for an image with masks"
        assert found.scores is not None, "a prediction has scores"
        if truth.masks is None or tuple(found.masks.shape[1:]) != truth.size:
            has = "none" if truth.masks is None else f"some of {truth.size}"
            raise ValueError(f"masks of {tuple(found.masks.shape[1:])} pixels were found and the truth has {has}")
        height, width = truth.size
        area_scale = REFERENCE_AREA / (height * width)
        self._mask_images.append({"id": image, "height": height, "width": width})
        encoded = _encoded(torch.from_numpy(truth.masks))
        for mask, label, ignore in zip(encoded, truth.labels, truth.ignore, strict=True):
            row = _mask_row(len(self._mask_truths) + 1, image, int(label), mask, area_scale)
            self._mask_truths.append({**row, "iscrowd": int(ignore)})
        labels, scores = found.labels.tolist(), found.scores.tolist()
        for mask, label, score in zip(_encoded(found.masks), labels, scores, strict=True):
            row = _mask_row(len(self._mask_found) + 1, image, label, mask, area_scale)
            self._mask_found.append({**row, "iscrowd": 0, "score": score})

    def result(self) -> Result:
        """ap, ap50, ap75, ap_small, ap_medium, ap_large and class_ap, in percent; None where nothing could be found.

        With masks, the first six of masks too: mask_ap, mask_ap50 and so on.

        Raises:
            ValueError: the predictions of some images had masks and those of others had none.
        """
        # The evaluator cannot be given an empty list; a box of score 0 outside the picture finds nothing.
        nowhere = {"image_id": 1, "category_id": 1, "bbox": [-2.0, -2.0, 1.0, 1.0], "score": 0.0}
        with contextlib.redirect_stdout(io.StringIO()):
            truth = self._coco(self._images, self._truths)
            evaluation = _evaluated(truth, truth.loadRes(self._found or [nowhere]), "bbox")
        result: Result = {name: _percent(value) for name, value in zip(_BINS, evaluation.stats[:6], strict=True)}
        # (IoU threshold, recall point, class, area bin, most detections): all areas, 100 detections.
        precision = np.asarray(evaluation.eval["precision"])[:, :, :, 0, -1]
        class_ap = {}
        for index, name in enumerate(self.classes):
            points = precision[:, :, index]
            class_ap[name] = _percent(points[points > -1].mean() if (points > -1).any() else -1.0)
        result["class_ap"] = class_ap
        if self._mask_images:
            result |= self._mask_result()
        return result

    def _mask_result(self) -> Result:
        if len(self._mask_images) != len(self._images):
            raise ValueError(
                f"{len(self._mask_images)} of {len(self._images)} predictions have masks; want all or none"
            )
        first = self._mask_images[0]
        empty = _encoded(torch.zeros(1, first["height"], first["width"], dtype=torch.bool))[0]
        nowhere = {**_mask_row(1, 1, 0, empty, 1.0), "iscrowd": 0, "score": 0.0}
        with contextlib.redirect_stdout(io.StringIO()):
            truth = self._coco(self._mask_images, self._mask_truths)
            # Not loadRes: it would take the areas at the truth's resolution.
            found = self._coco(self._mask_images, self._mask_found or [nowhere])
            evaluation = _evaluated(truth, found, "segm")
        return {f"mask_{name}": _percent(value) for name, value in zip(_BINS, evaluation.stats[:6], strict=True)}

    def _coco(self, images: list[dict[str, int]], annotations: list[dict[str, object]]) -> COCO:
        categories = [{"id": index, "name": name} for index, name in enumerate(self.classes, 1)]
        return COCO({"images": images, "annotations": annotations, "categories": categories})


def _evaluated(truth: COCO, found: COCO, kind: Literal["bbox", "segm"]) -> COCOeval_faster:
    evaluation = COCOeval_faster(truth, found, iouType=kind, print_function=_silent)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation


def _encoded(masks: Bool[Tensor, "M H W"]) -> list[dict[str, Any]]:
    """Compressed run lengths of each mask. The library's own encoder takes ten times as long: it walks every pixel."""
    return [_run_lengths(mask) for mask in masks.cpu().numpy()]


def _run_lengths(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """Runs of a mask (H, W) column by column, the first one of pixels that are not in it."""
    height, width = mask.shape
    columns = np.flatnonzero(mask.any(0))
    edges = np.zeros(0, np.int64)
    if len(columns):
        flat = mask[:, columns[0] : columns[-1] + 1].ravel(order="F")
        edges = np.flatnonzero(np.diff(flat, prepend=False, append=False)) + columns[0] * height
    counts = np.trim_zeros(np.diff(edges, prepend=0, append=height * width), "b")
    return cast("dict[str, Any]", rle.frPyObjects({"size": [height, width], "counts": counts.tolist()}, height, width))


def _mask_row(number: int, image: int, label: int, mask: dict[str, Any], area_scale: float) -> dict[str, object]:
    return {
        "id": number,
        "image_id": image,
        "category_id": label + 1,
        "segmentation": mask,
        "area": float(rle.area(mask)) * area_scale,
    }


def _xywh(xyxy: Sequence[float]) -> list[float]:
    left, top, right, bottom = xyxy
    return [left, top, right - left, bottom - top]


def _percent(value: float) -> float | None:
    return None if value < 0 else 100 * float(value)


def _silent(*_: object) -> None:
    """In place of the evaluator's printing."""
