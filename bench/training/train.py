"""A seeded training run: any model, any data set, by a recipe."""

import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from bench.data.contract import Dataset
from bench.plan.measure import Invalid, Report
from bench.plan.recipe import Recipe
from bench.training import loader, series
from bench.training.checks import Checks
from bench.training.features import FeatureSource
from bench.training.optim import Stepper, in_training_mode, rate
from bench.training.state import Checkpoint, Position, Stateful
from heads.contract import Model, Target

T = TypeVar("T")


@dataclass(frozen=True)
class Trained:
    """What came of a training beside the weights.

    losses: of every step. waited: share of the time from the second step on that went by in waiting for a batch.
    seconds: that it took, those before it was cut off included. resumed: the step at which it went on then; None: it
    was not cut off.
    """

    losses: list[float]
    waited: float | None
    seconds: float = 0.0
    resumed: int | None = None


_SHOWN = 20
"""Losses whose mean is shown on the way."""


def train(
    model: Model,
    data: Dataset,
    recipe: Recipe,
    *,
    size: tuple[int, int],
    dtype: torch.dtype,
    device: torch.device,
    seed: int,
    report: Report,
    workers: int = 0,
    source: FeatureSource | None = None,
    teacher: Callable[[Tensor], Tensor] | None = None,
    checkpoint: Checkpoint | None = None,
    state: Mapping[str, Stateful] | None = None,
    checks: Checks | None = None,
) -> Trained:
    """Train in place with AdamW, a linear warm-up and a cosine.

    Where ``checkpoint`` has the state of this training, it goes on from there, with the losses, bit by bit, that it
    would have had: a batch follows from the seed and its number (of the first pipeline, from torch's generator, whose
    state is part of it), and what a device adds up in an order of its own choice is not covered by that.

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
        checkpoint: the file that its state is kept in now and then; None: nowhere.
        checks: looks at the model on the way, which may end the training.
        state: by name, what else the steps depend on and change; it joins what is kept.

    Raises:
        Invalid: the loss is not finite, and at which step; or the weights are not after the last update.
        Unsupported: the recipe's ``layer_decay`` of a network whose layers nobody has named.
        DataError: an image cannot be read; names the file.
    """
    began = time.perf_counter()
    torch.manual_seed(seed)
    in_training_mode(model, recipe)
    if data.task == "segmentation" and recipe.class_weight_power:
        model.head.set_class_weights(class_weights(data, recipe, size, seed=seed).to(device))
    model.head.loss_stride = recipe.loss_stride
    forward = None if source is None else model.of_features
    stepper = Stepper(model, recipe, dtype=dtype, device=device, forward=forward)
    schedule = torch.optim.lr_scheduler.LambdaLR(stepper.optimizer, lambda step: rate(step, recipe))
    if source is not None:
        source.prepare(recipe, size=size, seed=seed, workers=workers, report=report)
    parts: dict[str, Stateful] = {"model": model, "stepper": stepper, "schedule": schedule, **(state or {})}
    parts |= {} if checks is None else {"checks": checks}
    before = None if checkpoint is None else checkpoint.restore(parts, device)
    if before is not None:
        began = time.perf_counter() - before.seconds
    start = before or Position()
    losses = list(start.losses)
    first = len(losses) * recipe.grad_accumulation
    made = _batches(model, data, recipe, source, size=size, device=device, seed=seed, workers=workers, first=first)
    feed = Waiting(made, start.waited, start.counted)
    gathered: list[float] = []
    with closing(made):
        for image, target in feed:
            step = len(losses)
            if not gathered:
                report("training", step, recipe.steps, _shown(losses, feed.share(), checks))
                model.head.set_progress(step / recipe.steps)
            loss = _loss(stepper, recipe, image, target, teacher)
            gathered.append(loss.item())
            if not math.isfinite(gathered[-1]):
                raise Invalid(
                    f"the loss became {gathered[-1]} at step {step} of {recipe.steps}; lower the learning rate"
                )
            if stepper.update(loss):
                schedule.step()
                losses.append(sum(gathered) / len(gathered))
                gathered.clear()
                ended, spent = _look(checks, model, len(losses))
                # Looks are no training, and nobody waits for data meanwhile.
                began += spent
                feed.leave_out(spent)
                if ended:
                    break
                if checkpoint is not None and checkpoint.due(len(losses)):
                    position = Position(losses, time.perf_counter() - began, feed.waited, feed.counted())
                    checkpoint.save(parts, position, device)
    stepper.finish()
    _refuse_unbounded(model)  # no later loss tells of what the last update did
    return Trained(
        losses,
        feed.share() if recipe.steps > 1 else None,
        time.perf_counter() - began,
        None if before is None else len(before.losses),
    )


def _batches(
    model: Model,
    data: Dataset,
    recipe: Recipe,
    source: FeatureSource | None,
    *,
    size: tuple[int, int],
    device: torch.device,
    seed: int,
    workers: int,
    first: int,
) -> Generator[tuple[Any, Target]]:
    """What the model, or its head, sees, from the batch ``first`` on."""
    if source is not None:
        return source.batches(recipe, size=size, seed=seed, workers=workers, first=first)
    if recipe.pipeline == 1:
        return series.batches(data, recipe, size=size, device=device, seed=seed, first=first)
    mean = model.backbone.mean
    return loader.batches(data, recipe, size=size, device=device, seed=seed, mean=mean, workers=workers, first=first)


def _loss(
    stepper: Stepper, recipe: Recipe, image: Any, target: Target, teacher: Callable[[Tensor], Tensor] | None
) -> Float[Tensor, ""]:
    """The loss of a batch, with the share of it that a teacher has."""
    if teacher is None:
        return stepper.loss(image, target)
    raw, scores = stepper.run(image), teacher(image)
    return stepper.model.distil(raw, target, scores, share=recipe.teacher_share, temperature=recipe.temperature)


def _refuse_unbounded(model: Model) -> None:
    """Raise `Invalid` where weights, or statistics of norms, are not finite."""
    buffers = [
        (name, buffer) for name, buffer in model.named_buffers() if name.rpartition(".")[2].startswith("running_")
    ]
    named = [*model.named_parameters(), *buffers]
    if broken := [name for name, tensor in named if not tensor.isfinite().all()]:
        raise Invalid(
            f"{len(broken)} of {len(named)} tensors of weights are not finite after the last update (the first is "
            f"{broken[0]}); lower the learning rate"
        )


def _look(checks: Checks | None, model: Model, step: int) -> tuple[bool, float]:
    """Whether a look ends the training, and the seconds that it took."""
    if checks is None or not checks.due(step):
        return False, 0.0
    began = time.perf_counter()
    return checks.enough(model, step), time.perf_counter() - began


def _shown(losses: list[float], waited: float | None, checks: Checks | None) -> str:
    """What the line of progress says beside the step."""
    if not losses or waited is None:
        return ""
    latest = losses[-_SHOWN:]
    looked = "" if checks is None or not checks.seen else f", {checks.in_words()}"
    return f"loss {sum(latest) / len(latest):.3g}, waiting {100 * waited:.0f} %{looked}"


class Waiting(Iterator[T]):
    """An iterator that knows which share of the time its taker has waited for it.

    The first item is not counted: nobody can be ahead of it.

    Args:
        items: whose taker waits.
        waited: seconds that it has waited before.
        counted: seconds of which those are a part.
    """

    def __init__(self, items: Iterator[T], waited: float = 0.0, counted: float = 0.0) -> None:
        self._items = items
        self.waited = waited
        self._before = counted
        self._since: float | None = None

    def __next__(self) -> T:
        asked = time.perf_counter()
        item = next(self._items)
        now = time.perf_counter()
        if self._since is None:
            self._since = now
        else:
            self.waited += now - asked
        return item

    def leave_out(self, seconds: float) -> None:
        """Time in which the taker did something else than taking and using items."""
        if self._since is not None:
            self._since += seconds

    def counted(self) -> float:
        """Seconds of which `waited` is a part."""
        return self._before + (0.0 if self._since is None else time.perf_counter() - self._since)

    def share(self) -> float | None:
        """Up to now, 0 to 1; None before the first item."""
        return self.waited / counted if (counted := self.counted()) else None


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
