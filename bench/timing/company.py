"""Who else uses the machine while something is measured, and what slows it down.

A number taken beside a busy neighbour is not wrong, it is a number of another situation; so every round of a
measurement says in what company it was taken. Nothing here needs rights that a user does not have, and what a system
does not tell is None: unknown is never taken for a disturbance.
"""

import math
import os
import time
from dataclasses import dataclass
from pathlib import Path

from bench.plan import machine
from bench.timing.nvml import Gpu, open_gpu

POWER_CAP = "power cap"
"""A GPU at full load runs at its power limit: that is how it is, for every cell alike, and no disturbance."""
OTHERS, OTHERS_SHARE = 0.25, 0.06
"""Cores that others may take beyond the free ones before a CPU measurement counts as disturbed, and the same as a share
of its threads, whichever is more: of many cores some always have a little to do, and the count gets coarser."""
SHORTEST_S = 0.05
"""The kernel counts busy time in jiffies of 10 ms: over less than five of them it says nothing."""

_PROC = Path("/proc")
_CPUS = Path("/sys/devices/system/cpu")
_FIELDS = 8
"""Of a line of /proc/stat: user, nice, system, idle, iowait, irq, softirq, steal. (Guests are counted in user.)"""
_IDLE, _IOWAIT, _STEAL = 3, 4, 7


@dataclass(frozen=True)
class Company:
    """What went on during an interval; None is "not known".

    Attributes:
        others_cores: cores that processes other than this one (and the kernel for them) kept busy, >= 0: busy time of
            the CPUs that this process may use, less the CPU time of all its threads. Children of it are others. The
            kernel counts the one in jiffies of 10 ms and, as a rule, by looking at each tick who runs; the other is
            exact. So the difference is good to about a tick a CPU that was in use: 0.1 cores a CPU over 0.1 s.
        steal_cores: cores' worth of time that the hypervisor gave to other guests while this one wanted to run.
        throttled: what held the clock down. CPU: "thermal (n events)" when the kernel counted any during the interval.
            GPU: NVML's reasons at its end. Empty if nothing did.
        clock_mhz: at the end of the interval. CPU: mean over the CPUs that this process may use, idle ones too; GPU:
            of its multiprocessors.
        gpu_processes: processes that compute on the GPU beyond those of this run.
    """

    others_cores: float | None = None
    steal_cores: float | None = None
    throttled: tuple[str, ...] | None = None
    clock_mhz: float | None = None
    gpu_processes: int | None = None


@dataclass(frozen=True)
class _Jiffies:
    """Counts since the system started, summed over CPUs."""

    busy: int
    steal: int


@dataclass(frozen=True)
class _Start:
    seconds: float
    own_s: float
    jiffies: _Jiffies | None
    events: int | None


class Watch:
    """Looks at the machine before and after a round; may be used again and again. See `watch`.

    Args:
        gpu: the GPU that is measured on; None for a CPU, or where NVML does not know it.
        own_workers: processes of this run with a context on the GPU, this one included.
        on_cpu: whether the CPU is what is measured; then ``throttled`` and the clock are the CPU's.
        proc, cpus: the kernel's folders.
    """

    def __init__(
        self, gpu: Gpu | None, own_workers: int, *, on_cpu: bool, proc: Path = _PROC, cpus: Path = _CPUS
    ) -> None:
        self.gpu = gpu
        self.own_workers = own_workers
        self.on_cpu = on_cpu
        self.proc = proc
        self.cpus = cpus
        self._mine = machine.cpus()
        self._start: _Start | None = None

    def start(self) -> None:
        """Begin an interval; takes up to a millisecond on a machine of few cores, as `stop` does."""
        events = _throttle_events(self.cpus, self._mine) if self.on_cpu else None
        jiffies = _jiffies(self.proc / "stat", self._mine)
        self._start = _Start(time.perf_counter(), time.process_time(), jiffies, events)

    def stop(self, own_s: float = 0.0) -> Company:
        """End the interval, on a GPU best right after its synchronisation, before the clock falls.

        Args:
            own_s: CPU time that other processes of this run have used since `start`, which is no stranger's.

        Raises:
            RuntimeError: there was no `start`.
        """
        if self._start is None:
            raise RuntimeError("Watch.stop() needs a Watch.start() before it, one for each interval")
        begin, self._start = self._start, None
        seconds, own_s = time.perf_counter() - begin.seconds, time.process_time() - begin.own_s + own_s
        now = _jiffies(self.proc / "stat", self._mine)
        throttled, clock = self._of_cpu(begin) if self.on_cpu else self._of_gpu()
        others = steal = None
        if begin.jiffies is not None and now is not None and seconds >= SHORTEST_S:
            ticks = os.sysconf("SC_CLK_TCK")
            others = max(0.0, ((now.busy - begin.jiffies.busy) / ticks - own_s) / seconds)
            steal = max(0.0, (now.steal - begin.jiffies.steal) / ticks / seconds)
        return Company(others, steal, throttled, clock, self._strangers())

    def _of_cpu(self, begin: _Start) -> tuple[tuple[str, ...] | None, float | None]:
        clock = _clock_mhz(self.cpus, self._mine)
        events = _throttle_events(self.cpus, self._mine)
        if events is None or begin.events is None:
            return None, clock
        more = events - begin.events
        return ((f"thermal ({more} events)",) if more > 0 else ()), clock

    def _of_gpu(self) -> tuple[tuple[str, ...] | None, float | None]:
        if self.gpu is None:
            return None, None
        return self.gpu.throttle_reasons(), self.gpu.sm_clock_mhz()

    def _strangers(self) -> int | None:
        running = None if self.gpu is None else self.gpu.compute_processes()
        # Where NVML does not even see this run's own, as in many containers, it does not see strangers either.
        return None if running is None or running < self.own_workers else running - self.own_workers


def watch(device: str, index: int | str = 0, own_workers: int = 1) -> Watch:
    """A watch for rounds of about 0.1 s to some seconds.

    Args:
        device: "cpu", "cuda", ...; of a device that is neither, the CPU's company is all that is known.
        index: of the GPU as CUDA counts, or its UUID, see `bench.timing.nvml.open_gpu`; not looked at for a CPU.
        own_workers: processes of this run with a context on the GPU, this one included.
    """
    gpu = open_gpu(index) if device == "cuda" else None
    return Watch(gpu, own_workers, on_cpu=device == "cpu")


def disturbed(company: Company, cores: int, threads: int, device: str) -> str:
    """Why a round must not be compared with an undisturbed one: a sentence with the figure, or "".

    A CPU round is disturbed by heat that the kernel was told of, and when others and the hypervisor take over `OTHERS`
    cores more than it leaves free; a GPU round by any other process that computes there, by any reason that holds the
    clock down but its power limit, and by others on the CPU as a round of one thread is: one launches the kernels.

    Args:
        company: of the round.
        cores: CPUs that the process may use.
        threads: CPU threads of the round; not looked at where the device is no CPU.
        device: "cpu", "cuda", ...
    """
    if device == "cpu":
        if company.throttled:
            return f"the CPU was slowed down: {', '.join(company.throttled)}"
        return _crowded(company, cores, threads)
    if company.gpu_processes:
        many = "1 other process computes" if company.gpu_processes == 1 else f"{company.gpu_processes} others compute"
        return f"{many} on the GPU"
    slowed = [reason for reason in company.throttled or () if reason != POWER_CAP]
    if slowed:
        clock = "" if company.clock_mhz is None else f" at {company.clock_mhz:.0f} MHz"
        return f"the GPU was slowed down{clock}: {', '.join(slowed)}"
    return _crowded(company, cores, 1)


def _crowded(company: Company, cores: int, threads: int) -> str:
    """Why so many threads have not had CPUs of their own, or ""."""
    free = max(0, cores - threads)
    others, steal = company.others_cores, company.steal_cores or 0.0
    if others is None or others + steal <= free + max(OTHERS, OTHERS_SHARE * threads):
        return ""
    stolen = f" and the hypervisor took {steal:.2f}" if steal else ""
    many = "1 thread" if threads == 1 else f"{threads} threads"
    return f"other processes kept {others:.2f} cores busy{stolen}, and {many} on {cores} leave {free}"


def left(company: Company, cores: int, threads: int, device: str) -> float:
    """At least how much of its slowest CPU (or of the GPU) a round had to itself, 0 to 1; 0 where that is not known.

    A team of threads waits for its slowest one. Beside n busy threads on one CPU a fair scheduler leaves 1 / (1 + n) of
    it; each of them takes half a core or more if it never rests, so there are about two for every core that was taken,
    and all may have been on that one CPU. A GPU is shared out by time among the processes that compute on it, and the
    thread that launches its kernels shares its CPU with others. How much heat takes is not known.
    """
    if device != "cpu":
        slowed = [reason for reason in company.throttled or () if reason != POWER_CAP]
        host = 1.0 if company.others_cores is None else _share(company, max(0, cores - 1))
        return 0.0 if slowed else host / (1 + (company.gpu_processes or 0))
    if company.throttled or company.others_cores is None:
        return 0.0
    return _share(company, max(0, cores - threads))


def _share(company: Company, free: int) -> float:
    """Of a CPU, beside those that took more than the free ones."""
    taken = (company.others_cores or 0.0) + (company.steal_cores or 0.0) - free
    return 1 / (1 + math.ceil(2 * max(0.0, taken)))


def _jiffies(stat: Path, mine: list[int]) -> _Jiffies | None:
    """Busy and stolen time of the CPUs that this process may use."""
    try:
        rows = [line.split() for line in stat.read_text(encoding="ascii").splitlines() if line.startswith("cpu")]
        counts = {row[0]: [int(word) for word in row[1 : 1 + _FIELDS]] for row in rows}
        wanted = [f"cpu{number}" for number in mine]
        # The sum over all is rounded to a jiffy once, that of single lines once a CPU.
        whole = set(counts) == {"cpu", *wanted}
        lines = [counts["cpu"]] if whole else [counts[name] for name in wanted]
        total = [sum(column) for column in zip(*lines, strict=True)]
        busy = sum(total) - total[_IDLE] - total[_IOWAIT] - total[_STEAL]
        return _Jiffies(busy, total[_STEAL])
    except (OSError, ValueError, KeyError, IndexError):
        return None


def _throttle_events(cpus: Path, mine: list[int]) -> int | None:
    """How often the kernel was told that a core is too hot, since it started. Siblings of a core count the same one."""
    counts = [_number(cpus / f"cpu{number}" / "thermal_throttle" / "core_throttle_count") for number in mine]
    known = [count for count in counts if count is not None]
    return sum(known) if known else None


def _clock_mhz(cpus: Path, mine: list[int]) -> float | None:
    clocks = [_number(cpus / f"cpu{number}" / "cpufreq" / "scaling_cur_freq") for number in mine]
    known = [clock for clock in clocks if clock is not None]
    return sum(known) / len(known) / 1e3 if known else None  # the kernel says kHz


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
