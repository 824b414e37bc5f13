"""Cells that are measured in rounds: A B C, A B C, ..., each by a process that keeps its model loaded."""

import os
import random
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from bench.launchers._calibrate import Calibration
from bench.launchers._cards import FREE, Pool
from bench.launchers._worker import Worker, Workers
from bench.launchers.contract import Event, Finished, Job, Started, anchor_digest
from bench.plan.cards import Card
from bench.plan.measure import COMPANY, Value
from bench.stats.sampling import noise_floor, rounds_of


def interleaved(
    jobs: Sequence[Job],
    workers: Workers,
    anchors: dict[tuple[str, str], Job],
    pool: Pool,
    calibration: Calibration,
) -> Iterator[Event]:
    """Events of jobs of one interleaved measure on one device, in as few groups as fit into memory.

    Several cards have a group each: these are prepared side by side, and timed side by side where the calibration
    allows it, else one card after the other.

    Args:
        jobs: in the order in which they take turns.
        workers: of the launch.
        anchors: (measure, device) -> a job of them that takes part in every group, so that groups can be compared; the
            first that can be measured is put there where there is none, or where the one that is there cannot be.
        pool: cards.
        calibration: whether groups may be timed beside others.
    """
    cards = pool.boards(jobs[0])
    size = workers.settings.group
    left = [deque(jobs[start : start + size]) for start in range(0, len(jobs), size)]
    alone: set[str] = set()
    kind = jobs[0].measure.name, jobs[0].cell.device
    while left:
        queues, left = left[: len(cards)], left[len(cards) :]
        many = len(queues) > 1
        together = many and (yield from calibration.allows(list(jobs), [card for card in cards if card is not None]))
        # Those that start at once have to be told which job ties them.
        anchor = anchors.get(kind, jobs[0] if many else None)
        groups = [Group(workers, anchor, alone, card, pool) for card, _ in zip(cards, queues, strict=False)]
        pairs = list(zip(groups, queues, strict=True))
        yield from workers.together([group.prepare(queue) for group, queue in pairs])
        beside = calibration.values(jobs[0], len(groups)) if together else {}
        turns = [group.take_turns(queue) for group, queue in pairs]
        for lanes in [turns] if together else [[one] for one in turns]:
            yield from workers.together(lanes)
        for group in groups:
            yield from group.results(beside)
        tied = next((group.anchor for group in groups if group.anchors), groups[0].anchor)
        if tied is not None:
            anchors[kind] = tied
        left = [queue for queue in queues if queue] + left


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
        card: that they run on; None: as their device's name says.
        pool: that it is of.
    """

    def __init__(
        self, workers: Workers, anchor: Job | None, alone: set[str], card: Card | None = None, pool: Pool | None = None
    ) -> None:
        self.workers = workers
        self.card = card
        self.pool = pool or Pool()
        self.anchor = anchor
        self.alone = alone
        self.members: list[Worker] = []
        self.anchors: list[Worker] = []
        self.ended: list[Finished] = []
        self.anchored: dict[int, Finished] = {}
        self.session = f"{datetime.now(UTC).isoformat(timespec='milliseconds')}/{os.getpid()}"

    def prepare(self, queue: deque[Job]) -> Iterator[Event | None]:
        """Start as many jobs of the queue as fit, which it takes off, one after the other until each is warmed up.

        None: there is nothing to do until a worker says something; see `Workers.together`.
        """
        if queue:
            yield from self.pool.notes(queue[0], self.card)
        while queue and self._room():
            if queue[0].key in self.alone and self.members:
                return
            job = queue.popleft()
            worker = self._start(job)
            yield Started(job)
            for event in self.workers.until_turn(worker):
                if event is None or not self._put_back(event, queue, crowded=bool(self.members)):
                    yield event
            if worker.waiting:
                self.members.append(worker)
            if job.key in self.alone or self._lone:  # nor beside anchors
                return
            if len(self.members) == 1 and not self.anchors:
                # Before the others: what fills the memory must not leave the group without a noise floor.
                yield from self._prepare_anchors(self.members[0])

    @property
    def _lone(self) -> bool:
        """Whether one process at a time may use the card, so that there can be neither neighbours nor a twin."""
        return self.card is not None and self.card.lone

    def _start(self, job: Job) -> Worker:
        return self.workers.start(job, job.cell.threads, self.card, self.pool.visible(job))

    def _prepare_anchors(self, first: Worker) -> Iterator[None]:
        """Two processes of the anchor; of the first member, if the anchor that was asked for cannot be measured."""
        for anchor in dict.fromkeys([self.anchor or first.job, first.job]):
            self.anchors = [first] if anchor.key == first.job.key else []
            while len(self.anchors) < 2:
                worker = self._start(anchor)
                for event in self.workers.until_turn(worker):
                    if event is None:
                        yield None
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

    def take_turns(self, queue: deque[Job]) -> Iterator[Event | None]:
        """Round after round, until each has enough; those that ran out of memory beside others go to the queue."""
        turning = [*self.members, *(one for one in self.anchors if one not in self.members)]
        crowded = len(turning) > 1
        index = 0
        while turning:
            # In another order each time: nobody always follows the same neighbour, or is first after a pause.
            for worker in random.Random(index).sample(turning, len(turning)):  # noqa: S311 - no secret
                # On other cards, too: it is no stranger's.
                worker.grant(index, len(turning), self.workers.cpu_s - worker.cpu_s)
                for event in self.workers.until_turn(worker):
                    if not isinstance(event, Finished):
                        if event is None or worker in self.members:
                            yield event
                        continue
                    if worker in self.anchors:
                        self.anchored[self.anchors.index(worker)] = event
                    if worker in self.members and not self._put_back(event, queue, crowded=crowded):
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

    def results(self, beside: Mapping[str, Value]) -> Iterator[Finished]:
        """What was found, each with the noise floor, the anchor's rounds, and what there is to say of other cards."""
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
            **beside,
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
        """Whether memory is left for one more: this machine's, and the device's.

        What a member was seen to need it takes again in its first turn. On a CPU it gives it back after each, so that
        one has it at a time; on a device it keeps it.
        """
        here = [*self.members, *(one for one in self.anchors if one not in self.members)]
        if not here:
            return True
        needs = [one.need for one in here]
        if here[0].job.cell.device == "cpu":
            return _memory_free() - max(needs) > FREE
        last = max(here, key=lambda one: one.heard)
        return min(_memory_free(), last.free - sum(needs)) > FREE


def _memory_free() -> float:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return 1.0
    sizes = {line.partition(":")[0]: int(line.split()[1]) for line in lines if len(line.split()) > 1}
    return sizes.get("MemAvailable", 1) / max(1, sizes.get("MemTotal", 1))
