"""What a node gets next: jobs in bundles, and again those whose node was lost."""

from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile

from bench.launchers.contract import Job
from bench.launchers.local import QUICK_S, _slices

RETRIES = 2
"""How often a job is begun again after its node was lost while it ran."""


@dataclass
class _Lot:
    """Jobs of one kind. whole: they go to one node, which interleaves them. shared: several run at a time on a node."""

    jobs: deque[Job]
    whole: bool = False
    shared: bool = False

    @property
    def device(self) -> str:
        """Its kind, "cpu" or "cuda"; all jobs of a lot have one, as their slices do."""
        return self.jobs[0].cell.device.partition(":")[0] if self.jobs else ""


class Bundles:
    """Jobs in the order of the local launcher, to be taken by nodes that have nothing to do.

    Cells that are interleaved stay together; a node with several cards gets so many such groups, as far as they last
    for all nodes, and times them side by side. Of the others a node gets its part of half of what is left (guided
    self-scheduling, Polychronopoulos and Kuck 1987): large bundles first, and small ones in the end, so that no node
    waits long for the last one.

    Args:
        jobs: of a launch.
        group: most cells that are interleaved with each other.
    """

    def __init__(self, jobs: Sequence[Job], group: int) -> None:
        shared = [job for job in jobs if not job.measure.exclusive]
        self._lots = deque([_Lot(deque(job for job in shared if job.measure.seconds <= QUICK_S), shared=True)])
        for alone, groups in _slices([job for job in jobs if job.measure.exclusive], group):
            if alone:
                self._lots.append(_Lot(deque(alone)))
            self._lots.extend(_Lot(deque(one), whole=True) for one in groups)
        self._lots.append(_Lot(deque(job for job in shared if job.measure.seconds > QUICK_S), shared=True))
        self.losses: dict[str, list[str]] = {}

    @property
    def left(self) -> list[Job]:
        """What nobody has taken."""
        return [job for lot in self._lots for job in lot.jobs]

    def take(self, nodes: int, slots: Mapping[str, int]) -> list[Job]:
        """A bundle for one of so many nodes; empty: there is nothing left.

        Args:
            nodes: that share what is left.
            slots: kind of device ("cpu", "cuda") -> shared jobs that run side by side on the node; of "cuda" its cards.
        """
        while self._lots and not self._lots[0].jobs:
            self._lots.popleft()
        if not self._lots:
            return []
        lot = self._lots[0]
        if lot.whole:
            return self._groups(nodes, slots.get("cuda", 1) if lot.device == "cuda" else 1)
        least = slots.get(lot.device, 1) if lot.shared else 1
        count = min(len(lot.jobs), max(least, -(-len(lot.jobs) // (2 * nodes))))
        return [lot.jobs.popleft() for _ in range(count)]

    def _groups(self, nodes: int, cards: int) -> list[Job]:
        """The next groups, as many as a node can time at once and not more than its share of those in a row."""
        device = self._lots[0].device
        row = len(list(takewhile(lambda lot: lot.whole and lot.device == device, self._lots)))
        count = min(cards, -(-row // nodes))
        return [job for _ in range(count) for job in self._lots.popleft().jobs]

    def put_back(self, jobs: Sequence[Job], running: Collection[str], node: str) -> list[Job]:
        """Take back what a lost node has not ended; those of it that are given up.

        What ran there may be why it was lost: the last time, each such job is tried in a bundle of its own.

        Args:
            jobs: of the node's bundle that have not ended.
            running: keys of those that had begun.
            node: its name.
        """
        ran = [job for job in jobs if job.key in running]
        for job in ran:
            self.losses.setdefault(job.key, []).append(node)
        given_up = {job.key for job in ran if len(self.losses[job.key]) > RETRIES}
        last = {job.key for job in ran if len(self.losses[job.key]) == RETRIES}
        self._lots.extendleft(_Lot(deque([job])) for job in reversed(ran) if job.key in last)
        if others := deque(job for job in jobs if job.key not in given_up | last):
            first = others[0].measure
            self._lots.appendleft(_Lot(others, whole=bool(first.interleaved), shared=not first.exclusive))
        return [job for job in ran if job.key in given_up]
