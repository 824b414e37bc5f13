"""What a machine's records say of a plan, from one pass: of a million records, the few that it needs are kept."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from functools import cache
from operator import itemgetter
from typing import Any, TypeAlias

from bench import catalogue
from bench.launchers.contract import Job, anchor_digest
from bench.plan import recipe, source, weights
from bench.plan.environment import Environment
from bench.plan.measure import Measure, measures
from bench.store import listings
from bench.store.record import Record, better
from bench.store.store import Store, no_collection, say_lost

Key: TypeAlias = tuple[Any, ...]
"""What `Record.key` tells apart, made in a fraction of its time."""


def key(measure: Measure, fields: Mapping[str, Any], inputs: Mapping[str, str]) -> Key:
    """Equal for equal questions of today's version of a measure, which has all its fields."""
    return measure.name, measure.version, _values(measure)(fields), frozenset(inputs.items())


@cache
def _values(measure: Measure) -> Any:
    return itemgetter(*measure.fields)


class Known:
    """What the records of a store say.

    Only those of environments that are comparable to one of them count.

    Args:
        store: is read once.
        environment: where the plan is measured.
        wanted: questions of the plan.

    Attributes:
        anchors: see `Anchors`.
        silent: of what there are trainings that do not say which files they saw (`bench.store.listings.silent`).

    Raises:
        UserError: a file cannot be read.
    """

    def __init__(self, store: Store, environment: Environment, wanted: Collection[Key]) -> None:
        described = {name: one.comparable for name, one in store.environments().items()}
        described[environment.id] = environment.comparable  # its line may be lost; a run writes it again
        comparable = {name for name, one in described.items() if one == environment.comparable}
        self.anchors = Anchors()
        self._best: dict[Key, Record] = {}
        self._newest: dict[Key, str] = {}
        silent: dict[tuple[Any, Any], Record] = {}
        where: Counter[str] = Counter()
        known = {name: (one, frozenset(one.fields)) for name, one in measures().items()}
        with no_collection():
            for record in store.stream():
                where[record.environment] += 1
                if listings.INPUT not in record.inputs and "seed" in record.fields:
                    silent.setdefault((record.fields.get("head"), record.fields.get("dataset")), record)
                measure, fields = known.get(record.measure, (None, frozenset[str]()))
                if measure is None or record.environment not in comparable:
                    continue
                if record.version == measure.version and record.fields.keys() == fields:
                    self._see(record, key(measure, record.fields, record.inputs), wanted)
        self.silent = listings.silent(silent.values())
        say_lost(store.folder, where, described)

    def _see(self, record: Record, asked: Key, wanted: Collection[Key]) -> None:
        self.anchors.see(record)
        if asked in wanted:
            self._newest[asked] = max(self._newest.get(asked, ""), record.began)
            before = self._best.get(asked)
            if before is None or better(record, before):
                self._best[asked] = record

    def answer(self, asked: Key) -> Record | None:
        """The record that answers one of the questions that were wanted."""
        return self._best.get(asked)

    def newest(self, asked: Iterable[Key]) -> str:
        """When the last record of these questions began, which need not answer them; "" without one."""
        return max((self._newest.get(one, "") for one in asked), default="")


class Anchors:
    """The cells that records of interleaved measures were timed beside, and how many were beside which."""

    def __init__(self, records: Iterable[Record] = ()) -> None:
        self._used: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
        self._records: dict[str, Record] = {}
        self._unknown: set[str] = set()
        self._today: dict[tuple[Any, Any], tuple[dict[str, str], bool]] = {}
        for record in records:
            self.see(record)

    def see(self, record: Record) -> None:
        """Count one."""
        measure = measures().get(record.measure)
        digest = record.values.get("anchor")
        if measure is None or not measure.interleaved or record.status != "ok" or not isinstance(digest, str):
            return
        if record.version != measure.version or not self._as_today(record):
            return
        self._used[record.measure, record.fields["device"]][digest] += 1
        if digest not in self._records:
            self._unknown.add(digest)
        if self._unknown:  # a session's first cell is its anchor, so that mostly none is
            own = anchor_digest(record.key)
            if own in self._unknown:
                self._unknown.remove(own)
                self._records[own] = record

    def _as_today(self, record: Record) -> bool:
        """Whether its network is built as today: one of another source would be another, and one without norms."""
        pair = record.fields.get("backbone"), record.fields.get("head")
        if pair not in self._today:
            said = source.said(record.fields)
            self._today[pair] = said, catalogue.normed(record.fields)
        return self._today[pair] == (source.of(record.inputs), "levels" in record.inputs)

    def of(self, jobs: Iterable[Job]) -> dict[tuple[str, str], Job]:
        """For each interleaved measure and device of these jobs: the job that most records were anchored to.

        With it as anchor again, what is timed today is tied to what was timed before (`bench.report.claims`).
        """
        found: dict[tuple[str, str], Job] = {}
        for job in jobs:
            kind = job.measure.name, job.cell.device
            if job.measure.interleaved and kind not in found:
                anchors = (self._records.get(digest) for digest, _ in self._used[kind].most_common())
                anchored = (_again(record, job) for record in anchors if record is not None)
                if (one := next((one for one in anchored if one is not None), None)) is not None:
                    found[kind] = one
        return found


def _again(record: Record, job: Job) -> Job | None:
    """A job that times a record's cell again beside another job; None: what it takes is not known here."""
    # Of a data set on disk only the folder that is named now is known.
    entry = catalogue.entries("data").get(record.fields["dataset"].partition(":")[0])  # it may be gone since
    embedded = entry is not None and not entry.facts["root"]
    if not (embedded or record.fields["dataset"] == job.cell.dataset):
        return None
    of = record.fields.get("weights", job.cell.weights)
    if of.startswith(weights.TRAINED) and of != job.cell.weights:  # nor of a kept model that this job has no use for
        return None
    # Of the user's own recipes likewise.
    same = record.fields.get("recipe", job.cell.recipe) == job.cell.recipe
    if not same and record.fields["recipe"] not in recipe.names():
        return None
    cell, root = replace(job.cell, **record.fields), None if embedded else job.root
    stated, data = job.recipe if same else None, "" if embedded else job.data
    return replace(job, cell=cell, key=record.key, root=root, recipe=stated, data=data)
