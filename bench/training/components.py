"""Label maps by the size of what is in them; see `bench.stats.overlap` for what is made of it."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from bench.data.contract import IGNORE
from bench.stats.overlap import SHARES, SIZES

_EIGHT = np.ones((3, 3), int)
"""Pixels that touch at a corner belong together: a slanted line one pixel wide is one object."""


def by_size(truth: NDArray[np.uint8], prediction: NDArray[np.integer], classes: int) -> NDArray[np.int64]:
    """(S, K, 3) hits, false alarms and misses of each class in one image (H, W), by `SIZES`.

    Hits and misses by the component of the truth that they lie on, false alarms by that of the prediction. Pixels of
    truth 255 belong to no component on either side.
    """
    found = np.where(truth == IGNORE, IGNORE, prediction)
    true_sizes, found_sizes = sizes(truth), sizes(found)
    labelled = truth != IGNORE
    right, wrong = labelled & (truth == found), labelled & (truth != found)
    counts = [
        np.bincount(size[which].astype(np.int64) * classes + labels[which], minlength=len(SIZES) * classes)
        for which, labels, size in (
            (right, truth, true_sizes),
            (wrong, found, found_sizes),
            (wrong, truth, true_sizes),
        )
    ]
    return np.stack(counts, -1).reshape(len(SIZES), classes, 3)


def sizes(labels: NDArray[np.integer]) -> NDArray[np.uint8]:
    """(H, W) index into `SIZES` of the component of its label that each pixel belongs to; 0 where it is 255."""
    found = np.zeros(labels.shape, np.uint8)
    numbers = np.where(labels == IGNORE, 0, labels.astype(np.int32) + 1)
    for number, place in enumerate(ndimage.find_objects(numbers), 1):
        if place is None:
            continue
        inside = numbers[place] == number
        parts = np.empty(inside.shape, np.int32)
        ndimage.label(inside, _EIGHT, output=parts)
        size = np.searchsorted(SHARES, np.bincount(parts.ravel()) / labels.size, side="right")
        found[place][inside] = size[parts[inside]]
    return found
