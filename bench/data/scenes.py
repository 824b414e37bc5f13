"""Procedural scenes that tell backbones apart: thin lines, textures, a wide range of sizes, and a distant cue.

No download and no photograph: a scene is a few vectors in unit coordinates (`_raster`), drawn from (seed, split,
index) alone and rendered at any size with the same labels. What each class asks of a backbone:

* ``disk`` and ``polygon``: outline, over a wide range of sizes. ``ring`` and ``stroke``: lines of a few pixels.
* ``stripes`` and ``checks``: outlines as those of disks and polygons, two colours in equal parts; only texture tells
  them from each other.
* ``twin_light`` and ``twin_dark``: one and the same cross. A square mark near the border, which is background, decides
  for all twins of the scene: light in a dark frame or dark in a light one. Nothing of a twin is within half an image
  of the mark, so only a receptive field of that reach can do better than chance. A flip or a quarter turn keeps all
  this true; a crop may lose the mark, and inverting the colours turns it into the other one.

``scenes:distance=0.3`` is a series of its own with few objects and a larger mark, where every scene has twins and each
of them (two, or one where the second finds no place) lies 0.3 to 0.4 of a side from the mark, measured between the
circles round both (outlines are up to 0.1 further apart): how far a backbone sees, as an axis.

Colours are drawn alike for every class, at a minimum contrast to the ground. Boxes are the outlines' own bounds,
hidden parts included, so they scale exactly; whether an object shows enough to count is judged at one size for all.
Instance masks are what is seen of each object: a later object takes its pixels away from those below, so a mask may
end short of its box. A split rendered at one size is kept in one file under the cache folder; masks are not in it and
are drawn when they are asked for.
"""

import fcntl
import hashlib
import math
import os
import re
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.data import _raster as art
from bench.data.contract import Dataset, Sample, Split, Task, Truth
from bench.errors import UserError, unknown

CATALOGUE = {
    "scenes": {
        "tasks": ["segmentation", "detection"],
        "version": 1,
        "masks": True,
        "root": False,
        "redistributable": True,
        "variants": "distance=D, with D from 0 to 0.5: twins lie so many image sides from their mark",
        "doc": "Procedural scenes with thin lines, textures and a distant cue: 2000 for training, 200 for validation.",
    }
}

VERSION = CATALOGUE["scenes"]["version"]
"""Part of the cache's name and of what a measurement depends on. Whatever changes what a scene looks like (here or in
`_raster`) must raise it, or results measured on different pictures are compared as if they were the same."""

CLASSES = ("background", "disk", "polygon", "stroke", "ring", "stripes", "checks", "twin_light", "twin_dark")
"""Mask values 0..8; a detection label is the mask value less one."""
TRUTH_SIZE = (256, 256)
"""Ground-truth resolution (H, W)."""

_DISK, _POLYGON, _STROKE, _RING, _STRIPES, _CHECKS, _TWIN_LIGHT, _TWIN_DARK = range(1, 9)


@dataclass(frozen=True)
class _World:
    """What scenes are drawn from. Lengths are in image sides, ranges are low..high, colours 0..1."""

    seed: int = 20_231
    counts: tuple[tuple[Split, int], ...] = (("train", 2000), ("val", 200))
    things: tuple[int, int] = (5, 8)
    """Objects drawn; a scene may end with fewer, where no place was left or one was hidden."""
    most: int = 8
    filled: tuple[float, float] = (0.06, 0.5)
    """Diameter of disks and polygons, log-uniform as all sizes are."""
    woven: tuple[float, float] = (0.14, 0.5)
    """Diameter of textured objects: below, not two periods would fit."""
    twin: tuple[float, float] = (0.1, 0.36)
    """Length of a cross; above, little room is left at the required distance from the mark."""
    ring: tuple[float, float] = (0.12, 0.5)
    stroke: tuple[float, float] = (0.15, 0.6)
    stroke_width: tuple[float, float] = (1.5 / 128, 3 / 128)
    ring_width: tuple[float, float] = (2 / 128, 4 / 128)
    period: tuple[float, float] = (0.045, 0.085)
    """Of stripes and checks: 3 to 5 pixels at 64, 6 to 11 at 128."""
    contrast: float = 0.4
    """Least Euclidean distance of an object's colours to the ground at its centre, and of a texture's two colours."""
    cue: float = 0.12
    """Side of the mark that decides between the twins."""
    reach: float = 0.5
    """Least distance between the outlines of the mark and a twin, measured between circles round them."""
    margin: float = 0.01
    """Objects keep this distance to the border."""
    overlap: float = 0.3
    """Largest part of the smaller of two boxes that the other may cover."""
    judged_at: tuple[int, int] = (64, 64)
    """The rendering (H, W) in which visibility is judged for all sizes."""
    visible: float = 0.35
    """Least part of its pixels that an object shows; with less it is left out of the scene."""
    # What a variant alone has goes into the name of its files, and not into the digest of all.
    distance: float | None = field(default=None, repr=False)
    """Of every twin from the mark, up to `_BAND` more; None: `reach` or more."""
    square: float = field(default=1 / math.sqrt(2), repr=False)
    """Side of the square in the frame, as a share of the frame's: here both have the same area."""


_BAND = 0.1
_TWINS = 2
"""In every scene of a variant; one where the second finds no place."""
WORLD = _World()


def variant(text: str) -> _World:
    """What the scenes of ``scenes:TEXT`` are drawn from; of "" the scenes of every other matrix.

    Raises:
        UserError: there is no such variant; says which there are.
    """
    if not text:
        return WORLD
    match = re.fullmatch(r"distance=(0|0\.\d*[1-9])", text)  # one spelling each: 0.3 and 0.30 would be two data sets
    if match is None or float(match[1]) > WORLD.reach:
        raise UserError(f"scenes have no variant '{text}'; there is {CATALOGUE['scenes']['variants']}, written as 0.3")
    # A large mark, nearly all light or dark, large crosses and hardly anything else: what is asked is how far a model
    # sees, not how small. The mark of the other scenes a plain ViT used in one trial of three within 2000 steps.
    return replace(WORLD, distance=float(match[1]), things=(0, 1), twin=(0.2, 0.3), cue=0.18, square=0.85)


@dataclass(frozen=True)
class Cue:
    """The mark: centre (x, y) in unit coordinates and the look that makes the scene's twins ``twin_light``."""

    x: float
    y: float
    light: bool


@dataclass(frozen=True)
class Description:
    """A scene and what is known of it beyond the picture; ``cue`` is there exactly if twins are."""

    scene: art.Scene
    cue: Cue | None


def describe(split: Split, index: int, world: _World | None = None) -> Description:
    """The scene of that index: the same in every process, at every size and in whatever order it is asked for."""
    world = world or WORLD
    rng = np.random.Generator(np.random.PCG64([world.seed, ["train", "val"].index(split), index]))
    dice = _Dice(rng)
    ground = _ground(rng, dice)
    low, high = world.things
    # One ticket a class: twins have two, and which of the two classes they are is the scene's choice.
    tickets = [1 + dice.below(8) for _ in range(low + dice.below(high - low + 1))]
    if world.distance is not None:
        # Others than twins, and the twins first, while there is room at their distance.
        tickets = [_TWIN_LIGHT] * _TWINS + [1 + (ticket - 1) % 6 for ticket in tickets]
    light = dice.below(2) == 0
    cue = _cue(dice, light, world) if any(ticket >= _TWIN_LIGHT for ticket in tickets) else None
    twin = _TWIN_LIGHT if light else _TWIN_DARK
    things: list[art.Thing] = []
    boxes: list[art.Box] = []
    for ticket in tickets:
        thing = _thing(dice, twin if ticket >= _TWIN_LIGHT else ticket, ground, boxes, cue, world)
        if thing is not None:
            things.append(thing)
            boxes.append(thing.extent)
    things = _without_hidden(things)
    if not any(thing.label >= _TWIN_LIGHT for thing in things):
        cue = None
    return Description(art.Scene(ground, _marks(cue, world) if cue else (), tuple(things)), cue)


def _without_hidden(things: list[art.Thing]) -> list[art.Thing]:
    """What is not almost covered. One pass is enough: leaving one out can only uncover others."""
    owner, areas = art.owners(things, WORLD.judged_at)
    shown = np.bincount(owner.ravel(), minlength=len(areas) + 1)[1:].tolist()
    return [t for t, pixels, area in zip(things, shown, areas, strict=True) if pixels >= WORLD.visible * area > 0]


class _Dice:
    """Scalars from one block of uniform numbers: asking numpy for each alone would take longer than the shapes."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._left: Iterator[float] = iter(())

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """In low..high."""
        value = next(self._left, None)
        if value is None:
            self._left = iter(self._rng.random(256).tolist())
            value = next(self._left)
        return low + (high - low) * value

    def log_uniform(self, span: tuple[float, float]) -> float:
        """In low..high, equally often between any two lengths of the same ratio."""
        return math.exp(self.uniform(math.log(span[0]), math.log(span[1])))

    def below(self, count: int) -> int:
        """In 0..count - 1."""
        return int(self.uniform() * count)


_COSINES = np.array([0, *range(2, art.WAVES + 2)])
"""The basis' columns that noise is made of: all but the gradient's."""
_FADE = 1 / (1 + np.hypot(*np.meshgrid(np.arange(art.WAVES + 1), np.arange(art.WAVES + 1))))
_FADE[0, 0] = 0


def _ground(rng: np.random.Generator, dice: _Dice) -> art.Ground:
    """A muted colour, a linear gradient, noise that is mostly of lightness and weaker for finer waves, and grain.

    Muted as most natural grounds are: what tells an object from the ground is then quickly learnt, and a short training
    spends its steps on what tells the objects from one another.
    """
    noise = rng.standard_normal((4, *_FADE.shape)) * _FADE
    waves = np.zeros((3, art.WAVES + 2, art.WAVES + 2))
    waves[:, _COSINES[:, None], _COSINES] = (noise[:1] + 0.5 * noise[1:]) * dice.uniform(0.03, 0.08)
    waves[:, 0, 0] = dice.uniform(0.3, 0.7) + rng.uniform(-0.1, 0.1, 3)
    waves[:, 1, 0] = dice.uniform(-0.2, 0.2) + rng.uniform(-0.06, 0.06, 3)
    waves[:, 0, 1] = dice.uniform(-0.2, 0.2) + rng.uniform(-0.06, 0.06, 3)
    offset = (dice.below(art.GRAIN_TILE // 2), dice.below(art.GRAIN_TILE // 2))
    return art.Ground(waves, dice.uniform(0.01, 0.04), offset)


def _cue(dice: _Dice, light: bool, world: _World) -> Cue:
    """Near one of the four borders, anywhere along it; in a variant towards a corner, to have room at its distance."""
    near = world.cue / 2 + 0.02
    along = dice.uniform(near, 1 - near)
    if world.distance is not None:
        along = near + 0.3 * (along - near) if dice.below(2) else 1 - near - 0.3 * (along - near)
    across = near if dice.below(2) else 1 - near
    return Cue(along, across, light) if dice.below(2) else Cue(across, along, light)


def _marks(cue: Cue, world: _World) -> tuple[art.Thing, art.Thing]:
    """A square in a frame; of the same area, the picture's mean says nothing of which is the light one."""
    light, dark = (0.95, 0.95, 0.95), (0.05, 0.05, 0.05)
    inner, outer = (light, dark) if cue.light else (dark, light)
    half = world.cue / 2
    frame, square = art.Square(cue.x, cue.y, half), art.Square(cue.x, cue.y, half * world.square)
    return art.Thing(0, frame, frame.extent, outer), art.Thing(0, square, square.extent, inner)


def _thing(
    dice: _Dice, label: int, ground: art.Ground, boxes: list[art.Box], cue: Cue | None, world: _World
) -> art.Thing | None:
    """One object in a place that is free enough, or None if a few throws found none."""
    shape = _shape(dice, label, world)
    x0, y0, x1, y1 = shape(0.0, 0.0).extent
    near_mark = cue is not None and label >= _TWIN_LIGHT and world.distance is not None
    for _ in range(200 if near_mark else 12):
        x = dice.uniform(WORLD.margin - x0, 1 - WORLD.margin - x1)
        y = dice.uniform(WORLD.margin - y0, 1 - WORLD.margin - y1)
        if near_mark and cue is not None and world.distance is not None:
            # Thrown at its distance at once: most places of the picture are at another.
            away = world.distance + dice.uniform(0, _BAND) + math.hypot(x1 - x0, y1 - y0) / 2 + world.cue / math.sqrt(2)
            angle = dice.uniform(0, 2 * math.pi)
            x, y = cue.x + away * math.cos(angle), cue.y + away * math.sin(angle)
            if not (
                WORLD.margin - x0 <= x <= 1 - WORLD.margin - x1 and WORLD.margin - y0 <= y <= 1 - WORLD.margin - y1
            ):
                continue
        box = (x + x0, y + y0, x + x1, y + y1)
        if any(_covered(box, other) > WORLD.overlap for other in boxes):
            continue
        if cue is not None and _crowds(box, label >= _TWIN_LIGHT, cue, world):
            continue
        near = _ground_at(ground, x, y)
        colour = _colour(dice, near)
        if label not in (_STRIPES, _CHECKS):
            return art.Thing(label, shape(x, y), box, colour)
        weave = art.Weave(
            _colour(dice, near, colour),
            dice.log_uniform(WORLD.period),
            dice.uniform(0, math.pi),
            (dice.uniform(), dice.uniform()),
            crossed=label == _CHECKS,
        )
        return art.Thing(label, shape(x, y), box, colour, weave)
    return None


def _shape(dice: _Dice, label: int, world: _World) -> Callable[[float, float], art.Shape]:
    """An outline of that class, still to be given a centre (x, y)."""
    angle = dice.uniform(0, 2 * math.pi)
    if label == _STROKE:
        half = dice.log_uniform(WORLD.stroke) / 2
        bow, sway = dice.uniform(-0.4, 0.4) * half, dice.uniform(-0.6, 0.6) * half
        width = dice.uniform(*WORLD.stroke_width)
        return lambda x, y: art.Stroke(x, y, half, bow, sway, angle, width)
    if label == _RING:
        width = dice.uniform(*WORLD.ring_width)
        radius = (dice.log_uniform(WORLD.ring) - width) / 2
        return lambda x, y: art.Ring(x, y, radius, width)
    if label >= _TWIN_LIGHT:
        arm = dice.log_uniform(world.twin) / 2
        return lambda x, y: art.Cross(x, y, arm, 0.36 * arm, angle)
    radius = dice.log_uniform(WORLD.woven if label in (_STRIPES, _CHECKS) else WORLD.filled) / 2
    if label == _DISK or (label != _POLYGON and dice.below(2)):
        return lambda x, y: art.Disk(x, y, radius)
    # Up to five corners: with more, a small polygon is a disk to any eye.
    corners = 3 + dice.below(3)
    angles = tuple(angle + 2 * math.pi * (i + dice.uniform(-0.25, 0.25)) / corners for i in range(corners))
    return lambda x, y: art.Polygon(x, y, radius, angles)


def _covered(one: art.Box, other: art.Box) -> float:
    """Area that two boxes share, as a part of the smaller."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    return width * height / min((one[2] - one[0]) * (one[3] - one[1]), (other[2] - other[0]) * (other[3] - other[1]))


def _crowds(box: art.Box, twin: bool, cue: Cue, world: _World) -> bool:
    """Whether a box touches the mark, or, for a twin, is within ``reach`` of it or not at its ``distance``."""
    half = world.cue / 2 + world.margin
    if _covered(box, (cue.x - half, cue.y - half, cue.x + half, cue.y + half)) > 0:
        return True
    if not twin:
        return False
    # The circle round a box holds the cross in it, and the circle round the mark its corners.
    x, y, radius = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2, math.hypot(box[2] - box[0], box[3] - box[1]) / 2
    gap = math.hypot(x - cue.x, y - cue.y) - radius - world.cue / math.sqrt(2)
    return gap < world.reach if world.distance is None else not world.distance <= gap <= world.distance + _BAND


def _ground_at(ground: art.Ground, x: float, y: float) -> art.Colour:
    """The ground's colour at a point, without noise."""
    base, down, right = (ground.waves[:, i, j].tolist() for i, j in ((0, 0), (1, 0), (0, 1)))
    red, green, blue = (b + (y - 0.5) * d + (x - 0.5) * r for b, d, r in zip(base, down, right, strict=True))
    return red, green, blue


def _colour(dice: _Dice, *others: art.Colour) -> art.Colour:
    """Any colour that contrasts with all others: one rule for every class, so that none has colours of its own."""
    while True:
        colour = (dice.uniform(0.03, 0.97), dice.uniform(0.03, 0.97), dice.uniform(0.03, 0.97))
        if all(math.dist(colour, other) >= WORLD.contrast for other in others):
            return colour


def _layout(size: tuple[int, int]) -> np.dtype[Any]:
    """One scene at ``size`` as the cache stores it; boxes are xyxy in unit coordinates, ``check`` is a CRC-32."""
    return np.dtype(
        [
            ("image", "u1", (*size, 3)),
            ("mask", "u1", size),
            ("boxes", "<f8", (WORLD.most, 4)),
            ("classes", "u1", (WORLD.most,)),
            ("things", "u1"),
            ("check", "<u4"),
        ]
    )


def _checksum(row: NDArray[np.void]) -> int:
    return zlib.crc32(row.tobytes()[: -row.dtype["check"].itemsize])


def _render(split: Split, index: int, size: tuple[int, int], world: _World | None = None) -> NDArray[np.void]:
    """One row (1,) of `_layout`."""
    scene = describe(split, index, world).scene
    row = np.zeros(1, _layout(size))
    image, owner = art.paint(scene, size)
    row["image"][0] = image
    row["mask"][0] = _classes(scene)[owner]
    for i, thing in enumerate(scene.things):
        row["boxes"][0, i] = thing.extent
        row["classes"][0, i] = thing.label
    row["things"] = len(scene.things)
    row["check"] = _checksum(row)
    return row


def _classes(scene: art.Scene) -> NDArray[np.uint8]:
    """Owner -> class."""
    return np.array([0, *(thing.label for thing in scene.things)], np.uint8)


class Rendering:
    """The file of one split at one size: made once by whoever comes first, then mapped into memory.

    It holds bare rows of `_layout`; its name tells their size, number and origin, so any other length is corrupt.
    """

    LARGEST = 2**32
    """Bytes on disk beyond which nothing is stored, and scenes are rendered when they are asked for, which takes 15 ms
    and more: the training split fits up to 732 x 732 px."""

    def __init__(
        self, cache: Path, split: Split, count: int, size: tuple[int, int], world: _World | None = None
    ) -> None:
        world = world or WORLD
        layout = _layout(size)
        source = hashlib.sha256(repr((VERSION, world, CLASSES, layout)).encode()).hexdigest()[:12]
        far = "" if world.distance is None else f"-distance{world.distance:g}"
        self.path = cache / f"scenes-v{VERSION}-{source}{far}-{split}-{size[0]}x{size[1]}.bin"
        self._world = world
        self._split: Split = split
        self._count = count
        self._size = size
        self._rows: NDArray[np.void] | None = None
        self._usable = count * layout.itemsize <= self.LARGEST
        self._repaired = False

    def row(self, index: int) -> NDArray[np.void]:
        """Row (1,) of `_layout`, from the file if there can be one."""
        if self._rows is None and self._usable:
            self._open()
        if self._rows is not None:
            row = np.array(self._rows[index : index + 1])
            if int(row["check"][0]) == _checksum(row):
                return row
            self._repair()
        return _render(self._split, index, self._size, self._world)

    def _open(self) -> None:
        try:
            self._rows = self._mapped()
            if self._rows is None:
                with self._locked():
                    self._rows = self._mapped()  # another process may have made it while this one waited
                    if self._rows is None:
                        self._write()
                        self._rows = self._mapped()
        except OSError as error:
            self._usable = False
            warnings.warn(
                f"scenes cannot be cached in {self.path.parent} ({error}): each is rendered when it is asked for",
                RuntimeWarning,
                stacklevel=4,
            )

    def _repair(self) -> None:
        """Give up the file with a bad row in it; after a second one, give up caching."""
        self._rows = None
        self._usable = not self._repaired
        self._repaired = True
        warnings.warn(f"{self.path} is corrupt and is rendered again", RuntimeWarning, stacklevel=4)
        with suppress(OSError), self._locked():
            # Another process may have replaced it already: only a bad file goes.
            rows = self._mapped()
            if rows is not None and any(int(rows["check"][i]) != _checksum(rows[i : i + 1]) for i in range(len(rows))):
                self.path.unlink()

    def _mapped(self) -> NDArray[np.void] | None:
        """The file's rows (count,), or None if it is missing or of the wrong length."""
        layout = _layout(self._size)
        try:
            if self.path.stat().st_size != self._count * layout.itemsize:
                return None
            return np.memmap(self.path, layout, mode="r", shape=(self._count,))
        except FileNotFoundError:
            return None

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Held by one process at a time, and let go by the system if it dies."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.with_suffix(".lock").open("a", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _write(self) -> None:
        """Render the split. Written, not mapped: on a full disk a write says so, a mapped page kills the process."""
        temporary = self.path.with_suffix(".tmp")  # one name is enough under the lock, and a torn one is overwritten
        try:
            with temporary.open("wb") as file:
                rows = (_render(self._split, index, self._size, self._world) for index in range(self._count))
                file.writelines(row.tobytes() for row in rows)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


class Scenes(Dataset):
    """One split; both tasks show the same images. ``masks``: objects come with their visible pixels."""

    def __init__(
        self, task: Task, split: Split, cache: Path, *, masks: bool = False, world: _World | None = None
    ) -> None:
        self.name = "scenes"
        self.task = task
        self.classes = CLASSES if task == "segmentation" else CLASSES[1:]
        self.background = 0 if task == "segmentation" else None
        self.flips = ("horizontal", "vertical")
        self.pair = (_TWIN_LIGHT, _TWIN_DARK) if task == "segmentation" else None
        self._world = world or WORLD
        self.split: Split = split
        self._masks = masks
        self._cache = cache
        self._count = dict(WORLD.counts)[split]
        self._renderings: dict[tuple[int, int], Rendering] = {}

    def __len__(self) -> int:
        return self._count

    def __getstate__(self) -> dict[str, Any]:
        # A mapped file would be pickled by value: a worker opens its own.
        return {**self.__dict__, "_renderings": {}}

    def whole(self, index: int, enough: tuple[int, int]) -> Sample:
        """A square of the larger side of ``enough``, drawn at that size with its labels."""
        return self.sample(index, (max(enough), max(enough)))

    def sample(self, index: int, size: tuple[int, int]) -> Sample:
        """Image and labels at ``size`` (H, W). The first call for a size renders the whole split into the cache."""
        self._within(index)
        height, width = size
        size = (int(height), int(width))
        if size not in self._renderings:
            self._renderings[size] = Rendering(self._cache, self.split, self._count, size, self._world)
        row = self._renderings[size].row(index)
        things = int(row["things"][0])
        owner = art.owners(describe(self.split, index, self._world).scene.things, size)[0] if self._masks else None
        truth = self._truth(size, row["mask"][0], row["boxes"][0, :things], row["classes"][0, :things], owner)
        return Sample(row["image"][0], truth)

    def truth(self, index: int) -> Truth:
        """Labels at 256x256, drawn without the picture: cheap enough not to be stored."""
        self._within(index)
        scene = describe(self.split, index, self._world).scene
        owner, _ = art.owners(scene.things, TRUTH_SIZE)
        classes = _classes(scene)
        extents = np.array([thing.extent for thing in scene.things], np.float64).reshape(-1, 4)
        return self._truth(TRUTH_SIZE, classes[owner], extents, classes[1:], owner if self._masks else None)

    def _truth(
        self,
        size: tuple[int, int],
        mask: NDArray[np.uint8],
        extents: NDArray[np.float64],
        classes: NDArray[np.uint8],
        owner: NDArray[np.uint8] | None,
    ) -> Truth:
        """From a mask (H, W), boxes (M, 4) in unit coordinates, mask values (M,) and, for masks, owners (H, W)."""
        if self.task == "segmentation":
            return Truth(size, mask, np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, np.bool_))
        height, width = size
        boxes = (np.clip(extents, 0, 1) * [width, height, width, height]).astype(np.float32)
        masks = None if owner is None else owner == np.arange(1, len(classes) + 1, dtype=np.uint8)[:, None, None]
        return Truth(size, None, boxes, classes.astype(np.int64) - 1, np.zeros(len(classes), np.bool_), masks)

    def _within(self, index: int) -> None:
        if not 0 <= index < self._count:
            raise IndexError(f"scene {index} of {self._count} in the {self.split} split")


def load(
    name: str,
    *,
    task: Task,
    root: Path | None,
    cache: Path,
    split: Split,
    masks: bool = False,
    instance: str = "",
) -> Scenes:
    """One split of ``scenes``; ``root`` is not needed, ``cache`` is the folder for rendered splits.

    Raises:
        UserError: no such data set, variant, task or split here.
    """
    del root
    world = variant(instance)
    if name not in CATALOGUE:
        raise unknown("data set", name, CATALOGUE)
    if task not in ("segmentation", "detection"):
        raise unknown("task of scenes", task, ["segmentation", "detection"])
    if split not in dict(WORLD.counts):
        raise unknown("split of scenes", split, dict(WORLD.counts))
    return Scenes(task, split, cache, masks=masks, world=world)
