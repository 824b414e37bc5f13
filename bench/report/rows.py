"""Records to rows: what was measured apart, put side by side.

A record knows only the fields of the cell that its measure depends on. A *part* is one measure's records that agree in
all of those but the seed; a *row* is a largest set of parts that agree wherever they share a field: the natural full
outer join, whatever the order of the measures. A part that goes with nothing else is a row of its own.

What is known of the machine and of no model (`roof`) goes to every row that it applies to; with it a row says how far
from the machine's limits it is (`DERIVED`).

Records of environments that are not comparable never meet in a row or in a table. `bench.report.evidence` says what may
be claimed of the means.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from itertools import combinations, permutations
from operator import attrgetter, itemgetter
from pathlib import Path
from typing import Any

from bench import catalogue
from bench.errors import UserError, printable
from bench.plan import recipe as recipes
from bench.plan import runtimes, source
from bench.plan.cell import FIELDS
from bench.plan.environment import Environment
from bench.plan.measure import Column, Measure, measures
from bench.report.evidence import Paired, chance, pairing
from bench.report.known import OfOne, classes, names, numbers, timed
from bench.report.roofline import UNKNOWN, Roofline, roofline
from bench.stats.family import ALONE, Family, claimed, family
from bench.stats.ranking import Noise, Rank, Stat, pooled, ranked, stat
from bench.store import listings
from bench.store.record import STATUSES, Record, better
from bench.store.store import ENVIRONMENTS, RECORDS, Store, no_collection, say_lost

DERIVED = Measure(
    name="roofline",
    version=1,
    fields=(),
    columns=(
        Column("mfu_pct", "%", "MFU", "higher", digits=0),
        Column("traffic_pct", "%", "traffic", None, digits=0),
        Column("launches_pct", "%", "launches", None, digits=0),
    ),
    exclusive=False,
    seconds=0.0,
    doc=(
        "share of the latency that its arithmetic (model FLOP utilisation), its memory traffic and the launches of its "
        "operations alone would take on this machine, see `bench/report/roofline.py`; the largest is what bounds it"
    ),
)
"""Columns that follow from those of several measures."""

_LIMITS = ("peak_tflops", "copy_gbps", "launch_us")
_LIMITING = ("gmacs", "latency_ms", "traffic_mib", "operations", *_LIMITS)
_NOTHING: Mapping[str, Stat] = {}
_RAW = "raw"
_OLD = "of an older version of their measure"
_GONE = "of a measure that is no longer there"
_HEADLESS = "of a head that is no longer there, or of none"
_CROSSED = "of a combination that a matrix crossed and that cannot be had"
_EDITED = "from before a file that they name (a recipe, a data set, a backbone, a head) was edited"
_NOWHERE = f"of an environment that {ENVIRONMENTS} does not describe"
_SUPERSEDED = "superseded by another of the same measurement"


@dataclass(frozen=True, eq=False)
class Part:
    """One measure's records (in order of seed) that agree in `fields`, all its fields but the seed.

    folder: of the machine, where what is kept of every image lies; None: nowhere.
    """

    measure: str
    fields: Mapping[str, Any]
    records: tuple[Record, ...]
    folder: Path | None = None

    @cached_property
    def values(self) -> Mapping[str, Stat]:
        """Column -> statistics over seeds; ``column[class]`` for a number a class. What is unknown is not there."""
        if len(self.records) == 1:  # most are of one seed
            return OfOne(self.records[0], company=bool(self.company))
        crowded = timed(self.measure) if self.company else ()
        found: dict[str, list[float]] = defaultdict(list)
        for record in self.records:
            if record.status == "ok":
                for name, number in numbers(record):
                    found[name].append(number)
        return {name: stat(values)._replace(company=name in crowded) for name, values in found.items()}

    @cached_property
    def classes(self) -> Mapping[str, tuple[str, ...]]:
        """Column -> its classes, in the order of the measure, for the columns that hold a number a class."""
        return classes(record.values for record in self.records if record.status == "ok")

    @cached_property
    def place(self) -> tuple[tuple[int, Any], ...]:
        """What sorts it among others, see `order`."""
        return order(self.fields)

    @cached_property
    def company(self) -> str:
        """Why its figures count as taken in company, or ""."""
        return next((record.company for record in self.records if record.company), "")

    @property
    def failures(self) -> list[Record]:
        """The records that are not ok."""
        return [record for record in self.records if record.status != "ok"]

    @property
    def status(self) -> str:
        """The status, or several joined by ``+`` when seeds differ."""
        if len(self.records) == 1:
            return self.records[0].status
        found = {record.status for record in self.records}
        return "+".join(status for status in STATUSES if status in found)

    @property
    def reason(self) -> str:
        """Why it is not ok; names the seeds where there are several."""
        if len(self.records) == 1:
            return self.records[0].reason
        return "; ".join(f"seed {record.fields.get('seed')}: {record.reason}" for record in self.failures)


@dataclass(frozen=True, eq=False)
class Row:
    """What is known about one choice of everything but the seed.

    fields: the cell's fields that any of its parts depends on. parts: measure -> part.
    """

    task: str
    fields: Mapping[str, Any]
    parts: Mapping[str, Part]

    @property
    def values(self) -> Mapping[str, Stat]:
        """Column (or ``column[class]``) -> statistics over seeds; what is unknown is not there."""
        return _OfRow(self)  # not kept: the two would be a cycle, which nobody collects while tables are made

    def of(self, measure: str) -> Mapping[str, Stat]:
        """The columns (or ``column[class]``) of one measure that are known."""
        if measure == DERIVED.name:
            return self.derived
        part = self.parts.get(measure)
        return _NOTHING if part is None else part.values

    @cached_property
    def derived(self) -> dict[str, Stat]:
        """Those of the columns of `DERIVED` that are known."""
        if not self.limited:
            return {}
        limits = self.limits
        shares = {
            "mfu_pct": limits.mfu_pct,
            "traffic_pct": limits.traffic_pct,
            "launches_pct": limits.launches_pct,
        }
        known = {name: share for name, share in shares.items() if share is not None}
        return {name: Stat(share, None, 1, self._limits_in_company) for name, share in known.items()}

    @cached_property
    def _limits_in_company(self) -> bool:
        return any(
            stat.company
            for part in self.parts.values()
            if part.company
            for name, stat in part.values.items()
            if name in _LIMITING
        )

    @property
    def bound(self) -> str:
        """What bounds the latency; "" where there is none, or where it was taken in company: that would be a claim."""
        if "latency_ms" not in self.values or self._limits_in_company:
            return ""
        return self.limits.bound if self.limited else UNKNOWN

    @property
    def limited(self) -> bool:
        """Whether limits of the machine were asked for."""
        return not _limiting().isdisjoint(self.parts)

    @cached_property
    def limits(self) -> Roofline:
        """What the latency is near to, of what the machine could do."""

        def known(name: str) -> float | None:
            part = self.parts.get(_owners().get(name, ""))
            found = None if part is None else part.values.get(name)
            # A limit that was measured beside others is no limit.
            return None if found is None or (found.company and name in _LIMITS) else found.mean

        found = {name: known(name) for name in _LIMITS}
        if any(limit is not None for limit in found.values()):  # else nothing is near to any
            found |= {name: known(name) for name in _LIMITING if name not in _LIMITS}
        return roofline(batch=self.fields.get("batch", 1), recorded=self._recorded, **dict.fromkeys(_LIMITING) | found)

    @property
    def _recorded(self) -> bool:
        """Whether a pass is a replay of a CUDA graph. What max-autotune compiles for a CPU is none."""
        compiled, device = self.fields.get("compile"), str(self.fields.get("device", ""))
        return compiled == "cudagraph" or (compiled == "max-autotune" and device.startswith("cuda"))

    @property
    def input(self) -> str:
        """Input size, ``HxW`` in pixels."""
        return f"{self.fields['height']}x{self.fields['width']}" if "height" in self.fields else ""


class _OfRow(Mapping[str, Stat]):
    """The columns of all parts of a row, and what is derived from them."""

    def __init__(self, row: Row) -> None:
        self._row = row

    def __getitem__(self, name: str) -> Stat:
        if (found := self.get(name)) is None:
            raise KeyError(name)
        return found

    def get(self, name: str, default: Any = None) -> Any:
        """As of any mapping."""
        measure = _owners().get(name.partition("[")[0])
        if measure is None:  # it stands beside the columns
            known = (part.values.get(name) for part in reversed(list(self._row.parts.values())))
            return next((stat for stat in known if stat is not None), default)
        return self._row.of(measure).get(name, default)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.get(name) is not None

    def __iter__(self) -> Iterator[str]:
        for part in self._row.parts.values():
            yield from part.values
        yield from self._row.derived

    def __len__(self) -> int:
        return sum(1 for _ in self)


@dataclass(frozen=True)
class Table:
    """Rows that may be compared: one machine, environment, task and data set; best first within a recipe.

    code: git states that the records come from. noise: recipe -> seed noise of the headline column. paired: recipe ->
    what its rows have kept of their images. family: all that the ranks claim.
    """

    machine: str
    environment: Environment
    code: tuple[str, ...]
    task: str
    dataset: str
    rows: tuple[Row, ...]
    ranks: Mapping[Row, Rank]
    noise: Mapping[str, Noise | None]
    paired: Mapping[str, Paired]
    family: Family = ALONE

    @cached_property
    def names(self) -> set[str]:
        """The columns, but for those of classes, that a row knows a number of."""
        records = (record for row in self.rows for part in row.parts.values() for record in part.records)
        return names(records) | {name for row in self.rows if row.limited for name in row.derived}


@dataclass(frozen=True)
class Reading:
    """The tables of one machine's folder, and how many of its records are in none, by reason."""

    folder: Path
    tables: tuple[Table, ...]
    left_out: Mapping[str, int] = field(default_factory=dict)


def folders(results: Path) -> list[Path]:
    """The machine folders under a results folder (or that folder, if it is one itself), in order of name.

    Raises:
        UserError: there are no records; says where they were looked for.
    """
    found = [results] if (results / RECORDS).is_file() else sorted(path.parent for path in results.glob(f"*/{RECORDS}"))
    if not found:
        raise UserError(
            f"no records: there is no {results / '<machine>' / RECORDS}; "
            "run `densebench run` first, or name the folder with --results"
        )
    return found


def read(folder: Path) -> Reading:
    """The rows of one machine's folder; what of it is damaged is left out and named (`bench.errors.remark`).

    Raises:
        UserError: a file cannot be read.
    """
    store = Store(folder)
    described = store.environments()
    records = store.records()
    say_lost(folder, Counter(record.environment for record in records), described)
    with no_collection():
        return gather(folder, records, described)


def gather(folder: Path, records: Iterable[Record], described: Mapping[str, Environment]) -> Reading:
    """The rows of these records, whose environments are described, as if they were all of a machine's folder."""
    left_out: Counter[str] = Counter()
    groups: dict[str, list[Record]] = defaultdict(list)
    revise, unusable = _Times(), _Unusable()
    for record in map(revise, listings.completed(records, listings.known(folder))):
        if reason := unusable(record) or ("" if record.environment in described else _NOWHERE):
            left_out[reason] += 1
        else:
            groups[described[record.environment].comparable].append(record)
    tables: list[Table] = []
    for group in groups.values():
        environments = sorted((described[name] for name in {record.environment for record in group}), key=_by_id)
        tables += _tables(folder.resolve(), environments, _current(group, left_out), left_out)
    tables.sort(key=lambda table: (table.environment.title(), table.environment.comparable, table.task, table.dataset))
    return Reading(folder, tuple(tables), dict(sorted(left_out.items())))


@cache
def columns(task: str | None = None) -> tuple[tuple[Measure, Column], ...]:
    """The columns of a task (None: of all) in the order of tables: what ranks first, then the most specific measures.

    Raises:
        UserError: two measures have a column of the same name.
    """
    ranking = [
        measure for measure in measures().values() if any(_applies(column, task, True) for column in measure.columns)
    ]
    ordered = sorted(
        measures().values(),
        key=lambda measure: (measure not in ranking, -len(measure.fields), not measure.interleaved, measure.name),
    )
    found: dict[str, tuple[Measure, Column]] = {}
    for measure in ordered:
        for column in sorted(measure.columns, key=lambda column: not _applies(column, task, True)):
            if column.name in found:
                other = found[column.name][0].name
                raise UserError(f"measures '{other}' and '{measure.name}' both have a column '{column.name}'")
            found[column.name] = measure, column
    found |= {column.name: (DERIVED, column) for column in DERIVED.columns}
    return tuple((measure, column) for measure, column in found.values() if _applies(column, task, False))


@cache
def _limiting() -> frozenset[str]:
    """The measures of the machine's limits."""
    return frozenset(measure for column, measure in _owners().items() if column in _LIMITS)


@cache
def _owners() -> Mapping[str, str]:
    """Column -> its measure."""
    return {column.name: measure.name for measure, column in columns()}


def headline(task: str) -> tuple[Measure, Column] | None:
    """The column that ranks a task's rows, and its measure."""
    return next((pair for pair in columns(task) if pair[1].headline), None)


def noise(parts: Iterable[Part], column: str) -> Noise | None:
    """Seed noise of a column over distinct parts; None if none of them has two seeds."""
    return pooled(known for part in dict.fromkeys(parts) if (known := part.values.get(column)))


def rank(stats: Mapping[Part, Stat], column: Column, apart: Callable[[Part, Part], bool]) -> dict[Part, Rank]:
    """Ranks of measurements by a column, best first; equal means in the order of their cells.

    apart: says of two whether a difference may be claimed, see `bench.report.evidence`.
    """
    ordered = sorted(stats, key=attrgetter("place"))
    return ranked({part: stats[part] for part in ordered}, column.better, apart)


def order(fields: Mapping[str, Any]) -> tuple[tuple[int, Any], ...]:
    """A key that sorts cells by their fields: numbers, then texts, then what is unknown."""
    return tuple(map(_PLACES.__getitem__, map(fields.get, FIELDS)))


class _Places(dict[Any, tuple[int, Any]]):
    """Value of a field -> what sorts it; of each there is one, for a hundred thousand rows have some hundred values."""

    def __missing__(self, value: Any) -> tuple[int, Any]:
        self[value] = found = (2, 0) if value is None else (1, value) if isinstance(value, str) else (0, value)
        return found


_PLACES = _Places()


def vary(rows: Sequence[Row] | Sequence[Part], names: Iterable[str]) -> tuple[list[str], dict[str, Any]]:
    """Of these fields: those with several known values, and those with one, with it."""
    found = {name: dict.fromkeys(row.fields[name] for row in rows if name in row.fields) for name in names}
    return (
        [name for name, values in found.items() if len(values) > 1],
        {name: next(iter(values)) for name, values in found.items() if len(values) == 1},
    )


class _Unusable:
    """Why a record is in no table, or ""."""

    def __init__(self) -> None:
        self._known = {name: (measure.version, frozenset(measure.fields)) for name, measure in measures().items()}
        self._heads: dict[Any, bool] = {}

    def __call__(self, record: Record) -> str:
        fields = record.fields
        known = self._known.get(record.measure)
        if known is None:
            return _GONE
        if record.version != known[0] or fields.keys() != known[1]:
            return _OLD
        if record.crossed:
            return _CROSSED
        head = fields.get("head")
        if head not in self._heads:
            self._heads[head] = "head" not in fields or _task(fields) is not None
        return "" if self._heads[head] else _HEADLESS


class _Times:
    """What was measured of an earlier backbone or head goes by that.

    ``fcos_pico@1``: a training of its first revision. ``swin_pico@raw``: a backbone whose levels had no norms yet under
    a head that now gets them normed, whatever was measured of it.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[Any, ...], Mapping[str, str]] = {}  # thousands of records are of one pair

    def __call__(self, record: Record) -> Record:
        fields, inputs = record.fields, record.inputs
        trains = "seed" in fields
        key = (fields.get("backbone"), fields.get("head"), trains, *inputs.items())
        earlier = self._known.get(key)
        if earlier is None:
            earlier = self._known[key] = self._earlier(fields, inputs, trains=trains)
        return replace(record, fields={**fields, **earlier}) if earlier else record

    @staticmethod
    def _earlier(fields: Mapping[str, Any], inputs: Mapping[str, str], *, trains: bool) -> Mapping[str, str]:
        earlier = {}
        if {"backbone", "head"} <= fields.keys() and not _levels_as_now(fields, inputs):
            earlier["backbone"] = f"{fields['backbone']}@{_RAW}"
        if trains:
            earlier |= {
                name: f"{fields[name]}@{then}"
                for name, now in catalogue.training_revisions(fields).items()
                if (then := inputs.get(f"{name} revision", "1")) != str(now)
            }
        return earlier


def _levels_as_now(fields: Mapping[str, Any], inputs: Mapping[str, str]) -> bool:
    return "levels" in inputs or not catalogue.normed(fields)


def _with_costs(parts: Sequence[Part]) -> list[Part]:
    """These parts, and beside a training of an earlier revision what its network costs, which is no other.

    A revision of a training changes no cost; levels that had no norms yet do.
    """
    if not any("@" in name for pair in {_names(part.fields) for part in parts} for name in pair):
        return list(parts)
    found: dict[tuple[Part, tuple[str, ...]], Part] = {(part, ()): part for part in parts}
    untrained: dict[tuple[str, str], list[Part]] = defaultdict(list)
    for part in parts:
        if "seed" not in part.records[0].fields:
            untrained[_names(part.fields)].append(part)
    for training in parts:
        names = dict(zip(_NAMES, _names(training.fields), strict=True))
        if not any("@" in name for name in names.values()):
            continue
        bare = {name: text.partition("@")[0] for name, text in names.items()}
        costed = dict(bare)
        if not _levels_as_now(bare, training.records[0].inputs):
            costed["backbone"] += f"@{_RAW}"
        if costed == names:
            continue
        wanted = {**training.fields, **costed}
        made = source.of(training.records[0].inputs)
        for part in untrained[_names(costed)]:
            if source.of(part.records[0].inputs) == made and all(
                wanted.get(name, value) == value for name, value in part.fields.items()
            ):
                found[part, tuple(names.values())] = replace(part, fields={**part.fields, **names})
    return list(found.values())


_NAMES = ("backbone", "head")


def _names(fields: Mapping[str, Any]) -> tuple[str, str]:
    return str(fields.get("backbone", "")), str(fields.get("head", ""))


def _task(fields: Mapping[str, Any]) -> str | None:
    entry = catalogue.entries("heads").get(str(fields.get("head", "")).partition("@")[0])
    return entry.facts["task"] if entry else None


def _files(record: Record) -> Iterator[tuple[tuple[Any, ...], str]]:
    """What a record depends on beyond names, and its digest: a recipe has one for each task.

    A backbone and a head have one, their source's, for whatever is measured of them: no row mixes two.

    What is said of a data set is of one measure, and with masks or without: a training that left out images says so, a
    latency does not, and other images have broken masks than have broken boxes. Nothing said is a state like any other.
    """
    for name, text in record.inputs.items():
        # What revision a record is of is part of its names by now.
        if name not in ("dataset", "levels", listings.INPUT, *source.NAMES) and not name.endswith(" revision"):
            of = record.fields.get(name), record.fields.get("quantise") if name == runtimes.INPUT else None
            yield (name, *of, _task(record.fields)), text
    for name in source.KINDS:
        if name in record.fields:
            yield (f"{name} source", record.fields[name]), record.inputs.get(f"{name} source", "")
    if "dataset" in record.fields:
        entry = catalogue.entries("heads").get(str(record.fields.get("head", "")).partition("@")[0])
        facts = entry.facts if entry else {}
        masks = bool(facts.get("masks", False))
        key = ("dataset", record.fields["dataset"], facts.get("task"), record.measure, masks)
        yield key, record.inputs.get("dataset", "")
    if listings.INPUT in record.inputs:
        yield (listings.INPUT, record.fields["dataset"], _task(record.fields)), record.inputs[listings.INPUT]


def _current(records: Sequence[Record], left_out: Counter[str]) -> list[Record]:
    """One record a question, see `better`; of an edited file one state only: today's, or else the last.

    Records may have been added from elsewhere (`bench.store.merge`), so that the last ones need not be the newest.
    """
    edited = _edited(records)
    keys = {name: _values(measure.fields) for name, measure in measures().items()}
    kept: dict[Any, Record] = {}
    for record, is_edited in zip(records, edited, strict=True):
        if is_edited:
            left_out[_EDITED] += 1
            continue
        # As `Record.key`, of which all have all fields and the version of today, and made in a fraction of its time.
        key = record.measure, keys[record.measure](record.fields), *sorted(record.inputs.items())
        before = kept.setdefault(key, record)
        if before is not record:
            left_out[_SUPERSEDED] += 1
            if "backbone" not in record.fields and record.status == before.status == "ok":
                kept[key] = _limits(before, record)
            elif better(record, before):
                kept[key] = record
    return list(kept.values())


def _limits(one: Record, other: Record) -> Record:
    """What a machine can do, of two measurements of it: each limit is the better one of the two.

    Neighbours, heat and chance make a limit look lower, nothing makes it look higher.
    """
    if one.company or other.company:
        return other if better(other, one) else one
    values = dict(other.values)
    for column in measures()[one.measure].columns:
        found = [
            value for value in (one.values.get(column.name), values.get(column.name)) if isinstance(value, int | float)
        ]
        if found and column.better:
            values[column.name] = max(found) if column.better == "higher" else min(found)
    return replace(other, values=values)


def _edited(records: Sequence[Record]) -> list[bool]:
    """Whether a record is of another state of a file than the one that counts."""
    numbers: dict[Any, int] = {}  # many records name the same
    named = [numbers.setdefault(_naming(record), len(numbers)) for record in records]
    last = dict(zip(named, range(len(named)), strict=True))
    stated = {number: list(_files(records[index])) for number, index in last.items()}
    # In the order of their last mention, so that what was said last is last.
    digests = _states(pair for number in sorted(last, key=last.__getitem__) for pair in stated[number])
    edited = {number: any(digests[file] != text for file, text in pairs) for number, pairs in stated.items()}
    return [edited[number] for number in named]


def _naming(record: Record) -> tuple[Any, ...]:
    """All of a record that `_files` looks at; records of one measure have the same fields."""
    field, inputs = record.fields.get, record.inputs
    named = record.measure, field("backbone"), field("head"), field("dataset"), field("quantise")
    return *named, *inputs.items(), *map(field, inputs)


def _states(files: Iterable[tuple[tuple[Any, ...], str]]) -> dict[tuple[Any, ...], str]:
    """What records depend on -> the digest of the state that counts."""
    last: dict[tuple[Any, ...], str] = {}
    several: dict[tuple[Any, ...], set[str]] = defaultdict(set)
    for file, text in files:
        before = last.setdefault(file, text)
        if before != text:
            several[file] |= {before, text}
            last[file] = text
    return last | {file: now for file, texts in several.items() if (now := _now(file)) in texts and now is not None}


def _now(file: tuple[Any, ...]) -> str | None:
    """The digest that what `_files` names has today; None where that is not known."""
    kind, name, *more = file
    if kind == "recipe" and name in recipes.names() and more[-1] is not None:
        try:
            return recipes.digest(name, more[-1])
        except UserError:  # it states nothing for the task any more
            return None
    known = source.KINDS.get(kind.removesuffix(" source"))
    return source.stated(known, name) if known and catalogue.find(known, name) else None


def _tables(
    folder: Path, environments: list[Environment], records: list[Record], left_out: Counter[str]
) -> list[Table]:
    groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
    of_models, of_machine = _divided(_parts(records, folder))
    for parts in _join(_with_costs(of_models)):
        fields: dict[str, Any] = {}
        for part in parts:
            fields |= part.fields
        parts += [part for part in of_machine if part.fields.items() <= fields.items()]
        task = _task(fields)
        if task is None:
            left_out[_HEADLESS] += sum(len(part.records) for part in parts)
            continue
        ordered = {name: fields[name] for name in FIELDS if name in fields}
        by_measure = {part.measure: part for part in sorted(parts, key=lambda part: part.measure)}
        groups[task, fields.get("dataset", "")].append(Row(task, ordered, by_measure))
    code = tuple(sorted({environment.git for environment in environments}))
    return [
        Table(printable(folder.name), environments[0], code, task, dataset, *_ranked(task, rows))
        for (task, dataset), rows in groups.items()
    ]


def _ranked(
    task: str, rows: list[Row]
) -> tuple[tuple[Row, ...], dict[Row, Rank], dict[str, Noise | None], dict[str, Paired], Family]:
    ranks: dict[Row, Rank] = {}
    noises: dict[str, Noise | None] = {}
    paired: dict[str, Paired] = {}
    claims = ALONE
    sign = 1.0
    top = headline(task)
    if top:
        measure, column = top
        sign = -1.0 if column.better == "lower" else 1.0
        of_rows = ((row, row.parts.get(measure.name)) for row in rows)
        scored = {row: part for row, part in of_rows if part and column.name in part.values}
        groups = {
            recipe: {row: part for row, part in scored.items() if row.fields.get("recipe", "") == recipe}
            for recipe in sorted({row.fields.get("recipe", "") for row in scored})
        }
        noises = {recipe: noise(parts.values(), column.name) for recipe, parts in groups.items()}
        paired = {recipe: pairing(parts.values(), column.name) for recipe, parts in groups.items()}
        chances = {recipe: chance(column.name, noises[recipe]) for recipe in groups}
        known = [recipe for recipe in groups if noises[recipe] is not None or paired[recipe].paired]
        claims = family(*((list(dict.fromkeys(groups[recipe].values())), chances[recipe]) for recipe in known))
        for recipe, parts in groups.items():
            stats = {part: part.values[column.name] for part in parts.values()}
            places = rank(stats, column, claimed(chances[recipe], claims.level))
            ranks |= {row: places[part] for row, part in parts.items()}

    def place(row: Row) -> tuple[Any, ...]:
        mean = row.parts[top[0].name].values[top[1].name].mean if top and row in ranks else 0.0
        return (
            "recipe" not in row.fields,
            row.fields.get("recipe", ""),
            row not in ranks,
            -sign * mean,
            order(row.fields),
        )

    return tuple(sorted(rows, key=place)), ranks, noises, paired, claims


def _parts(records: Iterable[Record], folder: Path) -> list[Part]:
    groups: dict[tuple[Any, ...], list[Record]] = defaultdict(list)
    keys = {name: _values(field for field in measure.fields if field != "seed") for name, measure in measures().items()}
    for record in records:
        groups[record.measure, keys[record.measure](record.fields)].append(record)
    return [
        Part(
            group[0].measure,
            _seedless(group[0].fields),
            tuple(sorted(group, key=_seed)) if len(group) > 1 else tuple(group),
            folder,
        )
        for group in groups.values()
    ]


def _seedless(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    return {name: value for name, value in fields.items() if name != "seed"} if "seed" in fields else fields


def _seed(record: Record) -> int:
    return record.fields.get("seed", 0)


def _divided(parts: Iterable[Part]) -> tuple[list[Part], list[Part]]:
    """What was measured of models, and what was measured of the machine alone."""
    of_models: list[Part] = []
    of_machine: list[Part] = []
    for part in parts:
        (of_models if "backbone" in part.fields else of_machine).append(part)
    return of_models, of_machine


def _join(parts: Sequence[Part]) -> Iterator[list[Part]]:
    """All largest sets of parts that agree wherever they share a field (and share the fields that all parts have)."""
    fields = {part.measure: part.fields.keys() for part in parts}  # parts of one measure have the same
    shared = set(FIELDS).intersection(*fields.values())
    key = _values(sorted(shared))
    both = {pair: _values(sorted(fields[pair[0]] & fields[pair[1]] - shared)) for pair in permutations(fields, 2)}
    groups: dict[Any, list[Part]] = defaultdict(list)
    for part in parts:
        groups[key(part.fields)].append(part)
    for group in groups.values():
        yield from _grow([], set(group), set(), _partners(group, both))


def _partners(
    parts: Sequence[Part], both: Mapping[tuple[str, str], Callable[[Mapping[str, Any]], Any]]
) -> dict[Part, set[Part]]:
    """Part -> the parts of other measures that agree with it in all fields that both have.

    both: two measures -> the values of what their parts have in common beyond what all have, in which all agree.
    """
    by_measure: dict[str, list[Part]] = defaultdict(list)
    for part in parts:
        by_measure[part.measure].append(part)
    partners: dict[Part, set[Part]] = {part: set() for part in parts}
    for (one, mine), (other, others) in combinations(by_measure.items(), 2):
        key = both[one, other]
        index: dict[Any, list[Part]] = defaultdict(list)
        for part in others:
            index[key(part.fields)].append(part)
        for part in mine:
            found = index.get(key(part.fields), ())
            partners[part].update(found)
            for partner in found:
                partners[partner].add(part)
    return partners


def _values(names: Iterable[str]) -> Callable[[Mapping[str, Any]], Any]:
    """A function that gives the values of these fields, for a key."""
    chosen = tuple(names)
    return itemgetter(*chosen) if chosen else lambda _: ()


def _grow(
    chosen: list[Part], free: set[Part], done: set[Part], partners: Mapping[Part, set[Part]]
) -> Iterator[list[Part]]:
    """Bron and Kerbosch's enumeration of maximal cliques with a pivot; as deep as there are measures."""
    if not free:
        if not done:
            yield chosen
        return
    pivot = max(free | done, key=lambda part: len(free & partners[part]))
    for part in free - partners[pivot]:
        yield from _grow([*chosen, part], free & partners[part], done & partners[part], partners)
        free.remove(part)
        done.add(part)


def _applies(column: Column, task: str | None, as_headline: bool) -> bool:
    return (task is None or column.task in {None, task}) and (column.headline or not as_headline)


def _by_id(environment: Environment) -> str:
    return environment.id
