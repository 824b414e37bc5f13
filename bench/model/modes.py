"""How a model is run: the precision of its arithmetic, its memory format, and what compiles or records it."""

import contextlib
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.backends import cudnn

from backbones.contract import Unsupported
from bench.plan.cell import Cell
from heads.contract import Model

DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""dtype of a cell -> that of weights and activations."""

WARM_UPS = 3
"""Passes on a side stream before a CUDA graph is recorded, as torch's documentation asks for."""


def set_precision(cell: Cell, device: torch.device) -> None:
    """Let this process multiply float32 as the cell says: "fp32" in float32, "tf32" rounded to TF32.

    torch leaves convolutions at TF32 unless told otherwise, which would make "fp32" two different things.

    Raises:
        Unsupported: TF32 on a device that has none.
    """
    if cell.dtype == "tf32" and device.type != "cuda":
        raise Unsupported(f"dtype tf32 is a number format of NVIDIA GPUs, and the device is {device}; take fp32")
    if cell.dtype == "tf32" and torch.cuda.get_device_capability(device) < (8, 0):
        name = torch.cuda.get_device_name(device)
        raise Unsupported(f"dtype tf32 needs a GPU of compute capability 8.0 or newer, and {name} is older; take fp32")
    if device.type == "cuda":
        precision = "tf32" if cell.dtype == "tf32" else "ieee"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # some versions warn of the older switches
            # These first: the compiler of torch 2.11 asks them, and torch refuses to answer where they differ from the
            # newer ones, which they set in part.
            torch.backends.cuda.matmul.allow_tf32 = cudnn.allow_tf32 = precision == "tf32"
        torch.backends.cuda.matmul.fp32_precision = precision
        # All three together: torch refuses to say what cuDNN does where they differ, and its compiler asks.
        for backend in (cudnn, cudnn.conv, cudnn.rnn):  # pyright: ignore[reportAttributeAccessIssue] - made at import
            backend.fp32_precision = precision  # pyright: ignore[reportAttributeAccessIssue] - likewise


def memory_format(cell: Cell) -> torch.memory_format:
    """The name that torch has for the cell's memory format."""
    return torch.channels_last if cell.memory_format == "channels_last" else torch.contiguous_format


def in_mode(call: Callable[[Tensor], Any], cell: Cell, device: torch.device) -> Callable[[Tensor], Any]:
    """``call`` as the cell's ``compile`` says; compilation or recording happens in its first calls.

    Raises:
        Unsupported: CUDA graphs on another device than CUDA.
    """
    if cell.compile == "none":
        return call
    if cell.compile == "cudagraph":
        if device.type != "cuda":
            raise Unsupported(f"compile='cudagraph' replays kernels of a CUDA device, and the device is {device}")
        return CudaGraph(call)
    return torch.compile(call, mode=cell.compile)


_CACHES = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")


@contextlib.contextmanager
def empty_compiler_cache(*, keep: bool = False) -> Iterator[None]:
    """Within it torch.compile finds no model that it has compiled before: neither in this run nor in earlier ones.

    What is compiled stays usable afterwards. Not forgotten are what the process holds in memory, and the C++ header
    that torch precompiles once for a machine.

    Args:
        keep: whether other processes find afterwards what was compiled, where torch keeps such things.
    """
    before = {name: os.environ.get(name) for name in _CACHES}
    with tempfile.TemporaryDirectory(prefix="densebench-", ignore_cleanup_errors=True) as folder:
        inductor = Path(folder) / "inductor"
        triton = inductor / "triton" / "0"  # where inductor has it, unless it is told
        os.environ.update(dict(zip(_CACHES, (str(inductor), str(triton)), strict=True)))
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value
        if keep:
            # Here, where it is loaded: by itself it takes seconds.
            from torch._inductor.runtime.cache_dir_utils import default_cache_dir  # noqa: PLC0415

            if before["TRITON_CACHE_DIR"] is not None:
                _keep(triton, Path(before["TRITON_CACHE_DIR"]))
            _keep(inductor, Path(before["TORCHINDUCTOR_CACHE_DIR"] or default_cache_dir()))


def _keep(made: Path, usual: Path) -> None:
    """Put files where others look for them, each at once: another process may be about to read or write it."""

    def place(source: str, target: str) -> str:
        if not Path(target).exists():
            half = f"{target}.{os.getpid()}.tmp"
            shutil.copyfile(source, half)
            shutil.copymode(source, half)
            Path(half).replace(target)
        return target

    if made.is_dir():
        with contextlib.suppress(OSError, shutil.Error):  # then it is compiled again
            shutil.copytree(made, usual, copy_function=place, dirs_exist_ok=True)


class CudaGraph:
    """A function of one tensor, recorded at its first call and replayed from then on.

    The result lies in memory of the graph and is overwritten by the next call.

    Args:
        call: runs on the input's device without looking at results on the host.
    """

    def __init__(self, call: Callable[[Tensor], Any]) -> None:
        self.call = call
        self.graph: torch.cuda.CUDAGraph | None = None
        self.input: Tensor | None = None
        self.output: Any = None

    def __call__(self, tensor: Tensor) -> Any:
        """The function's result for a tensor of the same shape as at the first call.

        Raises:
            Unsupported: the function does something that cannot be recorded, such as choosing by value.
        """
        if self.graph is None or self.input is None:
            return self._record(tensor)
        if tensor is not self.input:
            self.input.copy_(tensor)
        self.graph.replay()
        return self.output

    def _record(self, tensor: Tensor) -> Any:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                self.call(tensor)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                output = self.call(tensor)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
            raise Unsupported(f"this model cannot be recorded as a CUDA graph: {reason}") from error
        self.graph, self.input, self.output = graph, tensor, output
        graph.replay()
        return output


def for_inference(model: Model, cell: Cell, device: torch.device) -> Model:
    """The artifact that every measure of inference is taken of: weights in the cell's dtype and memory format."""
    return model.to(device=device, dtype=DTYPES[cell.dtype]).to(memory_format=memory_format(cell)).eval()


def noise(cell: Cell, device: torch.device, size: tuple[int, int] | None = None) -> Tensor:
    """A batch of uniform noise in 0..1, (B, 3, H, W) in the cell's dtype and format; the same values everywhere.

    Args:
        cell: says batch, dtype and format.
        device: where it lies.
        size: (H, W) in pixels; None: the cell's.
    """
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(cell.batch, 3, *(size or cell.size), generator=generator)
    return image.to(device=device, dtype=DTYPES[cell.dtype], memory_format=memory_format(cell))
