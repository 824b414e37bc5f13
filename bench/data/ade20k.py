"""ADE20K as the SceneParsing challenge prepared it: 150 classes of indoor and outdoor scenes.

Layout of the data root, or of the folder ADEChallengeData2016 in it::

    images/training/NAME.jpg      annotations/training/NAME.png      8-bit: 0 is unlabelled, 1..150 are the classes
    images/validation/NAME.jpg    annotations/validation/NAME.png
    objectInfo150.txt             names of the classes; without it they are class_1 to class_150

The challenge counts no pixel of 0, so it is ignored, and 1..150 become 0..149.
"""

from pathlib import Path

from bench.data._listing import PHOTO_SUFFIXES, SPLIT_NAMES, Item, asked, files_by_stem, paired, read_text
from bench.data._maps import LabelMaps, targets
from bench.data.contract import IGNORE, Dataset, Split, Task
from bench.errors import DataError

CATALOGUE = {
    "ade20k": {
        "tasks": ["segmentation"],
        "root": True,
        "redistributable": False,
        "marks": ["objectInfo150.txt", "annotations/training", "images/training", "ADEChallengeData2016"],
        "doc": "ADE20K SceneParsing, 150 classes: images/training and annotations/training (0 is ignored)",
    },
}

COUNT = 150
_LAYOUT = (
    "want SceneParsing's layout: images/training/NAME.jpg with annotations/training/NAME.png, and validation likewise"
)
_NAMES = "objectInfo150.txt"
_TABLE = targets({0: IGNORE} | {index + 1: index for index in range(COUNT)})


def check(root: Path, task: str) -> str:
    """Raise `DataError` unless both splits have their folders with something in them; opens no picture."""
    asked(CATALOGUE, "ade20k", task)
    home = _home(root)
    for split in SPLIT_NAMES:
        _items(home, split)
    _classes(home)
    return ""


def load(name: str, *, task: Task, root: Path, cache: Path, split: Split) -> Dataset:
    """One split, images ordered by name. ``cache`` is not needed: nothing is computed ahead."""
    del cache
    asked(CATALOGUE, name, task)
    check(root, task)
    home = _home(root)
    hint = f"ADE20K's labels are 0 for unlabelled and 1 to {COUNT}"
    return LabelMaps("ade20k", _items(home, split), _classes(home), table=_TABLE, hint=hint)


def recognised(root: Path) -> bool:
    """Whether this is ADE20K by its files, and not own data in folders of the same names."""
    home = root / "ADEChallengeData2016" if (root / "ADEChallengeData2016").is_dir() else root
    folder = home / "annotations" / "training"
    named = folder.is_dir() and next(folder.iterdir(), folder).name.startswith("ADE_train_")
    return named or (home / _NAMES).is_file()


def _home(root: Path) -> Path:
    for home in (root, root / "ADEChallengeData2016"):
        if (home / "annotations" / "training").is_dir():
            return home
    message = f"{root}: no folder annotations/training; {_LAYOUT}"
    raise DataError(message)


def _items(home: Path, split: Split) -> list[Item]:
    folder = SPLIT_NAMES[split][-1]
    images, labels = home / "images" / folder, home / "annotations" / folder
    missing = [path for path in (images, labels) if not path.is_dir()]
    if missing:
        message = f"{home}: no folder {', '.join(path.relative_to(home).as_posix() for path in missing)}; {_LAYOUT}"
        raise DataError(message)
    pictures, maps = files_by_stem(images, PHOTO_SUFFIXES), files_by_stem(labels, (".png",))
    if not pictures.keys() & maps.keys():
        message = f"{home}: no picture in images/{folder} has a label map in annotations/{folder}; {_LAYOUT}"
        raise DataError(message)
    return paired(images, labels, maps, pictures=pictures)


def _classes(home: Path) -> tuple[str, ...]:
    """The last column of objectInfo150.txt, its first synonym where that tells the classes apart."""
    path = home / _NAMES
    if not path.is_file():
        return tuple(f"class_{index}" for index in range(1, COUNT + 1))
    rows = [line.rstrip().split("\t") for line in read_text(path).splitlines() if line.strip()]
    full = [row[-1].strip() for row in rows if row[0].strip().isdigit()]
    if len(set(full)) != COUNT:
        message = (
            f"{path}: names {len(set(full))} classes; want {COUNT}, one 'index ... name' a line, separated by tabs"
        )
        raise DataError(message)
    short = [name.partition(",")[0].strip() for name in full]
    return tuple(short if len(set(short)) == COUNT else full)
