"""Boundary IoU: how much of what is near the contour of a mask is right.

Cheng et al., Boundary IoU: Improving Object-Centric Image Segmentation Evaluation, CVPR 2021, arXiv 2103.16562. Of the
true mask only those pixels count that are at most d pixels from its contour, and of the predicted mask those that are
as near to its own; Boundary IoU is the IoU of these two bands. As in the paper's code the distance is that of a
chessboard, the edge of the picture counts as contour, and d is a share of the picture's diagonal, rounded, one pixel at
least. The paper takes 2 % on COCO and LVIS (`COARSE`), and 0.5 % on the large pictures of Cityscapes (`FINE`).

The paper rates objects. Here a mask is all that a class has in an image, and pixels are pooled over the images. Of
pixels without truth (255) the paper says nothing: here they are cut out of the prediction, too, before contours are
drawn, so that what is predicted there counts nowhere.
"""

import math

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from bench.data.contract import IGNORE

COARSE, FINE = 0.02, 0.005
"""Distance to the contour, as a share of the diagonal."""
_OUTSIDE = -1


def boundary_counts(
    truth: NDArray[np.uint8], prediction: NDArray[np.integer], classes: int, share: float
) -> NDArray[np.int64]:
    """(K, 3) hits, false alarms and misses near the contours of each class in one image (H, W)."""
    reach = distance(truth.shape, share)
    true = np.where(near_contour(truth, reach), truth, IGNORE)
    found = np.where(truth == IGNORE, IGNORE, prediction)
    found = np.where(near_contour(found, reach), found, IGNORE)
    right = (true == found) & (true != IGNORE)
    wrong = [labels[(labels != IGNORE) & ~right] for labels in (found, true)]
    return np.stack([np.bincount(labels, minlength=classes) for labels in (true[right], *wrong)], -1)


def distance(size: tuple[int, ...], share: float) -> int:
    """Pixels of a share of the diagonal of a picture (H, W), at least one."""
    return max(1, round(share * math.hypot(*size)))


def near_contour(labels: NDArray[np.integer], reach: int) -> NDArray[np.bool_]:
    """(H, W): whether a pixel of another label, or the edge of the picture, is at most so far away.

    Of every label's mask at once: its erosion by a square keeps the pixels around which that square holds nothing else.
    """
    wide = labels.astype(np.int16)
    window = 2 * reach + 1
    least = ndimage.minimum_filter(wide, window, mode="constant", cval=_OUTSIDE)
    most = ndimage.maximum_filter(wide, window, mode="constant", cval=_OUTSIDE)
    return least != most
