"""Accuracy of label maps over a data set, collected image by image."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bench.data.contract import Truth
from bench.stats.overlap import Overlaps
from bench.training.boundary import COARSE, FINE, boundary_counts
from bench.training.components import by_size
from bench.training.confusion import confusion


class LabelMetrics:
    """Pixel counts of every image."""

    def __init__(self, classes: Sequence[str], background: int | None = None) -> None:
        self.classes = tuple(classes)
        self.background = background
        self._images: list[int] = []
        self._counts: list[NDArray[np.int64]] = []

    def add(self, truth: Truth, prediction: NDArray[np.integer]) -> None:
        """One image: its truth, and the predicted label of each of its pixels.

        Raises:
            ValueError: a label lies outside 0..K-1.
        """
        assert truth.mask is not None, "a segmentation data set has masks"
        count = len(self.classes)
        views = [
            confusion(truth.mask, prediction, count)[None],
            by_size(truth.mask, prediction, count),
            *(boundary_counts(truth.mask, prediction, count, share)[None] for share in (COARSE, FINE)),
        ]
        self._images.append(truth.fingerprint())
        self._counts.append(np.concatenate(views))

    def result(self) -> Overlaps:
        """All images."""
        return Overlaps(np.array(self._images, np.uint64), self.classes, self.background, np.stack(self._counts))
