"""Samples of images with replacement, as numbers: how often each image is in each of them."""

from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Weights: TypeAlias = NDArray[np.unsignedinteger[Any]] | NDArray[np.floating[Any]]
"""(R, N): how often each of N images is in each of R samples."""

RESAMPLES = 2000
_CHUNK = 250


@lru_cache(maxsize=8)
def resamples(images: int, count: int = RESAMPLES, seed: int = 0) -> NDArray[np.uint8]:
    """(count, images): so many bootstrap samples, each of as many images as there are. Equal for equal arguments."""
    drawn = np.random.default_rng([seed, images]).integers(0, images, (count, images))
    drawn += images * np.arange(count)[:, None]
    # Of 255 times one image in a sample nobody will hear.
    weights = np.bincount(drawn.ravel(), minlength=count * images).reshape(count, images).astype(np.uint8)
    weights.flags.writeable = False  # it is shared by all who ask for it
    return weights


def weighted_sums(counts: NDArray[Any], weights: Weights | None) -> NDArray[np.float64]:
    """(N, ...) counts of images to (R, ...) sums over each sample. Whole numbers, so exact in any order.

    Args:
        counts: of each image.
        weights: see `Weights`; None: one sample, each image once.
    """
    flat = counts.reshape(len(counts), -1).astype(np.float64)
    if weights is None:
        return flat.sum(0).reshape(1, *counts.shape[1:])
    parts = [weights[start : start + _CHUNK].astype(np.float64) @ flat for start in range(0, len(weights), _CHUNK)]
    return np.concatenate(parts).reshape(-1, *counts.shape[1:])
