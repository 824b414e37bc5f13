"""Cells as processes on this machine, forked from a server that has torch and timm loaded."""

import os
from collections import deque
from collections.abc import Collection, Iterator, Sequence

from bench.launchers._group import interleaved
from bench.launchers._worker import Workers
from bench.launchers.contract import Event, Finished, Job, Progress, Settings, Started

CATALOGUE = {"local": {"doc": "processes on this machine; cells that may share it run one a core", "here": True}}

QUICK_S = 2.0
"""Shared jobs that take about as long go first: what they tell makes sense of every row, however early a run ends."""


def launch(jobs: Sequence[Job], settings: Settings) -> Iterator[Event]:
    """Quick shared jobs, then what needs the machine to itself, interleaved where the measure says so, then the rest.

    On a CPU a shared job gets one thread and there are as many at a time as cores: two one-thread trainings side by
    side are faster than two one after the other with two threads each. On another device jobs run one by one.
    """
    shared = [job for job in jobs if not job.measure.exclusive]
    workers = Workers(settings)
    anchors = dict(settings.anchors)
    try:
        yield from _side_by_side([job for job in shared if job.measure.seconds <= QUICK_S], workers)
        for alone, groups in _slices([job for job in jobs if job.measure.exclusive], settings.group):
            yield from _side_by_side(alone, workers)
            for group in groups:
                yield from interleaved(group, workers, anchors)
        yield from _side_by_side([job for job in shared if job.measure.seconds > QUICK_S], workers)
    finally:
        workers.end()


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


def _side_by_side(jobs: Sequence[Job], workers: Workers) -> Iterator[Event]:
    """Jobs that run by themselves: one at a time where they are exclusive, one a core where they may share it.

    What runs out of memory beside others is tried once more without them.
    """
    queue = deque(jobs)
    alone: set[str] = set()
    beside: set[str] = set()
    cores = len(os.sched_getaffinity(0))
    while queue or workers.running:
        while queue and len(workers.running) < min(_slots(job, cores, alone) for job in (queue[0], *workers.jobs)):
            job = queue.popleft()
            workers.start(job, _threads(job, cores))
            if len(workers.running) > 1:
                beside |= {one.key for one in workers.jobs}
            yield Started(job)
        for one in tuple(workers.running):
            for event in workers.events(one):
                if isinstance(event, Finished) and event.status == "oom" and event.job.key in beside - alone:
                    alone.add(event.job.key)
                    queue.append(event.job)
                    yield Progress(event.job, "out of memory, waiting to be alone", 0, 1)
                else:
                    yield event
            if one.waiting:  # nobody takes turns with it
                one.grant(one.turns, 1)
        if workers.running:
            workers.wait()


def _slots(job: Job, cores: int, alone: Collection[str] = ()) -> int:
    """How many jobs may run while this one does."""
    return cores if job.cell.device == "cpu" and not job.measure.exclusive and job.key not in alone else 1


def _threads(job: Job, cores: int) -> int:
    """Those of its cell where the number depends on them, else this job's part of the cores."""
    if job.measure.exclusive or "threads" in job.measure.fields:
        return job.cell.threads
    return max(1, cores // _slots(job, cores))
