"""A seeded training run: any model, any data set, by a recipe."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from bench.data.contract import Dataset
from bench.plan.measure import Invalid
from bench.plan.recipe import Recipe
from bench.training import loader, series
from heads.contract import Model, Target

T = TypeVar("T")
_NO_DECAY_NAMES = ("pos_embed", "cls_token", "dist_token", "relative_position_bias_table")


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

    Raises:
        Invalid: the loss is not finite; says at which step.
        DataError: an image cannot be read; names the file.
    """
    torch.manual_seed(seed)
    model.train()
    if data.task == "segmentation" and recipe.class_weight_power:
        model.head.set_class_weights(class_weights(data, recipe, size).to(device))
    model.head.loss_stride = recipe.loss_stride
    stepper = Stepper(model, recipe, dtype=dtype, device=device)
    schedule = torch.optim.lr_scheduler.LambdaLR(stepper.optimizer, lambda step: _rate(step, recipe))
    losses = []
    if recipe.pipeline == 1:
        made = series.batches(data, recipe, size=size, device=device, seed=seed)
    else:
        mean = model.backbone.mean
        made = loader.batches(data, recipe, size=size, device=device, seed=seed, mean=mean, workers=workers)
    feed = Waiting(made)
    with closing(made):
        for step, (image, target) in enumerate(feed):
            report("training", step, recipe.steps)
            model.head.set_progress(step / recipe.steps)
            loss = stepper.loss(image, target)
            if not torch.isfinite(loss):
                raise Invalid(
                    f"the loss became {loss.item()} at step {step} of {recipe.steps}; lower the learning rate"
                )
            stepper.update(loss)
            schedule.step()
            losses.append(loss.item())
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


class Stepper:
    """One training step, in two halves: what a recipe trains with, and what the cost of training is measured on.

    Args:
        model: in float32, in train mode, on ``device``.
        recipe: its optimiser's numbers; schedule and data are the caller's.
        dtype: below float32 the forward pass runs under autocast to it, float16 with a scaled loss.
        device: of the model.
        forward: what runs the model, such as its compiled form; None: the model itself.
    """

    def __init__(
        self,
        model: Model,
        recipe: Recipe,
        *,
        dtype: torch.dtype,
        device: torch.device,
        forward: Callable[[Tensor], Any] | None = None,
    ) -> None:
        self.model, self.dtype, self.device, self.clip = model, dtype, device, recipe.clip
        self.forward = forward or model
        groups = _groups(model, recipe.weight_decay)
        self.optimizer = torch.optim.AdamW(groups, lr=recipe.lr, betas=recipe.betas, fused=True)
        self.scaler = torch.GradScaler(device.type, enabled=dtype == torch.float16)

    def loss(self, image: Float[Tensor, "B 3 H W"], target: Target) -> Float[Tensor, ""]:
        """Forward pass and loss."""
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            raw = self.forward(image)
        return self.model.loss(raw, target)

    def update(self, loss: Float[Tensor, ""]) -> None:
        """Backward pass, clipping and the optimiser's step."""
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()


def class_weights(data: Dataset, recipe: Recipe, size: tuple[int, int], *, most: int = 500) -> Float[Tensor, " K"]:
    """Frequency ** -power over training masks, mean 1 over their pixels.

    Counted at ground-truth resolution (by the first pipeline: in pictures stretched to ``size``) on up to ``most``
    images spread over the split, or on the first ``recipe.class_weight_images``. A class that is in none of them weighs
    as much as the rarest that is: it may yet come, and is rare.
    """
    count = min(len(data), recipe.train_images or len(data))
    if recipe.class_weight_images is not None:
        indices = np.arange(min(count, recipe.class_weight_images))
    else:
        indices = np.linspace(0, count - 1, min(count, most)).astype(int)
    pixels = np.zeros(256, np.int64)
    for index in indices.tolist():
        mask = (data.sample(index, size).truth if recipe.pipeline == 1 else data.truth(index)).mask
        assert mask is not None, "a segmentation data set has masks"
        pixels += np.bincount(mask.ravel(), minlength=256)
    frequency = pixels[: len(data.classes)] / max(1, pixels[: len(data.classes)].sum())
    seen = frequency > 0
    if not seen.any():
        return torch.ones(len(data.classes))
    weights = np.power(frequency, -recipe.class_weight_power, where=seen, out=np.zeros_like(frequency))
    weights[~seen] = weights.max()
    return torch.from_numpy(weights / (weights * frequency).sum()).float()


def _groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Weight decay on matrices and kernels only: none on norms, biases, positions and tokens."""
    decay, plain = [], []
    for name, parameter in model.named_parameters():
        no_decay = parameter.ndim <= 1 or name.rpartition(".")[2] in _NO_DECAY_NAMES
        (plain if no_decay else decay).append(parameter)
    return [{"params": decay, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]


def _rate(step: int, recipe: Recipe) -> float:
    warm = max(1, round(recipe.steps * recipe.warmup))
    if step < warm:
        return (step + 1) / warm
    progress = (step - warm) / max(1, recipe.steps - warm)
    return recipe.final_lr + (1 - recipe.final_lr) * (1 + math.cos(math.pi * progress)) / 2
