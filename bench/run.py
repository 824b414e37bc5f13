"""``densebench run``: a matrix becomes records; what the store already has is not measured again."""

import json
import signal
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, reduce
from pathlib import Path
from typing import Any

from bench import answers, catalogue, signals
from bench.cache import cache_folder
from bench.data.contract import Task
from bench.errors import UserError, one_line
from bench.launchers._order import first_look, trained_once
from bench.launchers.contract import Event, Finished, Job, Settings
from bench.plan import dataset, listing, models, recipe, runtimes, source, weights
from bench.plan.cell import FIELDS, IN_TITLE, Cell
from bench.plan.environment import Environment, as_json
from bench.plan.matrix import Matrix
from bench.plan.measure import AFTER, CANNOT, CROSSED, MODEL, Measure, Value, measures
from bench.store import artifacts, listings, states
from bench.store.record import SENTENCE, SETTLED, Record, better, question, sayable
from bench.store.store import Store, Writer, fits


@dataclass(frozen=True)
class Planned:
    """One measurement of a plan.

    done: the record that already answers it; None: to be measured. refused: why it cannot be measured at all. chosen:
    see `bench.plan.matrix.Ask`. newest: when the last record of it began; "" without one.
    """

    job: Job
    done: Record | None
    refused: str
    chosen: frozenset[str] = frozenset()
    newest: str = ""


@dataclass(frozen=True)
class Plan:
    """Every distinct measurement of a matrix, in its order, and how many cells share them.

    older: files that older trainings are taken to have seen, of which that is not stated yet (`bench.store.listings`).
    nodes: machines like ``environment`` that measure side by side. anchors: of the machine's records.
    """

    cells: int
    planned: tuple[Planned, ...]
    environment: Environment
    matrix: str = ""
    older: listings.Listings = field(default_factory=dict)
    nodes: int = 1
    anchors: answers.Anchors = field(default_factory=answers.Anchors, compare=False)

    @property
    def todo(self) -> list[Planned]:
        """What is still to be measured."""
        return [planned for planned in self.planned if planned.done is None]

    def only_crossed(self, event: Finished) -> bool:
        """Whether an event says that values do not go together which the matrix crossed and nobody chose."""
        cannot = event.values.get(CANNOT)
        return isinstance(cannot, str) and not self._chosen[event.job.key] & set(cannot.split(","))

    @cached_property
    def _chosen(self) -> Mapping[str, frozenset[str]]:
        return {planned.job.key: planned.chosen for planned in self.planned}

    @property
    def notes(self) -> Mapping[str, str]:
        """Data set -> what records say of it beyond its name, of those of which there is something to say."""
        jobs = sorted((planned.job for planned in self.planned), key=lambda job: job.measure.trains)
        return {job.cell.dataset: job.data for job in jobs if job.data}


@dataclass(frozen=True)
class Summary:
    """How a run ended: title -> the last record, of every measurement of its plan that has one.

    interrupted: the number of the signal that ended it; 0: none did.
    """

    records: Mapping[str, Record]
    missing: int
    interrupted: int = 0

    @property
    def missing_numbers(self) -> dict[str, Record]:
        """Title of the measurement -> its record, for those that were asked for and hold no number."""
        found = self.records.items()
        return {title: record for title, record in found if record.status != "ok" and not record.crossed}

    @property
    def failed(self) -> dict[str, Record]:
        """Those of `missing_numbers` that another run or machine might have: all that is not `unsupported`."""
        return {title: one for title, one in self.missing_numbers.items() if one.status != "unsupported"}

    @property
    def why_left_out(self) -> str:
        """What one of the backbones or data sets said."""
        return next((record.reason for record in self.records.values() if record.crossed), "")

    @property
    def left_out(self) -> dict[str, int]:
        """What the matrix crossed and cannot be had ("vit_pico with patch 5") -> number of measurements."""
        return dict(Counter(_combination(record) for record in self.records.values() if record.crossed))

    @property
    def company(self) -> int:
        """How many figures were taken in company."""
        return sum(record.status == "ok" and bool(record.company) for record in self.records.values())


def plan(
    matrix: Matrix,
    environment: Environment,
    store: Store,
    roots: dataset.Roots,
    *,
    retry: bool = False,
    alone: bool = False,
    skip_broken: bool = False,
    force: bool = False,
    keep_models: bool = False,
) -> Plan:
    """What a matrix asks, less what the store answers.

    Args:
        matrix: with its overrides.
        environment: this machine; only records of a comparable one count as answers.
        store: the machine's records.
        roots: where data sets lie.
        retry: measure again what could not be measured before, or only in company.
        alone: a figure that was taken in company is no answer; without it, one that was refused for company is none.
        skip_broken: leave broken images out of training, which is another question than training with them.
        force: train by a recipe that is not for the weights; the record then says so.
        keep_models: train again what was trained without its model being kept.

    Raises:
        UserError: a data set cannot be found or is broken, a recipe is not for the weights, weights are of no kept
            model, or the store cannot be read.
    """
    seen = listings.Seen(store.folder, lambda *of: listing.digest(*of, kept=cache_folder()))
    results = (store.folder.parent, models.RESULTS)
    known_weights = cache(lambda value: weights.resolve(value, results))
    known_recipe = cache(recipe.resolve)  # a file is read once, however many cells name it
    known_source = cache(source.stated)
    cells: set[Cell] = set()
    planned: dict[str, Planned] = {}
    questions: dict[str, list[answers.Key]] = {}
    for ask in matrix.asks(environment):
        head = catalogue.get("heads", ask.cell.head).facts
        task = head["task"]
        name, root = roots.resolve(ask.cell.dataset)
        called, stated = known_recipe(ask.cell.recipe, task)
        start, trained = known_weights(ask.cell.weights)
        cell = replace(ask.cell, dataset=name, recipe=called, weights=start)
        _plain(cell)
        cells.add(cell)
        masks = bool(head.get("masks", False))
        refused = _checked(name, task, root) or (dataset.no_masks(catalogue.dataset(name)) if masks else "")
        note = "" if refused else _noted(name, task, root)
        unstated = stated is None and called != ask.cell.recipe
        untrained = f"recipe {ask.cell.recipe} states nothing for {task}" if unstated else ""
        for measure in _with_needed(ask.measures):
            if measure.trains and not force and not untrained:
                _fits(ask.cell, stated or recipe.load(called, task), task)
            out = dataset.LeftOut()
            if skip_broken and measure.trains and root is not None and not refused:
                out = _left_out(name, task, root, masks)
            data = _stated(name, note, out.note) if "dataset" in measure.fields else ""
            fields = cell.part(measure.fields)
            inputs = _inputs(cell, measure.fields, task, stated, data, trained, known_source)
            files = seen.files(name, task, root) if measure.trains and root and not (refused or untrained) else ""
            key = question(measure.name, measure.version, fields, _with_files(inputs, files))
            if (before := planned.get(key)) is not None:
                planned[key] = replace(before, chosen=before.chosen | ask.chosen)
                continue
            questions[key] = [answers.key(measure, fields, _with_files(inputs, files))]
            if files and seen.same(name, task):  # what older records do not say
                questions[key].insert(0, answers.key(measure, fields, inputs))
            # What is of the machine alone does not care for the cell that it came with.
            why = (refused if "dataset" in measure.fields else "") or (untrained if "recipe" in measure.fields else "")
            job = Job(
                *(measure, cell, root, key),
                recipe=stated,
                data=data,
                without=out.pictures,
                trained=trained,
                listing=files,
            )
            planned[key] = Planned(job, None, why, ask.chosen)
    known = answers.Known(store, environment, {one for asked in questions.values() for one in asked})
    vary = varying(cells)
    named = []
    for key, one in planned.items():
        done = _best(known.answer(asked) for asked in questions[key])
        if done is not None and (
            done.status not in SETTLED
            or (retry and done.status != "ok")
            or (done.company and (retry or alone == (done.status == "ok")))
            or (keep_models and one.job.measure.trains and done.status == "ok" and not _model_of(done, store.folder))
        ):
            done = None
        one = replace(one, done=done, job=replace(one.job, vary=vary), newest=known.newest(questions[key]))  # noqa: PLW2901
        named.append(_asked(one))
    older = seen.to_state(known.silent)
    return Plan(len(cells), tuple(named), environment, matrix.name, older, anchors=known.anchors)


def _best(records: Iterable[Record | None]) -> Record | None:
    """The better of two answers, the first of a record that does not say which files it saw."""
    found = [record for record in records if record is not None]
    return reduce(lambda older, one: older if better(older, one) else one, found) if found else None


def _fits(cell: Cell, stated: recipe.Recipe, task: Task) -> None:
    """Refuse a recipe that is not for the weights, before anything is measured."""
    if why := recipe.unsuited(stated, cell.weights):
        others = ", ".join(recipe.suited(task, cell.weights))
        raise UserError(
            f"recipe {cell.recipe} with weights {cell.weights} ({cell.backbone}, {cell.head}): {why}; take --recipe "
            f"{others}, or --force to do it anyway (the record will say so)"
        )


def _plain(cell: Cell) -> None:
    """Refuse names that no table could show, before anything is measured."""
    for name in ("dataset", "recipe", "weights"):  # all others are of the catalogue
        text = getattr(cell, name)
        if one_line(text) != text:
            raise UserError(
                f"{name} {text!a} has control characters or is no UTF-8, which no table can show; give it another name"
            )


def _asked(planned: Planned) -> Planned:
    """What was left out of another matrix, but is asked for in this one, is a row of its own."""
    done = planned.done
    if done is not None and done.crossed and planned.chosen & set(str(done.values.get(CANNOT, "")).split(",")):
        return replace(planned, done=None)
    return planned


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

    def value(cell: Cell, name: str) -> object:
        # One file states something else for each task, and goes by another digest.
        return cell.recipe.partition("@")[0] if name == "recipe" else getattr(cell, name)

    return tuple(name for name in FIELDS if name not in IN_TITLE and len({value(cell, name) for cell in cells}) > 1)


def run(
    plan: Plan,
    store: Store,
    settings: Settings,
    *,
    launcher: str,
    show: Callable[[Event], None],
    say: Callable[[str], None],
    look: Callable[[Collection[Record]], None] = lambda _: None,
    files: Callable[[str, int, int], None] = lambda *_: None,
) -> Summary:
    """Measure what the plan still wants, after `verify`; every result is on the disk before the next event.

    ``show`` sees every event, ``say`` a sentence for the user now and then, ``files`` how far the look at files is, and
    ``look`` what is known: once the cheapest model of every family has been measured (`bench.launchers._order`), then
    after every further result. An
    interrupt or another signal to end ends the workers, keeps what was measured and returns a summary that says so.

    Raises:
        UserError: files of a data set are broken, the store cannot be written to, or another run holds it.
    """
    verify(plan, files)
    states.prune(settings.cache)
    artifacts.prune(settings.cache)
    interrupted = 0
    with store.writing() as writer:
        for note in writer.repaired:
            say(note)
        listings.state(store.folder, plan.older)
        ledger = _Ledger(plan, writer, store.environments())
        try:
            looking = bool(ledger.latest)
            if looking and plan.todo:
                look(ledger.latest.values())
            for jobs in _phases(plan, ledger, show):
                anchors, here = plan.anchors.of(jobs), plan.environment
                anchored = replace(settings, anchors=anchors, environment=here.id, comparable=here.comparable)
                with closing(catalogue.get("launchers", launcher).load().launch(jobs, anchored)) as events:
                    for event in events:
                        if isinstance(event, Finished):
                            event = _clean(event)  # noqa: PLW2901 - as all that follows sees it
                            ledger.keep(event)
                            if event.trained:
                                states.remove(states.path(settings.cache, event.job.training, plan.environment.id))
                        show(event)
                        if looking and isinstance(event, Finished):
                            look(ledger.latest.values())
                looking = True
                look(ledger.latest.values())
        except (signals.Ended, KeyboardInterrupt) as ending:
            interrupted = ending.number if isinstance(ending, signals.Ended) else signal.SIGINT
    titles = {planned.job.key: planned.job.title() for planned in plan.planned}
    records = {titles[key]: record for key, record in ledger.latest.items()}
    return Summary(records, len(plan.planned) - len(ledger.latest), interrupted)


class _Ledger:
    """The last record of every measurement of a plan: those that were there, and those that are written now."""

    def __init__(self, plan: Plan, writer: Writer, described: Iterable[str]) -> None:
        self.plan = plan
        self.writer = writer
        self.described = set(described)
        self._describe(plan.environment)
        self.latest = {planned.job.key: planned.done for planned in plan.planned if planned.done is not None}
        self._newest = {planned.job.key: planned.newest for planned in plan.planned}

    def keep(self, event: Finished) -> None:
        """Write the record of an event; one of what the matrix alone had crossed says so."""
        if self.plan.only_crossed(event):
            event = replace(event, values={**event.values, CROSSED: self.plan.matrix})
        if event.started < (newest := self._newest.get(event.job.key, "")):  # the clock was set back
            event = replace(event, values={**event.values, AFTER: newest})
        environment = event.environment or self.plan.environment
        self._describe(environment)
        record = _storable(event, environment)
        self.writer.record(record)
        self.latest[event.job.key] = record
        self.plan.anchors.see(record)

    def _describe(self, environment: Environment) -> None:
        if environment.id not in self.described:
            self.described.add(environment.id)
            self.writer.environment(as_json(environment))


def _phases(plan: Plan, ledger: _Ledger, show: Callable[[Event], None]) -> Iterator[list[Job]]:
    """What is refused is settled at once; then the jobs of a first look, then the others."""
    for planned in plan.todo:
        if planned.refused:
            event = _clean(Finished(planned.job, "unsupported", planned.refused, "", 0.0, {CANNOT: "task"}))
            ledger.keep(event)
            show(event)
    jobs = [planned.job for planned in plan.todo if not planned.refused]
    jobs = trained_once(jobs)
    first = [] if ledger.latest else first_look(jobs)
    taken = {job.key for job in first}
    yield from filter(None, (first, [job for job in jobs if job.key not in taken]))


def _with_needed(names: Iterable[str]) -> list[Measure]:
    """The measures, each after those without which its columns cannot be read."""
    found: dict[str, Measure] = {}
    for name in names:
        found |= {needed: measures()[needed] for needed in measures()[name].needs}
        found[name] = measures()[name]
    return list(found.values())


_CHECKED: dict[tuple[str, str, Path | None], str] = {}
_NOTED: dict[tuple[str, str, Path | None], str] = {}


def _combination(record: Record) -> str:
    """What does not go together, in words."""
    fields = record.fields
    axes = str(record.values[CANNOT]).split(",")
    if axes == ["task"]:
        return f"{fields.get('dataset')} with head {fields.get('head')}"
    size = f"{fields.get('height')}x{fields.get('width')} px"
    words = {axis: size if axis == "resolution" else f"{axis} {fields.get(axis)}" for axis in axes}
    return f"{fields.get('backbone')} with {' and '.join(words.values())}"


def _checked(name: str, task: Task, root: Path | None) -> str:
    key = (name, task, root)
    if key not in _CHECKED:
        _CHECKED[key] = dataset.check(name, task, root)
    return _CHECKED[key]


def _noted(name: str, task: Task, root: Path | None) -> str:
    key = (name, task, root)
    if key not in _NOTED:
        _NOTED[key] = one_line(dataset.note(name, task, root))  # folders and files are called whatever they are
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
    return one_line("; ".join(note for note in (f"version {version}" if version != 1 else "", *notes) if note))


def _model_of(record: Record, folder: Path) -> bool:
    """Whether the model that a record tells of is there."""
    digest = record.values.get(MODEL)
    return isinstance(digest, str) and (folder / models.FOLDER / f"{digest}{models.ENDING}").is_file()


def _inputs(
    cell: Cell,
    fields: Iterable[str],
    task: Task,
    stated: recipe.Recipe | None,
    data: str,
    trained: Path | None,
    sources: Callable[[str, str], str],
) -> dict[str, str]:
    """Digests and versions of what fields name, where the name alone does not say which it is."""
    inputs = source.said(cell.part(fields), sources)
    if "recipe" in fields:
        known = cell.recipe in recipe.names()
        inputs["recipe"] = recipe.digest(cell.recipe, task) if known else recipe.digest_of(stated) if stated else ""
    if "weights" in fields and cell.weights != weights.RANDOM:
        # None for published ones that no worker has fetched yet; the record that comes of it has the digest.
        found = weights.digest(catalogue.get("backbones", cell.backbone), cell.weights, cache_folder(), trained)
        if found is not None:
            inputs["weights"] = found
    if "runtime" in fields and (said := runtimes.said(cell.runtime, cell.quantise)):
        inputs[runtimes.INPUT] = said
    if data:
        inputs["dataset"] = data
    if {"backbone", "head"} <= set(fields) and catalogue.normed(cell.part(fields)):
        inputs["levels"] = "normed"
    if "seed" in fields:  # it trains
        revisions = catalogue.training_revisions(cell.part(fields))
        inputs |= {f"{name} revision": str(number) for name, number in revisions.items()}
    return inputs


def _with_files(inputs: dict[str, str], files: str) -> dict[str, str]:
    return {**inputs, listings.INPUT: files} if files else inputs


def _storable(event: Finished, environment: Environment) -> Record:
    """The record of an event, or of an error if the measure gave nan or what JSON does not know.

    The measure's mistake costs its own cell and no other.
    """
    record = _record(event, environment)
    if (planned := source.of(json.loads(event.job.key)[-1])) != source.of(record.inputs):
        # Its process may have read the one or the other.
        reason = "the source of its backbone or head was edited while this ran; the next run measures it"
        inputs = {name: text for name, text in record.inputs.items() if name not in source.NAMES} | planned
        return replace(record, inputs=inputs, status="error", reason=reason, values={}, samples={})
    try:
        record.line()
    except (TypeError, ValueError) as error:
        reason = sayable(f"the measure gave what cannot be stored, None is for unknown: {error}")
        return _record(replace(event, status="error", reason=reason, values={}, samples={}), environment)
    return record


def _record(event: Finished, environment: Environment) -> Record:
    job = event.job
    task = _head(job)["task"]
    inputs = _inputs(job.cell, job.measure.fields, task, job.recipe, job.data, job.trained, source.stated)
    return Record(
        measure=job.measure.name,
        version=job.measure.version,
        fields=job.cell.part(job.measure.fields),
        inputs=_with_files(inputs, job.listing),
        environment=environment.id,
        status=event.status,
        reason=event.reason,
        values=event.values,
        samples=event.samples,
        started=event.started,
        wall_s=round(event.wall_s, 3),
    )


def _clean(event: Finished) -> Finished:
    """An event as its record has it: texts of a length that can be read, and nothing that steers a terminal."""

    def clean(value: Value) -> Value:
        if isinstance(value, dict):
            return {one_line(str(name)): number for name, number in value.items()}
        return sayable(value, SENTENCE) if isinstance(value, str) else value

    values = {one_line(name): clean(value) for name, value in event.values.items()}
    return replace(event, reason=sayable(event.reason), values=values)


def machine_folder(results: Path, machine: str | None, environment: Environment) -> Path:
    """``results/<machine>``; the machine's name is made from its GPU or CPU unless given.

    Raises:
        UserError: the name is none of a folder in the results.
    """
    if machine is not None and not fits(machine, results):
        raise UserError(
            f"--machine {machine!a} is no plain name; take letters, digits, '.', '_' and '-', or the name of a folder "
            f"that is in {results}"
        )
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
    pace included; before there is any, as long as its measure says. Shared ones run one a core, and all on all nodes.
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
    return (alone + shared / plan.environment.cores) / plan.nodes


def duration(seconds: float) -> str:
    """About how long, in words."""
    return f"about {seconds / 60:.0f} min" if seconds > 90 else f"about {seconds:.0f} s"


def _alike(job: Job) -> tuple[str, str]:
    """Jobs that take about equally long."""
    return job.measure.name, job.cell.recipe if "recipe" in job.measure.fields else ""
