"""Strong augmentation for small data: hue, blur, random erasing, and copy-paste of objects with masks.

As in `bench.training.loader`, what is drawn for a sample depends on the seed and on its place in the training alone;
these draws are apart from those of zoom, flip and jitter, which they do not move.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, exp, log, sqrt

import numpy as np
from jaxtyping import Bool, Float, UInt8
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms.v2.functional import adjust_hue, gaussian_blur

from bench.plan.recipe import Recipe
from bench.training.views import Objects

SIGMA = (0.1, 2.0)
"""Of the Gaussian, in pixels of the input."""
AREA, ASPECT = (0.02, 0.2), (0.3, 1 / 0.3)
"""Share of the input that an erased rectangle takes, and its height over its width."""
Rectangle = tuple[int, int, int, int]
"""Top, bottom, left, right in pixels of the input."""


@dataclass(frozen=True)
class Strong:
    """What is drawn for one sample. hue: turns. sigma: of a blur, or 0. erased, pasted (a seed): or None."""

    hue: float
    sigma: float
    erased: Rectangle | None
    pasted: int | None


def strong(recipe: Recipe, size: tuple[int, int], seed: int, number: int) -> Strong:
    """Draws for the ``number``-th sample of a training with an input of ``size`` (H, W)."""
    generator = np.random.Generator(np.random.PCG64([seed, 4, number]))
    share = generator.random(10).tolist()
    erased = None
    if share[2] < recipe.erase:
        area = (AREA[0] + (AREA[1] - AREA[0]) * share[3]) * size[0] * size[1]
        aspect = exp(log(ASPECT[0]) + (log(ASPECT[1]) - log(ASPECT[0])) * share[4])
        height = min(size[0], max(1, round(sqrt(area * aspect))))
        width = min(size[1], max(1, round(sqrt(area / aspect))))
        top, left = int(share[5] * (size[0] - height + 1)), int(share[6] * (size[1] - width + 1))
        erased = (top, top + height, left, left + width)
    return Strong(
        hue=recipe.hue * (2 * share[0] - 1),
        sigma=SIGMA[0] + (SIGMA[1] - SIGMA[0]) * share[7] if share[1] < recipe.blur else 0.0,
        erased=erased,
        pasted=int(generator.integers(1 << 32)) if share[8] < recipe.copy_paste else None,
    )


def recolour(image: Float[Tensor, "B 3 H W"], drawn: Sequence[Strong]) -> None:
    """Shift hues and blur, in place; RGB in 0..1."""
    for row, dice in enumerate(drawn):
        if dice.hue:
            image[row] = adjust_hue(image[row], dice.hue)
        if dice.sigma:
            width = 2 * ceil(3 * dice.sigma) + 1
            image[row] = gaussian_blur(image[row], [width, width], [dice.sigma] * 2)


def erase(image: Float[Tensor, "B 3 H W"], drawn: Sequence[Strong], mean: Float[Tensor, "1 3 1 1"]) -> None:
    """Write ``mean`` into the rectangle of each image that has one."""
    for one, dice in zip(image, drawn, strict=True):
        if dice.erased is not None:
            top, bottom, left, right = dice.erased
            one[:, top:bottom, left:right] = mean[0]


def paste(
    image: UInt8[np.ndarray, "3 H W"],
    objects: Objects,
    place: Rectangle,
    donor: UInt8[np.ndarray, "3 H W"],
    given: Objects,
    seed: int,
) -> Objects:
    """Copy some of another image's objects over this one, in place, and return its objects afterwards.

    Each object of the donor that is not ignored comes with probability 0.5. What they hide is taken from the masks
    below them, whose boxes shrink to what is left; an object that is hidden whole is no more. Nothing is pasted outside
    of the picture.

    Args:
        image: is written to.
        objects: of it, with masks.
        place: of the picture in it.
        donor: the other image, as it was before anything was pasted into it.
        given: its objects, with masks.
        seed: of the choice.
    """
    assert objects.masks is not None, "copy-paste is of objects with masks"
    assert given.masks is not None, "copy-paste is of objects with masks"
    chosen = (np.random.default_rng(seed).random(len(given.labels)) < 0.5) & ~given.ignore
    top, bottom, left, right = place
    inside = np.zeros(image.shape[1:], np.bool_)
    inside[top:bottom, left:right] = True
    masks = given.masks[chosen] & inside
    there = masks.any(axis=(1, 2))
    masks, labels = masks[there], given.labels[chosen][there]
    if not len(masks):
        return objects
    over = masks.any(axis=0)
    image[:, over] = donor[:, over]
    below = objects.masks & ~over
    changed = (objects.masks & over).any(axis=(1, 2))
    boxes = objects.boxes.copy()
    boxes[changed] = _around(below[changed])
    kept = below.any(axis=(1, 2)) | ~changed
    return Objects(
        boxes=np.concatenate([boxes[kept], _around(masks)]),
        labels=np.concatenate([objects.labels[kept], labels]),
        ignore=np.concatenate([objects.ignore[kept], np.zeros(len(masks), np.bool_)]),
        masks=np.concatenate([below[kept], masks]),
    )


def _around(masks: Bool[np.ndarray, "M H W"]) -> NDArray[np.float32]:
    """Boxes xyxy around masks, (M, 4); of an empty one nothing but zeros."""
    boxes = np.zeros((len(masks), 4), np.float32)
    for box, mask in zip(boxes, masks, strict=True):
        y, x = mask.nonzero()
        if len(y):
            box[:] = x.min(), y.min(), x.max() + 1, y.max() + 1
    return boxes
