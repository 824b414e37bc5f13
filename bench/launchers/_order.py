"""Which jobs of a run go first, so that its first table comes early and has every family in it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from bench import catalogue
from bench.launchers.contract import Job
from bench.plan.measure import SETS

LONG_S = 30
"""Seconds from which a measure, by its own guess, is too long for a first look."""
WORTH = 2
"""A first look is worth its while in a run that takes so many times as long as it."""


@dataclass
class _Model:
    """Jobs of one model at one size, one a measure, in the order of the plan."""

    place: int
    jobs: dict[str, Job] = field(default_factory=dict)

    def key(self) -> tuple[int, bool, int, int, int]:
        """What tells most comes first, and of that what is cheapest."""
        cell = next(iter(self.jobs.values())).cell
        pixels = cell.height * cell.width
        heavy = not catalogue.get("heads", cell.head).facts.get("light", False)
        return -len(self.jobs), heavy, pixels // cell.patch**2, pixels, self.place


def trained_once(jobs: Sequence[Job]) -> list[Job]:
    """Jobs in their order, but those last that take the weights of an earlier one's training: else they wait for it."""
    seen: set[str] = set()
    first: list[Job] = []
    later: list[Job] = []
    for job in jobs:
        (later if job.shares and job.training in seen else first).append(job)
        if job.shares:
            seen.add(job.training)
    return first + later


def first_look(jobs: Sequence[Job]) -> list[Job]:
    """The jobs of the cheapest model of every family, and what their columns need, in their order.

    Nothing has been counted yet, so cheap is what has a light head (as its catalogue says), few tokens and pixels, and
    comes early in the plan. One job a measure, without those that take long; none where they are most of the run.
    """
    models: dict[tuple[object, ...], _Model] = {}
    for place, job in enumerate(jobs):
        if "backbone" in job.measure.fields and job.measure.seconds <= LONG_S:
            key = tuple(job.cell.part(SETS["@model"]).values())
            models.setdefault(key, _Model(place)).jobs.setdefault(job.measure.name, job)
    best: dict[str, _Model] = {}
    for model in models.values():
        family = _family(next(iter(model.jobs.values())).cell.backbone)
        if family not in best or model.key() < best[family].key():
            best[family] = model
    chosen = {id(job) for model in best.values() for job in model.jobs.values()}
    needed = {name for model in best.values() for job in model.jobs.values() for name in job.measure.needs}
    found = [job for job in jobs if id(job) in chosen or _of_machine(job, needed)]
    return found if WORTH * _seconds(found) <= _seconds(jobs) else []


def _of_machine(job: Job, needed: Iterable[str]) -> bool:
    return "backbone" not in job.measure.fields and job.measure.name in needed


def _family(backbone: str) -> str:
    """``vit`` of ``vit_pico``, ``timm:convnext`` of ``timm:convnext_tiny``."""
    return backbone.partition("_")[0]


def _seconds(jobs: Iterable[Job]) -> float:
    return sum(job.measure.seconds for job in jobs)
