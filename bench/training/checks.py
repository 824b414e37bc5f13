"""Looks at the validation split in the course of a training: when does a model tell two classes apart?

The classes are a data set's `bench.data.contract.Dataset.pair`, which look the same: a model that does not see what
decides between them is right half of the time, whatever it says.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bench.data.contract import Dataset
from bench.plan.recipe import Recipe
from bench.training.optim import in_training_mode
from bench.training.predict import predictions
from heads.contract import Model

FOUND = 0.5
"""Least share of the pair's pixels that have to be taken for either of it: below, which of them is no question yet."""


class PairAccuracy:
    """How often the right one of two classes is found, of the pixels of either that are taken for either.

    Args:
        pair: their labels.
    """

    def __init__(self, pair: tuple[int, int]) -> None:
        self.pair = pair
        self.counts = np.zeros((2, 3), np.int64)

    def add(self, truth: NDArray[np.integer], prediction: NDArray[np.integer]) -> None:
        """One image (H, W): labels, and what is predicted of each pixel."""
        for row, label in enumerate(self.pair):
            found = prediction[truth == label]
            self.counts[row] += [np.count_nonzero(found == one) for one in self.pair] + [found.size]

    def result(self) -> float | None:
        """Mean over both classes, in percent: 50 for a guess, 100 when solved.

        None where one of them is not there, or too little of either is found (`FOUND`).
        """
        pixels = self.counts[:, 2]
        found = self.counts[:, :2].sum(axis=1)
        if not pixels.all() or (found < FOUND * pixels).any():
            return None
        return float(100 * np.mean(self.counts[:, :2].diagonal() / found))


class Checks:
    """What a model tells apart after every so many steps of its training, and whether that is enough to end it.

    Args:
        data: the validation split, of segmentation, with a pair.
        recipe: ``check_every`` steps, ``until`` percent.
        size: (H, W) of the input in pixels.
        workers: threads that read images.

    Attributes:
        seen: (step, percent or None) of every look.
    """

    def __init__(self, data: Dataset, recipe: Recipe, *, size: tuple[int, int], workers: int = 0) -> None:
        assert recipe.check_every is not None, "somebody wants to look"
        assert data.pair is not None, "of a data set that has a pair"
        self.data, self.recipe, self.size, self.workers = data, recipe, size, workers
        self.every = recipe.check_every
        self.seen: list[tuple[int, float | None]] = []

    def due(self, step: int) -> bool:
        """Whether to look after so many steps: every few, and after the last one."""
        return step % self.every == 0 or step == self.recipe.steps

    def enough(self, model: Model, step: int) -> bool:
        """Look; whether the training may end.

        The model is left in training mode, and random generators as they were.
        """
        device = model.backbone.mean.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            found = pair_accuracy(model.eval(), self.data, self.recipe, size=self.size, workers=self.workers)
        in_training_mode(model, self.recipe)
        self.seen.append((step, found))
        return self.solved is not None

    def in_words(self) -> str:
        """The latest look, for the line of progress."""
        if not self.seen:
            return ""
        found = self.seen[-1][1]
        return "pair not found yet" if found is None else f"pair accuracy {found:.0f} %"

    @property
    def solved(self) -> int | None:
        """The step after which the pair was first told apart; None: not yet, or it is not asked (``until``)."""
        limit = self.recipe.until
        if limit is None:
            return None
        return next((step for step, found in self.seen if found is not None and found >= limit), None)

    def state_dict(self) -> dict[str, Any]:
        """See `bench.training.state.Stateful`."""
        return {"seen": self.seen}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """See `bench.training.state.Stateful`."""
        self.seen = [(int(step), found) for step, found in state_dict["seen"]]


def pair_accuracy(
    model: Model, data: Dataset, recipe: Recipe, *, size: tuple[int, int], workers: int = 0
) -> float | None:
    """`PairAccuracy` of a model in evaluation mode on a validation split."""
    assert data.pair is not None, "of a data set that has a pair"
    pair = PairAccuracy(data.pair)
    count = min(len(data), recipe.val_images or len(data))
    for _, truths, found in predictions(model, data, recipe, size=size, count=count, workers=workers):
        assert isinstance(found, torch.Tensor), "segmentation finds labels"
        for truth, one in zip(truths, found.cpu().numpy(), strict=True):
            assert truth.mask is not None, "a segmentation data set has masks"
            pair.add(truth.mask, one)
    return pair.result()
