"""What a head promises: feature maps in, a prediction per pixel or per object out.

This page is the whole contract; a head is one file beside it with

* ``CATALOGUE``, a *literal* dict of head name -> ``{"task": "segmentation" | "detection"}`` (and its numbers), read
  without importing the file. ``"norms": True`` (optional): the head normalises the levels itself, and raw ones come as
  they are (see `backbones.contract.Backbone.norm_levels`). ``"reads": "deepest"``: of levels of one stride the head
  reads the last alone, so a backbone need not compute the others; ``"masks": True``: it predicts instance masks;
* ``build(name, *, levels, classes) -> Head``.

A head never learns more about a backbone than its levels.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.utils._pytree import _register_namedtuple, register_pytree_node, tree_leaves

from backbones.contract import Backbone, Features, Level, TokenBackbone, Unsupported, check_image

Task: TypeAlias = Literal["segmentation", "detection"]
Raw: TypeAlias = Any
"""Tensors private to the head (a tensor, or a tuple or dict of tensors): only its own loss and decode read them.

Its leaves, as torch's trees know them, are tensors (or None) alone: an exported model has no other outputs. A size in
it is a `Size`.
"""

IGNORE = 255
"""Label of the pixels that count neither in a loss nor in a metric."""


class Size(tuple[int, int]):
    """(H, W) in pixels as a part of a raw output: no leaf of the tree that it stands in, but a part of its form."""

    __slots__ = ()


register_pytree_node(
    Size,
    lambda size: ([], tuple(size)),
    lambda _, context: Size(context),
    serialized_type_name="heads.contract.Size",  # of the file of an exported model
    to_dumpable_context=list,
    from_dumpable_context=tuple,
    flatten_with_keys_fn=lambda size: ([], tuple(size)),
)

Form = TypeVar("Form", bound=type[tuple])


def exported(form: Form) -> Form:
    """A named tuple that is part of a raw output: the file of an exported model can say that it is."""
    _register_namedtuple(form, serialized_type_name=f"{form.__module__}.{form.__qualname__}")
    return form


@dataclass
class Boxes:
    """The objects of one image, as truth (no scores) or as prediction.

    xyxy: (M, 4) float, pixels of the image that they belong to, x1 <= x2, y1 <= y2.
    labels: (M,) int64 in 0..K-1 (no background class).
    scores: (M,) float in 0..1, falling; None for truth.
    ignore: (M,) bool; truth that is neither to be found nor to be punished (VOC `difficult`, COCO crowd).
    masks: (M, H, W) bool, the pixels of each object in an image of the size that the boxes belong to; None: boxes only.
    """

    xyxy: Float[Tensor, "M 4"]
    labels: Int[Tensor, " M"]
    scores: Float[Tensor, " M"] | None = None
    ignore: Bool[Tensor, " M"] | None = None
    masks: Bool[Tensor, "M H W"] | None = None


Target: TypeAlias = Int[Tensor, "B H W"] | list[Boxes]
"""Truth of a batch: class per pixel (255 = ignore), or the objects of each image."""

Prediction: TypeAlias = Int[Tensor, "B H W"] | list[Boxes]
"""Class per pixel, or the objects of each image with scores."""


class Head(nn.Module, ABC):
    """Turns feature maps into predictions for one task.

    Attributes:
        task: what it predicts.
        classes: K; for segmentation with the background, for detection without.
        loss_stride: 2 asks for the pixel loss on every second row and column, which costs a quarter; a head without a
            loss per pixel has no use for it.
    """

    task: Task
    classes: int
    loss_stride: int = 1

    @abstractmethod
    def forward(self, features: Features, size: tuple[int, int]) -> Raw:
        """Raw outputs for feature maps of an image of ``size`` (H, W) pixels."""

    @abstractmethod
    def loss(self, raw: Raw, target: Target) -> Float[Tensor, ""]:
        """Scalar training loss; finite and differentiable for an empty or all-ignored target too."""

    @abstractmethod
    def decode(self, raw: Raw, size: tuple[int, int]) -> Prediction:
        """Prediction at ``size`` (H, W) pixels, which need not be the size of the input."""

    def scores(self, raw: Raw, size: tuple[int, int]) -> Float[Tensor, "B K H W"]:  # noqa: ARG002 - overridden
        """Score of each class at each of ``size`` (H, W) pixels, of which `decode` takes the class of the largest.

        The scores of windows that overlap may be averaged.

        Raises:
            Unsupported: the head does not predict a class per pixel.
        """
        raise Unsupported(f"{type(self).__name__} has no score for each class at each pixel: it predicts {self.task}")

    def deploy(self, raw: Raw, size: tuple[int, int]) -> tuple[Tensor, ...]:
        """`decode` as tensors whose shapes do not depend on the image, by operations that can be exported.

        Returns:
            Segmentation: the class per pixel (B, H, W) alone. Detection: boxes (B, N, 4) xyxy in pixels of ``size``,
            float32; scores (B, N), falling; labels (B, N) int64; of a head that predicts masks, these (B, N, H, W)
            bool. Places behind the last box are 0 all over. See `heads.deployed`, which reads it.

        Raises:
            Unsupported: a detection head that has no such way; the text says why.
        """
        if self.task == "segmentation":
            return (self.scores(raw, size).argmax(dim=1),)
        raise Unsupported(f"{type(self).__name__} states no decoding of fixed shapes; it is decoded in torch")

    def distil(
        self,
        raw: Raw,  # noqa: ARG002 - overridden
        target: Target,  # noqa: ARG002
        scores: Float[Tensor, "B K _ _"],  # noqa: ARG002
        *,
        share: float,  # noqa: ARG002
        temperature: float,  # noqa: ARG002
    ) -> Float[Tensor, ""]:
        """Loss that learns from a teacher, too.

        Args:
            raw: of the student.
            target: truth.
            scores: of the teacher (see `scores`), at any size.
            share: of the loss that the teacher has, 0 to 1.
            temperature: that both sides' scores are divided by where whole distributions are compared.

        Raises:
            Unsupported: the head does not predict a class per pixel from logits.
        """
        raise Unsupported(f"{type(self).__name__} has no logits for a teacher to teach; take a head of segmentation")

    def no_weight_decay(self) -> set[str]:
        """Names of parameters, relative to this module, that weight decay is not for; none unless a head says so."""
        return set()

    def set_class_weights(self, weights: Float[Tensor, " K"]) -> None:
        """Weights of the classes in the loss; a head that has no use for them leaves this as it is."""

    def set_auxiliary(self) -> bool:
        """Train with the auxiliary loss that the head's paper has, from now on; called before an optimiser is made.

        Its modules are made now, and run in training mode alone: they belong to no measure of cost.

        Returns:
            Whether there is one; False, without effect, unless a head overrides it.
        """
        return False

    def set_progress(self, done: float) -> None:
        """Told before every training step which share of the training is done, 0 to 1; for what anneals on the way."""

    def smooth(self, raw: Raw) -> tuple[Tensor, ...]:
        """What of a raw output of evaluation mode changes little when the arithmetic does: floats, (B, ...) each.

        By these a quicker way to run the model (bfloat16, compiled) is compared with the plain one. A head whose raw
        output follows a choice between things that are nearly as good (NMS, the best k) gives what came before it, or
        what the choice cannot upset. The tensors share memory with ``raw``.

        Returns:
            Unless a head overrides it, every tensor of floats in ``raw``.
        """
        return tuple(leaf for leaf in tree_leaves(raw) if isinstance(leaf, Tensor) and leaf.is_floating_point())

    def full_load(self, features: Features, size: tuple[int, int], candidates: int) -> int:  # noqa: ARG002 - overridden
        """Change the head in place so that on these images about ``candidates`` boxes an image go into NMS.

        NMS takes its time by the number of boxes, and random weights find nothing or everything. This shifts the
        biases of the last layer that makes the scores, and scales up its weights where the scores are nearly the same
        everywhere, so that the time of decoding becomes that of a crowded image. What the head finds means nothing
        afterwards, and neither do the weights: it is for measuring time and memory.

        Args:
            features: of a batch of images, in the dtype and on the device of the head, which is in evaluation mode.
            size: (H, W) of the images in pixels.
            candidates: wanted, as the mean over the batch; if there are fewer boxes than that, all of them.

        Returns:
            How many boxes an image it then is on these images, the rounded mean; 0 of a head without NMS, which stays
            as it is. In a dtype of few digits many boxes have the same score, so the number is farther from the wanted
            one.

        Raises:
            ValueError: a head with NMS is asked for less than one candidate.
        """
        return 0


class TokenHead(Head):
    """A head that puts tokens of its own into the backbone's last blocks; it goes with a `TokenBackbone` alone.

    Attributes:
        blocks: how many of the last blocks it runs by itself.
    """

    blocks: int

    def forward(self, features: Features, size: tuple[int, int]) -> Raw:
        """Not the way in: see `attend`."""
        raise NotImplementedError(
            f"{type(self).__name__} works inside the backbone's blocks: call attend(backbone, image)"
        )

    @abstractmethod
    def attend(self, backbone: TokenBackbone, image: Float[Tensor, "B 3 H W"]) -> Raw:
        """Raw outputs for an RGB image in 0..1 of the size that the backbone was built for."""


def reads(levels: tuple[Level, ...], which: str) -> tuple[int, ...]:
    """Indices of the levels that a head reads: "all", or "deepest": the last one of each stride."""
    if which == "all":
        return tuple(range(len(levels)))
    if which == "deepest":
        last = {level.stride: index for index, level in enumerate(levels)}
        return tuple(sorted(last.values()))
    raise ValueError(f'a head\'s "reads" is "all" or "deepest", not {which!r}')


class Model(nn.Module):
    """A backbone under a head: RGB image (B, 3, H, W) in 0..1 in, the head's raw outputs out.

    Training is ``model.loss(model(image), target)``, prediction ``model.decode(model(image), size)``.

    Args:
        backbone: the encoder.
        head: built for the backbone's levels.
        size: (H, W) of the images in pixels, if smaller than the size of the backbone: they are then padded with the
            mean colour at the right and below, the padding is ignored in the loss and cut off the predictions.

    Attributes:
        classes: names of the classes, of a trained model that knows them; else none.

    Raises:
        Unsupported: the head works inside a transformer's blocks and this backbone has none to show, or too few.
    """

    backbone: Backbone
    head: Head
    classes: tuple[str, ...] = ()

    def __init__(self, backbone: Backbone, head: Head, size: tuple[int, int] | None = None) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.size = size or backbone.size
        if isinstance(head, TokenHead):
            name = type(head).__name__
            if not isinstance(backbone, TokenBackbone):
                raise Unsupported(
                    f"{name} puts queries into the blocks of a plain transformer, and {type(backbone).__name__} has "
                    "none to show; take a plain ViT or DeiT"
                )
            if head.blocks > backbone.depth:
                raise Unsupported(
                    f"{name} works in the last {head.blocks} blocks and the backbone has {backbone.depth}"
                )

    @property
    def task(self) -> Task:
        """Task of the head."""
        return self.head.task

    def forward(self, image: Tensor) -> Raw:  # not annotated by shape: a wrong one gets a sentence, below
        """Raw outputs of the head for RGB images (B, 3, H, W) in 0..1.

        Raises:
            Unsupported: the images are not of the form or size that the model was built for.
        """
        check_image(image, self.size)
        if isinstance(self.head, TokenHead):
            assert isinstance(self.backbone, TokenBackbone), "checked when the model was made"
            return self.head.attend(self.backbone, self._padded(image))
        return self.of_features(self.backbone(self._padded(image)))

    def features(self, image: Float[Tensor, "B 3 H W"]) -> Features:
        """Maps that the head reads, of RGB images in 0..1 at the size that the model was built for."""
        return self.backbone(self._padded(image))

    def of_features(self, features: Features) -> Raw:
        """Raw outputs of the head for maps as `features` gives them; not of a head inside the blocks."""
        return self.head(features, self.backbone.size)

    def distil(
        self, raw: Raw, target: Target, scores: Float[Tensor, "B K _ _"], *, share: float, temperature: float
    ) -> Float[Tensor, ""]:
        """See `Head.distil`.

        Raises:
            Unsupported: the images are padded to the backbone's size: there are no scores for the padding.
        """
        if self.size != self.backbone.size:
            raise Unsupported("a teacher has no scores for padding; take a size that the student's backbone can take")
        return self.head.distil(raw, target, scores, share=share, temperature=temperature)

    def loss(self, raw: Raw, target: Target) -> Float[Tensor, ""]:
        """See `Head.loss`."""
        if self.size != self.backbone.size:
            target = _padded_target(target, self.size, self.backbone.size)
        return self.head.loss(raw, target)

    @torch.no_grad()
    def decode(self, raw: Raw, size: tuple[int, int]) -> Prediction:
        """See `Head.decode`; ``size`` (H, W) is that of the image without its padding."""
        if self.size == self.backbone.size:
            return self.head.decode(raw, size)
        prediction = self.head.decode(raw, self.with_padding(size))
        if isinstance(prediction, Tensor):
            return prediction[:, : size[0], : size[1]].contiguous()
        return [_cropped(boxes, size) for boxes in prediction]

    @torch.no_grad()
    def scores(self, raw: Raw, size: tuple[int, int]) -> Float[Tensor, "B K H W"]:
        """See `Head.scores`; ``size`` (H, W) is that of the image without its padding."""
        if self.size == self.backbone.size:
            return self.head.scores(raw, size)
        return self.head.scores(raw, self.with_padding(size))[..., : size[0], : size[1]]

    def with_padding(self, size: tuple[int, int]) -> tuple[int, int]:
        """Of the padded picture, at the scale that takes the image to ``size``.

        Rounded up to whole pixels, so the right and lower edge of a prediction at another size than the input may be
        off by less than one.
        """
        height, width = (
            -(-whole * wanted // part) for whole, wanted, part in zip(self.backbone.size, size, self.size, strict=True)
        )
        return height, width

    def _padded(self, image: Float[Tensor, "B 3 h w"]) -> Float[Tensor, "B 3 H W"]:
        if self.size == self.backbone.size:
            return image
        height, width = self.backbone.size
        canvas = self.backbone.mean.to(image.dtype).expand(len(image), 3, height, width).clone()
        canvas[:, :, : self.size[0], : self.size[1]] = image
        return canvas


def _padded_target(target: Target, size: tuple[int, int], to: tuple[int, int]) -> Any:  # a Target of another size
    bottom, right = to[0] - size[0], to[1] - size[1]
    if isinstance(target, Tensor):
        return pad(target, (0, right, 0, bottom), value=IGNORE)
    return [
        boxes if boxes.masks is None else replace(boxes, masks=pad(boxes.masks, (0, right, 0, bottom)))
        for boxes in target
    ]


def _cropped(boxes: Boxes, size: tuple[int, int]) -> Boxes:
    """What of the objects lies in the image; those that lie in the padding alone are left out."""
    limit = boxes.xyxy.new_tensor([size[1], size[0]] * 2)
    xyxy = boxes.xyxy.minimum(limit)
    inside = (xyxy[:, 2] > xyxy[:, 0]) & (xyxy[:, 3] > xyxy[:, 1])
    return Boxes(
        xyxy[inside],
        boxes.labels[inside],
        None if boxes.scores is None else boxes.scores[inside],
        None if boxes.ignore is None else boxes.ignore[inside],
        None if boxes.masks is None else boxes.masks[inside, : size[0], : size[1]],
    )
