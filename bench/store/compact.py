"""A machine's records without those that no table, no claim and no run looks at any more.

Dropped are records of an earlier version of a measure, which never count again, and of several answers to one question
(equal measure, version, fields, inputs and comparable environment) all but the one that counts (`bench.store.record`).
That one stands where the last of them stood, for of two states of an edited file the one counts that was named last.
What the machine itself can do is kept however often it was measured: each limit is the best of all. Kept is, too, what
is not known here: a measure, a head or an environment that may come back, and damaged lines.

What is dropped is not lost: it goes to ``records.dropped.gz`` beside the records, whose content is lines as they were.
Memory holds some 450 bytes a record, whatever a record's size.
"""

import gzip
import hashlib
import os
import shutil
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from bench.errors import UserError
from bench.plan.measure import Measure, measures
from bench.store.record import Record, Standing, better, parse
from bench.store.store import RECORDS, Store, Writer, lines

DROPPED = "records.dropped.gz"
OLDER = "of an earlier version of their measure"
SUPERSEDED = "superseded by another of the same measurement"
_BLOCK = 2**20


@dataclass
class Compacted:
    """What became of one machine's records.

    kept: lines. dropped: why -> lines. before, after: bytes. mended: what was done to a torn store before.
    """

    folder: Path
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    before: int = 0
    after: int = 0
    mended: tuple[str, ...] = ()


def compact(folder: Path, *, write: bool = True) -> Compacted:
    """Drop what counts no more from a machine's folder.

    Args:
        folder: with ``records.jsonl``.
        write: False: only say what would be dropped.

    Raises:
        UserError: the folder cannot be read or written to, or another run holds it; the records are as they were.
    """
    store = Store(folder)
    if not write:
        return _sorted(store)[0]
    with store.writing() as writer:
        done, kept, dropped = _sorted(store)
        done.mended = tuple(writer.repaired)
        if dropped:
            try:
                _rewrite(store.path, kept, dropped, writer)
            except OSError as error:
                raise UserError(
                    f"{error.filename or folder} cannot be written ({error.strerror}); the records are as they were"
                ) from error
    return done


_Places = list[tuple[int, int]]
"""First byte and number of bytes of lines."""


class _Lines:
    """The lines of a file that count, as numbers: of each question the best one, and where the last one stands."""

    def __init__(self) -> None:
        self.start, self.size, self.last = array("Q"), array("Q"), array("Q")
        self._standing: list[Standing | None] = []
        self._of: dict[bytes, int] = {}

    def add(self, start: int, size: int) -> None:
        """A line that is nobody's rival."""
        self.start.append(start)
        self.size.append(size)
        self.last.append(start)
        self._standing.append(None)

    def answer(self, question: bytes, standing: Standing, start: int, size: int) -> tuple[int, int] | None:
        """A line that answers a question; the place of the line that it or another one makes superfluous."""
        index = self._of.get(question)
        if index is None:
            self._of[question] = len(self.start)
            self.add(start, size)
            self._standing[-1] = standing
            return None
        self.last[index] = start
        before = self._standing[index]
        assert before is not None, "it answers a question"
        if not better(standing, before):
            return start, size
        worse = self.start[index], self.size[index]
        self.start[index], self.size[index], self._standing[index] = start, size, standing
        return worse

    def places(self) -> _Places:
        """In the order in which they are to stand."""
        order = sorted(range(len(self.start)), key=self.last.__getitem__)
        return [(self.start[index], self.size[index]) for index in order]


def _sorted(store: Store) -> tuple[Compacted, _Places, _Places]:
    """What would become of a store, the lines that stay in their new order, and those that go in theirs."""
    environments = {name: one.comparable for name, one in store.environments().items()}
    done, found, dropped = Compacted(store.folder), _Lines(), []
    for number, start, line in lines(store.path, []):
        size = len(line)
        done.before += size
        try:
            record = parse(line, f"line {number}", {})
        except UserError:
            found.add(start, size)
            continue
        measure = measures().get(record.measure)
        if measure is not None and record.version < measure.version:
            done.dropped[OLDER] += 1
            dropped.append((start, size))
        elif measure is not None and _has_rivals(record, measure):
            where = environments.get(record.environment, record.environment)
            superfluous = found.answer(_question(record, measure, where), record.standing, start, size)
            if superfluous is not None:
                done.dropped[SUPERSEDED] += 1
                dropped.append(superfluous)
        else:
            found.add(start, size)
    kept = found.places()
    done.kept, done.after = len(kept), sum(size for _, size in kept)
    return done, kept, sorted(dropped)


def _has_rivals(record: Record, measure: Measure) -> bool:
    """Whether of several like it one counts; of what the machine can do each does."""
    return (
        record.version == measure.version
        and len(record.fields) == len(measure.fields)
        and all(name in record.fields for name in measure.fields)
        and "backbone" in record.fields
    )


def _question(record: Record, measure: Measure, where: str) -> bytes:
    """What two records answer alike, as a digest; `Record.key` takes ten times as long."""
    values = [record.fields[name] for name in measure.fields]
    text = msgspec.json.encode([measure.name, measure.version, values, sorted(record.inputs.items()), where])
    return hashlib.blake2b(text, digest_size=16).digest()


def _rewrite(path: Path, kept: _Places, dropped: _Places, writer: Writer) -> None:
    with path.open("rb") as source:
        _set_aside(path.with_name(DROPPED), source.fileno(), dropped)  # before they are gone from where they were
        temporary = path.with_name(f".{path.name}.part")
        try:
            with temporary.open("wb") as file:
                for block in _copied(source.fileno(), kept):
                    file.write(block)
                file.flush()
                os.fsync(file.fileno())
            shutil.copymode(path, temporary)  # others of a group may write to it, too
            writer.held()  # what another run has added since it was read would be lost
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def _set_aside(path: Path, source: int, places: _Places) -> None:
    """Add lines to the archive, all or none, even if killed: what comes after a broken end could not be unpacked."""
    temporary = path.with_name(f".{path.name}.part")
    try:
        with temporary.open("wb") as file:
            with suppress(FileNotFoundError), path.open("rb") as before:
                shutil.copyfileobj(before, file)
                shutil.copymode(path, temporary)
            with gzip.GzipFile(fileobj=file, mode="wb", mtime=0) as packed:
                for block in _copied(source, places):
                    packed.write(block)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _copied(source: int, places: _Places) -> Iterator[bytes]:
    """The bytes of these lines, neighbours in one piece."""
    begin, end = 0, 0
    for start, size in [*places, (-1, 0)]:
        if start == end and end - begin < _BLOCK:
            end += size
            continue
        if end > begin:
            yield os.pread(source, end - begin, begin)
        begin, end = start, start + size


def words(done: Compacted, *, written: bool) -> list[str]:
    """What became of a folder, in sentences."""
    path = done.folder / RECORDS
    said = [f"{path}: {note}" for note in done.mended]
    if not done.dropped:
        return [*said, f"{path}: {_count(done.kept)}, all of which count"]
    kept = f"{_count(done.kept)} {'are' if written else 'would be'} kept ({done.before:,} to {done.after:,} bytes)"
    goes = f"moved to {DROPPED}" if written else "would be dropped"
    return [
        *said,
        f"{path}: {kept}",
        *(f"{_count(count)} {why}: {goes}" for why, count in sorted(done.dropped.items())),
    ]


def as_json(done: Compacted) -> Mapping[str, object]:
    """The same for programs."""
    return {
        "folder": str(done.folder),
        "kept": done.kept,
        "dropped": dict(sorted(done.dropped.items())),
        "bytes_before": done.before,
        "bytes_after": done.after,
    }


def _count(records: int) -> str:
    return "1 record" if records == 1 else f"{records:,} records"
