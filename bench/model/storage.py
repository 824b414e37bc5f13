"""Memory, counted three ways: storage of tensors, what a device's allocator gave out, and what the process has."""

import ctypes
import gc
import os
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, UntypedStorage
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bench.model.build import synchronize
from bench.timing.nvml import open_gpu

MIB = 2**20

_COMPOSITE = "CompositeImplicitAutograd"
_BACKENDS = {"cpu": "CPU", "cuda": "CUDA", "meta": "Meta", "xpu": "XPU", "mps": "MPS"}


class LiveStorage(TorchDispatchMode):
    """Follows every tensor storage that operations create while it is on, and the bytes that are alive at a time.

    A storage counts from the operation that returned it until its last tensor is gone, wherever that was held: in
    Python, in an autograd graph, in an optimiser. Views and in-place operations create none, and what existed before
    does not count; a storage that an operation enlarges counts with what was added. Operations that consist of others
    (``linear``, ``matmul``, attention) are taken apart, as torch itself does it, so that what lies between them is
    seen. The number depends on the operations alone and repeats exactly, on the CPU, on CUDA and on the meta device:
    it is what a perfect allocator would need. Cyclic garbage is not collected meanwhile, or the number would depend
    on when that happens.

    Not seen: scratch that a kernel takes and gives back inside one operation (a convolution's column buffer, what
    attention keeps of its scores), what libraries keep for themselves, rounding and gaps of the allocator, the inside
    of a graph that torch.compile has built, and storages that are made or resized without an operation of torch
    (``from_numpy``, ``deepcopy``, ``UntypedStorage.resize_``).

    Attributes:
        live_bytes: alive now; it falls on after the end, as tensors die.
        peak_bytes: the most that was alive after any operation.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live_bytes = 0
        self.peak_bytes = 0
        self._sizes: dict[int, int] = {}
        self._refs: dict[int, weakref.ref[UntypedStorage]] = {}
        self._depth = 0
        self._collects = True

    def __enter__(self) -> Self:
        if self._depth == 0:
            gc.collect()
            self._collects = gc.isenabled()
            gc.disable()
        self._depth += 1
        return super().__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        super().__exit__(kind, value, traceback)
        self._depth -= 1
        if self._depth == 0 and self._collects:
            gc.enable()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if _consists_of_others(func, args, kwargs):
            # Without autograd (inference mode) such an operation arrives whole. Its own C++ body is run, not a
            # decomposition in Python that torch may have beside it: that one would make other tensors.
            with self:
                return func._op_dk(getattr(torch._C.DispatchKey, _COMPOSITE), *args, **kwargs)  # noqa: SLF001
        given = {_key(storage): (storage, storage.nbytes()) for storage in _storages((args, kwargs))}
        result = func(*args, **kwargs)
        # What Python numbers become (torch.tensor) is made out of sight and then passed through this operation.
        fresh = func is torch.ops.aten.lift_fresh.default
        for storage in _storages(result):
            if fresh or _key(storage) not in given:
                self._follow(storage, storage.nbytes())
        for storage, before in given.values():
            if storage.nbytes() != before:
                counted = self._sizes.get(_key(storage), 0)
                self._follow(storage, max(0, counted + storage.nbytes() - before))
        return result

    def _follow(self, storage: UntypedStorage, size: int) -> None:
        key = _key(storage)
        if key not in self._refs:
            # torch keeps one Python object for a storage as long as the storage lives, and no longer.
            self._refs[key] = weakref.ref(storage, partial(self._forget, key))
        elif size == self._sizes[key]:
            return
        self.live_bytes += size - self._sizes.get(key, 0)
        self._sizes[key] = size
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)

    def _forget(self, key: int, _: object) -> None:
        del self._refs[key]
        self.live_bytes -= self._sizes.pop(key)


def _key(storage: UntypedStorage) -> int:
    """Address of what torch keeps of a storage; it tells storages apart that have no memory (meta), too."""
    return storage._cdata  # noqa: SLF001


def _storages(tree: Any) -> Iterator[UntypedStorage]:
    for leaf in tree_leaves(tree):
        if isinstance(leaf, UntypedStorage):
            yield leaf
        elif isinstance(leaf, Tensor) and leaf.layout is torch.strided:
            yield leaf.untyped_storage()


def _consists_of_others(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether torch would run an operation's general body, made of operations, and not a kernel of the device's own."""
    if not isinstance(func, torch._ops.OpOverload):  # noqa: SLF001 - there is no public name
        return False
    name, has_kernel = func.name(), torch._C._dispatch_has_kernel_for_dispatch_key  # noqa: SLF001
    if not has_kernel(name, _COMPOSITE):
        return False
    devices = {leaf.device.type for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
    return not any(has_kernel(name, _BACKENDS[kind]) for kind in devices if kind in _BACKENDS)


def live_peak(call: Callable[[], Any]) -> int:
    """Bytes of storage alive at the peak of a call, above what existed before it; its result counts. Eager mode."""
    with LiveStorage() as storage:
        call()
    return storage.peak_bytes


def allocated_peak(call: Callable[[], Any], device: torch.device) -> tuple[int, int]:
    """What a device's allocator gave out at the peak of a call.

    Returns:
        Bytes of tensors above those that stood before; bytes that the allocator held of the device in all. Unused
        blocks are given back to the device first.
    """
    gc.collect()
    synchronize(device)
    torch.accelerator.empty_cache()
    torch.accelerator.reset_peak_memory_stats(device)
    before = torch.accelerator.memory_allocated(device)
    call()
    synchronize(device)
    peak = torch.accelerator.max_memory_allocated(device) - before
    return peak, torch.accelerator.max_memory_reserved(device)


def resident_peak(call: Callable[[], Any]) -> int | None:
    """Bytes by which a call made this process grow in physical memory, at its peak.

    Scratch inside kernels and the allocator's gaps are in it. It varies by some MiB from process to process.

    Returns:
        None where the system keeps no high-water mark that can be reset (Linux does).
    """
    gc.collect()
    trim()
    try:
        # Free heap has gone back: the call would reuse what building the model left behind, and look smaller.
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        before = status_bytes("VmRSS")
        call()
        return max(0, status_bytes("VmHWM") - before)
    except OSError:
        return None


def device_process_bytes(device: torch.device) -> int | None:
    """Bytes that this process has on a GPU now, context and kernels included; None where the driver does not tell."""
    if device.type != "cuda":
        return None
    gpu = open_gpu(str(torch.cuda.get_device_properties(device).uuid))
    mib = None if gpu is None else gpu.process_memory_mib(os.getpid())
    return None if mib is None else round(mib * MIB)


def status_bytes(name: str) -> int:
    """A size in this process's status, such as "VmHWM".

    Raises:
        OSError: the system has none; Linux has.
    """
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {name}; it takes Linux")


def trim() -> None:
    """Give free heap back to the system, where the C library can."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except AttributeError:  # only glibc has it
        return
