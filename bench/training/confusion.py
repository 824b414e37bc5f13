"""Which pixels of a label map are right."""

import numpy as np
from numpy.typing import NDArray

from bench.data.contract import IGNORE


def confusion(truth: NDArray[np.uint8], prediction: NDArray[np.integer], classes: int) -> NDArray[np.int64]:
    """(K, 3) hits, false alarms and misses of each class in one image (H, W); pixels of truth 255 are left out.

    Raises:
        ValueError: a label lies outside 0..K-1.
    """
    labelled = truth != IGNORE
    true, found = truth[labelled], prediction[labelled]
    for name, labels in (("truth", true), ("prediction", found)):
        if labels.size and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
            raise ValueError(f"{name} has label {int(labels.max())}, wanted 0..{classes - 1} or {IGNORE}")
    right = true == found
    return np.stack(
        [np.bincount(labels, minlength=classes) for labels in (true[right], found[~right], true[~right])], -1
    )
