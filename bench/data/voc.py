"""Pascal VOC, and anybody's own data in its layout: boxes or label maps.

Layout of the data root, or of the one ``VOC*`` folder in it or in its ``VOCdevkit``::

    JPEGImages/NAME.jpg                                 pictures (.jpeg and .png are taken too)
    ImageSets/Main/{train,val}.txt                      detection: one NAME a line; a 1, 0 or -1 behind it is not read
    Annotations/NAME.xml                                detection: boxes
    ImageSets/Segmentation/{train,val}.txt              segmentation: likewise
    SegmentationClass/NAME.png                          segmentation: palette index per pixel, 255 = ignore
    labelmap.txt                                        segmentation of own data: names (and colours) of the classes

Lists. Of trainval.txt and one of train.txt and val.txt the other one follows. Where there is one list alone
(default.txt of CVAT, trainval.txt, train.txt) or none, the pictures are split by a hash of their names.

Boxes. VOC counts pixels from 1 and includes the last one; they become 0-based and half-open, (xmin - 1, ymin - 1,
xmax, ymax), and are clipped to the picture. `difficult` objects are marked ``ignore``. So are boxes without extent
(xmin == xmax or ymin == ymax), which are slips of the mouse in the annotation tool: such an object can neither be
learnt nor found, and dropping it would hide it (BCCD has two). An inverted box, or one outside the picture, is a
`DataError`: the file is broken, or belongs to another picture. The size of a picture is taken from the picture, as
the one in the XML is often zero, swapped or a pixel off; where it is of another scale altogether, so are the boxes,
and that is a `DataError`. Of a picture that its EXIF turns, the frame of the boxes is the one that they fit into, or
else the one whose size the XML has. The ``part`` of an object (head, hand, foot) is no object.

Classes for detection: VOC's 20 where the train and val annotations name nothing else, otherwise the names found there,
sorted. Classes for segmentation: those of labelmap.txt ("name:r,g,b:parts:actions" as CVAT writes it, index = line);
else VOC's 21 if this is VOC itself; else "background", "class_1", ... up to the largest index in the train label maps.
Label maps in colour are read where labelmap.txt gives the colours.
"""

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

import numpy as np

from bench.data import _names
from bench.data._kept import remembered
from bench.data._listing import (
    PHOTO_SUFFIXES,
    SPLIT_NAMES,
    SPLITS,
    Item,
    files_by_stem,
    first_few,
    no_overlap,
    no_repeats,
    read_text,
    split_rule,
)
from bench.data._listing import split as divide
from bench.data._maps import LabelMaps, plain
from bench.data._pictures import SLACK, Listed
from bench.data.contract import IGNORE, Dataset, Split, Task, Truth
from bench.data.images import Header, Size, read_header, read_labels
from bench.errors import DataError, unknown

CATALOGUE = {
    "voc": {
        "tasks": ["segmentation", "detection"],
        "root": True,
        "redistributable": False,
        "marks": ["JPEGImages", "Annotations", "ImageSets", "SegmentationClass", "VOCdevkit", "VOC20*"],
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
BORDER = _names.BORDER
_BOTH = "trainval"
_SINGLE = (_BOTH, "default", "all")
"""Lists that hold what is to be split."""


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
            f"{self.lists}/train.txt and val.txt (or one list alone, which is split) with one NAME a line"
        )


_LAYOUTS = {
    "detection": _Layout("ImageSets/Main", "Annotations", ".xml", "detection"),
    "segmentation": _Layout("ImageSets/Segmentation", "SegmentationClass", ".png", "segmentation"),
}


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


@dataclass(frozen=True)
class _Lists:
    """The names that each split has, and the rule that made them where the folder does not say."""

    names: dict[Split, list[str]]
    note: str


def check(root: Path, task: str) -> str:
    """Raise `DataError` unless there is a list, and pictures with labels that it names; opens no image."""
    home = _home(root, task)
    lists, _ = _listed(home, task)
    if task == "segmentation":
        _labelmap(home)
    return lists.note


def load(name: str, *, task: Task, root: Path, cache: Path, split: Split) -> Dataset:
    """One split, images in the order of its list.

    Class names may need all labels to be read once; they are then kept in the folder ``cache`` until a label changes.
    """
    if name not in CATALOGUE:
        raise unknown("data set", name, CATALOGUE)
    home = _home(root, task)
    _, items = _listed(home, task)
    if task == "detection":
        return VOCDetection(items[split], _detection_classes(items["train"] + items["val"], cache))
    labelmap = _labelmap(home) or _names.Names(_segmentation_classes(home, items, cache), {})
    classes = labelmap.classes
    hint = (
        f"there are {len(classes)} classes ({first_few(classes)}), so labels are 0 to {len(classes) - 1}, and {IGNORE} "
        "for ignored. Name the classes of your own data in labelmap.txt, one 'name:r,g,b::' a line"
    )
    return LabelMaps("voc", items[split], classes, table=plain(len(classes)), colours=labelmap.colours, hint=hint)


class VOCDetection(Listed):
    """Pictures with boxes."""

    def __init__(self, items: Sequence[Item], classes: tuple[str, ...]) -> None:
        """``items``: the images of the split; ``classes``: the names that their objects may have."""
        super().__init__("voc", "detection", classes, items)

    def told(self, index: int, header: Header) -> Size | None:
        """The frame that the boxes fit into where it is one of the two, else the size in the XML."""
        annotation = _annotation(self.files(index)[1])
        inside = [size for size in (header.size, header.upright) if not _stands_out(annotation, size)]
        return inside[0] if len(inside) == 1 else annotation.size

    def truth(self, index: int) -> Truth:
        """Boxes in pixels of the picture, upright where they were made so; of the picture only the header is read."""
        image, label = self.files(index)
        annotation = _annotation(label)
        header = read_header(image)
        size = header.upright if self.upright(index, header) else header.size
        _same_frame(image, label, annotation, size)
        unknown_names = {thing.name for thing in annotation.objects} - set(self.classes)
        if unknown_names:
            message = f"{label}: class '{first_few(unknown_names)}' is none of {', '.join(self.classes)}"
            raise DataError(message)
        corners = np.array([thing.corners for thing in annotation.objects], np.float64).reshape(-1, 4)
        height, width = size
        boxes = np.clip(corners - (1, 1, 0, 0), 0, (width, height, width, height))
        outside = (boxes[:, 2:] <= boxes[:, :2]).any(axis=1)
        if outside.any():
            worst = annotation.objects[int(outside.argmax())]
            message = f"{label}: {_box_text(worst)} lies outside the picture of {width} x {height} pixels"
            raise DataError(message)
        return Truth(
            size=size,
            mask=None,
            boxes=boxes.astype(np.float32),
            labels=np.array([self.classes.index(thing.name) for thing in annotation.objects], np.int64),
            ignore=np.array([thing.difficult or _without_extent(thing) for thing in annotation.objects], np.bool_),
        )


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


def _listed(home: Path, task: str) -> tuple[_Lists, dict[Split, list[Item]]]:
    """Both splits: their names, and their images in the order of the lists. A listed file may be missing."""
    layout = _LAYOUTS[task]
    folders = home / "JPEGImages", home / layout.labels
    if not folders[1].is_dir():
        other = next(known for known in _LAYOUTS if known != task)
        hint = f" (there is {_LAYOUTS[other].labels}, for {other})" if (home / _LAYOUTS[other].labels).is_dir() else ""
        message = f"{home}: no folder {layout.labels}, which {task} needs{hint}; {layout}"
        raise DataError(message)
    images = files_by_stem(folders[0], PHOTO_SUFFIXES)
    labels = files_by_stem(folders[1], (layout.suffix,))
    lists = _lists(home, layout, images, labels)
    items: dict[Split, list[Item]] = {}
    for split, names in lists.names.items():
        if not any(name in images and name in labels for name in names):
            message = (
                f"{home}: not one of the {len(names)} images of {split} ({first_few(names)}) has both "
                f"JPEGImages/NAME.jpg and {layout.labels}/NAME{layout.suffix}; {layout}"
            )
            raise DataError(message)
        items[split] = [
            Item(folders[0] / images.get(name, f"{name}.jpg"), folders[1] / labels.get(name, f"{name}{layout.suffix}"))
            for name in names
        ]
    return lists, items


def _lists(home: Path, layout: _Layout, images: Iterable[str], labels: Iterable[str]) -> _Lists:
    """The names of both splits, from two lists, from one, or from the folders where there is none."""
    known = set(images) | set(labels)
    folder = home / layout.lists
    paths: dict[Split, Path | None] = {
        split: next((path for name in SPLIT_NAMES[split] if (path := folder / f"{name}.txt").is_file()), None)
        for split in SPLITS
    }
    there: dict[Split, list[str]] = {}
    for split, path in paths.items():
        if path is not None:
            there[split] = _names_in(path, layout, known)
    both = folder / f"{_BOTH}.txt"
    if len(there) == 1 and both.is_file():
        # The rest of trainval.txt is what the missing list held.
        (given,) = there
        rest = [name for name in _names_in(both, layout, known) if name not in set(there[given])]
        if rest:
            there["val" if given == "train" else "train"] = rest
    if len(there) == len(SPLITS):
        no_overlap(folder, *(there[split] for split in SPLITS))
        return _Lists(there, "")
    single = next((path for name in _SINGLE if (path := folder / f"{name}.txt").is_file()), paths["train"])
    if single is not None:
        return _Lists(
            divide({name: name for name in _names_in(single, layout, known)}),
            split_rule(f"the list {layout.lists}/{single.name}"),
        )
    if folder.is_dir() and any(folder.iterdir()):
        message = f"{folder}: no list train.txt; {layout}"
        raise DataError(message)
    both_there = sorted(set(images) & set(labels))
    if not both_there:
        message = f"{home}: no picture in JPEGImages has a {layout.labels}/NAME{layout.suffix}; {layout}"
        raise DataError(message)
    every = {name: name for name in sorted(known)}
    return _Lists(divide(every), split_rule(f"the pictures in JPEGImages and {layout.labels}"))


def _names_in(path: Path, layout: _Layout, known: set[str]) -> list[str]:
    """Read the names in a list file; a name may contain spaces, and be followed by 1, 0 or -1 (VOC's lists of a class).

    An image of -1 stays: that it does not show a class does not make it less of a picture.
    """
    lines = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    names = [_name(line, known) for line in lines]
    if not names:
        message = f"{path}: lists no image; {layout}"
        raise DataError(message)
    no_repeats(path, names)
    return names


def _name(line: str, known: set[str]) -> str:
    """The stem that a line means: all of it, or less of it where that is a file and the whole is none."""
    column = re.fullmatch(r"(.*\S)\s+-?[01]", line)
    tries = [line, *([column[1]] if column else [])]
    tries += [Path(text).stem for text in tries]
    return next((text for text in tries if text in known), column[1] if column else line)


def _annotation(path: Path) -> _Annotation:
    """Read one XML file; every object is checked for what does not depend on the picture."""
    try:
        # The files are the user's own data, so expat's limits on entity expansion are protection enough.
        tree = ET.parse(path).getroot()  # noqa: S314
    except FileNotFoundError as error:
        message = f"{path}: no such file"
        raise DataError(message) from error
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


def _stands_out(annotation: _Annotation, size: Size) -> bool:
    """Whether a box reaches beyond a picture of ``size``."""
    height, width = size
    return any(thing.corners[2] > width + SLACK or thing.corners[3] > height + SLACK for thing in annotation.objects)


def _same_frame(image: Path, label: Path, annotation: _Annotation, size: Size) -> None:
    """Raise `DataError` where the boxes were drawn on the picture at another scale, or before it was turned."""
    told = annotation.size
    if told is None or told == size:
        return
    height, width = size
    similar = any(
        abs(told_height - height) <= SLACK and abs(told_width - width) <= SLACK
        for told_height, told_width in (told, told[::-1])
    )
    # Height and width are often merely swapped in the XML; only boxes that stand out tell that the picture was turned.
    if not similar or _stands_out(annotation, size):
        message = (
            f"{label}: made for a picture of {told[1]} x {told[0]} pixels, but {image} has "
            f"{width} x {height}, so its boxes do not fit"
        )
        raise DataError(message)


def _detection_classes(items: Sequence[Item], cache: Path) -> tuple[str, ...]:
    """Class names of the annotations of both splits; a broken one has none, and is named where it is read."""
    paths = [item.label for item in items if item.label is not None]

    def names() -> list[str]:
        found: set[str] = set()
        for path in paths:
            with suppress(DataError):
                found |= {thing.name for thing in _annotation(path).objects}
        return sorted(found)

    found = remembered(cache, "voc-names-2", paths, names)
    if set(found) <= set(CLASSES) and found:
        return CLASSES
    if not found:
        message = f"{paths[0].parent}: not one of the {len(paths)} listed annotations has an object"
        raise DataError(message)
    return tuple(found)


def _segmentation_classes(home: Path, items: dict[Split, list[Item]], cache: Path) -> tuple[str, ...]:
    """Class names where there is no labelmap.txt."""
    if _is_voc(home, items):
        return ("background", *CLASSES)
    paths = [item.label for item in items["train"] if item.label is not None]

    def largest() -> list[str]:
        highest, broken = 0, ""
        for path in paths:
            try:
                mask = read_labels(path)
            except DataError as error:
                broken = broken or str(error)
                continue
            highest = max(highest, int(mask.max(initial=0, where=mask != IGNORE)))
        if not highest:
            raise DataError(
                broken or f"{paths[0].parent}: the {len(paths)} label maps listed for train hold background only"
            )
        return ["background", *(f"class_{index}" for index in range(1, highest + 1))]

    return tuple(remembered(cache, "voc-indices-2", paths, largest))


def _is_voc(home: Path, items: dict[Split, list[Item]]) -> bool:
    """Whether this is Pascal VOC and not own data in its layout.

    VOC's annotations say where they are from. Where only the label maps were unpacked, the folder and all images must
    be named as VOC names them; the folder alone says little, since much training code insists on "VOC2007".
    """
    stems = [item.image.stem for split in SPLITS for item in items[split]]
    annotation = home / "Annotations" / f"{stems[0]}.xml"
    if annotation.is_file():
        with suppress(ET.ParseError, ValueError, LookupError):
            tree = ET.parse(annotation).getroot()  # noqa: S314  (the user's own data, as above)
            return (tree.findtext("source/annotation") or "").startswith("PASCAL VOC")
    return re.fullmatch(r"VOC20\d\d", home.resolve().name) is not None and all(
        re.fullmatch(r"(20\d\d_)?\d{6}", stem) for stem in stems
    )


def _labelmap(home: Path) -> _names.Names | None:
    """labelmap.txt, where there is one."""
    path = home / "labelmap.txt"
    return _names.labelmap(path) if path.is_file() else None
