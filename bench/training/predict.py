"""Predictions of a trained model on a split, at ground-truth resolution, as the recipe meets the picture.

Stretched, the whole input is the picture. Fitted (`letterbox`, and `crop` without windows), the picture stands at the
top left of the input with its mean colour beside it, and what is predicted there is cut off. In windows of the input's
size, which overlap on the picture that covers it, the scores of each class are averaged where windows overlap, as in
MMSegmentation's sliding inference.
"""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Tensor

from bench.data.contract import Dataset, Truth
from bench.plan.recipe import Recipe
from bench.training.features import FeatureSource
from bench.training.loader import ahead, enough, pad
from bench.training.views import Size, see_image, starts, view
from heads.contract import Boxes, Model, Prediction
from heads.segmentation import labels_of

BATCH, MASK_BATCH = 16, 2
"""Images a batch. A hundred masks of the size of a photograph take 30 MB, and several times that in the making."""


@dataclass(frozen=True)
class Frame:
    """A picture as it is shown to the model, and its truth.

    image: RGB, (3, H, W) of the input, or larger where it is looked at in windows. picture: (h, w) that the picture
    takes of it, from the top left. index: of the image in its split.
    """

    image: UInt8[np.ndarray, "3 H W"]
    picture: Size
    truth: Truth
    index: int = 0

    def shown(self) -> UInt8[np.ndarray, "h w 3"]:
        """The picture in it."""
        return np.ascontiguousarray(self.image[:, : self.picture[0], : self.picture[1]].transpose(1, 2, 0))


def predictions(
    net: Model,
    data: Dataset,
    recipe: Recipe,
    *,
    size: Size,
    count: int,
    workers: int = 0,
    source: FeatureSource | None = None,
    batch: int | None = None,
) -> Iterator[tuple[list[NDArray[np.uint8]], list[Truth], Prediction]]:
    """Batches of pictures (h, w, 3), their truths and what is predicted of them at the size of the truth.

    Args:
        net: in evaluation mode.
        data: the split.
        recipe: says how pictures meet the input.
        size: (H, W) of the input in pixels.
        count: of images, from the first on.
        workers: threads that read images ahead of the model.
        source: of the split's features, where the backbone is frozen; None: the model sees every image.
        batch: images, or windows, that the model takes at a time; None: as many as is quick.
    """
    group: list[Frame] = []
    more = MASK_BATCH if net.task == "detection" else BATCH
    with closing(ahead(lambda index: frame(data, recipe, size, index), count, workers, more=more)) as frames:
        for one in frames:
            if group and (not _alike(group[0], one) or len(group) == (batch or _most(group[0]))):
                yield _answer(net, group, recipe, size, source, batch)
                group = []
            group.append(one)
    if group:
        yield _answer(net, group, recipe, size, source, batch)


def frame(data: Dataset, recipe: Recipe, size: Size, index: int) -> Frame:
    """One picture of a split.

    Raises:
        DataError: it cannot be read; names the file.
    """
    truth = data.truth(index)
    if recipe.pipeline == 1:
        return Frame(data.sample(index, size).image.transpose(2, 0, 1), size, truth, index)
    zoom = recipe.windows_zoom if recipe.windows else 1.0
    image = data.whole(index, enough(size, zoom)).image
    picture = (image.shape[0], image.shape[1])
    if recipe.windows:
        # The picture scaled as a whole: windows are cut out of it, and two of them agree on what they both show.
        factor = max(wanted / side for wanted, side in zip(size, picture, strict=True)) * zoom
        height, width = (max(least, round(side * factor)) for least, side in zip(size, picture, strict=True))
        seen = view(picture, (height, width), "stretch")
    else:
        seen = view(picture, size, "stretch" if recipe.meet == "stretch" else "letterbox")
    canvas = np.zeros((3, *seen.size), np.uint8)
    see_image(image, seen, canvas)
    return Frame(canvas, (seen.rows.size, seen.columns.size), truth, index)


def _alike(one: Frame, other: Frame) -> bool:
    """Whether one decode serves both."""
    return (one.truth.size, one.image.shape, one.picture) == (other.truth.size, other.image.shape, other.picture)


def _most(one: Frame) -> int:
    return BATCH if one.truth.masks is None else MASK_BATCH


@torch.inference_mode()
def _answer(
    net: Model, group: Sequence[Frame], recipe: Recipe, size: Size, source: FeatureSource | None, batch: int | None
) -> tuple[list[NDArray[np.uint8]], list[Truth], Prediction]:
    first = group[0]
    if first.image.shape[1:] != size:
        stride = [max(1, round(side * (recipe.windows or 1))) for side in size]
        scores = torch.cat([_in_windows(net, one, size, stride, batch or BATCH) for one in group])
        found: Prediction = labels_of(scores, first.truth.size)
    else:
        images = as_input(net, np.stack([one.image for one in group]), first.picture)
        raw = net(images) if source is None else net.of_features(source.of_split(images, first.index))
        found = _of_the_picture(net, raw, first)
    return [one.shown() for one in group], [one.truth for one in group], found


def as_input(net: Model, images: UInt8[np.ndarray, "B 3 H W"], picture: Size) -> Float[Tensor, "B 3 H W"]:
    """Images as a model takes them, RGB in 0..1, beside the picture (h, w) with its mean colour."""
    mean = net.backbone.mean
    # Channels last, as records have been evaluated from the first: kernels round otherwise in another layout.
    batch = torch.from_numpy(images).to(mean.device).contiguous(memory_format=torch.channels_last)
    batch = batch.float().div(255).to(mean.dtype)
    pad(batch, [(0, picture[0], 0, picture[1])] * len(batch), mean)
    return batch


def _of_the_picture(net: Model, raw: Any, one: Frame) -> Prediction:
    """A prediction at the size of the truth, of the part of the input that the picture takes."""
    height, width = one.picture
    to, whole = one.truth.size, (one.image.shape[1], one.image.shape[2])
    if one.picture == whole:
        return net.decode(raw, to)
    if net.task == "segmentation":
        return labels_of(net.scores(raw, whole)[..., :height, :width], to)
    # Decoded at the size at which the picture has that of its truth; to a pixel, which the boxes are then brought to.
    scaled = round(whole[0] * to[0] / height), round(whole[1] * to[1] / width)
    ratio = to[1] / width * whole[1] / scaled[1], to[0] / height * whole[0] / scaled[0]
    found = net.decode(raw, scaled)
    assert isinstance(found, list), "detection finds boxes"
    return [_inside(boxes, to, ratio) for boxes in found]


def _inside(boxes: Boxes, size: Size, ratio: tuple[float, float]) -> Boxes:
    """What of the objects lies in a picture of ``size`` (H, W), boxes multiplied by ``ratio`` (x, y)."""
    limit = boxes.xyxy.new_tensor([size[1], size[0]] * 2)
    xyxy = (boxes.xyxy * boxes.xyxy.new_tensor(ratio * 2)).minimum(limit)
    kept = (xyxy[:, 2] > xyxy[:, 0]) & (xyxy[:, 3] > xyxy[:, 1])
    assert boxes.scores is not None, "a prediction has scores"
    return Boxes(
        xyxy[kept],
        boxes.labels[kept],
        boxes.scores[kept],
        masks=None if boxes.masks is None else boxes.masks[kept, : size[0], : size[1]],
    )


def _in_windows(net: Model, one: Frame, size: Size, stride: Sequence[int], batch: int) -> Float[Tensor, "1 K H W"]:
    """Scores of a picture that is larger than the input, averaged over the windows that show a pixel."""
    height, width = one.image.shape[1:]
    places = list(product(starts(height, size[0], stride[0]), starts(width, size[1], stride[1])))
    total, count = None, torch.zeros(height, width, device=net.backbone.mean.device)
    for first in range(0, len(places), batch):
        some = places[first : first + batch]
        windows = np.stack([one.image[:, top : top + size[0], left : left + size[1]] for top, left in some])
        found = net.scores(net(as_input(net, windows, size)), size)
        if total is None:
            total = found.new_zeros(1, found.shape[1], height, width)
        for (top, left), scores in zip(some, found, strict=True):
            total[0, :, top : top + size[0], left : left + size[1]] += scores
            count[top : top + size[0], left : left + size[1]] += 1
    assert total is not None, "a picture is covered by at least one window"
    return total / count
