"""The records of one machine on disk: append-only JSON lines, one fsync a line.

A run that is cut off at any byte costs at most the line that was being written: a reader says so, and the next run
moves the torn bytes aside and measures that cell again.
"""

import fcntl
import gc
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.errors import UserError
from bench.plan.environment import Environment
from bench.store.record import Record, Stored, parse

RECORDS = "records.jsonl"
ENVIRONMENTS = "environments.jsonl"


class Store:
    """``<folder>/records.jsonl`` and ``<folder>/environments.jsonl``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / RECORDS

    def records(self) -> list[Record]:
        """All records in the order in which they were made.

        Raises:
            UserError: a line is torn or is no record; names file and line.
        """
        with no_collection():
            return list(self.stream())

    def stream(self) -> Iterator[Record]:
        """Record after record, as `records`; what is held in memory is one of them.

        Raises:
            UserError: as for `records`, when the line is reached.
        """
        file = self.path.stat() if self.path.exists() else None
        state = (file.st_ino, file.st_ctime_ns) if file else (0, 0)
        place = f"{self.path}, line "
        for number, start, line in _lines(self.path):
            yield parse(line, f"{place}{number}", Stored(self.path, start, len(line), state))

    def environments(self) -> dict[str, Environment]:
        """Environment id -> its description.

        Raises:
            UserError: as for `records`.
        """
        path = self.folder / ENVIRONMENTS
        found: dict[str, Environment] = {}
        for number, _, line in _lines(path):
            try:
                environment = Environment(**json.loads(line))
            except (ValueError, TypeError) as error:
                raise UserError(f"{path}, line {number} describes no environment: {error}") from error
            found[environment.id] = environment
        return found

    @contextmanager
    def writing(self) -> "Iterator[Writer]":
        """The right to append, held by one process at a time.

        Raises:
            UserError: the folder cannot be written to, or another run holds it.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = (self.folder / ".lock").open("w")
        except OSError as error:
            raise UserError(
                f"results folder {self.folder} cannot be written to ({error.strerror}); "
                "make it writable or name another with --results"
            ) from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise UserError(f"another run is writing to {self.folder}; wait for it, or use --results") from error
            writer = Writer(self.folder)
            try:
                yield writer
            finally:
                writer.close()


class Writer:
    """Appends whole lines; made by `Store.writing`."""

    def __init__(self, folder: Path) -> None:
        self.repaired = [note for name in (RECORDS, ENVIRONMENTS) if (note := _repair(folder / name))]
        try:
            self._files = {name: (folder / name).open("ab", buffering=0) for name in (RECORDS, ENVIRONMENTS)}
        except OSError as error:
            raise UserError(f"{error.filename} cannot be written to ({error.strerror})") from error

    def record(self, record: Record) -> None:
        """Append one record; it is on the disk when this returns."""
        self._append(RECORDS, record.line())

    def lines(self, lines: Iterable[str]) -> None:
        """Append the lines of several records (`Record.line`), all or none; they are on the disk when this returns."""
        self._append(RECORDS, "".join(lines))

    def environment(self, description: Mapping[str, Any]) -> None:
        """Append one environment's description."""
        self._append(ENVIRONMENTS, json.dumps(description, separators=(",", ":")) + "\n")

    def _append(self, name: str, line: str) -> None:
        """All of the line (or of several) or nothing of it.

        Raises:
            UserError: the disk is full, or refuses for another reason.
        """
        file = self._files[name]
        size = os.fstat(file.fileno()).st_size
        left = memoryview(line.encode())
        try:
            while left:
                left = left[file.write(left) :]
            os.fsync(file.fileno())
        except OSError as error:
            # Half a line would be glued to the next one.
            os.truncate(file.fileno(), size)
            raise UserError(f"{file.name} cannot be written to ({error.strerror}); what is in it is kept") from error

    def close(self) -> None:
        """Close the files."""
        for file in self._files.values():
            file.close()


@contextmanager
def no_collection() -> Iterator[None]:
    """Within it nobody looks for cycles: of what is read none has any, and looking takes half of the time.

    What was made meanwhile counts as old afterwards, or all of it would be looked through three times at once.
    """
    on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if on:
            gc.freeze()
            gc.unfreeze()
            gc.enable()


def _lines(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """Number (from 1), first byte and bytes of each line that holds something.

    Raises:
        UserError: the file cannot be read, or its last line is cut off; that is said before any line is given.
    """
    try:
        with path.open("rb") as file:
            if file.seek(0, os.SEEK_END):
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    file.seek(0)
                    raise UserError(_cut_off(path, sum(1 for _ in file)))
            file.seek(0)
            start = 0
            for number, line in enumerate(file, 1):
                if not line.isspace():
                    yield number, start, line
                start += len(line)
    except FileNotFoundError:
        return
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error}") from error


def _cut_off(path: Path, last: int) -> str:
    return (
        f"{path}, line {last} is cut off (a run ended while writing it); the {last - 1} lines before it are whole. "
        f"`densebench run` moves it aside and measures that cell again"
    )


def _repair(path: Path) -> str | None:
    """Move the bytes after the last line feed to a file beside it; says what was done.

    Raises:
        UserError: the file cannot be read or written.
    """
    try:
        data = path.read_bytes() if path.exists() else b""
        end = data.rfind(b"\n") + 1
        if end == len(data):
            return None
        torn = path.with_suffix(".torn")
        with torn.open("ab") as file:
            file.write(data[end:] + b"\n")
            os.fsync(file.fileno())
        with path.open("r+b") as file:
            file.truncate(end)
            os.fsync(file.fileno())
    except OSError as error:
        raise UserError(f"{error.filename or path} cannot be read and mended ({error.strerror})") from error
    return f"{path} ended in a line cut off by an earlier run: moved to {torn.name}; that cell is measured again"
