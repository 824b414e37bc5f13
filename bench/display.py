"""Live progress of a run: a bar with the time left and a line for each running cell; plain lines without a terminal."""

import re
import time
from collections.abc import Collection, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from bench import run
from bench.errors import printable
from bench.launchers.contract import Event, Finished, Said, Started
from bench.launchers.contract import Progress as Step
from bench.plan.measure import measures
from bench.report.rows import gather
from bench.report.tables import summary_table
from bench.store.record import Record

if TYPE_CHECKING:
    from bench.report.terminal import TerminalTable

REASONS, NAMED = 12, 3
"""Reasons for which there is no number that are told one by one, and the measurements that are named of each."""
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
REFRESH_HZ = 4
LOOK_S = 5.0
"""Seconds between two looks at the table of what is known so far."""


class Display:
    """A context manager whose ``show`` takes the events of a run, and ``look`` the records that there are by then.

    Args:
        plan: of the run.
        console: where it is shown.
        folder: of the machine's results, whose name stands in tables.
    """

    def __init__(self, plan: run.Plan, console: Console, folder: Path) -> None:
        self.plan = plan
        self.console = console
        self.folder = folder
        self.tables: list[TerminalTable] = []
        self.looked = 0.0
        self.total = len(plan.todo)
        self.finished: list[Finished] = []
        self.guessed = 0.0
        self.running: dict[str, tuple[Step, float]] = {}
        self.said: set[str] = set()
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
        )
        self.task = self.bar.add_task("measuring", total=self.total, left="")
        self.live = Live(self, console=console, refresh_per_second=REFRESH_HZ, transient=True)

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self.live.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        if self.console.is_terminal:
            self.live.__exit__(None, None, None)

    def __rich__(self) -> Group:
        lines = [
            Text("  " + printable(self._line(one)), no_wrap=True, overflow="ellipsis") for one in self.running.values()
        ]
        # Where the terminal is low, it is the table that is cut.
        return Group(self.bar, *lines, *self.tables)

    def _line(self, one: tuple[Step, float]) -> str:
        step, since = one
        steps = f" {step.done}/{step.total}" if step.total > 1 else ""
        note = f" {step.note}" if step.note else ""
        return f"{step.job.title()}: {step.stage}{steps}{note}, {time.monotonic() - since:.0f} s"

    def left(self) -> str:
        """The time left, in words."""
        now = time.monotonic()
        # Only training tells how far the whole is: reading data before it and evaluation after it are short.
        running = {
            key: (now - since, step.done / step.total if step.stage == "training" and step.total else 0.0)
            for key, (step, since) in self.running.items()
        }
        return f"{run.duration(run.seconds_left(self.plan, self.finished, running))} left"

    def files(self, what: str, done: int, total: int) -> None:
        """Take how far the look at a data set's files is."""
        self.bar.update(self.task, description="measuring" if done == total else f"looking at {what}, {done}/{total}")

    def show(self, event: Event) -> None:
        """Take one event."""
        key = event.job.key
        if isinstance(event, Started):
            self.running[key] = (Step(event.job, "starting", 0, 0), time.monotonic())
        elif isinstance(event, Step):
            self.running[key] = (event, self.running[key][1])
        elif isinstance(event, Said):
            if event.text not in self.said:  # what is wrong with a disk is so for every cell
                self.said.add(event.text)
                words = printable(f"{event.job.title()}: {event.text}")
                self.console.print(Text(words, style="yellow"), soft_wrap=True)
        else:
            self.running.pop(key, None)
            self.finished.append(event)
            self._ended(event)
        # Trainings report every step, and the guess goes through the whole plan: not more often than it is seen.
        if isinstance(event, Finished) or time.monotonic() - self.guessed > 1 / REFRESH_HZ:
            self.guessed = time.monotonic()
            self.bar.update(self.task, completed=len(self.finished), left=self.left())

    def look(self, records: Collection[Record]) -> None:
        """Show what is known so far: in a terminal below the bar, now and then; else once, when all families are in."""
        if self.console.is_terminal and time.monotonic() - self.looked < LOOK_S:
            return
        if not self.console.is_terminal and (self.looked or len(self.finished) == self.total):
            return
        self.looked = time.monotonic()
        here = self.plan.environment
        # Earlier records may be of another state of the code.
        described = {record.environment: here for record in records}
        self.tables = [summary_table(table) for table in gather(self.folder, records, described).tables]
        if not self.console.is_terminal:
            self.console.print(Text("so far:"), *self.tables, sep="\n")

    def _ended(self, event: Finished) -> None:
        if (event.status == "ok" and self.console.is_terminal) or self.plan.only_crossed(event):
            return
        text = f"[{len(self.finished)}/{self.total}] {event.job.title()}: "
        text += _headline(event) if event.status == "ok" else f"{event.status}: {event.reason}"
        text += f" ({event.wall_s:.1f} s)"
        if not self.console.is_terminal:
            text += f", {self.left()}"
        self.console.print(Text(printable(text), style="" if event.status == "ok" else "red"), soft_wrap=True)


def _headline(event: Finished) -> str:
    columns = measures()[event.job.measure.name].columns
    shown = [column for column in columns if event.values.get(column.name) is not None and column.table]
    shown = [column for column in shown if column.headline] or shown[:1]
    parts = []
    for column in shown:
        value = event.values[column.name]
        if isinstance(value, (int, float)):
            parts.append(f"{column.title} {value:.{column.digits}f} {column.unit}".strip())
    return ", ".join(parts) or "ok"


def missing(records: Mapping[str, Record]) -> Iterator[tuple[str, str]]:
    """Status and line for each measurement without a number: of many for one reason the first ones, and a count.

    records: title -> record. Reasons that differ in numbers alone are one.
    """
    groups: dict[tuple[str, str], list[tuple[str, Record]]] = {}
    for title, record in records.items():
        groups.setdefault((record.status, _NUMBER.sub("#", record.reason)), []).append((title, record))
    for (status, _), group in islice(groups.items(), REASONS):
        for title, record in group[:NAMED]:
            yield status, f"{status}: {title}: {record.reason}"
        if len(group) > NAMED:
            yield status, f"{status}: and {len(group) - NAMED:,} more for this reason"
    for status in dict.fromkeys(status for status, _ in islice(groups, REASONS, None)):
        others = [len(group) for (of, _), group in islice(groups.items(), REASONS, None) if of == status]
        yield status, f"{status}: and {sum(others):,} more for {len(others):,} other reasons, which their records have"
