"""CamVid as SegNet's tutorial prepared it: road scenes with 11 classes.

Layout of the folder given as data root::

    train/*.png   trainannot/*.png      a picture (or .jpg) and its label map share their name
    val/*.png     valannot/*.png        label map: 8-bit index 0..10, 11 = unlabelled

Split ``train`` is the folder train and split ``val`` the folder val. The folder test is not read; papers mostly report
on it, so their numbers stand beside these only if val and valannot are links to test and testannot. The folders decide
what there is: the text lists that come with SegNet (train.txt, ...) hold paths of somebody else's machine.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.data.contract import IGNORE, Dataset, Sample, Split, Task, Truth
from bench.data.images import (
    PHOTO_SUFFIXES,
    SampleCache,
    files_by_stem,
    first_few,
    image_size,
    mask_truth,
    read_image,
    read_labels,
    stretch,
)
from bench.errors import DataError, unknown

CATALOGUE = {
    "camvid": {
        "tasks": ["segmentation"],
        "root": True,
        "redistributable": False,
        "doc": "CamVid road scenes, 11 classes, in SegNet's layout (train, trainannot, val, valannot)",
    },
}

CLASSES = (
    "Sky",
    "Building",
    "Pole",
    "Road",
    "Pavement",
    "Tree",
    "SignSymbol",
    "Fence",
    "Car",
    "Pedestrian",
    "Bicyclist",
)
UNLABELLED = 11

_SPLITS: tuple[Split, ...] = ("train", "val")
_LAYOUT = (
    "want SegNet's layout: train/NAME.png (or .jpg) with trainannot/NAME.png, and val/NAME.png with valannot/NAME.png"
)


def _targets() -> NDArray[np.int16]:
    """(256,) stored label -> class index; -1 where no such label exists."""
    table = np.full(256, -1, np.int16)
    table[: len(CLASSES)] = np.arange(len(CLASSES))
    table[[UNLABELLED, IGNORE]] = IGNORE
    return table


_TARGETS = _targets()


def check(root: Path, task: str) -> None:
    """Raise `DataError` unless both splits are there and every picture has its label map; opens no file."""
    if task not in CATALOGUE["camvid"]["tasks"]:
        message = f"camvid has label maps only: it serves segmentation, not {task}"
        raise DataError(message)
    folders = [f"{split}{part}" for split in _SPLITS for part in ("", "annot")]
    missing = [folder for folder in folders if not (root / folder).is_dir()]
    if missing:
        message = f"{root}: no folder {', '.join(missing)}; {_LAYOUT}"
        raise DataError(message)
    for split in _SPLITS:
        _pairs(root, split)


def load(name: str, *, task: Task, root: Path, cache: Path, split: Split) -> Dataset:
    """One split of CamVid, images ordered by name. ``cache`` is not needed: nothing is computed ahead."""
    del cache
    if name not in CATALOGUE:
        raise unknown("data set", name, CATALOGUE)
    check(root, task)
    return CamVid(_pairs(root, split))


class CamVid(Dataset):
    """Pictures with label maps of the same size."""

    def __init__(self, pairs: list[tuple[Path, Path]]) -> None:
        """``pairs``: path of each picture and of its label map."""
        self.name = "camvid"
        self.task: Task = "segmentation"
        self.classes = CLASSES
        self._pairs = pairs
        self._cache = SampleCache()

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._pairs)

    def sample(self, index: int, size: tuple[int, int]) -> Sample:
        """Image and mask stretched to ``size`` (H, W)."""
        return self._cache.get((index, size), lambda: self._stretched(index, size))

    def truth(self, index: int) -> Truth:
        """Read the mask as it was drawn, 360 x 480 in the usual copy."""
        _, path = self._pairs[index]
        stored = read_labels(path)
        mask = _TARGETS[stored]
        if mask.min(initial=0) < 0:
            message = (
                f"{path}: label {stored[mask < 0].max()} is out of range; CamVid's labels are 0 to {len(CLASSES) - 1}, "
                f"{UNLABELLED} or {IGNORE} for unlabelled"
            )
            raise DataError(message)
        return mask_truth(mask.astype(np.uint8))

    def whole(self, index: int, enough: tuple[int, int]) -> Sample:
        """Picture and mask in their own shape."""
        return self._cache.get((index, "whole", enough), lambda: self._read(index, enough), copy=False)

    def _stretched(self, index: int, size: tuple[int, int]) -> Sample:
        sample = self._read(index)
        return stretch(sample.image, sample.truth, size)

    def _read(self, index: int, enough: tuple[int, int] | None = None) -> Sample:
        path, label_path = self._pairs[index]
        size, truth = image_size(path), self.truth(index)
        if size != truth.size:
            message = (
                f"{label_path}: {truth.size[1]} x {truth.size[0]} pixels, but {path} has "
                f"{size[1]} x {size[0]}; want the same"
            )
            raise DataError(message)
        return Sample(read_image(path, enough), truth)


def _pairs(root: Path, split: Split) -> list[tuple[Path, Path]]:
    """Picture and label map of each image of a split, ordered by name."""
    images = files_by_stem(root / split, PHOTO_SUFFIXES)
    labels = files_by_stem(root / f"{split}annot", (".png",))
    lonely = {
        f"pictures in {split} have no label map in {split}annot": images.keys() - labels.keys(),
        f"label maps in {split}annot have no picture in {split}": labels.keys() - images.keys(),
    }
    faults = [f"{len(stems)} {what} ({first_few(stems)})" for what, stems in lonely.items() if stems]
    if faults or not images:
        message = f"{root}: {'; '.join(faults) or f'no pictures in {split}'}; {_LAYOUT}"
        raise DataError(message)
    return [(root / split / name, root / f"{split}annot" / labels[stem]) for stem, name in images.items()]
