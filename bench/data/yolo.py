"""Ultralytics YOLO: boxes, or polygons as instance masks, in a text file a picture.

Layout of the data root::

    data.yaml                   names: [cat, dog] or {0: cat, 1: dog}; train:, val:, and path: that both are below
    images/train/NAME.jpg       pictures; a split is a folder, a list of folders, or a text file of paths
    labels/train/NAME.txt       one object a line; a picture without such a file shows none
    images/val/..., labels/val/...

The labels of a picture lie where the last ``images`` in its path reads ``labels``, or beside it. Paths in data.yaml are
often those of another machine: what counts is the longest end of one that is there, and ``../`` does not lead out of
the folder. Where ``val`` is not stated, or names the pictures of ``train``, the pictures of ``train`` are split by a
hash of their names. The key ``test`` is not read. Without a data.yaml, images/ and labels/ with a classes.txt serve
(Label Studio).

A line is ``class x y width height``, the centre and extent of a box, or ``class x1 y1 x2 y2 x3 y3 ...``, a polygon of
three points or more; all as shares of the picture's width and height. The same line twice is one object. Boxes are
clipped to the picture, and those without extent are marked ``ignore``. With ``kpt_shape`` in data.yaml lines are boxes
with key points behind them, which are not read. Pictures are turned upright as their EXIF says: so does the training
that this layout is of, and shares do not tell of which frame they are.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np
import yaml

from bench.data import _names, _shapes
from bench.data._listing import (
    PHOTO_SUFFIXES,
    SPLIT_NAMES,
    SPLITS,
    Item,
    asked,
    first_few,
    held_out,
    no_overlap,
    no_repeats,
    read_text,
    split_rule,
)
from bench.data._pictures import Listed
from bench.data.contract import Dataset, Split, Task, Truth
from bench.data.images import Header, Size, read_header
from bench.errors import DataError

CATALOGUE = {
    "yolo": {
        "tasks": ["detection"],
        "masks": True,
        "root": True,
        "redistributable": False,
        "marks": ["data.yaml", "data.yml", "*.yaml", "labels/*.txt", "labels/*/*.txt", "*/labels/*.txt"],
        "doc": "Ultralytics YOLO: data.yaml, images and labels/NAME.txt with boxes or polygons (instance masks)",
    },
}

_LAYOUT = (
    "want Ultralytics' layout: data.yaml with names, train and val, pictures in images/train and images/val, and "
    "labels/train/NAME.txt with one 'class x y width height' or 'class x1 y1 x2 y2 x3 y3 ...' a line"
)
_FILES = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
_LARGEST, _MOST = 1 << 20, 1 << 16
"""Bytes of a data.yaml, and classes; what is larger is something else."""
_OUT = 0.01
"""By how much of the picture a share may be outside of 0 to 1: tools round."""


@dataclass(frozen=True)
class _Config:
    """What data.yaml says.

    source: it, or the file of names. base: folders that its paths may be below. classes: their names. splits: what it
    names for each. boxes: whether only the first five numbers of a line count.
    """

    source: Path
    base: tuple[Path, ...]
    classes: tuple[str, ...]
    splits: Mapping[Split, tuple[str, ...]]
    boxes: bool


@dataclass(frozen=True)
class _Row:
    """One line: class, and four numbers of a box or those of a polygon, as shares."""

    label: int
    numbers: tuple[float, ...]


def check(root: Path, task: str) -> str:
    """Raise `DataError` unless data.yaml is whole and what it names is there; opens no picture and no label."""
    asked(CATALOGUE, "yolo", task)
    config = _config(root)
    for split, entries in config.splits.items():
        places = [_located(config, split, entry) for entry in entries]
        first = next((picture for place in places for picture in _in(config, place)), None)
        if first is None:
            message = f"{config.source}: no pictures in what it names for {split}, {first_few(entries)}; {_LAYOUT}"
            raise DataError(message)
        folders = {_label(root, next(_in(config, place), first)).parent for place in places}
        if split == "train" and not any(_has_labels(folder) for folder in folders):
            message = f"{root}: no labels in {first_few([str(folder) for folder in folders])}; {_LAYOUT}"
            raise DataError(message)
    return _rule(config)


def load(name: str, *, task: Task, root: Path, cache: Path, split: Split, masks: bool = False) -> Dataset:
    """One split, images in the order of their paths or of their list; ``masks``: objects come with their pixels."""
    del cache
    asked(CATALOGUE, name, task)
    check(root, task)
    config = _config(root)
    items = _items(root, config)
    dataset = Yolo(items[split], config.classes, boxes=config.boxes, masks=masks)
    if masks and not config.boxes and not dataset.has_polygons():
        message = (
            f"{root}: the labels are boxes and no polygons, so there are no instance masks: they can serve heads that "
            "learn from boxes alone"
        )
        raise DataError(message)
    return dataset


class Yolo(Listed):
    """Pictures with boxes, and masks where they are asked for.

    Args:
        items: the images of the split.
        classes: their names, by index.
        boxes: whether only the first five numbers of a line count.
        masks: whether objects come with their pixels.
    """

    def __init__(self, items: Sequence[Item], classes: tuple[str, ...], *, boxes: bool, masks: bool) -> None:
        super().__init__("yolo", "detection", classes, items)
        self._boxes_alone = boxes
        self._with_masks = masks

    def told(self, index: int, header: Header) -> Size:
        """The picture's size upright."""
        del index
        return header.upright

    def upright(self, index: int, header: Header) -> bool:
        """Always; see the top."""
        del index, header
        return True

    def labels(self, index: int) -> Truth:
        """Boxes in pixels of the upright picture, of which only the header is read; masks are checked, not drawn."""
        truth, rows = self._read(index)
        if self._with_masks:
            for row, ignored in zip(rows, truth.ignore, strict=True):
                self._shape(index, row, truth.size, ignored=bool(ignored))
        return truth

    def truth(self, index: int) -> Truth:
        """Boxes, and masks where they were asked for."""
        truth, rows = self._read(index)
        if not self._with_masks:
            return truth
        masks = np.zeros((len(rows), *truth.size), np.bool_)
        for mask, row, ignored in zip(masks, rows, truth.ignore, strict=True):
            if (shape := self._shape(index, row, truth.size, ignored=bool(ignored))) is not None:
                mask[:] = _shapes.drawn(shape, truth.size)
        return replace(truth, masks=masks)

    def has_polygons(self) -> bool:
        """Whether any object has a polygon; true where there is no object."""
        boxes = False
        for item in self._items:
            with suppress(DataError):  # of a broken file, which is named where it is read
                rows = [] if item.label is None else self._rows(item.label)
                if any(len(row.numbers) > 4 for row in rows):
                    return True
                boxes = boxes or bool(rows)
        return not boxes

    def _read(self, index: int) -> tuple[Truth, list[_Row]]:
        item = self._items[index]
        size = read_header(item.image).upright
        rows = [] if item.label is None else self._rows(item.label)
        height, width = size
        boxes = np.array([_box(row) for row in rows], np.float64).reshape(-1, 4)
        boxes = boxes.clip(0, 1) * (width, height, width, height)
        truth = Truth(
            size=size,
            mask=None,
            boxes=boxes.astype(np.float32),
            labels=np.array([row.label for row in rows], np.int64),
            ignore=np.any(boxes[:, 2:] <= boxes[:, :2], axis=1),
        )
        return truth, rows

    def _rows(self, path: Path) -> list[_Row]:
        """The objects of one file; the same line twice is one."""
        lines = enumerate(read_text(path).splitlines(), start=1)
        rows = [self._row(path, number, line.split()) for number, line in lines if line.strip()]
        return list(dict.fromkeys(rows))

    def _row(self, path: Path, number: int, words: Sequence[str]) -> _Row:
        try:
            label, *numbers = (float(word) for word in words)
        except ValueError as error:
            message = f"{path}: line {number} holds what is no number ({error})"
            raise DataError(message) from error
        if self._boxes_alone:
            numbers = numbers[:4]
        if len(numbers) != 4 and (len(numbers) < 6 or len(numbers) % 2):
            message = (
                f"{path}: line {number} has {len(words)} numbers; want 5 (class x y width height), or a class and "
                "three points or more"
            )
            raise DataError(message)
        if not (label.is_integer() and 0 <= label < len(self.classes)):
            message = (
                f"{path}: line {number} has class {words[0]}; there are {len(self.classes)} "
                f"({first_few(self.classes)}), so classes are 0 to {len(self.classes) - 1}"
            )
            raise DataError(message)
        row = _Row(int(label), tuple(numbers))
        left, top, right, bottom = _box(row)
        outside = left >= 1 or top >= 1 or right < 0 or bottom < 0
        if outside or not all(-_OUT <= value <= 1 + _OUT for value in numbers):
            message = (
                f"{path}: line {number} lies outside the picture; want numbers in 0 to 1, as shares of its width and "
                "height (not pixels)"
            )
            raise DataError(message)
        return row

    def _shape(self, index: int, row: _Row, size: Size, *, ignored: bool) -> list[list[float]] | None:
        """The polygon in pixels of the picture; None of an ignored object.

        Raises:
            DataError: it has a box alone.
        """
        if len(row.numbers) > 4:
            points = np.array(row.numbers).reshape(-1, 2) * size[::-1]
            return [points.ravel().tolist()]
        if ignored:
            return None
        message = f"{self.files(index)[-1]}: has an object with a box and no polygon, so no mask to learn from"
        raise DataError(message)


def _box(row: _Row) -> tuple[float, float, float, float]:
    """Left, top, right and bottom as shares."""
    if len(row.numbers) == 4:
        x, y, wide, high = row.numbers
        return x - wide / 2, y - high / 2, x + wide / 2, y + high / 2
    points = np.array(row.numbers).reshape(-1, 2)
    (left, top), (right, bottom) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    return left, top, right, bottom


def _config(root: Path) -> _Config:
    """What data.yaml says, or what stands for it."""
    source = _source(root)
    if source is None:
        return _unstated(root)
    content = _yaml(source)
    splits: dict[Split, tuple[str, ...]] = {}
    for split, keys in SPLIT_NAMES.items():
        value = next((content[key] for key in keys if content.get(key)), None)
        entries = [value] if isinstance(value, str) else value or []
        if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
            message = (
                f"{source}: '{split}' is {str(value)[:80]}; want a folder, a list of folders or a text file of paths"
            )
            raise DataError(message)
        if entries:
            splits[split] = tuple(entries)
    if "train" not in splits:
        message = f"{source}: does not state 'train'; {_LAYOUT}"
        raise DataError(message)
    path = str(content.get("path") or "")
    base = dict.fromkeys(folder for folder in (root / _inside(path), root, root / path) if folder.is_dir())
    return _Config(source, tuple(base), _classes(source, content), splits, "kpt_shape" in content)


def _source(root: Path) -> Path | None:
    """data.yaml, or the one YAML file that says what it would."""
    if not root.is_dir():
        message = f"{root}: no such folder; {_LAYOUT}"
        raise DataError(message)
    if named := next((path for name in _FILES if (path := root / name).is_file()), None):
        return named
    others = sorted(path for path in root.iterdir() if path.suffix in {".yaml", ".yml"} and path.is_file())
    fitting = [path for path in others if {"train", "names"} <= _yaml(path).keys()]
    if len(fitting) > 1:
        message = f"{root}: {first_few([path.name for path in fitting])} could each be data.yaml; rename the one meant"
        raise DataError(message)
    return fitting[0] if fitting else None


def _unstated(root: Path) -> _Config:
    """Without a data.yaml: the pictures in images, and names in a file of their own."""
    names = _names.find(root, root / "labels")
    if names is None or not (root / "images").is_dir() or not (root / "labels").is_dir():
        lacking = [folder for folder in ("images", "labels") if not (root / folder).is_dir()]
        also = f", nor {' and '.join(lacking)}" if lacking else ""
        message = f"{root}: no data.yaml{also}; {_LAYOUT}"
        raise DataError(message)
    splits: dict[Split, tuple[str, ...]] = {}
    for split, words in SPLIT_NAMES.items():
        if there := next((f"images/{word}" for word in words if (root / "images" / word).is_dir()), None):
            splits[split] = (there,)
    if "train" not in splits:
        splits = {"train": ("images",)}
    return _Config(names, (root,), _names.read(names).classes, splits, boxes=False)


def _yaml(path: Path) -> dict[str, object]:
    """The top level of a YAML file, every scalar as text: "no" and 007 are names like others."""
    if path.stat().st_size > _LARGEST:
        message = f"{path}: {path.stat().st_size} bytes are no data.yaml; {_LAYOUT}"
        raise DataError(message)
    try:
        content = yaml.load(read_text(path), Loader=yaml.BaseLoader)  # noqa: S506 - it makes text, lists and dicts alone
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        message = f"{path}: cannot be read as YAML ({' '.join(str(error).split())[:200]})"
        raise DataError(message) from error
    if not isinstance(content, dict):
        message = f"{path}: has no keys such as names and train; {_LAYOUT}"
        raise DataError(message)
    return content


def _classes(source: Path, content: Mapping[str, object]) -> tuple[str, ...]:
    """Class names by index, from a list, from index -> name, or from their number alone."""
    names, count = content.get("names"), str(content.get("nc", "")).strip()
    if isinstance(names, dict):
        keys = [str(key) for key in names]
        if sorted(keys, key=lambda key: (len(key), key)) != [str(index) for index in range(len(keys))]:
            message = f"{source}: 'names' has the indices {first_few(keys, 8)}; want each of 0 to {len(keys) - 1} once"
            raise DataError(message)
        names = [names[str(index)] for index in range(len(keys))]
    if names is None and count.isdigit() and 0 < int(count) <= _MOST:
        names = [f"class_{index}" for index in range(int(count))]
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name for name in names):
        message = f"{source}: 'names' is {str(names)[:80]}; want a list of names, or index: name for each"
        raise DataError(message)
    if count.isdigit() and int(count) != len(names):
        message = f"{source}: nc is {count}, but there are {len(names)} names"
        raise DataError(message)
    if len(set(names)) < len(names):
        message = f"{source}: names the class '{next(name for name in names if names.count(name) > 1)}' more than once"
        raise DataError(message)
    return tuple(names)


def _inside(path: str) -> PurePosixPath:
    """A path of somebody else's machine as one below a folder: no drive, no leading / and no way up."""
    parts = PurePosixPath(path.replace("\\", "/")).parts
    return PurePosixPath(*(part for part in parts if part not in {"/", ".", ".."} and not part.endswith(":")))


def _located(config: _Config, split: str, entry: str) -> Path:
    """The folder or text file that an entry names: the longest end of its path that is there."""
    if (found := _ending(config.base, entry)) is not None:
        return found
    message = f"{config.source}: {split} is {entry}, which is not there; {_LAYOUT}"
    raise DataError(message)


def _ending(base: Sequence[Path], entry: str) -> Path | None:
    parts = _inside(entry).parts
    for start in range(len(parts) + 1):
        for folder in base:
            path = folder.joinpath(*parts[start:])
            if (parts[start:] or not parts) and path.exists():
                return path
    absolute = Path(entry)
    return absolute if absolute.is_absolute() and absolute.exists() else None


def _in(config: _Config, place: Path) -> Iterator[Path]:
    """The pictures of a folder and all below it in the order of their paths, or those that a text file lists."""
    if place.is_file():
        for line in read_text(place).splitlines():
            if text := line.strip():
                # One that is not there stays, so that it can be named.
                yield _ending((place.parent, *config.base), text) or config.base[0] / _inside(text)
        return
    for folder, folders, names in os.walk(place):
        folders.sort()
        for name in sorted(names):
            if name[0] != "." and Path(name).suffix.lower() in PHOTO_SUFFIXES:
                yield Path(folder, name)


def _label(root: Path, picture: Path) -> Path:
    """Where the labels of a picture would be."""
    inner = picture.relative_to(root).parts if picture.is_relative_to(root) else picture.parts
    outer = picture.parts[: len(picture.parts) - len(inner)]
    if "images" in inner[:-1]:
        place = len(inner) - 2 - inner[-2::-1].index("images")
        inner = (*inner[:place], "labels", *inner[place + 1 :])
    return Path(*outer, *inner).with_suffix(".txt")


def _has_labels(folder: Path) -> bool:
    return folder.is_dir() and any(path.suffix == ".txt" for path in folder.iterdir())


def _items(root: Path, config: _Config) -> dict[Split, list[Item]]:
    """Picture and labels of both splits; labels without a picture count as one whose picture is missing."""
    pictures: dict[Split, list[Path]] = {}
    for split, entries in config.splits.items():
        places = [_located(config, split, entry) for entry in entries]
        pictures[split] = [picture for place in places for picture in _in(config, place)]
        no_repeats(config.source, [str(picture) for picture in pictures[split]])
        if all(place.is_dir() for place in places):
            pictures[split] += _lost(root, pictures[split])
    if _rule(config):
        val = held_out(frozenset(picture.stem for picture in pictures["train"]))
        pictures = {
            split: [path for path in pictures["train"] if (path.stem in val) == (split == "val")] for split in SPLITS
        }
    else:
        no_overlap(config.source, map(str, pictures["train"]), map(str, pictures["val"]))
    return {
        split: [Item(path, label if (label := _label(root, path)).is_file() else None) for path in paths]
        for split, paths in pictures.items()
    }


def _lost(root: Path, pictures: Sequence[Path]) -> list[Path]:
    """The pictures that labels are there for and that are not."""
    labels = {_label(root, picture): picture.parent for picture in pictures}
    folders = {label.parent: parent for label, parent in labels.items()}
    return [
        parent / f"{path.stem}.jpg"
        for folder, parent in sorted(folders.items())
        if folder.is_dir()
        for path in sorted(folder.glob("*.txt"))
        if path not in labels and path.name not in _names.FILES
    ]


def _rule(config: _Config) -> str:
    """How val is made where data.yaml does not state one of its own."""
    places = {split: {_located(config, split, one) for one in entries} for split, entries in config.splits.items()}
    if places.get("val", places["train"]) == places["train"]:
        return split_rule(f"the pictures of train ({first_few(config.splits['train'])})")
    return ""
