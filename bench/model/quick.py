"""Random weights for models whose cost is measured: quickly drawn, since nobody looks at what they are.

A library's initialisers take seconds for a large model (truncated normals go through the inverse error function, and
what a layer draws for itself is drawn anew by the model). The time of a kernel does not depend on the values it works
on, as long as they are ordinary numbers; so here every draw is a copy of one million random numbers, repeated, scaled
to the mean and standard deviation (or the bounds) that were asked for. Accuracy never uses this: training starts from
the initialisation that the paper states.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

TILE = 1 << 20
"""Numbers that are really drawn."""


class _Tiled(TorchDispatchMode):
    """Replaces draws by repetitions of one tile of uniform numbers in -1..1."""

    def __init__(self) -> None:
        super().__init__()
        # The same whatever was drawn before: exported models are found again by the digest of their weights.
        self.tile = torch.rand(TILE, generator=torch.Generator().manual_seed(0), device="cpu") * 2 - 1

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.aten.erfinv_.default and args[0].device.type == "cpu":
            # The second step of a truncated normal; a uniform number is as good here, at the cost of a little variance.
            return args[0]
        draws: dict[Any, Callable[..., tuple[float, float]]] = {
            torch.ops.aten.uniform_.default: _uniform,
            torch.ops.aten.normal_.default: _normal,
        }
        if func in draws and args[0].device.type == "cpu" and args[0].is_contiguous():
            scale, shift = draws[func](*args[1:])
            self._fill(args[0], scale, shift)
            return args[0]
        return func(*args, **kwargs)

    def _fill(self, tensor: Tensor, scale: float, shift: float) -> None:
        for part in tensor.view(-1).split(TILE):
            torch.mul(self.tile[: len(part)], scale, out=part)
            if shift:
                part.add_(shift)


def _uniform(low: float = 0.0, high: float = 1.0) -> tuple[float, float]:
    return (high - low) / 2, (high + low) / 2


def _normal(mean: float = 0.0, std: float = 1.0) -> tuple[float, float]:
    return std * math.sqrt(3), mean  # of the uniform distribution with this standard deviation


@contextmanager
def quick_weights() -> Iterator[None]:
    """Within it, what a model draws on the CPU is drawn as above; loaded weights and buffers are what they are."""
    with _Tiled():
        yield
