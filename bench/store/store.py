"""The records of one machine on disk: append-only JSON lines, one fsync a line.

A run that is cut off at any byte costs at most the line that was being written: a reader says so, and the next run
moves the torn bytes aside and measures that cell again.
"""

import gc
import io
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from bench.errors import UserError, remark
from bench.plan.environment import Environment
from bench.store.lock import Lock
from bench.store.record import Record, Stored, parse

RECORDS = "records.jsonl"
ENVIRONMENTS = "environments.jsonl"
NAMED = 5
"""Damaged lines of a file that are named; the others are counted."""
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def plain(name: str) -> bool:
    """Whether a machine's folder may be called so: letters, digits, ``.``, ``_`` and ``-``, no path."""
    return bool(_PLAIN.fullmatch(name))


def fits(name: str, results: Path) -> bool:
    """Whether records may go to a machine's folder of this name: a plain one, or any that is there already."""
    if plain(name) or "/" in name or name in ("", ".", ".."):
        return plain(name)
    try:
        return (results / name).is_dir()
    except (OSError, ValueError):  # nothing can be called so
        return False


class Store:
    """``<folder>/records.jsonl`` and ``<folder>/environments.jsonl``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / RECORDS

    def records(self) -> list[Record]:
        """All records in the order in which they were made.

        A line that is torn or is no record is left out, and `bench.errors.remark` names it.

        Raises:
            UserError: the file cannot be read.
        """
        with no_collection():
            return list(self.stream())

    def stream(self) -> Iterator[Record]:
        """Record after record, as `records`; what is held in memory is one of them. Damage is named at the end.

        Raises:
            UserError: as for `records`.
        """
        file = self.path.stat() if self.path.exists() else None
        state = (file.st_ino, file.st_ctime_ns) if file else (0, 0)
        damaged: list[str] = []
        for number, start, line in lines(self.path, damaged):
            try:
                record = parse(line, f"line {number}", Stored(self.path, start, len(line), state))
            except UserError as error:
                damaged.append(str(error))
            else:
                yield record
        _say(self.path, damaged)

    def environments(self) -> dict[str, Environment]:
        """Environment id -> its description; lines that describe none are left out and named, as for `records`.

        Raises:
            UserError: the file cannot be read.
        """
        path = self.folder / ENVIRONMENTS
        found: dict[str, Environment] = {}
        damaged: list[str] = []
        for number, _, line in lines(path, damaged):
            try:
                environment = described(line)
            except ValueError as error:
                damaged.append(f"line {number} describes no environment: {error}")
            else:
                found[environment.id] = environment
        _say(path, damaged)
        return found

    def set_aside(self) -> list[str]:
        """Move damaged lines to ``records.damaged`` and ``environments.damaged``; says what was done.

        Raises:
            UserError: the folder cannot be written to, or another run holds it.
        """
        with self.writing() as writer:
            said = list(writer.repaired)
            for name, sound in ((RECORDS, _is_record), (ENVIRONMENTS, _is_environment)):
                if count := _set_aside(self.folder / name, sound):
                    lines = "1 damaged line" if count == 1 else f"{count} damaged lines"
                    said.append(f"{self.folder / name}: {lines} moved to {Path(name).with_suffix('.damaged')}")
        return said

    @contextmanager
    def writing(self) -> "Iterator[Writer]":
        """The right to append, held by one process at a time, on whichever machine (`bench.store.lock`).

        Raises:
            UserError: the folder cannot be written to, or another run holds it.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = Lock(self.folder)
        except OSError as error:
            raise UserError(
                f"results folder {self.folder} cannot be written to ({error.strerror}); "
                "make it writable or name another with --results"
            ) from error
        try:
            writer = Writer(self.folder, lock)
            try:
                yield writer
            finally:
                writer.close()
        finally:
            lock.close()


class Writer:
    """Appends whole lines; made by `Store.writing`."""

    def __init__(self, folder: Path, lock: Lock) -> None:
        self._lock = lock
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

    def held(self) -> None:
        """As `bench.store.lock.Lock.held`."""
        self._lock.held()

    def _append(self, name: str, line: str) -> None:
        """All of the line (or of several) or nothing of it.

        Raises:
            UserError: the disk is full or refuses for another reason, or the folder is another run's by now.
        """
        self.held()
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


def say_lost(folder: Path, records: Mapping[str, int], described: Iterable[str]) -> None:
    """Name the environments (of so many records each) that are not described, and what to do."""
    lost = Counter(records)
    for name in described:
        lost.pop(name, None)
    if lost:
        names = ", ".join(f"'{name}'" for name in sorted(lost)[:NAMED]) + (", ..." if len(lost) > NAMED else "")
        remark(
            f"{folder / ENVIRONMENTS} does not describe environment {names}, which {lost.total()} records name: they "
            "are in no table and answer no run. Put its line back: out of a copy of the folder by "
            "`densebench merge COPY`, or by `densebench run` where neither the machine nor its packages nor the commit "
            "have changed"
        )


def described(line: bytes) -> Environment:
    """The environment that a line of ``environments.jsonl`` describes, as far as types go.

    Raises:
        ValueError: it describes none.
    """
    try:
        try:
            return _environment(line)
        except msgspec.DecodeError as error:
            if "surrogate" not in str(error):
                raise
        return msgspec.convert(json.loads(line), Environment)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


_environment = msgspec.json.Decoder(Environment).decode


def lines(path: Path, damaged: list[str]) -> Iterator[tuple[int, int, bytes]]:
    """Number (from 1), first byte and bytes of each whole line that holds something.

    damaged: is told of a last line that is cut off, which is left out.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            start = 0
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    damaged.append(_cut_off(number))
                elif not line.isspace():
                    yield number, start, line
                start += len(line)
    except FileNotFoundError:
        return
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error}") from error


def _cut_off(number: int) -> str:
    return (
        f"line {number} is cut off (a run ended while writing it, or is writing it now); "
        "`densebench run` moves it aside and measures that cell again"
    )


def _say(path: Path, damaged: Sequence[str]) -> None:
    """Name what was left out of a file."""
    if not damaged:
        return
    more = len(damaged) - NAMED
    named = "; ".join(text[:300] for text in damaged[:NAMED]) + (f"; and {more} more" if more > 0 else "")
    count = "1 damaged line is" if len(damaged) == 1 else f"{len(damaged)} damaged lines are"
    remark(f"{path}: {count} left out: {named}. `densebench report --set-aside` moves them to a file beside it")


def _is_record(line: bytes) -> None:
    parse(line, "it")


def _is_environment(line: bytes) -> None:
    try:
        described(line)
    except ValueError as error:
        raise UserError(str(error)) from error


def _set_aside(path: Path, sound: Callable[[bytes], None]) -> int:
    """Move lines to a file beside it for which ``sound`` raises a UserError; how many there were.

    Raises:
        UserError: a file cannot be read or written.
    """
    try:
        kept, moved = bytearray(), bytearray()
        for line in io.BytesIO(path.read_bytes()):
            try:
                if not line.isspace():
                    sound(line)
                kept += line
            except UserError:
                moved += line
        if not moved:
            return 0
        _write(path.with_suffix(".damaged"), "ab", moved)  # before they are gone from where they were
        temporary = path.with_name(f".{path.name}.part")
        _write(temporary, "wb", kept)
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"{error.filename or path} cannot be read and mended ({error.strerror})") from error
    return moved.count(b"\n")


def _write(path: Path, mode: str, content: bytes | bytearray) -> None:
    with path.open(mode) as file:
        file.write(content)
        os.fsync(file.fileno())


def _torn(file: BinaryIO) -> tuple[int, bytes]:
    """Where the last whole line of a file ends, and what comes after it; of a large file only its end is read."""
    end = file.seek(0, os.SEEK_END)
    rest = b""
    while end and not rest.startswith(b"\n"):
        size = min(end, 2**16)
        file.seek(end - size)
        block = file.read(size)
        cut = block.rfind(b"\n")
        rest = block[cut:] + rest if cut >= 0 else block + rest
        end -= size - max(cut, 0)
    return (end + 1, rest[1:]) if rest.startswith(b"\n") else (0, rest)


def _repair(path: Path) -> str | None:
    """Move the bytes after the last line feed to a file beside it; says what was done.

    Raises:
        UserError: the file cannot be read or written.
    """
    try:
        if not path.exists():
            return None
        with path.open("rb") as file:
            end, rest = _torn(file)
        if not rest:
            return None
        torn = path.with_suffix(".torn")
        _write(torn, "ab", rest + b"\n")
        with path.open("r+b") as file:
            file.truncate(end)
            os.fsync(file.fileno())
    except OSError as error:
        raise UserError(f"{error.filename or path} cannot be read and mended ({error.strerror})") from error
    return f"{path} ended in a line cut off by an earlier run: moved to {torn.name}; that cell is measured again"
