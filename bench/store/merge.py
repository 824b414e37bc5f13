"""Somebody else's records beside one's own: what is sound is appended, what is not is said, and nothing else changes.

Of every line is asked what `bench.store.checks` asks. Lines come in the order of their file, environments before the
records that name them, and what is kept of a record's images before the record. What is there already (the same
question, environment, start and values) is not added again, so that merging twice, or going on with a merge that was
cut off, does no harm. Another measurement of the same question is one more record; `bench.store.record.better` decides.

Files are read only where they are plain files (no link, no pipe), and written only where there is none of the name.
"""

import hashlib
import os
import re
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path

import msgspec

from bench import catalogue
from bench.errors import UserError
from bench.plan import environment as environments
from bench.plan import models
from bench.plan.environment import Environment
from bench.plan.measure import IMAGES, MODEL, measures
from bench.store import checks, images, listings
from bench.store.checks import Refused
from bench.store.record import Record, parse
from bench.store.store import ENVIRONMENTS, RECORDS, Store, Writer, fits

PICTURES = "pictures"
"""Folder of predictions that were drawn, beside the records."""
LINE, PICTURE = 16 * 2**20, 32 * 2**20
"""Most bytes of a line, and of a picture."""
CHUNK = 500
"""Records that are written at a time."""
ENVIRONMENT_LINES = 10_000
"""Environments that one folder may describe."""
EXAMPLES = 5
"""Places that are named of those that were refused for the same reason."""
_PICTURE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+=@-]{0,240}\.png")
_PNG = b"\x89PNG\r\n\x1a\n"
_PART = 2**20
_KINDS = {
    images.FOLDER: ("file of images", "files of images"),
    PICTURES: ("picture", "pictures"),
    models.FOLDER: ("model", "models"),
}


@dataclass
class Refusal:
    """What of one file was refused for one reason.

    file: below the folder that it came from. reason: in words. count: of lines, or of files. examples: where the first
    of them are, and what came.
    """

    file: str
    reason: str
    count: int = 0
    examples: list[str] = field(default_factory=list)


@dataclass
class Merged:
    """What became of one machine's folder.

    source, folder: where it came from and went to. taken: records that were added. there: those that were there, or
    came twice. environments: that were added. files: kind -> files that were added. refused: (file, reason) -> what
    was. unread: reason -> records that were added and that tables leave out here. imageless: records whose images'
    file did not come with them, so that they are not compared image by image. mended: what was done to one's own store
    before, where a run had left it torn.
    """

    source: Path
    folder: Path
    taken: int = 0
    there: int = 0
    environments: int = 0
    files: Counter[str] = field(default_factory=Counter)
    refused: dict[tuple[str, str], Refusal] = field(default_factory=dict)
    unread: Counter[str] = field(default_factory=Counter)
    imageless: int = 0
    mended: list[str] = field(default_factory=list)

    def refuse(self, file: str, why: Refused, place: str = "") -> None:
        """Note a refusal; of many for one reason the first ones are kept."""
        found = self.refused.setdefault((file, why.kind), Refusal(file, why.kind))
        found.count += 1
        if len(found.examples) < EXAMPLES:
            found.examples.append(f"{place} ({why.detail})" if place and why.detail else place or why.detail)


def merge(
    sources: Iterable[Path], results: Path, *, machine: str | None = None, kept: bool = False, write: bool = True
) -> Iterator[Merged]:
    """Add folders of records to a results folder, machine by machine.

    Args:
        sources: folders of a machine, or results folders of several.
        results: one's own.
        machine: what the machine's folder is to be called, if there is one only; None: as it is called.
        kept: take kept models, too.
        write: False: only say what would become of them.

    Raises:
        UserError: there is nothing to merge, a folder is one's own, or one's own cannot be read or written.
    """
    found = [one for source in sources for one in _folders(source)]
    own = results.resolve()
    for source in found:
        if source.resolve().is_relative_to(own):
            raise UserError(f"{source} is in {results}, to which it would be added; name somebody else's folder")
    if machine is not None and (len(found) != 1 or not fits(machine, results)):
        if len(found) != 1:
            raise UserError(
                f"--machine names one folder, and {len(found)} came; merge them one by one, or leave it out"
            )
        raise UserError(
            f"--machine {machine!a} is no plain name; take letters, digits, '.', '_' and '-', or the name of a folder "
            f"that is in {results}"
        )
    for source in found:
        name = machine or source.resolve().name
        if fits(name, results):
            yield _Merge(source, results / name, kept=kept, write=write).run()
        elif len(found) == 1:
            raise UserError(f"{source}: a machine's folder has a plain name, {name!a} came; name it with --machine")
        else:
            done = Merged(source, results)
            done.refuse(".", Refused("its name is no plain one; merge it alone, with --machine NAME", ascii(name)))
            yield done


def _folders(source: Path) -> list[Path]:
    """The machines' folders of a folder, which may be one itself."""
    if not source.is_dir():
        raise UserError(f"there is no folder {source} to merge (looked from {Path.cwd()})")
    if (source / RECORDS).exists():
        return [source]
    found = sorted(path.parent for path in source.glob(f"*/{RECORDS}") if not path.parent.is_symlink())
    if not found:
        raise UserError(f"no records: there is neither {source / RECORDS} nor {source / '<machine>' / RECORDS}")
    return found


class _Merge:
    """One machine's folder on its way."""

    def __init__(self, source: Path, folder: Path, *, kept: bool, write: bool) -> None:
        self.source, self.folder, self.kept, self.write = source, folder, kept, write
        self.done = Merged(source, folder)
        self.store = Store(folder)
        self.known: set[bytes] = set()
        self.own: listings.Listings = {}
        self.theirs: listings.Listings = {}
        self.there: set[str] = set()
        self.described: dict[str, Environment] = {}
        self.ready: list[tuple[str, str]] = []
        self.images: set[str] = set()
        self.models: set[str] = set()
        self.writer: Writer | None = None
        self.open = ExitStack()

    def run(self) -> Merged:
        """Do it."""
        with self.open:
            if self.write and (self.folder / RECORDS).exists():
                self._begin()  # before it is read: nobody else writes to it meanwhile
            self.there = set(self.store.environments())
            self.own = listings.known(self.folder)
            self.known = {_identity(listings.complete(record, self.own)) for record in self.store.stream()}
            self.theirs = self._listings()
            for name, environment in self._environments():
                self.described[name] = environment
            for number, line in self._lines(RECORDS):
                try:
                    self._record(line)
                except Refused as why:
                    self.done.refuse(RECORDS, why, f"line {number}")
            self._flush()
            if self.done.taken or self.done.there:
                self._pictures()
            for digest in sorted(self.models):
                self._model(digest)
        return self.done

    def _begin(self) -> Writer:
        if self.writer is None:
            self.writer = self.open.enter_context(self.store.writing())
            self.done.mended += self.writer.repaired
        return self.writer

    def _lines(self, name: str) -> Iterator[tuple[int, bytes]]:
        """Number and bytes of each line that is not too long."""
        try:
            with _opened(self.source / name) as file:
                number = 0
                while line := file.readline(LINE):
                    number += 1
                    if len(line) == LINE and not line.endswith(b"\n"):
                        while (rest := file.readline(LINE)) and not rest.endswith(b"\n"):
                            pass
                        self.done.refuse(name, Refused(f"is longer than {LINE >> 20} MiB"), f"line {number}")
                    elif line.strip():
                        yield number, line
        except FileNotFoundError:
            return
        except Refused as why:
            self.done.refuse(name, why)
        except OSError as error:
            raise UserError(f"{self.source / name} cannot be read ({error.strerror})") from error

    def _environments(self) -> Iterator[tuple[str, Environment]]:
        for number, line in self._lines(ENVIRONMENTS):
            try:
                found = checks.environment(_document(line))
            except Refused as why:
                self.done.refuse(ENVIRONMENTS, why, f"line {number}")
            else:
                if len(self.described) == ENVIRONMENT_LINES:
                    raise UserError(
                        f"{self.source / ENVIRONMENTS} describes more than {ENVIRONMENT_LINES} environments"
                    )
                yield found.id, found

    def _listings(self) -> listings.Listings:
        """The files that trainings saw whose records do not say it."""
        try:
            with _opened(self.source / listings.FILE) as file:
                return listings.parse(file.read(LINE))
        except FileNotFoundError:
            return {}
        except Refused as why:
            self.done.refuse(listings.FILE, why)
        except ValueError as error:
            self.done.refuse(listings.FILE, Refused("is none that a run has written", error))
        except OSError as error:
            raise UserError(f"{self.source / listings.FILE} cannot be read ({error.strerror})") from error
        return {}

    def _record(self, text: bytes) -> None:
        """Take a record, or see that it is there.

        Raises:
            Refused: it is not taken.
        """
        record = checks.record(_document(text))
        if record.environment not in self.described and record.environment not in self.there:
            raise Refused(f"no sound line of {ENVIRONMENTS} describes its environment", ascii(record.environment)[:60])
        self._images(record)
        model = record.values.get(MODEL)
        if self.kept and isinstance(model, str):
            self.models.add(model)
        of = listings.subject(record)
        if of is not None and of in self.theirs and self.theirs[of] != self.own.get(of):
            record = listings.complete(record, self.theirs)  # what goes without saying there does not here
        line = record.line()
        identity = _identity(listings.complete(_read_back(line), self.own))
        if identity in self.known:
            self.done.there += 1
            self._describe(record.environment)  # one's own description of it may be lost
            return
        self.known.add(identity)
        self.done.taken += 1
        if reason := _unread(record):
            self.done.unread[reason] += 1
        self.ready.append((record.environment, line))
        if len(self.ready) == CHUNK:
            self._flush()

    def _flush(self) -> None:
        """Write what is ready."""
        for name in dict.fromkeys(name for name, _ in self.ready):
            self._describe(name)
        if self.write and self.ready:
            self._begin().lines(line for _, line in self.ready)
        self.ready.clear()

    def _describe(self, name: str) -> None:
        """Take the description of an environment, unless it is there."""
        if name not in self.there:
            self.there.add(name)
            self.done.environments += 1
            if self.write:
                self._begin().environment(environments.as_json(self.described[name]))

    def _images(self, record: Record) -> None:
        """See that what is kept of a record's images is what gives its figures, and take it.

        A file that is damaged or missing costs itself: the record counts without it, as one of our own does.

        Raises:
            Refused: the file is sound, and the record says something else.
        """
        digest = record.values.get(IMAGES)
        if not isinstance(digest, str):
            return
        name = f"{images.FOLDER}/{digest}.npz"
        try:
            content = _content(self.source / name, checks.UNPACKED)
            found = checks.kept(content, digest)
        except FileNotFoundError:
            self.done.imageless += not (self.folder / name).is_file()
            return
        except Refused as why:
            self.done.imageless += not (self.folder / name).is_file()
            self.done.refuse(images.FOLDER, why, f"{digest}.npz")
            return
        checks.agree(record, found)
        if digest in self.images or (self.folder / name).exists():
            return
        self.images.add(digest)
        self.done.files[images.FOLDER] += 1
        if self.write:
            try:
                images.put(self.folder / images.FOLDER, content, digest)
            except OSError as error:
                raise _unwritten(self.folder / name, error) from error

    def _pictures(self) -> None:
        """Take the pictures whose names are free."""
        folder = self.source / PICTURES
        if folder.is_symlink() or not folder.is_dir():
            return
        for path in sorted(folder.iterdir()):
            target = self.folder / PICTURES / path.name
            try:
                content = _picture(path)
            except Refused as why:
                self.done.refuse(PICTURES, why, ascii(path.name)[1:-1][:60])
                continue
            if not os.path.lexists(target):
                self.done.files[PICTURES] += 1
                if self.write:
                    _place([content], target)
            elif not target.is_file() or target.read_bytes() != content:
                self.done.refuse(PICTURES, Refused("there is another of this name, which stays"), path.name)

    def _model(self, digest: str) -> None:
        """Take a kept model, if it came along."""
        name = f"{models.FOLDER}/{digest}{models.ENDING}"
        path, target = self.source / name, self.folder / name
        if os.path.lexists(target) or not os.path.lexists(path):
            return
        try:
            with _opened(path) as file:
                _sound(path, file, digest)
                self.done.files[models.FOLDER] += 1
                if self.write:
                    _place(iter(lambda: file.read(_PART), b""), target, digest)
        except Refused as why:
            self.done.refuse(models.FOLDER, why, f"{digest}{models.ENDING}")


def _document(line: bytes) -> dict[str, object]:
    try:
        return checks.document(line)
    except Refused as why:
        if line.endswith(b"\n"):
            raise
        raise Refused("is cut off (a run ended while writing it)") from why


def _read_back(line: str) -> Record:
    """A record as the store will read it.

    Raises:
        Refused: it could not, for a reason that was not foreseen.
    """
    try:
        return parse(line, "it")
    except UserError as error:
        raise Refused("the store could not read it", error) from error


def _identity(record: Record) -> bytes:
    """What two copies of one measurement have in common, and two measurements do not."""
    question = [record.measure, record.version, dict(record.fields), dict(record.inputs)]
    said = [*question, record.environment, record.status, record.started, dict(record.values)]
    return hashlib.blake2b(msgspec.json.encode(said, order="deterministic"), digest_size=16).digest()


def _unread(record: Record) -> str:
    """Why tables will leave a record out, as far as its own line says; "" where they will not."""
    measure = measures().get(record.measure)
    if measure is None:
        return "of a measure that is not here"
    if measure.version != record.version:
        return f"of another version of {measure.name} than {measure.version}"
    if "head" in record.fields and record.fields["head"] not in catalogue.entries("heads"):
        return "of a head that is not here"
    return ""


def _opened(path: Path) -> BufferedReader:
    """A plain file, open for reading.

    Raises:
        Refused: it is a link, a pipe or the like.
        OSError: it cannot be read; `FileNotFoundError` where there is none.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise Refused("is no plain file that can be read", error.strerror) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise Refused("is no plain file that can be read")
    return os.fdopen(descriptor, "rb")


def _content(path: Path, most: int) -> bytes:
    """All of a plain file.

    Raises:
        Refused: it is none, or larger than it may be.
        FileNotFoundError: there is none.
    """
    with _opened(path) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise Refused(f"it is larger than {most >> 20} MiB")
    return content


def _picture(path: Path) -> bytes:
    """The content of a picture.

    Raises:
        Refused: it is none.
    """
    if not _PICTURE.fullmatch(path.name):
        raise Refused("is called otherwise than pictures are")
    content = _content(path, PICTURE)
    if not content.startswith(_PNG):
        raise Refused("is no PNG")
    return content


def _sound(path: Path, file: BufferedReader, digest: str) -> None:
    """See that a file is the kept model of a digest, and go back to its start.

    Raises:
        Refused: it is not.
    """
    if hashlib.file_digest(file, "sha256").hexdigest()[: models.DIGITS] != digest:
        raise Refused("it has other bytes than its name says")
    try:
        models.read(path)
    except UserError as error:
        raise Refused("it is no kept model") from error
    file.seek(0)


def _place(parts: Iterable[bytes], target: Path, digest: str = "") -> None:
    """Write a file whole or not at all, where there is none.

    Raises:
        UserError: it cannot be written.
        Refused: the bytes are not those of the digest, where one is given.
    """
    fresh = target.with_name(f".{os.getpid()}.part")
    read = hashlib.sha256()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with fresh.open("wb") as file:
            for part in parts:
                read.update(part)
                file.write(part)
            os.fsync(file.fileno())
        if digest and read.hexdigest()[: len(digest)] != digest:
            raise Refused("it changed while it was read")
        with suppress(FileExistsError):  # somebody was faster: his file stays
            os.link(fresh, target)
    except OSError as error:
        raise _unwritten(target, error) from error
    finally:
        fresh.unlink(missing_ok=True)


def _unwritten(path: Path, error: OSError) -> UserError:
    return UserError(f"{path} cannot be written ({error.strerror}); make room or the folder writable, and merge again")


def as_json(done: Merged) -> dict[str, object]:
    """What became of a folder, for `json.dumps`."""
    return {
        "source": str(done.source),
        "folder": str(done.folder),
        "taken": done.taken,
        "there": done.there,
        "environments": done.environments,
        "files": dict(sorted(done.files.items())),
        "imageless": done.imageless,
        "mended": done.mended,
        "unread": dict(sorted(done.unread.items())),
        "refused": [vars(one) for one in done.refused.values()],
    }


def words(done: Merged) -> Sequence[str]:
    """What became of a folder, in lines for people; the first one names it."""
    taken = [f"{done.taken} record{'' if done.taken == 1 else 's'} taken"]
    taken += [f"{done.there} were there already"] if done.there else []
    refused = sum(one.count for one in done.refused.values() if one.file == RECORDS)
    taken += [f"{refused} refused"] if refused else []
    beside = [f"{done.environments} environment{'s' if done.environments > 1 else ''}"] if done.environments else []
    beside += [f"{count} {_KINDS[kind][count > 1]}" for kind, count in sorted(done.files.items())]
    lines = [f"{done.source} -> {done.folder}: {', '.join(taken)}" + (f"; with {', '.join(beside)}" if beside else "")]
    lines += done.mended
    if done.imageless:
        lines.append(f"{done.imageless} came without the file of their images: nothing is compared image by image")
    lines += [f"{count} in no table here: {why}" for why, count in sorted(done.unread.items())]
    for one in done.refused.values():
        more = one.count - len(one.examples)
        places = "; ".join(filter(None, one.examples)) + (f"; and {more} more" if more else "")
        lines.append(f"refused: {one.count} of {one.file}: {one.reason}" + (f": {places}" if places else ""))
    return lines
