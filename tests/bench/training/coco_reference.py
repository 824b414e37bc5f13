"""Random detections, and pycocotools' word on them."""

import contextlib
import io

import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from bench.data.contract import Truth
from bench.training.box_metrics import REFERENCE_AREA
from heads.contract import Boxes

STATS = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "ar_1", "ar_10", "ar_100")
"""Columns in the order of pycocotools' figures."""
Image = tuple[Truth, Boxes]


def images(
    random: np.random.Generator,
    *,
    count: int = 12,
    classes: int = 3,
    objects: int = 8,
    detections: int = 40,
    ignored: float = 0.15,
    ties: bool = False,
    masks: bool = False,
) -> list[Image]:
    """Pictures with up to so many objects and detections, most of which are near some object."""
    found = []
    for _ in range(count):
        size = (120, 160) if masks else (480, 640)
        height, width = size
        wanted = random.integers(0, objects + 1)
        sides = np.exp(random.uniform(np.log(height / 40), np.log(height / 1.5), (wanted, 2)))
        corners = random.uniform(0, 1, (wanted, 2)) * (np.array([width, height]) - sides)
        boxes = np.concatenate([corners, corners + sides], 1).astype(np.float32)
        labels = random.integers(0, classes, wanted)
        tries = random.integers(0, detections + 1) if wanted else min(3, detections)
        source = random.integers(0, max(1, wanted), tries)
        near = boxes[source] if wanted else np.tile(np.float32([5, 5, 60, 60]), (tries, 1))
        near = near + random.normal(0, 0.07, (tries, 4)) * np.tile(near[:, 2:] - near[:, :2], 2)
        near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 1)
        kinds = np.where(
            random.random(tries) < 0.8, labels[source] if wanted else 0, random.integers(0, classes, tries)
        )
        scores = random.integers(0, 4, tries) / 4 if ties else random.random(tries)
        truth = Truth(
            size,
            None,
            boxes,
            labels,
            random.random(wanted) < ignored,
            masks=drawn(boxes, size) if masks else None,
            areas=(0.7 * (sides[:, 0] * sides[:, 1])).astype(np.float32),
        )
        near = near.astype(np.float32)
        guess = Boxes(
            torch.from_numpy(near),
            torch.from_numpy(kinds).long(),
            torch.from_numpy(scores).float(),
            masks=torch.from_numpy(drawn(near, size)) if masks else None,
        )
        found.append((truth, guess))
    return found


def drawn(boxes: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.bool_]:
    """(M, H, W): ellipses in boxes."""
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    masks = np.zeros((len(boxes), *size), bool)
    for mask, (left, top, right, bottom) in zip(masks, boxes, strict=True):
        across, down = (2 * x - left - right) / (right - left), (2 * y - top - bottom) / (bottom - top)
        mask[:] = across**2 + down**2 <= 1
    return masks


def pycocotools(images: list[Image], classes: int, *, stated: bool = False, masks: bool = False) -> dict[str, float]:
    """Its figures in percent; -100 for what is unknown.

    Args:
        images: pictures with their truth and detections.
        classes: how many there are.
        stated: sort objects by the areas that the truth states, in pixels, and not by shares of the picture.
        masks: compare masks and not boxes.
    """
    pictures, wanted, found = [], [], []
    for number, (truth, guess) in enumerate(images, 1):
        height, width = truth.size
        pictures.append({"id": number, "height": height, "width": width})
        scale = 1.0 if stated else REFERENCE_AREA / (height * width)
        for index in range(len(truth.labels)):
            row = _row(number, truth.labels[index], truth.boxes[index], truth.masks[index] if masks else None, scale)
            row["area"] = float(truth.areas[index]) if stated else row["area"]
            wanted.append({**row, "id": len(wanted) + 1, "iscrowd": int(truth.ignore[index])})
        for index in range(len(guess.labels)):
            mask = guess.masks[index].numpy() if masks else None
            row = _row(number, guess.labels[index], guess.xyxy[index].numpy(), mask, scale)
            found.append({**row, "id": len(found) + 1, "iscrowd": 0, "score": float(guess.scores[index])})
    categories = [{"id": number + 1, "name": str(number)} for number in range(classes)]
    with contextlib.redirect_stdout(io.StringIO()):
        sides = []
        for annotations in (wanted, found):
            side = COCO()
            side.dataset = {"images": pictures, "annotations": annotations, "categories": categories}
            side.createIndex()
            sides.append(side)
        evaluation = COCOeval(*sides, "segm" if masks else "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return dict(zip(STATS, (100 * evaluation.stats[: len(STATS)]).tolist(), strict=True))


def _row(number, label, box, mask, scale):
    left, top, right, bottom = map(float, box)
    row = {"image_id": number, "category_id": int(label) + 1, "bbox": [left, top, right - left, bottom - top]}
    if mask is None:
        return {**row, "area": (right - left) * (bottom - top) * scale}
    encoded = rle.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {**row, "segmentation": encoded, "area": float(rle.area(encoded)) * scale}
