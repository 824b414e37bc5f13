"""Parameters and multiply-accumulates of a model, counted on the meta device."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from heads.contract import Model


@dataclass(frozen=True)
class Counts:
    """Of one image. MACs are half of the operations that torch's FlopCounterMode counts.

    That is matrix products and convolutions, attention included (on the meta device torch counts fused attention as
    what it computes); norms, activations and interpolation are not counted, nor is decoding (argmax, NMS).
    """

    backbone_params: int
    head_params: int
    backbone_macs: float
    macs: float

    @property
    def params(self) -> int:
        """Parameters of backbone and head."""
        return self.backbone_params + self.head_params


def parameters(module: nn.Module) -> int:
    """Number of parameters; a shared one counts once."""
    return sum(parameter.numel() for parameter in module.parameters())


def macs(module: nn.Module, size: tuple[int, int]) -> float:
    """Multiply-accumulates of a module on the meta device for one RGB image of ``size`` (H, W)."""
    with torch.device("meta"), torch.inference_mode(), FlopCounterMode(display=False) as counter:
        module(torch.empty(1, 3, *size))
    return counter.get_total_flops() / 2


def count(model: Model) -> Counts:
    """Count a model that was built on the meta device, in inference mode, at the size that it was built for."""
    model.eval()
    return Counts(
        parameters(model.backbone),
        parameters(model.head),
        macs(model.backbone, model.backbone.size),
        macs(model, model.size),
    )
