"""A model as it is deployed: image in, prediction out, as tensors whose shapes no image decides."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.ops import clip_boxes_to_image

from heads.contract import Boxes, Model, Prediction, Raw


class Deployed(nn.Module):
    """Backbone, head and decoding as one module to export: see `heads.contract.Head.deploy` for what it gives.

    Args:
        model: in evaluation mode.
        size: (H, W) of the prediction in pixels; None: of the images.
    """

    def __init__(self, model: Model, size: tuple[int, int] | None = None) -> None:
        super().__init__()
        self.model = model
        self.size = size or model.size

    def forward(self, image: Float[Tensor, "B 3 H W"]) -> tuple[Tensor, ...]:
        """Prediction for RGB images in 0..1.

        Raises:
            Unsupported: the head cannot be decoded so; the text says why.
        """
        return deploy(self.model, self.model(image), self.size)


def deploy(model: Model, raw: Raw, size: tuple[int, int]) -> tuple[Tensor, ...]:
    """`Model.decode` as `heads.contract.Head.deploy` has it; ``size`` (H, W) is that of the image without its padding.

    Raises:
        Unsupported: the head cannot be decoded so; the text says why.
    """
    if model.size == model.backbone.size:
        return tuple(model.head.deploy(raw, size))
    found = model.head.deploy(raw, model.with_padding(size))
    if model.task == "segmentation":
        return (found[0][:, : size[0], : size[1]],)
    return _cropped(found, size)


def prediction(found: tuple[Tensor, ...]) -> Prediction:
    """What `Deployed` gives, as `Model.decode` gives it: classes per pixel, or boxes without the padding."""
    if len(found) == 1:
        return found[0]
    boxes, scores, labels, *masks = found
    return [
        Boxes(
            boxes[image][there],
            labels[image][there],
            scores[image][there],
            masks=masks[0][image][there] if masks else None,
        )
        for image, there in enumerate(scores > 0)
    ]


def _cropped(found: tuple[Tensor, ...], size: tuple[int, int]) -> tuple[Tensor, ...]:
    """What of the objects lies in the image; those that lie in the padding alone become padding of the result."""
    boxes, scores, labels, *masks = found
    clipped = clip_boxes_to_image(boxes, size)
    there = (clipped[..., 2:] > clipped[..., :2]).all(dim=2)
    order = scores.where(there, 0).sort(dim=1, descending=True, stable=True).indices
    image = torch.arange(len(boxes), device=boxes.device).unsqueeze(1)
    left = [one * there.reshape(*there.shape, *[1] * (one.ndim - 2)) for one in (clipped, scores, labels)]
    left += [one[..., : size[0], : size[1]] & there[..., None, None] for one in masks]
    return tuple(one[image, order] for one in left)
