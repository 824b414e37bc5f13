"""What every segmentation head shares: the loss on its logits, and the way from logits to a class per pixel."""

from abc import abstractmethod
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate

from backbones.contract import Features
from heads.contract import IGNORE, Head, Raw, Target, Task

AT_ONCE = 16
"""Classes whose full-size logits exist at one time in `SegmentationHead.decode` (a few more where they do not divide).

Torch's CPU kernels round differently in whole vectors of channels and in what is left over, and above and below four
channels. Multiples of 16, the widest vector, and no rest of fewer than `FEWEST` classes keep every class in the kernel
that it would be in if all were scaled together; the labels are then the same to the last tie."""
FEWEST = 4

GROUP = 16
"""Channels a group of a GroupNorm. A map pooled to one cell gives a group no more values than this; with torch's usual
32 groups a narrow head would have two, and normalising two values leaves nothing but their order."""


class SegmentationHead(Head):
    """Abstract: a subclass writes ``forward``, which returns logits (B, K, h, w) at whatever resolution it works.

    Attributes:
        loss_stride: every how many pixels, in both directions, the loss looks at the target. 1 is the usual loss on
            all pixels; 2 costs a quarter, which counts on a CPU, where a full-size cross-entropy over many classes can
            cost more than a small model itself.
        class_weights: (K,) weights of the classes in the loss, or None. Not saved with the weights of the model: they
            belong to the training recipe.
    """

    task: Task = "segmentation"
    loss_stride: int = 1
    class_weights: Tensor | None

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.register_buffer("class_weights", None, persistent=False)

    @abstractmethod
    def forward(self, features: Features, size: tuple[int, int]) -> Float[Tensor, "B K h w"]:
        """Logits for feature maps of an image of ``size`` (H, W) pixels."""

    def set_class_weights(self, weights: Float[Tensor, " K"]) -> None:
        """Weigh the classes in the loss.

        Raises:
            ValueError: there is not one weight for each class.
        """
        if weights.shape != (self.classes,):
            raise ValueError(f"{self.classes} classes need {self.classes} weights, got shape {tuple(weights.shape)}")
        device = next((parameter.device for parameter in self.parameters()), weights.device)
        self.class_weights = weights.detach().to(device, torch.float32)

    def loss(self, raw: Raw, target: Target) -> Float[Tensor, ""]:
        """Mean cross-entropy over the pixels of ``target`` (B, H, W) that are not 255, in float32.

        The logits are scaled bilinearly to the target; with a ``loss_stride`` of n to one n-th of it, against every
        n-th pixel from an offset drawn anew each time, so that in expectation every pixel has its say. With class
        weights the mean is weighted as in `torch.nn.functional.cross_entropy`. No pixel to count: 0, with gradient 0.
        So it is with a single class, whose softmax is 1 whatever its logit: there is nothing to learn. A data set with
        one class of object has two for segmentation, the background being one.
        """
        labels = subsample(_pixels(target).long(), self.loss_stride)
        height, width = labels.shape[-2:]
        logits = _resize(_tensor(raw).float(), (height, width))
        weights = None if self.class_weights is None else self.class_weights.float()
        total = cross_entropy(logits, labels, weight=weights, ignore_index=IGNORE, reduction="sum")
        counted = labels != IGNORE
        share = counted.sum() if weights is None else (weights[labels.where(counted, 0)] * counted).sum()
        # Where the share is 0 the total is an exact 0 too; dividing by 1 keeps it one instead of NaN.
        return total / share.where(share > 0, 1)

    def distil(
        self, raw: Raw, target: Target, scores: Float[Tensor, "B K _ _"], *, share: float, temperature: float
    ) -> Float[Tensor, ""]:
        """Soft distillation (Hinton et al. 2015, arXiv 1503.02531), at the resolution of the teacher's scores.

        The teacher's part is the divergence of the student's distribution over the classes from the teacher's, both
        at ``temperature`` and times its square, averaged over all pixels: what is ignored in the truth, too.
        """
        own = _resize(_tensor(raw).float(), (scores.shape[-2], scores.shape[-1]))
        student = (own / temperature).log_softmax(1)
        teacher = (scores.float() / temperature).log_softmax(1)
        divergence = (teacher.exp() * (teacher - student)).sum(1).mean()
        return (1 - share) * self.loss(raw, target) + share * temperature**2 * divergence

    def decode(self, raw: Raw, size: tuple[int, int]) -> Int[Tensor, "B H W"]:
        """Class of the largest bilinearly scaled logit at each of ``size`` (H, W) pixels, int64; of equals the first.

        Label for label what ``interpolate(logits.float(), size, mode="bilinear").argmax(1)`` gives, without its full-
        size logits (150 classes, 512 x 2048 px: 0.6 GB an image): image by image, `AT_ONCE` classes at a time. Up to
        that many classes there is nothing to save but the other images of the batch. One class: every label is 0.
        """
        return labels_of(_tensor(raw).detach(), size)

    def scores(self, raw: Raw, size: tuple[int, int]) -> Float[Tensor, "B K H W"]:
        """The logits in float32, scaled bilinearly."""
        return _resize(_tensor(raw).float(), size)


class AuxiliaryLoss(SegmentationHead):
    """Abstract: a head whose paper trains classifiers on maps on the way, too.

    A subclass writes `make_auxiliary`; its ``forward`` gives, where `supervised`, a tuple: its logits, then those of
    each auxiliary classifier, at whatever resolution that works. Otherwise it gives the logits alone.

    Attributes:
        auxiliary: the classifiers; None until `set_auxiliary`.
        auxiliary_weight: of each one's loss beside the head's own.
    """

    auxiliary: nn.ModuleList | None
    auxiliary_weight: float

    def __init__(self, classes: int) -> None:
        super().__init__(classes)
        self.auxiliary = None

    @abstractmethod
    def make_auxiliary(self) -> nn.ModuleList:
        """The classifiers, with random weights."""

    def set_auxiliary(self) -> bool:
        """See `Head.set_auxiliary`; classifiers that are there stay."""
        if self.auxiliary is None:
            self.auxiliary = self.make_auxiliary().to(next(self.parameters()).device)
        return True

    @property
    def supervised(self) -> bool:
        """Whether the classifiers run: in training, once there are any."""
        return self.training and self.auxiliary is not None

    def loss(self, raw: Raw, target: Target) -> Float[Tensor, ""]:
        """See `SegmentationHead.loss`; each auxiliary loss counts `auxiliary_weight`."""
        if not isinstance(raw, tuple):
            return super().loss(raw, target)
        total, *others = (super(AuxiliaryLoss, self).loss(logits, target) for logits in raw)
        return total + self.auxiliary_weight * torch.stack(others).sum()

    def distil(
        self, raw: Raw, target: Target, scores: Float[Tensor, "B K _ _"], *, share: float, temperature: float
    ) -> Float[Tensor, ""]:
        """See `SegmentationHead.distil`; the auxiliary classifiers learn from the teacher as the head does."""
        taught = {"share": share, "temperature": temperature}
        if not isinstance(raw, tuple):
            return super().distil(raw, target, scores, **taught)
        total, *others = (super(AuxiliaryLoss, self).distil(logits, target, scores, **taught) for logits in raw)
        return total + self.auxiliary_weight * torch.stack(others).sum()


def auxiliary_classifier(inner: int, width: int, classes: int, dropout: float) -> nn.Sequential:
    """3x3 convolution, batch norm, ReLU, dropout and a 1x1 convolution to K classes (an FCN head)."""
    return nn.Sequential(
        nn.Conv2d(inner, width, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        nn.Dropout2d(dropout),
        nn.Conv2d(width, classes, kernel_size=1),
    )


def labels_of(logits: Float[Tensor, "B K _ _"], size: tuple[int, int]) -> Int[Tensor, "B H W"]:
    """See `SegmentationHead.decode`."""
    labels = torch.zeros(len(logits), *size, dtype=torch.int64, device=logits.device)
    if logits.shape[1] > 1:
        for image, into in zip(logits.split(1), labels, strict=True):
            _label(image, into)
    return labels


def use_group_norm(module: nn.Module) -> None:
    """Put a GroupNorm, with equally many parameters, in the place of every BatchNorm2d inside ``module``.

    For maps that can be one cell: there batch norm raises for a batch of one, and makes signs of a batch of two.
    """
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, nn.GroupNorm(child.num_features // GROUP, child.num_features))
        else:
            use_group_norm(child)


def subsample(labels: Int[Tensor, "B H W"], stride: int) -> Int[Tensor, "B _ _"]:
    """Every ``stride``-th pixel in both directions, from a random offset (torch's CPU generator)."""
    if stride == 1:
        return labels
    top, left = (int(torch.randint(min(stride, extent), ())) for extent in labels.shape[-2:])
    return labels[:, top::stride, left::stride]


def chunks(classes: int) -> list[tuple[int, int]]:
    """Ranges of classes (first, last + 1) in their order: see `AT_ONCE`."""
    starts = list(range(0, classes, AT_ONCE))
    if len(starts) > 1 and classes - starts[-1] < FEWEST:
        starts.pop()
    return list(zip(starts, [*starts[1:], classes], strict=True))


def _label(image: Float[Tensor, "1 K _ _"], labels: Int[Tensor, "H W"]) -> None:
    """Write the class of the largest scaled logit of every pixel into ``labels``, which are 0."""
    size = (labels.shape[0], labels.shape[1])
    # The channels of such a map lie side by side; those of a slice of it do not by themselves, and it would be scaled
    # by another kernel.
    side_by_side = image.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if side_by_side else torch.contiguous_format
    by_class = image.device.type == "cpu" and not side_by_side and bool(image.isfinite().all())
    keep = _keep_by_class if by_class else _keep_by_chunk
    best = torch.full(size, -torch.inf, device=image.device)
    found = torch.zeros(size, dtype=torch.int32, device=image.device)  # quicker than int64, being as wide as `best`
    for first, end in chunks(image.shape[1]):
        some = image[:, first:end].float().contiguous(memory_format=layout)
        keep(_resize(some, size)[0], first, best, found)  # no name for it here: it must not outlive the call
    labels.copy_(found)


def _keep_by_class(
    chunk: Float[Tensor, "C H W"], first: int, best: Float[Tensor, "H W"], labels: Int[Tensor, "H W"]
) -> None:
    """Where a class is better than ``best``, put it into both. One class at a time, whose plane a CPU's cache holds.

    A NaN is never found.
    """
    for label, plane in enumerate(chunk, first):
        labels.masked_fill_(plane > best, label)  # strictly: of equals the first stays
        torch.maximum(best, plane, out=best)


def _keep_by_chunk(
    chunk: Float[Tensor, "C H W"], first: int, best: Float[Tensor, "H W"], labels: Int[Tensor, "H W"]
) -> None:
    """The same in few kernels, as an accelerator wants it. NaN counts as the largest, as in `torch.argmax`."""
    value, label = chunk.max(dim=0)
    better = (value > best) | (value.isnan() & ~best.isnan())
    torch.where(better, label.to(labels.dtype).add_(first), labels, out=labels)
    torch.maximum(best, value, out=best)  # NaN stays NaN


def _resize(logits: Float[Tensor, "B K _ _"], size: tuple[int, int]) -> Float[Tensor, "B K h w"]:
    return interpolate(logits, size=size, mode="bilinear", align_corners=False)


def _tensor(raw: Any) -> Tensor:
    if not isinstance(raw, Tensor):
        raise TypeError(f"a segmentation head's raw output is a tensor of logits, got {type(raw).__name__}")
    return raw


def _pixels(target: Target) -> Tensor:
    if not isinstance(target, Tensor):
        raise TypeError(f"a segmentation head learns from a class per pixel, got {type(target).__name__}")
    return target
