"""Energy of a forward pass (backbone and head), by the counter of the GPU's board or of the CPU's packages."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, sleep
from typing import Protocol

import torch

from bench.model import artifact, build
from bench.plan.cell import Cell
from bench.plan.measure import Context, Outcome
from bench.timing.clock import Call, calls_within, clock_of, warm_up
from bench.timing.nvml import Gpu, open_gpu
from bench.timing.rounds import undisturbed

CATALOGUE = {
    "energy": {
        "version": 1,
        "fields": ["@model", "@mode", "@runtime", "batch"],
        "exclusive": True,
        "asked": True,
        "seconds": 5.0,
        "columns": [
            {"name": "joules_per_image", "unit": "J", "title": "energy/image", "better": "lower", "digits": 3},
            {"name": "power_w", "unit": "W", "title": "power", "better": "lower", "digits": 1},
            {"name": "idle_w", "unit": "W", "title": "idle power", "better": "lower", "digits": 1},
        ],
    }
}

IDLE_S, WINDOW_S = 1.0, 2.0
QUEUED_S = 0.25
"""Work that is queued on a device at a time, so that a window ends when it should."""
EDGE_S = 0.25
"""How long a counter is waited for to be renewed; NVML's is every 20 to 100 ms, RAPL's about every millisecond."""
POWERCAP = Path("/sys/class/powercap")


class Counter(Protocol):
    """Joules that something has consumed, from any start."""

    def joules(self) -> float | None:
        """The count now; None if it can no longer be read."""
        ...


@dataclass(frozen=True)
class NvmlCounter:
    """The board of an NVIDIA GPU, memory and fans included, the host not (Volta and newer)."""

    gpu: Gpu

    def joules(self) -> float | None:
        """See `Counter`."""
        return self.gpu.energy_j()


class RaplCounter:
    """The CPU packages of this machine together, by RAPL; memory is in it only where the package counts it.

    The kernel's counters start again from zero at ``max_energy_range_uj``, after minutes at full load; read it more
    often than that.

    Args:
        zones: folders with ``energy_uj`` and ``max_energy_range_uj``.
    """

    def __init__(self, zones: Sequence[Path]) -> None:
        self.zones = tuple(zones)
        self._last: list[int] | None = None
        self._ranges: list[int] = []
        self._total_uj = 0

    def joules(self) -> float | None:
        """Since the first reading, see `Counter`."""
        try:
            now = [_microjoules(zone / "energy_uj") for zone in self.zones]
            if self._last is None:
                self._ranges = [_microjoules(zone / "max_energy_range_uj") for zone in self.zones]
                self._last = now
        except (OSError, ValueError):
            return None
        for before, after, span in zip(self._last, now, self._ranges, strict=True):
            self._total_uj += after - before if after >= before else after - before + span
        self._last = now
        return self._total_uj / 1e6


def rapl(powercap: Path = POWERCAP) -> RaplCounter | None:
    """The counter of all packages; None where there is none, or only the superuser may read one of them.

    Parts of a package (core, uncore, dram) are not counted again, nor is the whole platform (psys).

    Args:
        powercap: the kernel's folder.
    """
    zones = []
    for zone in sorted(powercap.glob("intel-rapl:*")):  # of AMD's processors too
        try:
            if (zone / "name").read_text(encoding="ascii").startswith("package"):
                zones.append(zone)
        except OSError:
            continue
    counter = RaplCounter(zones)
    return counter if zones and counter.joules() is not None else None


def counter_of(device: torch.device, powercap: Path = POWERCAP) -> Counter | None:
    """The counter of what computes on a device; None where there is none or it cannot be read.

    Args:
        device: as torch counts.
        powercap: the kernel's folder.
    """
    if device.type == "cpu":
        return rapl(powercap)
    if device.type != "cuda":
        return None
    # By its UUID: the driver counts GPUs in another order than CUDA.
    gpu = open_gpu(str(torch.cuda.get_device_properties(device).uuid))
    return None if gpu is None or gpu.energy_j() is None else NvmlCounter(gpu)


@dataclass(frozen=True)
class Spent:
    """What a window of forward passes took; joules are None if the counter stood still or failed."""

    joules: float | None
    seconds: float
    passes: int

    @property
    def watts(self) -> float | None:
        """Mean power."""
        return None if self.joules is None else self.joules / self.seconds


def measure(cell: Cell, context: Context) -> Outcome:
    """Joules an image over at least 2 s of forward passes, after a warm-up; unknown where nothing counts them.

    GPU: the whole board, not the host that feeds it. CPU: all packages, whoever else uses them, and cores that do
    nothing. What the device would have consumed at rest is in it. ``idle power``: over 1 s before the model is built,
    of a device that may not yet have cooled down and lowered its clocks after the measurement before.

    Columns:
        joules_per_image: energy of the window over its images.
        power_w: mean power in the window.
        idle_w: mean power at rest before it.
    """
    device = build.device_of(cell)
    counter = counter_of(device)
    if counter is None:
        return Outcome({"joules_per_image": None, "power_w": None, "idle_w": None})
    context.report("idle", 0, 1)
    idle = rest(counter)
    ready = artifact.prepare(context)
    with torch.inference_mode():
        context.report("warm-up", 0, 1)
        ms = warm_up(clock_of(device), ready.forward).ms

        def count() -> Outcome:
            context.report("counting", 0, 1)
            spent = spend(counter, ready.forward, lambda: build.synchronize(device), ms=ms)
            images = spent.passes * cell.batch
            return Outcome(
                {
                    "joules_per_image": None if spent.joules is None else spent.joules / images,
                    "power_w": spent.watts,
                    "idle_w": idle.watts,
                },
                {"images": [images], "window_s": [spent.seconds], "idle_s": [idle.seconds]},
            )

        return undisturbed(count, cell, context)


def rest(counter: Counter) -> Spent:
    """`IDLE_S` seconds in which this process does nothing."""
    before, start = counter.joules(), perf_counter()
    sleep(IDLE_S)
    after, end = counter.joules(), perf_counter()
    return Spent(_difference(before, after), end - start, 0)


def spend(counter: Counter, call: Call, synchronize: Callable[[], None], *, ms: float) -> Spent:
    """Passes for at least `WINDOW_S` seconds, from one renewal of the counter to another.

    The device works before, during and after the window, and is synchronised at both ends: what is counted is work
    from end to end, and its images are exactly those of the window.

    Args:
        counter: of the device.
        call: one pass, perhaps only queued.
        synchronize: waits until the device has done what is queued.
        ms: about how long a pass takes, in milliseconds.
    """
    before, start, _ = _renewed(counter, call, synchronize)
    queued = calls_within(QUEUED_S, ms, most=1000)
    passes = 0
    while perf_counter() - start < WINDOW_S:
        for _ in range(queued):
            call()
        synchronize()
        passes += queued
    after, end, more = _renewed(counter, call, synchronize)
    return Spent(_difference(before, after), end - start, passes + more)


def _renewed(counter: Counter, call: Call, synchronize: Callable[[], None]) -> tuple[float | None, float, int]:
    """Pass after pass, until the counter moves: its count, the time, and the number of passes (one at least)."""
    first, start, passes = counter.joules(), perf_counter(), 0
    while True:
        call()
        synchronize()
        passes += 1
        now, seconds = counter.joules(), perf_counter()
        if now is None or now != first or seconds - start > EDGE_S:
            return now, seconds, passes


def _difference(before: float | None, after: float | None) -> float | None:
    """A counter that stood still (as that of some virtual GPUs does) says nothing, and not that it cost nothing."""
    return after - before if before is not None and after is not None and after > before else None


def _microjoules(path: Path) -> int:
    return int(path.read_text(encoding="ascii"))
