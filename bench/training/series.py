"""The first pipeline, which the recipes keep whose records were made with it: stretched pictures, by torchvision.

Batches are made in series with the steps, with draws from torch's generator, which the loss draws from, too. Its known
faults, mended in the second pipeline (`bench.training.loader`): a zoom moves masks by half a pixel against the image,
since torchvision resizes masks by floor; it magnifies pictures that were shrunken before; and what a crop uncovers is
black, which normalisation turns into a strong colour.
"""

from collections.abc import Generator
from itertools import islice
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from bench.data.contract import IGNORE, Dataset, Sample, Task
from bench.plan.recipe import Recipe
from bench.training.loader import chosen, shuffled
from heads.contract import Boxes, Target


def batches(
    data: Dataset, recipe: Recipe, *, size: tuple[int, int], device: torch.device, seed: int, first: int = 0
) -> Generator[tuple[Float[Tensor, "B 3 H W"], Target]]:
    """``recipe.batches`` augmented batches: RGB in 0..1, and the target of the task. Every image once an epoch.

    Batches before the ``first`` are left out, as if torch's generator had drawn for them: it has to be as they left it.
    """
    seen = chosen(len(data), recipe, seed).tolist()
    order = islice(shuffled(len(seen), seed), first * recipe.batch, None)
    augment = augmentation(recipe, size, data.task)
    for _ in range(first, recipe.batches):
        pairs = [augment(*tensors(data.sample(seen[next(order)], size))) for _ in range(recipe.batch)]
        image = torch.stack([image for image, _ in pairs]).to(device, non_blocking=True).float() / 255
        yield image, collate([target for _, target in pairs], device)


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
