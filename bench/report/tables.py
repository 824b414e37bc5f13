"""``densebench report``: every table, from the records alone. The same records give the same bytes."""

import csv
import io
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from bench import catalogue
from bench.errors import UserError, printable
from bench.plan import recipe as recipes
from bench.plan.cell import FIELDS
from bench.plan.measure import TRAINED, UNREPEATABLE, Column, measures
from bench.report import exported, law_tables, reach
from bench.report.halves import each
from bench.report.learning import learning
from bench.report.naming import IDENTITY, OTHERS, choices, naming
from bench.report.rows import DERIVED, Part, Reading, Row, Table, columns, folders, headline, read, vary
from bench.report.sheet import texts_only
from bench.report.terminal import NO_BREAK, TableColumn, TerminalTable
from bench.stats.ranking import Stat
from bench.store.record import Record
from bench.store.store import no_collection

SPREAD = f"±{NO_BREAK}sd (seeds)"
"""Title of the column beside a mean over seeds."""
MARGIN = f"±{NO_BREAK}95{NO_BREAK}% CI"
"""Title of the column beside a time that was taken in rounds."""
IMPORTANCE = (
    "latency_ms", "rank", MARGIN, SPREAD, "peak_mib", "gmacs", "train_step_ms", "joules_per_image", "train_peak_mib",
    "max_batch", "mfu_pct",
)  # fmt: skip
"""Columns of the table at the end of a run, what is left out last first; those of other measures go before them all."""
LEARNING = "learning.md"
REACH = f"{reach.NAME}.md"
"""The tables of `bench.report.learning` and `bench.report.reach`, where there is something for them."""
IN_COMPANY = "≈"
"""Sign of a figure that was taken in company."""
COMPANY_NOTE = (
    f"{IN_COMPANY} taken while other processes used the machine, and so too slow: no claim is made of it, and its "
    "interval goes from what the fastest round may have been without them to the slowest round"
)
_LONGEST = 300
_PLAIN = re.compile(r"[A-Za-z0-9.±() /%=-]{0,40}")


@dataclass(frozen=True)
class Result:
    """What became of the tables. With ``check`` nothing is written, and `differing` says what would change.

    written, unchanged, removed, differing: files, in order.
    """

    written: tuple[Path, ...] = ()
    unchanged: tuple[Path, ...] = ()
    removed: tuple[Path, ...] = ()
    differing: tuple[Path, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the files are (now) what the records give."""
        return not self.differing


@no_collection()
def report(results: Path, *, check: bool = False) -> Result:
    """Write ``<task>.md``, ``<task>.csv``, ``learning.md``, ``reach.md``, ``laws.md`` beside records, or check them.

    Tables of a task that the records no longer know are removed.

    Raises:
        UserError: no records, broken records, or a folder that cannot be written to; names it.
    """
    done = [write(read(folder), check=check) for folder in folders(results)]
    kinds = zip(*(astuple(one) for one in done), strict=True)
    return Result(*(tuple(path for paths in kind for path in paths) for kind in kinds))


def write(reading: Reading, *, check: bool = False) -> Result:
    """As `report`, of one machine's folder that was read.

    Raises:
        UserError: the folder cannot be written to; names it.
    """
    written, unchanged, removed = [], [], []
    folder, wanted = reading.folder, texts(reading)
    try:
        for name, text in wanted.items():
            path = folder / name
            data = text.encode()
            if path.exists() and path.read_bytes() == data:
                unchanged.append(path)
                continue
            written.append(path)
            if not check:
                _replace(path, data)
        stale = [folder / f"{task}.{kind}" for task in _tasks() for kind in ("csv", "md")]
        stale += [folder / name for name in (LEARNING, REACH, *law_tables.FILES)]
        for path in sorted(stale):
            if path.name not in wanted and path.exists():
                removed.append(path)
                if not check:
                    path.unlink()
    except OSError as error:
        raise UserError(
            f"tables in {folder} cannot be written ({error.strerror}); make it writable or use another --results"
        ) from error
    if check:
        return Result(unchanged=tuple(unchanged), differing=tuple(sorted(written + removed)))
    return Result(tuple(written), tuple(unchanged), tuple(removed))


def _replace(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, and leave nothing else."""
    temporary = path.with_name(f".{path.name}.part")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def texts(reading: Reading) -> dict[str, str]:
    """File name -> text, for all tables of one machine."""
    machine = printable(reading.folder.name)
    jobs: list[tuple[float, Callable[[], dict[str, str]]]] = []
    for task in sorted({table.task for table in reading.tables}):
        tables = [table for table in reading.tables if table.task == task]
        rows = sum(len(table.rows) for table in tables)
        jobs.append((rows, lambda task=task, tables=tables: {f"{task}.csv": as_csv(tables)}))
        jobs.append(
            (rows / 2, lambda task=task, tables=tables: {f"{task}.md": _markdown(task, tables, reading.left_out)})
        )
    everywhere = sum(len(table.rows) for table in reading.tables)
    jobs.append((everywhere, lambda: _others(machine, reading.tables)))
    found = each(lambda job: job[1](), jobs, lambda job: job[0])
    return {name: text for texts in found for name, text in texts.items()}


def _others(machine: str, tables: Sequence[Table]) -> dict[str, str]:
    found = {LEARNING: learning(machine, tables), REACH: reach.reach(machine, tables)}
    return {name: text for name, text in found.items() if text} | law_tables.texts(machine, tables)


def summary_table(table: Table, *, wide: bool = False) -> TerminalTable:
    """For a terminal: what the row is, its rank, the headline and each other measure's first column.

    Where there is no room, columns are left out in the order of `IMPORTANCE`, the last one first; never the headline
    and the first cost.

    Args:
        table: what to show.
        wide: every column that the Markdown has, however wide that is.
    """
    top = headline(table.task)
    names = table.names
    first: dict[str, Column] = {}
    shown = [(measure, column) for measure, column in columns(table.task) if column.table and column.name in names]
    for measure, column in shown:
        first.setdefault(measure.name, column)
    chosen = [column for _, column in shown] if wide else list(first.values())
    margins = {one.interleaved: one.margin for one in measures().values() if one.interleaved}
    by_importance = sorted(chosen, key=lambda column: (column != (top and top[1]), _place(column.name)))
    essential = by_importance[: 2 if top and top[1] in chosen else 1]
    named = naming([row.fields for row in table.rows], headed=["recipe"])
    body = [TableColumn("rank", [str(table.ranks.get(row, "")) for row in table.rows], _place("rank"), right=True)]
    body += named.columns
    for column in chosen:
        stats = [row.values.get(column.name) for row in table.rows]
        cells = [number(stat, column) for stat in stats]
        importance = 0 if column in essential else _place(column.name)
        body.append(TableColumn(label(column), cells, importance, right=True))
        if top and column == top[1]:
            bars = [error_bar(stat, column) for stat in stats]
            body.append(TableColumn(SPREAD, bars, _place(SPREAD), joined=True))
        if not wide and column in essential and (margin := margins.get(column.name)):
            bars = [margin_bar(row.values.get(margin)) for row in table.rows]
            body.append(TableColumn(MARGIN, bars, _place(MARGIN), joined=True))
    if wide and "mfu_pct" in names:
        bounds = [row.bound for row in table.rows]
        body.append(TableColumn("bound by", bounds))
    in_company = any(part.company for row in table.rows for part in row.parts.values())
    return TerminalTable(
        f"{table.task} on {table.dataset}",
        [column for column in body if any(column.cells)],
        headings=named.headings,
        notes={index: text for index, row in enumerate(table.rows) if (text := status(row.parts.values()))},
        caption=[table.environment.title(), *named.caption(), COMPANY_NOTE if in_company else ""],
        wide=wide,
    )


def label(column: Column) -> str:
    """Title with unit; a rate's title says its unit already."""
    return column.title if not column.unit or column.unit.startswith("1/") else f"{column.title} ({column.unit})"


def number(stat: Stat | None, column: Column, *, spread: bool = False) -> str:
    """Mean with the column's decimals; with ``spread`` also ``± sd (seeds)``. Unknown is empty.

    `IN_COMPANY` stands before a figure that was taken while other processes used the machine.
    """
    if stat is None:
        return ""
    mean = _rounded(stat.mean, column.digits)
    if stat.company:
        mean = f"{IN_COMPANY}{NO_BREAK}{mean}"
    if not spread:
        return mean
    return f"{mean}{'' if stat.sd is None else f' ± {_rounded(stat.sd, column.digits)}'} ({stat.n})"


def _rounded(value: float, digits: int) -> str:
    text = f"{value:.{digits}f}"
    # What is there never looks like nothing.
    return f"{value:.1g}" if -1 < value < 1 and value and not float(text) else text


def margin_bar(stat: Stat | None) -> str:
    """Half of an interval as a share of its figure, in percent: ``± 5.0 %``."""
    return "" if stat is None else f"±{NO_BREAK}{stat.mean:.1f}{NO_BREAK}%"


def error_bar(stat: Stat | None, column: Column) -> str:
    """What `number` says of the spread beside the mean: ``± sd (seeds)``."""
    return number(stat, column, spread=True).removeprefix(number(stat, column)).strip()


def status(parts: Iterable[Part]) -> str:
    """What is not ok, by measure; empty if everything is."""
    return ", ".join(f"{part.measure}: {part.status}" for part in parts if part.status != "ok")


def _place(name: str) -> int:
    return IMPORTANCE.index(name) + 1 if name in IMPORTANCE else len(IMPORTANCE) + 1


def _markdown(task: str, tables: Sequence[Table], left_out: Mapping[str, int]) -> str:
    blocks = [f"# {task.capitalize()} on {tables[0].machine}"]
    blocks.append("Made by `densebench report` from `records.jsonl`; what is edited here is lost.")
    for table in tables:
        several, fixed = vary(table.rows, OTHERS)
        blocks.append(f"## {_text(table.dataset)}: {_text(table.environment.title())}")
        blocks.append(f"{_text(_stated(fixed))}. Code at {', '.join(table.code)}. {_noise(table)}")
        blocks += _recipes(table) + _data(table) + _machine(table) + _company(table)
        blocks.append(_main(table, several))
        blocks += _per_class(table)
        blocks += _missing(table)
    blocks.append(_notes(task, tables, left_out))
    return "\n\n".join(blocks) + "\n"


def _data(table: Table) -> list[str]:
    """What records say of the data set beyond its name: which images are val, which were left out."""
    parts = [part for row in table.rows for part in row.parts.values()]
    said = {record.inputs["dataset"] for part in parts for record in part.records if "dataset" in record.inputs}
    clauses = dict.fromkeys(clause for text in sorted(said) for clause in text.split("; "))
    return [f"Data: {_text('; '.join(clauses))}."] if said else []


def _main(table: Table, several: list[str]) -> str:
    top = headline(table.task)
    names = table.names
    shown = [(measure.name, column) for measure, column in columns(table.task) if column.table and column.name in names]
    timed = "mfu_pct" in names
    head = [
        "rank",
        *IDENTITY,
        *several,
        *(f"{label(column)} ± sd (seeds)" if top and column == top[1] else label(column) for _, column in shown),
        *(["bound by"] if timed else []),
        "status",
    ]
    spreads = [(name, column, bool(top) and column == top[1]) for name, column in shown]
    body = [
        [
            str(table.ranks.get(row, "")),
            *choices(row.fields, [*IDENTITY, *several]),
            *(number(row.of(name).get(column.name), column, spread=spread) for name, column, spread in spreads),
            *([row.bound] if timed else []),
            status(row.parts.values()),
        ]
        for row in table.rows
    ]
    return _lines(head, body)


def _machine(table: Table) -> list[str]:
    """What the machine itself can do, a line for each dtype, device and number of threads."""
    lines = []
    for part in dict.fromkeys(row.parts["roof"] for row in table.rows if "roof" in row.parts):
        found = [
            f"{column.title} {number(part.values[column.name], column)} {column.unit}"
            for column in measures()["roof"].columns
            if column.name in part.values
        ]
        if found:
            where = ", ".join(f"{name} {value}" for name, value in part.fields.items())
            lines.append(f"Limits of this machine ({_text(where)}): {_text(', '.join(found))}.")
    return ["\n".join(f"- {line}" for line in sorted(lines))] if lines else []


def _company(table: Table) -> list[str]:
    """How the rounds of each interleaved measure went: their noise floor, and who else used the machine."""
    blocks = []
    for measure in (one for one in measures().values() if one.interleaved):
        parts = dict.fromkeys(row.parts[measure.name] for row in table.rows if measure.name in row.parts)
        records = [record for part in parts for record in part.records if "session" in record.values]
        if not records:
            continue
        prefix = measure.floor.removesuffix("noise_floor_pct")
        known = [floor for one in records if isinstance(floor := one.values.get(measure.floor), int | float)]
        taken, disturbed = (
            sum(int(count) for one in records if isinstance(count := one.values.get(f"{prefix}{name}"), int))
            for name in ("rounds", "disturbed_rounds")
        )
        unknown = sorted({str(one.values.get(f"{prefix}unknown_company", "")) for one in records} - {""})
        floors = f"{min(known):.1f} to {max(known):.1f} %" if known else "?"
        groups = len({str(one.values["session"]) for one in records})
        target = sum(one.values.get(f"{measure.interleaved.removesuffix('_ms')}_ended") == "target" for one in records)
        blocks.append(
            f"- {measure.name}: noise floor {floors} over {groups} group(s); "
            f"{taken} rounds, {disturbed} of them disturbed by others; {target} of {len(records)} cells reached the "
            f"target, the others used their budget."
            + (f" Not known here (?): {'; '.join(unknown)}." if unknown else "")
        )
    return ["\n".join(blocks)] if blocks else []


def _per_class(table: Table) -> list[str]:
    """A table for each column that holds a number a class, of the measurements that have it."""
    blocks = []
    of_measure = _by_measure(table.rows)
    of_classes = {name: _of_classes(parts) for name, parts in of_measure.items()}
    for measure, column in columns(table.task):
        classes = _classes(of_classes.get(measure.name, ()), column)
        if not classes:
            continue
        parts = [part for part in of_measure[measure.name] if column.name in part.classes]
        several, _ = vary(parts, OTHERS)
        body = [
            [
                *choices(part.fields, [*IDENTITY, *several]),
                *(number(part.values.get(f"{column.name}[{name}]"), column) for name in classes),
            ]
            for part in parts
        ]
        blocks += [f"### {label(column)} of each class", _lines([*IDENTITY, *several, *classes], body)]
    return blocks


def _missing(table: Table) -> list[str]:
    """What could not run, and why."""
    parts = list(dict.fromkeys(part for row in table.rows for part in row.parts.values() if part.failures))
    if not parts:
        return []
    several, _ = vary(table.rows, OTHERS)
    body = []
    for part in sorted(parts, key=lambda part: part.measure):
        for record in part.failures:
            cell = [text for text in choices(part.fields, [*IDENTITY, *several]) if text]
            seed = [f"seed {record.fields['seed']}"] if "seed" in record.fields else []
            body.append([part.measure, " ".join(cell + seed), record.status, record.reason])
    return ["### What could not run", _lines(["measure", "cell", "status", "reason"], body)]


def _notes(task: str, tables: Sequence[Table], left_out: Mapping[str, int]) -> str:
    present = {name for table in tables for row in table.rows for name in row.parts}
    lines = ["Input is height x width in pixels. An empty cell is unknown."]
    top = headline(task)
    if top and top[0].name in present:
        lines.append(
            f"{_text(top[1].title)} is short-budget learnability: the model starts from the stated weights and is "
            "trained by the stated recipe, for far fewer steps than it could use. It compares rows of one table and is "
            "no benchmark accuracy."
        )
    lines += [f"{name}, version {measures()[name].version}: {_text(measures()[name].doc)}" for name in sorted(present)]
    names = {name for table in tables for name in table.names}
    lines += [_text(column.note) for _, column in columns(task) if column.note and column.name in names]
    if "mfu_pct" in names:
        lines.append(f"MFU, traffic and launches: {_text(DERIVED.doc)}")
    if any(part.company for table in tables for row in table.rows for part in row.parts.values()):
        lines.append(f"{COMPANY_NOTE}. `densebench run --retry` takes it again, `--alone` takes no other.")
    lines += map(_text, exported.sentences(tables))
    if any(_unrepeatable(part) for table in tables for row in table.rows for part in row.parts.values()):
        lines.append(
            "Trainings on a GPU do not repeat to the bit: sums are added up in another order each time. The seed noise "
            "has this in it."
        )
    if left_out:
        counts = "; ".join(f"{count} {reason}" for reason, count in left_out.items())
        lines.append(f"Records of this machine that are in no table: {counts}.")
    return "## Notes\n\n" + "\n".join(f"- {line}" for line in lines)


def _unrepeatable(part: Part) -> bool:
    return any(UNREPEATABLE in record.values for record in part.records)


def _recipes(table: Table) -> list[str]:
    """How each recipe of the table trains, as its records say; of older ones, the house's recipe of the same digest."""
    top, found = headline(table.task), {}
    for row in table.rows:
        part = row.parts.get(top[0].name) if top else None
        if part and (name := row.fields.get("recipe")) and (words := _in_words(part.records[-1], name, table.task)):
            found[name] = f"- {_text(name)}: {_text(words)}"
    return ["How recipes train:\n\n" + "\n".join(found[name] for name in sorted(found))] if found else []


def _in_words(record: Record, name: str, task: str) -> str:
    if said := record.values.get(TRAINED):
        return str(said)
    try:
        known = recipes.digest(name, task) == record.inputs.get("recipe")
    except UserError:  # a recipe of one's own, or one that is gone
        return ""
    return recipes.load(name, task).in_words() if known else ""


def _noise(table: Table) -> str:
    top = headline(table.task)
    if not top or not table.noise:
        return "Nothing here is ranked."
    found = []
    for recipe, noise in table.noise.items():
        where = f" under recipe {recipe}" if len(table.noise) > 1 else ""
        paired = table.paired[recipe]
        if sentence := paired.sentence(f"Ranks by {top[1].title}{where}", noise, table.family):
            found.append(sentence)
        if sentence and paired.paired == paired.parts:
            continue
        if noise is None:
            found.append(
                f"Seed noise of {top[1].title}{where} is unknown (no row has two seeds): neighbours in rank may differ "
                "by chance."
            )
        else:
            found.append(
                f"Seed noise of {top[1].title}{where}: sd {noise.sd:.2f} ({noise.freedom} degrees of freedom); rows "
                "share a rank when they cannot be told apart from the best of their group, which takes a difference of "
                f"{noise.difference(1, 1, table.family.level):.2f} with one seed each, "
                f"{noise.difference(2, 2, table.family.level):.2f} with two ({table.family.sentence()})."
            )
    return " ".join(map(_text, found))


def as_csv(tables: Sequence[Table]) -> str:
    """Every row and column of these tables; columns of all tasks where there are several."""
    tasks = {table.task for table in tables}
    rows = [(table, row) for table in tables for row in table.rows]
    shown: list[tuple[str, str]] = []
    of_measure = _by_measure(row for _, row in rows)
    of_classes = {name: _of_classes(parts) for name, parts in of_measure.items()}
    for measure, column in columns(tables[0].task if len(tasks) == 1 else None):
        classes = _classes(of_classes.get(measure.name, ()), column)
        names = [f"{column.name}[{name}]" for name in classes] or [column.name]
        shown += [(measure.name, name) for name in names]
    present = sorted({name for _, row in rows for name in row.parts})
    named = [name for name in FIELDS if name != "seed"]
    head = ["environment", "machine", "task", *named, "rank"]
    head += [text for _, name in shown for text in (name, f"{name}_sd", f"{name}_n")]
    head.append("bound_by")
    head += [f"{kind}_{name}" for name in present for kind in ("status", "reason")]
    beside = sorted({name for _, row in rows for name, part in row.parts.items() if part.company})
    head += [f"company_{name}" for name in beside]
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(texts_only(head))
    # Column by column: most of them are empty, and there are hundreds.
    body: list[Iterable[Any]] = [
        [table.environment.comparable for table, _ in rows],
        texts_only([table.machine for table, _ in rows]),
        [table.task for table, _ in rows],
        *map(texts_only, zip(*(choices(row.fields, named) for _, row in rows), strict=True)),
        [str(table.ranks.get(row, "")) for table, row in rows],
    ]
    known = {name for table in tables for name in table.names}
    found = {measure: [row.of(measure) for _, row in rows] for measure in {measure for measure, _ in shown}}
    for measure, name in shown:
        stats = [values.get(name) for values in found[measure]] if name in known or "[" in name else ()
        body += _figures(stats) if any(stats) else [[""] * len(rows)] * 3
    body.append([row.bound for _, row in rows])
    for name in present:
        parts = [row.parts.get(name) for _, row in rows]
        body.append([part.status if part else "" for part in parts])
        body.append(texts_only([part.reason if part else "" for part in parts]))
    body += [texts_only([row.parts[name].company if name in row.parts else "" for _, row in rows]) for name in beside]
    writer.writerows(zip(*body, strict=True))
    return file.getvalue()


def _figures(stats: Sequence[Stat | None]) -> list[list[Any]]:
    """Columns of means, standard deviations and numbers of seeds; what is unknown is empty."""
    return [
        [stat.mean if stat else "" for stat in stats],
        ["" if stat is None or stat.sd is None else stat.sd for stat in stats],
        [stat.n if stat else "" for stat in stats],
    ]


_OfClasses = Iterable[Mapping[str, tuple[str, ...]]]
"""What `Part.classes` says, of several parts."""


def _of_classes(parts: Iterable[Part]) -> _OfClasses:
    """Each once: a thousand parts have the same classes."""
    return list({id(part.classes): part.classes for part in parts}.values())


def _classes(known: _OfClasses, column: Column) -> list[str]:
    """Names of the classes of a column, in the order in which the measure gave them."""
    return list(dict.fromkeys(name for classes in known for name in classes.get(column.name, ())))


def _by_measure(rows: Iterable[Row]) -> Mapping[str, list[Part]]:
    """Measure -> its parts in the order of the rows, each once."""
    found: dict[str, dict[Part, None]] = defaultdict(dict)
    for row in rows:
        for name, part in row.parts.items():
            found[name][part] = None
    return {name: list(parts) for name, parts in found.items()}


def _stated(fixed: Mapping[str, Any]) -> str:
    return "Throughout: " + ", ".join(f"{name} {value}" for name, value in fixed.items()) if fixed else ""


def _lines(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    """A Markdown table: texts to the left, columns of numbers to the right."""
    rows = [[_text(text) for text in line] for line in body]
    right = [
        all(not (text := line[index].lstrip(f"{IN_COMPANY} ")) or text[0].isdigit() for line in rows)
        for index in range(len(head))
    ]
    lines = [[_text(text) for text in head], ["---:" if number else "---" for number in right], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _text(text: str) -> str:
    """One line of Markdown that shows exactly this text; what is very long is cut (the CSV has it all)."""
    return text if _PLAIN.fullmatch(text) else _escaped(text)


@lru_cache(maxsize=1024)  # a name stands in many rows
def _escaped(text: str) -> str:
    text = " ".join(text.split())
    if len(text) > _LONGEST:
        text = text[:_LONGEST] + "…"
    text = re.sub(r"([\\`*\[\]~|])", r"\\\1", text.replace("&", "&amp;").replace("<", "&lt;"))
    # An underscore between letters is no emphasis, and names such as vit_pico stay readable in the source.
    return re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\_", text)


def _tasks() -> set[str]:
    return {entry.facts["task"] for entry in catalogue.entries("heads").values()}
