"""Which detection finds which object, as COCO's evaluation decides it: all thresholds and area ranges at once."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.stats.precision import THRESHOLDS

AREAS = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}
"""COCO's ranges of areas, in pixels; an end belongs to both."""
_BITS = 1 << np.arange(len(THRESHOLDS), dtype=np.uint16)
_LARGEST = 1 - 1e-10
"""IoU that is enough at any threshold."""


@dataclass(frozen=True)
class Range:
    """Objects of which areas are to be found: those of G truths and D detections, and the ends of the range."""

    truth: NDArray[np.float64]
    found: NDArray[np.float64]
    low: float = 0.0
    high: float = 1e10

    def outside(self, areas: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which areas are not in it."""
        return (areas < self.low) | (areas > self.high)


def match(
    overlap: NDArray[np.float64], crowd: NDArray[np.bool_], ranges: list[Range]
) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
    """Match the detections of one class in one image.

    Going down by score, each takes the free object that it overlaps most, if by the threshold at least; of those that
    are equal the last. An object that is ignored (a crowd, or one outside the range) is taken only where no other can
    be, and a crowd is never used up. A detection that takes one, or that takes none and is itself outside the range,
    counts neither way.

    Args:
        overlap: (D, G) IoU, for a crowd the share of the detection that is in it; by falling score.
        crowd: (G,) objects that are neither to be found nor to be punished.
        ranges: S of them.

    Returns:
        (S, D) bits of `bench.stats.precision.Matches`: hit and ignored.
    """
    detections, objects = overlap.shape
    shape = len(ranges), len(THRESHOLDS)
    unwanted = np.array([one.outside(one.truth) | crowd for one in ranges]).reshape(len(ranges), 1, objects)
    outside = np.array([one.outside(one.found) for one in ranges]).reshape(len(ranges), detections)
    free = np.ones((*shape, objects), np.bool_)
    hit = np.zeros((*shape, detections), np.bool_)
    ignored = np.broadcast_to(outside[:, None], hit.shape).copy()
    enough = np.minimum(THRESHOLDS, _LARGEST)
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    for index in np.flatnonzero(overlap.max(1, initial=0) >= enough[0]):
        # Places by overlap, so that equal ones are in order; whatever is wanted comes after all that is not.
        place = np.argsort(np.argsort(overlap[index], kind="stable"))
        value = np.where((free | crowd) & (overlap[index] >= enough[:, None]), place + objects * ~unwanted, -1)
        taken = value.argmax(-1)
        took = value.max(-1) >= 0
        idle = unwanted[rows, 0, taken]
        hit[..., index] = took & ~idle
        ignored[..., index] = np.where(took, idle, ignored[..., index])
        free[rows, columns, taken] &= ~took
    return _packed(hit), _packed(ignored)


def _packed(flags: NDArray[np.bool_]) -> NDArray[np.uint16]:
    """(S, T, D) to (S, D)."""
    return np.tensordot(_BITS, flags.astype(np.uint16), (0, 1)).astype(np.uint16)
