"""A seeded training run: any model, any data set, by a recipe."""

import math
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from bench.data.contract import Dataset
from bench.plan.measure import Invalid
from bench.plan.recipe import Recipe
from bench.training import loader, series
from bench.training.features import FeatureSource
from bench.training.optim import Stepper, in_training_mode, rate
from heads.contract import Model, Target

T = TypeVar("T")


@dataclass(frozen=True)
class Trained:
    """losses: of every step. waited: share of the time from the second step on that went by in waiting for a batch."""

    losses: list[float]
    waited: float | None


def train(
    model: Model,
    data: Dataset,
    recipe: Recipe,
    *,
    size: tuple[int, int],
    dtype: torch.dtype,
    device: torch.device,
    seed: int,
    report: Callable[[str, int, int], None],
    workers: int = 0,
    source: FeatureSource | None = None,
    teacher: Callable[[Tensor], Tensor] | None = None,
) -> Trained:
    """Train in place with AdamW, a linear warm-up and a cosine.

    Args:
        model: in float32, on ``device``.
        data: training split.
        recipe: every number of it.
        size: (H, W) in pixels at which images are read.
        dtype: below float32 the steps run under autocast to it.
        device: where the batches go.
        seed: of the order of images, of augmentation and of whatever the loss draws.
        report: told (stage, step, steps) as it goes.
        workers: threads that make batches ahead of the steps; they change no batch. (The first pipeline has none.)
        source: of the features of the images, where the backbone is frozen and they are kept.
        teacher: images (B, 3, H, W) -> scores (B, K, h, w), see `bench.training.distill`.

    Raises:
        Invalid: the loss is not finite; says at which step.
        Unsupported: the recipe's ``layer_decay`` of a network whose layers nobody has named.
        DataError: an image cannot be read; names the file.
    """
    torch.manual_seed(seed)
    in_training_mode(model, recipe)
    if data.task == "segmentation" and recipe.class_weight_power:
        model.head.set_class_weights(class_weights(data, recipe, size, seed=seed).to(device))
    model.head.loss_stride = recipe.loss_stride
    forward = None if source is None else model.of_features
    stepper = Stepper(model, recipe, dtype=dtype, device=device, forward=forward)
    schedule = torch.optim.lr_scheduler.LambdaLR(stepper.optimizer, lambda step: rate(step, recipe))
    losses: list[float] = []
    made: Generator[tuple[Any, Target]]
    if source is not None:
        source.prepare(recipe, size=size, seed=seed, workers=workers, report=report)
        made = source.batches(recipe, size=size, seed=seed, workers=workers)
    elif recipe.pipeline == 1:
        made = series.batches(data, recipe, size=size, device=device, seed=seed)
    else:
        mean = model.backbone.mean
        made = loader.batches(data, recipe, size=size, device=device, seed=seed, mean=mean, workers=workers)
    feed = Waiting(made)
    gathered: list[float] = []
    with closing(made):
        for image, target in feed:
            step = len(losses)
            if not gathered:
                report("training", step, recipe.steps)
                model.head.set_progress(step / recipe.steps)
            if teacher is None:
                loss = stepper.loss(image, target)
            else:
                share, temperature = recipe.teacher_share, recipe.temperature
                raw, scores = stepper.run(image), teacher(image)
                loss = model.distil(raw, target, scores, share=share, temperature=temperature)
            gathered.append(loss.item())
            if not math.isfinite(gathered[-1]):
                raise Invalid(
                    f"the loss became {gathered[-1]} at step {step} of {recipe.steps}; lower the learning rate"
                )
            if stepper.update(loss):
                schedule.step()
                losses.append(sum(gathered) / len(gathered))
                gathered.clear()
    stepper.finish()
    return Trained(losses, feed.share() if recipe.steps > 1 else None)


class Waiting(Iterator[T]):
    """An iterator that knows which share of the time its taker has waited for it.

    The first item is not counted: nobody can be ahead of it.
    """

    def __init__(self, items: Iterator[T]) -> None:
        self._items = items
        self._waited = 0.0
        self._since: float | None = None

    def __next__(self) -> T:
        asked = time.perf_counter()
        item = next(self._items)
        now = time.perf_counter()
        if self._since is None:
            self._since = now
        else:
            self._waited += now - asked
        return item

    def share(self) -> float | None:
        """Up to now, 0 to 1; None before the first item."""
        return None if self._since is None else self._waited / (time.perf_counter() - self._since)


def class_weights(
    data: Dataset, recipe: Recipe, size: tuple[int, int], *, seed: int = 0, most: int = 500
) -> Float[Tensor, " K"]:
    """Frequency ** -power over training masks, mean 1 over their pixels.

    Counted at ground-truth resolution (by the first pipeline: in pictures stretched to ``size``) on up to ``most``
    images spread over those that the training with this seed sees, or on the first
    ``recipe.class_weight_images``. A class that is in none of them weighs as much as the rarest that is: it may yet
    come, and is rare.
    """
    seen = loader.chosen(len(data), recipe, seed)
    count = len(seen)
    if recipe.class_weight_images is not None:
        indices = np.arange(min(count, recipe.class_weight_images))
    else:
        indices = np.linspace(0, count - 1, min(count, most)).astype(int)
    pixels = np.zeros(256, np.int64)
    for index in seen[indices].tolist():
        mask = (data.sample(index, size).truth if recipe.pipeline == 1 else data.truth(index)).mask
        assert mask is not None, "a segmentation data set has masks"
        pixels += np.bincount(mask.ravel(), minlength=256)
    frequency = pixels[: len(data.classes)] / max(1, pixels[: len(data.classes)].sum())
    met = frequency > 0
    if not met.any():
        return torch.ones(len(data.classes))
    weights = np.power(frequency, -recipe.class_weight_power, where=met, out=np.zeros_like(frequency))
    weights[~met] = weights.max()
    return torch.from_numpy(weights / (weights * frequency).sum()).float()
