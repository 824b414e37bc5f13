"""What an optimiser asks of a backbone: how deep a parameter sits, and which ones weight decay is not for.

Layer-wise decay (Clark et al. 2020, arXiv 2003.10555; for vision BEiT, Bao et al. 2022, arXiv 2106.08254) gives layer l
of L the rate ``lr * decay ** (L - l)``. Layer 0 is the embedding of the image with its tokens and positions, then one
layer a block, and what comes after the last block counts as the last layer. Which parameters are one block is what timm
says of its architectures (``group_matcher``), and the table below of torchvision's.

Which positions, tokens and bias tables do not decay timm says, too (``no_weight_decay``); a second table has what it
leaves out, and the names of torchvision.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import timm
import torch
from timm.models import group_parameters
from torch import nn

from backbones.contract import Backbone, Unsupported

_TORCHVISION: Mapping[str, tuple[str, ...]] = {
    "torchvision.models.vision_transformer": (r"^encoder\.layers\.encoder_layer_(\d+)\.",),
    "torchvision.models.resnet": (r"^layer(\d+)\.(\d+)\.",),
    "torchvision.models.swin_transformer": (r"^features\.(\d+)\.(\d+)\.",),
    "torchvision.models.convnext": (r"^features\.(\d+)\.(\d+)\.",),
}
"""Module of a network -> what the names of a block's parameters begin with; the numbers order the blocks."""
_STEMS = {
    "torchvision.models.vision_transformer": r"^(class_token|conv_proj|encoder\.pos_embedding)",
    "torchvision.models.resnet": r"^(conv1|bn1)\.",
    "torchvision.models.swin_transformer": r"^features\.0\.",
    "torchvision.models.convnext": r"^features\.0\.",
}

_NO_DECAY = (
    "class_token",  # torchvision's ViT
    "pos_embedding",
    "reg_token",  # registers, which timm's own list of a ViT leaves out
    "relative_position_bias_table",
    "logit_scale",  # Swin v2 (Liu et al. 2022, arXiv 2111.09883): temperature, and the network of position biases
    "cpb_mlp",
    "layer_scale",  # ConvNeXt of torchvision, (C, 1, 1)
    "gamma",
)
"""Parts of the names of parameters that do not decay, whatever timm says of the network."""


def without_decay(backbone: Backbone) -> set[str]:
    """Names of a backbone's parameters that are positions, tokens or scales, for `Backbone.no_weight_decay`."""
    network = _transformer(backbone)
    stated = _stated(network, str(getattr(backbone, "name", "")))
    named = dict(network.named_parameters())
    found = {id(one) for name, one in named.items() if name in stated or set(name.split(".")) & set(_NO_DECAY)}
    return {name for name, one in backbone.named_parameters() if id(one) in found}


def layers(backbone: Backbone) -> tuple[dict[str, int], int]:
    """Layer of every parameter of a backbone, 0 (the embedding) to the last one, and the number of the last.

    Parameters that sit outside of the published network (a convolutional stem before it; norms behind it) belong to
    layer 0 where the network's input comes from them, and to the last layer otherwise: a stem is named ``stem``.

    Raises:
        Unsupported: nobody has said what the layers of this network are.
    """
    network = _transformer(backbone)
    found = _of_network(network, str(getattr(backbone, "name", "")))
    last = max(found.values(), default=0)
    by_identity = {id(parameter): found[name] for name, parameter in network.named_parameters()}
    placed = {}
    for name, parameter in backbone.named_parameters():
        outside = 0 if name.startswith("stem") else last
        placed[name] = by_identity.get(id(parameter), outside)
    return placed, last


def _transformer(backbone: Backbone) -> nn.Module:
    """The published network, or the transformer that a stem of ours stands before."""
    published = backbone.published
    inner = getattr(backbone, "transformer", None) if published is backbone else None
    return inner if isinstance(inner, nn.Module) else published


def _of_network(network: nn.Module, name: str) -> dict[str, int]:
    matcher = _matcher(network, name)
    if matcher is not None:
        numbered: dict[str, int] = group_parameters(network, matcher, reverse=True)
        order = {layer: index for index, layer in enumerate(sorted(set(numbered.values())))}
        return {name: order[layer] for name, layer in numbered.items()}
    module = type(network).__module__
    if module in _TORCHVISION:
        return _by_pattern(network, _STEMS[module], _TORCHVISION[module])
    raise Unsupported(
        f"layer_decay wants to know the layers of {type(network).__name__}, and nothing says what they are; train it "
        "with layer_decay = 1 and a backbone_lr"
    )


def _matcher(network: nn.Module, name: str) -> Any:
    """The rule that timm has for the layers of this network."""
    rule = _of_timm(network, name, "group_matcher")
    return None if rule is None else rule(coarse=False)


def _stated(network: nn.Module, name: str) -> set[str]:
    """Names of parameters of this network that timm does not decay."""
    rule = _of_timm(network, name, "no_weight_decay")
    return set() if rule is None else set(rule())


def _of_timm(network: nn.Module, name: str, method: str) -> Callable[..., Any] | None:
    """What timm says of a network; parts that were taken out of it have the names of the whole."""
    own = getattr(network, method, None)
    if callable(own):
        return own
    if not name:
        return None
    with torch.device("meta"):
        whole = timm.create_model(name.removeprefix("timm:"))
    rule = getattr(whole, method, None)
    return rule if callable(rule) else None


def _by_pattern(network: nn.Module, stem: str, blocks: tuple[str, ...]) -> dict[str, int]:
    keys: dict[str, tuple[int, ...]] = {}
    for name, _ in network.named_parameters():
        for pattern in blocks:
            match = re.match(pattern, name)
            if match and not re.match(stem, name):
                keys[name] = tuple(map(int, match.groups()))
    order = {key: index for index, key in enumerate(sorted(set(keys.values())), 1)}
    last = max(order.values(), default=0)
    return {
        name: order[keys[name]] if name in keys else 0 if re.match(stem, name) else last
        for name, _ in network.named_parameters()
    }
