"""A kept model as teacher: what it scores on the images that a student learns from.

Hinton et al. 2015 (arXiv 1503.02531), Touvron et al. 2021 (arXiv 2012.12877); on the same augmented view that the
student sees, as Beyer et al. 2022 (arXiv 2106.05237) found to matter.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

from backbones.contract import Unsupported
from heads.contract import Model


class TeacherModel:
    """Answers for a student's images.

    Args:
        model: of segmentation, with the classes that the student tells apart; moved to ``device``, never changed.
        device: of the images.
    """

    def __init__(self, model: Model, device: torch.device) -> None:
        self.model = model.eval().requires_grad_(requires_grad=False).to(device)

    @torch.no_grad()
    def __call__(self, image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B K h w"]:
        """Scores for RGB images in 0..1, at half their size; the teacher sees them at its own."""
        size = self.model.size
        seen = image
        if image.shape[-2:] != size:
            seen = interpolate(image, size=size, mode="bilinear", align_corners=False, antialias=True)
        to = ((image.shape[-2] + 1) // 2, (image.shape[-1] + 1) // 2)
        return self.model.scores(self.model(seen), to)


def check(task: str, classes: Sequence[str], taught: Sequence[str]) -> None:
    """Refuse a teacher that tells other classes apart than the student, or predicts no class per pixel.

    Raises:
        Unsupported: says which.
    """
    if task != "segmentation":
        raise Unsupported(f"distillation is of segmentation, and the student predicts {task}", axes=("head",))
    if tuple(classes) != tuple(taught):
        raise Unsupported(
            f"the teacher tells {', '.join(taught)} apart and the student {', '.join(classes)}: they must be the same"
        )
