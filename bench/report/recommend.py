"""``densebench recommend``: the row to take within limits, and how sure that is.

Rows of one data set and one recipe are candidates if all that is limited is known of them and within. The *best* has
the best figure of the objective. All that cannot be told apart from it are *tied* with it: by the images and seeds
(`bench.report.evidence`) where the objective is an accuracy, by the rounds (`bench.report.claims`) where it is a time.
The comparisons with the best are one family (`bench.stats.family`). The *pick* is the cheapest of those, for what
cannot be seen in the objective is no ground to pay more. A figure that
was taken in company may be within a limit, for it would only be smaller without, but a pick is chosen by none.

Where no row of the data set and recipe has two seeds, the seed noise of all other accuracies of the task stands in;
where there is none either, images alone decide what is tied. Either is said. (A tie of everything would recommend the
cheapest model that there is.)

Costs of two machines are measured apart, so they differ only beyond `bench.report.claims.UNLINKED`.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bench.errors import UserError, printable
from bench.plan import recipe as recipes
from bench.plan.measure import Column, Measure
from bench.report.choosing import AXES, axis_of, check_class, check_known, column_of, matches, normal, of_class, stat_of
from bench.report.claims import UNLINKED, claim
from bench.report.evidence import compared
from bench.report.limits import Limit
from bench.report.rows import Part, Row, Table, folders, headline, noise, read
from bench.report.standing import between, comparable, pareto, series_of
from bench.stats.bootstrap import SEEDS
from bench.stats.family import ALONE, ALPHA, Family, holm
from bench.stats.ranking import Noise, quantile, t95
from bench.store.store import no_collection

COSTS = ("latency_ms", "peak_mib", "gmacs", "params_m")
"""What makes a row cheap, the first of these that is known of the rows, where nothing was said."""
MOST_SEEDS = 24
"""A tie that would take more seeds than these is called one."""


_NO_NOISE = Noise(0.0, 1000)
"""Of seeds, where it is not known at all: what images leave open is known nevertheless."""


@dataclass(frozen=True)
class Gap:
    """What a row's objective is from the best one's, in the objective's unit (of a time: its ratio to the best's).

    low, high: 95 %; None: unknown. p: p-value of their being equal; 0 or 1 where that is judged and not tested.
    """

    value: float
    low: float | None
    high: float | None
    p: float


@dataclass(frozen=True, eq=False)
class Choice:
    """A row within the limits.

    gap: see `Gap`; of the best 0. tied: cannot be told apart from the best (which is tied with itself). front: nothing
    within the limits is both cheaper and better. close: limits that it is within by less than its own interval.
    """

    machine: str
    row: Row
    gap: Gap
    tied: bool
    front: bool
    close: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Miss:
    """A row beyond limits. beyond: limit -> share by which; near: all of those by less than may be claimed."""

    machine: str
    row: Row
    beyond: Mapping[Limit, float]
    near: bool


@dataclass(frozen=True)
class Tie:
    """A tied row and the pick: how many seeds each would tell them apart; None: more than `MOST_SEEDS`, or unknown."""

    choice: Choice
    seeds: int | None


@dataclass(frozen=True)
class Answer:
    """What to take, of one data set and recipe.

    choices: within the limits, best first. pick: one of them; None where nothing fits. misses: nearest first. unknown:
    column -> rows that lack it. excluded: limit -> rows that are beyond it. ties: of the pick. noise: of seeds, in the
    objective's unit; None: of no seeds, or unknown. borrowed: it is that of other recipes and data sets. others: (data
    set, recipe) -> rows that could have been asked about instead. batch: of all costs; None: they depend on none.
    family: the comparisons with the best.
    """

    machines: tuple[str, ...]
    titles: tuple[str, ...]
    task: str
    dataset: str
    recipe: str
    objective: Column
    cost: Column
    limits: tuple[Limit, ...]
    choices: tuple[Choice, ...]
    pick: Choice | None
    misses: tuple[Miss, ...]
    unknown: Mapping[str, tuple[Row, ...]]
    excluded: Mapping[Limit, int]
    ties: tuple[Tie, ...]
    noise: Noise | None
    borrowed: bool
    others: Mapping[tuple[str, str], int]
    batch: int | None = None
    family: Family = ALONE


@dataclass(frozen=True)
class _Asked:
    """The columns that count: (name, measure, column)."""

    objective: tuple[str, Measure, Column]
    cost: tuple[str, Measure, Column]
    limits: tuple[Limit, ...]
    noise: Noise | None = None
    borrowed: bool = False
    between: Mapping[tuple[str, str], Noise] = field(default_factory=dict)
    """(environment, measure) -> what processes of one cell differ by."""

    @property
    def sign(self) -> int:
        return 1 if self.objective[2].better == "higher" else -1

    @property
    def cheaper(self) -> int:
        return 1 if self.cost[2].better == "lower" else -1


@dataclass(frozen=True, eq=False)
class _Candidate:
    machine: str
    environment: str
    row: Row
    part: Part
    recipe: str
    dataset: str
    sizes: Mapping[str, float] = field(default_factory=dict)


@no_collection()
def recommend(
    results: Path,
    *,
    task: str,
    limits: Sequence[Limit] = (),
    best: str | None = None,
    cost: str | None = None,
    machines: Sequence[str] = (),
    environment: str | None = None,
    where: Mapping[str, Sequence[str]] | None = None,
) -> Answer:
    """The row to take of a task.

    Args:
        results: results folder.
        task: "segmentation" or "detection".
        limits: that a row has to be within.
        best: column of the objective; None: the headline of the task.
        cost: column that decides between ties; None: the first of `COSTS` that rows have.
        machines: names of machines' folders; none: the only one there is.
        environment: beginning of the id of what is comparable, where a machine has several.
        where: values of axes to keep. Without ``dataset`` or ``recipe`` those that most rows have, without ``batch``
            the smallest one.

    Raises:
        UserError: an unknown name, a machine that has to be named, no records that match.
    """
    tables = _tables(results, task, machines, environment)
    where = where or {}
    check_known("axis", where, AXES)
    for axis, values in where.items():
        there = {axis_of(row, axis) for table in tables for row in table.rows} - {""}
        check_known(axis, [normal(axis, text) for text in values], there)
    top = headline(task)
    assert top is not None, "both tasks have one"
    objective = _column(best or top[1].name)
    rows = [(table, row) for table in tables for row in table.rows if matches(row, where) and not _earlier(row)]
    cost = cost or _default_cost(row for _, row in rows)
    asked = _Asked(objective, _column(cost), tuple(limits))
    for one in (asked.objective, asked.cost, *((x.name, *column_of(x.name)) for x in limits)):
        if one[2].task not in {None, task}:
            raise UserError(f"column '{one[0]}' is of {one[2].task}, and {task} was asked for")
        check_class(one[0], [row for table in tables for row in table.rows])
    groups = _groups(rows, asked)
    if not groups:
        what = f"no row of {task} under {results} has {objective[0]}"
        raise UserError(f"{what}{' where it was asked for' if where else ''}; measure them with `densebench run`")
    chosen = max(groups, key=lambda key: (_complete(groups[key], asked), len(groups[key]), key))
    others = {key: len(found) for key, found in groups.items() if key != chosen}
    spread, borrowed = _noise(groups, chosen, asked)
    batch, group = _of_one_batch(groups[chosen], asked)
    found = _answer(
        tables, group, replace(asked, noise=spread, borrowed=borrowed, between=_between(tables, asked)), others
    )
    return replace(found, batch=batch)


def _noise(
    groups: Mapping[tuple[str, str], Sequence["_Candidate"]], chosen: tuple[str, str], asked: "_Asked"
) -> tuple[Noise | None, bool]:
    """Seed noise of the objective, and whether it is that of other groups."""
    name, measure, _ = asked.objective
    if "seed" not in measure.fields:
        return None, False
    own = noise(dict.fromkeys(one.part for one in groups[chosen]), name)
    if own is not None:
        return own, False
    # Pooled within each measurement, so that the recipes' own levels do not count.
    return noise(dict.fromkeys(one.part for group in groups.values() for one in group), name), True


def _between(tables: Iterable[Table], asked: "_Asked") -> dict[tuple[str, str], Noise]:
    found: dict[tuple[str, str], list[Part]] = {}
    timed = {measure.name: measure for _, measure, _ in (asked.objective, asked.cost) if measure.interleaved}
    for table in tables:
        for row in table.rows:
            for name in timed.keys() & row.parts.keys():
                found.setdefault((table.environment.comparable, name), []).append(row.parts[name])
    return {key: between(timed[key[1]], parts) for key, parts in found.items()}


def _column(name: str) -> tuple[str, Measure, Column]:
    measure, column = column_of(name)
    return name, measure, of_class(column, name)


def _default_cost(rows: Iterable[Row]) -> str:
    there = {name for row in rows for part in row.parts.values() for name in part.values}
    return next((name for name in COSTS if name in there), COSTS[0])


def _tables(results: Path, task: str, machines: Sequence[str], environment: str | None) -> list[Table]:
    found = folders(results)
    names = [printable(folder.name) for folder in found]
    check_known("machine", machines, names)
    if not machines and len(names) > 1:
        raise UserError(f"there are records of {', '.join(names)}: name the machine, or several, by --machine")
    tables = [
        table for folder in found if not machines or printable(folder.name) in machines for table in read(folder).tables
    ]
    check_known("task", [task], {table.task for table in tables})
    kept = [table for table in tables if table.task == task]
    if environment is not None:
        of_machine = {machine: {t.environment.comparable for t in kept if t.machine == machine} for machine in names}
        kept = [
            table
            for table in kept
            if len(of_machine[table.machine]) < 2 or table.environment.comparable.startswith(environment)
        ]
        if not any(table.environment.comparable.startswith(environment) for table in kept):
            there = ", ".join(sorted({table.environment.comparable for table in tables}))
            raise UserError(f"no environment begins with {environment}: there is {there}")
    for machine in {table.machine for table in kept}:
        apart_ = {t.environment.comparable: t.environment.title() for t in kept if t.machine == machine}
        if len(apart_) > 1:
            which = "; ".join(f"{name} ({title})" for name, title in sorted(apart_.items()))
            raise UserError(
                f"{machine} has records of {len(apart_)} environments whose figures are not comparable: {which}. "
                "Choose one by --environment"
            )
    return kept


def _groups(rows: Iterable[tuple[Table, Row]], asked: _Asked) -> dict[tuple[str, str], list[_Candidate]]:
    """(data set, recipe) -> rows with the objective, each measurement of them once."""
    name, measure, _ = asked.objective
    by_recipe = any(
        "recipe" in column_of(one)[0].fields for one in (name, asked.cost[0], *(x.name for x in asked.limits))
    )
    groups: dict[tuple[str, str], dict[tuple[Any, ...], _Candidate]] = {}
    for table, row in rows:
        part = row.parts.get(measure.name)
        recipe = str(row.fields.get("recipe", "")) if by_recipe else ""
        if part is None or name not in part.values or part.values[name].company or not _trained(recipe, table.task):
            continue
        limited = [limit.name for limit in asked.limits]
        sizes = {one: value for one in {*limited, asked.cost[0]} if (value := _value(row, one)) is not None}
        found = _Candidate(table.machine, table.environment.comparable, row, part, recipe, table.dataset, sizes)
        of_limits = tuple(row.parts.get(column_of(one)[0].name) for one in (*limited, asked.cost[0]))
        groups.setdefault((table.dataset, recipe), {}).setdefault((part, *of_limits), found)
    return {key: list(found.values()) for key, found in groups.items()}


def _earlier(row: Row) -> bool:
    """Whether it is of an earlier revision of its backbone or head, which nobody can build any more."""
    return any("@" in str(row.fields.get(name, "")) for name in ("backbone", "head"))


def _of_one_batch(group: Sequence[_Candidate], asked: _Asked) -> tuple[int | None, list[_Candidate]]:
    """The batch whose costs are compared, and the rows; those of other batches without what depends on it.

    One image, else the smallest that was measured: milliseconds of one image and of eight are two questions. None:
    nothing that counts depends on the batch.
    """
    names = (asked.objective[0], asked.cost[0], *(limit.name for limit in asked.limits))
    of_batch = {name for name in names if "batch" in column_of(name)[0].fields}
    known = {one.row.fields["batch"] for one in group if of_batch & one.sizes.keys() and "batch" in one.row.fields}
    if not known:
        return None, list(group)
    batch = min(known)
    kept = [one for one in group if one.row.fields.get("batch", batch) == batch]
    there = {one.part for one in kept}
    for one in group:
        if one.part not in there and asked.objective[0] not in of_batch:
            there.add(one.part)
            sizes = {name: size for name, size in one.sizes.items() if name not in of_batch}
            kept.append(replace(one, row=_batchless(one.row), sizes=sizes))
    return batch, kept


def _batchless(row: Row) -> Row:
    """A row without what depends on its batch."""
    parts = {name: part for name, part in row.parts.items() if "batch" not in part.fields}
    return replace(row, fields={name: value for name, value in row.fields.items() if name != "batch"}, parts=parts)


def _trained(recipe: str, task: str) -> bool:
    """Whether accuracies of a recipe mean something: one of a single step measures random weights."""
    try:
        return not recipe or recipes.load(recipe, task).steps > 1  # pyright: ignore[reportArgumentType] - a task
    except UserError:  # it is no longer there
        return True


def _complete(group: Sequence[_Candidate], asked: _Asked) -> int:
    return sum(all(limit.name in one.sizes for limit in asked.limits) and asked.cost[0] in one.sizes for one in group)


def _answer(
    tables: Sequence[Table], group: Sequence[_Candidate], asked: _Asked, others: Mapping[tuple[str, str], int]
) -> Answer:
    name, measure, column = asked.objective
    fitting: list[_Candidate] = []
    misses: list[Miss] = []
    unknown: dict[str, list[Row]] = {}
    for one in group:
        lacking = [limit.name for limit in asked.limits if limit.name not in one.sizes]
        for missing in lacking:
            unknown.setdefault(missing, []).append(one.row)
        beyond = {
            limit: limit.excess(one.sizes[limit.name])
            for limit in asked.limits
            if limit.name in one.sizes and not limit.holds(one.sizes[limit.name])
        }
        if beyond:
            near = not lacking and all(_within_noise(one, limit, asked) for limit in beyond)
            misses.append(Miss(one.machine, one.row, beyond, near))
        elif not lacking:
            fitting.append(one)
    figures = _figures(fitting, asked)
    fitting.sort(key=lambda one: -asked.sign * figures[one.part])
    gaps = [_gap(one, fitting[0], asked) for one in fitting]
    compared_ = Family(max(1, len(gaps) - 1), holm(gap.p for gap in gaps[1:]))
    # The level that the next of them would have to reach.
    step = ALPHA / max(1, sum(gap.p > compared_.level for gap in gaps[1:]))
    choices = _choices(fitting, gaps, compared_.level, asked)
    pick = _pick(choices, fitting, asked)
    machines = tuple(dict.fromkeys(one.machine for one in group))
    return Answer(
        machines=machines,
        titles=tuple(dict.fromkeys(t.environment.title() for t in tables if t.machine in machines)),
        task=tables[0].task,
        dataset=group[0].dataset,
        recipe=group[0].recipe,
        objective=column,
        cost=asked.cost[2],
        limits=asked.limits,
        choices=choices,
        pick=pick,
        misses=tuple(sorted(misses, key=lambda miss: max(miss.beyond.values()))),
        unknown={key: tuple(rows) for key, rows in unknown.items()},
        excluded=Counter(limit for miss in misses for limit in miss.beyond),
        ties=_ties(choices, pick, asked.noise, name, step) if "seed" in measure.fields else (),
        noise=asked.noise,
        borrowed=asked.borrowed,
        others=others,
        family=compared_,
    )


def _figures(fitting: Iterable[_Candidate], asked: _Asked) -> dict[Part, float]:
    """The objective of each row; times of one machine as their claims see them."""
    name, measure, _ = asked.objective
    by_environment: dict[str, list[Part]] = {}
    for one in fitting:
        by_environment.setdefault(one.environment, []).append(one.part)
    return {
        part: figure for parts in by_environment.values() for part, figure in comparable(parts, measure, name).items()
    }


def _choices(fitting: Sequence[_Candidate], gaps: Sequence[Gap], level: float, asked: _Asked) -> tuple[Choice, ...]:
    """The rows within the limits, in their order: best first."""
    name = asked.objective[0]
    cost_measure, _ = column_of(asked.cost[0])
    priced = [
        one
        for one in fitting
        if asked.cost[0] in one.sizes and not one.row.parts[cost_measure.name].values[asked.cost[0]].company
    ]
    points = [(asked.cheaper * one.sizes[asked.cost[0]], asked.sign * one.part.values[name].mean) for one in priced]
    front = {one for one, stands in zip(priced, pareto(points), strict=True) if stands}
    found = []
    for one, gap in zip(fitting, gaps, strict=True):
        close = tuple(str(limit) for limit in asked.limits if _within_noise(one, limit, asked))
        found.append(Choice(one.machine, one.row, gap, gap.p > level, one in front, close))
    return tuple(found)


def _gap(one: _Candidate, best: _Candidate, asked: _Asked) -> Gap:
    name, measure, column = asked.objective
    mine, theirs = one.part.values[name], best.part.values[name]
    if one.part is best.part:
        return Gap(0.0, None, None, 1.0)
    if series_of(measure, name):
        return _ratio(name, measure, column, one, best, asked)
    trains = "seed" in measure.fields
    spread = asked.noise or (_NO_NOISE if trains else None)
    paired = compared(one.part, best.part, name, spread)
    if paired is not None:
        known = math.isfinite(paired.low)
        return Gap(paired.value, paired.low if known else None, paired.high if known else None, paired.p)
    value = mine.mean - theirs.mean
    least = spread.difference(mine.n, theirs.n) if asked.noise and spread else None
    p = spread.chance(value, mine.n, theirs.n) if spread else float(value == 0)
    return Gap(value, None if least is None else value - least, None if least is None else value + least, p)


def _ratio(name: str, measure: Measure, column: Column, one: _Candidate, other: _Candidate, asked: _Asked) -> Gap:
    """A column of one row over that of another, where it was taken in rounds; of a rate, too."""
    parts = one.row.parts[measure.name], other.row.parts[measure.name]
    plain = parts[0].values[name].mean / parts[1].values[name].mean
    if one.environment != other.environment:
        return Gap(plain, None, None, float(abs(math.log(plain)) <= math.log1p(UNLINKED)))
    spread = asked.between.get((one.environment, measure.name))
    found = claim(measure, parts[0].records[0], parts[1].records[0], series_of(measure, name), between=spread)
    if found.ratio is None:
        return Gap(plain, None, None, found.p)
    ratio = found.ratio
    if column.better == "higher":  # the rounds hold times
        return Gap(1 / ratio.value, 1 / ratio.high, 1 / ratio.low, found.p)
    return Gap(ratio.value, ratio.low, ratio.high, found.p)


def _pick(choices: Sequence[Choice], fitting: Sequence[_Candidate], asked: _Asked) -> Choice | None:
    """The cheapest of those that are tied with the best; of several that cost the same, the best."""
    name, measure, _ = asked.cost
    of_row = {one.row: one for one in fitting}
    tied = [
        (choice, of_row[choice.row])
        for choice in choices
        if choice.tied and name in of_row[choice.row].sizes and not choice.row.parts[measure.name].values[name].company
    ]
    if not tied:
        return choices[0] if choices else None
    cheapest = min(tied, key=lambda pair: asked.cheaper * pair[1].sizes[name])[1]
    return next(choice for choice, one in tied if one is cheapest or not _dearer(one, cheapest, asked))


def _dearer(one: _Candidate, cheapest: _Candidate, asked: _Asked) -> bool:
    """Whether a row is known to cost more."""
    name, measure, column = asked.cost
    if not series_of(measure, name):
        return one.sizes[name] != cheapest.sizes[name]
    gap = _ratio(name, measure, column, one, cheapest, asked)
    return gap.p <= ALPHA and asked.cheaper * (gap.value - 1) > 0


def _within_noise(one: _Candidate, limit: Limit, asked: _Asked) -> bool:
    """Whether a limit lies within the 95 % interval of what it limits."""
    measure, _ = column_of(limit.name)
    part = one.row.parts[measure.name]
    value = part.values[limit.name]
    low = high = value.mean
    margin = part.values.get(measure.margin) if series_of(measure, limit.name) == measure.interleaved else None
    prefix = measure.interleaved.removesuffix("_ms")
    ends = [part.values.get(f"{prefix}_{end}_ms") for end in ("low", "high")]
    if value.company and limit.name == measure.interleaved and ends[0] and ends[1]:
        low, high = ends[0].mean, ends[1].mean
    elif margin:
        low, high = value.mean * (1 - margin.mean / 100), value.mean * (1 + margin.mean / 100)
    elif limit.name == asked.objective[0] and asked.noise is not None:
        half = t95(asked.noise.freedom) * asked.noise.sd / math.sqrt(value.n)
        low, high = value.mean - half, value.mean + half
    elif measure.trains and value.sd is not None:
        half = t95(value.n - 1) * value.sd / math.sqrt(value.n)
        low, high = value.mean - half, value.mean + half
    return low <= limit.value <= high and low < high


def _ties(
    choices: Sequence[Choice], pick: Choice | None, spread: Noise | None, name: str, level: float
) -> tuple[Tie, ...]:
    """How many seeds would tell the pick from the others that are tied with the best."""
    if pick is None:
        return ()
    tied = [one for one in choices if one is not pick and one.tied]
    return tuple(Tie(one, _seeds(one, pick, spread, name, level)) for one in tied)


def _seeds(one: Choice, other: Choice, spread: Noise | None, name: str, level: float) -> int | None:
    """How many seeds each of two would tell them apart, if their means stay what they are; None: too many, or unknown.

    The interval of a difference is made of what images leave open, h, and of seeds, z s √(2 / n), see `bench.stats`; it
    excludes 0 once h² + 2 z² s² / n is less than the difference's square. z is 2 for a single comparison at 95 %, and
    both parts grow with it where several are made.
    """
    measure, _ = column_of(name)
    sides = [side.row.parts[measure.name] for side in (one, other)]
    stats = [side.values[name] for side in sides]
    images = compared(sides[0], sides[1], name, _NO_NOISE)
    half = (images.high - images.low) / 2 if images is not None else 0.0
    z = 2 * quantile(math.inf, level) / quantile(math.inf)
    if min(stat.n for stat in stats) >= SEEDS:  # then it is of their own seeds, too
        own = [stat.sd**2 / stat.n for stat in stats if stat.sd is not None]
        half = math.sqrt(max(0.0, half**2 - 4 * sum(own)))
    left = (stats[0].mean - stats[1].mean) ** 2 - (half * z / 2) ** 2
    if spread is None or not left > 0:
        return None
    needed = max(math.ceil(2 * z**2 * spread.sd**2 / left), *(stat.n + 1 for stat in stats))
    return needed if needed <= MOST_SEEDS else None


def _value(row: Row, name: str) -> float | None:
    found = stat_of(row, name)
    return None if found is None else found.mean
