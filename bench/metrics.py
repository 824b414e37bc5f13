"""Accuracy over a whole data set: a confusion matrix for masks, COCO average precision for boxes."""

import contextlib
import io
from collections.abc import Sequence

import numpy as np
import torch
from faster_coco_eval import COCO, COCOeval_faster
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from bench.data.contract import IGNORE, Truth
from heads.contract import Boxes

# COCO's area bins (32² and 96² pixels) are absolute and were made for photographs of about 640x480. Boxes are scaled
# to an image of that area, so that "small" is the same share of the picture at every resolution.
REFERENCE_AREA = 640 * 480


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
    """Collects boxes image by image; COCO's AP (101 points, IoU 0.50:0.95, 100 detections) at the end."""

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = list(classes)
        self._images: list[dict[str, int]] = []
        self._truths: list[dict[str, object]] = []
        self._found: list[dict[str, object]] = []

    def add(self, truth: Truth, found: Boxes) -> None:
        """One image: its truth, and what was found, in pixels of the same size."""
        image = len(self._images) + 1
        height, width = truth.size
        scale = (REFERENCE_AREA / (height * width)) ** 0.5
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
        for box, label, score in zip(found.xyxy.float() * scale, found.labels, found.scores, strict=True):
            self._found.append(
                {
                    "image_id": image,
                    "category_id": int(label) + 1,
                    "bbox": _xywh(box.tolist()),
                    "score": float(score),
                }
            )

    def result(self) -> dict[str, float | dict[str, float | None] | None]:
        """ap, ap50, ap75, ap_small, ap_medium, ap_large and class_ap, in percent; None where nothing could be found."""
        categories = [{"id": index, "name": name} for index, name in enumerate(self.classes, 1)]
        # The evaluator cannot be given an empty list; a box of score 0 outside the picture finds nothing.
        nowhere = {"image_id": 1, "category_id": 1, "bbox": [-2.0, -2.0, 1.0, 1.0], "score": 0.0}
        with contextlib.redirect_stdout(io.StringIO()):
            truth = COCO({"images": self._images, "annotations": self._truths, "categories": categories})
            found = truth.loadRes(self._found or [nowhere])
            evaluation = COCOeval_faster(truth, found, iouType="bbox", print_function=_silent)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        names = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
        result: dict[str, float | dict[str, float | None] | None] = {
            name: _percent(value) for name, value in zip(names, evaluation.stats[:6], strict=True)
        }
        # (IoU threshold, recall point, class, area bin, most detections): all areas, 100 detections.
        precision = np.asarray(evaluation.eval["precision"])[:, :, :, 0, -1]
        class_ap = {}
        for index, name in enumerate(self.classes):
            points = precision[:, :, index]
            class_ap[name] = _percent(points[points > -1].mean() if (points > -1).any() else -1.0)
        result["class_ap"] = class_ap
        return result


def _xywh(xyxy: Sequence[float]) -> list[float]:
    left, top, right, bottom = xyxy
    return [left, top, right - left, bottom - top]


def _percent(value: float) -> float | None:
    return None if value < 0 else 100 * float(value)


def _silent(*_: object) -> None:
    """In place of the evaluator's printing."""
