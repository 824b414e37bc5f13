"""The second pipeline: batches made ahead of the steps, by threads.

What is drawn for a sample depends on the seed and on its place in the training alone: not on the model, on what its
loss draws, or on how many threads there are. Threads, not processes: a measuring process may have no children, and
decoding, scaling and copying leave Python's lock alone.

A sample is made of bytes, in its final place in the batch. What is done on floats (jitter of colours, filling the
padding) is done with whole batches on the device, which is quicker even where the device is the CPU. Of batches made
ahead there are at most `AHEAD` more than threads, of 3 bytes a pixel and the labels.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from math import ceil
from typing import NamedTuple, TypeAlias, TypeVar

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Tensor

from bench.data.contract import IGNORE, Dataset, Truth
from bench.plan.recipe import Recipe
from bench.training.strong import Strong, erase, paste, recolour, strong
from bench.training.views import Objects, View, see_image, see_mask, see_objects, view
from heads.contract import Boxes, Target

AHEAD = 2
"""Batches that wait to be taken, beyond those that threads are at."""
MOST_WORKERS = 16
GREY = (0.299, 0.587, 0.114)
"""Share of red, green and blue in lightness (ITU-R BT.601), as in Pillow and torchvision."""
Place: TypeAlias = tuple[int, int, int, int]
"""Top, bottom, left and right of a picture in its image, in pixels; the rest is padding."""
T = TypeVar("T")


def workers_for(device: torch.device, threads: int) -> int:
    """Threads that make batches: one beside a CPU's own work, all but one of ``threads`` beside an accelerator."""
    return 1 if device.type == "cpu" else max(1, min(threads - 1, MOST_WORKERS))


def batches(
    data: Dataset,
    recipe: Recipe,
    *,
    size: tuple[int, int],
    device: torch.device,
    seed: int,
    mean: Float[Tensor, "1 3 1 1"],
    workers: int,
    first: int = 0,
) -> Generator[tuple[Float[Tensor, "B 3 H W"], Target]]:
    """``recipe.batches`` augmented batches: RGB in 0..1, and the target of the task. Every image once an epoch.

    Args:
        data: the training split.
        recipe: of `recipe.pipeline` 2.
        size: (H, W) of the input in pixels.
        device: where the batches go; to CUDA they are copied ahead, too.
        seed: of the order of images and of augmentation.
        mean: RGB that the model's normalisation takes to 0, for the padding; on ``device``.
        workers: threads; 0 makes each batch when it is asked for. It changes no batch.
        first: batches before this one are left out.
    """
    make, send = BatchMaker(data, recipe, size, seed), Sender(device)
    with closing(ahead(lambda step: send(make(first + step)), recipe.batches - first, workers)) as made:
        for batch in made:
            send.received(batch)
            yield finished(batch, mean)


def ahead(make: Callable[[int], T], count: int, workers: int, *, more: int = AHEAD) -> Generator[T]:
    """``make(0)`` to ``make(count - 1)`` in order, made by threads up to ``workers + more`` ahead of who takes them.

    What ``make`` raises is raised where its result would have come.
    """
    if workers == 0:
        yield from map(make, range(count))
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix="loader")
    todo = iter(range(count))
    try:
        made: deque[Future[T]] = deque(pool.submit(make, index) for index in islice(todo, workers + more))
        while made:
            result = made.popleft().result()
            made.extend(pool.submit(make, index) for index in islice(todo, 1))
            yield result
    finally:
        pool.shutdown(cancel_futures=True)


def shuffled(count: int, seed: int) -> Iterator[int]:
    """Indices of images: every one once an epoch, in an order that depends on the seed alone."""
    # numpy's generator, not torch's: the order of the images must not depend on how often a model or a loss draws.
    generator = np.random.default_rng([seed, 1])
    while True:
        yield from generator.permutation(count).tolist()


def chosen(count: int, recipe: Recipe, seed: int) -> NDArray[np.intp]:
    """Indices, rising, of the training images that a recipe sees of ``count``.

    A share is drawn by the seed, and lies within every larger share of the same seed: curves over shares are nested.
    """
    first = min(count, recipe.train_images or count)
    if recipe.train_share is None:
        return np.arange(first)
    order = np.random.default_rng([seed, 3]).permutation(first)
    return np.sort(order[: max(1, round(first * recipe.train_share))])


class Draws(NamedTuple):
    """What is drawn for one sample; ``where``: see `bench.training.views.view`. colour: factors, 1 for none."""

    zoom: float
    where: tuple[float, float]
    mirrored: bool
    upside_down: bool
    brightness: float
    contrast: float
    saturation: float


def draws(recipe: Recipe, flips: Iterable[str], seed: int, number: int) -> Draws:
    """For the ``number``-th sample of a training. All are drawn always, so that one option does not move another's."""
    numbers = np.random.Generator(np.random.PCG64([seed, 2, number])).random(8).tolist()
    low, high = recipe.scale or (1.0, 1.0)
    moves = recipe.scale is not None or recipe.meet == "crop"
    horizontal = "horizontal" in flips if recipe.flip == "data" else recipe.flip
    vertical = "vertical" in flips if recipe.flip_vertical == "data" else recipe.flip_vertical
    brightness, contrast, saturation = (1 + recipe.jitter * (2 * share - 1) for share in numbers[5:])
    return Draws(
        zoom=low + (high - low) * numbers[0],
        where=(numbers[1], numbers[2]) if moves else (0.0, 0.0),
        mirrored=horizontal and numbers[3] < 0.5,
        upside_down=vertical and numbers[4] < 0.5,
        brightness=brightness,
        contrast=contrast,
        saturation=saturation,
    )


@dataclass(frozen=True)
class Batch:
    """B samples as threads make them.

    image: RGB, 0 in the padding; none where the target alone was asked for. place: of each picture in its image.
    colour: factors of brightness, contrast and saturation of each; None: no jitter. mask: class per pixel, 255 in the
    padding; None in detection. boxes: of each image; None in segmentation. strong: what else is drawn for each; None:
    nothing. pictures: (h, w) of each as it was read.
    """

    image: UInt8[Tensor, "_ 3 H W"]
    place: list[Place]
    colour: Float[Tensor, "B 3"] | None
    mask: UInt8[Tensor, "B H W"] | None
    boxes: list[Boxes] | None
    strong: list[Strong] | None = None
    pictures: tuple[tuple[int, int], ...] = ()

    def map(self, move: Callable[[Tensor], Tensor]) -> "Batch":
        """The same with other tensors."""
        return replace(
            self,
            **{name: move(value) for name, value in vars(self).items() if isinstance(value, Tensor)},
            boxes=None if self.boxes is None else [_mapped(boxes, move) for boxes in self.boxes],
        )


def _mapped(boxes: Boxes, move: Callable[[Tensor], Tensor]) -> Boxes:
    return replace(boxes, **{name: move(value) for name, value in vars(boxes).items() if value is not None})


class BatchMaker:
    """Makes the batch of any step, in any order, in any thread.

    Args:
        data: the training split.
        recipe: of `recipe.pipeline` 2.
        size: (H, W) of the input in pixels.
        seed: of the order of images and of augmentation.
    """

    def __init__(self, data: Dataset, recipe: Recipe, size: tuple[int, int], seed: int) -> None:
        self.data, self.recipe, self.size, self.seed = data, recipe, size, seed
        seen = chosen(len(data), recipe, seed)
        self.order = seen[list(islice(shuffled(len(seen), seed), recipe.batches * recipe.batch))].tolist()
        self.strong = any((recipe.hue, recipe.blur, recipe.erase, recipe.copy_paste))
        self.enough = enough(size, 1.0 if recipe.scale is None else recipe.scale[1])

    def numbers(self, step: int) -> range:
        """Places in the training of the samples of a step's batch."""
        return range(step * self.recipe.batch, (step + 1) * self.recipe.batch)

    def __call__(self, step: int, *, shapes: Sequence[tuple[int, int]] | None = None) -> Batch:
        """The batch of a step, on the host.

        Args:
            step: from 0 on.
            shapes: (h, w) of its pictures where no images are wanted, only the target: the batch then has none.

        Raises:
            DataError: an image cannot be read; names the file.
        """
        return self.of(self.numbers(step), shapes=shapes)

    def of(self, numbers: Sequence[int], *, shapes: Sequence[tuple[int, int]] | None = None) -> Batch:
        """The samples at these places in the training, see `__call__`."""
        count = len(numbers)
        image = np.zeros((count if shapes is None else 0, 3, *self.size), np.uint8)
        segmentation = self.data.task == "segmentation"
        mask = np.full((count, *self.size), IGNORE, np.uint8) if segmentation else None
        seen, drawn, found, wild = [], [], [], []
        pictures = []
        for row, number in enumerate(numbers):
            dice = draws(self.recipe, self.data.flips, self.seed, number)
            if shapes is None:
                sample = self.data.whole(self.order[number], self.enough)
                truth, picture = sample.truth, (sample.image.shape[0], sample.image.shape[1])
                part = self._view(picture, dice)
                see_image(sample.image, part, image[row])
            else:
                truth, picture = self._truth(self.order[number]), shapes[row]
                part = self._view(picture, dice)
            pictures.append(picture)
            if mask is not None:
                assert truth.mask is not None, "a segmentation data set has masks"
                see_mask(truth.mask, part, mask[row])
            else:
                found.append(see_objects(truth, part))
            seen.append(part)
            drawn.append((dice.brightness, dice.contrast, dice.saturation))
            if self.strong:
                wild.append(strong(self.recipe, self.size, self.seed, number))
                if mask is not None and wild[-1].erased is not None:
                    top, bottom, left, right = wild[-1].erased
                    mask[row, top:bottom, left:right] = IGNORE
        if wild and found:
            _paste(image, found, [part.place for part in seen], wild)
        return Batch(
            image=torch.from_numpy(image),
            place=[part.place for part in seen[: len(image)]],
            colour=torch.tensor(drawn) if self.recipe.jitter else None,
            mask=None if mask is None else torch.from_numpy(mask),
            boxes=None if segmentation else [_boxes(objects) for objects in found],
            strong=wild or None,
            pictures=tuple(pictures),
        )

    def _truth(self, index: int) -> Truth:
        """Labels as `Dataset.whole` gives them; what is drawn and lies in no file has none of their own."""
        return self.data.truth(index) if self.data.files(index) else self.data.whole(index, self.enough).truth

    def _view(self, picture: tuple[int, int], dice: Draws) -> View:
        return view(
            picture,
            self.size,
            self.recipe.meet,
            zoom=dice.zoom,
            where=dice.where,
            mirrored=dice.mirrored,
            upside_down=dice.upside_down,
        )


def enough(size: tuple[int, int], zoom: float) -> tuple[int, int]:
    """(H, W) that a picture has to have for an input of ``size`` to show all of it that it can at that zoom."""
    return ceil(size[0] * zoom), ceil(size[1] * zoom)


def _paste(
    image: UInt8[np.ndarray, "B 3 H W"], found: list[Objects], places: Sequence[Place], drawn: Sequence[Strong]
) -> None:
    """Copy-paste from the next image of the batch, as it was; into `image` and ``found``."""
    if any(objects.masks is None for objects in found) or all(dice.pasted is None for dice in drawn):
        return
    before, given = image.copy(), list(found)
    for row, dice in enumerate(drawn):
        if dice.pasted is not None:
            other = (row + 1) % len(found)
            found[row] = paste(image[row], given[row], places[row], before[other], given[other], dice.pasted)


def _boxes(found: Objects) -> Boxes:
    return Boxes(
        xyxy=torch.from_numpy(found.boxes),
        labels=torch.from_numpy(found.labels),
        ignore=torch.from_numpy(found.ignore),
        masks=None if found.masks is None else torch.from_numpy(found.masks),
    )


class Sender:
    """Takes batches to a device, from any thread.

    To CUDA: from pinned memory and on a stream of its own, so that the copy runs beside the step before it.

    Args:
        device: where they go.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __call__(self, batch: Batch) -> Batch:
        """The batch on the device, arrived."""
        if self.stream is None:
            return batch.map(lambda tensor: tensor.to(self.device))
        with torch.cuda.stream(self.stream):
            there = batch.map(lambda tensor: tensor.pin_memory().to(self.device, non_blocking=True))
        self.stream.synchronize()  # this thread waits, and the pinned memory is free again
        return there

    def received(self, batch: Batch) -> None:
        """To be called by who works with the batch: its memory is then not given away before that work is done."""
        if self.stream is not None:
            stream = torch.cuda.current_stream(self.device)

            def keep(tensor: Tensor) -> Tensor:
                tensor.record_stream(stream)
                return tensor

            batch.map(keep)


def finished(batch: Batch, mean: Float[Tensor, "1 3 1 1"]) -> tuple[Float[Tensor, "_ 3 H W"], Target]:
    """RGB in 0..1 with jittered colours and ``mean`` in the padding, and the target."""
    image = torch.empty(batch.image.shape, device=batch.image.device)
    if batch.colour is None:
        torch.div(batch.image, 255, out=image)
    else:
        jitter(batch.image, batch.place, batch.colour, image)
    if batch.strong is not None:
        recolour(image, batch.strong)
    pad(image, batch.place, mean)
    if batch.strong is not None:
        erase(image, batch.strong, mean)
    if batch.mask is not None:
        return image, batch.mask.long()
    assert batch.boxes is not None, "a batch has a mask or boxes"
    return image, batch.boxes


def jitter(
    image: UInt8[Tensor, "B 3 H W"],
    places: Sequence[Place],
    colour: Float[Tensor, "B 3"],
    out: Float[Tensor, "B 3 H W"],
) -> None:
    """Brightness, then contrast, then saturation, as torchvision defines them, in one linear map and rounded nowhere.

    Args:
        image: 0 outside of the picture.
        places: see `Batch`; contrast is about the mean lightness of the picture alone.
        colour: factors.
        out: 0..1, is written.
    """
    weights = torch.tensor(GREY, device=image.device)
    areas = [(bottom - top) * (right - left) for top, bottom, left, right in places]
    area = torch.tensor(areas, dtype=torch.float32).to(image.device, non_blocking=True)
    brightness, contrast, saturation = (colour / colour.new_tensor([255, 1, 1])).unbind(1)
    grey = (1 - saturation)[:, None, None] * weights
    mix = (saturation[:, None, None] * torch.eye(3, device=image.device) + grey) * (brightness * contrast)[
        :, None, None
    ]
    # Image by image on a CPU, whose cache holds one; as few kernels as can be on an accelerator.
    step = 1 if image.device.type == "cpu" else len(image)
    for rows in (slice(first, first + step) for first in range(0, len(image), step)):
        pixels = image[rows].flatten(2).float()
        lightness = pixels.sum(dim=2) @ weights / area[rows]
        offset = (1 - contrast[rows]) * brightness[rows] * lightness
        into = out[rows].flatten(2)
        torch.baddbmm(offset[:, None, None], mix[rows], pixels, out=into)
        into.clamp_(0, 1)


def pad(image: Float[Tensor, "B 3 H W"], places: Sequence[Place], mean: Float[Tensor, "1 3 1 1"]) -> None:
    """Write ``mean`` where there is no picture."""
    height, width = image.shape[2:]
    for one, (top, bottom, left, right) in zip(image, places, strict=True):
        beside = one[:, :top], one[:, bottom:], one[:, top:bottom, :left], one[:, top:bottom, right:]
        for part, there in zip(beside, (top > 0, bottom < height, left > 0, right < width), strict=True):
            if there:
                part[...] = mean[0]
