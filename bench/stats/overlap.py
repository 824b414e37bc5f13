"""Label maps: the pixel counts of every image, and the figures that follow from them over any sample of images.

Every figure is an intersection over union of pixels pooled over the images (the mean of the IoU of single images would
weigh a class by the images it is absent from), then averaged over classes.

*By size.* A class's truth falls into connected components (8 neighbours), and each component into small, medium or
large by its share of the picture (`SHARES`; COCO's 32² and 96² pixels of a 640x480 picture). The prediction is divided
as COCO divides detections: what lies on a component counts in the component's size, and a false alarm in the size of
the connected component of the *prediction* that it belongs to. So every pixel of truth and of prediction counts in just
one size, and in each the figure is the IoU of two sets of pixels. It is the mean over the classes that have truth of
that size, the background left out. Published relatives rate single instances instead: mIoU^K (Wang et al., NeurIPS
2023, arXiv 2310.19252, which shares a class's false alarms out among its instances by their areas) and the evaluation
by size of Mun et al. (WACV 2024, arXiv 2309.14117). The figures here are not comparable with theirs.

*Boundary.* Boundary IoU (Cheng et al., CVPR 2021, arXiv 2103.16562): the same IoU, over the pixels of each mask alone
that are near its own contour, see `bench.training.boundary`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.stats.resample import Weights, weighted_sums

SIZES = ("small", "medium", "large")
SHARES = (32**2 / (640 * 480), 96**2 / (640 * 480))
"""Where medium and large begin, as shares of the picture: 0.33 and 3 percent."""
VIEWS = ("all", *SIZES, "boundary", "fine_boundary")
"""What is counted: all pixels, those of a size, those near a contour, those very near one."""
HIT, FALSE, MISSED = range(3)


@dataclass(frozen=True)
class Overlaps:
    """Pixel counts of N images and K classes.

    images: (N,) uint64, a fingerprint of each image's truth. classes: K names. background: index of the class that
    means "nothing here", or None. counts: one of `VIEWS` -> (N, K, 3) hits, false alarms and misses.
    """

    images: NDArray[np.uint64]
    classes: tuple[str, ...]
    background: int | None
    counts: Mapping[str, NDArray[np.int64]]

    def arrays(self) -> dict[str, NDArray[Any]]:
        """For a file; see `from_arrays`."""
        background = -1 if self.background is None else self.background
        return {
            "images": self.images,
            "classes": np.array(self.classes, np.str_),
            "background": np.array(background),
            **{view: counts.astype(np.uint32) for view, counts in self.counts.items()},
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> "Overlaps":
        """What `arrays` made.

        Raises:
            KeyError: an array is missing.
        """
        background = int(arrays["background"])
        return cls(
            arrays["images"],
            tuple(arrays["classes"].tolist()),
            None if background < 0 else background,
            {view: arrays[view].astype(np.int64) for view in VIEWS if view in arrays},
        )

    def figure(self, column: str, weights: Weights | None = None) -> NDArray[np.float64] | None:
        """A column of `accuracy` in percent, (R,) for R samples of the images; None: no column of label maps.

        Args:
            column: ``miou``, ``foreground_miou``, ``pixel_accuracy``, ``miou_small`` (medium, large),
                ``boundary_miou``, ``fine_boundary_miou`` or ``class_iou[NAME]``.
            weights: (R, N), how often each image is in each sample; None: one sample, each image once.

        nan where a sample has nothing that it could be told from.
        """
        view, kept, by_truth = self._reading(column)
        if view not in self.counts:
            return None
        sums = weighted_sums(self.counts[view][:, kept], weights)
        if column == "pixel_accuracy":
            sums = sums.sum(1, keepdims=True)
            whole = sums[..., HIT] + sums[..., MISSED]
        else:
            whole = sums.sum(-1)
        known = (sums[..., HIT] + sums[..., MISSED] if by_truth else whole) > 0
        shares = np.divide(sums[..., HIT], whole, out=np.zeros_like(whole), where=known)
        count = known.sum(1)
        return 100 * np.divide(shares.sum(1), count, out=np.full(len(sums), np.nan), where=count > 0)

    def _reading(self, column: str) -> tuple[str, list[int], bool]:
        """View, classes, and whether a class without truth is left out: its false alarms count against no size."""
        every = list(range(len(self.classes)))
        foreground = [index for index in every if index != self.background]
        named = {f"class_iou[{name}]": [index] for index, name in enumerate(self.classes)}
        if column in {"miou", "pixel_accuracy"}:
            return "all", every, False
        if column == "foreground_miou":
            return "all", foreground, False
        if column in {"boundary_miou", "fine_boundary_miou"}:
            return column.removesuffix("_miou"), every, False
        if column in {f"miou_{size}" for size in SIZES}:
            return column.removeprefix("miou_"), foreground, True
        return ("all", named[column], False) if column in named else ("", [], False)
