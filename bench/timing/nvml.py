"""What NVIDIA's management library (NVML) says of a GPU; what is not there or not known is None, never an error.

NVML comes with the driver. Without one, or on a GPU that does not keep a counter, the answers are None. It counts GPUs
by their place on the bus and knows nothing of ``CUDA_VISIBLE_DEVICES``, so a GPU is looked up here as CUDA would.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pynvml

_SLOWDOWNS = {
    pynvml.nvmlClocksThrottleReasonSwPowerCap: "power cap",
    pynvml.nvmlClocksThrottleReasonHwSlowdown: "hardware slowdown",
    pynvml.nvmlClocksThrottleReasonSyncBoost: "sync boost",
    pynvml.nvmlClocksThrottleReasonSwThermalSlowdown: "thermal slowdown by the driver",
    pynvml.nvmlClocksThrottleReasonHwThermalSlowdown: "thermal slowdown by the hardware",
    pynvml.nvmlClocksThrottleReasonHwPowerBrakeSlowdown: "power brake",
}
"""Bits of NVML that mean "slower than asked for". An idle GPU, and clocks that a user has set, are as asked for."""

MIB = 2**20


@dataclass(frozen=True)
class Gpu:
    """One GPU, or one MIG slice of it.

    Every answer is None if the driver does not give it. A slice has no energy and power of its own, so they are None;
    its clock, temperature and slowdowns are those of the card.

    Attributes:
        uuid: "GPU-..." or "MIG-...".
        handle: NVML's, of what CUDA computes on.
        card: NVML's, of the whole card; the same one unless it is sliced.
    """

    uuid: str
    handle: Any
    card: Any

    def energy_j(self) -> float | None:
        """Joules of the whole board since the driver was loaded (NVML: mJ, renewed every 20 to 100 ms)."""
        if self.sliced:
            return None
        return _scaled(_ask(pynvml.nvmlDeviceGetTotalEnergyConsumption, self.handle), 1e-3)

    def power_w(self) -> float | None:
        """Watts of the whole board; some generations average over the last second."""
        if self.sliced:
            return None
        return _scaled(_ask(pynvml.nvmlDeviceGetPowerUsage, self.handle), 1e-3)

    def sm_clock_mhz(self) -> float | None:
        """MHz of the multiprocessors, now."""
        return _scaled(_ask(pynvml.nvmlDeviceGetClockInfo, self.card, pynvml.NVML_CLOCK_SM), 1.0)

    def max_sm_clock_mhz(self) -> float | None:
        """The highest MHz that the multiprocessors can be given."""
        return _scaled(_ask(pynvml.nvmlDeviceGetMaxClockInfo, self.card, pynvml.NVML_CLOCK_SM), 1.0)

    def throttle_reasons(self) -> tuple[str, ...] | None:
        """What keeps the clock below what was asked for, now; empty if nothing does."""
        bits = _ask(pynvml.nvmlDeviceGetCurrentClocksEventReasons, self.card)
        if bits is None:  # drivers before 535 know the call by its older name
            bits = _ask(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons, self.card)
        return None if bits is None else tuple(name for bit, name in _SLOWDOWNS.items() if bits & bit)

    def compute_processes(self) -> int | None:
        """Processes with a compute context on it, this one included.

        In a container the driver may show fewer than there are, this process not even among them.
        """
        running = _ask(pynvml.nvmlDeviceGetComputeRunningProcesses, self.handle)
        return None if running is None else len({process.pid for process in running})

    def process_memory_mib(self, pid: int) -> float | None:
        """MiB of GPU memory that a process holds, its context and kernels included; None also if it holds none."""
        running = _ask(pynvml.nvmlDeviceGetComputeRunningProcesses, self.handle) or []
        held = [process.usedGpuMemory for process in running if process.pid == pid]
        return None if not held or None in held else sum(held) / MIB

    def temperature_c(self) -> float | None:
        """Degrees Celsius of the chip, now."""
        return _scaled(_ask(pynvml.nvmlDeviceGetTemperature, self.card, pynvml.NVML_TEMPERATURE_GPU), 1.0)

    @property
    def sliced(self) -> bool:
        """Whether this is a MIG slice."""
        return self.uuid.startswith("MIG-")


def open_gpu(which: int | str, environment: Mapping[str, str] = os.environ) -> Gpu | None:
    """The GPU that CUDA, and so torch, means.

    Args:
        which: CUDA's index (of ``cuda:1``), counted among ``CUDA_VISIBLE_DEVICES``; or a UUID, with or without its
            "GPU-" or "MIG-", which is looked for on the whole machine.
        environment: where ``CUDA_VISIBLE_DEVICES`` and ``CUDA_DEVICE_ORDER`` stand.

    Returns:
        None without NVML or without such a GPU, and where it cannot be told which one is meant: an index on a machine
        of unlike GPUs, which CUDA counts from the fastest on unless ``CUDA_DEVICE_ORDER`` is ``PCI_BUS_ID``, and a
        sliced card of which no slice is named.
    """
    try:
        pynvml.nvmlInit()  # counts how often it was called; in a forked process it starts anew
    except pynvml.NVMLError:
        return None
    if isinstance(which, str):
        return _by_uuid(which)
    named = environment.get("CUDA_VISIBLE_DEVICES")
    if which < 0:
        return None
    if named is None:
        return _by_index(which, environment)
    return _visible(named, which, environment)


def _visible(named: str, which: int, environment: Mapping[str, str]) -> Gpu | None:
    """The entry of that place in ``CUDA_VISIBLE_DEVICES``; CUDA sees none behind the first one that does not exist."""
    seen: list[Gpu] = []
    for word in (part.strip() for part in named.split(",")):
        found = _by_index(int(word), environment) if word.isdecimal() else _by_uuid(word)
        if found is None:
            break
        seen.append(found)
    # A GPU named twice makes CUDA see none at all.
    distinct = len({gpu.uuid for gpu in seen}) == len(seen)
    return seen[which] if distinct and which < len(seen) else None


def _by_index(index: int, environment: Mapping[str, str]) -> Gpu | None:
    cards = list(_cards())
    if index >= len(cards):
        return None
    names = {_ask(pynvml.nvmlDeviceGetName, card) for card in cards}
    if len(names) > 1 and environment.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID":
        return None
    return _whole(cards[index])


def _by_uuid(text: str) -> Gpu | None:
    if text.startswith("MIG-"):
        return _slice(text)
    # CUDA_VISIBLE_DEVICES takes the beginning of a UUID, if only one GPU's begins like that.
    start = text if text.startswith("GPU-") else f"GPU-{text}"
    alike = [card for card in _cards() if (_ask(pynvml.nvmlDeviceGetUUID, card) or "").startswith(start)]
    if text.removeprefix("GPU-") and len(alike) == 1:
        return _whole(alike[0])
    # torch gives the UUID of a slice without saying that it is one.
    return None if alike or text.startswith("GPU-") or not text else _slice(f"MIG-{text}")


def _cards() -> Iterator[Any]:
    for index in range(_ask(pynvml.nvmlDeviceGetCount) or 0):
        # One that this user may not open is no GPU of CUDA's either.
        if (card := _ask(pynvml.nvmlDeviceGetHandleByIndex, index)) is not None:
            yield card


def _whole(card: Any) -> Gpu | None:
    mode = _ask(pynvml.nvmlDeviceGetMigMode, card)
    uuid = _ask(pynvml.nvmlDeviceGetUUID, card)
    if uuid is None or (mode is not None and mode[0] == pynvml.NVML_DEVICE_MIG_ENABLE):
        return None
    return Gpu(uuid, card, card)


def _slice(uuid: str) -> Gpu | None:
    handle = _ask(pynvml.nvmlDeviceGetHandleByUUID, uuid)
    card = None if handle is None else _ask(pynvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle, handle)
    return None if card is None else Gpu(uuid, handle, card)


def _ask(function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except pynvml.NVMLError:  # not supported, not permitted, not in this driver, GPU lost
        return None


def _scaled(value: int | None, unit: float) -> float | None:
    return None if value is None else value * unit
