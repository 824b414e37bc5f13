"""Which images a split has: names in folders and lists, and the split of a folder that states none.

A single list or folder is split by a hash of the names, so that it is the same on every machine and a picture that is
added moves no other.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from os import scandir
from pathlib import Path
from typing import Any, TypeVar

from bench.data.contract import Split
from bench.errors import DataError, unknown

PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
MAP_SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".gif")
"""Of label maps: JPEG is not among them, as it mixes the labels of neighbours."""
SPLITS: tuple[Split, ...] = ("train", "val")
SPLIT_NAMES: Mapping[Split, tuple[str, ...]] = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
}
"""What people call their splits; a third one is for the end of a study and is not read."""
SHARE, SEED = 0.2, 0
"""Of a single list or folder, the share that becomes val, and the seed of the hash that says which."""
_COPY = ".rf."
"""Before the hash in the names of Roboflow's copies: all copies of one photograph go to one split."""

T = TypeVar("T")


@dataclass(frozen=True)
class Item:
    """One image: its picture and the file of its labels; None where a picture without one is background."""

    image: Path
    label: Path | None


def asked(catalogue: Mapping[str, Mapping[str, Any]], name: str, task: str) -> None:
    """Raise unless a file has a data set of this name, and labels for this task, of one kind as most have.

    Raises:
        UserError: it has none. DataError: of another task.
    """
    if name not in catalogue:
        raise unknown("data set", name, catalogue)
    (served,) = catalogue[name]["tasks"]
    if task != served:
        message = f"data set {name} serves {served}, not {task}, for which it has no labels"
        raise DataError(message)


def files_by_stem(folder: Path, suffixes: tuple[str, ...]) -> dict[str, str]:
    """Stem -> name of the files in ``folder`` with one of the lower-case ``suffixes``, sorted by stem.

    Reads the folder once, opens nothing and makes no paths, which would take most of the time. Hidden files are left
    out: macOS archives bring a ``._name.png`` for each ``name.png``.
    """
    with scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if not entry.name.startswith("."))
    found: dict[str, str] = {}
    for name in names:
        stem, dot, ending = name.rpartition(".")
        if dot + ending.lower() not in suffixes:
            continue
        if stem in found:
            message = f"{folder}: {found[stem]} and {name} share one name; which is the image? Remove one"
            raise DataError(message)
        found[stem] = name
    return dict(sorted(found.items()))


def first_few(names: Collection[str], count: int = 3) -> str:
    """Write ``a, b, c, ...`` for a message."""
    shown = sorted(names)[:count]
    return ", ".join(shown) + (", ..." if len(names) > count else "")


def paired(images: Path, labels: Path, maps: Mapping[str, str], *, pictures: Mapping[str, str]) -> list[Item]:
    """Picture and label map of each stem, ordered by name; what is missing stands as the file that it should be.

    ``maps`` and ``pictures``: stem of a picture -> name of its label map in ``labels`` and of itself in ``images``.
    """
    suffix = Path(next(iter(pictures.values()))).suffix
    return [
        Item(images / pictures.get(stem, f"{stem}{suffix}"), labels / maps.get(stem, f"{stem}.png"))
        for stem in sorted(pictures.keys() | maps.keys())
    ]


def read_text(path: Path) -> str:
    """A text file in UTF-8, without the byte-order mark that Windows editors begin it with.

    Raises:
        DataError: it cannot be read, or is in another encoding.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        message = f"{path}: no such file"
        raise DataError(message) from error
    except (OSError, UnicodeDecodeError) as error:
        message = f"{path}: cannot be read as UTF-8 text ({error})"
        raise DataError(message) from error


def no_repeats(path: Path, names: Collection[str]) -> None:
    """Raise `DataError` if a list names an image twice."""
    if len(set(names)) < len(names):
        twice = [name for name, count in Counter(names).items() if count > 1]
        message = f"{path}: lists {len(twice)} images more than once ({first_few(twice)}); they would count twice"
        raise DataError(message)


def no_overlap(where: Path, train: Iterable[str], val: Iterable[str]) -> None:
    """Raise `DataError` if pictures to learn from are pictures to judge by."""
    if both := set(train) & set(val):
        message = f"{where}: {len(both)} images are in train and in val ({first_few(both)}); take them out of one"
        raise DataError(message)


def held_out(names: Collection[str]) -> frozenset[str]:
    """The names of a single list or folder that become val; at least one, and not all.

    Raises:
        DataError: there are not two pictures.
    """
    ranked = sorted({name.partition(_COPY)[0] for name in names}, key=_place)
    if len(ranked) < 2:
        message = f"{len(ranked)} image ({first_few(names)}) cannot be split into train and val; want two or more"
        raise DataError(message)
    below = sum(_place(source) < SHARE for source in ranked)
    val = set(ranked[: min(max(1, below), len(ranked) - 1)])
    return frozenset(name for name in names if name.partition(_COPY)[0] in val)


def split(items: Mapping[str, T]) -> dict[Split, list[T]]:
    """Name -> item of a single list or folder, as two splits in their order."""
    val = held_out(items)
    return {
        "train": [item for name, item in items.items() if name not in val],
        "val": [item for name, item in items.items() if name in val],
    }


def split_rule(what: str) -> str:
    """What `held_out` did to ``what``, for people and for records."""
    return f"val is {100 * SHARE:.0f} % of {what}, by a hash of the names (seed {SEED})"


def _place(name: str) -> float:
    """A number in 0..1 that depends on the name and the seed alone."""
    digest = sha256(f"{SEED}\0{name}".encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
