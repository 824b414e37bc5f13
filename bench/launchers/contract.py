"""What a launcher promises: jobs in, events out, one process a job.

A launcher is one file beside this one, free of torch, with a literal ``CATALOGUE`` and a generator function
``launch(jobs, settings) -> Iterator[Event]``. It may run jobs in any order and several at a time; a job whose measure
is ``exclusive`` must have the device to itself. Jobs of an ``interleaved`` measure take turns
(`bench.plan.measure.Turn`) in rounds, one of them twice, and the events that end them say which ``session`` they shared
and its ``noise_floor_pct``. Closing the generator ends what still runs.

Jobs run on this machine, unless the launcher's ``CATALOGUE`` states ``"machines": True``. It then has a function
``machines(address) -> list[Machine]``, runs jobs on the nodes that are comparable to `Settings.comparable`, says in
`Finished.environment` where each ran, and brings files that a measure writes into the folders of the settings.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.plan import runtimes
from bench.plan.cell import SILENT, Cell, agrees
from bench.plan.environment import Environment
from bench.plan.measure import Measure, Precision, Value
from bench.plan.recipe import Recipe
from bench.store import states
from bench.store.record import question


@dataclass(frozen=True)
class Job:
    """One measurement to make: a measure on a cell.

    recipe: what it states, where its name in the cell stands for a file of the user's. data: what the record says of
    the data set beyond its name. without: pictures that are left out of training. vary: fields beyond the cell's title
    that differ within the plan, and so belong to this job's title. trained: the file of a kept model, where the cell's
    weights are of one. listing: digest of the files that a training sees; "" where none lie on disk.
    """

    measure: Measure
    cell: Cell
    root: Path | None
    key: str
    vary: tuple[str, ...] = ()
    recipe: Recipe | None = None
    data: str = ""
    without: tuple[str, ...] = ()
    trained: Path | None = None
    listing: str = ""

    @property
    def training(self) -> str:
        """The question that its training answers, which is the same whatever executes the model afterwards."""
        if not self.measure.trains or agrees(self.cell, SILENT):
            return self.key
        measure, version, fields, inputs = json.loads(self.key)
        alike = {name: text for name, text in inputs.items() if name != runtimes.INPUT}
        return question(measure, version, {**fields, **SILENT}, alike)

    @property
    def shares(self) -> bool:
        """Whether others of its plan, or of another, take the weights of its training."""
        varies = not SILENT.keys().isdisjoint(self.vary) or not agrees(self.cell, SILENT)
        return varies and self.measure.trains and SILENT.keys() <= set(self.measure.fields)

    def title(self) -> str:
        """Short text for people, different for every job of a plan."""
        if "backbone" not in self.measure.fields:  # of the machine and of no model
            return " ".join([self.measure.name, *map(str, self.cell.part(self.measure.fields).values())])
        return f"{self.measure.name} {self.cell_title()}"

    def cell_title(self) -> str:
        """The cell as this measure sees it."""
        others = [f"{name} {getattr(self.cell, name)}" for name in self.vary if name in self.measure.fields]
        return " ".join([self.cell.title(), *others])


@dataclass(frozen=True)
class Settings:
    """What holds for all jobs of a run.

    cache, pictures: folders. timeout_s: of one job. group: most cells that are interleaved with each other; their
    records are written together. precision: when an interleaved measure has enough. anchors: (measure, device) -> the
    job that takes part in every group of them; the first job of each where there is none. images: folder for what is
    kept of every image; None: nothing is. models: folder for trained models; None: none is kept. environment: id of
    where the jobs run, which the state of a training is kept for; "": none is kept. comparable: what environments of
    nodes have to share. address: of a cluster; "": the launcher knows where to look.
    """

    cache: Path
    pictures: Path
    timeout_s: float
    group: int = 16
    precision: Precision = field(default_factory=Precision)
    anchors: Mapping[tuple[str, str], Job] = field(default_factory=dict)
    images: Path | None = None
    models: Path | None = None
    environment: str = ""
    comparable: str = ""
    address: str = ""


@dataclass(frozen=True)
class Machine:
    """Machines that are comparable, as one: what they are, and the names of the nodes."""

    environment: Environment
    nodes: tuple[str, ...] = ()


def anchor_digest(key: str) -> str:
    """What a record says of the anchor that it was timed beside: a digest of the anchor's key."""
    return hashlib.sha256(key.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Started:
    """A job's process runs."""

    job: Job


@dataclass(frozen=True)
class Progress:
    """A job has done ``done`` of ``total`` steps of a stage; note: what else there is to say of it."""

    job: Job
    stage: str
    done: int
    total: int
    note: str = ""


@dataclass(frozen=True)
class Said:
    """A job has something to tell the user, in a sentence."""

    job: Job
    text: str


@dataclass(frozen=True)
class Finished:
    """A job ended, one way or another; the fields are those of a record.

    environment: where it ran; None: where it was planned.
    """

    job: Job
    status: str
    reason: str
    started: str
    wall_s: float
    values: Mapping[str, Value] = field(default_factory=dict)
    samples: Mapping[str, Sequence[float]] = field(default_factory=dict)
    environment: Environment | None = None

    @property
    def trained(self) -> bool:
        """Whether the state of its training is of no more use; what a runtime cannot do says nothing of it."""
        return self.status == "ok" or (self.status in states.ENDED and agrees(self.job.cell, SILENT))


Event = Started | Progress | Said | Finished
