"""What the machine can do: its fastest matrix product, its copy bandwidth, what an operation without work costs."""

import itertools
import os
import time
from pathlib import Path
from statistics import median

import torch

from bench.model import build, modes
from bench.plan.cell import Cell
from bench.plan.measure import Context, Outcome
from bench.timing.clock import Clock, calls_within, clock_of
from bench.timing.rounds import undisturbed

CATALOGUE = {
    "roof": {
        "version": 1,
        "fields": ["dtype", "device", "threads"],
        "exclusive": True,
        "asked": True,
        "seconds": 4.0,
        "columns": [
            {
                "name": "peak_tflops",
                "unit": "TFLOP/s",
                "title": "peak",
                "better": "higher",
                "digits": 3,
                "table": False,
            },
            {"name": "copy_gbps", "unit": "GB/s", "title": "copy", "better": "higher", "digits": 1, "table": False},
            {"name": "launch_us", "unit": "µs", "title": "launch", "better": "lower", "digits": 2, "table": False},
        ],
    }
}

MIB = 2**20
SIZES_CPU = (512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192)
SIZES = (1024, 2048, 4096, 8192, 16384)
"""Sides of the matrices; the larger ones are left out where time or memory is short."""
PEAK_S, SIZE_S, LEAST, MOST = 1.5, 0.15, 3, 50
"""Seconds for all sizes and for one; products of a size that are timed, at least and at most."""
COPY_CPU, COPY = 256 * MIB, 1024 * MIB
COPY_S = 0.5
CACHES = 4
"""A copied tensor is at least so many times as large as the last-level caches together."""
LAUNCHES, LAUNCH_ROUNDS = 1000, 15
BUSY_S = 1.0
"""Seconds of work before the first figure, but on a CPU: a cool GPU is faster than it is in service."""


def measure(cell: Cell, context: Context) -> Outcome:
    """Three limits, each the median of single measurements, which are among the samples.

    ``peak``: 2 n^3 operations of a product of two random n x n matrices in the cell's dtype, laid out as in a linear
    layer, over its time, for the n that is best at it; what torch reaches here and not what a data sheet says.
    ``copy``: bytes read and written (10^9) when a float32 tensor far larger than the last-level cache is copied.
    ``launch``: adding one tensor of one element to another, again and again in eager mode; on a GPU the launches are
    queued and waited for once. A device other than a CPU works for a second before, as it does in service.

    Columns:
        peak_tflops: of the best matrix product, in 10^12 operations a second.
        copy_gbps: of a large copy, in 10^9 bytes a second.
        launch_us: of an operation that has nothing to do.

    Samples:
        matmul_N_ms: single products of N x N matrices.
        copy_ms: single copies.
        launch_us: means of a thousand launches.
    """
    device = build.device_of(cell)
    modes.set_precision(cell, device)
    return undisturbed(lambda: _limits(cell, device, context), cell, context)


def _limits(cell: Cell, device: torch.device, context: Context) -> Outcome:
    dtype = modes.DTYPES[cell.dtype]
    clock = clock_of(device)
    free = free_bytes(device)
    with torch.inference_mode():
        context.report("matrix products", 0, 3)
        if device.type != "cpu":
            busy(device, dtype, clock)
        products = matrix_products(device, dtype, clock, free=free)
        context.report("copy", 1, 3)
        size, copies = copy(device, clock, free=free)
        context.report("launches", 2, 3)
        launches = launch(device, dtype)
    return Outcome(
        {
            "peak_tflops": max(2 * n**3 / median(ms) / 1e9 for n, ms in products.items()),
            "copy_gbps": 2 * size / median(copies) / 1e6,
            "launch_us": median(launches),
        },
        {**{f"matmul_{n}_ms": ms for n, ms in products.items()}, "copy_ms": copies, "launch_us": launches},
    )


def busy(device: torch.device, dtype: torch.dtype, clock: Clock, *, seconds: float = BUSY_S, side: int = 2048) -> None:
    """Keep a device at matrix products for so long, so that what comes next is at the clock of a device in service.

    Args:
        device: where.
        dtype: of the matrices.
        clock: of the device.
        seconds: by the device's own time.
        side: of the matrices.
    """
    a, b, out = (torch.empty(side, side, dtype=dtype, device=device).uniform_(-1, 1) for _ in range(3))
    call = _Product(a, b, out)
    times = clock.times(call, 2)
    done = sum(times)
    while done < seconds * 1e3:
        times = clock.times(call, calls_within(0.1, times[-1], most=1000))
        done += sum(times)


def matrix_products(
    device: torch.device,
    dtype: torch.dtype,
    clock: Clock,
    *,
    free: int,
    sizes: tuple[int, ...] | None = None,
    budget_s: float = PEAK_S,
) -> dict[int, list[float]]:
    """Side n of the matrices -> milliseconds of each product of two of them.

    The first size is always taken. A next one is taken as long as its three matrices fit into half of the free memory
    and it can be expected, growing with n^3, to end within the budget.

    Args:
        device: where.
        dtype: of the matrices.
        clock: of the device.
        free: bytes that can be had.
        sizes: rising; None for those of the kind of device.
        budget_s: seconds for all sizes.
    """
    sizes = sizes or (SIZES_CPU if device.type == "cpu" else SIZES)
    end = time.perf_counter() + budget_s
    found: dict[int, list[float]] = {}
    last: tuple[int, float] | None = None
    for n in sizes:
        if last is not None:
            expected_ms = last[1] * (n / last[0]) ** 3
            too_large = 3 * n * n * dtype.itemsize > free / 2
            if too_large or time.perf_counter() + expected_ms / 1e3 * (LEAST + 1) > end:
                break
        a, b, out = (torch.empty(n, n, dtype=dtype, device=device).uniform_(-1, 1) for _ in range(3))
        call = _Product(a, b, out)
        warm_ms = clock.times(call, 2 if last is None else 1)[-1]
        found[n] = clock.times(call, max(LEAST, calls_within(SIZE_S, warm_ms, most=MOST)))
        last = n, median(found[n])
    return found


class _Product:
    """``out = a @ b^T``, the layout of a linear layer's product.

    For dtypes that a CPU does not multiply in hardware, torch's product of this layout is ten times as fast as that of
    ``a @ b``.
    """

    def __init__(self, a: torch.Tensor, b: torch.Tensor, out: torch.Tensor) -> None:
        self.a, self.b, self.out = a, b.t(), out

    def __call__(self) -> None:
        torch.mm(self.a, self.b, out=self.out)


def copy(device: torch.device, clock: Clock, *, free: int) -> tuple[int, list[float]]:
    """Bytes of a tensor, and milliseconds of each copy of it to another that is already there.

    Both together take at most half of the free memory.
    """
    wanted = max(COPY_CPU, CACHES * last_level_cache()) if device.type == "cpu" else COPY
    elements = max(1, min(wanted, free // 4) // 4)
    # Written once each: pages that nobody has written to are not there, and reading them costs next to nothing.
    source = torch.ones(elements, device=device)
    target = torch.zeros(elements, device=device)

    def call() -> None:
        target.copy_(source)

    warm_ms = clock.times(call, 2)[-1]
    return elements * 4, clock.times(call, max(LEAST, calls_within(COPY_S, warm_ms, most=MOST)))


def launch(device: torch.device, dtype: torch.dtype, *, operations: int = LAUNCHES) -> list[float]:
    """Microseconds an operation, of each of `LAUNCH_ROUNDS` rounds of so many operations."""
    tensor = torch.zeros(1, dtype=dtype, device=device)
    other = torch.ones(1, dtype=dtype, device=device)  # a number of Python would have to be made a tensor each time
    found = []
    for _ in range(1 + LAUNCH_ROUNDS):
        build.synchronize(device)
        start = time.perf_counter()
        for _ in itertools.repeat(None, operations):
            tensor.add_(other)
        build.synchronize(device)
        found.append((time.perf_counter() - start) / operations * 1e6)
    return found[1:]  # the first one warms up


def free_bytes(device: torch.device) -> int:
    """Memory of the device that can be had now."""
    if device.type != "cpu":
        try:
            return torch.accelerator.get_memory_info(device)[0]
        except (RuntimeError, NotImplementedError):  # a device that shares the CPU's memory
            pass
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def last_level_cache(cpus: Path = Path("/sys/devices/system/cpu")) -> int:
    """Bytes of all caches of the highest level together; 0 where the kernel does not tell.

    Args:
        cpus: the kernel's folder.
    """
    found: dict[tuple[int, str], int] = {}
    for folder in cpus.glob("cpu[0-9]*/cache/index*"):
        try:
            level, size, shared = (
                (folder / name).read_text(encoding="ascii").strip() for name in ("level", "size", "shared_cpu_list")
            )
            found[int(level), shared] = int(size.removesuffix("K")) * 1024
        except (OSError, ValueError):
            continue
    last = max((level for level, _ in found), default=0)
    return sum(size for (level, _), size in found.items() if level == last)
