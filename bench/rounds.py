"""One cell's share of interleaved rounds: warmed up, then timed turn by turn until it is known well enough."""

import os
from collections.abc import Callable, Mapping
from statistics import median

from bench import company
from bench.cell import Cell
from bench.measure import Context, Invalid, Outcome, Value
from bench.sampling import ROUNDS, Interval, enough, interval, quantile, rounds_of
from bench.timing import Call, Clock, calls_within, warm_up

ROUND_S, MOST = 0.06, 40
"""Seconds of a round for the main call, and the most calls in it."""
PART_S, PART_MOST = 0.015, 10
"""The same for each of its parts."""
SETTLE_S, SETTLED_MS = 0.01, 50.0
"""Seconds of calls before a round that are not kept: caches, clocks and sleeping threads are the last cell's. A call of
``SETTLED_MS`` or more is long enough to drown that."""
RETRIES = 12
"""Disturbed rounds after which a cell that has too few undisturbed ones is given up as invalid."""


TRIES = 3
"""Of a measure that takes no turns, before others make it invalid."""


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
        self.series: dict[str, list[float]] = {f"{part}_ms": [] for part in (name, *parts)}
        self.index: list[float] = []
        self.disturbed: dict[int, str] = {}
        self.companies: list[company.Company] = []
        self.steady = False

    def take(self) -> None:
        """Warm up, then take rounds until the precision is reached or the budget ends."""
        precision = self.context.precision
        self.context.report("warming up", 0, 1)
        warm = warm_up(self.clock, self.call)
        self.steady = warm.steady
        settle = max(1, calls_within(SETTLE_S, warm.ms, most=MOST)) if warm.ms < SETTLED_MS else 0
        counts = {self.name: calls_within(ROUND_S, warm.ms, most=MOST)}
        calls = {self.name: self.call, **self.parts}
        for name, part in self.parts.items():
            counts[name] = calls_within(PART_S, min(self.clock.times(part, 2)), most=PART_MOST)
        kind, _, number = self.cell.device.partition(":")
        device, cores = (kind, int(number or 0)), len(os.sched_getaffinity(0))
        medians: list[float] = []
        spent = 0.0
        for turn in self.context.turns():
            self.context.report("timing", turn.index, ROUNDS)
            if settle:
                spent += sum(self.clock.times(self.call, settle))
            watch = company.watch(*device, turn.workers)
            watch.start()
            taken = {name: self.clock.times(call, counts[name]) for name, call in calls.items()}
            seen = watch.stop()
            spent += sum(map(sum, taken.values()))
            for name, samples in taken.items():
                self.series[f"{name}_ms"] += samples
            self.index += [turn.index] * counts[self.name]
            self.companies.append(seen)
            if reason := company.disturbed(seen, cores, self.cell.threads, device[0]):
                self.disturbed[turn.index] = reason
            if not reason or not precision.alone:
                medians.append(median(taken[self.name]))
            if enough(medians, target=precision.target):
                break
            if len(medians) >= ROUNDS and spent >= precision.budget_s * 1e3:
                break
            if len(medians) < ROUNDS and len(self.disturbed) >= RETRIES and precision.alone:
                break

    def outcome(self, values: Mapping[str, Value], *, rate: str) -> Outcome:
        """What was found: figures of the main call as ``<name>`` columns, medians of the parts, and all samples.

        Args:
            values: further columns.
            rate: column of images a second.

        Raises:
            Invalid: too many rounds were disturbed; the samples go with it.
        """
        samples = self.samples()
        common = {
            **values,
            f"{self.prefix}rounds": len(self.companies),
            f"{self.prefix}disturbed_rounds": len(self.disturbed),
            f"{self.prefix}unknown_company": ", ".join(self._unknown()),
        }
        kept = list(rounds_of(samples, f"{self.name}_ms").values())
        if len(kept) < ROUNDS:
            worst = max(self.disturbed.items())[1]
            raise Invalid(
                f"{len(self.disturbed)} of {len(self.companies)} rounds were disturbed (the last: {worst}); "
                "quieten the machine and use --retry, or time beside others with --allow-company",
                Outcome(common, samples),
            )
        found = interval(kept)
        return Outcome(
            {
                **common,
                **self._main(found),
                rate: self.cell.batch * 1e3 / found.median,
                **{f"{part}_ms": median(self.series[f"{part}_ms"]) for part in self.parts},
            },
            samples,
        )

    def _main(self, found: Interval) -> dict[str, Value]:
        name, samples = self.name, self.series[f"{self.name}_ms"]
        return {
            f"{name}_ms": found.median,
            f"{name}_ci_pct": 100 * found.half,
            f"{name}_ended": "target" if found.half <= self.context.precision.target else "budget",
            f"{name}_steady": str(self.steady).lower(),
            f"{name}_p90_ms": quantile(samples, 0.9),
            f"{name}_p99_ms": quantile(samples, 0.99),
        }

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
        found[f"{self.name}_ms_round"] = list(self.index)
        if self.disturbed:
            # Those that do not count, or those that count nevertheless.
            name = "disturbed_round" if self.context.precision.alone else "company_round"
            found[name] = [float(index) for index in self.disturbed]
        for name in ("others_cores", "steal_cores", "clock_mhz"):
            values = [getattr(one, name) for one in self.companies]
            if all(value is not None for value in values):
                found[name] = [round(value, 3) for value in values]
        return found


def undisturbed(take: Callable[[], Outcome], cell: Cell, context: Context) -> Outcome:
    """What ``take`` finds when the machine is its own, for a measure that takes no turns: tried `TRIES` times.

    Raises:
        Invalid: others disturbed every try; what the last one found goes with it.
    """
    kind, _, number = cell.device.partition(":")
    tries = 0
    while True:
        watch = company.watch(kind, int(number or 0), 1)
        watch.start()
        found = take()
        reason = company.disturbed(watch.stop(), len(os.sched_getaffinity(0)), cell.threads, kind)
        if not reason or not context.precision.alone:
            return found
        tries += 1
        if tries == TRIES:
            raise Invalid(
                f"each of {TRIES} tries was disturbed (the last: {reason}); quieten the machine and use --retry, or "
                "measure beside others with --allow-company",
                found,
            )
