"""Accuracy of label maps over a data set, collected image by image."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bench.data.contract import Truth
from bench.stats.overlap import SIZES, VIEWS, Overlaps
from bench.training.boundary import COARSE, FINE, boundary_counts
from bench.training.components import by_size
from bench.training.confusion import confusion


class LabelMetrics:
    """Pixel counts of every image."""

    def __init__(self, classes: Sequence[str], background: int | None = None) -> None:
        self.classes = tuple(classes)
        self.background = background
        self._images: list[int] = []
        self._counts: dict[str, list[NDArray[np.int64]]] = {view: [] for view in VIEWS}

    def add(self, truth: Truth, prediction: NDArray[np.integer]) -> None:
        """One image: its truth, and the predicted label of each of its pixels.

        Raises:
            ValueError: a label lies outside 0..K-1.
        """
        assert truth.mask is not None, "a segmentation data set has masks"
        count = len(self.classes)
        found = {
            "all": confusion(truth.mask, prediction, count),
            **dict(zip(SIZES, by_size(truth.mask, prediction, count), strict=True)),
            "boundary": boundary_counts(truth.mask, prediction, count, COARSE),
            "fine_boundary": boundary_counts(truth.mask, prediction, count, FINE),
        }
        self._images.append(truth.fingerprint())
        for view, counts in found.items():
            self._counts[view].append(counts)

    def result(self) -> Overlaps:
        """All images."""
        counts = {view: np.stack(of_images) for view, of_images in self._counts.items()}
        return Overlaps(np.array(self._images, np.uint64), self.classes, self.background, counts)
