"""Frozen features, once: a backbone that does not learn sees each image one time, for all heads and seeds.

What can be kept is what an image gives for certain: a recipe that draws nothing for a sample but mirrors has as many
features of an image as there are mirrored forms. They are kept level by level, so heads that read other levels of the
same backbone share what they have in common. Everything that a number depends on is in the key (`FeatureSource`).
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from typing import Any

import numpy as np
import timm
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from backbones.contract import Features
from bench.data.contract import Dataset
from bench.plan.recipe import Recipe
from bench.store.features import FeatureStore, Rows
from bench.training.loader import Batch, BatchMaker, Sender, ahead, draws, finished
from heads.contract import Model, Target, TokenHead

_BITS = {torch.bfloat16: torch.int16}
"""Number formats that numpy does not know, and what their bits are kept as."""
FORMS = 4
"""Mirrored forms of an image: as it is, left to right, top to bottom, both."""
_CHUNK = 8
"""Images that go through the backbone at once."""


def cacheable(recipe: Recipe, model: Model) -> bool:
    """Whether a training by this recipe sees each image in its mirrored forms alone, through a backbone that stays."""
    draws = (recipe.jitter, recipe.hue, recipe.blur, recipe.erase, recipe.copy_paste)
    still = recipe.scale is None and recipe.meet != "crop" and not any(draws)
    return recipe.freeze and recipe.pipeline != 1 and still and not isinstance(model.head, TokenHead)


class FeatureSource:
    """Features of one split of a data set.

    Args:
        model: whose backbone is frozen; on its device, in the dtype in which it is to be run.
        data: the split.
        key: all that decides what the backbone and its images are; what belongs to a level, a number format and the
            versions of the libraries is added here.
        store: where they are kept.
        autocast: number format of the forward pass where that is not the weights'.
    """

    def __init__(
        self,
        model: Model,
        data: Dataset,
        key: Mapping[str, Any],
        store: FeatureStore,
        *,
        autocast: torch.dtype = torch.float32,
    ) -> None:
        self.model, self.data, self.autocast = model, data, autocast
        self._device = model.backbone.mean.device
        weights = model.backbone.mean.dtype
        runs = f"autocast {autocast}" if autocast != torch.float32 else str(weights)
        self._key = {**key, "runs": runs, "torch": torch.__version__, "timm": timm.__version__}
        self._store = store
        self._rows: list[Rows] | None = None
        self._formats: list[torch.dtype] = []
        self._shapes: Rows | None = None
        self.computed = 0
        """Images that the backbone has been run on."""

    def prepare(
        self,
        recipe: Recipe,
        *,
        size: tuple[int, int],
        seed: int,
        workers: int = 0,
        report: Callable[[str, int, int], None] = lambda *_: None,
    ) -> None:
        """Run the backbone on every form of an image that a training will see and that is not there yet.

        A second process that needs the same features takes them from the other end, so they meet in the middle.

        Raises:
            DataError: an image cannot be read; names the file.
        """
        make = BatchMaker(self.data, recipe, size, seed)
        wanted = {
            FORMS * make.order[number] + form_of(recipe, self.data, seed, number): number
            for number in reversed(range(len(make.order)))
        }
        self._open(len(wanted))
        if self._rows is None:
            return
        order = sorted(wanted, reverse=not self._rows[0].first)
        chunks = [order[first : first + _CHUNK] for first in range(0, len(order), _CHUNK)]

        def made(step: int) -> tuple[Batch | None, list[int]]:
            # Without the shape of its picture a row is of no use: what it is the label of could not be placed.
            missing = [row for row in chunks[step] if not self._has(row) or self._shape(row // FORMS) is None]
            return (make.of([wanted[row] for row in missing]) if missing else None), missing

        with closing(ahead(made, len(chunks), workers)) as batches:
            for done, (batch, rows) in enumerate(batches):
                report("features", done * _CHUNK, len(order))
                # Another process may have been there meanwhile.
                left = [place for place, row in enumerate(rows) if not self._has(row)]
                if batch is None:
                    continue
                if left:
                    image, _ = finished(batch.map(lambda tensor: tensor.to(self._device)), self.model.backbone.mean)
                    self._keep(self._compute(image[left]), [rows[place] for place in left])
                if self._shapes is not None:
                    for row, shape in zip(rows, batch.pictures, strict=True):
                        self._shapes.put(row // FORMS, np.array(shape, np.int32))

    def batches(
        self, recipe: Recipe, *, size: tuple[int, int], seed: int, workers: int, first: int = 0
    ) -> Generator[tuple[Features, Target]]:
        """As `bench.training.loader.batches`, with the maps that the head reads in place of images.

        Images are drawn and mirrored alike, so a training by either is the same up to the rounding of the backbone in
        batches of another size. What is not kept (see `prepare`) is computed when it comes.
        """
        make, send = BatchMaker(self.data, recipe, size, seed), Sender(self._device)

        def made(step: int) -> tuple[Batch, list[NDArray[Any]] | None]:
            numbers = make.numbers(first + step)
            rows = [FORMS * make.order[one] + form_of(recipe, self.data, seed, one) for one in numbers]
            shapes = [self._shape(row // FORMS) for row in rows] if all(map(self._has, rows)) else [None]
            known = [shape for shape in shapes if shape is not None]
            if len(known) < len(rows) or self._rows is None:
                return send(make(first + step)), None
            return send(make(first + step, shapes=known)), [
                np.stack([level.get(row) for row in rows]) for level in self._rows
            ]

        with closing(ahead(made, recipe.batches - first, workers)) as items:
            for batch, kept in items:
                send.received(batch)
                image, target = finished(batch, self.model.backbone.mean)
                yield (self._compute(image) if kept is None else self._tensors(kept)), target

    def of_split(self, image: Float[Tensor, "B 3 H W"], first: int) -> Features:
        """Maps of images of an evaluation, which are those from index ``first`` on."""
        self._open(len(self.data))
        rows = [index * FORMS for index in range(first, first + len(image))]
        if self._rows is not None and all(map(self._has, rows)):
            return self._tensors([np.stack([level.get(row) for row in rows]) for level in self._rows])
        found = self._compute(image)
        self._keep(found, rows)
        return found

    @torch.no_grad()
    def _compute(self, image: Float[Tensor, "B 3 H W"]) -> Features:
        self.computed += len(image)
        with torch.autocast(self._device.type, self.autocast, enabled=self.autocast != torch.float32):
            return self.model.features(image)

    def _tensors(self, kept: Sequence[NDArray[Any]]) -> Features:
        """Maps of every level as they came out of the backbone."""
        pairs = zip(kept, self._formats, strict=True)
        return tuple(torch.from_numpy(level).view(form).to(self._device) for level, form in pairs)

    def _has(self, row: int) -> bool:
        return self._rows is not None and all(rows.has(row) for rows in self._rows)

    def _shape(self, index: int) -> tuple[int, int] | None:
        if self._shapes is None or not self._shapes.has(index):
            return None
        height, width = self._shapes.get(index).tolist()
        return height, width

    def _keep(self, found: Features, rows: Sequence[int]) -> None:
        for level, maps in enumerate(found):
            if self._rows is not None:
                bits = maps.detach().view(_BITS.get(maps.dtype, maps.dtype)).cpu().numpy()
                for row, one in zip(rows, bits, strict=True):
                    self._rows[level].put(row, one)

    def _open(self, expected: int) -> None:
        """Open the rows of every level, of which so many are expected; one image shows what they look like."""
        if self._rows is not None or self._formats:
            return
        size = self.model.size
        mean = self.model.backbone.mean
        probe = self._compute(mean.expand(1, 3, *size).contiguous())
        self.computed -= 1
        self._formats = [maps.dtype for maps in probe]
        kept = self.model.backbone.kept or tuple(range(len(self.model.backbone.levels)))
        norms = self.model.backbone.norms or [nn.Identity()] * len(kept)
        opened: list[Rows] = []
        for level, norm, maps in zip(kept, norms, probe, strict=True):
            # A head has norms on what it reads alone: one and the same level may be kept with and without.
            named = level if isinstance(norm, nn.Identity) else f"{level} normed"
            bits = torch.empty(0, dtype=_BITS.get(maps.dtype, maps.dtype)).numpy().dtype
            key = {**self._key, "level": named}
            rows = self._store.open(key, len(self.data) * FORMS, tuple(maps.shape[1:]), str(bits), expected=expected)
            if rows is None:
                for one in opened:
                    one.close()
                return
            opened.append(rows)
        self._rows = opened
        self._shapes = self._store.open({**self._key, "level": "shape"}, len(self.data), (2,), "int32")

    def close(self) -> None:
        """Let others remove what this process has read, to make room."""
        for rows in [*(self._rows or ()), *([self._shapes] if self._shapes is not None else ())]:
            rows.close()
        self._rows, self._shapes = None, None


def form_of(recipe: Recipe, data: Dataset, seed: int, number: int) -> int:
    """Which mirrored form of its image a sample of a training is."""
    dice = draws(recipe, data.flips, seed, number)
    return dice.mirrored + 2 * dice.upside_down
