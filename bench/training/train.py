"""A seeded training run: any model, any data set, by a recipe."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchvision import tv_tensors
from torchvision.transforms import v2

from bench.data.contract import IGNORE, Dataset, Sample, Task
from bench.plan.measure import Invalid
from bench.plan.recipe import Recipe
from heads.contract import Boxes, Model, Target

_NO_DECAY_NAMES = ("pos_embed", "cls_token", "dist_token", "relative_position_bias_table")


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
) -> list[float]:
    """Train in place with AdamW, a linear warm-up and a cosine; the loss of every step is returned.

    Args:
        model: in float32, on ``device``.
        data: training split.
        recipe: every number of it.
        size: (H, W) in pixels at which images are read.
        dtype: below float32 the steps run under autocast to it.
        device: where the batches go.
        seed: of the order of images, of augmentation and of whatever the loss draws.
        report: told (stage, step, steps) as it goes.

    Raises:
        Invalid: the loss is not finite; says at which step.
    """
    torch.manual_seed(seed)
    model.train()
    if data.task == "segmentation" and recipe.class_weight_power:
        model.head.set_class_weights(class_weights(data, recipe, size).to(device))
    model.head.loss_stride = recipe.loss_stride
    stepper = Stepper(model, recipe, dtype=dtype, device=device)
    schedule = torch.optim.lr_scheduler.LambdaLR(stepper.optimizer, lambda step: _rate(step, recipe))
    losses = []
    for step, (image, target) in enumerate(batches(data, recipe, size=size, device=device, seed=seed)):
        report("training", step, recipe.steps)
        model.head.set_progress(step / recipe.steps)
        loss = stepper.loss(image, target)
        if not torch.isfinite(loss):
            raise Invalid(f"the loss became {loss.item()} at step {step} of {recipe.steps}; lower the learning rate")
        stepper.update(loss)
        schedule.step()
        losses.append(loss.item())
    return losses


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


def batches(
    data: Dataset, recipe: Recipe, *, size: tuple[int, int], device: torch.device, seed: int
) -> Iterator[tuple[Float[Tensor, "B 3 H W"], Target]]:
    """``recipe.steps`` augmented batches: RGB in 0..1, and the target of the task. Every image once an epoch."""
    count = min(len(data), recipe.train_images or len(data))
    order = _shuffled(count, seed)
    augment = augmentation(recipe, size, data.task)
    for _ in range(recipe.steps):
        pairs = [augment(*tensors(data.sample(next(order), size))) for _ in range(recipe.batch)]
        image = torch.stack([image for image, _ in pairs]).to(device, non_blocking=True).float() / 255
        yield image, collate([target for _, target in pairs], device)


def _shuffled(count: int, seed: int) -> Iterator[int]:
    # numpy's generator, not torch's: the order of the images must not depend on how often a model or a loss draws.
    generator = np.random.default_rng([seed, 1])
    while True:
        yield from generator.permutation(count).tolist()


def tensors(sample: Sample) -> tuple[tv_tensors.Image, dict[str, Tensor]]:
    """As torchvision's transforms want it: image (3, H, W) uint8; "mask" (H, W), or "boxes", "labels", "ignore".

    Where the truth has instance masks there is "masks" beside the boxes, (M, H, W) uint8 of 0 and 1.
    """
    image = tv_tensors.Image(torch.from_numpy(np.array(sample.image)).permute(2, 0, 1))
    truth = sample.truth
    if truth.mask is not None:
        return image, {"mask": tv_tensors.Mask(torch.from_numpy(np.array(truth.mask)))}
    boxes = tv_tensors.BoundingBoxes(  # pyright: ignore[reportCallIssue] - its overloads leave out canvas_size
        torch.from_numpy(np.array(truth.boxes)).reshape(-1, 4),
        format=tv_tensors.BoundingBoxFormat.XYXY,
        canvas_size=truth.size,
    )
    target = {
        "boxes": boxes,
        "labels": torch.from_numpy(np.array(truth.labels)),
        "ignore": torch.from_numpy(np.array(truth.ignore)),
    }
    if truth.masks is not None:
        target["masks"] = tv_tensors.Mask(torch.from_numpy(truth.masks.astype(np.uint8)))
    return image, target


def augmentation(recipe: Recipe, size: tuple[int, int], task: Task) -> v2.Transform:
    """The recipe's augmentation with torchvision.transforms.v2; what a crop uncovers is black and ignored."""
    # The masks of detection are those of single objects, and none of them is where there was no picture.
    uncovered = IGNORE if task == "segmentation" else 0
    fill: Any = {tv_tensors.Image: 0, tv_tensors.Mask: uncovered, tv_tensors.BoundingBoxes: 0}
    steps: list[v2.Transform] = []
    if recipe.scale is not None:
        steps += [
            # Its target is (width, height), whatever its documentation says; the zoom is relative to filling it.
            v2.ScaleJitter((size[1], size[0]), scale_range=recipe.scale, antialias=True),
            v2.RandomCrop(size, pad_if_needed=True, fill=fill),
            v2.ClampBoundingBoxes(),
        ]
    if recipe.flip:
        steps.append(v2.RandomHorizontalFlip())
    if recipe.flip_vertical:
        steps.append(v2.RandomVerticalFlip())
    if recipe.jitter:
        strength = recipe.jitter
        steps.append(v2.ColorJitter(brightness=strength, contrast=strength, saturation=strength))
    if recipe.scale is not None and task == "detection":
        # A crop cuts objects down to slivers of a pixel or none, which are nothing to be found.
        steps.append(v2.SanitizeBoundingBoxes(min_size=2, labels_getter=_per_box))
    return v2.Compose(steps or [v2.Identity()])


def _per_box(inputs: tuple[object, dict[str, Tensor]]) -> tuple[Tensor, ...]:
    """What goes with a box and is dropped with it; of masks, the transform knows by itself."""
    return inputs[1]["labels"], inputs[1]["ignore"]


def collate(targets: list[dict[str, Tensor]], device: torch.device) -> Target:
    """Masks stacked to (B, H, W) int64, or a list of `Boxes`.

    With instance masks, an object of which no pixel is left (cropped away but for an empty corner of its box, or too
    small for this size) is ignored: there is nothing to be found, and no shape to be learnt.
    """
    if "mask" in targets[0]:
        return torch.stack([target["mask"].as_subclass(Tensor) for target in targets]).to(device).long()
    return [_boxes(target, device) for target in targets]


def _boxes(target: dict[str, Tensor], device: torch.device) -> Boxes:
    masks, ignore = None, target["ignore"]
    if "masks" in target:
        masks = target["masks"].as_subclass(Tensor).bool()
        ignore = ignore | ~masks.flatten(1).any(1)
    return Boxes(
        xyxy=target["boxes"].as_subclass(Tensor).float().to(device),
        labels=target["labels"].to(device),
        ignore=ignore.to(device),
        masks=None if masks is None else masks.to(device),
    )


def class_weights(data: Dataset, recipe: Recipe, size: tuple[int, int], *, most: int = 500) -> Float[Tensor, " K"]:
    """Frequency ** -power over training masks, mean 1 over their pixels.

    Counted on up to ``most`` images spread over the split, or on the first ``recipe.class_weight_images``. A class that
    is in none of them weighs as much as the rarest that is: it may yet come, and is rare.
    """
    count = min(len(data), recipe.train_images or len(data))
    if recipe.class_weight_images is not None:
        indices = np.arange(min(count, recipe.class_weight_images))
    else:
        indices = np.linspace(0, count - 1, min(count, most)).astype(int)
    pixels = np.zeros(256, np.int64)
    for index in indices.tolist():
        mask = data.sample(index, size).truth.mask
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
