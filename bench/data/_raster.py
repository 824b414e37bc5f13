"""Vector scenes and their rasteriser: shapes as signed distances, inks, a textured ground.

Everything is described in unit coordinates: x to the right and y down, both 0..1 over the whole image, whatever its
size in pixels. A rendering at (H, W) samples the description at the pixel centres ((j + 0.5) / W, (i + 0.5) / H), so
renderings of several sizes are the same scene, and a non-square one is stretched. Only the grain (noise of one pixel)
belongs to the rendering and not to the scene.

Legend: h, w = a window of the image that one object touches; H, W = the image; colours are RGB in 0..1.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Float: TypeAlias = NDArray[np.float32]
Box: TypeAlias = tuple[float, float, float, float]
Colour: TypeAlias = tuple[float, float, float]

WAVES = 10
"""Cosines a side in the ground's low-frequency noise: half a cycle to five cycles across the image."""
GRAIN_TILE = 512
"""Side of the stored tile of pixel noise, in pixels; twice the largest usual image, so that windows differ."""


class Shape(ABC):
    """An outline: where it is inside (negative distance), and the box that just holds it."""

    thickness: float = math.inf
    """Width of a line in image sides, which a pixel may be wider than; infinite for a filled shape."""

    @property
    @abstractmethod
    def extent(self) -> Box:
        """Tight analytic bounds x0, y0, x1, y1 in unit coordinates."""

    @abstractmethod
    def distance(self, x: Float, y: Float) -> Float:
        """Signed distance in image sides, negative inside, for x (w,) and y (h,) -> (h, w).

        The sign is exact; the value is first order, which is all that an edge of one pixel needs.
        """


@dataclass(frozen=True, slots=True)
class Disk(Shape):
    """Centre (x, y) and radius."""

    x: float
    y: float
    radius: float

    @property
    def extent(self) -> Box:
        return self.x - self.radius, self.y - self.radius, self.x + self.radius, self.y + self.radius

    def distance(self, x: Float, y: Float) -> Float:
        d = _radius(x - np.float32(self.x), y - np.float32(self.y))
        d -= np.float32(self.radius)
        return d


@dataclass(frozen=True, slots=True)
class Ring(Shape):
    """Centre (x, y), radius of the line's middle, and the line's width."""

    x: float
    y: float
    radius: float
    thickness: float

    @property
    def extent(self) -> Box:
        reach = self.radius + self.thickness / 2
        return self.x - reach, self.y - reach, self.x + reach, self.y + reach

    def distance(self, x: Float, y: Float) -> Float:
        d = _radius(x - np.float32(self.x), y - np.float32(self.y))
        d -= np.float32(self.radius)
        np.abs(d, out=d)
        d -= np.float32(self.thickness / 2)
        return d


@dataclass(frozen=True, slots=True)
class Polygon(Shape):
    """Convex, with corners on the circle round (x, y) at ``angles``, ascending, in radians."""

    x: float
    y: float
    radius: float
    angles: tuple[float, ...]

    @property
    def extent(self) -> Box:
        xs = [self.x + self.radius * math.cos(angle) for angle in self.angles]
        ys = [self.y + self.radius * math.sin(angle) for angle in self.angles]
        return min(xs), min(ys), max(xs), max(ys)

    def distance(self, x: Float, y: Float) -> Float:
        dx = x - np.float32(self.x)
        dy = (y - np.float32(self.y))[:, None]
        following = (*self.angles[1:], self.angles[0] + 2 * math.pi)
        deepest = np.full((len(y), len(x)), -np.inf, np.float32)
        for here, there in zip(self.angles, following, strict=True):
            # A chord's normal points at the middle of its arc, and its distance from the centre is r cos(half the arc).
            normal, half = (here + there) / 2, (there - here) / 2
            level = np.float32(math.sin(normal)) * dy - np.float32(self.radius * math.cos(half))
            np.maximum(deepest, np.float32(math.cos(normal)) * dx + level, out=deepest)
        return deepest


@dataclass(frozen=True, slots=True)
class Cross(Shape):
    """A plus sign turned by ``angle``: arms of length ``arm`` from the centre and of half width ``half``."""

    x: float
    y: float
    arm: float
    half: float
    angle: float

    @property
    def extent(self) -> Box:
        c, s = abs(math.cos(self.angle)), abs(math.sin(self.angle))
        reach = max(self.arm * c + self.half * s, self.arm * s + self.half * c)
        return self.x - reach, self.y - reach, self.x + reach, self.y + reach

    def distance(self, x: Float, y: Float) -> Float:
        u, v = _turn(x - np.float32(self.x), y - np.float32(self.y), self.angle)
        np.abs(u, out=u)
        np.abs(v, out=v)
        # Sorted, both arms fall on each other: one box is left to measure.
        along, across = np.maximum(u, v), np.minimum(u, v)
        along -= np.float32(self.arm)
        across -= np.float32(self.half)
        return np.maximum(along, across, out=along)


@dataclass(frozen=True, slots=True)
class Square(Shape):
    """Upright, with centre (x, y) and half a side."""

    x: float
    y: float
    half: float

    @property
    def extent(self) -> Box:
        return self.x - self.half, self.y - self.half, self.x + self.half, self.y + self.half

    def distance(self, x: Float, y: Float) -> Float:
        dx = np.abs(x - np.float32(self.x)) - np.float32(self.half)
        dy = np.abs(y - np.float32(self.y)) - np.float32(self.half)
        return np.maximum(dx, dy[:, None])


@dataclass(frozen=True, slots=True)
class Stroke(Shape):
    """A thin cubic, with centre (x, y) and an axis turned by ``angle``; lengths in image sides.

    Along the axis it runs from -``half`` to ``half`` and deviates from it by bow (1 - t^2) + sway t (1 - t^2), t in
    -1..1. Its ends are cut across the axis.
    """

    x: float
    y: float
    half: float
    bow: float
    sway: float
    angle: float
    thickness: float

    @property
    def extent(self) -> Box:
        # From points of both edges, a 64th of the length apart: they miss the true bounds by less than 1e-4 of it.
        c, s = math.cos(self.angle), math.sin(self.angle)
        t = _PARAMETER
        u, v = self.half * t, (self.bow + self.sway * t) * _HUMP
        slope = (self.sway * (1 - 3 * t * t) - 2 * self.bow * t) / self.half
        reach = self.thickness / 2 * np.sqrt(1 + slope * slope)
        x, dx = c * u - s * v, abs(s) * reach
        y, dy = s * u + c * v, abs(c) * reach
        return (
            self.x + float((x - dx).min()),
            self.y + float((y - dy).min()),
            self.x + float((x + dx).max()),
            self.y + float((y + dy).max()),
        )

    def distance(self, x: Float, y: Float) -> Float:
        u, v = _turn(x - np.float32(self.x), y - np.float32(self.y), self.angle)
        t = u * np.float32(1 / self.half)
        np.clip(t, -1, 1, out=t)
        hump = t * t
        slope = hump * np.float32(-3 * self.sway / self.half) + t * np.float32(-2 * self.bow / self.half)
        slope += np.float32(self.sway / self.half)
        np.subtract(1, hump, out=hump)
        t *= np.float32(self.sway)
        t += np.float32(self.bow)
        t *= hump
        v -= t
        np.abs(v, out=v)
        slope *= slope
        slope += 1
        v /= np.sqrt(slope, out=slope)
        v -= np.float32(self.thickness / 2)
        np.abs(u, out=u)
        u -= np.float32(self.half)
        return np.maximum(u, v, out=v)


_PARAMETER = np.linspace(-1, 1, 65)
_HUMP = 1 - _PARAMETER**2


@dataclass(frozen=True, slots=True)
class Weave:
    """Two-colour texture: bands of half a ``period`` (image sides) across ``angle``; crossed bands make checks.

    Either way each colour takes half of the plane. ``phase``: two shifts in periods, 0..1.
    """

    colour: Colour
    period: float
    angle: float
    phase: tuple[float, float]
    crossed: bool

    def share(self, x: Float, y: Float, scale: float) -> Float:
        """How much of each pixel the second colour covers, (h, w) in 0..1; ``scale``: pixels in an image side."""
        u, v = _turn(x, y, self.angle)
        first = self._bands(u, self.phase[0], scale)
        if not self.crossed:
            return first
        second = self._bands(v, self.phase[1], scale)
        both = first * second
        both *= -2
        both += first
        both += second
        return both

    def _bands(self, u: Float, phase: float, scale: float) -> Float:
        u *= np.float32(1 / self.period)
        u += np.float32(phase)
        u -= np.floor(u)
        u -= np.float32(0.5)
        np.abs(u, out=u)
        u -= np.float32(0.25)
        u *= np.float32(self.period * scale)
        u += np.float32(0.5)
        return np.clip(u, 0, 1, out=u)


@dataclass(frozen=True, slots=True)
class Thing:
    """One painted shape.

    label: its class, 1 and up, or 0 for what is part of the background.
    extent: ``shape.extent``, kept because a curve's takes as long to find as the curve to draw.
    """

    label: int
    shape: Shape
    extent: Box
    colour: Colour
    weave: Weave | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Ground:
    """The background: colour, linear gradient and low-frequency noise as one linear form, and the grain.

    waves: (3, WAVES + 2, WAVES + 2) float64, coefficients over `_basis` of y and of x, a matrix for each of R, G, B.
    grain: standard deviation of the pixel noise, 0..1; ``offset``: row and column where its tile is cut, in pixels.
    """

    waves: NDArray[np.float64]
    grain: float
    offset: tuple[int, int]


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """What there is to see: ``marks`` lie on the ground and have no label; later ``things`` cover earlier ones."""

    ground: Ground
    marks: tuple[Thing, ...]
    things: tuple[Thing, ...]


def paint(scene: Scene, size: tuple[int, int]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The picture (H, W, 3) uint8 RGB and the owners (H, W) uint8 (see `owners`) of a scene at ``size`` (H, W)."""
    height, width = size
    # One length stands for both sides of a stretched pixel: an edge then is softer along one axis, never displaced.
    scale = math.sqrt(height * width)
    canvas = _field(scene.ground.waves, size)
    owner = np.zeros(size, np.uint8)
    labelled = [(thing, 0) for thing in scene.marks]
    labelled += [(thing, number) for number, thing in enumerate(scene.things, 1)]
    for thing, number in labelled:
        window, x, y = _window(thing.extent, size)
        d = thing.shape.distance(x, y)
        if number:
            owner[window][d < 0] = number
        d *= np.float32(-scale)
        d += np.float32(0.5)
        cover = np.clip(d, 0, 1)
        if thing.shape.thickness * scale < 1:
            # A line thinner than a pixel never fills one: take off what lies beyond its far edge.
            d -= np.float32(thing.shape.thickness * scale)
            cover -= np.clip(d, 0, 1, out=d)
        second = None
        if thing.weave is not None:
            second = thing.weave.share(x, y, scale)
        for channel in range(3):
            plane = canvas[channel][window]
            base = np.float32(thing.colour[channel])
            if second is None or thing.weave is None:
                change = base - plane
            else:
                change = second * np.float32(thing.weave.colour[channel] - thing.colour[channel])
                change += base
                change -= plane
            change *= cover
            plane += change
    image = np.empty((height, width, 3), np.uint8)
    grain = _grain(scene.ground.offset, size)
    noise = np.empty(size, np.float32)
    for channel in range(3):
        plane = canvas[channel]
        plane += np.multiply(grain[channel], np.float32(scene.ground.grain), out=noise)
        plane *= 255
        plane += np.float32(0.5)
        image[..., channel] = np.clip(plane, 0, 255, out=plane).astype(np.uint8)
    return image, owner


def owners(things: Sequence[Thing], size: tuple[int, int]) -> tuple[NDArray[np.uint8], list[int]]:
    """Who is on top, without painting.

    Returns:
        (H, W) uint8: 0 on the ground, i + 1 where ``things[i]`` is the topmost one that holds the pixel's centre;
        and how many pixels each thing would own if nothing lay over it.
    """
    owner = np.zeros(size, np.uint8)
    areas: list[int] = []
    for number, thing in enumerate(things, 1):
        window, x, y = _window(thing.extent, size)
        inside = thing.shape.distance(x, y) < 0
        owner[window][inside] = number
        areas.append(int(np.count_nonzero(inside)))
    return owner, areas


def _window(extent: Box, size: tuple[int, int]) -> tuple[tuple[slice, slice], Float, Float]:
    """The pixels that a soft edge round ``extent`` can touch, and the unit coordinates x (w,), y (h,) of their centres.

    A soft edge reaches half of `scale`'s pixel outwards, which on the finer axis of a stretched image is more of them.
    """
    height, width = size
    x0, y0, x1, y1 = extent
    spread = 0.5 / math.sqrt(height * width)
    left, right = max(0, math.floor((x0 - spread) * width)), min(width, math.ceil((x1 + spread) * width))
    top, bottom = max(0, math.floor((y0 - spread) * height)), min(height, math.ceil((y1 + spread) * height))
    return (slice(top, bottom), slice(left, right)), _centres(width)[left:right], _centres(height)[top:bottom]


def _field(waves: NDArray[np.float64], size: tuple[int, int]) -> Float:
    """The ground without its grain, (3, H, W).

    Planes, not pixels: numpy's inner loops would be three long. In float64, so that the rounding of the library behind
    matmul stays far below one grey level, and in blocks so small that it wakes no threads up, for which a busy machine
    would make each scene wait.
    """
    height, width = size
    canvas = np.empty((3, height, width), np.float32)
    columns = np.ascontiguousarray(_basis(width).T)
    step = max(1, 200_000 // columns.size)
    for plane, wave in zip(canvas, waves, strict=True):
        rows = _basis(height) @ wave
        for top in range(0, height, step):
            plane[top : top + step] = rows[top : top + step] @ columns
    return canvas


def _radius(dx: Float, dy: Float) -> Float:
    """Lengths (h, w) of the vectors from dx (w,) and dy (h,)."""
    square = dx * dx + (dy * dy)[:, None]
    return np.sqrt(square, out=square)


def _turn(dx: Float, dy: Float, angle: float) -> tuple[Float, Float]:
    """Coordinates (h, w) along and across ``angle`` of dx (w,) and dy (h,)."""
    c, s = np.float32(math.cos(angle)), np.float32(math.sin(angle))
    dy = dy[:, None]
    return np.add(dx * c, dy * s), np.subtract(dy * c, dx * s)


@lru_cache(maxsize=16)
def _centres(pixels: int) -> Float:
    return ((np.arange(pixels) + 0.5) / pixels).astype(np.float32)


@lru_cache(maxsize=16)
def _basis(pixels: int) -> NDArray[np.float64]:
    """(pixels, WAVES + 2): at each pixel centre 1, the position from -0.5 to 0.5, and the cosines."""
    position = (np.arange(pixels) + 0.5) / pixels
    cosines = np.cos(np.pi * position[:, None] * np.arange(1, WAVES + 1))
    return np.concatenate([np.ones((pixels, 1)), position[:, None] - 0.5, cosines], axis=1)


@cache
def _tile() -> Float:
    """(3, GRAIN_TILE, GRAIN_TILE) noise of unit variance; drawing it afresh would cost more than all shapes."""
    rng = np.random.Generator(np.random.PCG64(GRAIN_TILE))
    return rng.standard_normal((3, GRAIN_TILE, GRAIN_TILE), dtype=np.float32)


def _grain(offset: tuple[int, int], size: tuple[int, int]) -> Float:
    """A window (3, H, W) of the tile, which repeats beyond its border."""
    (top, left), (height, width) = offset, size
    if top + height <= GRAIN_TILE and left + width <= GRAIN_TILE:
        return _tile()[:, top : top + height, left : left + width]
    rows, columns = np.arange(top, top + height) % GRAIN_TILE, np.arange(left, left + width) % GRAIN_TILE
    return _tile()[:, rows[:, None], columns]
