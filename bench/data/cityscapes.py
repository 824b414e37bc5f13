"""Cityscapes: street scenes of German cities with the 19 classes that are evaluated.

Layout of the data root::

    leftImg8bit/train/CITY/NAME_leftImg8bit.png     gtFine/train/CITY/NAME_gtFine_labelIds.png
    leftImg8bit/val/CITY/...                        gtFine/val/CITY/...

The 34 ids of labelIds become the 19 classes, the rest is ignored (cityscapesscripts, labels.py). Where the maps are
labelTrainIds, made by the same scripts, they are the classes already. The split test has no public labels and is not
read.
"""

from collections.abc import Sequence
from pathlib import Path

from bench.data._listing import PHOTO_SUFFIXES, SPLITS, Item, asked
from bench.data._maps import LabelMaps, plain, targets
from bench.data.contract import IGNORE, Dataset, Split, Task
from bench.errors import DataError

CATALOGUE = {
    "cityscapes": {
        "tasks": ["segmentation"],
        "root": True,
        "redistributable": False,
        "marks": ["leftImg8bit", "gtFine"],
        "doc": "Cityscapes, 19 classes: leftImg8bit and gtFine (labelIds or labelTrainIds)",
    },
}

_IDS = {
    7: "road",
    8: "sidewalk",
    11: "building",
    12: "wall",
    13: "fence",
    17: "pole",
    19: "traffic light",
    20: "traffic sign",
    21: "vegetation",
    22: "terrain",
    23: "sky",
    24: "person",
    25: "rider",
    26: "car",
    27: "truck",
    28: "bus",
    31: "train",
    32: "motorcycle",
    33: "bicycle",
}
CLASSES = tuple(_IDS.values())
_LAST = 33
_LAYOUT = (
    "want Cityscapes' layout: leftImg8bit/train/CITY/NAME_leftImg8bit.png with "
    "gtFine/train/CITY/NAME_gtFine_labelIds.png (or _labelTrainIds.png), and val likewise"
)
_TABLES = {
    "labelIds": targets(dict.fromkeys(range(_LAST + 1), IGNORE) | {label: index for index, label in enumerate(_IDS)}),
    "labelTrainIds": plain(len(CLASSES)),
}
_HINTS = {
    "labelIds": f"labelIds are 0 to {_LAST}",
    "labelTrainIds": f"labelTrainIds are 0 to {len(CLASSES) - 1}, or {IGNORE} for ignored",
}


def check(root: Path, task: str) -> str:
    """Raise `DataError` unless both splits have pictures with label maps; opens no file."""
    asked(CATALOGUE, "cityscapes", task)
    missing = [
        f"{top}/{split}" for top in ("leftImg8bit", "gtFine") for split in SPLITS if not (root / top / split).is_dir()
    ]
    if missing:
        message = f"{root}: no folder {', '.join(missing)}; {_LAYOUT}"
        raise DataError(message)
    kind = _kind(root)
    for split in SPLITS:
        if not any(item.label is not None and item.label.is_file() for item in _items(root, split, kind)):
            message = f"{root}: no picture in leftImg8bit/{split} has a *_{kind}.png in gtFine/{split}; {_LAYOUT}"
            raise DataError(message)
    return ""


def load(name: str, *, task: Task, root: Path, cache: Path, split: Split) -> Dataset:
    """One split, images ordered by city and name. ``cache`` is not needed: nothing is computed ahead."""
    del cache
    asked(CATALOGUE, name, task)
    check(root, task)
    kind = _kind(root)
    return LabelMaps("cityscapes", _items(root, split, kind), CLASSES, table=_TABLES[kind], hint=_HINTS[kind])


def _kind(root: Path) -> str:
    """Which label maps there are; labelIds, which Cityscapes hands out, where both are."""
    found = {kind: len(_maps(root, "train", kind)) for kind in _TABLES}
    return max(found, key=lambda kind: found[kind])


def _maps(root: Path, split: Split, kind: str) -> Sequence[Path]:
    return sorted((root / "gtFine" / split).glob(f"*/*_gtFine_{kind}.png"))


def _items(root: Path, split: Split, kind: str) -> list[Item]:
    """Every picture with the label map that it has or should have, and every label map without a picture."""
    top, maps = root / "leftImg8bit" / split, root / "gtFine" / split
    pictures = {
        (path.parent.name, path.stem.removesuffix("_leftImg8bit")): path
        for path in sorted(top.glob("*/*"))
        if path.suffix.lower() in PHOTO_SUFFIXES and not path.name.startswith(".")
    }
    stems = {(path.parent.name, path.name.removesuffix(f"_gtFine_{kind}.png")) for path in _maps(root, split, kind)}
    return [
        Item(
            pictures.get((city, stem), top / city / f"{stem}_leftImg8bit.png"),
            maps / city / f"{stem}_gtFine_{kind}.png",
        )
        for city, stem in sorted(pictures.keys() | stems)
    ]
