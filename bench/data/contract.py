"""What a data set promises: numpy arrays, one sample at a time, at any size.

This page is the whole contract; a data set is one file beside it with

* ``CATALOGUE``, a *literal* dict of name -> ``{"tasks": [...], "root": True, "redistributable": False}``, read without
  importing the file. ``root``: it needs ``--data-root``. ``redistributable``: pictures made from it
  may show its photographs. ``version`` (optional): raise it when the data changes under the same name; older results
  then no longer count. ``masks`` (optional): true where objects can have instance masks. ``marks`` (optional): names
  below the root that speak for this layout (glob patterns), for a folder that is nearly one. ``general`` (optional):
  true for a layout that takes what a more special one means otherwise; it is offered only where no other fits.
* ``check(root, task) -> str`` (only where ``root`` is true), which raises `DataError` for a folder that is in another
  layout or half-present, in milliseconds and before anything is measured. What it returns is what the folder left open
  and how it was decided, "" for nothing: which pictures became val, say. Every record has it;
* ``load(name, *, task, root, cache, split) -> Dataset``. Where ``masks`` is true it takes one keyword more, ``masks``
  (False by default): masks cost time and memory and are made only for a head that learns from them. A data set that
  does not state it is never asked for any. Structure that is wrong is said here; a broken file among many is not, but
  where it is read (`Dataset.verify`), so that all of them can be listed at once.

No file here imports torch.
"""

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Task: TypeAlias = Literal["segmentation", "detection"]
Split: TypeAlias = Literal["train", "val"]
IGNORE = 255


@dataclass(frozen=True)
class Truth:
    """The labels of one image at ``size`` (H, W) pixels.

    mask: (H, W) uint8 class index, 255 = ignore; None for a detection data set.
    boxes: (M, 4) float32 xyxy in pixels of ``size``; (0, 4) for segmentation.
    labels: (M,) int64 in 0..K-1.
    ignore: (M,) bool; objects that are neither to be found nor to be punished (VOC `difficult`, COCO crowd).
    masks: (M, H, W) bool, the visible pixels of each object; None where none were asked for. A mask may be empty: below
        ground-truth resolution an object can be too small to hold the centre of a pixel.
    areas: (M,) float32, the areas that the labels themselves state, in pixels at ground-truth resolution (COCO's
        ``area``); None where they state none, or at another size.
    """

    size: tuple[int, int]
    mask: NDArray[np.uint8] | None
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    ignore: NDArray[np.bool_]
    masks: NDArray[np.bool_] | None = None
    areas: NDArray[np.float32] | None = None

    def fingerprint(self) -> int:
        """64 bits that tell truths apart, so that models are compared image by image only on the same ones."""
        digest = hashlib.blake2b(repr(self.size).encode(), digest_size=8)
        for part in (self.boxes, self.labels, self.ignore) if self.mask is None else (self.mask,):
            digest.update(np.ascontiguousarray(part).tobytes())
        return int.from_bytes(digest.digest())


@dataclass(frozen=True)
class Sample:
    """One image (H, W, 3) uint8 RGB and its labels at the same size."""

    image: NDArray[np.uint8]
    truth: Truth


class Dataset(ABC):
    """One split of one data set for one task."""

    name: str
    task: Task
    classes: tuple[str, ...]
    background: int | None = None
    """Index of the class that means "nothing here", left out of the foreground mIoU; None if there is none."""
    pair: tuple[int, int] | None = None
    """Two classes that look the same, which only something far away tells apart; None if there are none."""
    flips: tuple[Literal["horizontal", "vertical"], ...] = ("horizontal",)
    """Mirrorings that leave a picture one of its kind: a street upside down is none, cells have no up and no down."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of images."""

    @abstractmethod
    def sample(self, index: int, size: tuple[int, int]) -> Sample:
        """Image and labels at ``size`` (H, W): the whole image, stretched to it if its shape is another.

        Raises:
            DataError: the image or its labels cannot be read, or a label is out of range; names the file.
        """

    def whole(self, index: int, enough: tuple[int, int]) -> Sample:  # noqa: ARG002 - for those that can save by it
        """The picture in its own shape and its labels, for whoever cuts and zooms.

        Both in full, as they are stored, but for two savings. Of a picture that is larger than ``enough`` (H, W) on
        both sides a smaller copy may come, down to that, beside the full labels. And what is drawn has no resolution of
        its own: it comes as large as ``enough``, labels too. The arrays are the data set's own, not to be changed.

        Raises:
            DataError: as for `sample`.
        """
        return self.sample(index, self.truth(index).size)

    @abstractmethod
    def truth(self, index: int) -> Truth:
        """Labels at ground-truth resolution, where the metric is computed whatever the input size is."""

    def files(self, index: int) -> tuple[Path, ...]:  # noqa: ARG002 - for those that have some
        """The files that an image is made of, its picture first; none where nothing lies on disk."""
        return ()

    def turned(self, index: int) -> bool | None:  # noqa: ARG002 - as above
        """Whether a picture that its EXIF turns is shown upright, as its labels are; None where there is no such EXIF.

        Raises:
            DataError: the file cannot be read.
        """
        return None

    def verify(self, index: int) -> Truth:
        """Labels at ground-truth resolution, after a look for whatever would stop a training.

        Of the picture only the header and the end of the file are read. Masks of objects are checked and not drawn.

        Raises:
            DataError: the image cannot be used; names the file and the reason.
        """
        return self.truth(index)
