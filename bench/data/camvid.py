"""CamVid as SegNet's tutorial prepared it: road scenes with 11 classes.

Layout of the folder given as data root::

    train/*.png   trainannot/*.png      a picture (or .jpg) and its label map share their name
    val/*.png     valannot/*.png        label map: 8-bit index 0..10, 11 = unlabelled

Split ``train`` is the folder train and split ``val`` the folder val. The folder test is not read; papers mostly report
on it, so their numbers stand beside these only if val and valannot are links to test and testannot. The folders decide
what there is: the text lists that come with SegNet (train.txt, ...) hold paths of somebody else's machine.
"""

from pathlib import Path

from bench.data._listing import PHOTO_SUFFIXES, SPLITS, Item, asked, files_by_stem, paired
from bench.data._maps import LabelMaps, targets
from bench.data.contract import IGNORE, Dataset, Split, Task
from bench.errors import DataError

CATALOGUE = {
    "camvid": {
        "tasks": ["segmentation"],
        "root": True,
        "redistributable": False,
        "marks": ["trainannot", "valannot", "testannot"],
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

_LAYOUT = (
    "want SegNet's layout: train/NAME.png (or .jpg) with trainannot/NAME.png, and val/NAME.png with valannot/NAME.png"
)
_TARGETS = targets({index: index for index in range(len(CLASSES))} | {UNLABELLED: IGNORE})


def check(root: Path, task: str) -> str:
    """Raise `DataError` unless both splits have their folders with something in them; opens no file."""
    asked(CATALOGUE, "camvid", task)
    folders = [f"{split}{part}" for split in SPLITS for part in ("", "annot")]
    missing = [folder for folder in folders if not (root / folder).is_dir()]
    if missing:
        message = f"{root}: no folder {', '.join(missing)}; {_LAYOUT}"
        raise DataError(message)
    for split in SPLITS:
        _items(root, split)
    return ""


def load(name: str, *, task: Task, root: Path, cache: Path, split: Split) -> Dataset:
    """One split of CamVid, images ordered by name. ``cache`` is not needed: nothing is computed ahead."""
    del cache
    asked(CATALOGUE, name, task)
    check(root, task)
    hint = f"CamVid's labels are 0 to {len(CLASSES) - 1}, {UNLABELLED} or {IGNORE} for unlabelled"
    return LabelMaps("camvid", _items(root, split), CLASSES, table=_TARGETS, hint=hint)


def _items(root: Path, split: Split) -> list[Item]:
    """Picture and label map of each image of a split, ordered by name; one of them may be missing."""
    images, labels = root / split, root / f"{split}annot"
    pictures, maps = files_by_stem(images, PHOTO_SUFFIXES), files_by_stem(labels, (".png",))
    if not pictures.keys() & maps.keys():
        message = f"{root}: no pictures in {split} that have a label map in {split}annot; {_LAYOUT}"
        raise DataError(message)
    return paired(images, labels, maps, pictures=pictures)
