"""A GPU that is not there: tensors that say ``cuda:0``, compute on the CPU, and mix with nothing of the host.

What it refuses a GPU refuses, too: operations between its tensors and ones of the host (but for numbers, and indices),
and, while a graph is recorded, whatever waits for the device or copies from ordinary memory of the host. What it counts
are just these: each costs a GPU the time that it waits for the host.

It has no gradients: run it under ``torch.no_grad()``.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Self
from unittest import mock

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from heads import detection

CUDA = torch.device("cuda:0")
_HOST = torch.device("cpu")
_ATEN = torch.ops.aten
_COPIES = {_ATEN._to_copy.default, _ATEN.copy_.default, _ATEN.to.device, _ATEN.to.dtype_layout}
_BY_INDEX = {_ATEN.index.Tensor, _ATEN.index_put_.default, _ATEN.index_put.default, _ATEN._index_put_impl_.default}
_LOOKS = {_ATEN._local_scalar_dense.default, _ATEN.nonzero.default, _ATEN.masked_select.default, _ATEN.equal.default}
"""Operations whose result the host waits for: a value, or a size that depends on values."""


class Posing(Tensor):
    """A tensor of the host in the clothes of one of ``cuda:0``.

    To torch's own code it is one of the meta device, for which it has no kernels to choose; to Python it is CUDA's.
    """

    beneath: Tensor

    @staticmethod
    def __new__(cls, real: Tensor) -> Self:
        made = Tensor._make_wrapper_subclass(
            cls,
            real.shape,
            strides=real.stride(),
            storage_offset=real.storage_offset(),
            dtype=real.dtype,
            device="meta",
        )
        made.beneath = real
        return made

    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)
    is_cpu = property(lambda self: False)
    is_meta = property(lambda self: False)
    __torch_function__ = torch._C._disabled_torch_function_impl

    def new_tensor(self, data: Any, *, dtype: torch.dtype | None = None, device: Any = None) -> Tensor:
        """As every tensor has it; for one of the meta device torch would not look at the data."""
        return torch.tensor(data, dtype=dtype or self.dtype, device=device or CUDA)

    def tolist(self) -> Any:
        """As every tensor has it; torch refuses it to subclasses."""
        return self.cpu().tolist()

    def __getitem__(self, index: Any) -> Tensor:
        return super().__getitem__(_indices(index))

    def __setitem__(self, index: Any, value: Any) -> None:
        super().__setitem__(_indices(index), value)

    def __repr__(self) -> str:
        return f"Posing({self.beneath!r})"

    @classmethod
    def __torch_dispatch__(
        cls, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        raise RuntimeError(f"{func} was called outside of the mode")


class Pretence(TorchDispatchMode):
    """Within it there is a ``cuda:0``. See `pretend`.

    Attributes:
        recording: whether operations are put into a graph, in which the host has no say.
        seen: "copy" (from the host) and "wait" (for a value or a size) -> how often.
        launches: operations on the device, views apart.
    """

    def __init__(self) -> None:
        super().__init__()
        self.recording = False
        self.seen: Counter[str] = Counter()
        self.launches = 0

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        leaves = tree_leaves((args, kwargs))
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        posing = any(isinstance(one, Posing) for one in tensors)
        to = next((leaf for leaf in leaves if isinstance(leaf, torch.device)), None)
        args, kwargs = tree_map_only(torch.device, lambda _: _HOST, (args, dict(kwargs or {})))
        here = posing if to is None else to.type != "cpu"
        if not (posing or here):
            return func(*args, **kwargs)
        self._judge(func, tensors, here=here)
        result = func(*_bare(args), **_bare(kwargs))
        if not here:
            return result
        self.launches += _moves(func, tensors, result)
        return _dressed(result, tensors)

    def _judge(self, func: Callable[..., Any], tensors: Sequence[Tensor], *, here: bool) -> None:
        hosts = [one for one in tensors if not isinstance(one, Posing)]
        if func in _COPIES:
            if hosts or not here:
                self._count("copy" if hosts else "wait", func)
            return
        if func in _LOOKS or (func in _BY_INDEX and any(one.dtype == torch.bool for one in tensors[1:])):
            self._count("wait", func)
        if func in _BY_INDEX and hosts and isinstance(tensors[0], Posing):
            self._count("copy", func)
        elif any(one.ndim for one in hosts):
            shapes = ", ".join(f"{tuple(one.shape)} on {one.device}" for one in tensors)
            raise RuntimeError(f"Expected all tensors to be on the same device, in {func}: {shapes}")

    def _count(self, what: str, func: Callable[..., Any]) -> None:
        if self.recording:
            raise RuntimeError(f"operation not permitted when stream is capturing: {what} in {func}")
        self.seen[what] += 1

    @contextmanager
    def record(self) -> Iterator[None]:
        """Within it a graph is recorded."""
        self.recording = True
        try:
            yield
        finally:
            self.recording = False


@contextmanager
def pretend() -> Iterator[Pretence]:
    """Within it tensors can be made on ``cuda`` and moved there."""
    before = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)  # or data would be copied to the device behind the mode's back
    try:
        with mock.patch.object(torch.cuda, "_lazy_init"), torch.no_grad(), Pretence() as pretence:
            yield pretence
    finally:
        detection._kept_anchors.cache_clear()
        torch._C._set_only_lift_cpu_tensors(before)


def moved(net: nn.Module) -> nn.Module:
    """A module whose parameters and buffers lie on the device; what is no parameter or buffer does not."""
    for module in net.modules():
        for name, one in module._parameters.items():
            if one is not None:
                module._parameters[name] = nn.Parameter(Posing(one.detach()), requires_grad=False)
        for name, one in module._buffers.items():
            if one is not None:
                module._buffers[name] = Posing(one)
    return net


def _indices(index: Any) -> Any:
    """Lists among indices as tensors, for the same reason."""
    if isinstance(index, tuple):
        return tuple(_indices(one) for one in index)
    return torch.tensor(index, device=CUDA) if isinstance(index, list) else index


def _bare(tree: Any) -> Any:
    return tree_map_only(Posing, lambda one: one.beneath, tree)


def _dressed(result: Any, tensors: Sequence[Tensor]) -> Any:
    """Results as tensors of the device; what an operation wrote into is given back itself."""
    worn = {id(one.beneath): one for one in tensors if isinstance(one, Posing)}
    return tree_map_only(Tensor, lambda one: worn[id(one)] if id(one) in worn else Posing(one), result)


def _moves(func: Callable[..., Any], tensors: Sequence[Tensor], result: Any) -> bool:
    """Whether it launches anything: a view does not."""
    places = {_bare(one).untyped_storage().data_ptr() for one in tensors}
    written = [one for one in tree_leaves(result) if isinstance(one, Tensor)]
    mutable = getattr(getattr(func, "_schema", None), "is_mutable", False)
    return bool(mutable or not written or any(one.untyped_storage().data_ptr() not in places for one in written))
