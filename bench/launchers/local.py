"""Cells as processes on this machine, forked from a server that has torch and timm loaded."""

import os
from collections import deque
from collections.abc import Iterator, Sequence

from bench.launchers._group import interleaved
from bench.launchers._worker import Workers
from bench.launchers.contract import Event, Job, Settings, Started

CATALOGUE = {"local": {"doc": "processes on this machine; cells that may share it run one a core"}}

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
    """Jobs that run by themselves: one at a time where they are exclusive, one a core where they may share it."""
    queue = deque(jobs)
    cores = len(os.sched_getaffinity(0))
    while queue or workers.running:
        while queue and len(workers.running) < _slots(queue[0], cores):
            job = queue.popleft()
            workers.start(job, job.cell.threads if job.measure.exclusive else max(1, cores // _slots(job, cores)))
            yield Started(job)
        for one in tuple(workers.running):
            yield from workers.events(one)
            if one.waiting:  # nobody takes turns with it
                one.grant(one.turns, 1)
        if workers.running:
            workers.wait()


def _slots(job: Job, cores: int) -> int:
    return cores if job.cell.device == "cpu" and not job.measure.exclusive else 1
