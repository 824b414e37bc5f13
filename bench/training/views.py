"""How a picture meets the input: which part of it is seen where, drawn for a training and fixed for an evaluation.

The picture is cut first and scaled once, to the pixels that it takes in the input: what is zoomed in on keeps the
detail that the picture has, and nothing is computed that is then cut off. Labels are taken at the centre of each pixel
of the input, from the truth at its own resolution, so they stay where the image is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64, UInt8
from numpy.typing import NDArray
from torch.nn.functional import interpolate

from bench.data.contract import Truth

Meet: TypeAlias = Literal["stretch", "crop", "letterbox"]
"""See `bench.plan.recipe.Recipe.meet`."""
Size: TypeAlias = tuple[int, int]
"""(H, W) in pixels."""

LEAST = 2.0
"""Pixels of a side that have to be left of an object that a crop cuts; of less there is nothing to be found."""


@dataclass(frozen=True)
class Span:
    """One axis: the picture's pixels ``start`` to ``end`` are seen in ``size`` pixels of the input, at ``place``."""

    start: int
    end: int
    place: int
    size: int

    @property
    def zoom(self) -> float:
        """Pixels of the input for one of the picture."""
        return self.size / (self.end - self.start)

    def centres(self, of: int, to: int) -> NDArray[np.intp]:
        """(size,) where the centres of its pixels fall in a side of ``to`` pixels that shows the picture's ``of``."""
        seen = self.start + (np.arange(self.size) + 0.5) / self.zoom
        return np.minimum((seen * (to / of)).astype(np.intp), to - 1)

    def moved(self, edges: NDArray[np.float32], of: int, to: int) -> NDArray[np.float32]:
        """Coordinates in a side of ``to`` pixels that shows the picture's ``of``, as coordinates of the input."""
        return (edges * (of / to) - self.start) * np.float32(self.zoom) + self.place


@dataclass(frozen=True)
class View:
    """Which part of a picture of ``picture`` (h, w) pixels is seen where in an input of ``size`` (H, W).

    mirrored: left to right, after all else. upside_down: top to bottom.
    """

    picture: Size
    size: Size
    rows: Span
    columns: Span
    mirrored: bool = False
    upside_down: bool = False

    @property
    def place(self) -> tuple[int, int, int, int]:
        """Top, bottom, left and right of the picture in the input; the rest is padding."""
        top, left = self.rows.place, self.columns.place
        if self.upside_down:
            top = self.size[0] - top - self.rows.size
        if self.mirrored:
            left = self.size[1] - left - self.columns.size
        return top, top + self.rows.size, left, left + self.columns.size

    def turned(self, canvas: NDArray) -> NDArray:
        """The last two axes of an array of the input's size, as they are before the mirrors: a view of it."""
        return canvas[..., :: -1 if self.upside_down else 1, :: -1 if self.mirrored else 1]

    def unturned(self, canvas: NDArray) -> NDArray:
        """The part of such an array that the picture covers."""
        rows, columns = self.rows, self.columns
        inside = self.turned(canvas)
        return inside[..., rows.place : rows.place + rows.size, columns.place : columns.place + columns.size]


def view(
    picture: Size,
    size: Size,
    meet: Meet,
    *,
    zoom: float = 1.0,
    where: tuple[float, float] = (0.0, 0.0),
    mirrored: bool = False,
    upside_down: bool = False,
) -> View:
    """The view of a picture of ``picture`` (h, w) pixels in an input of ``size`` (H, W), see `View`.

    ``meet`` says what zoom 1 is. What can be moved, the part that is seen or the picture in its padding, is ``where``
    says, vertically and horizontally: 0 (top, left) to 1.
    """
    ratios = size[0] / picture[0], size[1] / picture[1]
    if meet != "stretch":
        ratios = (max(ratios),) * 2 if meet == "crop" else (min(ratios),) * 2
    rows, columns = (
        _span(of, to, ratio * zoom, share) for of, to, ratio, share in zip(picture, size, ratios, where, strict=True)
    )
    return View(picture, size, rows, columns, mirrored, upside_down)


def _span(of: int, to: int, zoom: float, where: float) -> Span:
    """Whole pixels on both sides: the zoom is met to half a pixel."""
    if of * zoom >= to:
        length = min(of, max(1, round(to / zoom)))
        start = _one_of(of - length, where)
        return Span(start, start + length, 0, to)
    size = max(1, round(of * zoom))
    return Span(0, of, _one_of(to - size, where), size)


def _one_of(most: int, where: float) -> int:
    """One of 0 to ``most``, all equally wide in 0..1."""
    return min(int(where * (most + 1)), most)


def see_image(image: UInt8[np.ndarray, "h w 3"], seen: View, canvas: UInt8[np.ndarray, "3 H W"]) -> None:
    """Write what is seen of an image into a canvas, and leave its padding as it is."""
    rows, columns = seen.rows, seen.columns
    part = scaled(image[rows.start : rows.end, columns.start : columns.end], (rows.size, columns.size))
    # Channel by channel, which is where a mirror costs nothing.
    for plane, values in zip(seen.unturned(canvas), part.transpose(2, 0, 1), strict=True):
        plane[...] = values


def scaled(image: UInt8[np.ndarray, "h w 3"], size: Size) -> UInt8[np.ndarray, "H W 3"]:
    """Bilinear, with antialiasing; torch's kernel for bytes is three times as fast as Pillow's, and uses no threads."""
    if image.shape[:2] == size:
        return image
    # A copy, which torch would otherwise make with all its threads.
    pixels = torch.from_numpy(np.array(image, order="C")).permute(2, 0, 1).unsqueeze(0)
    out = interpolate(pixels, size=size, mode="bilinear", antialias=True)
    return out[0].permute(1, 2, 0).numpy()


def see_mask(mask: UInt8[np.ndarray, "h w"], seen: View, canvas: UInt8[np.ndarray, "H W"]) -> None:
    """Write what is seen of a label map into a canvas, each pixel as the one that its centre falls in."""
    rows, columns = (
        span.centres(of, to) for span, of, to in zip((seen.rows, seen.columns), seen.picture, mask.shape, strict=True)
    )
    seen.unturned(canvas)[...] = mask[rows].take(columns, axis=1)


@dataclass(frozen=True)
class Objects:
    """What is seen of the objects of an image: boxes xyxy in pixels of the input; labels and the rest as in `Truth`."""

    boxes: Float32[np.ndarray, "M 4"]
    labels: Int64[np.ndarray, " M"]
    ignore: Bool[np.ndarray, " M"]
    masks: Bool[np.ndarray, "M H W"] | None


def see_objects(truth: Truth, seen: View) -> Objects:
    """The objects of which something is seen, boxes cut off at the edge of the view.

    One that the edge cuts down to less than `LEAST` pixels is left out. With masks, an object of which no pixel is left
    is ignored: there is nothing to be found, and no shape to be learnt.
    """
    height, width = seen.size
    whole = np.empty_like(truth.boxes)
    for first, span, of, to in ((1, seen.rows, *_sides(seen, truth, 0)), (0, seen.columns, *_sides(seen, truth, 1))):
        whole[:, first::2] = span.moved(truth.boxes[:, first::2], of, to)
    rows, columns = seen.rows, seen.columns
    low = np.array([columns.place, rows.place] * 2, np.float32)
    high = low + np.array([columns.size, rows.size] * 2, np.float32)
    boxes = np.clip(whole, low, high)
    cut = (np.abs(boxes - whole) > 1e-3).any(axis=1)
    kept = ~(cut & ((boxes[:, 2:] - boxes[:, :2]) < LEAST).any(axis=1))
    boxes = boxes[kept]
    if seen.mirrored:
        boxes[:, 0::2] = width - boxes[:, 2::-2]
    if seen.upside_down:
        boxes[:, 1::2] = height - boxes[:, 3::-2]
    ignore, masks = truth.ignore[kept], None
    if truth.masks is not None:
        masks = np.zeros((len(boxes), height, width), np.bool_)
        y, x = rows.centres(*_sides(seen, truth, 0)), columns.centres(*_sides(seen, truth, 1))
        seen.unturned(masks)[...] = truth.masks[kept][:, y[:, None], x]
        ignore = ignore | ~masks.any(axis=(1, 2))
    return Objects(boxes, truth.labels[kept], ignore, masks)


def _sides(seen: View, truth: Truth, axis: int) -> tuple[int, int]:
    return seen.picture[axis], truth.size[axis]


def starts(of: int, window: int, stride: int) -> Sequence[int]:
    """Where windows begin that cover a side of ``of`` pixels, at least ``window``; the last one ends with it."""
    return [min(start, of - window) for start in range(0, of - window + stride, stride)]
