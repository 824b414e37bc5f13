"""Drop path (stochastic depth, Huang et al. 2016, arXiv 1603.09382): a training's choice, the same for every backbone.

Libraries build some architectures with a rate of their own (timm's Swin with 0.1) and others without; here none counts
but the one that a recipe states.
"""

from collections.abc import Iterator

from timm.layers import DropPath
from torch import nn
from torchvision.ops import StochasticDepth

from backbones.contract import Backbone, Unsupported

_TIMM = ("drop_path", "drop_path1", "drop_path2")
"""What timm calls the module of a residual branch: a DropPath, an Identity, or None."""


_NONE = object()
"""There is no module of that name."""


def set_drop_path(backbone: Backbone, rate: float) -> int:
    """Skip each residual branch with a probability that rises evenly from 0 in the first block to ``rate`` in the last.

    Args:
        backbone: is changed in place; in evaluation mode nothing is skipped.
        rate: 0 to below 1.

    Returns:
        How many blocks there are that can be skipped.

    Raises:
        Unsupported: ``rate`` is above 0 and there are none.
    """
    blocks = list(_blocks(backbone))
    if rate and not blocks:
        raise Unsupported(
            f"{type(backbone).__name__} has no residual branches that drop path knows; train it with drop_path = 0"
        )
    for index, block in enumerate(blocks):
        probability = rate * index / max(1, len(blocks) - 1)
        for name in _TIMM:
            if _droppable(block, name):
                setattr(block, name, DropPath(probability) if probability else nn.Identity())
        for child in block.children():
            if isinstance(child, StochasticDepth):
                child.p = probability
    return len(blocks)


def _blocks(backbone: Backbone) -> Iterator[nn.Module]:
    """In the order of the network."""
    for module in backbone.modules():
        if any(_droppable(module, name) for name in _TIMM) or any(
            isinstance(child, StochasticDepth) for child in module.children()
        ):
            yield module


def _droppable(module: nn.Module, name: str) -> bool:
    held = getattr(module, name, _NONE)
    return held is None or isinstance(held, (DropPath, nn.Identity))
