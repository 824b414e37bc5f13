"""Tiny data sets in exactly the layouts that people have on disk, and the odd files that come with them.

Every picture holds one rectangle of a class on a plain background, so that what a loader must return is known:
`rectangle` gives the place, `COLOURS` the colour. Nothing is random.
"""

import json
import shutil
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIZE = (36, 48)
"""(H, W) of the pictures unless told otherwise; not square, so that swapped axes show."""

COLOURS = ((0, 0, 0), (200, 40, 40), (40, 200, 40), (40, 40, 200), (200, 200, 40))
"""(R, G, B) of background and of the rectangle of class 1, 2, ..."""


@dataclass(frozen=True)
class Thing:
    """An ``object`` of an annotation: 1-based inclusive xmin, ymin, xmax, ymax, as Pascal VOC writes it."""

    name: str
    corners: tuple[float | str, float | str, float | str, float | str]
    difficult: bool = False
    parts: tuple["Thing", ...] = ()


def rectangle(index: int, size: tuple[int, int] = SIZE) -> tuple[int, int, int, int]:
    """Return x1, y1, x2, y2 (0-based, half-open) of the rectangle in picture number ``index``."""
    height, width = size
    x1, y1 = width // 8 + index % 3, height // 6 + index % 2
    return x1, y1, x1 + width // 2, y1 + height // 2


def label_map(label: int, index: int, size: tuple[int, int] = SIZE, background: int = 0) -> NDArray[np.uint8]:
    """Return (H, W) uint8 of ``background`` with the rectangle of picture ``index`` as ``label``."""
    labels = np.full(size, background, np.uint8)
    x1, y1, x2, y2 = rectangle(index, size)
    labels[y1:y2, x1:x2] = label
    return labels


def picture(label: int, index: int, size: tuple[int, int] = SIZE) -> NDArray[np.uint8]:
    """Return the (H, W, 3) uint8 picture of which `label_map` is the truth."""
    return np.array(COLOURS, np.uint8)[label_map(label, index, size)]


def write_image(path: Path, image: NDArray[np.uint8], mode: str = "RGB", exif_orientation: int | None = None) -> None:
    """Write (H, W, 3) pixels as a file of the given Pillow mode; the format follows from the name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    if exif_orientation is not None:
        exif[0x0112] = exif_orientation
    # Little loss, so that colours can be compared; a PNG ignores both.
    Image.fromarray(image).convert(mode).save(path, exif=exif, quality=95, subsampling=0)


def write_labels(path: Path, labels: NDArray[np.uint8], *, palette: bool = True) -> None:
    """Write (H, W) indices as PNG: with Pascal VOC's palette, or as grey-scale."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = _with_palette(labels) if palette else Image.fromarray(labels)
    image.save(path)


def write_grey_labels(path: Path, labels: NDArray[np.uint8], depth: int) -> None:
    """Write (H, W) indices as a grey PNG of 1, 2, 4 or 8 bits a pixel, as PNG optimisers do; Pillow cannot."""
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = labels.shape
    bits = np.unpackbits(labels[..., None], axis=2)[..., 8 - depth :].reshape(height, width * depth)
    rows = np.packbits(bits, axis=1)
    raw = b"".join(b"\0" + row.tobytes() for row in rows)

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


def truncate(path: Path, fraction: float = 0.5) -> None:
    """Cut the end off a file, as an interrupted copy does."""
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * fraction)])


def write_annotation(
    path: Path, things: Sequence[Thing], *, size: tuple[int, int] = SIZE, source: str = "Unknown"
) -> None:
    """Write Pascal VOC's XML for a picture of ``size`` (H, W)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    objects = "".join(_object_xml(thing) for thing in things)
    path.write_text(
        f"<annotation>\n\t<folder>JPEGImages</folder>\n\t<filename>{escape(path.stem)}.jpg</filename>\n"
        f"\t<source>\n\t\t<database>Unknown</database>\n\t\t<annotation>{source}</annotation>\n\t</source>\n"
        f"\t<size>\n\t\t<width>{size[1]}</width>\n\t\t<height>{size[0]}</height>\n\t\t<depth>3</depth>\n\t</size>\n"
        f"\t<segmented>0</segmented>\n{objects}</annotation>\n",
        encoding="utf-8",
    )


def write_camvid(
    root: Path, *, train: int = 4, val: int = 2, size: tuple[int, int] = SIZE, suffix: str = ".png"
) -> Path:
    """Write CamVid in SegNet's layout: background Building (1), a rectangle of Road (3) or Car (8), a seam of 11."""
    for split, count, first in (("train", train, 0), ("val", val, train)):
        listing: list[str] = []
        for index in range(first, first + count):
            name = f"0001TP_{index:06d}"
            labels = label_map((3, 8)[index % 2], index, size, background=1)
            labels[0] = 11
            write_image(root / split / f"{name}{suffix}", picture(1 + index % 2, index, size))
            write_labels(root / f"{split}annot" / f"{name}.png", labels, palette=False)
            listing.append(f"/SegNet/CamVid/{split}/{name}.png /SegNet/CamVid/{split}annot/{name}.png")
        (root / f"{split}.txt").write_text("\n".join(listing) + "\n", encoding="utf-8")
    return root


def write_voc(
    root: Path,
    *,
    train: int = 4,
    val: int = 2,
    size: tuple[int, int] = SIZE,
    classes: Sequence[str] = ("disc", "box"),
    labelmap: bool = False,
    source: str = "Unknown",
) -> Path:
    """Write both tasks in Pascal VOC's layout; picture i holds one rectangle of class i modulo their number.

    Label maps have index 0 around the rectangle, 1 + class in it, and 255 in the topmost row.
    """
    for split, count, first in (("train", train, 0), ("val", val, train)):
        names: list[str] = []
        for index in range(first, first + count):
            name = f"image_{index:03d}"
            label = 1 + index % len(classes)
            x1, y1, x2, y2 = rectangle(index, size)
            labels = label_map(label, index, size)
            labels[0] = 255
            write_image(root / "JPEGImages" / f"{name}.jpg", picture(label, index, size))
            write_labels(root / "SegmentationClass" / f"{name}.png", labels)
            thing = Thing(classes[label - 1], (x1 + 1, y1 + 1, x2, y2))
            write_annotation(root / "Annotations" / f"{name}.xml", [thing], size=size, source=source)
            names.append(name)
        for task in ("Main", "Segmentation"):
            write_list(root / "ImageSets" / task / f"{split}.txt", names)
    if labelmap:
        entries = zip(("background", *classes), COLOURS, strict=False)
        lines = [f"{name}:{red},{green},{blue}::" for name, (red, green, blue) in entries]
        (root / "labelmap.txt").write_text("\n".join(["# label:color_rgb:parts:actions", *lines]) + "\n", "utf-8")
    return root


def write_coco(
    root: Path,
    *,
    train: int = 4,
    val: int = 2,
    size: tuple[int, int] = SIZE,
    classes: Sequence[str] = ("disc", "box"),
    ending: str = "2017",
    segmentation: bool = True,
) -> Path:
    """Write COCO's layout; picture i holds one rectangle of class i modulo their number, drawn as a polygon.

    Ids are those of real files: images anything, annotations counted over all, categories with gaps and out of order.
    """
    categories = [{"supercategory": "thing", "id": 3 * i + 2, "name": name} for i, name in enumerate(classes)]
    for split, count, first in (("train", train, 0), ("val", val, train)):
        images, annotations = [], []
        for index in range(first, first + count):
            name = f"{1000 + 7 * index:012d}.jpg"
            x1, y1, x2, y2 = rectangle(index, size)
            write_image(root / f"{split}{ending}" / name, picture(1 + index % len(classes), index, size))
            images.append(
                {
                    "license": 1,
                    "file_name": name,
                    "coco_url": "",
                    "height": size[0],
                    "width": size[1],
                    "date_captured": "2013-11-14 17:02:52",
                    "id": 1000 + 7 * index,
                }
            )
            annotations.append(
                {
                    "segmentation": [[x1, y1, x2, y1, x2, y2, x1, y2]] if segmentation else [],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": 0,
                    "image_id": 1000 + 7 * index,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "category_id": 3 * (index % len(classes)) + 2,
                    "id": 500 + index,
                }
            )
        write_json(
            root / "annotations" / f"instances_{split}{ending}.json",
            {
                "info": {"year": 2017},
                "licenses": [{"id": 1, "name": "none"}],
                "images": images,
                "annotations": annotations[::-1],
                "categories": categories[::-1],
            },
        )
    return root


def write_roboflow(root: Path, *, train: int = 4, val: int = 2, valid: bool = True) -> Path:
    """Write COCO's JSON as Roboflow exports it: beside its pictures, with the project as a category of id 0."""
    write_coco(root, train=train, val=val, ending="")
    for split, folder in (("train", "train"), ("val", "valid"), ("val", "test")):
        source = root / "annotations" / f"instances_{split}.json"
        content = json.loads(source.read_text(encoding="utf-8"))
        for category in content["categories"]:
            category["supercategory"] = "shapes"
        content["categories"].insert(0, {"id": 0, "name": "shapes", "supercategory": "none"})
        if split != folder:
            shutil.copytree(root / split, root / folder, dirs_exist_ok=True)
        write_json(root / folder / "_annotations.coco.json", content)
    for folder in ("annotations", "val", *(() if valid else ("valid", "test"))):
        shutil.rmtree(root / folder)
    return root


def write_yolo(
    root: Path,
    *,
    train: int = 4,
    val: int = 2,
    size: tuple[int, int] = SIZE,
    names: str = "[disc, box]",
    polygons: bool = False,
    yaml: str = "path: .\ntrain: images/train\nval: images/val\n",
) -> Path:
    """Write Ultralytics' layout; picture i holds one rectangle of class i modulo 2, and the last of train none."""
    height, width = size
    for split, count, first in (("train", train, 0), ("val", val, train)):
        for index in range(first, first + count):
            name = f"image_{index:03d}"
            background = split == "train" and index == train - 1
            write_image(
                root / "images" / split / f"{name}.jpg", picture(0 if background else 1 + index % 2, index, size)
            )
            if background:
                continue
            x1, y1, x2, y2 = rectangle(index, size)
            points = (x1, y1, x2, y1, x2, y2, x1, y2)
            box = ((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1)
            shares = [value / (width, height)[place % 2] for place, value in enumerate(points if polygons else box)]
            line = " ".join([str(index % 2), *(f"{share:.6f}" for share in shares)])
            write_list(root / "labels" / split / f"{name}.txt", [line])
    (root / "data.yaml").write_text(f"{yaml}names: {names}\n", encoding="utf-8")
    return root


def write_label_maps(
    root: Path,
    *,
    form: str = "{kind}/{split}",
    splits: Sequence[str] = ("train", "val"),
    kinds: tuple[str, str] = ("images", "masks"),
    ending: str = "",
    values: Sequence[int] = (0, 1, 2),
    count: int = 4,
) -> Path:
    """Write pictures and grey label maps, ``count`` for the first split and 2 for each other.

    Picture i holds one rectangle of class 1 + i modulo the number of classes; ``values`` are what its label map stores
    for background and classes.
    """
    first = 0
    for place, split in enumerate(splits):
        number = 2 if place else count
        for index in range(first, first + number):
            label = 1 + index % (len(values) - 1)
            folders = [root / form.format(kind=kind, split=split) for kind in kinds]
            write_image(folders[0] / f"image_{index:03d}.jpg", picture(label, index))
            labels = label_map(values[label], index, background=values[0])
            write_labels(folders[1] / f"image_{index:03d}{ending}.png", labels, palette=False)
        first += number
    return root


def write_ade20k(root: Path) -> Path:
    """Write SceneParsing's layout: 0 around the rectangle, and class 1 (wall) or 2 (building) in it."""
    write_label_maps(root, splits=("training", "validation"), kinds=("images", "annotations"))
    rows = [f"{index}\t0.1\t10\t1\t0\t{'wall' if index == 1 else f'name {index}, other'}" for index in range(1, 151)]
    write_list(root / "objectInfo150.txt", ["Idx\tRatio\tTrain\tVal\tStuff\tName", *rows])
    return root


def write_cityscapes(root: Path, *, kind: str = "labelIds") -> Path:
    """Write Cityscapes' layout: road around the rectangle, a car or a person in it, and a seam to ignore."""
    road, car, person, seam = (7, 26, 24, 4) if kind == "labelIds" else (0, 13, 11, 255)
    index = 0
    for split, cities in (("train", ("aachen", "bonn")), ("val", ("ulm",))):
        for city in cities:
            for _ in range(2):
                name = f"{city}_{index:06d}_000019"
                labels = label_map((car, person)[index % 2], index, background=road)
                labels[0] = seam
                write_image(
                    root / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png", picture(1 + index % 2, index)
                )
                write_labels(root / "gtFine" / split / city / f"{name}_gtFine_{kind}.png", labels, palette=False)
                index += 1
    return root


def write_coco_stuff(
    root: Path, *, folder: str = "stuffthingmaps/{split}2017", values: Sequence[int] = (255, 0, 91)
) -> Path:
    """Write COCO-Stuff's layout: nothing around the rectangle, a person or a banner in it."""
    for split, count, first in (("train", 4, 0), ("val", 2, 4)):
        for index in range(first, first + count):
            name = f"{1000 + 7 * index:012d}"
            write_image(root / f"{split}2017" / f"{name}.jpg", picture(1 + index % 2, index))
            labels = label_map(values[1 + index % 2], index, background=values[0])
            write_labels(root / folder.format(split=split) / f"{name}.png", labels, palette=False)
    return root


def write_coco_panoptic(root: Path) -> Path:
    """Write COCO's panoptic layout: sky around the rectangle, a person or a dog in it, nothing in the topmost row."""
    categories = [
        {"id": 18, "name": "dog", "isthing": 1},
        {"id": 1, "name": "person", "isthing": 1},
        {"id": 187, "name": "sky-other-merged", "isthing": 0},
    ]
    for split, count, first in (("train", 4, 0), ("val", 2, 4)):
        images, annotations = [], []
        for index in range(first, first + count):
            name = f"{1000 + 7 * index:012d}"
            thing, sky = 3226956 + index, 300
            codes = np.where(label_map(1, index) == 1, thing, sky)
            codes[0] = 0
            colours = np.stack([codes % 256, codes // 256 % 256, codes // 65536], axis=-1).astype(np.uint8)
            write_image(root / f"{split}2017" / f"{name}.jpg", picture(1 + index % 2, index))
            write_image(root / "annotations" / f"panoptic_{split}2017" / f"{name}.png", colours)
            images.append({"id": 1000 + 7 * index, "file_name": f"{name}.jpg", "height": SIZE[0], "width": SIZE[1]})
            segments = [
                {"id": thing, "category_id": (1, 18)[index % 2], "iscrowd": 0, "area": 432},
                {"id": sky, "category_id": 187, "iscrowd": 0, "area": 1000},
            ]
            annotations.append({"image_id": 1000 + 7 * index, "file_name": f"{name}.png", "segments_info": segments})
        content = {"images": images, "annotations": annotations, "categories": categories}
        write_json(root / "annotations" / f"panoptic_{split}2017.json", content)
    return root


def write_json(path: Path, content: object) -> None:
    """Write one JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def write_list(path: Path, names: Sequence[str]) -> None:
    """Write one name a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{name}\n" for name in names), encoding="utf-8")


WRITERS: dict[str, Callable[[Path], Path]] = {
    "ade20k": write_ade20k,
    "camvid": write_camvid,
    "cityscapes": write_cityscapes,
    "coco": write_coco,
    "coco_panoptic": write_coco_panoptic,
    "coco_stuff": write_coco_stuff,
    "label_maps": write_label_maps,
    "voc": write_voc,
    "yolo": write_yolo,
}
"""Data set -> what writes a tiny one into a folder and returns the data root."""


def _with_palette(labels: NDArray[np.uint8]) -> Image.Image:
    """Return a palette image whose pixel values are ``labels`` and whose colours are Pascal VOC's."""
    image = Image.new("P", (labels.shape[1], labels.shape[0]))
    image.putdata(labels.ravel().tolist())
    palette: list[int] = []
    for index in range(256):
        colour = [0, 0, 0]
        for bit in range(8):  # bits 0, 3, 6 of the index are the highest bits of red, and so on
            colour[bit % 3] |= (index >> bit & 1) << (7 - bit // 3)
        palette += colour
    image.putpalette(palette)
    return image


def _object_xml(thing: Thing) -> str:
    # As in VOC, a part has a name and a box, and nothing else. Parts stand before the name here, so that whoever takes
    # the first name that comes takes a wrong one.
    parts = "".join(f"<part><name>{escape(part.name)}</name>{_box_xml(part)}</part>" for part in thing.parts)
    return (
        f"\t<object>{parts}<name>{escape(thing.name)}</name><pose>Unspecified</pose><truncated>0</truncated>"
        f"<difficult>{int(thing.difficult)}</difficult>{_box_xml(thing)}</object>\n"
    )


def _box_xml(thing: Thing) -> str:
    sides = zip(("xmin", "ymin", "xmax", "ymax"), thing.corners, strict=True)
    return f"<bndbox>{''.join(f'<{side}>{value}</{side}>' for side, value in sides)}</bndbox>"
