"""Pascal VOC, and anybody's own data in its layout: boxes or label maps.

Layout of the data root, or of the one ``VOC*`` folder in it or in its ``VOCdevkit``::

    JPEGImages/NAME.jpg                                 pictures (.jpeg and .png are taken too)
    ImageSets/Main/{train,val}.txt                      detection: one NAME a line
    Annotations/NAME.xml                                detection: boxes
    ImageSets/Segmentation/{train,val}.txt              segmentation: one NAME a line
    SegmentationClass/NAME.png                          segmentation: palette index per pixel, 255 = ignore
    labelmap.txt                                        segmentation of own data: names (and colours) of the classes

Boxes. VOC counts pixels from 1 and includes the last one; they become 0-based and half-open, (xmin - 1, ymin - 1,
xmax, ymax), and are clipped to the picture. `difficult` objects are marked ``ignore``. So are boxes without extent
(xmin == xmax or ymin == ymax), which are slips of the mouse in the annotation tool: such an object can neither be
learnt nor found, and dropping it would hide it (BCCD has two). An inverted box, or one outside the picture, is a
`DataError`: the file is broken, or belongs to another picture. The size of a picture is taken from the picture, as
the one in the XML is often zero, swapped or a pixel off; where it is of another scale altogether, so are the boxes,
and that is a `DataError`. The ``part`` of an object (head, hand, foot) is no object.

Classes for detection: VOC's 20 where the train and val annotations name nothing else, otherwise the names found there,
sorted. Classes for segmentation: those of labelmap.txt ("name:r,g,b:parts:actions" as CVAT writes it, index = line);
else VOC's 21 if this is VOC itself; else "background", "class_1", ... up to the largest index in the train label maps.
Label maps in colour are read where labelmap.txt gives the colours.
"""

import json
import re
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from math import isfinite
from os import getpid
from pathlib import Path

import numpy as np

from bench.data.contract import IGNORE, Dataset, Sample, Split, Task, Truth
from bench.data.images import (
    PHOTO_SUFFIXES,
    Colour,
    SampleCache,
    Size,
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
    "voc": {
        "tasks": ["segmentation", "detection"],
        "root": True,
        "redistributable": False,
        "doc": "Pascal VOC, or own data in its layout: boxes (Annotations) or label maps (SegmentationClass)",
    },
}

CLASSES = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
BORDER: Colour = (224, 224, 192)
"""The colour of palette entry 255 in VOC: the ignored seam around objects."""

_SPLITS: tuple[Split, ...] = ("train", "val")
_SLACK = 2.0
"""Pixels by which the size in the XML may be off, and a box stand out, before the boxes are taken for another frame."""


@dataclass(frozen=True)
class _Layout:
    """Where a task finds its lists and labels."""

    lists: str
    labels: str
    suffix: str
    label: str

    def __str__(self) -> str:
        return (
            f"want Pascal VOC's layout for {self.label}: JPEGImages/NAME.jpg, {self.labels}/NAME{self.suffix}, and "
            f"{self.lists}/train.txt and val.txt with one NAME a line"
        )


_LAYOUTS = {
    "detection": _Layout("ImageSets/Main", "Annotations", ".xml", "detection"),
    "segmentation": _Layout("ImageSets/Segmentation", "SegmentationClass", ".png", "segmentation"),
}


@dataclass(frozen=True)
class _Item:
    """One listed image: its picture and its label map or annotation."""

    image: Path
    label: Path


@dataclass(frozen=True)
class _LabelMap:
    """Names by index, and the index of each colour; both from labelmap.txt."""

    classes: tuple[str, ...]
    colours: dict[Colour, int]


@dataclass(frozen=True)
class _Object:
    """One object as the XML has it: 1-based inclusive xmin, ymin, xmax, ymax."""

    name: str
    corners: tuple[float, float, float, float]
    difficult: bool


@dataclass(frozen=True)
class _Annotation:
    """What one XML file says; ``size`` is (H, W), None where it is absent or zero."""

    size: Size | None
    objects: tuple[_Object, ...]


def check(root: Path, task: str) -> None:
    """Raise `DataError` unless both splits are listed and every listed image has picture and label; opens no image."""
    home = _home(root, task)
    _pairs(home, task)
    if task == "segmentation":
        _labelmap(home)


def load(name: str, *, task: Task, root: Path, cache: Path, split: Split) -> Dataset:
    """One split, images in the order of its list.

    Class names may need all labels to be read once; they are then kept in the folder ``cache`` until a label changes.
    """
    if name not in CATALOGUE:
        raise unknown("data set", name, CATALOGUE)
    home = _home(root, task)
    items = _items(home, task)
    if task == "detection":
        return VOCDetection(items[split], _detection_classes(items["train"] + items["val"], cache))
    labelmap = _labelmap(home) or _LabelMap(_segmentation_classes(home, items, cache), {})
    return VOCSegmentation(items[split], labelmap.classes, labelmap.colours)


class VOCDetection(Dataset):
    """Pictures with boxes."""

    def __init__(self, items: list[_Item], classes: tuple[str, ...]) -> None:
        """``items``: the images of the split; ``classes``: the names that their objects may have."""
        self.name = "voc"
        self.task: Task = "detection"
        self.classes = classes
        self._items = items
        self._cache = SampleCache()

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._items)

    def sample(self, index: int, size: tuple[int, int]) -> Sample:
        """Image and boxes stretched to ``size`` (H, W)."""
        return self._cache.get((index, size), lambda: self._stretched(index, size))

    def truth(self, index: int) -> Truth:
        """Boxes in pixels of the picture as stored; of the picture only the header is read."""
        item = self._items[index]
        annotation = _annotation(item.label)
        size = image_size(item.image)
        _same_frame(item, annotation, size)
        unknown_names = {thing.name for thing in annotation.objects} - set(self.classes)
        if unknown_names:
            message = f"{item.label}: class '{first_few(unknown_names)}' is none of {', '.join(self.classes)}"
            raise DataError(message)
        corners = np.array([thing.corners for thing in annotation.objects], np.float64).reshape(-1, 4)
        height, width = size
        boxes = np.clip(corners - (1, 1, 0, 0), 0, (width, height, width, height))
        outside = (boxes[:, 2:] <= boxes[:, :2]).any(axis=1)
        if outside.any():
            worst = annotation.objects[int(outside.argmax())]
            message = f"{item.label}: {_box_text(worst)} lies outside the picture of {width} x {height} pixels"
            raise DataError(message)
        return Truth(
            size=size,
            mask=None,
            boxes=boxes.astype(np.float32),
            labels=np.array([self.classes.index(thing.name) for thing in annotation.objects], np.int64),
            ignore=np.array([thing.difficult or _without_extent(thing) for thing in annotation.objects], np.bool_),
        )

    def whole(self, index: int, enough: tuple[int, int]) -> Sample:
        """Picture and boxes in their own shape."""
        return self._cache.get((index, "whole", enough), lambda: self._read(index, enough), copy=False)

    def _stretched(self, index: int, size: tuple[int, int]) -> Sample:
        sample = self._read(index)
        return stretch(sample.image, sample.truth, size)

    def _read(self, index: int, enough: tuple[int, int] | None = None) -> Sample:
        return Sample(read_image(self._items[index].image, enough), self.truth(index))


class VOCSegmentation(Dataset):
    """Pictures with label maps of the same size."""

    def __init__(self, items: list[_Item], classes: tuple[str, ...], colours: dict[Colour, int]) -> None:
        """``items``: the images of the split; ``colours``: index of each colour of coloured label maps, or empty."""
        self.name = "voc"
        self.task: Task = "segmentation"
        self.classes = classes
        plain = [entry.strip("_").casefold() for entry in classes]  # labelme calls it _background_
        self.background = plain.index("background") if "background" in plain else None
        self._items = items
        self._colours = colours
        self._cache = SampleCache()

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._items)

    def sample(self, index: int, size: tuple[int, int]) -> Sample:
        """Image and mask stretched to ``size`` (H, W)."""
        return self._cache.get((index, size), lambda: self._stretched(index, size))

    def truth(self, index: int) -> Truth:
        """Read the mask as it was drawn."""
        path = self._items[index].label
        mask = read_labels(path, self._colours or None)
        strange = mask[(mask >= len(self.classes)) & (mask != IGNORE)]
        if strange.size:
            message = (
                f"{path}: label {strange.max()} is out of range; there are {len(self.classes)} classes "
                f"({first_few(self.classes)}), so labels are 0 to {len(self.classes) - 1}, and {IGNORE} for ignored. "
                "Name the classes of your own data in labelmap.txt, one 'name:r,g,b::' a line"
            )
            raise DataError(message)
        return mask_truth(mask)

    def whole(self, index: int, enough: tuple[int, int]) -> Sample:
        """Picture and mask in their own shape."""
        return self._cache.get((index, "whole", enough), lambda: self._read(index, enough), copy=False)

    def _stretched(self, index: int, size: tuple[int, int]) -> Sample:
        sample = self._read(index)
        return stretch(sample.image, sample.truth, size)

    def _read(self, index: int, enough: tuple[int, int] | None = None) -> Sample:
        item = self._items[index]
        size, truth = image_size(item.image), self.truth(index)
        if size != truth.size:
            message = (
                f"{item.label}: {truth.size[1]} x {truth.size[0]} pixels, but {item.image} has "
                f"{size[1]} x {size[0]}; want the same"
            )
            raise DataError(message)
        return Sample(read_image(item.image, enough), truth)


def _home(root: Path, task: str) -> Path:
    """Find the folder that holds JPEGImages: ``root`` or the one VOC year below it."""
    layout = _LAYOUTS.get(task)
    if layout is None:
        raise unknown("task of voc", task, _LAYOUTS)
    if not root.is_dir():
        message = f"{root}: no such folder; {layout}"
        raise DataError(message)
    if (root / "JPEGImages").is_dir():
        return root
    years = sorted(path.parent for pattern in ("VOC*", "VOCdevkit/VOC*") for path in root.glob(f"{pattern}/JPEGImages"))
    if len(years) > 1:
        message = f"{root}: holds several VOC folders; give one as data root: {', '.join(map(str, years))}"
        raise DataError(message)
    if not years:
        message = f"{root}: no folder JPEGImages, neither here nor in a VOC folder below; {layout}"
        raise DataError(message)
    return years[0]


def _items(home: Path, task: str) -> dict[str, list[_Item]]:
    """Return the images of both splits, in the order of their lists."""
    images, labels = home / "JPEGImages", home / _LAYOUTS[task].labels
    return {
        split: [_Item(images / image, labels / label) for image, label in pairs]
        for split, pairs in _pairs(home, task).items()
    }


def _pairs(home: Path, task: str) -> dict[str, list[tuple[str, str]]]:
    """Return file name of picture and label of the images of both splits; `DataError` where any is missing."""
    layout = _LAYOUTS[task]
    if not (home / layout.labels).is_dir():
        other = next(known for known in _LAYOUTS if known != task)
        hint = f" (there is {_LAYOUTS[other].labels}, for {other})" if (home / _LAYOUTS[other].labels).is_dir() else ""
        message = f"{home}: no folder {layout.labels}, which {task} needs{hint}; {layout}"
        raise DataError(message)
    images = files_by_stem(home / "JPEGImages", PHOTO_SUFFIXES)
    labels = files_by_stem(home / layout.labels, (layout.suffix,))
    pairs: dict[str, list[tuple[str, str]]] = {}
    faults: list[str] = []
    for split in _SPLITS:
        path = home / layout.lists / f"{split}.txt"
        names = _listed(path, layout)
        for folder, suffix, there in (("JPEGImages", ".jpg", images), (layout.labels, layout.suffix, labels)):
            absent = [name for name in names if name not in there]
            if absent:
                where = f"{layout.lists}/{split}.txt"
                faults.append(
                    f"{len(absent)} of {len(names)} images listed in {where} have no {folder}/NAME{suffix} "
                    f"({first_few(absent)})"
                )
        if not faults:
            pairs[split] = [(images[name], labels[name]) for name in names]
    if faults:
        message = f"{home}: {'; '.join(faults)}; {layout}"
        raise DataError(message)
    return pairs


def _listed(path: Path, layout: _Layout) -> list[str]:
    """Read the names in a list file; a name may contain spaces."""
    try:
        text = path.read_text(encoding="utf-8-sig")  # Windows editors begin such files with a byte-order mark
    except FileNotFoundError as error:
        message = f"{path}: no such list; {layout}"
        raise DataError(message) from error
    except (OSError, UnicodeDecodeError) as error:
        message = f"{path}: cannot be read as UTF-8 text ({error})"
        raise DataError(message) from error
    names = [line.strip() for line in text.splitlines() if line.strip()]
    if not names:
        message = f"{path}: lists no image; {layout}"
        raise DataError(message)
    if len(set(names)) < len(names):
        twice = [name for name, count in Counter(names).items() if count > 1]
        message = f"{path}: lists {len(twice)} images more than once ({first_few(twice)}); they would count twice"
        raise DataError(message)
    return names


def _annotation(path: Path) -> _Annotation:
    """Read one XML file; every object is checked for what does not depend on the picture."""
    try:
        # The files are the user's own data, so expat's limits on entity expansion are protection enough.
        tree = ET.parse(path).getroot()  # noqa: S314
    except (ET.ParseError, OSError, ValueError, LookupError) as error:
        message = f"{path}: cannot be read as XML ({error})"
        raise DataError(message) from error
    # Only direct children are asked for, here and in _object: parts have a name and a box too, one level further down.
    objects = tuple(_object(path, node) for node in tree.findall("object"))
    try:
        height, width = (int(float(tree.findtext(f"size/{side}") or 0)) for side in ("height", "width"))
    except ValueError:
        height, width = 0, 0
    return _Annotation((height, width) if height > 0 and width > 0 else None, objects)


def _object(path: Path, node: ET.Element) -> _Object:
    name = (node.findtext("name") or "").strip()
    if not name:
        message = f"{path}: an object without a name"
        raise DataError(message)
    try:
        xmin, ymin, xmax, ymax = (
            float(node.findtext(f"bndbox/{corner}") or "") for corner in ("xmin", "ymin", "xmax", "ymax")
        )
    except ValueError as error:
        message = f"{path}: object '{name}' has no bndbox with the numbers xmin, ymin, xmax, ymax"
        raise DataError(message) from error
    difficult = (node.findtext("difficult") or "0").strip()
    if difficult not in {"", "0", "1"}:
        message = f"{path}: object '{name}' has difficult={difficult}; want 0 or 1"
        raise DataError(message)
    thing = _Object(name, (xmin, ymin, xmax, ymax), difficult == "1")
    if not all(isfinite(corner) for corner in thing.corners) or xmax < xmin or ymax < ymin:
        message = f"{path}: {_box_text(thing)} is inverted; want xmin <= xmax and ymin <= ymax"
        raise DataError(message)
    return thing


def _box_text(thing: _Object) -> str:
    return f"the box {', '.join(f'{corner:g}' for corner in thing.corners)} of object '{thing.name}'"


def _without_extent(thing: _Object) -> bool:
    xmin, ymin, xmax, ymax = thing.corners
    return xmin == xmax or ymin == ymax


def _same_frame(item: _Item, annotation: _Annotation, size: Size) -> None:
    """Raise `DataError` where the boxes were drawn on the picture at another scale, or before it was turned."""
    told = annotation.size
    if told is None or told == size:
        return
    height, width = size
    similar = any(
        abs(told_height - height) <= _SLACK and abs(told_width - width) <= _SLACK
        for told_height, told_width in (told, told[::-1])
    )
    # Height and width are often merely swapped in the XML; only boxes that stand out tell that the picture was turned.
    stands_out = any(
        thing.corners[2] > width + _SLACK or thing.corners[3] > height + _SLACK for thing in annotation.objects
    )
    if not similar or stands_out:
        message = (
            f"{item.label}: made for a picture of {told[1]} x {told[0]} pixels, but {item.image} has "
            f"{width} x {height}, so its boxes do not fit"
        )
        raise DataError(message)


def _detection_classes(items: list[_Item], cache: Path) -> tuple[str, ...]:
    """Class names of the annotations of both splits."""

    def names() -> list[str]:
        return sorted({thing.name for item in items for thing in _annotation(item.label).objects})

    found = _remembered(cache, "names-1", [item.label for item in items], names)
    if set(found) <= set(CLASSES) and found:
        return CLASSES
    if not found:
        message = f"{items[0].label.parent}: not one of the {len(items)} listed annotations has an object"
        raise DataError(message)
    return tuple(found)


def _segmentation_classes(home: Path, items: dict[str, list[_Item]], cache: Path) -> tuple[str, ...]:
    """Class names where there is no labelmap.txt."""
    if _is_voc(home, items):
        return ("background", *CLASSES)
    paths = [item.label for item in items["train"]]

    def largest() -> list[str]:
        highest = 0
        for path in paths:
            mask = read_labels(path)
            highest = max(highest, int(mask.max(initial=0, where=mask != IGNORE)))
        if not highest:
            message = f"{paths[0].parent}: the {len(paths)} label maps listed for train hold background only"
            raise DataError(message)
        return ["background", *(f"class_{index}" for index in range(1, highest + 1))]

    return tuple(_remembered(cache, "indices-1", paths, largest))


def _is_voc(home: Path, items: dict[str, list[_Item]]) -> bool:
    """Whether this is Pascal VOC and not own data in its layout.

    VOC's annotations say where they are from. Where only the label maps were unpacked, the folder and all images must
    be named as VOC names them; the folder alone says little, since much training code insists on "VOC2007".
    """
    first = items["train"][0]
    annotation = home / "Annotations" / f"{first.label.stem}.xml"
    if annotation.is_file():
        with suppress(ET.ParseError, ValueError, LookupError):
            tree = ET.parse(annotation).getroot()  # noqa: S314  (the user's own data, as above)
            return (tree.findtext("source/annotation") or "").startswith("PASCAL VOC")
    return re.fullmatch(r"VOC20\d\d", home.resolve().name) is not None and all(
        re.fullmatch(r"(20\d\d_)?\d{6}", item.label.stem) for split in _SPLITS for item in items[split]
    )


def _labelmap(home: Path) -> _LabelMap | None:
    """labelmap.txt, where there is one."""
    path = home / "labelmap.txt"
    if not path.is_file():
        return None
    classes: list[str] = []
    colours: dict[Colour, int] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8-sig", errors="replace").splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        name, _, rest = line.partition(":")
        colour = rest.partition(":")[0].strip()
        if not name.strip() or name.strip() in classes or not re.fullmatch(r"(\d+\s*,\s*\d+\s*,\s*\d+)?", colour):
            message = f"{path}: line {number}, '{line.strip()}': want one 'name:r,g,b:parts:actions' for each class"
            raise DataError(message)
        if colour:
            red, green, blue = map(int, colour.split(","))
            colours[red, green, blue] = len(classes)
        classes.append(name.strip())
    if classes[-1:] == ["ignored"]:
        # Exports of VOC itself end with the seam around objects as if it were a class.
        classes.pop()
        colours = {colour: min(index, IGNORE) if index < len(classes) else IGNORE for colour, index in colours.items()}
    if colours:
        colours.setdefault(BORDER, IGNORE)
    if not 0 < len(classes) <= IGNORE:
        message = f"{path}: names {len(classes)} classes; want 1 to {IGNORE}"
        raise DataError(message)
    return _LabelMap(tuple(classes), colours)


def _remembered(cache: Path, kind: str, paths: list[Path], find: Callable[[], list[str]]) -> list[str]:
    """Return ``find()``, which reads the files ``paths``; kept in the folder ``cache`` until one of them changes.

    All ``paths`` lie in one folder. The number in ``kind`` goes up when ``find`` comes to mean something else.
    """
    digest = sha256(f"{kind}\0{paths[0].parent.resolve()}\n".encode())
    for path in paths:
        status = path.stat()
        digest.update(f"{path.name}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    kept = cache / f"voc-{kind}-{digest.hexdigest()[:24]}.json"
    with suppress(OSError, ValueError):
        stored = json.loads(kept.read_text(encoding="utf-8"))
        if isinstance(stored, list) and all(isinstance(entry, str) for entry in stored):
            return stored
    found = find()
    # A folder that cannot be written costs the time of the next scan, no more.
    with suppress(OSError):
        cache.mkdir(parents=True, exist_ok=True)
        fresh = kept.with_suffix(f".{getpid()}.tmp")
        fresh.write_text(json.dumps(found), encoding="utf-8")
        fresh.replace(kept)
    return found
