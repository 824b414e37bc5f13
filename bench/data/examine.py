"""A look at every file of a data set before anything is trained: all that is broken at once, and what labels hold.

Of a picture only the header and the end of its file are read, see `bench.data.images.read_header`; labels are read
whole. Files are looked at in several threads, and what was found is kept in the cache folder until they change.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from hashlib import sha256
from os import fsencode
from pathlib import Path
from typing import Any

import numpy as np

from bench.data._kept import load, save, stamp
from bench.data.contract import IGNORE, Dataset, Truth
from bench.errors import DataError

_VERSION = 1
"""Goes up when what is kept of an image comes to mean something else."""


@dataclass(frozen=True)
class Seen:
    """What one image holds.

    size: (H, W) of its labels. counts: label -> its pixels, or its objects. ignored: pixels, or objects, that count
    nowhere. boxes: (height, width) of each object that counts, in pixels of ``size``. turned: whether its picture is
    turned upright; None where its EXIF turns nothing.
    """

    size: tuple[int, int]
    counts: Mapping[int, int]
    ignored: int
    boxes: Sequence[tuple[float, float]]
    turned: bool | None = None


@dataclass(frozen=True)
class Broken:
    """An image that cannot be used: its picture, and why, which names the file at fault."""

    picture: Path
    reason: str


@dataclass(frozen=True)
class Examined:
    """All images of a split, in their order."""

    images: tuple[Seen | Broken, ...]

    @property
    def broken(self) -> list[Broken]:
        """Those that cannot be used."""
        return [image for image in self.images if isinstance(image, Broken)]

    @property
    def seen(self) -> list[Seen]:
        """Those that can."""
        return [image for image in self.images if isinstance(image, Seen)]


def examine(
    dataset: Dataset, cache: Path, kind: str = "", report: Callable[[int, int], None] = lambda *_: None
) -> Examined:
    """Look at every image of a data set.

    Args:
        dataset: one split of it.
        cache: folder for what was found.
        kind: tells apart what is kept of looks that differ: of two splits, with masks and without.
        report: called with (done, total) now and then.
    """
    total = len(dataset)
    kept = cache / f"looked-{_name(dataset, kind)}.json"
    stored = load(kept)
    known: dict[str, Any] = stored if isinstance(stored, dict) else {}
    fresh: dict[str, Any] = {}

    def look(index: int) -> Seen | Broken:
        files = dataset.files(index)
        key = stamp(files)
        try:
            seen = _restored(known[key])
        except (KeyError, TypeError, ValueError):
            try:
                seen = replace(_seen(dataset.verify(index)), turned=dataset.turned(index))
            except DataError as error:
                return Broken(files[0], str(error))  # not kept: whoever mends a disk wants to see it mended
        fresh[key] = [seen.size, {str(label): count for label, count in seen.counts.items()}, seen.ignored, seen.boxes]
        fresh[key] += [seen.turned] if seen.turned is not None else []
        return seen

    images: list[Seen | Broken] = []
    with ThreadPoolExecutor(min(32, 4 * (os.cpu_count() or 1))) as pool:
        for image in pool.map(look, range(total)):
            images.append(image)
            report(len(images), total)
    if fresh.keys() != known.keys():
        save(kept, fresh)
    return Examined(tuple(images))


def _name(dataset: Dataset, kind: str) -> str:
    place = fsencode(dataset.files(0)[0].parent.resolve()) if len(dataset) else b""
    words = f"{_VERSION}\0{dataset.name}\0{dataset.task}\0{dataset.classes}\0{kind}"
    return sha256(place + b"\0" + words.encode("utf-8", "surrogateescape")).hexdigest()[:24]


def _seen(truth: Truth) -> Seen:
    if truth.mask is not None:
        pixels = np.bincount(truth.mask.ravel(), minlength=IGNORE + 1)
        counts = {label: int(count) for label, count in enumerate(pixels[:IGNORE]) if count}
        return Seen(truth.size, counts, int(pixels[IGNORE]), ())
    counted = truth.labels[~truth.ignore]
    labels, numbers = np.unique(counted, return_counts=True)
    sides = (truth.boxes[:, 2:] - truth.boxes[:, :2])[~truth.ignore]
    return Seen(
        truth.size,
        dict(zip(labels.tolist(), numbers.tolist(), strict=True)),
        int(truth.ignore.sum()),
        [(round(float(height), 1), round(float(width), 1)) for width, height in sides],
    )


def _restored(entry: Any) -> Seen:
    """Raise KeyError, TypeError or ValueError if it is not what `examine` keeps."""
    (height, width), counts, ignored, boxes, *turned = entry
    return Seen(
        (int(height), int(width)),
        {int(label): int(count) for label, count in counts.items()},
        int(ignored),
        [(float(tall), float(wide)) for tall, wide in boxes],
        bool(turned[0]) if turned else None,
    )
