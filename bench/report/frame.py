"""``bench.load``: the records as a pandas DataFrame, for notebooks."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from bench.errors import UserError
from bench.plan.cell import FIELDS
from bench.report.known import numbers
from bench.report.rows import Part, Row, columns, folders, read
from bench.store.record import Record
from bench.store.store import no_collection


@no_collection()
def load(results: Path | str, *others: Path | str) -> pd.DataFrame:
    """One line for each row and seed, over all machines under results folders (or of machines' folders).

    Columns: ``machine``, ``environment`` (id of what is comparable), ``task``, every field of Cell, every column of
    every measure (``column[class]`` for a number a class), then ``status_<measure>``, ``reason_<measure>`` and, where
    other processes used the machine meanwhile, ``company_<measure>`` with the reason. What is unknown is missing (NA,
    NaN or None), never 0. A measure that does not depend on the seed says the same on every line of a row.

    Of several folders, a first column ``root`` says which one a line is from, as it was given: machines' folders of one
    name in two of them stay apart. Records are never joined across them; `densebench merge` does that.

    ``attrs``: ``units`` (column -> unit), ``environments`` (id -> text), ``left_out`` (machine -> reason -> records; of
    several folders, the machine's path).

    Raises:
        UserError: no records, or broken ones; names the file. Or a machine's folder came twice.
    """
    lines: list[dict[str, Any]] = []
    environments: dict[str, str] = {}
    left_out: dict[str, dict[str, int]] = {}
    for root, folder in _machines(results, *others):
        reading = read(folder)
        left_out[str(folder) if others else folder.name] = dict(reading.left_out)
        for table in reading.tables:
            environments[table.environment.comparable] = table.environment.title()
            start = {"root": root} if others else {}
            start |= {"machine": table.machine, "environment": table.environment.comparable, "task": table.task}
            lines += [start | line for row in table.rows for line in _lines(row)]
    names = [*(["root"] if others else []), "machine", "environment", "task", *FIELDS]
    units = {column.name: column.unit for _, column in columns()}
    found = dict.fromkeys(name for keys in dict.fromkeys(map(tuple, lines)) for name in keys)
    for column in units:
        classes = [name for name in found if name.startswith(f"{column}[")]
        names += classes or [column]
    names += sorted((name for name in found if name not in names), key=lambda name: (name.partition("_")[::-2], name))
    frame = pd.DataFrame(lines, columns=pd.Index(names))
    for name in FIELDS:
        # Whole numbers stay whole beside missing ones.
        if pd.api.types.is_numeric_dtype(frame[name]):
            frame[name] = frame[name].astype("Int64")
    frame.attrs = {"units": units, "environments": environments, "left_out": left_out}
    return frame


def _machines(*roots: Path | str) -> Iterator[tuple[str, Path]]:
    """Every machine's folder, with the text by which its root was given."""
    seen: dict[Path, str] = {}
    for root in roots:
        for folder in folders(Path(root)):
            if (before := seen.get(folder.resolve())) is not None:
                raise UserError(f"{folder} is in {before} and in {root}, and would count twice; leave one of them out")
            seen[folder.resolve()] = str(root)
            yield str(root), folder


def _lines(row: Row) -> Iterator[dict[str, Any]]:
    seeds = sorted(
        {record.fields["seed"] for part in row.parts.values() for record in part.records if "seed" in record.fields}
    )
    for seed in seeds or [None]:
        line = {**row.fields, "seed": seed}
        for name, part in row.parts.items():
            record = _of_seed(part, seed)
            if record is not None:
                if record.status == "ok":
                    line |= dict(numbers(record))
                line |= {f"status_{name}": record.status, f"reason_{name}": record.reason}
                if record.company:
                    line[f"company_{name}"] = record.company
        line |= {name: stat.mean for name, stat in row.derived.items()}
        yield line


def _of_seed(part: Part, seed: int | None) -> Record | None:
    return next((record for record in part.records if record.fields.get("seed", seed) == seed), None)
