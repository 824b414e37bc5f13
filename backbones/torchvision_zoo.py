"""torchvision's classifiers as backbones: plain ViT, Swin v1 and v2, ConvNeXt and ResNet under torchvision's own names.

The modules are torchvision's and so are their parameter names, less the classifier and the norm before it; stochastic
depth is off, since regularisation is a matter of the recipe.

Attention kernels: torchvision has no switch. Its ViT is made of ``nn.MultiheadAttention``, which picks a kernel by
itself and takes ``"auto"`` alone; its Swin writes the softmax out, which is ``"auto"`` or ``"unfused"``. Networks
without attention are the same under every kernel.

Windows: see `backbones.swin`; torchvision pads a map that is smaller than the window instead of shrinking the window to
it, and its v2 takes offsets in units of the window in use, not of the published one.

Papers: Dosovitskiy et al. 2021 (arXiv 2010.11929), Liu et al. 2021 and 2022 (2103.14030, 2111.09883), Liu et al. 2022
(2201.03545), He et al. 2015 (1512.03385).
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torchvision.models import ConvNeXt, ResNet, SwinTransformer, VisionTransformer, get_model
from torchvision.models.swin_transformer import (
    PatchMerging,
    PatchMergingV2,
    SwinTransformerBlock,
    SwinTransformerBlockV2,
)
from torchvision.models.vision_transformer import EncoderBlock

from backbones import swin, vit
from backbones.attention import set_attention
from backbones.contract import (
    Attention,
    Backbone,
    Features,
    Level,
    TokenBackbone,
    Unsupported,
    Window,
    check_patch,
    check_size,
    near,
)
from backbones.parameters import without_decay

CATALOGUE = {
    "torchvision:vit_b_16": {
        "kind": "vit",
        "patch": 16,
        "torchvision": "vit_b_16",
        "width": 768,
        "depth": 12,
        "heads": 12,
        "doc": "torchvision's plain ViT-B/16, 12 blocks of 768",
    },
    "torchvision:vit_b_32": {
        "kind": "vit",
        "patch": 32,
        "torchvision": "vit_b_32",
        "width": 768,
        "depth": 12,
        "heads": 12,
        "doc": "torchvision's plain ViT-B/32, 12 blocks of 768",
    },
    "torchvision:vit_l_16": {
        "kind": "vit",
        "patch": 16,
        "torchvision": "vit_l_16",
        "width": 1024,
        "depth": 24,
        "heads": 16,
        "doc": "torchvision's plain ViT-L/16, 24 blocks of 1024",
    },
    "torchvision:vit_l_32": {
        "kind": "vit",
        "patch": 32,
        "torchvision": "vit_l_32",
        "width": 1024,
        "depth": 24,
        "heads": 16,
        "doc": "torchvision's plain ViT-L/32, 24 blocks of 1024",
    },
    "torchvision:vit_h_14": {
        "kind": "vit",
        "patch": 14,
        "torchvision": "vit_h_14",
        "width": 1280,
        "depth": 32,
        "heads": 16,
        "doc": "torchvision's plain ViT-H/14, 32 blocks of 1280",
    },
    "torchvision:swin_t": {
        "kind": "swin",
        "patch": 4,
        "levels": "raw",
        "torchvision": "swin_t",
        "version": 1,
        "width": 96,
        "depths": [2, 2, 6, 2],
        "heads": [3, 6, 12, 24],
        "window": 7,
        "input": 224,
        "doc": "torchvision's Swin-T, 96 wide, window 7",
    },
    "torchvision:swin_s": {
        "kind": "swin",
        "patch": 4,
        "levels": "raw",
        "torchvision": "swin_s",
        "version": 1,
        "width": 96,
        "depths": [2, 2, 18, 2],
        "heads": [3, 6, 12, 24],
        "window": 7,
        "input": 224,
        "doc": "torchvision's Swin-S, 96 wide, window 7",
    },
    "torchvision:swin_b": {
        "kind": "swin",
        "patch": 4,
        "levels": "raw",
        "torchvision": "swin_b",
        "version": 1,
        "width": 128,
        "depths": [2, 2, 18, 2],
        "heads": [4, 8, 16, 32],
        "window": 7,
        "input": 224,
        "doc": "torchvision's Swin-B, 128 wide, window 7",
    },
    "torchvision:swin_v2_t": {
        "kind": "swin",
        "patch": 4,
        "levels": "raw",
        "torchvision": "swin_v2_t",
        "version": 2,
        "width": 96,
        "depths": [2, 2, 6, 2],
        "heads": [3, 6, 12, 24],
        "window": 8,
        "input": 256,
        "doc": "torchvision's Swin v2-T, 96 wide, window 8",
    },
    "torchvision:swin_v2_s": {
        "kind": "swin",
        "patch": 4,
        "levels": "raw",
        "torchvision": "swin_v2_s",
        "version": 2,
        "width": 96,
        "depths": [2, 2, 18, 2],
        "heads": [3, 6, 12, 24],
        "window": 8,
        "input": 256,
        "doc": "torchvision's Swin v2-S, 96 wide, window 8",
    },
    "torchvision:swin_v2_b": {
        "kind": "swin",
        "patch": 4,
        "levels": "raw",
        "torchvision": "swin_v2_b",
        "version": 2,
        "width": 128,
        "depths": [2, 2, 18, 2],
        "heads": [4, 8, 16, 32],
        "window": 8,
        "input": 256,
        "doc": "torchvision's Swin v2-B, 128 wide, window 8",
    },
    "torchvision:convnext_tiny": {
        "kind": "convnext",
        "patch": 4,
        "levels": "raw",
        "torchvision": "convnext_tiny",
        "width": 96,
        "doc": "torchvision's ConvNeXt-T, 96 wide",
    },
    "torchvision:convnext_small": {
        "kind": "convnext",
        "patch": 4,
        "levels": "raw",
        "torchvision": "convnext_small",
        "width": 96,
        "doc": "torchvision's ConvNeXt-S, 96 wide",
    },
    "torchvision:convnext_base": {
        "kind": "convnext",
        "patch": 4,
        "levels": "raw",
        "torchvision": "convnext_base",
        "width": 128,
        "doc": "torchvision's ConvNeXt-B, 128 wide",
    },
    "torchvision:convnext_large": {
        "kind": "convnext",
        "patch": 4,
        "levels": "raw",
        "torchvision": "convnext_large",
        "width": 192,
        "doc": "torchvision's ConvNeXt-L, 192 wide",
    },
    "torchvision:resnet18": {
        "kind": "resnet",
        "patch": 4,
        "torchvision": "resnet18",
        "width": 64,
        "doc": "torchvision's ResNet-18",
    },
    "torchvision:resnet34": {
        "kind": "resnet",
        "patch": 4,
        "torchvision": "resnet34",
        "width": 64,
        "doc": "torchvision's ResNet-34",
    },
    "torchvision:resnet50": {
        "kind": "resnet",
        "patch": 4,
        "torchvision": "resnet50",
        "width": 256,
        "doc": "torchvision's ResNet-50",
    },
    "torchvision:resnet101": {
        "kind": "resnet",
        "patch": 4,
        "torchvision": "resnet101",
        "width": 256,
        "doc": "torchvision's ResNet-101",
    },
    "torchvision:resnet152": {
        "kind": "resnet",
        "patch": 4,
        "torchvision": "resnet152",
        "width": 256,
        "doc": "torchvision's ResNet-152",
    },
}
"""``torchvision``: the name of its builder and of its weights. ``width``: of the tokens, or of the finest level."""
_POSITION_DEVIATION = 0.02
_FINEST = 4


class TorchvisionViT(TokenBackbone):
    """torchvision's plain ViT, on a grid that need not be square.

    Levels and taps are those of `backbones.vit.PlainTransformer`: four depths at the stride of the patch, each through
    the final norm, without the class token.
    """

    def __init__(self, transformer: VisionTransformer, *, patch: int, size: tuple[int, int]) -> None:
        super().__init__(size)
        encoder = transformer.encoder
        self.grid = (size[0] // patch, size[1] // patch)
        self.tokens = self.grid[0] * self.grid[1]
        self.depth = len(encoder.layers)
        self.width = transformer.hidden_dim
        self.prefix = 1
        # torchvision builds square grids only: the positions of the grid that is wanted, drawn as it draws them.
        encoder.pos_embedding = nn.Parameter(
            torch.empty(1, self.prefix + self.tokens, self.width).normal_(std=_POSITION_DEVIATION)
        )
        transformer.seq_length = self.prefix + self.tokens
        transformer.heads = nn.Identity()  # pyright: ignore[reportAttributeAccessIssue] - a module where one was
        self.transformer = transformer
        self.taps = vit.quarters(self.depth)
        self.levels = (Level(patch, self.width),) * len(self.taps)
        self.divisor = patch

    def features(self, image: Float[Tensor, "B 3 H W"]) -> Features:
        """Maps (B, D, H/P, W/P), one for each kept level."""
        taps = self.taps if self.kept is None else tuple(self.taps[index] for index in self.kept)
        tokens = self._embed(image)
        found = {}
        for index in range(max(taps) + 1):
            tokens = self.block(index, tokens)
            if index in taps:
                grid = self.norm(tokens)[:, self.prefix :]
                found[index] = grid.transpose(1, 2).reshape(len(image), self.width, *self.grid)
        return tuple(found[index] for index in taps)

    def embed(self, image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B N D"]:
        """See `TokenBackbone.embed`."""
        return self._embed(self.normalised(image))

    def _embed(self, image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B N D"]:
        grid = self.transformer.conv_proj(image).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.transformer.class_token.expand(len(image), -1, -1), grid], dim=1)
        return self.transformer.encoder.dropout(tokens + self.transformer.encoder.pos_embedding)

    def block(
        self, index: int, tokens: Float[Tensor, "B N D"], mask: Bool[Tensor, "B 1 N N"] | None = None
    ) -> Float[Tensor, "B N D"]:
        """See `TokenBackbone.block`."""
        layer = self.transformer.encoder.layers[index]
        assert isinstance(layer, EncoderBlock)
        if mask is None:
            return layer(tokens)
        # The layer takes no mask, its attention does: one for each head, true where a query may *not* look.
        hidden = ~mask.expand(-1, layer.num_heads, -1, -1).flatten(0, 1)
        x = layer.ln_1(tokens)
        x, _ = layer.self_attention(x, x, x, need_weights=False, attn_mask=hidden)
        x = tokens + layer.dropout(x)
        return x + layer.mlp(layer.ln_2(x))

    def norm(self, tokens: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        """See `TokenBackbone.norm`."""
        return self.transformer.encoder.ln(tokens)

    @property
    def published(self) -> nn.Module:
        """The VisionTransformer of torchvision, without its classifier."""
        return self.transformer

    def no_weight_decay(self) -> set[str]:
        """See `Backbone.no_weight_decay`."""
        return without_decay(self)


class Stages(Backbone):
    """torchvision's ``features`` of Swin or ConvNeXt: a stem, then stages with a reduction between each two.

    Levels are the four stages, at strides P, 2P, 4P and 8P, as they are before the next reduction.
    """

    def __init__(
        self, network: SwinTransformer | ConvNeXt, *, channels_last: bool, width: int, patch: int, size: tuple[int, int]
    ) -> None:
        super().__init__(size)
        # Levels are normed one by one, or by the head: the norm before the classifier goes with it.
        if isinstance(network, SwinTransformer):
            network.norm = nn.Identity()
            network.head = nn.Identity()  # pyright: ignore[reportAttributeAccessIssue] - a module where one was
        else:
            network.classifier = nn.Identity()  # pyright: ignore[reportAttributeAccessIssue] - a module where one was
        self.network = network
        self.channels_last = channels_last
        self.levels = tuple(Level(patch << stage, width << stage) for stage in range(4))
        self.divisor = self.levels[-1].stride
        self.tokens = (size[0] // patch) * (size[1] // patch)

    def features(self, image: Float[Tensor, "B 3 H W"]) -> Features:
        """Four maps, (B, C·2^i, H/(P·2^i), W/(P·2^i))."""
        maps = []
        x = image
        for index, layer in enumerate(self.network.features):
            x = layer(x)
            if index % 2 == 1:
                maps.append(x.permute(0, 3, 1, 2).contiguous() if self.channels_last else x)
        return tuple(maps)

    @property
    def published(self) -> nn.Module:
        """The SwinTransformer or ConvNeXt of torchvision, without its classifier and the norm before it."""
        return self.network

    def no_weight_decay(self) -> set[str]:
        """See `Backbone.no_weight_decay`."""
        return without_decay(self)


class TorchvisionResNet(Backbone):
    """torchvision's ResNet; its four groups of blocks are the levels."""

    def __init__(self, network: ResNet, *, width: int, size: tuple[int, int]) -> None:
        super().__init__(size)
        network.fc = nn.Identity()  # pyright: ignore[reportAttributeAccessIssue] - a module where one was
        self.network = network
        self.levels = tuple(Level(_FINEST << group, width << group) for group in range(4))
        self.divisor = self.levels[-1].stride
        self.tokens = (size[0] // _FINEST) * (size[1] // _FINEST)

    def features(self, image: Float[Tensor, "B 3 H W"]) -> Features:
        """Four maps, (B, C·2^i, H/(4·2^i), W/(4·2^i))."""
        net = self.network
        x = net.maxpool(net.relu(net.bn1(net.conv1(image))))
        maps = []
        for group in (net.layer1, net.layer2, net.layer3, net.layer4):
            x = group(x)
            maps.append(x)
        return tuple(maps)

    @property
    def published(self) -> nn.Module:
        """The ResNet of torchvision, without its classifier."""
        return self.network


def build(
    name: str,
    *,
    patch: int,
    size: tuple[int, int],
    attention: Attention = "auto",
    window: Window = "keep",
) -> Backbone:
    """A model of torchvision with random weights; ``patch`` in pixels, ``size`` (H, W) in pixels.

    Raises:
        Unsupported: this patch size or input size cannot be; names the nearest. Or the attention kernel cannot be had.
    """
    facts = CATALOGUE[name]
    backbone: Backbone
    if facts["kind"] == "vit":
        backbone = _vit(name, patch=patch, size=size)
    elif facts["kind"] == "swin":
        backbone = _swin(name, patch=patch, size=size, window=window)
    else:
        backbone = _convolutional(name, patch=patch, size=size)
    set_attention(backbone, attention)
    return backbone


def _vit(name: str, *, patch: int, size: tuple[int, int]) -> TorchvisionViT:
    vit.check(name, patch, size)
    facts = CATALOGUE[name]
    transformer = VisionTransformer(
        image_size=patch,  # one token: the positions are replaced
        patch_size=patch,
        num_layers=facts["depth"],
        num_heads=facts["heads"],
        hidden_dim=facts["width"],
        mlp_dim=4 * facts["width"],
    )
    return TorchvisionViT(transformer, patch=patch, size=size)


def _swin(name: str, *, patch: int, size: tuple[int, int], window: Window) -> Stages:
    swin.check(name, patch, size)
    facts = CATALOGUE[name]
    extent = swin.windows(window, window=facts["window"], published=facts["input"], patch=patch, size=size)
    second = facts["version"] == 2
    if second and min(extent) < 2:
        # Its offsets are divided by the window less one.
        least = 2 * patch * facts["input"] // 4 // facts["window"]
        nearest = [(h, w) for h in near(max(size[0], least), patch * 8) for w in near(max(size[1], least), patch * 8)]
        raise Unsupported(
            f"{name} with patch {patch} cannot scale its window to {size[0]}x{size[1]} px: it would be "
            f"{extent[0]}x{extent[1]} tokens and has to be 2 at least; "
            f"nearest: {', '.join(f'{h}x{w}' for h, w in nearest)}",
            nearest,
            axes=("patch", "resolution", "window"),
        )
    network = SwinTransformer(
        patch_size=[patch, patch],
        embed_dim=facts["width"],
        depths=facts["depths"],
        num_heads=facts["heads"],
        window_size=list(extent),
        stochastic_depth_prob=0.0,
        block=SwinTransformerBlockV2 if second else SwinTransformerBlock,
        downsample_layer=PatchMergingV2 if second else PatchMerging,
    )
    return Stages(network, channels_last=True, width=facts["width"], patch=patch, size=size)


def _convolutional(name: str, *, patch: int, size: tuple[int, int]) -> Stages | TorchvisionResNet:
    check_patch(name, patch, (_FINEST,), because="its stem is a fixed convolution")
    check_size(name, size, _FINEST * 8, because="it halves the image five times")
    facts = CATALOGUE[name]
    if facts["kind"] == "convnext":
        network = get_model(facts["torchvision"], weights=None, stochastic_depth_prob=0.0)
        assert isinstance(network, ConvNeXt)
        return Stages(network, channels_last=False, width=facts["width"], patch=patch, size=size)
    network = get_model(facts["torchvision"], weights=None)
    assert isinstance(network, ResNet)
    return TorchvisionResNet(network, width=facts["width"], size=size)
