"""Which boxes of a dense detector are left, of whole batches at once: for devices on which launching costs time.

The rules are those of torchvision's `postprocess_detections`, and so are the results: scores above a threshold, of each
level the best, NMS by class, the best of what that leaves. torchvision goes level by level through each image, with
some forty small kernels for each, and waits for the device each time to hear how many there are. On a CPU, where that
costs nothing and scores of one image stay in its cache, torchvision's is used.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchvision.models.detection import FCOS, RetinaNet
from torchvision.ops import clip_boxes_to_image, nms

AT_ONCE = 2**25
"""Scores of as many images as have so many together are looked at in one piece: 128 MiB, a few times over."""


def in_whole_batches(device: torch.device) -> bool:
    """Whether this file is for a device."""
    return device.type != "cpu"


def pieces(logits: Float[Tensor, "B N K"]) -> Iterator[slice]:
    """The images of a batch, as many at once as fit."""
    step = max(1, AT_ONCE // max(1, logits.shape[1] * logits.shape[2]))
    return (slice(start, start + step) for start in range(0, len(logits), step))


def select(
    scores: Float[Tensor, "B N K"],
    deltas: Float[Tensor, "B N 4"],
    anchors: Sequence[Float[Tensor, "_ 4"]],
    decode: Callable[[Tensor, Tensor], Tensor],
    size: tuple[int, int],
    rules: FCOS | RetinaNet,
) -> list[dict[str, Tensor]]:
    """What is left of each image.

    Args:
        scores: 0..1, level by level.
        deltas: of the same places.
        anchors: of each level, xyxy in pixels.
        decode: from deltas (M, 4) and their anchors (M, 4) to boxes (M, 4), xyxy in pixels.
        size: (H, W) of the image in pixels, to which boxes are clipped.
        rules: has the thresholds and counts.

    Returns:
        As torchvision: "boxes" (M, 4) xyxy in pixels, "labels" (M,) and "scores" (M,), which fall.
    """
    best, labels, places = candidates(scores, [len(level) for level in anchors], rules)
    chosen = deltas.gather(1, places.unsqueeze(2).expand(-1, -1, 4)).flatten(0, 1)
    decoded = decode(chosen, torch.cat(list(anchors))[places.flatten()])
    boxes = clip_boxes_to_image(decoded, size).view(*places.shape, 4)
    there = best >= 0
    # As torchvision does it: classes are moved apart, by more than any box of the image reaches.
    reach = boxes.masked_fill(~there.unsqueeze(2), 0).amax(dim=(1, 2)) + 1
    apart = boxes + (labels.to(boxes) * reach[:, None]).unsqueeze(2)
    counts = there.sum(dim=1).tolist()
    index = there.flatten().nonzero().squeeze(1)
    kept = [
        nms(some, score, rules.nms_thresh)[: rules.detections_per_img]
        for some, score in zip(
            apart.flatten(0, 1)[index].split(counts), best.flatten()[index].split(counts), strict=True
        )
    ]
    index = torch.cat([one[chosen] for one, chosen in zip(index.split(counts), kept, strict=True)])
    found = {"boxes": boxes.flatten(0, 1)[index], "labels": labels.flatten()[index], "scores": best.flatten()[index]}
    parts = {name: one.split([len(chosen) for chosen in kept]) for name, one in found.items()}
    return [{name: part[image] for name, part in parts.items()} for image in range(len(kept))]


def candidates(
    scores: Float[Tensor, "B N K"], counts: Sequence[int], rules: FCOS | RetinaNet
) -> tuple[Float[Tensor, "B T"], Int[Tensor, "B T"], Int[Tensor, "B T"]]:
    """The candidates, level by level: scores, falling and -1 behind the last one; classes; places in N."""
    classes = scores.shape[2]
    over = scores.where(scores > rules.score_thresh, -1.0)
    best, labels, places, start = [], [], [], 0
    for level, count in zip(over.split(list(counts), dim=1), counts, strict=True):
        highest, pair = level.flatten(1).topk(min(rules.topk_candidates, count * classes), dim=1)
        best.append(highest)
        labels.append(pair % classes)
        places.append(pair.div(classes, rounding_mode="floor") + start)
        start += count
    return torch.cat(best, dim=1), torch.cat(labels, dim=1), torch.cat(places, dim=1)
