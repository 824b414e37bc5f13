"""COCO's panoptic maps, or own ones of that form, as label maps for segmentation.

Layout of the data root, beside the pictures in train2017 and val2017 (or in images/train2017, ...)::

    annotations/panoptic_train2017.json          categories, images, and the segments of each label map
    annotations/panoptic_train2017/NAME.png      R + 256 G + 65536 B is the id of a segment; or in the root

and val2017 likewise. Whatever stands after ``panoptic_train`` (2017, nothing) stands after ``train`` and ``val``
everywhere. Classes are the categories in the order of their ids, 133 for COCO. Each pixel has the class of its segment,
in crowds too; 0 is in no segment and is ignored.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.data._coco_json import BAD, categories_of, images_of, key_of, read, short
from bench.data._kept import UNREADABLE, load_arrays, origin, save_arrays
from bench.data._listing import SPLITS, asked, first_few
from bench.data._maps import background_of
from bench.data._pictures import Pictures
from bench.data.contract import IGNORE, Dataset, Split, Task, Truth
from bench.data.images import Header, Size, mask_truth, read_header, read_image
from bench.errors import DataError

CATALOGUE = {
    "coco_panoptic": {
        "tasks": ["segmentation"],
        "root": True,
        "redistributable": False,
        "marks": ["annotations/panoptic_train*", "annotations/panoptic_val*", "panoptic_*"],
        "doc": "COCO's panoptic maps, or own ones of that form, as classes: annotations/panoptic_*.json with PNGs",
    },
}

_LAYOUT = (
    "want COCO's panoptic layout: train2017/NAME.jpg with annotations/panoptic_train2017.json and "
    "annotations/panoptic_train2017/NAME.png, and val2017 likewise (the 2017 may be anything or nothing)"
)
_IDS = 1 << 24
_UNKNOWN = -1
"""The class of a segment whose category the JSON does not list."""


@dataclass(frozen=True)
class _Part:
    """Where one split lies."""

    json: Path
    maps: Path
    images: Path


@dataclass(frozen=True)
class _Index:
    """What is needed of one JSON: N images, and the S segments of their label maps, image by image.

    names, maps: (N,) of the picture and of the label map. first: (N + 1,) image i has the segments first[i] to
    first[i + 1]. ids, labels: (S,) of the segments; a label of -1 is of no category that is listed.
    """

    classes: tuple[str, ...]
    names: NDArray[np.str_]
    maps: NDArray[np.str_]
    first: NDArray[np.int64]
    ids: NDArray[np.int64]
    labels: NDArray[np.int16]


def check(root: Path, task: str) -> str:
    """Raise `DataError` unless both splits have JSON, label maps and pictures; opens no file."""
    asked(CATALOGUE, "coco_panoptic", task)
    _parts(root)
    return ""


def load(name: str, *, task: Task, root: Path, cache: Path, split: Split) -> Dataset:
    """One split, images in the order of its JSON, of which what is needed is kept in the folder ``cache``."""
    asked(CATALOGUE, name, task)
    check(root, task)
    parts = _parts(root)
    indices = {one: _index(parts[one].json, cache) for one in SPLITS}
    if indices["train"].classes != indices["val"].classes:
        differing = set(indices["train"].classes) ^ set(indices["val"].classes)
        message = (
            f"{parts['train'].json} and {parts['val'].json.name} have not the same categories: {first_few(differing)}"
        )
        raise DataError(message)
    return PanopticMaps(parts[split], indices[split])


class PanopticMaps(Pictures):
    """Pictures with label maps whose colours are segments; ``index`` says of which class."""

    def __init__(self, part: _Part, index: _Index) -> None:
        super().__init__("coco_panoptic", "segmentation", index.classes)
        self.background = background_of(index.classes)
        self._part = part
        self._index = index

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._index.names)

    def files(self, index: int) -> tuple[Path, ...]:
        """The picture and its label map."""
        return self._part.images / str(self._index.names[index]), self._part.maps / str(self._index.maps[index])

    def told(self, index: int, header: Header) -> Size:
        """The size of the label map."""
        del header
        return read_header(self.files(index)[1]).size

    def truth(self, index: int) -> Truth:
        """The class of each pixel's segment."""
        path = self.files(index)[1]
        codes = read_image(path).astype(np.int64) @ (1, 1 << 8, 1 << 16)
        segments = slice(int(self._index.first[index]), int(self._index.first[index + 1]))
        known = np.concatenate([[0], self._index.ids[segments]])
        labels = np.concatenate([[IGNORE], self._index.labels[segments]])
        order = np.argsort(known, kind="stable")
        place = np.minimum(np.searchsorted(known[order], codes), len(known) - 1)
        mask = labels[order][place]
        strange = known[order][place] != codes
        if strange.any():
            message = f"{path}: {self._part.json.name} lists no segment {codes[strange][0]} of it"
            raise DataError(message)
        if (mask == _UNKNOWN).any():
            message = f"{path}: {self._part.json.name} gives a segment of it a category that it does not list"
            raise DataError(message)
        return mask_truth(mask.astype(np.uint8))


def _parts(root: Path) -> dict[Split, _Part]:
    """Where both splits lie."""
    lacking: list[str] = []
    for source in sorted((root / "annotations").glob("panoptic_train*.json"), reverse=True):  # 2017 before 2014
        year = source.stem.removeprefix("panoptic_train")
        parts: dict[Split, _Part] = {}
        for split in SPLITS:
            json = source.with_name(f"panoptic_{split}{year}.json")
            maps = _first(root / "annotations" / json.stem, root / json.stem)
            images = _first(root / f"{split}{year}", root / "images" / f"{split}{year}")
            lacking += [] if json.is_file() else [f"no file annotations/{json.name}"]
            lacking += [] if maps else [f"no folder annotations/{json.stem}"]
            lacking += [] if images else [f"no folder {split}{year}"]
            if json.is_file() and maps and images:
                parts[split] = _Part(json, maps, images)
        if len(parts) == len(SPLITS):
            return parts
    message = f"{root}: {', '.join(lacking) or 'no annotations/panoptic_train*.json'}; {_LAYOUT}"
    raise DataError(message)


def _first(*folders: Path) -> Path | None:
    return next((folder for folder in folders if folder.is_dir()), None)


def _index(path: Path, cache: Path) -> _Index:
    """The index of one JSON; kept in the folder ``cache`` until the file changes."""
    kept = (
        cache / f"panoptic-{origin(path, 1)}.npz"
    )  # the number goes up when what is kept comes to mean something else
    with suppress(*UNREADABLE):
        values = load_arrays(kept)
        return _Index(classes=tuple(values.pop("classes").tolist()), **values)
    made = _parsed(path)
    with suppress(OSError):
        save_arrays(kept, {**vars(made), "classes": np.array(made.classes, np.str_)})
    return made


def _parsed(path: Path) -> _Index:
    content = read(path)
    numbers, classes = categories_of(path, content["categories"])
    if len(classes) > IGNORE:
        message = f"{path}: {len(classes)} categories are more than the {IGNORE} that a label map can hold here"
        raise DataError(message)
    images = images_of(path, content["images"])
    rows = [_row(path, annotation, images, numbers) for annotation in content["annotations"]]
    if not rows:
        message = f"{path}: not one of the {len(images)} images has a label map"
        raise DataError(message)
    names, maps, segments = zip(*rows, strict=True)
    flat: list[tuple[int, int]] = [pair for one in segments for pair in one]
    return _Index(
        classes=classes,
        names=np.array(names, np.str_),
        maps=np.array(maps, np.str_),
        first=np.cumsum([0, *map(len, segments)], dtype=np.int64),
        ids=np.array([number for number, _ in flat], np.int64),
        labels=np.array([label for _, label in flat], np.int16),
    )


def _row(
    path: Path, annotation: Any, images: dict[str, tuple[str, Size]], numbers: dict[str, int]
) -> tuple[str, str, Sequence[tuple[int, int]]]:
    """Names of picture and label map, and (id, label) of the segments of one annotation."""
    try:
        name, _ = images[key_of(annotation["image_id"])]
        segments = [
            (int(one["id"]), numbers.get(key_of(one["category_id"]), _UNKNOWN)) for one in annotation["segments_info"]
        ]
        if not all(0 <= number < _IDS for number, _ in segments):
            raise ValueError("an id that three bytes cannot hold")
        return Path(name.replace("\\", "/")).name, Path(str(annotation["file_name"])).name, segments
    except BAD as error:
        message = f"{path}: annotation {short(annotation)} lacks a listed image_id, a file_name or its segments_info"
        raise DataError(message) from error
