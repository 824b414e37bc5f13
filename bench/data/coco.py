"""COCO's layout: boxes and instance masks, of COCO itself or of anybody's own data.

Layout of the data root::

    annotations/instances_train2017.json    annotations/instances_val2017.json
    train2017/*.jpg                         val2017/*.jpg

Whatever stands after ``instances_train`` in the name of a file (2017, 2014, nothing) stands after ``train`` and ``val``
everywhere; of several such sets, 2017 is taken. The folders of pictures may lie in a folder ``images``. The pictures
are those that the JSON lists, in its order, those without an object too: whatever is found there is a false alarm.

Classes are the categories in the order of their ids, which for COCO run from 1 to 90 with gaps. Boxes are (x, y, width,
height) from the upper left corner, clipped to the picture. Objects of ``iscrowd`` are marked ``ignore``, and so are
boxes without extent, which are slips of the mouse. Masks are polygons, whose parts are united, or run
lengths, as counts or compressed; each is drawn at the size of the picture, as COCO's own tools draw it.

A JSON of COCO's size (450 MB) takes a good part of a minute and some GB to parse. What is needed of it is kept under
the cache folder, without the masks until they are asked for.
"""

import json
import re
import zipfile
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from math import isfinite
from os import getpid, scandir
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np
from faster_coco_eval.core import mask as rle
from numpy.typing import NDArray

from bench.data.contract import Dataset, Sample, Split, Task, Truth
from bench.data.images import SampleCache, Size, first_few, read_image, stretch
from bench.errors import DataError, unknown

CATALOGUE = {
    "coco": {
        "tasks": ["detection"],
        "masks": True,
        "root": True,
        "redistributable": False,
        "doc": "COCO, or own data in its layout: boxes and instance masks (annotations/instances_*.json)",
    },
}

_SPLITS: tuple[Split, ...] = ("train", "val")
_LAYOUT = (
    "want COCO's layout: annotations/instances_train2017.json and instances_val2017.json with the folders train2017 "
    "and val2017 (the 2017 may be anything or nothing)"
)
_SLACK = 1.0
"""Pixels by which a box may lie beside its picture before it is taken for that of another."""
_Json: TypeAlias = Any
"""What a file says, before it is checked."""


@dataclass(frozen=True)
class _Part:
    """Where one split lies."""

    json: Path
    folder: Path


@dataclass(frozen=True)
class _Index:
    """What is needed of one JSON: N images in its order, and their A objects, image by image.

    classes: names in the order of category ids. names: of the picture files. sizes: (N, 2) H, W.
    first: (N + 1,) image i has the objects first[i] to first[i + 1]. ids: (A,) of the annotations.
    boxes: (A, 4) xyxy. labels, ignore: (A,). areas: (A,) as stated, or else of the mask, or else of the box.
    shapes, starts: the JSON of each object's mask, object i from starts[i] to starts[i + 1]; None where not asked for.
    """

    classes: tuple[str, ...]
    names: NDArray[np.str_]
    sizes: NDArray[np.int32]
    first: NDArray[np.int64]
    ids: NDArray[np.int64]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    ignore: NDArray[np.bool_]
    areas: NDArray[np.float32]
    shapes: NDArray[np.uint8] | None = None
    starts: NDArray[np.int64] | None = None


def check(root: Path, task: str) -> None:
    """Raise `DataError` unless both splits have their JSON and a folder with something in it; parses nothing."""
    if task not in CATALOGUE["coco"]["tasks"]:
        message = f"coco has objects only: it serves detection, not {task}"
        raise DataError(message)
    for part in _parts(root).values():
        with part.json.open("rb") as file:
            start = file.read(64).removeprefix(b"\xef\xbb\xbf").lstrip()
        if start[:1] != b"{":
            message = f"{part.json}: no JSON object; is the file damaged or only half copied?"
            raise DataError(message)
        with scandir(part.folder) as entries:
            if next(entries, None) is None:
                message = f"{part.folder}: an empty folder; want the pictures of {part.json.name}"
                raise DataError(message)


def load(name: str, *, task: Task, root: Path, cache: Path, split: Split, masks: bool = False) -> Dataset:
    """One split, images in the order of its JSON; ``masks``: objects come with their pixels.

    Raises:
        DataError: a JSON is broken, the two splits have other classes, or listed pictures are not there.
    """
    if name not in CATALOGUE:
        raise unknown("data set", name, CATALOGUE)
    check(root, task)
    parts = _parts(root)
    indices = {one: _index(parts[one].json, cache, masks=masks) for one in _SPLITS}
    if indices["train"].classes != indices["val"].classes:
        differing = set(indices["train"].classes) ^ set(indices["val"].classes)
        what = f"one of them alone has {first_few(differing)}" if differing else "their ids are in another order"
        message = f"{parts['train'].json} and {parts['val'].json.name} have not the same categories: {what}"
        raise DataError(message)
    _all_there(parts[split], indices[split])
    return Coco(parts[split].folder, indices[split], parts[split].json)


class Coco(Dataset):
    """Pictures with boxes and, where the index has them, masks."""

    def __init__(self, folder: Path, index: _Index, source: Path) -> None:
        """``folder``: of the pictures; ``source``: the JSON, for messages."""
        self.name = "coco"
        self.task: Task = "detection"
        self.classes = index.classes
        self._folder = folder
        self._index = index
        self._source = source
        self._cache = SampleCache()

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._index.names)

    def sample(self, index: int, size: tuple[int, int]) -> Sample:
        """Image, boxes and masks stretched to ``size`` (H, W)."""
        return self._cache.get((index, size), lambda: self._stretched(index, size))

    def truth(self, index: int) -> Truth:
        """Boxes and masks in pixels of the picture as stored; the picture itself is not read."""
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        known = self._index
        height, width = map(int, known.sizes[index])
        objects = slice(int(known.first[index]), int(known.first[index + 1]))
        return Truth(
            size=(height, width),
            mask=None,
            boxes=known.boxes[objects].copy(),
            labels=known.labels[objects].copy(),
            ignore=known.ignore[objects].copy(),
            masks=None if known.shapes is None else self._masks(range(objects.start, objects.stop), (height, width)),
            areas=known.areas[objects].copy(),
        )

    def _masks(self, objects: range, size: Size) -> NDArray[np.bool_]:
        """(M, H, W) bool."""
        masks = np.zeros((len(objects), *size), np.bool_)
        shapes, starts = self._index.shapes, self._index.starts
        assert shapes is not None, "an index with masks"
        assert starts is not None, "an index with masks"
        for mask, number in zip(masks, objects, strict=True):
            shape = json.loads(shapes[starts[number] : starts[number + 1]].tobytes())
            if shape is None:  # of an ignored object: its box is all that is known
                x1, y1, x2, y2 = self._index.boxes[number].round().astype(int)
                mask[y1:y2, x1:x2] = True
                continue
            try:
                mask[:] = rle.decode(_run_lengths(shape, size))
            except (ValueError, TypeError, KeyError) as error:
                message = f"{self._source}: the mask of annotation {self._index.ids[number]} cannot be drawn ({error})"
                raise DataError(message) from error
        return masks

    def _stretched(self, index: int, size: tuple[int, int]) -> Sample:
        path = self._folder / str(self._index.names[index])
        image, truth = read_image(path), self.truth(index)
        if image.shape[:2] != truth.size:
            message = (
                f"{path}: {image.shape[1]} x {image.shape[0]} pixels, but {self._source.name} says "
                f"{truth.size[1]} x {truth.size[0]}, so its objects do not fit"
            )
            raise DataError(message)
        return stretch(image, truth, size)


def _parts(root: Path) -> dict[Split, _Part]:
    """Where both splits lie."""
    found: dict[str, dict[Split, _Part]] = {}
    near: list[str] = []
    for path in sorted((root / "annotations").glob("instances_train*.json")):
        ending = path.stem.removeprefix("instances_train")
        parts: dict[Split, _Part] = {}
        for split in _SPLITS:
            source = path.with_name(f"instances_{split}{ending}.json")
            folders = [root / f"{split}{ending}", root / "images" / f"{split}{ending}"]
            folder = next((folder for folder in folders if folder.is_dir()), None)
            near += [] if source.is_file() else [f"no file annotations/{source.name}"]
            near += [] if folder else [f"no folder {split}{ending}"]
            if source.is_file() and folder:
                parts[split] = _Part(source, folder)
        if len(parts) == len(_SPLITS):
            found[ending] = parts
    if not found:
        message = f"{root}: {', '.join(near) or 'no annotations/instances_train*.json'}; {_LAYOUT}"
        raise DataError(message)
    if len(found) > 1 and "2017" not in found:
        message = f"{root}: holds {', '.join(f'train{ending}' for ending in found)}; which is meant? Keep one"
        raise DataError(message)
    return found.get("2017") or next(iter(found.values()))


def _all_there(part: _Part, index: _Index) -> None:
    """Raise `DataError` if a listed picture is not in the folder."""
    with scandir(part.folder) as entries:
        there = {entry.name for entry in entries}
    # A name may have folders of its own, which the listing does not show.
    missing = [name for name in index.names.tolist() if name not in there and not (part.folder / name).is_file()]
    if missing:
        message = f"{part.folder}: {len(missing)} of the {len(index.names)} pictures that {part.json.name} lists are "
        raise DataError(message + f"not there ({first_few(missing)})")


def _index(path: Path, cache: Path, *, masks: bool) -> _Index:
    """The index of one JSON; kept in the folder ``cache`` until the file changes."""
    status = path.stat()
    # The number goes up when what is kept comes to mean something else.
    origin = f"2\0{path.resolve()}\0{status.st_size}\0{status.st_mtime_ns}\0{masks}"
    kept = cache / f"coco-{sha256(origin.encode()).hexdigest()[:24]}.npz"
    with suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return _kept(kept, masks=masks)
    made = _parsed(path, masks=masks)
    # A folder that cannot be written costs the time of the next parsing, no more.
    with suppress(OSError):
        _keep(made, kept)
    return made


def _kept(path: Path, *, masks: bool) -> _Index:
    # Opened here: of a file that is cut off, numpy would leave it open.
    with path.open("rb") as file, np.load(file) as arrays:
        values = {name: arrays[name] for name in arrays.files}
    shapes = None
    if masks:
        blob = path.with_suffix(".bin")
        # Mapped: a training run reads what it draws, and a data set without a mask maps nothing.
        shapes = np.memmap(blob, np.uint8, "r") if blob.stat().st_size else np.zeros(0, np.uint8)
        if len(shapes) != values["starts"][-1]:
            raise ValueError(f"{blob} has another length than its index says")
    return _Index(**{**values, "classes": tuple(values["classes"].tolist()), "shapes": shapes})


def _keep(index: _Index, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = {name: value for name, value in vars(index).items() if value is not None and name != "shapes"}
    fresh = path.with_suffix(f".{getpid()}.tmp")
    try:
        # The masks first: an index that is there has them.
        if index.shapes is not None:
            fresh.write_bytes(index.shapes.tobytes())
            fresh.replace(path.with_suffix(".bin"))
        with fresh.open("wb") as file:
            np.savez(file, **{**values, "classes": np.array(index.classes, np.str_)})
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)


def _parsed(path: Path, *, masks: bool) -> _Index:
    """Read one JSON; everything that does not need a mask to be drawn is checked.

    Raises:
        DataError: it is not what COCO's format says; names what is wrong.
    """
    content = _read(path)
    labels, classes = _categories(path, content["categories"])
    images: dict[int, tuple[str, Size]] = {}
    for image in content["images"]:
        try:
            number, name, size = int(image["id"]), str(image["file_name"]), (int(image["height"]), int(image["width"]))
        except (KeyError, TypeError, ValueError) as error:
            message = f"{path}: image {_short(image)} lacks an id, file_name, height or width"
            raise DataError(message) from error
        if number in images or min(size) < 1:
            message = f"{path}: image {_short(image)} has the id of another one, or no extent"
            raise DataError(message)
        images[number] = name, size
    objects: dict[int, list[_Json]] = {number: [] for number in images}
    for annotation in content["annotations"]:
        try:
            objects[int(annotation["image_id"])].append(annotation)
        except (KeyError, TypeError, ValueError) as error:
            message = f"{path}: annotation {_short(annotation)} belongs to no image that the file lists"
            raise DataError(message) from error
    rows = [
        _row(path, annotation, images[number][1], labels, masks=masks)
        for number, annotations in objects.items()
        for annotation in annotations
    ]
    if not rows:
        message = f"{path}: not one of the {len(images)} images has an object"
        raise DataError(message)
    ids, boxes, numbers, ignore, areas, shapes = zip(*rows, strict=True)
    counts = [len(annotations) for annotations in objects.values()]
    return _Index(
        classes=classes,
        names=np.array([name for name, _ in images.values()], np.str_),
        sizes=np.array([size for _, size in images.values()], np.int32),
        first=np.cumsum([0, *counts], dtype=np.int64),
        ids=np.array(ids, np.int64),
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        labels=np.array(numbers, np.int64),
        ignore=np.array(ignore, np.bool_),
        areas=np.array(areas, np.float32),
        shapes=np.frombuffer(b"".join(shapes), np.uint8) if masks else None,
        starts=np.cumsum([0, *map(len, shapes)], dtype=np.int64) if masks else None,
    )


def _read(path: Path) -> dict[str, list[_Json]]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        message = f"{path}: cannot be read as JSON ({error}); is the file damaged or only half copied?"
        raise DataError(message) from error
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            message = f"{path}: has no list '{key}'; want COCO's images, annotations and categories"
            raise DataError(message)
    return content


def _categories(path: Path, categories: list[_Json]) -> tuple[dict[int, int], tuple[str, ...]]:
    """Category id -> label, and the names by label."""
    try:
        names = {int(category["id"]): str(category["name"]) for category in categories}
    except (KeyError, TypeError, ValueError) as error:
        message = f"{path}: a category lacks its id or name"
        raise DataError(message) from error
    twice = [name for name, count in Counter(names.values()).items() if count > 1]
    if twice or len(names) < len(categories) or not names:
        what = f"two categories named {first_few(twice)}" if twice else "no category, or two of one id"
        message = f"{path}: {what}"
        raise DataError(message)
    ordered = sorted(names)
    return {number: label for label, number in enumerate(ordered)}, tuple(names[number] for number in ordered)


def _row(
    path: Path, annotation: _Json, size: Size, labels: dict[int, int], *, masks: bool
) -> tuple[int, tuple[float, float, float, float], int, bool, float, bytes]:
    """Id, xyxy, label, ignore, area, and the JSON of the mask of one annotation in a picture of ``size`` (H, W)."""
    try:
        left, top, wide, high = (float(value) for value in annotation["bbox"])
        number, label, crowd = int(annotation["id"]), labels[int(annotation["category_id"])], annotation.get("iscrowd")
    except (KeyError, TypeError, ValueError) as error:
        message = f"{path}: annotation {_short(annotation)} lacks an id, a bbox of four numbers or a known category_id"
        raise DataError(message) from error
    height, width = size
    right, bottom = left + wide, top + high
    outside = max(left - width, top - height, -right, -bottom) > _SLACK
    if outside or not isfinite(left + top + right + bottom) or wide < 0 or high < 0:
        message = (
            f"{path}: the bbox {annotation['bbox']} of annotation {number} is inverted or lies outside its picture of "
            f"{width} x {height} pixels"
        )
        raise DataError(message)
    x1, x2 = (min(max(x, 0.0), width) for x in (left, right))
    y1, y2 = (min(max(y, 0.0), height) for y in (top, bottom))
    ignore = bool(crowd) or x2 == x1 or y2 == y1
    shape = _shape(path, annotation, ignore=ignore) if masks else b""
    return number, (x1, y1, x2, y2), label, ignore, _area(annotation, size, (x2 - x1) * (y2 - y1)), shape


def _area(annotation: _Json, size: Size, of_box: float) -> float:
    """The area that an annotation states; where it states none, that of its mask, or else of its box."""
    stated = annotation.get("area")
    if isinstance(stated, int | float) and isfinite(stated):
        return float(stated)
    shape = annotation.get("segmentation")
    drawn = 0.0
    if shape:
        with suppress(ValueError, TypeError, KeyError):
            drawn = float(rle.area(_run_lengths(shape, size)))
    return drawn or of_box


def _shape(path: Path, annotation: _Json, *, ignore: bool) -> bytes:
    """The JSON of a mask: polygons of three points or more, run lengths, or null where an ignored object has none."""
    shape = annotation.get("segmentation")
    if isinstance(shape, list):
        # Two points draw nothing, and COCO's own tools take four numbers for a box.
        shape = [polygon for polygon in shape if isinstance(polygon, list) and len(polygon) >= 6]
    if not shape and not ignore:
        message = (
            f"{path}: annotation {annotation['id']} has no mask (a polygon, or run lengths): this file can serve heads "
            "that learn from boxes alone"
        )
        raise DataError(message)
    return json.dumps(shape or None, separators=(",", ":")).encode()


def _run_lengths(shape: _Json, size: Size) -> dict[str, Any]:
    """Polygons or run lengths as compressed run lengths.

    Raises:
        ValueError, TypeError, KeyError: the shape is none, or that of a picture of another size.
    """
    height, width = size
    if isinstance(shape, list):
        if any(len(polygon) % 2 for polygon in shape):
            raise ValueError("a polygon has an odd number of coordinates")
        polygons = [[float(value) for value in polygon] for polygon in shape]
        return rle.merge(cast("list[dict[str, Any]]", rle.frPyObjects(polygons, height, width)))
    if list(shape["size"]) != [height, width]:
        raise ValueError(f"it is of {shape['size']}, its picture of {[height, width]} pixels")
    if isinstance(shape["counts"], str):
        return {"size": [height, width], "counts": shape["counts"].encode()}
    return cast("dict[str, Any]", rle.frPyObjects(shape, height, width))


def _short(value: _Json) -> str:
    """For a message; an annotation may be long."""
    if isinstance(value, dict):
        value = {key: entry for key, entry in value.items() if key not in {"segmentation", "keypoints"}}
    return re.sub(r"(?s)(.{150}).+", r"\1...", repr(value))
