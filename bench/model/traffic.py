"""Operations of torch that a pass consists of, and the bytes that they move, counted while it runs."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry


class Traffic(TorchDispatchMode):
    """Counts operations, and bytes read and written by each as if nothing stayed in a cache between two of them.

    That is what eager mode asks of the memory: every operand is read once and every result written once. Views move
    nothing and are not counted. A compiler merges what lies between matrix products and convolutions into them; with
    ``fused`` only those are counted, which is the least that is left.

    Count under ``torch.no_grad()``: in inference mode a linear layer comes as one operation that is several.

    Attributes:
        operations: counted so far.
        bytes: read and written by them.
    """

    def __init__(self, *, fused: bool = False) -> None:
        super().__init__()
        self.fused = fused
        self.operations = 0
        self.bytes = 0

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if self.fused and not _heavy(func):
            return result
        read = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        written = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        places = {_place(tensor) for tensor in read}
        mutable = getattr(getattr(func, "_schema", None), "is_mutable", False)
        if not mutable and all(_place(tensor) in places for tensor in written):
            return result  # a view, or nothing at all
        self.operations += 1
        self.bytes += sum(tensor.numel() * tensor.element_size() for tensor in (*read, *written))
        return result


def _heavy(func: Callable[..., Any]) -> bool:
    """Whether it is a product, a convolution or attention."""
    packet = getattr(func, "overloadpacket", func)
    return packet in flop_registry or "scaled_dot_product" in str(packet)  # the CPU's kernels are in no registry


def _place(tensor: Tensor) -> tuple[torch.device, int]:
    """What two tensors share that lie in the same memory."""
    return tensor.device, tensor.untyped_storage().data_ptr()
