"""One cell's share of interleaved rounds: warmed up, then timed turn by turn until it is known well enough."""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from bench.plan.cell import Cell
from bench.plan.machine import cpus
from bench.plan.measure import COMPANY, Context, Invalid, Outcome, Turn, Value
from bench.stats.sampling import Interval, beside_others, enough, interval, quantile, rounds_of
from bench.timing import company
from bench.timing.clock import Call, Clock, calls_within, warm_up
from bench.timing.pace import pace_of

PART_LEAST, PART_SHARE = 2, 0.25
"""Turns that each part gets in any case, and the share of the time spent that all parts get beyond these: the time goes
to the call whose interval is stated."""
LEAST = 8
"""Rounds at the least, enough for two turns of each of four parts."""
LOOKS = 1.4
"""Whether it is enough is asked at round 8 and whenever there are so many times as many: an interval that is looked at
after every round is sure to look narrow once."""
WINDOW_S = 0.3
"""Company is counted over as many turns as take so long, others' turns included: the kernel counts in hundredths."""
PATIENCE = 2.0
"""Budgets after which a cell that has too few undisturbed rounds stops waiting for more."""
TRIES = 3
"""Of a measure that takes no turns, before one beside others has to do."""


class Rounds:
    """Samples of a call, and of parts of it, from the turns that a context grants.

    Args:
        name: of the main call; its series is ``<name>_ms``.
        call: the main call, whose confidence interval decides when it is enough.
        parts: further calls by name, timed in the same turns.
        clock: of the device.
        cell: says device, threads and batch.
        context: turns, precision and progress.
        prefix: of the columns that count rounds.
    """

    def __init__(
        self,
        name: str,
        call: Call,
        parts: Mapping[str, Call],
        clock: Clock,
        cell: Cell,
        context: Context,
        *,
        prefix: str = "",
    ) -> None:
        self.name, self.call, self.parts, self.clock = name, call, parts, clock
        self.cell, self.context, self.prefix = cell, context, prefix
        self.pace = pace_of(cell.device)
        self.series: dict[str, list[float]] = {f"{part}_ms": [] for part in (name, *parts)}
        self.index: dict[str, list[float]] = {f"{part}_ms": [] for part in (name, *parts)}
        self.taken = 0
        self.disturbed: dict[int, str] = {}
        self.left = 1.0
        self.companies: list[company.Company] = []
        self.steady = False
        self.look = LEAST
        kind, _, number = cell.device.partition(":")
        self._device, self._cores = (kind, int(number or 0)), len(cpus())

    def take(self) -> None:
        """Warm up, then take rounds until the precision is reached or the budget ends."""
        precision = self.context.precision
        self.context.report("warming up", 0, 1)
        # Parts first: their calls warm up the whole, too.
        counts = {name: self._calls_in_turn(part) for name, part in self.parts.items()}
        warm = warm_up(self.clock, self.call)
        self.steady = warm.steady
        settle = self.pace.settling(warm.ms)
        counts[self.name] = calls_within(self.pace.round_s, warm.ms, most=self.pace.most)
        calls, parts = {self.name: self.call, **self.parts}, tuple(self.parts)
        self.look, spent, on_parts = LEAST, 0.0, 0.0
        places = Places(self.cell.threads if self.cell.device == "cpu" else 0)
        medians: dict[int, float] = {}
        window: _Window | None = None
        for turn in self.context.turns():
            now = max(time.perf_counter(), 0.0 if window is None else window.since + (spent - window.spent) / 1e3)
            if window is not None and now - window.since >= WINDOW_S:
                self._close(window, turn, medians)
                window = None
                if self._known_well_enough(medians, spent / 1e3):
                    break
            if window is None:
                window = self._open(turn, spent)
            window.rounds.append(turn.index)
            names = [self.name]
            # By the round, so that cells time the same part in the same one.
            part = parts[turn.index % len(parts)] if parts else ""
            if parts and (len(self.series[f"{part}_ms"]) < PART_LEAST * counts[part] or on_parts <= PART_SHARE * spent):
                names.append(part)
            with places.taken(turn.index):
                settling = self.clock.times(self.call, settle) if settle else []
                timed = {name: self.clock.times(calls[name], counts[name]) for name in names}
            spent += sum(settling)
            for name, samples in timed.items():
                spent += sum(samples)
                on_parts += 0 if name == self.name else sum(samples)
                self.series[f"{name}_ms"] += samples
                self.index[f"{name}_ms"] += [turn.index] * len(samples)
                if name == self.name:
                    medians[turn.index] = median(samples)
            self.taken += 1
            self.context.report("timing", min(round(spent / 10 / precision.budget_s), 100), 100)

    def _calls_in_turn(self, part: Call) -> int:
        """How many calls of a part there are in a turn that has it."""
        (ms,) = self.clock.times(part, 1)
        if ms < 10 * self.pace.part_s * 1e3:  # a first call can be a slow one
            ms = min(ms, *self.clock.times(part, 1))
        return calls_within(self.pace.part_s, ms, most=self.pace.part_most)

    def _known_well_enough(self, medians: Mapping[int, float], spent_s: float) -> bool:
        """Whether to stop: the target is reached, the budget is spent, or there is no use in going on."""
        precision = self.context.precision
        if len(medians) >= self.look:
            self.look = max(self.look + 1, round(LOOKS * len(medians)))
            if enough(list(medians.values()), target=precision.target):
                return True
        if spent_s >= precision.budget_s and len(medians) >= LEAST:
            return True
        return spent_s >= PATIENCE * precision.budget_s and self.taken >= PATIENCE * LEAST

    def _open(self, turn: Turn, spent: float) -> "_Window":
        watch = company.watch(*self._device, turn.workers)
        watch.start()
        return _Window(watch, time.perf_counter(), spent, turn.cpu_s, [])

    def _close(self, window: "_Window", turn: Turn, medians: dict[int, float]) -> None:
        """Judge the turns of a window; disturbed ones do not count, unless that is allowed."""
        seen = window.watch.stop(turn.cpu_s - window.cpu_s)
        self.companies.append(seen)
        if reason := company.disturbed(seen, self._cores, self.cell.threads, self._device[0]):
            self.left = min(self.left, company.left(seen, self._cores, self.cell.threads, self._device[0]))
            for index in window.rounds:
                self.disturbed[index] = reason
                if self.context.precision.company != "allow":
                    medians.pop(index, None)

    def outcome(self, values: Mapping[str, Value], *, rate: str) -> Outcome:
        """What was found: figures of the main call as ``<name>`` columns, medians of the parts, and all samples.

        Args:
            values: further columns.
            rate: column of images a second.

        Where too few rounds were undisturbed all of them count, and the interval is that of `beside_others`.

        Raises:
            Invalid: too few rounds were undisturbed, and company is refused; the samples go with it.
        """
        samples = self.samples()
        common: dict[str, Value] = {
            **values,
            f"{self.prefix}rounds": self.taken,
            f"{self.prefix}disturbed_rounds": len(self.disturbed),
            f"{self.prefix}unknown_company": ", ".join(self._unknown()),
        }
        kept = list(rounds_of(samples, f"{self.name}_ms").values())
        if self._in_company():
            reason = f"{len(self.disturbed)} of {self.taken} rounds were disturbed (the last: {self._last()})"
            common[COMPANY] = reason
            if not self._counts():
                raise Invalid(f"{reason}; quieten the machine, or leave out --alone", Outcome(common, samples))
            found = beside_others(kept, self.left)
        else:
            found = interval(kept)
        return Outcome(
            {
                **common,
                **self._main(found),
                rate: self.cell.batch * 1e3 / found.median,
                **{f"{part}_ms": _median(rounds_of(samples, f"{part}_ms")) for part in self.parts},
            },
            samples,
        )

    def _main(self, found: Interval) -> dict[str, Value]:
        name, series = self.name, f"{self.name}_ms"
        skipped = {} if self._in_company() else self.disturbed
        ends = {f"{name}_low_ms": found.low, f"{name}_high_ms": found.high} if self._in_company() else {}
        pairs = zip(self.series[series], self.index[series], strict=True)
        samples = [sample for sample, index in pairs if index not in skipped]
        return {
            f"{name}_ms": found.median,
            f"{name}_ci_pct": 100 * found.half,
            f"{name}_ended": "target" if found.half <= self.context.precision.target else "budget",
            f"{name}_steady": str(self.steady).lower(),
            f"{name}_p90_ms": quantile(samples, 0.9),
            f"{name}_p99_ms": quantile(samples, 0.99),
            **ends,  # of a wide interval that lies mostly to one side
        }

    def _in_company(self) -> bool:
        """Whether too few rounds were undisturbed, so that the others have to count."""
        return len(set(self.index[f"{self.name}_ms"]) - self.disturbed.keys()) < LEAST

    def _counts(self) -> bool:
        """Whether a figure may be made of disturbed rounds."""
        return self.context.precision.company != "refuse"

    def _last(self) -> str:
        """Why the last disturbed round was."""
        return max(self.disturbed.items())[1]

    def _unknown(self) -> list[str]:
        """What the system does not tell of the company of this device's rounds."""
        names = {
            "others_cores": "load of others",
            "steal_cores": "hypervisor's share",
            "throttled": "throttling",
            "clock_mhz": "clock",
        }
        if self.cell.device != "cpu":
            names["gpu_processes"] = "processes on the GPU"
        return [text for name, text in names.items() if any(getattr(one, name) is None for one in self.companies)]

    def samples(self) -> dict[str, list[float]]:
        """Raw samples: each series, the rounds of the main one, the disturbed rounds, and each round's company."""
        found = {name: [round(value, 4) for value in values] for name, values in self.series.items()}
        found |= {f"{name}_round": list(rounds) for name, rounds in self.index.items()}
        if self.disturbed:
            # Those that count for want of others, or those that do not count.
            name = "company_round" if self._in_company() and self._counts() else "disturbed_round"
            found[name] = [float(index) for index in self.disturbed]
        for name in ("others_cores", "steal_cores", "clock_mhz"):
            values = [getattr(one, name) for one in self.companies]
            if all(value is not None for value in values):
                found[name] = [round(value, 3) for value in values]
        return found


class Places:
    """Gives each busy thread of this process a CPU of its own, another one every round, if all CPUs are in use, or one.

    Left to itself, the scheduler of a small machine now and then lets two threads of a team share one CPU while another
    idles, for tens of milliseconds, above all after a pause: a pass then takes two to three times as long. And virtual
    CPUs of one machine are not equally fast at a time, so that two processes of one model would differ for as long as
    they live if each kept its places. Where CPUs are to spare, the scheduler does it well.

    Args:
        threads: of an operation.
    """

    def __init__(self, threads: int) -> None:
        self.cpus = cpus()
        self.busy = _busiest(threads) if threads in (1, len(self.cpus)) else ()

    @contextlib.contextmanager
    def taken(self, index: int) -> Iterator[None]:
        """Within it, the places of a round are taken."""
        for place, thread in enumerate(self.busy):
            _allow(thread, {self.cpus[(index + place) % len(self.cpus)]})
        try:
            yield
        finally:
            for thread in self.busy:
                _allow(thread, self.cpus)


def _allow(thread: int, cpus: Iterable[int]) -> None:
    with contextlib.suppress(OSError, AttributeError):  # it has ended; or the system has no such call
        os.sched_setaffinity(thread, cpus)


def _busiest(count: int, tasks: Path = Path("/proc/self/task")) -> tuple[int, ...]:
    """The threads of this process that have used most CPU time, the one that calls first; () where it is not told."""
    used: dict[int, int] = {}
    try:
        folders = list(tasks.iterdir())
    except OSError:
        return ()
    for folder in folders:
        with contextlib.suppress(OSError, ValueError, IndexError):  # a thread that has just ended
            words = (folder / "stat").read_text(encoding="ascii").rpartition(")")[2].split()
            used[int(folder.name)] = int(words[11]) + int(words[12])  # utime and stime, behind the name
    me = threading.get_native_id()
    others = sorted(used.keys() - {me}, key=lambda thread: used[thread], reverse=True)
    return (me, *others[: count - 1])


@dataclass
class _Window:
    """Turns whose company is counted together. spent, cpu_s: ms of timing, and CPU time of the others, at its start."""

    watch: company.Watch
    since: float
    spent: float
    cpu_s: float
    rounds: list[int]


def _median(rounds: Mapping[int, float]) -> float | None:
    return median(rounds.values()) if rounds else None


def undisturbed(take: Callable[[], Outcome], cell: Cell, context: Context) -> Outcome:
    """What ``take`` finds when the machine is its own, for a measure that takes no turns: tried `TRIES` times.

    Where others disturbed every try, it is what the last one found, and says so.

    Raises:
        Invalid: others disturbed every try, and company is refused; what the last one found goes with it.
    """
    kind, _, number = cell.device.partition(":")
    tries = 0
    while True:
        watch = company.watch(kind, int(number or 0), 1)
        watch.start()
        found = take()
        reason = company.disturbed(watch.stop(), len(cpus()), cell.threads, kind)
        if not reason:
            return found
        tries += 1
        if context.precision.company == "allow" or tries == TRIES:
            reason = f"{tries} of {tries} tries were disturbed (the last: {reason})"
            found = replace(found, values={**found.values, COMPANY: reason})
            if context.precision.company == "refuse":
                raise Invalid(f"{reason}; quieten the machine, or leave out --alone", found)
            return found
