"""Which of a machine's cards (`bench.plan.cards`) a job runs on, and beside what."""

import time
from collections.abc import Iterator, Sequence

from bench.launchers._worker import Worker
from bench.launchers.contract import Job, Said
from bench.plan import cards
from bench.plan.cards import Card

FREE = 0.3
"""Share of the memory that is left free: by a group of cells that take turns, and by trainings that share a card."""
STEPS = 2
"""Of training, after which it has been seen how much memory it needs."""
ASK_S = 5.0
"""How often at most a card is asked for its free memory."""
CPUS = 2
"""That a training on a card needs at least: one drives the card, one makes batches."""


def on_cpu(job: Job) -> bool:
    """Whether a job computes on the CPU, as one does whose number depends on no device."""
    return job.cell.device == "cpu" or "device" not in job.measure.fields


class Pool:
    """The cards that a run uses.

    Args:
        used: all of one kind; none where cells run on no NVIDIA GPU, or nvidia-smi is not there to tell.
    """

    def __init__(self, used: Sequence[Card] = ()) -> None:
        self.used = tuple(used)
        self._free: dict[str, tuple[float, float | None]] = {}
        self._said: set[str] = set()

    @staticmethod
    def of(jobs: Sequence[Job]) -> "Pool":
        """For these jobs; nvidia-smi is asked only if one of them is for a GPU."""
        return Pool(cards.look().used if any(_kind(job) == "cuda" for job in jobs) else ())

    def fit(self, job: Job) -> tuple[Card | None, ...]:
        """The cards that a job may run on; (None,): where its device's name alone says it."""
        kind, _, index = job.cell.device.partition(":")
        if kind != "cuda" or on_cpu(job) or not self.used:
            return (None,)
        if not index:
            return self.used
        return self.used[int(index) : int(index) + 1] or (None,)

    def boards(self, job: Job) -> tuple[Card | None, ...]:
        """Those on which it may be timed while others are: of a sliced GPU one slice, for slices share its clock."""
        first: dict[str | None, Card | None] = {}
        for card in self.fit(job):
            first.setdefault(None if card is None else card.board, card)
        return tuple(first.values())

    def visible(self, job: Job) -> str:
        """UUIDs that its process sees, where it is more than its card: an index counts among all that are used."""
        return ",".join(card.uuid for card in self.used) if job.cell.device.startswith("cuda:") else ""

    def notes(self, job: Job, card: Card | None) -> Iterator[Said]:
        """What there is to say of a card before cells take turns on it."""
        if card is not None and card.lone and card.uuid not in self._said:
            self._said.add(card.uuid)
            yield Said(
                job,
                f"{card.short()} is in exclusive-process mode: cells are timed one by one, without the twin that a "
                "noise floor is made of, so that no difference between them is claimed (nvidia-smi -c 0 allows groups)",
            )

    def place(self, job: Job, running: Sequence[Worker], cpus: int, single: set[str]) -> tuple[Card | None] | None:
        """The card on which a shared job may start now; None: none.

        It is the one with the fewest jobs. A training joins others where memory allows, any other job has a card to
        itself: it looks at that card's memory.

        Args:
            job: see `fit`.
            running: workers.
            cpus: that the process may use.
            single: keys of jobs that want a card to themselves.
        """
        here = {card: [one for one in running if not on_cpu(one.job) and one.card == card] for card in self.fit(job)}
        for card, others in sorted(here.items(), key=lambda item: len(item[1])):
            if not others:
                return (card,)
            if job.key in single or any(one.job.key in single for one in others):
                continue
            many = sum(not on_cpu(one.job) for one in running)
            if CPUS * (many + 1) <= cpus and self._joins(job, others, card):
                return (card,)
        return None

    def _joins(self, job: Job, others: Sequence[Worker], card: Card | None) -> bool:
        """Whether the card's memory has room for one more like those that train there."""
        if card is None or card.lone or not all(one.measure.trains for one in (job, *(w.job for w in others))):
            return False
        if any(one.trained < STEPS for one in others):  # nobody knows yet what it needs
            return False
        free = self._free_of(card)
        return free is not None and free - (1 - free) / len(others) > FREE

    def _free_of(self, card: Card) -> float | None:
        now = time.monotonic()
        asked, free = self._free.get(card.uuid, (-ASK_S, None))
        if now - asked >= ASK_S:
            asked, free = now, cards.free(card)
            self._free[card.uuid] = asked, free
        return free


def _kind(job: Job) -> str:
    return job.cell.device.partition(":")[0]
