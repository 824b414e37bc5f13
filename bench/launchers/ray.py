"""Cells on the nodes of a Ray cluster: each node is reserved whole and runs the local launcher; this process writes.

A node that has nothing to do gets a bundle of jobs (`bench.launchers._bundles`), and sends their events and files back
as they come. So a group of interleaved cells stays on one node, what needs the machine to itself has all of it, and
cells that may share one share it as they do locally. Jobs of a node that is lost go to others.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

from bench.errors import UserError, remark
from bench.launchers import _bring, _cluster, _node
from bench.launchers._bundles import Bundles
from bench.launchers.contract import Event, Finished, Job, Machine, Progress, Said, Settings, Started
from bench.plan.measure import NODE
from bench.store import pictures

CATALOGUE = {"ray": {"doc": "the nodes of a Ray cluster, each as the local launcher", "machines": True}}

POLL_S = 0.5
LOOK_S = 5.0
"""Between two looks for nodes that have joined."""
ROOM_S = 30.0
"""That a node may take to make room before it is said that it has none."""
PATIENCE_S = 60.0
"""That a run without any node waits for one to come."""
FAILURES = 3
"""Attempts to begin on a node, after which it is left."""


def machines(address: str) -> list[Machine]:
    """What the cluster's nodes are; those that are comparable are one, and those without CPUs for tasks are none.

    Raises:
        UserError: there is no such cluster, or a node cannot take part; names it.
    """
    kinds: dict[str, tuple[_node.About, list[str]]] = {}
    hosts: dict[str, list[str]] = {}
    for node, about in _cluster.Cluster(address).about():
        kinds.setdefault(about.environment.comparable, (about, []))[1].append(node.name)
        hosts.setdefault(about.boot or node.id, []).append(node.name)
    for names in hosts.values():
        if len(names) > 1:
            remark(f"nodes {', '.join(names)} are one machine: what is timed on one has the others for company")
    return [Machine(about.environment, tuple(names)) for about, names in kinds.values()]


def launch(jobs: Sequence[Job], settings: Settings) -> Iterator[Event]:
    """Events of all nodes as they come.

    Raises:
        UserError: there is no such cluster, a node lacks what the jobs need, or no node is left.
    """
    crew = _Crew(_cluster.Cluster(settings.address), jobs, settings)
    try:
        yield from crew.work()
    finally:
        crew.dismiss()


@dataclass
class _Hand:
    """A node that takes part.

    node: what the cluster knows of it. waits: for the answer to this: who it is (``about`` is None until then), or
    whether it is there for us alone (``agent`` is not None from then on). stream: events of its bundle; None: it has
    nothing to do. bundle: key -> job, of those that have not ended. running: key -> when it began, of those that have.
    """

    node: _cluster.Node
    waits: Any = None
    since: float = field(default_factory=time.monotonic)
    about: _node.About | None = None
    agent: Any = None
    ready: bool = False
    stream: Any = None
    bundle: dict[str, Job] = field(default_factory=dict)
    running: dict[str, float] = field(default_factory=dict)


class _Crew:
    """The nodes of a launch, and who does what."""

    def __init__(self, cluster: _cluster.Cluster, jobs: Sequence[Job], settings: Settings) -> None:
        self.cluster, self.settings = cluster, settings
        self.bundles = Bundles(jobs, settings.group)
        self.jobs = {job.key: job for job in jobs}
        self.needs = _node.needs(jobs)
        self.anchors = dict(settings.anchors)
        self.hands: list[_Hand] = []
        self.failures: dict[str, int] = {}
        self.strangers: set[str] = set()
        self.looked = -LOOK_S
        self.alone: float | None = None
        self.why = "none has joined"

    def work(self) -> Iterator[Event]:
        """Until all jobs have ended.

        Raises:
            UserError: as for `launch`.
        """
        while self.bundles.left or any(hand.bundle for hand in self.hands):
            self._hire()
            for hand in self.hands:
                if hand.ready and hand.stream is None:
                    self._give(hand)
            waited = {hand.waits if hand.stream is None else hand.stream: hand for hand in self.hands}
            waited.pop(None, None)
            for one in self.cluster.ready(list(waited), POLL_S):
                yield from self._heard(waited[one])
            if not self.hands:
                yield from self._nobody()
            else:
                self.alone = None

    def dismiss(self) -> None:
        """End what still runs on the nodes."""
        for hand in self.hands:
            self.cluster.end(hand.agent)

    def _hire(self) -> None:
        """Ask nodes that are new who they are."""
        if time.monotonic() - self.looked < LOOK_S:
            return
        self.looked = time.monotonic()
        known = {hand.node.id for hand in self.hands} | self.strangers
        for node in self.cluster.nodes():
            if node.id not in known and self.failures.get(node.id, 0) < FAILURES:
                self.hands.append(_Hand(node, self.cluster.meet(node, self.needs)))
        for hand in self.hands:
            if hand.about is not None and not hand.ready and time.monotonic() - hand.since > ROOM_S:
                remark(f"node {hand.node.name} has no room yet: others use its CPUs or GPUs, or it is starting")

    def _give(self, hand: _Hand) -> None:
        assert hand.about is not None, "it is ready"
        slots = {"cpu": hand.about.environment.cores, "cuda": max(1, int(hand.node.gpus))}
        bundle = self.bundles.take(len(self.hands), slots)
        if not bundle:
            return
        for job in bundle:  # the first of a kind is the anchor of all groups, on whichever node
            if job.measure.interleaved:
                self.anchors.setdefault((job.measure.name, job.cell.device), job)
        hand.bundle, hand.running, hand.waits = {job.key: job for job in bundle}, {}, None
        hand.stream = self.cluster.run(hand.agent, bundle, replace(self.settings, anchors=self.anchors))

    def _heard(self, hand: _Hand) -> Iterator[Event]:
        """What a node has to say."""
        try:
            if hand.stream is not None:
                sent = self.cluster.next(hand.stream)
                yield from self._events(hand, sent)
            elif hand.about is None:
                self._met(hand, self.cluster.answer(hand.waits))
            else:
                self.cluster.answer(hand.waits)
                hand.ready, hand.waits = True, None
        except _cluster.Lost as lost:
            yield from self._lost(hand, str(lost))

    def _met(self, hand: _Hand, answer: tuple[_node.About, str]) -> None:
        """Reserve a node that is of our kind and has what we need.

        Raises:
            UserError: it was there from the start, and has not.
        """
        about, lacks = answer
        if self.settings.comparable not in ("", about.environment.comparable):
            self.hands.remove(hand)
            self.strangers.add(hand.node.id)
            return
        if why := _cluster.differs(about) or lacks:
            self.hands.remove(hand)
            self.strangers.add(hand.node.id)
            if not any(other.ready for other in self.hands):
                raise UserError(f"node {hand.node.name}: {why}")
            remark(f"node {hand.node.name} has joined and is not used: {why}")
            return
        hand.about, hand.since = about, time.monotonic()
        hand.agent = self.cluster.reserve(hand.node)
        hand.waits = self.cluster.arrived(hand.agent)

    def _events(self, hand: _Hand, sent: _node.Batch | None) -> Iterator[Event]:
        """Events of one batch, with our own jobs in them; None: the bundle is done."""
        if sent is None:
            hand.stream = None
            if hand.bundle:  # none of our own launchers leaves any out
                raise _cluster.Lost("it ended without all results")
            return
        failed = _bring.home(sent.files, self.settings)
        for event in sent.events:
            job = self.jobs.get(event.job.key)
            if job is None:
                continue
            own = replace(event, job=job)
            if isinstance(own, Started):
                hand.running[job.key] = time.monotonic()
            elif isinstance(own, Finished):
                own = _of(_bring.without(own, failed), hand.node)
                hand.bundle.pop(job.key, None)
                hand.running.pop(job.key, None)
                self.failures.pop(hand.node.id, None)
            yield own
            if isinstance(own, Finished) and (why := failed.get(pictures.FOLDER)):
                remark(f"prediction pictures: {why}")

    def _lost(self, hand: _Hand, why: str) -> Iterator[Event]:
        """A node ended, or its process: what it has not done is for others."""
        self.hands.remove(hand)
        self.cluster.end(hand.agent)
        name = hand.node.name
        if not hand.running:  # what jobs do to it is counted of them
            self.failures[hand.node.id] = self.failures.get(hand.node.id, 0) + 1
        self.why = f"the last one, {name}, was lost: {why}"
        unfinished = list(hand.bundle.values())
        given_up = self.bundles.put_back(unfinished, hand.running, name)
        for job in unfinished:
            if job.key not in hand.running:
                continue
            since = hand.running[job.key]
            if job in given_up:
                yield self._given_up(job, why, time.monotonic() - since)
            else:
                yield Said(job, f"its node {name} was lost ({why}); it is tried again")
                yield Progress(job, f"node {name} was lost, waiting for another", 0, 1)
        if not unfinished:
            remark(f"node {name} was lost ({why})")

    def _given_up(self, job: Job, why: str, ran_s: float = 0.0) -> Finished:
        names = self.bundles.losses[job.key]
        times = "once" if len(names) == 1 else f"{len(names)} times"
        reason = f"its node was lost {times} while it ran ({', '.join(names)}); at last: {why}"
        started = datetime.now(UTC).isoformat(timespec="seconds")
        return Finished(job, "error", reason, started, ran_s)

    def _nobody(self) -> Iterator[Event]:
        """There is no node; after a while there will be none.

        Raises:
            UserError: then.
        """
        self.alone = self.alone or time.monotonic()
        if time.monotonic() - self.alone < PATIENCE_S:
            time.sleep(POLL_S)
            return
        left = self.bundles.left
        for job in left:
            if job.key in self.bundles.losses:
                yield self._given_up(job, f"{self.why}; no other has come")
        missing = sum(job.key not in self.bundles.losses for job in left)
        raise UserError(
            f"no node of the cluster is left to measure ({self.why}); {missing} measurements are missing, what was "
            "measured is kept: the same command goes on where it stopped"
        )


def _of(event: Finished, node: _cluster.Node) -> Finished:
    """An event that says on which node its group was timed, whose session is no other node's.

    Two may begin in one moment, by processes of one id.
    """
    if "session" not in event.values:
        return event
    name = sha256(node.name.encode()).hexdigest()[:8]
    return replace(event, values={**event.values, "session": f"{event.values['session']}/{name}", NODE: name})
