"""Cells as processes on this machine, forked from a server that has torch and timm loaded.

Where there are several GPUs of one kind, each process has one of them. Trainings run on all of them at a time, several
a card where memory allows. Cells that take turns stay with their group on one card; groups are prepared on all cards at
once, and timed on all at once only where that was measured to disturb nobody (`bench.launchers._calibrate`). A measure
that wants the machine to itself and takes no turns has it: its process prepares and measures in one go, and what is
prepared uses all cores. For that reason, too, nothing is prepared while something else is timed.
"""

from collections import deque
from collections.abc import Collection, Iterator, Sequence

from bench.launchers._calibrate import Calibration
from bench.launchers._cards import Pool, on_cpu
from bench.launchers._group import interleaved
from bench.launchers._worker import Workers
from bench.launchers.contract import Event, Finished, Job, Progress, Settings, Started
from bench.plan import machine
from bench.plan.cards import Card

CATALOGUE = {"local": {"doc": "processes on this machine, all its GPUs; cells that may share a CPU run one a core"}}

QUICK_S = 2.0
"""Shared jobs that take about as long go first: what they tell makes sense of every row, however early a run ends."""
PORTION = 2
"""Groups of cells a card after which a run on cards turns to the next cells, with all that is measured of them."""


def launch(jobs: Sequence[Job], settings: Settings) -> Iterator[Event]:
    """Quick shared jobs, then what needs the machine to itself, interleaved where the measure says so, then the rest.

    On a CPU a shared job gets one thread and there are as many at a time as cores: two one-thread trainings side by
    side are faster than two one after the other with two threads each.

    On cards all that goes portion by portion, in the order of the matrix: such a run takes hours, and a hired machine
    may be gone before its end.
    """
    pool, workers = Pool.of(jobs), Workers(settings)
    calibration, anchors = Calibration(workers), dict(settings.anchors)
    size = settings.group * max(1, len(pool.used))
    try:
        for portion in _portions(jobs, PORTION * size):
            shared = [job for job in portion if not job.measure.exclusive]
            yield from _side_by_side([job for job in shared if _quick(job)], workers, pool)
            for alone, groups in _slices([job for job in portion if job.measure.exclusive], size):
                yield from _side_by_side(alone, workers, pool)
                for group in groups:
                    yield from interleaved(group, workers, anchors, pool, calibration)
            yield from _side_by_side([job for job in shared if not _quick(job)], workers, pool)
    finally:
        workers.end()


def _quick(job: Job) -> bool:
    """Whether it goes first; what has to compile waits for the measure that does so anyway."""
    compiles = "compile" in job.measure.fields and job.cell.compile in ("default", "max-autotune")
    return job.measure.seconds <= QUICK_S and not compiles


def _portions(jobs: Sequence[Job], cells: int) -> list[list[Job]]:
    """Jobs in their order, in portions of so many cells; all in one where none is on a card."""
    if all(on_cpu(job) for job in jobs):
        return [list(jobs)]
    places: dict[object, int] = {}
    found: dict[int, list[Job]] = {}
    for job in jobs:
        found.setdefault(places.setdefault(job.cell, len(places)) // cells, []).append(job)
    return list(found.values())


def _slices(jobs: Sequence[Job], size: int) -> Iterator[tuple[list[Job], list[list[Job]]]]:
    """Jobs in their order, in slices: those that run alone, and groups of up to ``size`` that are interleaved.

    A group is of one measure and one device.
    """
    alone: list[Job] = []
    groups: dict[tuple[str, str], list[Job]] = {}
    for job in jobs:
        key = job.measure.name, job.cell.device
        if job.measure.interleaved and len(groups.get(key, ())) == size:
            yield alone, list(groups.values())
            alone, groups = [], {}
        if job.measure.interleaved:
            groups.setdefault(key, []).append(job)
        else:
            alone.append(job)
    yield alone, list(groups.values())


def _side_by_side(jobs: Sequence[Job], workers: Workers, pool: Pool) -> Iterator[Event]:
    """Jobs that run by themselves: one at a time where they are exclusive, else side by side.

    Then there is one a core, and on cards as many as `Pool.place` says. What runs out of memory beside others is tried
    once more without them.
    """
    queue = deque(jobs)
    company = _Company(workers, pool)
    while queue or workers.running:
        while (found := company.next(queue)) is not None:
            job, card = found
            queue.remove(job)
            workers.start(job, company.threads(job), card, pool.visible(job))
            company.started()
            yield Started(job)
        for one in tuple(workers.running):
            for event in workers.events(one):
                if isinstance(event, Finished) and company.again(event):
                    queue.append(event.job)
                    yield Progress(event.job, "out of memory, waiting to be alone", 0, 1)
                else:
                    yield event
            if one.waiting:  # nobody takes turns with it
                one.grant(one.turns, 1)
        if workers.running:
            workers.wait()


class _Company:
    """Who may start beside whom.

    alone: keys of the jobs that want the machine to themselves. single: of those that want a card. beside, joined: of
    those that ran beside others on the machine, and on their card.
    """

    def __init__(self, workers: Workers, pool: Pool) -> None:
        self.workers = workers
        self.pool = pool
        self.cores = len(machine.cpus())
        self.alone: set[str] = set()
        self.single: set[str] = set()
        self.beside: set[str] = set()
        self.joined: set[str] = set()

    def next(self, queue: Collection[Job]) -> tuple[Job, Card | None] | None:
        """The first job that may start now, and its card."""
        running = self.workers.running
        if any(self._alone(one.job) for one in running):
            return None
        refused: set[tuple[object, ...]] = set()
        for job in queue:
            if self._alone(job):
                # It has waited for its turn: nobody overtakes it.
                return None if running else (job, self.pool.fit(job)[0])
            alike = job.cell.device, on_cpu(job), job.measure.trains, job.key in self.single
            if alike in refused:
                continue
            if (place := self._place(job)) is not None:
                return job, place[0]
            refused.add(alike)
        return None

    def _place(self, job: Job) -> tuple[Card | None] | None:
        running = self.workers.running
        if not on_cpu(job):
            return self.pool.place(job, running, self.cores, self.single)
        on_cores = sum(on_cpu(one.job) for one in running)
        # What drives a card has a core of its own.
        return (None,) if on_cores < max(1, self.cores - (len(running) - on_cores)) else None

    def threads(self, job: Job) -> int:
        """Those of its cell where the number depends on them, else this job's part of the cores."""
        if job.measure.exclusive or "threads" in job.measure.fields:
            return job.cell.threads
        if on_cpu(job):
            return 1
        return max(1, self.cores // len(self.pool.fit(job)))

    def started(self) -> None:
        """Remember who runs beside whom."""
        running = self.workers.running
        if len(running) > 1:
            self.beside |= {one.job.key for one in running}
        for one in running:
            if sum(other.card == one.card and not on_cpu(other.job) for other in running) > 1 and one.card is not None:
                self.joined.add(one.job.key)

    def again(self, event: Finished) -> bool:
        """Whether it ran out of memory that others may have taken; then it is to be tried once more without them."""
        key = event.job.key
        if event.status != "oom":
            return False
        if "CUDA" in event.reason and not on_cpu(event.job):  # the card's memory, in which other cards have no part
            wanted, had = self.single, self.joined
        else:
            wanted, had = self.alone, self.beside
        if key in wanted or key not in had:
            return False
        wanted.add(key)
        return True

    def _alone(self, job: Job) -> bool:
        return job.measure.exclusive or job.key in self.alone
