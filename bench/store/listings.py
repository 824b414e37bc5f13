"""Which files the trainings of older records saw, which do not say it: ``listings.json`` beside the records.

A record of a training on data on disk says by its input ``files`` which files they were (`bench.plan.listing`). Records
from before it did keep counting: the first run that meets the data writes down what these records are taken to have
seen, the files that are there then. From then on other files under the same name are another question to them, too.
"""

import json
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from bench import catalogue
from bench.data.contract import Task
from bench.errors import UserError, remark
from bench.store.record import Record

FILE = "listings.json"
INPUT = "files"
_DIGEST = re.compile(r"[0-9a-f]{12}")

Listings: TypeAlias = Mapping[tuple[str, str], str]
"""(task, data set) -> digest of the files."""


def subject(record: Record) -> tuple[str, str] | None:
    """The task and data set of a training; None of what did not train."""
    fields = record.fields
    if "seed" not in fields or "dataset" not in fields:
        return None
    head = catalogue.entries("heads").get(str(fields.get("head", "")))
    return None if head is None else (head.facts["task"], fields["dataset"])


def read(folder: Path) -> dict[tuple[str, str], str]:
    """What a machine's folder states.

    Raises:
        UserError: its file cannot be read, or is none.
    """
    path = folder / FILE
    try:
        return parse(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}, which says what files older trainings saw, cannot be read ({error}); restore it, or remove it: "
            "the next run then takes the files of today for theirs"
        ) from error


def parse(content: bytes) -> dict[tuple[str, str], str]:
    """What the content of such a file states.

    Raises:
        ValueError: it is none.
    """
    try:
        stated = json.loads(content)
        found = {(task, name): text for task, named in stated.items() for name, text in named.items()}
    except (AttributeError, RecursionError) as error:
        raise ValueError("it is no table of data sets by task") from error
    if not all(isinstance(text, str) and _DIGEST.fullmatch(text) for text in found.values()):
        raise ValueError("a digest has 12 hexadecimal digits")
    return found


def known(folder: Path) -> dict[tuple[str, str], str]:
    """As `read`; a file that is damaged is named (`bench.errors.remark`), and states nothing."""
    try:
        return read(folder)
    except UserError as error:
        remark(str(error))
        return {}


def state(folder: Path, listings: Listings) -> None:
    """Write down what is not stated yet, whole or not at all.

    Raises:
        UserError: the folder cannot be written to.
    """
    there = read(folder)
    if listings.keys() <= there.keys():
        return
    document: dict[str, dict[str, str]] = {}
    for (task, name), text in sorted({**listings, **there}.items()):
        document.setdefault(task, {})[name] = text
    fresh = folder / f".{FILE}.{os.getpid()}"
    try:
        with fresh.open("w", encoding="utf-8") as file:
            file.write(json.dumps(document, indent=1) + "\n")
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(folder / FILE)
    except OSError as error:
        raise UserError(f"{folder / FILE} cannot be written to ({error.strerror})") from error
    finally:
        with suppress(OSError):
            fresh.unlink(missing_ok=True)


def of_older(records: Iterable[Record], stated: Listings) -> dict[tuple[str, str], str]:
    """What records that say nothing are taken to have seen: what is stated, or what the last of the others says."""
    said: dict[tuple[str, str], str] = {}
    for record in records:
        if INPUT in record.inputs and (of := subject(record)) is not None:
            said[of] = record.inputs[INPUT]
    return {**said, **stated}


def silent(records: Iterable[Record]) -> set[tuple[str, str]]:
    """Of what there are trainings that do not say which files they saw; what is embedded has none to say."""
    found = {of for record in records if INPUT not in record.inputs and (of := subject(record)) is not None}
    return {(task, name) for task, name in found if _on_disk(name)}


class Seen:
    """What the trainings of a plan see, and what of a folder's older ones is taken for that.

    Args:
        folder: of a machine.
        look: (data set, task, root) -> digest of its files.
    """

    def __init__(self, folder: Path, look: Callable[[str, Task, Path], str]) -> None:
        self._stated = read(folder)
        self._look = look
        self._now: dict[tuple[Task, str], str] = {}

    def files(self, name: str, task: Task, root: Path) -> str:
        """Digest of a data set's files, looked at once."""
        if (task, name) not in self._now:
            self._now[task, name] = self._look(name, task, root)
        return self._now[task, name]

    def same(self, name: str, task: Task) -> bool:
        """Whether older records of it are taken to have seen the files of today."""
        now = self._now[task, name]
        return self._stated.get((task, name), now) == now

    def to_state(self, older: Collection[tuple[str, str]]) -> dict[tuple[str, str], str]:
        """What is to be written down: of what was looked at and is `silent`, and is not stated yet."""
        return {of: files for of, files in self._now.items() if of in older and of not in self._stated}


def completed(records: Iterable[Record], stated: Listings) -> Sequence[Record]:
    """These records, each saying which files it saw, so far as that is known."""
    records = list(records)
    older = of_older(records, stated)
    return [complete(record, older) for record in records] if older else records


def complete(record: Record, older: Listings) -> Record:
    """A record that says which files it saw, so far as that is known."""
    if INPUT in record.inputs or (of := subject(record)) is None or of not in older:
        return record
    return replace(record, inputs={**record.inputs, INPUT: older[of]})


def _on_disk(name: str) -> bool:
    entry = catalogue.entries("data").get(name.partition(":")[0])
    return entry is not None and bool(entry.facts["root"])
