"""Masks of objects as annotation files have them: polygons and run lengths, drawn as COCO's own tools draw them."""

from typing import Any, TypeAlias, cast

import numpy as np
from faster_coco_eval.core import mask as rle
from numpy.typing import NDArray

from bench.data.images import Size

RunLengths: TypeAlias = dict[str, Any]
"""Compressed run lengths: "size" [H, W] and "counts"."""
ODD = (ValueError, TypeError, KeyError, OverflowError)
"""What a shape that is none raises."""


def polygons_of(shape: Any) -> Any:
    """A shape without what draws nothing: of polygons those of three points or more, anything else as it is."""
    if isinstance(shape, list):
        # Two points draw nothing, and COCO's own tools take four numbers for a box.
        return [polygon for polygon in shape if isinstance(polygon, list) and len(polygon) >= 6]
    return shape


def run_lengths(shape: Any, size: Size) -> RunLengths:
    """Polygons, whose parts are united, or run lengths, in a picture of ``size`` (H, W).

    Raises:
        one of `ODD`: the shape is none, or that of a picture of another size.
    """
    height, width = size
    if isinstance(shape, list):
        if any(len(polygon) % 2 for polygon in shape):
            raise ValueError("a polygon has an odd number of coordinates")
        polygons = [[float(value) for value in polygon] for polygon in shape]
        return rle.merge(cast("list[RunLengths]", rle.frPyObjects(polygons, height, width)))
    if list(shape["size"]) != [height, width]:
        raise ValueError(f"it is of {shape['size']}, its picture of {[height, width]} pixels")
    if isinstance(shape["counts"], str):
        return {"size": [height, width], "counts": shape["counts"].encode()}
    return cast("RunLengths", rle.frPyObjects(shape, height, width))


def drawn(shape: Any, size: Size) -> NDArray[np.bool_]:
    """(H, W) bool.

    Raises:
        one of `ODD`: as `run_lengths`.
    """
    return rle.decode(run_lengths(shape, size)).astype(np.bool_)


def checked(shape: Any, size: Size) -> None:
    """Raise what `drawn` would; polygons are not drawn, as the library takes any that are numbers."""
    if isinstance(shape, list):
        run_lengths(shape, size)
    else:
        drawn(shape, size)


def area_of(shape: Any, size: Size) -> float:
    """Pixels of a shape in a picture of ``size`` (H, W).

    Raises:
        one of `ODD`: see `run_lengths`.
    """
    return float(rle.area(run_lengths(shape, size)))


def box_of(shape: Any, size: Size) -> tuple[float, float, float, float]:
    """x, y, width and height of the box around a shape.

    Raises:
        one of `ODD`: as `run_lengths`.
    """
    if isinstance(shape, list):
        points = np.concatenate([np.asarray(polygon, np.float64).reshape(-1, 2) for polygon in shape])
        (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
        return float(left), float(top), float(right - left), float(bottom - top)
    left, top, wide, high = (float(value) for value in rle.toBbox(run_lengths(shape, size)))
    return left, top, wide, high
