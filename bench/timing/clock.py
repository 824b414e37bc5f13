"""Time of calls on any device: one interface, two clocks.

On a CPU a call is over when it returns, and is timed by the monotonic clock. On another device it returns when its
kernels are queued: an event is recorded before and after each call, and the host waits once, after the last one, so
that the device never idles for the sake of being timed (as timm and MLPerf measure, and not with a synchronisation
around each call, which adds its own cost to every short one).
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any, Protocol

import torch

Call = Callable[[], Any]
STEADY = 0.03
"""Two windows of a warm-up that differ by less, as a share, are taken to be the steady state."""


class Clock(Protocol):
    """Times calls one by one."""

    def times(self, call: Call, count: int) -> list[float]:
        """Milliseconds of each of ``count`` calls, one after the other."""
        ...


class HostClock:
    """For work that is done when the call returns."""

    def times(self, call: Call, count: int) -> list[float]:
        """See `Clock.times`."""
        found = []
        for _ in range(count):
            start = time.perf_counter_ns()
            call()
            found.append((time.perf_counter_ns() - start) / 1e6)
        return found


class DeviceClock:
    """For work that a call queues on a device.

    Args:
        event: makes an event that can be recorded in the current stream, and gives milliseconds to a later one.
        synchronize: waits until the device has done all that was queued.
    """

    def __init__(self, event: Callable[[], Any], synchronize: Callable[[], None]) -> None:
        self.event, self.synchronize = event, synchronize

    def times(self, call: Call, count: int) -> list[float]:
        """See `Clock.times`; one synchronisation in all, after the last call."""
        marks = [(self.event(), self.event()) for _ in range(count)]
        for before, after in marks:
            before.record()
            call()
            after.record()
        self.synchronize()
        return [before.elapsed_time(after) for before, after in marks]


def clock_of(device: torch.device) -> Clock:
    """The clock of a device."""
    if device.type == "cpu":
        return HostClock()
    return DeviceClock(lambda: torch.Event(device, enable_timing=True), lambda: torch.accelerator.synchronize(device))


@dataclass(frozen=True)
class WarmUp:
    """How a warm-up ended.

    calls: made in it. ms: of one call at its end. steady: whether the last window was not faster than the one before.
    """

    calls: int
    ms: float
    steady: bool


def warm_up(clock: Clock, call: Call, *, window_s: float = 0.04, budget_s: float = 1.0, least: int = 3) -> WarmUp:
    """Call until stationary: until a window is not faster than the one before by more than `STEADY`.

    Args:
        clock: of the device.
        call: what is to be timed afterwards.
        window_s: seconds of a window; it has two calls at least, or one that takes as long.
        budget_s: seconds after which it ends anyway, once there were two windows.
        least: calls before the first window (allocations, lazy initialisation, autotuning); fewer if these fill one.
    """
    first: list[float] = []
    while len(first) < least and sum(first) < window_s * 1e3:
        first += clock.times(call, 1)
    last = median(first)
    calls, spent = len(first), 0.0
    previous: float | None = None
    while True:
        count = max(1 if last >= window_s * 1e3 else 2, min(50, round(window_s * 1e3 / max(last, 1e-3))))
        window = clock.times(call, count)
        calls, spent, last = calls + count, spent + sum(window) / 1e3, median(window)
        if previous is not None:
            # Slower than before is as good a sign that it no longer gets faster.
            steady = last >= previous * (1 - STEADY)
            if steady or spent >= budget_s:
                return WarmUp(calls, last, steady)
        previous = last


def calls_within(seconds: float, ms: float, *, most: int) -> int:
    """How many calls of ``ms`` fit into ``seconds``: at least one, at most ``most``."""
    return max(1, min(most, int(seconds * 1e3 / max(ms, 1e-6))))
