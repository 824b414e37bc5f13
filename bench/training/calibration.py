"""Images of the training split, as a model sees them, by which ranges of activations are found for int8."""

import numpy as np
from jaxtyping import Float
from torch import Tensor

from bench.data.contract import Dataset
from bench.plan.recipe import Recipe
from bench.training.predict import as_input, frame
from bench.training.views import Size
from heads.contract import Model

IMAGES, SEED = 64, 0
"""How many, where the split has as many, and what draws them."""


def calibration(
    net: Model, data: Dataset, recipe: Recipe, *, size: Size, count: int = IMAGES, seed: int = SEED
) -> tuple[list[Float[Tensor, "1 3 H W"]], str]:
    """Different pictures of a split, and what a record says of them.

    Args:
        net: says how images are padded, and where they lie.
        data: the training split.
        recipe: says how pictures meet the input; where they are looked at in windows, each gives one.
        size: (H, W) of the input in pixels.
        count: of pictures.
        seed: of which pictures, and which windows of them.

    Raises:
        DataError: a picture cannot be read; names the file.
    """
    drawn = np.random.default_rng(seed)
    found: list[Tensor] = []
    for index in drawn.permutation(len(data))[:count]:
        one = frame(data, recipe, size, int(index))
        top, left = (
            int(drawn.integers(whole - part + 1)) for whole, part in zip(one.image.shape[1:], size, strict=True)
        )
        image = one.image[:, top : top + size[0], left : left + size[1]]
        picture = size if one.image.shape[1:] != size else one.picture
        found.append(as_input(net, image[None], picture).contiguous())
    return found, f"{len(found)} images of train, seed {seed}"
