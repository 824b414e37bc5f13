"""Whether cells that are timed on several cards at once disturb each other: measured, before it is done.

Cards share a host: its cores, its memory, its buses, and the driver's locks. Who waits for the host most feels that
first, so the cell with the least work for its card is taken: a process of it on the first card has its turn alone, then
again while processes of it on all other cards are at work, and so on. If its passes then take another time than alone
by more than two processes of it on one card differ by (the noise floor), cells are timed on one card at a time; so
they are where that cannot be measured, and where others use the host.

It lasts some seconds: what takes longer to come, such as the heat of eight cards, it does not see. Every round says
whether the clock was held down.
"""

import math
import os
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field

from bench.launchers._worker import Worker, Workers
from bench.launchers.contract import Event, Finished, Job, Said
from bench.plan.cards import Card
from bench.plan.environment import busy
from bench.plan.measure import CARDS, CARDS_PCT, Precision, Value
from bench.stats.sampling import noise_floor, ratio, rounds_of

BUDGET_S = 2.0
"""Of timing on the first card, half of it alone."""
OTHERS, OTHERS_SHARE = 0.5, 0.02
"""Cores, and share of all, that other processes may keep busy: on a restless host the noise floor would hide it all."""
_NEVER = 1e-9
"""A precision that no series reaches."""
_ENDLESS_S = 1e9

Steps = Generator[Event | None, None, None]


@dataclass(frozen=True)
class Verdict:
    """What was found of a measure.

    fine: whether groups may be timed side by side. pct: how much longer a pass takes beside the others. said: the whole
    in a sentence.
    """

    fine: bool
    pct: float | None
    said: str


@dataclass
class _Taken:
    """The processes of a calibration, and what those on the first card have found."""

    first: Worker
    twin: Worker
    others: list[Worker]
    found: dict[int, Finished] = field(default_factory=dict)


class Calibration:
    """Verdicts of a launch, one a measure and device, of all its cards.

    Args:
        workers: of the launch.
    """

    def __init__(self, workers: Workers) -> None:
        self.workers = workers
        self._known: dict[tuple[str, str], Verdict] = {}

    def allows(self, jobs: Sequence[Job], cards: Sequence[Card]) -> Generator[Event, None, bool]:
        """Whether cells of a measure may be timed on these cards at once; measured where it is not known yet."""
        key = jobs[0].measure.name, jobs[0].cell.device
        if key not in self._known:
            job = min(jobs, key=_work)
            self._known[key] = yield from self._measured(job, cards)
            yield Said(job, self._known[key].said)
        return self._known[key].fine

    def values(self, job: Job, cards: int) -> Mapping[str, Value]:
        """What records say of having been timed beside others."""
        verdict = self._known[job.measure.name, job.cell.device]
        return {CARDS: cards, CARDS_PCT: None if verdict.pct is None else round(verdict.pct, 3)}

    def _measured(self, job: Job, cards: Sequence[Card]) -> Generator[Event, None, Verdict]:
        if any(card.lone for card in cards):
            return Verdict(False, None, _one_at_a_time("in exclusive-process mode there is no twin to compare with"))
        if (others := busy()) is not None and others > max(OTHERS, OTHERS_SHARE * (os.cpu_count() or 1)):
            return Verdict(False, None, _one_at_a_time(f"other processes keep {others:.1f} cores of the host busy"))
        quick = Precision(_NEVER, BUDGET_S, "allow")
        try:
            taken = _Taken(
                self._start(job, cards[0], quick),
                self._start(job, cards[0], Precision(_NEVER, BUDGET_S / 2, "allow")),
                [self._start(job, card, Precision(_NEVER, _ENDLESS_S, "allow")) for card in cards[1:]],
            )
            yield from self.workers.together([self._turns(taken)])
        finally:
            for worker in tuple(self.workers.running):
                self.workers.drop(worker)
        return _judged(taken, job, len(cards))

    def _start(self, job: Job, card: Card, precision: Precision) -> Worker:
        return self.workers.start(job, job.cell.threads, card, precision=precision)

    def _turns(self, taken: _Taken) -> Steps:
        """Rounds until both on the first card have ended, or one of the others: even ones alone, odd ones beside."""
        for worker in (taken.first, taken.twin, *taken.others):
            yield from self._heard(worker, taken)
        index = 0
        while all(one.waiting for one in taken.others) and (taken.first.waiting or taken.twin.waiting):
            if taken.first.waiting:
                for other in taken.others if index % 2 else ():
                    other.grant(index, 1)
                taken.first.grant(index, 2)
                yield from self._beside(taken)
            if taken.twin.waiting and index % 2 == 0:
                taken.twin.grant(index, 2)
                yield from self._heard(taken.twin, taken)
            for other in taken.others:
                yield from self._heard(other, taken)
            index += 1

    def _beside(self, taken: _Taken) -> Steps:
        """The first one's turn; where others have theirs, they go on as long as it lasts."""
        at_work = [one for one in taken.others if not one.waiting]
        for event in self.workers.until_turn(taken.first):
            if isinstance(event, Finished):
                taken.found[0] = event
            for other in at_work:
                if other in self.workers.running:
                    _ = [*self.workers.events(other)]
                if other.waiting and not taken.first.waiting:
                    other.grant(other.turns, 1)
            if event is None:
                yield None

    def _heard(self, worker: Worker, taken: _Taken) -> Steps:
        """Until a worker waits for its next turn or has ended."""
        for event in self.workers.until_turn(worker):
            if event is None:
                yield None
            elif isinstance(event, Finished) and worker is taken.twin:
                taken.found[1] = event


def _judged(taken: _Taken, job: Job, cards: int) -> Verdict:
    ends = [taken.found.get(index) for index in (0, 1)]
    series = job.measure.interleaved
    whole = len(ends) == 2 and all(one is not None and one.status == "ok" for one in ends)
    if not whole or not all(one.waiting for one in taken.others):
        return Verdict(False, None, _one_at_a_time("whether they disturb each other could not be measured"))
    first, twin = (rounds_of(one.samples, series) for one in ends if one is not None)
    floor = noise_floor({index: ms for index, ms in first.items() if index % 2 == 0}, twin)
    alone = {index + 1: ms for index, ms in first.items() if index % 2 == 0}
    beside = {index: ms for index, ms in first.items() if index % 2}
    slower = ratio(beside, alone)
    if floor is None or slower is None:
        return Verdict(False, None, _one_at_a_time("too few rounds tell whether they disturb each other"))
    pct = 100 * (slower.value - 1)
    said = f"beside {cards - 1} more a pass takes {pct:+.1f} % of its time alone (noise floor {100 * floor:.1f} %)"
    if abs(math.log(slower.value)) > floor:
        return Verdict(False, pct, _one_at_a_time(said))
    return Verdict(True, pct, f"cells are timed on {cards} GPUs at once: {said}")


def _one_at_a_time(why: str) -> str:
    return f"cells are timed on one GPU at a time: {why}"


def _work(job: Job) -> int:
    """About how much a pass has to do on the card."""
    cell = job.cell
    return cell.batch * cell.height * cell.width // cell.patch**2
