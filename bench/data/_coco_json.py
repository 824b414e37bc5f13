"""COCO's JSON, checked and kept as arrays: what is needed of it and no more.

What is wrong with the file is a `DataError`; what is wrong with one annotation is the fault of its image alone.
"""

import json
import mmap
import re
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from math import isfinite
from os import getpid
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bench.data import _shapes
from bench.data._kept import UNREADABLE, load_arrays, origin, save_arrays
from bench.data._listing import first_few
from bench.data.images import Size
from bench.errors import DataError

_SLACK = 1.0
"""Pixels by which a box may lie beside its picture before it is taken for that of another."""
_LARGEST = 1 << 20
"""Pixels of a side; a larger number is a slip."""
_Json: TypeAlias = Any
"""What a file says, before it is checked."""
LISTS = ("images", "annotations", "categories")
BAD = (KeyError, TypeError, ValueError, OverflowError)


@dataclass(frozen=True)
class Index:
    """What is needed of one JSON: N images in its order, and their A objects, image by image.

    classes: names in the order of category ids. names: of the picture files. sizes: (N, 2) H, W.
    first: (N + 1,) image i has the objects first[i] to first[i + 1]. ids: (A,) of the annotations.
    boxes: (A, 4) xyxy. labels, ignore: (A,). areas: (A,) as stated, or else of the mask, or else of the box.
    faulty, faults: (F,) number of an image that cannot be used, and why.
    shapes, starts: the JSON of each object's mask, object i from starts[i] to starts[i + 1]; None where not asked for.
    """

    classes: tuple[str, ...]
    names: NDArray[np.str_]
    sizes: NDArray[np.int32]
    first: NDArray[np.int64]
    ids: NDArray[np.str_]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    ignore: NDArray[np.bool_]
    areas: NDArray[np.float32]
    faulty: NDArray[np.int64]
    faults: NDArray[np.str_]
    shapes: NDArray[np.uint8] | None = None
    starts: NDArray[np.int64] | None = None


@dataclass(frozen=True)
class _Object:
    """One annotation: id, xyxy, label, ignore, area, and the JSON of its mask."""

    number: str
    box: tuple[float, float, float, float]
    label: int
    ignore: bool
    area: float
    shape: bytes


class _Fault(Exception):
    """Why an annotation makes its image unusable."""


def index_of(path: Path, cache: Path, *, masks: bool) -> Index:
    """The index of one JSON; kept in the folder ``cache`` until the file changes."""
    # The number goes up when what is kept comes to mean something else.
    kept = cache / f"coco-{origin(path, 3, masks)}.npz"
    with suppress(*UNREADABLE):
        return _kept(kept, masks=masks)
    made = parsed(path, masks=masks)
    # A folder that cannot be written costs the time of the next parsing, no more.
    with suppress(OSError):
        _keep(made, kept)
    return made


def looks_like_coco(path: Path) -> bool:
    """Whether the words of COCO's lists are in a file, of which nothing is parsed; its name may say little."""
    if not path.stat().st_size:
        return False
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        return all(text.find(f'"{key}"'.encode()) >= 0 for key in LISTS)


def project_of(path: Path) -> str:
    """The name of the category that is no class (id 0, without objects, everybody's supercategory), or "".

    Read from the list of categories alone, wherever it stands in the file; a search for its objects follows.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        place = text.rfind(b'"categories"')
        if place < 0:
            return ""
        rest = text[place + len(b'"categories"') : place + (1 << 20)].decode("utf-8", "replace")
        try:
            categories, _ = json.JSONDecoder().raw_decode(rest.lstrip(" \t\r\n:"))
            first = [category for category in categories if key_of(category["id"]) == "0"]
            others = [category for category in categories if category not in first]
            name = str(first[0]["name"]) if len(first) == 1 else ""
            empty = bool(others) and all(category.get("supercategory") == name for category in others)
        except (*BAD, AttributeError, RecursionError):
            return ""
        used = name and empty and re.search(rb'"category_id"\s*:\s*"?0"?\s*[,}]', text)
        return name if empty and not used else ""


def _kept(path: Path, *, masks: bool) -> Index:
    values = load_arrays(path)
    shapes = None
    if masks:
        blob = path.with_suffix(".bin")
        # Mapped: a training run reads what it draws, and a data set without a mask maps nothing.
        shapes = np.memmap(blob, np.uint8, "r") if blob.stat().st_size else np.zeros(0, np.uint8)
        if len(shapes) != values["starts"][-1]:
            raise ValueError(f"{blob} has another length than its index says")
    classes = tuple(values.pop("classes").tolist())
    return Index(classes=classes, shapes=shapes, **values)


def _keep(index: Index, path: Path) -> None:
    values = {name: value for name, value in vars(index).items() if value is not None and name != "shapes"}
    # The masks first: an index that is there has them.
    if index.shapes is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(f".{getpid()}.tmp")
        fresh.write_bytes(index.shapes.tobytes())
        fresh.replace(path.with_suffix(".bin"))
    save_arrays(path, {**values, "classes": np.array(index.classes, np.str_)})


def parsed(path: Path, *, masks: bool) -> Index:
    """Read one JSON; everything that does not need a mask to be drawn is checked.

    Raises:
        DataError: it is not what COCO's format says; names what is wrong. An annotation that cannot be used is the
            fault of its image alone.
    """
    content = read(path)
    labels, classes = categories_of(path, content["categories"])
    images = images_of(path, content["images"])
    annotations: dict[str, list[_Json]] = {number: [] for number in images}
    for annotation in content["annotations"]:
        try:
            annotations[key_of(annotation["image_id"])].append(annotation)
        except BAD as error:
            message = f"{path}: annotation {short(annotation)} belongs to no image that the file lists"
            raise DataError(message) from error
    if not any(annotations.values()):
        message = f"{path}: not one of the {len(images)} images has an object"
        raise DataError(message)
    if masks and not any(_shapes.polygons_of(one.get("segmentation")) for one in content["annotations"]):
        message = (
            f"{path}: not one annotation has a mask (a polygon, or run lengths): this file can serve heads that learn "
            "from boxes alone"
        )
        raise DataError(message)
    objects: list[_Object] = []
    counts: list[int] = []
    faults: dict[int, str] = {}
    for row, number in enumerate(images):
        before = len(objects)
        try:
            objects += [_object(one, images[number][1], labels, masks=masks) for one in annotations[number]]
        except _Fault as fault:
            faults[row] = str(fault)
        counts.append(len(objects) - before)
    return Index(
        classes=classes,
        names=np.array([name for name, _ in images.values()], np.str_),
        sizes=np.array([size for _, size in images.values()], np.int32),
        first=np.cumsum([0, *counts], dtype=np.int64),
        ids=np.array([one.number for one in objects], np.str_),
        boxes=np.array([one.box for one in objects], np.float32).reshape(-1, 4),
        labels=np.array([one.label for one in objects], np.int64),
        ignore=np.array([one.ignore for one in objects], np.bool_),
        areas=np.array([one.area for one in objects], np.float32),
        faulty=np.array(list(faults), np.int64),
        faults=np.array(list(faults.values()), np.str_),
        shapes=np.frombuffer(b"".join(one.shape for one in objects), np.uint8) if masks else None,
        starts=np.cumsum([0, *(len(one.shape) for one in objects)], dtype=np.int64) if masks else None,
    )


def read(path: Path) -> dict[str, list[_Json]]:
    try:
        content = json.loads(path.read_bytes().removeprefix(b"\xef\xbb\xbf"))
    except (OSError, ValueError, RecursionError) as error:
        message = f"{path}: cannot be read as JSON ({error}); is the file damaged or only half copied?"
        raise DataError(message) from error
    for key in LISTS:
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            message = f"{path}: has no list '{key}'; want COCO's images, annotations and categories"
            raise DataError(message)
        if not all(isinstance(entry, dict) for entry in content[key]):
            message = f"{path}: its list '{key}' holds what is no object with names and values"
            raise DataError(message)
    return content


def key_of(value: _Json) -> str:
    """An id, a number or a text, as text: 7, 7.0 and "7" are one.

    Raises:
        TypeError: it is neither.
    """
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise TypeError(f"{value!r} is no id")
    return str(value).strip()


def images_of(path: Path, images: list[_Json]) -> dict[str, tuple[str, Size]]:
    """Image id -> name of its file, and its size."""
    found: dict[str, tuple[str, Size]] = {}
    for image in images:
        try:
            number, name, size = (
                key_of(image["id"]),
                str(image["file_name"]),
                (int(image["height"]), int(image["width"])),
            )
        except BAD as error:
            message = f"{path}: image {short(image)} lacks an id, file_name, height or width"
            raise DataError(message) from error
        if number in found or not 1 <= min(size) <= max(size) <= _LARGEST or not name.strip():
            message = f"{path}: image {short(image)} has the id of another one, no name, or no size of a picture"
            raise DataError(message)
        found[number] = name, size
    return found


def categories_of(path: Path, categories: list[_Json]) -> tuple[dict[str, int], tuple[str, ...]]:
    """Category id -> label, and the names by label."""
    try:
        names = {key_of(category["id"]): str(category["name"]) for category in categories}
    except BAD as error:
        message = f"{path}: a category lacks its id or name"
        raise DataError(message) from error
    twice = [name for name, count in Counter(names.values()).items() if count > 1]
    if twice or len(names) < len(categories) or not names:
        what = f"two categories named {first_few(twice)}" if twice else "no category, or two of one id"
        message = f"{path}: {what}"
        raise DataError(message)
    # Numbers in their order, then texts in theirs.
    ordered = sorted(names, key=lambda key: (0, int(key), "") if re.fullmatch(r"-?\d{1,18}", key) else (1, 0, key))
    return {number: label for label, number in enumerate(ordered)}, tuple(names[number] for number in ordered)


def _object(annotation: _Json, size: Size, labels: dict[str, int], *, masks: bool) -> _Object:
    """One annotation of a picture of ``size`` (H, W).

    Raises:
        _Fault: it cannot be used.
    """
    shape = _shapes.polygons_of(annotation.get("segmentation"))
    try:
        label, number = labels[key_of(annotation["category_id"])], str(annotation.get("id", "without an id"))
        given = annotation.get("bbox") or (_shapes.box_of(shape, size) if shape else ())
        left, top, wide, high = (float(value) for value in given)
    except BAD as error:
        raise _Fault(
            f"annotation {short(annotation)} lacks a bbox of four numbers (or a mask instead) or a known category_id"
        ) from error
    height, width = size
    right, bottom = left + wide, top + high
    outside = max(left - width, top - height, -right, -bottom) > _SLACK
    if outside or not isfinite(left + top + right + bottom) or wide < 0 or high < 0:
        raise _Fault(
            f"the bbox {[left, top, wide, high]} of annotation {number} is inverted or lies outside the picture of "
            f"{width} x {height} pixels"
        )
    x1, x2 = (min(max(x, 0.0), width) for x in (left, right))
    y1, y2 = (min(max(y, 0.0), height) for y in (top, bottom))
    ignore = bool(annotation.get("iscrowd")) or x2 == x1 or y2 == y1
    if masks and not shape and not ignore:
        raise _Fault(f"annotation {number} has no mask (a polygon, or run lengths), only a box")
    text = json.dumps(shape or None, separators=(",", ":")).encode() if masks else b""
    area = _area(annotation, shape, size, (x2 - x1) * (y2 - y1))
    return _Object(number, (x1, y1, x2, y2), label, ignore, area, text)


def _area(annotation: _Json, shape: Any, size: Size, of_box: float) -> float:
    """The area that an annotation states; where it states none, that of its mask, or else of its box."""
    stated = annotation.get("area")
    if isinstance(stated, int | float) and isfinite(stated):
        return float(stated)
    drawn = 0.0
    if shape:
        with suppress(*_shapes.ODD):
            drawn = _shapes.area_of(shape, size)
    return drawn or of_box


def short(value: _Json) -> str:
    """For a message; an annotation may be long."""
    if isinstance(value, dict):
        value = {key: entry for key, entry in value.items() if key not in {"segmentation", "keypoints"}}
    return re.sub(r"(?s)(.{150}).+", r"\1...", repr(value))
