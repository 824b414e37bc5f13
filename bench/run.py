"""``densebench run``: a matrix becomes records; what the store already has is not measured again."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench import catalogue
from bench.data.contract import Task
from bench.launchers.contract import Event, Finished, Job, Settings, anchor_digest
from bench.plan import dataset, recipe, weights
from bench.plan.cell import FIELDS, IN_TITLE, Cell
from bench.plan.environment import Environment, as_json, cache_folder
from bench.plan.matrix import Matrix
from bench.plan.measure import Measure, measures
from bench.store.record import SETTLED, Record, question
from bench.store.store import Store


@dataclass(frozen=True)
class Planned:
    """One measurement of a plan.

    done: the record that already answers it; None: to be measured. refused: why it cannot be measured at all.
    """

    job: Job
    done: Record | None
    refused: str


@dataclass(frozen=True)
class Plan:
    """Every distinct measurement of a matrix, in its order, and how many cells share them."""

    cells: int
    planned: tuple[Planned, ...]
    environment: Environment

    @property
    def todo(self) -> list[Planned]:
        """What is still to be measured."""
        return [planned for planned in self.planned if planned.done is None]

    @property
    def stated(self) -> Mapping[str, str]:
        """Data set -> what records say of it beyond its name, of those of which there is something to say."""
        jobs = sorted((planned.job for planned in self.planned), key=lambda job: job.measure.trains)
        return {job.cell.dataset: job.stated for job in jobs if job.stated}


@dataclass(frozen=True)
class Summary:
    """How a run ended: title -> the last record, of every measurement of its plan that has one."""

    records: Mapping[str, Record]
    missing: int
    interrupted: bool = False

    @property
    def failed(self) -> dict[str, Record]:
        """Title of the measurement -> its record, for those that hold no number."""
        return {title: record for title, record in self.records.items() if record.status != "ok"}


def plan(
    matrix: Matrix,
    environment: Environment,
    store: Store,
    roots: dataset.Roots,
    *,
    retry: bool = False,
    skip_broken: bool = False,
) -> Plan:
    """What a matrix asks, less what the store answers.

    Args:
        matrix: with its overrides.
        environment: this machine; only records of a comparable one count as answers.
        store: the machine's records.
        roots: where data sets lie.
        retry: measure again what could not be measured before.
        skip_broken: leave broken images out of training, which is another question than training with them.

    Raises:
        UserError: a data set cannot be found or is broken, or the store cannot be read.
    """
    answers = _answers(store, environment)
    cells: set[Cell] = set()
    planned: dict[str, Planned] = {}
    for asked, names in matrix.cells(environment):
        name, root = roots.resolve(asked.dataset)
        cell = replace(asked, dataset=name)
        cells.add(cell)
        head = catalogue.get("heads", cell.head).facts
        task = head["task"]
        masks = bool(head.get("masks", False))
        refused = _checked(name, task, root) or (dataset.no_masks(name) if masks else "")
        note = "" if refused else _noted(name, task, root)
        for measure in _with_needed(names):
            out = dataset.LeftOut()
            if skip_broken and measure.trains and root is not None and not refused:
                out = _left_out(name, task, root, masks)
            stated = _stated(name, note, out.note) if "dataset" in measure.fields else ""
            fields = cell.part(measure.fields)
            key = question(measure.name, measure.version, fields, _inputs(cell, measure.fields, task, stated))
            if key in planned:
                continue
            done = answers.get(key)
            if done is not None and (done.status not in SETTLED or (retry and done.status != "ok")):
                done = None
            # What is of the machine alone does not care for the cell that it came with.
            job = Job(measure, cell, root, key, stated=stated, without=out.pictures)
            planned[key] = Planned(job, done, refused if "dataset" in measure.fields else "")
    vary = varying(cells)
    named = tuple(replace(one, job=replace(one.job, vary=vary)) for one in planned.values())
    return Plan(len(cells), named, environment)


def verify(plan: Plan, report: Callable[[str, int, int], None] = lambda *_: None) -> None:
    """Look at all files that a training of the plan will read, so that a broken one is found before the first hour.

    ``report`` is told (what, done, total). Images that the plan leaves out of train are not asked for.

    Raises:
        UserError: some cannot be used; lists them.
    """
    asked = {
        (job.cell.dataset, _head(job)["task"], job.root, bool(_head(job).get("masks", False)), bool(job.without))
        for job in (planned.job for planned in plan.todo if not planned.refused)
        if job.measure.trains and job.root is not None
    }
    for name, task, root, masks, skip in sorted(asked, key=str):
        assert root is not None, "asked above"
        files = dataset.examine(name, task=task, root=root, cache=cache_folder(), masks=masks, report=report)
        dataset.refuse_broken(name, files, skip=skip)


def varying(cells: Collection[Cell]) -> tuple[str, ...]:
    """The fields that tell cells apart beyond what a title names."""
    return tuple(name for name in FIELDS if name not in IN_TITLE and len({getattr(cell, name) for cell in cells}) > 1)


def run(
    plan: Plan,
    store: Store,
    settings: Settings,
    *,
    launcher: str,
    show: Callable[[Event], None],
    say: Callable[[str], None],
    look: Callable[[str, int, int], None] = lambda *_: None,
) -> Summary:
    """Measure what the plan still wants, after `verify`; every result is on the disk before the next event.

    ``show`` sees every event, ``say`` a sentence for the user now and then, ``look`` how far the look at files is. An
    interrupt ends the workers, keeps what was measured and returns a summary that says so.

    Raises:
        UserError: files of a data set are broken, the store cannot be written to, or another run holds it.
    """
    verify(plan, look)
    latest = {planned.job.key: planned.done for planned in plan.planned if planned.done is not None}
    interrupted = False
    with store.writing() as writer:
        for note in writer.repaired:
            say(note)
        if plan.environment.id not in store.environments():
            writer.environment(as_json(plan.environment))

        def keep(event: Finished) -> None:
            record = _storable(event, plan.environment)
            writer.record(record)
            latest[event.job.key] = record

        try:
            for planned in plan.todo:
                if planned.refused:
                    event = Finished(planned.job, "unsupported", planned.refused, "", 0.0)
                    keep(event)
                    show(event)
            jobs = [planned.job for planned in plan.todo if not planned.refused]
            if jobs:
                settings = replace(settings, anchors=_anchors(jobs, _answers(store, plan.environment)))
                with closing(catalogue.get("launchers", launcher).load().launch(jobs, settings)) as events:
                    for event in events:
                        if isinstance(event, Finished):
                            keep(event)
                        show(event)
        except KeyboardInterrupt:
            interrupted = True
    titles = {planned.job.key: planned.job.title() for planned in plan.planned}
    records = {titles[key]: record for key, record in latest.items()}
    return Summary(records, len(plan.planned) - len(latest), interrupted)


def _with_needed(names: Iterable[str]) -> list[Measure]:
    """The measures, each after those without which its columns cannot be read."""
    found: dict[str, Measure] = {}
    for name in names:
        found |= {needed: measures()[needed] for needed in measures()[name].needs}
        found[name] = measures()[name]
    return list(found.values())


def _answers(store: Store, environment: Environment) -> dict[str, Record]:
    known = {name: described.comparable for name, described in store.environments().items()}
    answers: dict[str, Record] = {}
    for record in store.records():
        if known.get(record.environment) != environment.comparable:
            continue
        before = answers.get(record.key)
        # A later failure (of --retry, say) does not take away a number.
        if before is None or before.status not in SETTLED or record.status in SETTLED:
            answers[record.key] = record
    return answers


def _anchors(jobs: Iterable[Job], answers: Mapping[str, Record]) -> dict[tuple[str, str], Job]:
    """For each interleaved measure and device: the job that most of the machine's records were anchored to.

    With it as anchor again, what is timed today is tied to what was timed before (`bench.report.claims`).
    """
    found: dict[tuple[str, str], Job] = {}
    for job in jobs:
        kind = job.measure.name, job.cell.device
        if not job.measure.interleaved or kind in found:
            continue
        alike = [
            record
            for record in answers.values()
            if (record.measure, record.version, record.fields.get("device")) == (kind[0], job.measure.version, kind[1])
            and record.status == "ok"
        ]
        used = Counter(record.values["anchor"] for record in alike if isinstance(record.values.get("anchor"), str))
        for digest, _ in used.most_common():
            record = next((one for one in alike if anchor_digest(one.key) == digest), None)
            # Of a data set on disk only the folder that is named now is known.
            layout = "" if record is None else record.fields["dataset"].partition(":")[0]
            known = catalogue.entries("data").get(layout)  # it may be gone since
            embedded = known is not None and not known.facts["root"]
            if record is not None and (embedded or record.fields["dataset"] == job.cell.dataset):
                cell = replace(job.cell, **record.fields)
                found[kind] = replace(job, cell=cell, key=record.key, root=None if embedded else job.root)
                break
    return found


_CHECKED: dict[tuple[str, str, Path | None], str] = {}
_NOTED: dict[tuple[str, str, Path | None], str] = {}


def _checked(name: str, task: Task, root: Path | None) -> str:
    key = (name, task, root)
    if key not in _CHECKED:
        _CHECKED[key] = dataset.check(name, task, root)
    return _CHECKED[key]


def _noted(name: str, task: Task, root: Path | None) -> str:
    key = (name, task, root)
    if key not in _NOTED:
        _NOTED[key] = dataset.note(name, task, root)
    return _NOTED[key]


_LEFT_OUT: dict[tuple[str, str, Path, bool], dataset.LeftOut] = {}


def _left_out(name: str, task: Task, root: Path, masks: bool) -> dataset.LeftOut:
    key = (name, task, root, masks)
    if key not in _LEFT_OUT:
        files = dataset.examine(name, task=task, root=root, cache=cache_folder(), masks=masks)
        dataset.refuse_broken(name, files, skip=True)
        _LEFT_OUT[key] = dataset.left_out(root, files)
    return _LEFT_OUT[key]


def _head(job: Job) -> Mapping[str, Any]:
    return catalogue.get("heads", job.cell.head).facts


def _stated(name: str, *notes: str) -> str:
    """What a record says of its data set beyond the name."""
    version = catalogue.dataset(name).facts.get("version", 1)
    # Version 1 goes without saying, so that the first data sets keep their records.
    return "; ".join(note for note in (f"version {version}" if version != 1 else "", *notes) if note)


def _inputs(cell: Cell, fields: Iterable[str], task: Task, stated: str) -> dict[str, str]:
    """Digests and versions of what fields name, where the name alone does not say which it is."""
    inputs = {}
    if "recipe" in fields:
        inputs["recipe"] = recipe.digest(cell.recipe, task)
    if "weights" in fields and cell.weights != weights.RANDOM:
        # None for published ones that no worker has fetched yet; the record that comes of it has the digest.
        found = weights.digest(catalogue.get("backbones", cell.backbone), cell.weights, cache_folder())
        if found is not None:
            inputs["weights"] = found
    if stated:
        inputs["dataset"] = stated
    return inputs


def _storable(event: Finished, environment: Environment) -> Record:
    """The record of an event, or of an error if the measure gave nan or what JSON does not know.

    The measure's mistake costs its own cell and no other.
    """
    record = _record(event, environment)
    try:
        record.line()
    except (TypeError, ValueError) as error:
        reason = f"the measure gave what cannot be stored, None is for unknown: {error}"
        return _record(replace(event, status="error", reason=reason, values={}, samples={}), environment)
    return record


def _record(event: Finished, environment: Environment) -> Record:
    job = event.job
    return Record(
        measure=job.measure.name,
        version=job.measure.version,
        fields=job.cell.part(job.measure.fields),
        inputs=_inputs(job.cell, job.measure.fields, _head(job)["task"], job.stated),
        environment=environment.id,
        status=event.status,
        reason=event.reason,
        values=event.values,
        samples=event.samples,
        started=event.started,
        wall_s=round(event.wall_s, 3),
    )


def machine_folder(results: Path, machine: str | None, environment: Environment) -> Path:
    """``results/<machine>``; the machine's name is made from its GPU or CPU unless given."""
    return results / (machine or environment.slug())


def as_json_plan(plan: Plan) -> list[dict[str, object]]:
    """For ``run --dry-run --json``: one object a measurement."""
    return [
        {
            "measure": planned.job.measure.name,
            "version": planned.job.measure.version,
            "fields": planned.job.cell.part(planned.job.measure.fields),
            "todo": planned.done is None,
            "status": planned.done.status if planned.done else ("unsupported" if planned.refused else None),
            "reason": planned.done.reason if planned.done else planned.refused,
        }
        for planned in plan.planned
    ]


def seconds_left(plan: Plan, finished: Iterable[Finished], running: Mapping[str, tuple[float, float]]) -> float:
    """A guess of the seconds that the rest of a plan takes.

    Args:
        plan: what is asked.
        finished: what has ended in this run.
        running: job key -> (seconds since its start, share that it has done, 0 to 1).

    A measurement is taken to last as long as the mean of its measure and recipe so far, running ones at their present
    pace included; before there is any, as long as its measure says. Shared ones run one a core.
    """
    jobs = {planned.job.key: planned.job for planned in plan.planned}
    pace: dict[tuple[str, str], list[float]] = {}
    whole = {key: elapsed / share for key, (elapsed, share) in running.items() if share > 0}
    ended = {event.job.key: event.wall_s for event in finished}
    before = {planned.job.key: planned.done.wall_s for planned in plan.planned if planned.done is not None}
    for key, seconds in {**before, **ended, **whole}.items():
        pace.setdefault(_alike(jobs[key]), []).append(seconds)
    alone = shared = 0.0
    for planned in plan.todo:
        job = planned.job
        if job.key in ended or planned.refused:
            continue
        known = pace.get(_alike(job))
        expected = whole.get(job.key) or (sum(known) / len(known) if known else job.measure.seconds)
        left = max(0.0, expected - running.get(job.key, (0.0, 0.0))[0])
        if job.measure.exclusive or job.cell.device != "cpu":
            alone += left
        else:
            shared += left
    return alone + shared / plan.environment.cores


def _alike(job: Job) -> tuple[str, str]:
    """Jobs that take about equally long."""
    return job.measure.name, job.cell.recipe if "recipe" in job.measure.fields else ""
