"""What a measure promises; one measure is one file in ``bench/measures``.

Such a file has a *literal* ``CATALOGUE`` with one entry, read without importing the file::

    CATALOGUE = {
        "latency": {
            "version": 1,                   # raise it when the number changes its meaning: old records no longer count
            "fields": ["@model", "batch"],  # fields of Cell that the number depends on; @: a set of `SETS`
            "exclusive": True,              # must have the machine to itself
            "interleaved": "forward_ms",    # optional: taken in rounds, and the series that the noise floor is of
            "needs": ["roof"],              # optional: measures without which its columns cannot be read
            "asked": True,                  # optional: only for matrices that name it
            "seconds": 2.0,                 # a first guess of its duration, for the time left
            "columns": [{"name": "latency_ms", "unit": "ms", "better": "lower", "title": "latency"}, ...],
        }
    }

and a function ``measure(cell, context) -> Outcome``, run in a process of its own; ``context.case`` holds the cell
and the things that it names. Its docstring says under ``Columns:`` what each column means, and under ``Samples:`` what
raw samples there are, from which ``docs/results.md`` is made (`bench.report.schema`).

An interleaved measure prepares (build, warm up), then takes its samples in ``for turn in context.turns():``. Between
two turns the other cells of the group have theirs, so that a drifting machine drifts for all of them. Beside the series
that ``interleaved`` names it returns ``<series>_round``, the round of each sample; its column that ends in
``noise_floor_pct`` is filled in by the launcher.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from bench.catalogue import entries
from bench.errors import UserError
from bench.plan.case import Case
from bench.plan.cell import FIELDS

SETS: Mapping[str, tuple[str, ...]] = {
    "@model": ("backbone", "patch", "weights", "head", "height", "width", "dataset", "window", "padding"),
    "@mode": ("dtype", "compile", "attention", "device", "threads", "memory_format"),
    "@runtime": ("runtime", "quantise"),
}
"""Fields that belong together: which model for which input (a data set gives the number of classes); how it runs; what
executes it."""

Value = float | int | str | None | dict[str, float | None]

COMPANY = "company"
"""Key of a value beside the columns: why the figures were taken in company (a sentence). Nothing is claimed of them."""
IMAGES, IMAGES_LOST = "images", "images_lost"
"""Keys of values beside the columns: the digest of the file with what is kept of every image (`bench.store.images`), or
why it could not be written."""
MODEL, MODEL_LOST = "model", "model_lost"
"""Keys of values beside the columns: the digest of the kept model (`bench.plan.models`), or why it was not kept."""
RESUMED = "resumed"
"""Key of a value beside the columns: the step at which a training that had been cut off went on."""
LIMIT = "most_steps"
"""Value of a training that could end early: the steps that it would have had otherwise."""
TRAINED = "trained"
"""Key of a value beside the columns: the recipe in words, which tables quote (`bench.plan.recipe.Recipe.in_words`)."""
TEACHER = "teacher"
"""Key of a value beside the columns: the digest of the kept model that taught."""
UNSUITED = "unsuited"
"""Key of a value beside the columns: why the recipe was not for the weights, where training was forced."""
CARD, CARDS, CARDS_PCT = "card", "cards", "cards_pct"
"""Keys of values beside the columns: on which of equal GPUs it was measured, on how many cells were timed at once, and
how much longer a pass was found to take beside the others than alone."""
NODE = "node"
"""Key of a value beside the columns: on which of comparable machines of a cluster it was timed."""
AFTER = "after"
"""Key of a value beside the columns: when a record began that this one follows, by a clock that was set back since."""
UNREPEATABLE = "unrepeatable"
"""Key of a value beside the columns: why the same training again gives a slightly other model."""
TRAINING = "training"
"""Key of a value beside the columns: the digest of the weights that a training made, which several cells share."""
CALIBRATION = "calibration"
"""Key of a value beside the columns: by which images the ranges of activations were found."""
DECODING = "decoding"
"""Key of a value beside the columns: where a model in another runtime is decoded, and why not in its graph."""
OPSET = "opset"
"""Key of a value beside the columns: of the ONNX file that a runtime reads."""
CANNOT, CROSSED = "cannot", "crossed"
"""Keys of an unsupported cell's values: the axes (comma-separated) that do not go with its backbone ("task": that its
data set has no labels for), and the matrix that crossed them where nobody asked for just that."""
BESIDE: Mapping[str, str] = {
    COMPANY: "why the figures were taken in company, in a sentence; nothing is claimed of them",
    IMAGES: "digest of the file with what is kept of every image: `images/DIGEST.npz`",
    IMAGES_LOST: "why that could not be written",
    MODEL: "digest of the kept model: `models/DIGEST.safetensors`",
    MODEL_LOST: "why it was not kept",
    RESUMED: "step at which a training that had been cut off went on",
    LIMIT: "steps that a training that could end early had at most",
    TRAINED: "the recipe in words",
    TEACHER: "digest of the kept model that taught",
    UNSUITED: "why the recipe was not for the weights, where training was forced",
    CARD: "the GPU, or slice of one, on which it was measured: the beginning of its UUID",
    CARDS: "on how many GPUs groups of cells were timed at once, where it was more than one",
    CARDS_PCT: "by how many percent a pass was found to take longer beside those than alone",
    NODE: "the node of a cluster on which its group was timed: a digest of its name",
    AFTER: "when an earlier record of the question began, by a clock that was set back since: this one is the later",
    UNREPEATABLE: "why the same training again gives a slightly other model; never of a CPU, where it is the same",
    TRAINING: "digest of the weights that the training made (as of a kept model); equal in all rows of one training",
    CALIBRATION: "by which images the ranges of activations were found: how many, of what, drawn by which seed",
    DECODING: "where an exported model is decoded for `end_to_end_ms`: in the graph, or in torch and why",
    OPSET: "opset of the ONNX file that the runtime reads",
    CANNOT: 'axes that do not go with the backbone, separated by commas; "task": the data set has no labels for it',
    CROSSED: "matrix that crossed them, where nobody asked for just that",
    "session": "which group of cells was timed in turns; equal within one",
    "cells": "how many cells the group had",
    "anchor": "digest of the question that the group's anchor answers, by which groups are compared",
    "SERIES_ended": '"target": rounds ended when the interval was narrow enough; "budget": when the time was up',
    "SERIES_steady": "whether the warm-up reached a steady state",
    "SERIES_low_ms": "of figures in company: the lower end of what the undisturbed one may be",
    "SERIES_high_ms": "of figures in company: the upper end",
    "unknown_company": "what this system does not tell of other processes; of `training`, `train_unknown_company`",
}
"""What values may say beside the columns of their measure; the last ones are of measures that take turns."""
ROUNDS: Mapping[str, str] = {
    "SERIES_ms": "single passes in ms",
    "SERIES_ms_round": "the round of each",
    "anchor_ms": "the anchor's median of each round",
    "twin_ms": "that of the anchor's twin, the same cell in another process",
    "anchor_ms_round": "the rounds of these",
    "twin_ms_round": "the rounds of these",
    "disturbed_round": "rounds that do not count, for others used the machine in them",
    "company_round": "rounds in which others used the machine and that count for want of others",
    "others_cores": "cores that other processes kept busy, each time it was looked at",
    "steal_cores": "cores' worth of time that the hypervisor gave to other guests",
    "clock_mhz": "clock of the device",
}
"""Samples of every measure that takes turns."""
TIMED = frozenset({"ms", "s", "µs", "1/s", "J", "W", "TFLOP/s", "GB/s"})
"""Units of the figures that company changes."""


@dataclass(frozen=True)
class Column:
    """One number of a measure; what it means is in the docstring of the measure's function, under ``Columns``.

    better: which way is better; None: neither. task: of the heads that it applies to; None: all. digits: decimals in
    tables. table: shown in tables (a dict of one number a class is not). headline: the one that ranks a task's rows.
    note: what there is to know of it, and of the columns like it, for the notes below tables. signed: may be negative.
    """

    name: str
    unit: str
    title: str
    better: Literal["higher", "lower"] | None = None
    task: str | None = None
    digits: int = 1
    table: bool = True
    headline: bool = False
    note: str = ""
    signed: bool = False


@dataclass(frozen=True)
class Measure:
    """The part of a measure that planning and reporting need."""

    name: str
    version: int
    fields: tuple[str, ...]
    columns: tuple[Column, ...]
    exclusive: bool
    seconds: float
    doc: str = ""
    interleaved: str = ""
    needs: tuple[str, ...] = ()
    asked: bool = False

    @property
    def trains(self) -> bool:
        """Whether it learns from the images of the data set: whatever else needs them only for their classes."""
        return "seed" in self.fields

    @cached_property
    def floor(self) -> str:
        """The column of an interleaved measure that holds the noise floor of its group."""
        return next(
            (column.name for column in self.columns if column.name.endswith("noise_floor_pct")), "noise_floor_pct"
        )

    @cached_property
    def margin(self) -> str:
        """The column of an interleaved measure that holds half of the interval of its series, in percent."""
        return f"{self.interleaved.removesuffix('_ms')}_ci_pct"


@dataclass(frozen=True)
class Outcome:
    """What a measure found.

    values: column name -> number; None is "unknown", never 0; a dict holds one number a class.
    samples: raw samples by name, in the unit that the name says.
    """

    values: Mapping[str, Value]
    samples: Mapping[str, Sequence[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Precision:
    """When an interleaved measure has seen enough.

    target: half of the 95 % confidence interval of the median, as a share of the median.
    budget_s: seconds of timing after which it ends without.
    company: what becomes of rounds in which other processes used the machine, too. "avoid": they are taken again for a
        while, and count only where too few others can be had; "refuse": then the cell is `invalid`; "allow": they are
        not waited out. A figure that they count in says so, see `COMPANY`.
    """

    target: float = 0.01
    budget_s: float = 1.5
    company: Literal["avoid", "refuse", "allow"] = "avoid"


@dataclass(frozen=True)
class Turn:
    """A round in which this process has the machine to itself.

    index: from 0. workers: processes of this run that hold a model, this one included. cpu_s: CPU time that the others
    of them have used up to now, so that it is not taken for a stranger's.
    """

    index: int
    workers: int
    cpu_s: float = 0.0


def unshared() -> Iterator[Turn]:
    """Turn after turn, for a process that shares the machine with no other cell."""
    return (Turn(index, 1) for index in itertools.count())


@runtime_checkable
class Report(Protocol):
    """Takes (stage, done, total) whenever there is progress to show, and a few words more where there are any."""

    def __call__(self, stage: str, done: int, total: int, note: str = "", /) -> None:
        """Show it."""
        ...


@dataclass(frozen=True)
class Context:
    """What a measure may use beyond its cell.

    report: see `Report`.
    threads: CPU threads that this process was given.
    case: the cell and the things that it names.
    pictures: folder for pictures of predictions.
    images: folder for what is kept of every image; None: nothing is.
    models: folder for trained models; None: none is kept.
    state: file for the state of a training, from which the next process goes on; None: none is kept. question: all
        that decides the training, as far as planning knows it.
    shared: file that says what came of the training, for the cells that share it; None: none does.
    say: takes a sentence for the user.
    turns: waits for this process's next turn; leaving the loop ends the last one.
    precision: when enough has been seen.
    """

    report: Report
    threads: int
    case: Case
    pictures: Path | None = None
    images: Path | None = None
    turns: Callable[[], Iterator[Turn]] = unshared
    precision: Precision = field(default_factory=Precision)
    models: Path | None = None
    state: Path | None = None
    question: str = ""
    shared: Path | None = None
    say: Callable[[str], None] = lambda _: None

    @property
    def cache(self) -> Path:
        """Folder for what can be made again."""
        return self.case.cache

    @property
    def root(self) -> Path | None:
        """Where the cell's data set lies; None for an embedded one."""
        return self.case.root


class Invalid(Exception):
    """A measurement ended, but its number must not be used; the text says why. Becomes a row of status `invalid`.

    Args:
        reason: in a sentence, with the figure that speaks against it.
        outcome: what was measured nevertheless; it is stored beside the reason.
    """

    def __init__(self, reason: str, outcome: "Outcome | None" = None) -> None:
        super().__init__(reason)
        self.outcome = outcome


@cache
def measures() -> Mapping[str, Measure]:
    """All measures, in order of name.

    Raises:
        UserError: a file states a measure wrongly; names the file and the key.
    """
    return {name: _parse(name, entry.facts, entry.source, entry.doc) for name, entry in entries("measures").items()}


def _parse(name: str, facts: Mapping[str, Any], source: Path, doc: str) -> Measure:
    try:
        fields = {field for word in facts["fields"] for field in SETS.get(word, (word,))}
        columns = tuple(Column(**column) for column in facts["columns"])
        measure = Measure(
            name=name,
            version=facts["version"],
            fields=tuple(field for field in FIELDS if field in fields),
            columns=columns,
            exclusive=facts["exclusive"],
            seconds=facts["seconds"],
            doc=doc,
            interleaved=facts.get("interleaved", ""),
            needs=tuple(facts.get("needs", ())),
            asked=facts.get("asked", False),
        )
    except (KeyError, TypeError) as error:
        raise UserError(f"measure '{name}' in {source}: {error}") from error
    if strange := fields - set(FIELDS):
        known = f"no such field of Cell, nor one of {', '.join(SETS)}"
        raise UserError(f"measure '{name}' in {source}: {', '.join(sorted(strange))}: {known}")
    return measure
