"""A network whose arithmetic is narrower than float32, between a float32 image and float32 tensors."""

import copy

import torch
from torch import Tensor, nn

from bench.runtimes.contract import Options

_DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}


class _Narrow(nn.Module):
    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.network, self.dtype = network, dtype

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        found = self.network(image.to(self.dtype))
        return tuple(one.float() if one.is_floating_point() else one for one in found)


def narrow(network: nn.Module, options: Options) -> nn.Module:
    """The network itself for float32; else a copy with weights and activations in the dtype of the options."""
    dtype = _DTYPES.get(options.dtype)
    return network if dtype is None else _Narrow(copy.deepcopy(network).to(dtype), dtype).eval()
