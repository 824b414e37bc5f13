"""What torch can do on this machine, tried and not looked up."""

import math
import time
import warnings
from dataclasses import dataclass
from importlib import import_module

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from bench.model.modes import DTYPES, empty_compiler_cache
from bench.model.seen import Device, Torch, devices
from bench.timing.clock import calls_within, clock_of, warm_up

__all__ = ["Compiled", "Device", "Torch", "compiled", "devices", "kernels", "products"]

SIDE_CPU, SIDE = 512, 4096
"""Of the matrices whose product is timed: some milliseconds on a CPU, about one on a data-centre GPU."""
BUDGET_S = 0.3
KERNELS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "math": SDPBackend.MATH,
}
"""Of torch's scaled dot product attention; "math" is the unfused one, and works everywhere."""
_CLOSE = {torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 1e-2}
"""How far an attention of values in -1..1 may be from that in float32 on the CPU."""


def products(device: str, side: int | None = None) -> dict[str, float | str]:
    """TFLOP/s of a product of two square matrices for each dtype of a cell, or why there is none; of one CPU thread.

    Args:
        device: "cpu", "cuda:0", ...
        side: rows and columns; None: `SIDE` of the kind of device.
    """
    place = torch.device(device)
    torch.set_num_threads(1)  # several wait for one another as soon as a neighbour has one of their cores
    side = side or (SIDE_CPU if place.type == "cpu" else SIDE)
    found: dict[str, float | str] = {}
    for name, dtype in DTYPES.items():
        if name == "tf32" and place.type != "cuda":
            continue
        if place.type == "cuda":
            torch.backends.cuda.matmul.fp32_precision = "tf32" if name == "tf32" else "ieee"
        try:
            found[name] = _tflops(place, dtype, side)
        except RuntimeError as error:  # torch.OutOfMemoryError is one
            found[name] = str(error).partition("\n")[0]
    return found


def _tflops(device: torch.device, dtype: torch.dtype, side: int) -> float:
    """Of the fastest of the products that fit into `BUDGET_S`: the one that neighbours disturbed least."""
    a, b = (torch.rand(side, side, device=device).to(dtype) for _ in range(2))
    clock = clock_of(device)

    def product() -> Tensor:
        return a @ b.t()  # the layout of a linear layer, as in `bench.measures.roof`

    with torch.inference_mode():
        count = calls_within(BUDGET_S, warm_up(clock, product, budget_s=BUDGET_S).ms, most=100)
        return 2 * side**3 / min(clock.times(product, count)) / 1e9


def kernels(device: str) -> dict[str, list[str]]:
    """Attention kernel -> the dtypes in which it runs on a device and gives what attention is."""
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.rand(1, 2, 64, 64, generator=generator) * 2 - 1 for _ in range(3)]
    expected = _attention(SDPBackend.MATH, inputs)
    assert expected is not None
    found: dict[str, list[str]] = {}
    for name, backend in KERNELS.items():
        found[name] = []
        for dtype in ("fp32", "bf16", "fp16"):
            result = _attention(backend, [tensor.to(device, DTYPES[dtype]) for tensor in inputs])
            if result is not None and _deviation(result, expected) <= _CLOSE[DTYPES[dtype]]:
                found[name].append(dtype)
    return found


def _attention(backend: SDPBackend, inputs: list[Tensor]) -> Tensor | None:
    """None where this kernel takes no such inputs."""
    try:
        with warnings.catch_warnings(), sdpa_kernel(backend), torch.inference_mode():
            warnings.simplefilter("ignore")  # that other kernels were not used, and why
            query, key, value = inputs
            return scaled_dot_product_attention(query, key, value)
    except RuntimeError:
        return None


def _deviation(result: Tensor, expected: Tensor) -> float:
    return (result.float().cpu() - expected).abs().max().nan_to_num(math.inf).item()


@dataclass(frozen=True)
class Compiled:
    """Seconds for loading the compiler, and for compiling a function of one line."""

    load_s: float
    compile_s: float


def compiled(device: str) -> Compiled:
    """Compile a function of one line with torch.compile, with an empty cache, and see that it still gives the same.

    Raises:
        RuntimeError: it does not compile, or gives something else.
    """
    start = time.perf_counter()
    torch.compiler.reset()  # loads it
    import_module("torch._inductor.compile_fx")
    loaded = time.perf_counter()
    tensor = torch.arange(32, dtype=torch.float32, device=device) / 32
    with empty_compiler_cache(), torch.inference_mode():
        result = torch.compile(_one_line)(tensor)
    end = time.perf_counter()
    if not torch.allclose(result.cpu(), _one_line(tensor.cpu()), atol=1e-5):
        raise RuntimeError("the compiled function gives something else than the function itself")
    return Compiled(loaded - start, end - loaded)


def _one_line(tensor: Tensor) -> Tensor:
    return tensor.sin() * 2 + 1
