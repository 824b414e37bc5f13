"""COCO's layout: boxes and instance masks, of COCO itself or of anybody's own data.

Layouts of the data root::

    annotations/instances_train2017.json    annotations/instances_val2017.json      COCO
    train2017/*.jpg                         val2017/*.jpg
    train/_annotations.coco.json, *.jpg     valid/_annotations.coco.json, *.jpg     Roboflow
    annotations/instances_default.json      images/*.jpg                            one JSON alone: CVAT
    result.json or labels.json              images/*.jpg, data/*.jpg                Label Studio, FiftyOne

Whatever stands after ``instances_train`` in the name of a file (2017, 2014, nothing) stands after ``train`` and ``val``
everywhere; of several such sets, 2017 is taken. The folders of pictures may lie in a folder ``images``. One JSON alone
is split by a hash of the pictures' names. The pictures are those that the JSON lists, in its order, those without an
object too: whatever is found there is a false alarm. A ``file_name`` may have backslashes, or folders of another
machine.

Classes are the categories in the order of their ids, which for COCO run from 1 to 90 with gaps. A category of id 0 that
has no object and that all others name as their supercategory is the name of the project, not a class: it is left out.
Ids may be texts. Boxes are (x, y, width, height) from the upper left corner, clipped to the picture; where one is left
out it is the box around the mask. Objects of ``iscrowd`` are marked ``ignore``, and so are boxes without extent, which
are slips of the mouse. Masks are polygons, whose parts are united, or run lengths, as counts or compressed; each is
drawn at the size of the picture, as COCO's own tools draw it.

A JSON of COCO's size (450 MB) takes a good part of a minute and some GB to parse. What is needed of it is kept under
the cache folder, without the masks until they are asked for.
"""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from os import scandir
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from bench.data import _shapes
from bench.data._coco_json import Index, index_of, looks_like_coco, project_of
from bench.data._listing import PHOTO_SUFFIXES, SPLIT_NAMES, SPLITS, asked, first_few, held_out, no_overlap, split_rule
from bench.data._pictures import Pictures
from bench.data.contract import Dataset, Split, Task, Truth
from bench.data.images import Header, Size
from bench.errors import DataError

CATALOGUE = {
    "coco": {
        "tasks": ["detection"],
        "masks": True,
        "root": True,
        "redistributable": False,
        "marks": [
            "annotations/instances*.json",
            "*/_annotations.coco.json",
            "_annotations.coco.json",
            "train20*",
            "result.json",
            "labels.json",
        ],
        "doc": "COCO, or own data in its layout: boxes and instance masks (annotations/instances_*.json)",
    },
}

_LAYOUT = (
    "want COCO's layout: annotations/instances_train2017.json and instances_val2017.json with the folders train2017 "
    "and val2017 (the 2017 may be anything or nothing), or train/_annotations.coco.json beside its pictures and "
    "valid/ likewise, or one JSON with its pictures in images/"
)
_BESIDE = "_annotations.coco.json"
_PART = re.compile("(?i)_(train|val|valid|test)")
_ALONE = ("annotations/instances_default.json", _BESIDE, "result.json", "labels.json", "annotations.json")


@dataclass(frozen=True)
class _Part:
    """Where one split lies: its JSON, and the folders that its pictures may be in, the likeliest first."""

    json: Path
    folders: tuple[Path, ...]


@dataclass(frozen=True)
class _Found:
    """Both splits, and what they are made of where one JSON has to serve for both."""

    parts: dict[Split, _Part]
    single: str = ""


def check(root: Path, task: str) -> str:
    """Raise `DataError` unless both splits have a JSON and a folder with something in it; parses nothing whole."""
    asked(CATALOGUE, "coco", task)
    found = _found(root)
    for part in found.parts.values():
        with part.json.open("rb") as file:
            start = file.read(64).removeprefix(b"\xef\xbb\xbf").lstrip()
        if start[:1] != b"{":
            message = f"{part.json}: no JSON object; is the file damaged or only half copied?"
            raise DataError(message)
        if not _has_entries(part.folders[0]):
            message = f"{part.folders[0]}: an empty folder; want the pictures of {part.json.name}"
            raise DataError(message)
    notes = [split_rule(found.single)] if found.single else []
    if dropped := _project(found):
        notes.append(f"category '{dropped}' (id 0, without objects) is no class")
    return "; ".join(notes)


def load(name: str, *, task: Task, root: Path, cache: Path, split: Split, masks: bool = False) -> Dataset:
    """One split, images in the order of its JSON; ``masks``: objects come with their pixels.

    Raises:
        DataError: a JSON is broken, or the two splits have other classes.
    """
    asked(CATALOGUE, name, task)
    check(root, task)
    found = _found(root)
    parts = found.parts
    indices = {one: index_of(parts[one].json, cache, masks=masks) for one in SPLITS}
    if indices["train"].classes != indices["val"].classes:
        differing = set(indices["train"].classes) ^ set(indices["val"].classes)
        what = f"one of them alone has {first_few(differing)}" if differing else "their ids are in another order"
        message = f"{parts['train'].json} and {parts['val'].json.name} have not the same categories: {what}"
        raise DataError(message)
    pictures = {one: _pictures(parts[one], indices[one]) for one in SPLITS}
    if found.single:
        held = held_out(frozenset(pictures["train"]))
        rows = [row for row, name in enumerate(pictures[split]) if (name in held) == (split == "val")]
    else:
        no_overlap(root, pictures["train"], pictures["val"])
        rows = list(range(len(pictures[split])))
    return Coco(parts[split].json, _without(_project(found), indices[split]), pictures[split], rows)


class Coco(Pictures):
    """Pictures with boxes and, where the index has them, masks.

    Args:
        source: the JSON.
        index: of it.
        pictures: path of each of its images.
        rows: the images of this split, by their number in the index.
    """

    def __init__(self, source: Path, index: Index, pictures: Sequence[str], rows: Sequence[int]) -> None:
        super().__init__("coco", "detection", index.classes)
        self._source = source
        self._index = index
        self._pictures = pictures
        self._rows = rows

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._rows)

    def files(self, index: int) -> tuple[Path, ...]:
        """The picture and the JSON."""
        return Path(self._pictures[self._rows[index]]), self._source

    def told(self, index: int, header: Header) -> Size:
        """The size in the JSON."""
        del header
        height, width = map(int, self._index.sizes[self._rows[index]])
        return height, width

    def labels(self, index: int) -> Truth:
        """Boxes in pixels of the picture; masks are checked and not drawn."""
        truth = self._boxes(index)
        if self._index.shapes is not None:
            for number in self._objects(index):
                if (shape := self._shape(number)) is not None:
                    with self._drawing(index, number):
                        _shapes.checked(shape, truth.size)
        return truth

    def truth(self, index: int) -> Truth:
        """Boxes and masks in pixels of the picture, which itself is not read."""
        truth = self._boxes(index)
        if self._index.shapes is None:
            return truth
        masks = np.zeros((len(truth.boxes), *truth.size), np.bool_)
        for mask, number in zip(masks, self._objects(index), strict=True):
            shape = self._shape(number)
            if shape is None:  # of an ignored object: its box is all that is known
                x1, y1, x2, y2 = self._index.boxes[number].round().astype(int)
                mask[y1:y2, x1:x2] = True
                continue
            with self._drawing(index, number):
                mask[:] = _shapes.drawn(shape, truth.size)
        return replace(truth, masks=masks)

    def _boxes(self, index: int) -> Truth:
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        known, row = self._index, self._rows[index]
        fault = np.flatnonzero(known.faulty == row)
        if fault.size:
            message = f"{self._pictures[row]}: {known.faults[fault[0]]}, says {self._source}"
            raise DataError(message)
        objects = slice(int(known.first[row]), int(known.first[row + 1]))
        height, width = map(int, known.sizes[row])
        return Truth(
            size=(height, width),
            mask=None,
            boxes=known.boxes[objects].copy(),
            labels=known.labels[objects].copy(),
            ignore=known.ignore[objects].copy(),
            areas=known.areas[objects].copy(),
        )

    def _objects(self, index: int) -> range:
        """The numbers of an image's objects in the index."""
        row = self._rows[index]
        return range(int(self._index.first[row]), int(self._index.first[row + 1]))

    def _shape(self, number: int) -> Any:
        """The mask of an object as the file has it; None of an ignored object that has none."""
        shapes, starts = self._index.shapes, self._index.starts
        assert shapes is not None, "an index with masks"
        assert starts is not None, "an index with masks"
        return json.loads(shapes[starts[number] : starts[number + 1]].tobytes())

    @contextmanager
    def _drawing(self, index: int, number: int) -> Iterator[None]:
        """Turn what a shape raises that is none into a `DataError`."""
        try:
            yield
        except _shapes.ODD as error:
            message = (
                f"{self.files(index)[0]}: the mask of annotation {self._index.ids[number]} cannot be drawn ({error}), "
                f"says {self._source}"
            )
            raise DataError(message) from error


def _has_entries(folder: Path) -> bool:
    with scandir(folder) as entries:
        return next(entries, None) is not None


def _found(root: Path) -> _Found:
    """Where both splits lie."""
    near: list[str] = []
    for form in (_paired, _beside, _alone):
        if found := form(root, near):
            return found
    message = f"{root}: {', '.join(near) or 'no annotations/instances_train*.json'}; {_LAYOUT}"
    raise DataError(message)


def _paired(root: Path, near: list[str]) -> _Found | None:
    """Pairs of JSONs in annotations; what lacks of one is added to ``near``."""
    found: dict[str, _Found] = {}
    for path in sorted((root / "annotations").glob("instances_train*.json")):
        ending = path.stem.removeprefix("instances_train")
        parts: dict[Split, _Part] = {}
        lacking: list[str] = []
        for split in SPLITS:
            source = path.with_name(f"instances_{split}{ending}.json")
            folders = [root / f"{split}{ending}", root / "images" / f"{split}{ending}", root / "images"]
            there = tuple(folder for folder in folders[:2] if folder.is_dir())
            if not there and _has_pictures(folders[2]):
                there = (folders[2],)
            lacking += [] if source.is_file() else [f"no file annotations/{source.name}"]
            lacking += [] if there else [f"no folder {split}{ending}"]
            if source.is_file() and there:
                parts[split] = _Part(source, (*there, root))
        if len(parts) == len(SPLITS):
            found[ending] = _Found(parts)
        elif "train" in parts and len(lacking) == 2:  # neither file nor folder of val: train alone is there
            found[ending] = _Found(dict.fromkeys(SPLITS, parts["train"]), f"annotations/{path.name}")
        near += lacking
    whole = {ending: one for ending, one in found.items() if not one.single} or found
    if len(whole) > 1 and "2017" not in whole:
        message = f"{root}: holds {', '.join(f'train{ending}' for ending in whole)}; which is meant? Keep one"
        raise DataError(message)
    return whole.get("2017") or next(iter(whole.values()), None)


def _beside(root: Path, near: list[str]) -> _Found | None:
    """A JSON beside the pictures of each split."""
    parts: dict[Split, _Part] = {}
    for split in SPLITS:
        for name in SPLIT_NAMES[split]:
            if (root / name / _BESIDE).is_file():
                parts[split] = _Part(root / name / _BESIDE, (root / name,))
                break
    if "train" not in parts:
        near += [f"no file train/{_BESIDE}"] if parts else []
        return None
    if "val" not in parts:
        return _Found(dict.fromkeys(SPLITS, parts["train"]), f"{parts['train'].folders[0].name}/{_BESIDE}")
    return _Found(parts)


def _alone(root: Path, near: list[str]) -> _Found | None:
    """One JSON for all pictures."""
    if near:
        return None
    # Of a subset with a name of its own; val and test are parts of something else.
    instances = [path for path in (root / "annotations").glob("instances_*.json") if not _PART.search(path.stem)]
    tries = [root / name for name in _ALONE] + (instances if len(instances) == 1 else [])
    path = next((path for path in tries if path.is_file() and looks_like_coco(path)), None)
    if path is None:
        return None
    subset = path.stem.removeprefix("instances_")
    folders = (root / "images" / subset, root / "images", root / "data", root / subset, root)
    part = _Part(path, tuple(folder for folder in folders if folder.is_dir()))
    return _Found(dict.fromkeys(SPLITS, part), path.relative_to(root).as_posix())


def _has_pictures(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    with scandir(folder) as entries:
        return any(Path(entry.name).suffix.lower() in PHOTO_SUFFIXES for entry in entries)


def _pictures(part: _Part, index: Index) -> list[str]:
    """Path of each picture; of one that is in no folder, where it should be."""
    there: list[tuple[Path, set[str]]] = []
    for folder in part.folders:
        with scandir(folder) as entries:
            there.append((folder, {entry.name for entry in entries}))
    return [_picture(name.replace("\\", "/"), there) for name in index.names.tolist()]


def _picture(name: str, there: Sequence[tuple[Path, set[str]]]) -> str:
    path = PurePosixPath(name)
    for folder, names in there:
        if name in names:
            return f"{folder}/{name}"
    # Nothing outside the folder is read, whatever a file says: of other folders' names the last part counts.
    if not path.is_absolute() and ".." not in path.parts:
        for folder, _ in there:
            if (folder / path).is_file():
                return f"{folder / path}"
    return next(
        (f"{folder}/{path.name}" for folder, names in there if path.name in names), f"{there[0][0] / path.name}"
    )


def _project(found: _Found) -> str:
    """The name of the category that is no class, see the top; "" where there is none."""
    names = {project_of(path) for path in {part.json for part in found.parts.values()}}
    return names.pop() if len(names) == 1 else ""


def _without(project: str, index: Index) -> Index:
    """The index without its first class, if that is the project's name."""
    if not project or index.classes[0] != project or not index.labels.all():
        return index
    return replace(index, classes=index.classes[1:], labels=index.labels - 1)
