"""Networks of timm as backbones: whatever maps they give, brought to the contract.

* A plain ViT and an EVA-like one (RoPE: EVA-02, DINOv3, Perception Encoder) are `TokenBackbone`: four levels, each
  quarter of the depth after the final norm. Other networks of one stride give four of their blocks as timm has them.
* Maps that timm gives channels last are turned to (B, C, h, w).
* A map that is not exactly H / stride x W / stride cells is brought to that by bilinear interpolation: unpadded
  convolutions (Inception, NASNet) leave a border out, and a stride that is no multiple of the finest one (17 beside 12
  in CrossViT) is replaced by the nearest multiple.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar, cast

import timm
import torch
from jaxtyping import Bool, Float
from timm.layers.format import Format
from timm.models._features import FeatureDictNet, FeatureGetterNet, FeatureHookNet
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn.functional import interpolate

from backbones.contract import IMAGENET_MEAN, IMAGENET_STD, Backbone, Features, Level, TokenBackbone
from backbones.parameters import without_decay
from backbones.vit import PlainTransformer, quarters

_Transformer = TypeVar("_Transformer", VisionTransformer, Eva)


class TimmBackbone(Backbone):
    """A network of timm with the maps that timm takes out of it.

    Args:
        net: image -> maps, in timm's format.
        name: architecture, to find the names of its checkpoint again.
        read: indices of the maps that are exposed.
        levels: of these maps.
        divisor: of height and width.
        size: (H, W) in pixels.
        patch: pixels of a cell of the finest map.
    """

    def __init__(
        self,
        net: nn.Module,
        name: str,
        *,
        read: tuple[int, ...],
        levels: tuple[Level, ...],
        divisor: int,
        size: tuple[int, int],
        patch: int,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__(size, mean=mean, std=std)
        self.net = net
        self.name = name
        self.read = read
        self.every = levels
        self.levels = levels
        self.divisor = divisor
        self.tokens = (size[0] // patch) * (size[1] // patch)

    def features(self, image: Float[Tensor, "B 3 H W"]) -> Features:
        """Maps (B, C_i, H / stride_i, W / stride_i), one for each kept level."""
        maps = self.net(image)
        kept = range(len(self.read)) if self.kept is None else self.kept
        return tuple(
            _fitted(channels_first(maps[self.read[i]], self.net), self.every[i].stride, self.size) for i in kept
        )

    @property
    def published(self) -> nn.Module:
        """The model of timm; where timm has renamed its parts to take features, a module that has the old names."""
        if isinstance(self.net, (FeatureGetterNet, Intermediates)):
            return cast("nn.Module", self.net.model)
        if isinstance(self.net, FeatureDictNet):
            with torch.device("meta"):
                return _renamed(self.net, timm.create_model(self.name))
        return self.net

    def no_weight_decay(self) -> set[str]:
        """See `Backbone.no_weight_decay`."""
        return without_decay(self)


class Intermediates(nn.Module):
    """The maps of an architecture by its ``forward_intermediates``, where ``features_only`` does not serve.

    Args:
        model: of timm.
        taps: blocks that give the maps; None for all of them.
        grid: (h, w) of a network of one stride, which then gives rows of tokens; None: it gives maps.
    """

    def __init__(self, model: nn.Module, taps: tuple[int, ...] | None, grid: tuple[int, int] | None) -> None:
        super().__init__()
        self.model = model
        self.taps = taps
        self.grid = grid

    def forward(self, image: Float[Tensor, "B 3 H W"]) -> list[Float[Tensor, "B _ _ _"]]:
        """Maps, NCHW."""
        run = cast("Callable[..., list[Tensor]]", self.model.forward_intermediates)
        indices = None if self.taps is None else list(self.taps)
        layout = "NCHW" if self.grid is None else "NLC"
        maps = run(image, indices=indices, output_fmt=layout, intermediates_only=True)
        if self.grid is None:
            return maps
        return [one.reshape(len(one), *self.grid, -1).permute(0, 3, 1, 2).contiguous() for one in maps]


class TimmPlainTransformer(PlainTransformer):
    """A published plain ViT (DINOv2, SigLIP, CLIP, MAE, DeiT, AugReg) of timm.

    The norm after the last block is the model's ``norm``, or its ``fc_norm`` if it was trained with pooled tokens and
    has no other; the pooling and the classifier are left out.
    """

    def __init__(
        self,
        transformer: VisionTransformer,
        *,
        patch: int,
        size: tuple[int, int],
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__(_headless(transformer), patch=patch, size=size)
        self.mean.copy_(torch.tensor(mean).view(1, 3, 1, 1))
        self.std.copy_(torch.tensor(std).view(1, 3, 1, 1))

    def features(self, image: Float[Tensor, "B 3 H W"]) -> Features:
        """Maps (B, D, H/P, W/P), one for each kept level."""
        return _normed_maps(self, self.transformer, image, self.taps)

    def norm(self, tokens: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        """See `TokenBackbone.norm`."""
        return _last_norm(self.transformer)(tokens)


class RotaryTransformer(TokenBackbone):
    """timm's Eva: a plain transformer whose attention rotates queries and keys by their place in the grid.

    EVA-02 (Fang et al. 2023, arXiv 2303.11331), DINOv3 (Siméoni et al. 2025, arXiv 2508.10104), Perception Encoder,
    RoPE-ViT; EVA (2022), which has no rotation, too. Levels as in `PlainTransformer`.
    """

    def __init__(
        self,
        transformer: Eva,
        *,
        patch: int,
        size: tuple[int, int],
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__(size, mean=mean, std=std)
        self.transformer = _headless(transformer)
        self.depth = len(transformer.blocks)
        self.width = transformer.embed_dim
        self.prefix = transformer.num_prefix_tokens
        self.grid = (size[0] // patch, size[1] // patch)
        self.taps = quarters(self.depth)
        self.levels = (Level(patch, self.width),) * len(self.taps)
        self.divisor = patch
        self.tokens = self.grid[0] * self.grid[1]

    def features(self, image: Float[Tensor, "B 3 H W"]) -> Features:
        """Maps (B, D, H/P, W/P), one for each kept level."""
        return _normed_maps(self, self.transformer, image, self.taps)

    def embed(self, image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B N D"]:
        """See `TokenBackbone.embed`; the rotation comes in the blocks."""
        tokens, _ = self.transformer._pos_embed(self.transformer.patch_embed(self.normalised(image)))  # noqa: SLF001
        return self.transformer.norm_pre(tokens)

    def block(
        self, index: int, tokens: Float[Tensor, "B N D"], mask: Bool[Tensor, "B 1 N N"] | None = None
    ) -> Float[Tensor, "B N D"]:
        """See `TokenBackbone.block`."""
        extra = tokens.shape[1] - self.prefix - self.tokens
        return self.transformer.blocks[index](tokens, rope=self._rotation(index, extra), attn_mask=mask)

    def norm(self, tokens: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        """See `TokenBackbone.norm`."""
        return _last_norm(self.transformer)(tokens)

    def _rotation(self, index: int, extra: int) -> Float[Tensor, "*heads N R"] | None:
        """Sine and cosine of every token behind the first ``prefix``; they have ``extra`` tokens of a head before them.

        timm leaves the first ``prefix`` tokens alone and rotates all others. ``extra`` tokens more in front shift the
        grid by as many places, so as many rotations by nothing (sine 0, cosine 1) come before those of the grid.
        """
        rope = self.transformer.rope
        if rope is None:
            return None
        # A rotation that was made for one grid has it at hand; the others (a moving size, multimodal RoPE) compute it.
        shape = list(self.grid) if getattr(rope, "feat_shape", None) is None else None
        table = cast("Callable[..., Tensor]", rope.get_embed)(shape=shape)
        if self.transformer.rope_mixed:  # one table a block
            table = table[index]
        if extra == 0:
            return table
        half = table.shape[-1] // 2
        still = table.new_zeros(*table.shape[:-2], extra, 2 * half)
        still[..., half:] = 1
        return torch.cat([still, table], dim=-2)

    @property
    def published(self) -> nn.Module:
        """The Eva of timm."""
        return self.transformer

    def no_weight_decay(self) -> set[str]:
        """See `Backbone.no_weight_decay`."""
        return without_decay(self)


def channels_first(x: Float[Tensor, "B _ _ _"], net: nn.Module) -> Float[Tensor, "B _ _ _"]:
    """A map as timm gives it -> (B, C, h, w)."""
    if isinstance(net, (FeatureDictNet, FeatureGetterNet, FeatureHookNet)) and net.output_fmt == Format.NHWC:
        return x.permute(0, 3, 1, 2).contiguous()
    return x


def _fitted(x: Float[Tensor, "B C _ _"], stride: int, size: tuple[int, int]) -> Float[Tensor, "B C h w"]:
    """A map brought to H / stride x W / stride cells."""
    wanted = (size[0] // stride, size[1] // stride)
    if (x.shape[-2], x.shape[-1]) == wanted:
        return x
    return interpolate(x, size=wanted, mode="bilinear", align_corners=False)


def _headless(transformer: _Transformer) -> _Transformer:
    """Without classifier and pooling, which no map passes; of two norms after the last block the first one stays."""
    transformer.reset_classifier(0, "")
    if not isinstance(transformer.norm, nn.Identity):
        transformer.fc_norm = nn.Identity()
    return transformer


def _last_norm(transformer: VisionTransformer | Eva) -> nn.Module:
    return transformer.fc_norm if isinstance(transformer.norm, nn.Identity) else transformer.norm


def _normed_maps(
    backbone: TokenBackbone, transformer: VisionTransformer | Eva, image: Float[Tensor, "B 3 H W"], taps: Sequence[int]
) -> Features:
    """Maps (B, D, h, w) of the kept ones of ``taps``, each after the final norm."""
    taps = taps if backbone.kept is None else [taps[index] for index in backbone.kept]
    tokens = transformer.forward_intermediates(image, indices=list(taps), output_fmt="NLC", intermediates_only=True)
    return tuple(
        backbone.norm(one).reshape(len(one), *backbone.grid, -1).permute(0, 3, 1, 2).contiguous()
        for one in cast("list[Tensor]", tokens)
    )


def _renamed(net: FeatureDictNet, plain: nn.Module) -> nn.Module:
    """The parts of ``net`` under the names that they have in ``plain``: timm joins two levels of names by "_"."""
    paths: dict[str, tuple[str, ...]] = {child: (child,) for child, _ in plain.named_children()}
    for parent, module in plain.named_children():
        for child, _ in module.named_children():
            paths.setdefault(f"{parent}_{child}", (parent, child))
    root = nn.Module()
    for key, module in net.items():
        path = paths[key]
        holder = root
        for part in path[:-1]:
            if part not in dict(holder.named_children()):
                holder.add_module(part, nn.Module())
            holder = holder.get_submodule(part)
        holder.add_module(path[-1], module)
    return root
