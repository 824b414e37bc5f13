"""What a backbone promises: image in, feature maps out.

Shape letters used in the whole repository: B batch, H W pixels, h w cells of a feature map, C channels, N tokens,
D token width, K classes, P patch size.

This page is the whole contract; a family is one file beside it with

* ``CATALOGUE``, a *literal* dict of variant name -> its numbers (``patch`` is the native patch size). It is read
  without importing the file, so that planning never waits for torch. ``levels: "raw"``: they are stages of a residual
  stream, which a head that has no norm of its own gets through `Backbone.norm_levels`;
* ``build(name, *, patch, size, attention, window) -> Backbone``, with random weights; `backbones.weights` loads others.

A file may open a *namespace* instead of listing names: an entry whose name ends in a colon (``"timm:"``), see
`bench.catalogue`.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from jaxtyping import Bool, Float
from timm.layers.norm import LayerNorm2d
from torch import Tensor, nn

Features: TypeAlias = tuple[Float[Tensor, "B _ _ _"], ...]
Attention: TypeAlias = Literal["auto", "fused", "unfused"]
"""Attention kernel: torch's fused one, the explicit softmax, or whatever the library picks for the model."""
Window: TypeAlias = Literal["keep", "scale"]
"""Windowed attention at a size it was not published for: keep the window in tokens and pad the map, or scale the window
with the map (the number of windows stays). Backbones without windows are the same under both."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Unsupported(ValueError):
    """A combination that cannot exist, said in a sentence that names what would work instead.

    Attributes:
        nearest: input sizes (H, W) that would work, if the size is what is wrong; else empty.
        axes: axes of a matrix ("patch", "resolution", "head", ...) whose values do not go with the backbone; empty
            where something else is missing (a device, a number format).
    """

    def __init__(self, message: str, nearest: Sequence[tuple[int, int]] = (), *, axes: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.nearest = tuple(nearest)
        self.axes = tuple(axes)


@dataclass(frozen=True)
class Level:
    """One feature map: image pixels per cell, and channels."""

    stride: int
    channels: int


class Backbone(nn.Module, ABC):
    """An image encoder whose output is described by its levels alone.

    Attributes:
        levels: finest first; two levels may share a stride, then the later one is the deeper one.
        divisor: height and width must be multiples of it.
        size: (H, W) in pixels that this instance was built for; position embeddings belong to that size.
        tokens: number of image tokens that the first attention block works on (H·W / P² for a plain ViT); for a
            convolutional network the cells of its finest level.
        kept: indices of `levels` among the levels that the instance had when it was made, see `expose`.
        norms: a LayerNorm for each of `levels` that is read, see `norm_levels`; None: they come as they are.
    """

    levels: tuple[Level, ...]
    divisor: int
    size: tuple[int, int]
    tokens: int
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        size: tuple[int, int],
        *,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        self.size = size
        self.kept: tuple[int, ...] | None = None
        self.norms: nn.ModuleList | None = None
        # Python numbers -> buffers here, so that model.to(device, dtype) moves them; not saved with the weights.
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    @abstractmethod
    def features(self, image: Float[Tensor, "B 3 H W"]) -> Features:
        """Maps of a normalised image; map i is (B, C_i, H / stride_i, W / stride_i), NCHW.

        One map for every level that the instance was made with. A family that saves work by it returns those of
        ``kept`` alone.
        """

    def expose(self, indices: Sequence[int]) -> None:
        """Give only these of the present levels from now on, in this order: what a head does not read costs nothing.

        Parameters that only the other levels need stay where they are; a family that can drop them overrides this.
        """
        kept = tuple(range(len(self.levels))) if self.kept is None else self.kept
        self.kept = tuple(kept[index] for index in indices)
        self.levels = tuple(self.levels[index] for index in indices)

    def norm_levels(self, read: Sequence[int]) -> None:
        """Put a LayerNorm over the channels on those of the present levels, on the device of the parameters.

        Args:
            read: indices of levels; a norm on one that nothing reads would never learn.

        Swin's stages and ConvNeXt's end in a residual stream, whose scale grows with depth; the dense code of both
        papers (arXiv 2103.14030, 2201.03545) puts such a norm on every stage that a head reads. (UPerNet's decoder has
        these norms itself here.) No checkpoint of a classifier has them. Call it last: after weights are loaded, and
        after `expose`.
        """
        like = next(self.parameters())
        norms = (LayerNorm2d(one.channels) if i in read else nn.Identity() for i, one in enumerate(self.levels))
        self.norms = nn.ModuleList(norms).to(like.device)

    @property
    def published(self) -> nn.Module:
        """The module whose parameter names a published checkpoint has (this one unless it wraps a library's)."""
        return self

    def no_weight_decay(self) -> set[str]:
        """Names of parameters, relative to this module, that weight decay is not for whatever their shape.

        Positions, tokens and scales are no matrices of weights, though some have two dimensions or more. None unless a
        family says so; see `backbones.parameters.without_decay`.
        """
        return set()

    def forward(self, image: Tensor) -> Features:  # not annotated by shape: a wrong one gets a sentence, below
        """Maps of an RGB image (B, 3, H, W) in 0..1.

        Raises:
            Unsupported: see `check_image`.
        """
        check_image(image, self.size)
        maps = self.features((image - self.mean) / self.std)
        if self.kept is not None and len(maps) != len(self.kept):
            maps = tuple(maps[index] for index in self.kept)
        if self.norms is None:
            return maps
        return tuple(norm(x) for norm, x in zip(self.norms, maps, strict=True))


class TokenBackbone(Backbone, ABC):
    """A plain transformer that lets a head into its blocks: tokens may be added to, and attention masked, on the way.

    Running ``embed``, then ``block`` for 0..depth-1, then ``norm`` is what ``features`` does.

    Attributes:
        depth: number of blocks. width: D. prefix: tokens before those of the grid (class, registers). grid: (h, w).
    """

    depth: int
    width: int
    prefix: int
    grid: tuple[int, int]

    @abstractmethod
    def embed(self, image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B N D"]:
        """Tokens of an RGB image in 0..1, positions added: ``prefix`` tokens, then the grid row by row."""

    @abstractmethod
    def block(
        self, index: int, tokens: Float[Tensor, "B N D"], mask: Bool[Tensor, "B 1 N N"] | None = None
    ) -> Float[Tensor, "B N D"]:
        """Tokens after one block; ``mask``: whether query i may attend to key j.

        A head may have put tokens of its own before the others; positions that a block adds (RoPE) leave them alone.
        """

    @abstractmethod
    def norm(self, tokens: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        """The norm after the last block."""

    def normalised(self, image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
        """RGB in 0..1 -> mean 0, deviation 1, as the weights were trained."""
        return (image - self.mean) / self.std


def check_image(image: Tensor, size: tuple[int, int]) -> None:
    """Refuse what is no batch of RGB images (B, 3, H, W) of floats at ``size`` (H, W), before a layer fails at it.

    Raises:
        Unsupported: another number of dimensions or channels, whole numbers, or another size; says what to do.
    """
    shape = tuple(image.shape)
    if image.ndim != 4 or shape[1] != 3:
        hints = {1: "; repeat a grey channel three times: image.expand(-1, 3, -1, -1)", 4: "; drop alpha: image[:, :3]"}
        hint = hints.get(shape[1], "") if image.ndim == 4 else "; one image is a batch of one: image[None]"
        raise Unsupported(f"a batch of RGB images (B, 3, H, W) is wanted and the shape is {shape}{hint}")
    if not image.is_floating_point():
        raise Unsupported(f"an image in 0..1 is wanted and {image.dtype} came: image.float() / 255")
    if shape[2:] != size:
        raise Unsupported(
            f"this was built for {size[0]}x{size[1]} px and got {shape[2]}x{shape[3]}; build it with size={shape[2:]}",
            [size],
        )


def check_size(name: str, size: tuple[int, int], divisor: int, *, because: str) -> None:
    """Refuse a size that the divisor does not divide, and say which nearest ones it does.

    Raises:
        Unsupported: height or width is not a positive multiple of ``divisor``.
    """
    height, width = size
    if height > 0 and width > 0 and height % divisor == 0 and width % divisor == 0:
        return
    nearest = [(h, w) for h in near(height, divisor) for w in near(width, divisor)]
    raise Unsupported(
        f"{name} cannot take {height}x{width} px: {because}, so height and width must be multiples of {divisor}; "
        f"nearest: {', '.join(f'{h}x{w}' for h, w in nearest)}",
        nearest,
    )


def near(value: int, divisor: int) -> tuple[int, ...]:
    """``value`` itself when ``divisor`` divides it, else the positive multiples on both sides, lower first."""
    if value > 0 and value % divisor == 0:
        return (value,)
    below = max(value, 0) // divisor * divisor
    return tuple(multiple for multiple in (below, below + divisor) if multiple > 0)


def check_patch(name: str, patch: int, choices: Sequence[int], *, because: str) -> None:
    """Refuse a patch size outside ``choices`` and say which of them are nearest.

    Raises:
        Unsupported: ``patch`` is not one of ``choices``.
    """
    if patch in choices:
        return
    nearest = sorted(sorted(choices, key=lambda choice: (abs(choice - patch), choice))[:2])
    names = ", ".join(map(str, nearest))
    raise Unsupported(f"{name} cannot have patch size {patch}: {because}; nearest: {names}", axes=("patch",))
