"""Pictures and label maps in two folders, as most tools and courses leave them.

Layouts of the data root, the first that fits::

    images/train/NAME.jpg    masks/train/NAME.png     images/val/...    masks/val/...
    train/images/NAME.jpg    train/masks/NAME.png     val/images/...    val/masks/...
    train/NAME.jpg           train/NAME_mask.png      valid/...                          beside each other (Roboflow)
    images/NAME.jpg          masks/NAME.png                                              one folder, which is split

Instead of masks: mask, labels, label, annotations, annotation, ann_dir, gt; instead of images: image, imgs, img,
img_dir. train may be training; val may be valid or validation; a folder test is not read. A label map may be named as
its picture, or with an ending such as _mask or _label. Where there is no val, the pictures of train, or of the one
folder, are split by a hash of their names.

A label map holds class indices, as grey levels, palette or three equal channels, with 255 ignored; or the colours of
classes. Names and colours stand in labelmap.txt, classes.txt, a JSON or a CSV (`bench.data._names`); without one,
classes are "background", "class_1", ... up to the largest index in the train label maps, and colours cannot be read.
Where no train label map holds anything but 0 and 255, and no more than two names are given, 255 is the foreground.
"""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.data import _names, ade20k
from bench.data._kept import remembered
from bench.data._listing import (
    MAP_SUFFIXES,
    PHOTO_SUFFIXES,
    SPLIT_NAMES,
    SPLITS,
    Item,
    asked,
    files_by_stem,
    first_few,
    paired,
    split_rule,
)
from bench.data._listing import split as divide
from bench.data._maps import LabelMaps, plain, targets
from bench.data.contract import IGNORE, Dataset, Split, Task
from bench.data.images import read_labels
from bench.errors import DataError

_PICTURES = ("images", "image", "imgs", "img", "img_dir")
_MAPS = ("masks", "mask", "labels", "label", "annotations", "annotation", "ann_dir", "gt")

CATALOGUE = {
    "label_maps": {
        "tasks": ["segmentation"],
        "root": True,
        "redistributable": False,
        "general": True,
        "marks": ["masks", "mask", "ann_dir", "*/masks", "*/mask", "*/*_mask.png", "labels/*.png", "labels/*/*.png"],
        "doc": "Pictures and label maps in two folders (images and masks): indices, colours, or 0 and 255",
    },
}

_LAYOUT = (
    "want pictures and label maps of the same names: images/train and masks/train (and val), train/images and "
    "train/masks, or images and masks alone; masks may be called labels or annotations"
)
_ENDINGS = (
    "",
    "_mask",
    "_masks",
    "_label",
    "_labels",
    "_gt",
    "_seg",
    "_segmentation",
    "_labelTrainIds",
    "_labelIds",
    "_L",
)


@dataclass(frozen=True)
class _Pair:
    """A folder of pictures and that of their label maps; one folder where they lie beside each other."""

    images: Path
    labels: Path


def check(root: Path, task: str) -> str:
    """Raise `DataError` unless pictures have label maps; opens no picture."""
    asked(CATALOGUE, "label_maps", task)
    pairs = _pairs(root)
    for pair in pairs.values():
        _items(root, pair)
    if (names := _names_file(root, pairs)) is not None:
        _names.read(names)
    return _rule(root, pairs)


def load(name: str, *, task: Task, root: Path, cache: Path, split: Split) -> Dataset:
    """One split, images ordered by name.

    All train label maps are read once for what they hold, which is kept in the folder ``cache`` until one changes.
    """
    asked(CATALOGUE, name, task)
    check(root, task)
    pairs = _pairs(root)
    if len(pairs) < len(SPLITS):
        items = divide({item.image.stem: item for item in _items(root, pairs["train"])})
    else:
        items = {one: _items(root, pair) for one, pair in pairs.items()}
    source = _names_file(root, pairs)
    names = None if source is None else _names.read(source)
    paths = [item.label for item in items["train"] if item.label is not None]
    colours = {} if names is None else names.colours
    held = {
        int(value)
        for value in remembered(cache, "label-maps-held-1", _with(paths, source), lambda: _held(paths, colours))
    }
    _usable(root, held, paths, names)
    if IGNORE in held and held <= {0, IGNORE}:
        classes = ("background", "foreground") if names is None else names.classes
        classes = ("background", *classes) if len(classes) == 1 else classes
        return LabelMaps("label_maps", items[split], classes, table=targets({0: 0, IGNORE: 1}), colours=colours)
    classes = _numbered(held) if names is None else names.classes
    hint = (
        f"there are {len(classes)} classes ({first_few(classes)}), so labels are 0 to {len(classes) - 1}, and {IGNORE} "
        f"for ignored{'' if source is None else f'; does {source.name} lack one, such as background?'}"
    )
    return LabelMaps("label_maps", items[split], classes, table=plain(len(classes)), colours=colours, hint=hint)


def _pairs(root: Path) -> Mapping[Split, _Pair]:
    """The folders of each split; of train alone where there is one folder, or no val."""
    if not root.is_dir():
        message = f"{root}: no such folder; {_LAYOUT}"
        raise DataError(message)
    if ade20k.recognised(root):
        message = f"{root}: this is ADE20K, where 0 is no class: give it as --dataset ade20k; here {_LAYOUT}"
        raise DataError(message)
    for form in (_by_kind, _by_split, _together):
        pairs: dict[Split, _Pair] = {}
        for split, words in SPLIT_NAMES.items():
            found = next((pair for word in words if (pair := form(root, word)) is not None), None)
            if found is not None:
                pairs[split] = found
        if "train" in pairs:
            return pairs
    if (single := _by_kind(root, "") or _together(root, "")) is not None:
        return {"train": single}
    there = sorted(path.name for path in root.iterdir() if path.is_dir() and path.name[0] != ".")
    blurred = next((name for name in _MAPS for path in root.glob(f"{name}/**/*.jp*g") if path.is_file()), "")
    message = (
        f"{root}: {blurred} holds JPEG files, which mix the labels of neighbouring pixels: save label maps as PNG"
        if blurred
        else f"{root}: no folder of pictures beside one of label maps (there is {', '.join(there[:6]) or 'none'})"
    )
    raise DataError(f"{message}; {_LAYOUT}")


def _by_kind(root: Path, word: str) -> _Pair | None:
    """images/train and masks/train."""
    return _first(_Pair(root / images / word, root / labels / word) for images in _PICTURES for labels in _MAPS)


def _by_split(root: Path, word: str) -> _Pair | None:
    """train/images and train/masks."""
    return _first(_Pair(root / word / images, root / word / labels) for images in _PICTURES for labels in _MAPS)


def _together(root: Path, word: str) -> _Pair | None:
    """train/NAME.jpg and train/NAME_mask.png."""
    folder = root / word
    beside = folder.is_dir() and any(folder.glob("*_mask.png"))
    return _Pair(folder, folder) if beside else None


def _first(pairs: Iterable[_Pair]) -> _Pair | None:
    """The first of which both folders hold files of their kind; a folder labels may hold those of another layout."""
    for pair in pairs:
        if _holds(pair.images, PHOTO_SUFFIXES) and _holds(pair.labels, MAP_SUFFIXES):
            return pair
    return None


def _holds(folder: Path, suffixes: tuple[str, ...]) -> bool:
    return folder.is_dir() and any(path.suffix.lower() in suffixes for path in folder.iterdir())


def _items(root: Path, pair: _Pair) -> list[Item]:
    """Picture and label map of each image, ordered by name; one of them may be missing."""
    pictures = files_by_stem(pair.images, PHOTO_SUFFIXES)
    stored = files_by_stem(pair.labels, MAP_SUFFIXES)
    if pair.images == pair.labels:
        pictures = {stem: name for stem, name in pictures.items() if not stem.endswith("_mask")}
        stored = {stem: name for stem, name in stored.items() if stem.endswith("_mask")}
    named = [
        {stem.removesuffix(ending): name for stem, name in stored.items() if stem.endswith(ending)}
        for ending in _ENDINGS
    ]
    maps = max(named, key=lambda one: len(one.keys() & pictures.keys()))
    if not maps.keys() & pictures.keys():
        message = (
            f"{root}: no picture in {pair.images.relative_to(root)} has a label map of its name in "
            f"{pair.labels.relative_to(root)}; {_LAYOUT}"
        )
        raise DataError(message)
    return paired(pair.images, pair.labels, maps, pictures=pictures)


def _names_file(root: Path, pairs: Mapping[Split, _Pair]) -> Path | None:
    return _names.find(root, *(folder for pair in pairs.values() for folder in (pair.labels, pair.labels.parent)))


def _rule(root: Path, pairs: Mapping[Split, _Pair]) -> str:
    if len(pairs) == len(SPLITS):
        return ""
    return split_rule(f"the pictures in {pairs['train'].images.relative_to(root).as_posix()}")


def _with(paths: list[Path], source: Path | None) -> list[Path]:
    return paths if source is None else [*paths, source]


def _held(paths: Iterable[Path], colours: Mapping[tuple[int, int, int], int]) -> list[str]:
    """The values that label maps hold, all together; a broken one has none, and is named where it is read."""
    held = np.zeros(IGNORE + 1, np.bool_)
    for path in paths:
        with suppress(DataError):
            held[np.unique(read_labels(path, colours or None))] = True
    return [str(value) for value in np.flatnonzero(held)]


def _usable(root: Path, held: set[int], paths: list[Path], names: _names.Names | None) -> None:
    """Raise `DataError` where the train label maps hold nothing to tell apart."""
    if not held:
        for path in paths:
            try:
                read_labels(path, names.colours or None if names else None)
            except DataError as error:
                hint = "give the colours of the classes in labelmap.txt, one 'name:r,g,b::' a line, if it is in colour"
                message = f"{error}. None of the {len(paths)} train label maps can be read; {hint}"
                raise DataError(message) from error
    many = names is not None and len(names.classes) > 2
    if held == {0} or (held == {0, IGNORE} and many):
        message = f"{root}: the {len(paths)} train label maps hold background only: no value but {sorted(held)}"
        raise DataError(message)


def _numbered(held: set[int]) -> tuple[str, ...]:
    return ("background", *(f"class_{index}" for index in range(1, max(held - {IGNORE}, default=0) + 1)))
