"""Cells that are measured in rounds: A B C, A B C, ..., each by a process that keeps its model loaded."""

import os
import random
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from bench.launchers._worker import Worker, Workers
from bench.launchers.contract import Event, Finished, Job, Started, anchor_digest
from bench.plan.measure import COMPANY
from bench.stats.sampling import noise_floor, rounds_of

FREE = 0.3
"""Share of the memory that a group leaves free; what does not fit waits for the next group."""


def interleaved(jobs: Sequence[Job], workers: Workers, anchors: dict[tuple[str, str], Job]) -> Iterator[Event]:
    """Events of jobs of one interleaved measure on one device, in as few groups as fit into memory.

    Args:
        jobs: in the order in which they take turns.
        workers: of the launch.
        anchors: (measure, device) -> a job of them that takes part in every group, so that groups can be compared; the
            first that can be measured is put there where there is none, or where the one that is there cannot be.
    """
    queue = deque(jobs)
    alone: set[str] = set()
    kind = jobs[0].measure.name, jobs[0].cell.device
    while queue:
        group = Group(workers, anchors.get(kind), alone)
        yield from group.run(queue)
        if group.anchor is not None:
            anchors[kind] = group.anchor


class Group:
    """Jobs that are prepared one after the other, and then take turns until each has enough.

    The anchor takes part as two processes. What these differ by is the noise floor of the group, which goes into every
    record of it, as do the anchor's rounds, by which records of different groups are compared
    (`bench.report.claims`). Where the anchor is one of the jobs, that job is the first of the two. What runs out of
    memory beside others is put back, to be tried once more by itself.

    Args:
        workers: of the launch.
        anchor: see `interleaved`; None: the first member.
        alone: keys of the jobs that are to be by themselves; grows.
    """

    def __init__(self, workers: Workers, anchor: Job | None, alone: set[str]) -> None:
        self.workers = workers
        self.anchor = anchor
        self.alone = alone
        self.members: list[Worker] = []
        self.anchors: list[Worker] = []
        self.ended: list[Finished] = []
        self.anchored: dict[int, Finished] = {}
        self.session = f"{datetime.now(UTC).isoformat(timespec='milliseconds')}/{os.getpid()}"

    def run(self, queue: deque[Job]) -> Iterator[Event]:
        """Events of as many jobs of the queue as fit, which it takes off; ends of those that took turns come last."""
        yield from self._prepare(queue)
        yield from self._take_turns(queue)
        yield from self._results()

    def _prepare(self, queue: deque[Job]) -> Iterator[Event]:
        while queue and self._room():
            if queue[0].key in self.alone and self.members:
                return
            job = queue.popleft()
            worker = self.workers.start(job, job.cell.threads)
            yield Started(job)
            for event in self.workers.until_turn(worker):
                if not self._put_back(event, queue, crowded=bool(self.members)):
                    yield event
            if worker.waiting:
                self.members.append(worker)
            if job.key in self.alone:  # nor beside anchors
                return
            if len(self.members) == 1 and not self.anchors:
                # Before the others: what fills the memory must not leave the group without a noise floor.
                self._prepare_anchors(self.members[0])

    def _prepare_anchors(self, first: Worker) -> None:
        """Two processes of the anchor; of the first member, if the anchor that was asked for cannot be measured."""
        for anchor in dict.fromkeys([self.anchor or first.job, first.job]):
            self.anchors = [first] if anchor.key == first.job.key else []
            while len(self.anchors) < 2:
                worker = self.workers.start(anchor, anchor.cell.threads)
                for _ in self.workers.until_turn(worker):
                    pass
                if not worker.waiting:
                    break
                self.anchors.append(worker)
            if len(self.anchors) == 2:
                self.anchor = anchor
                return
            for worker in self.anchors:
                if worker is not first:
                    self.workers.drop(worker)
        self.anchors = []

    def _take_turns(self, queue: deque[Job]) -> Iterator[Event]:
        turning = [*self.members, *(one for one in self.anchors if one not in self.members)]
        everyone = tuple(turning)
        index = 0
        while turning:
            # In another order each time: nobody always follows the same neighbour, or is first after a pause.
            for worker in random.Random(index).sample(turning, len(turning)):  # noqa: S311 - no secret
                others = sum(one.cpu_s for one in everyone if one is not worker)
                worker.grant(index, len(turning), others)
                for event in self.workers.until_turn(worker):
                    if not isinstance(event, Finished):
                        if worker in self.members:
                            yield event
                        continue
                    if worker in self.anchors:
                        self.anchored[self.anchors.index(worker)] = event
                    if worker in self.members and not self._put_back(event, queue, crowded=len(everyone) > 1):
                        self.ended.append(event)
                if not worker.waiting:
                    turning.remove(worker)
            index += 1

    def _put_back(self, event: Event, queue: deque[Job], *, crowded: bool) -> bool:
        """Whether the job ran out of memory beside others for the first time; it then is at the end of the queue."""
        if not isinstance(event, Finished) or event.status != "oom" or not crowded or event.job.key in self.alone:
            return False
        self.alone.add(event.job.key)
        queue.append(event.job)
        return True

    def _results(self) -> Iterator[Finished]:
        """What was found, each with the noise floor and the anchor's rounds."""
        if not self.ended:
            return
        measure = self.ended[0].job.measure
        series = measure.interleaved
        # An anchor in company says nothing of the others' rounds: without it, differences have to be large.
        quiet = [one for one in self.anchored.values() if one.status == "ok" and COMPANY not in one.values]
        pair = [rounds_of(one.samples, series) for one in quiet]
        floor = noise_floor(*pair) if len(pair) == 2 else None
        shared = {
            "session": self.session,
            "cells": len(self.members),
            "anchor": None if self.anchor is None or not self.anchors else anchor_digest(self.anchor.key),
            measure.floor: None if floor is None else 100 * floor,
        }
        names = ("anchor_ms", "twin_ms")
        rounds = {name: list(map(float, one)) for name, one in zip(names, pair, strict=False)}
        medians = {name: [round(value, 4) for value in one.values()] for name, one in zip(names, pair, strict=False)}
        samples = {**medians, **{f"{name}_round": values for name, values in rounds.items()}}
        for event in self.ended:
            measured = bool(event.values)
            yield replace(
                event,
                values={**event.values, **shared} if measured else event.values,
                samples={**event.samples, **samples} if measured else event.samples,
            )

    def _room(self) -> bool:
        """Whether memory is left for one more: this machine's, and the device's."""
        return not self.members or min(_memory_free(), *(one.free for one in (*self.members, *self.anchors))) > FREE


def _memory_free() -> float:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return 1.0
    sizes = {line.partition(":")[0]: int(line.split()[1]) for line in lines if len(line.split()) > 1}
    return sizes.get("MemAvailable", 1) / max(1, sizes.get("MemTotal", 1))
