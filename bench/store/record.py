"""A record: one measurement that was made, or could not be made, as one line of JSON."""

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from dataclasses import fields as parts
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec

from bench.errors import UserError, one_line, printable, remark
from bench.plan.cell import LATER, SILENT, Cell
from bench.plan.measure import AFTER, COMPANY, CROSSED, Value, measures

STATUSES: Mapping[str, str] = {
    "ok": "it was measured",
    "oom": "memory did not suffice",
    "unsupported": "the combination cannot be had: its backbone, head or data set says so",
    "invalid": "it was measured, and the figure must not be used: outputs are not those of eager float32, or others "
    "used the machine where company was refused",
    "timeout": "it was not done in the time it had",
    "error": "it failed for another reason",
}
"""How a measurement may have ended, and what that means; in the order in which several are named."""
INPUTS: Mapping[str, str] = {
    "recipe": "digest of what the recipe states for the task",
    "weights": "the first 12 hexadecimal digits of the SHA-256 of the weights' file",
    "dataset": "what is to be said of the data set beyond its name: its version, which images are val, which were left "
    "out of training",
    "files": "digest of the names and sizes of the files of train and val and of the names of classes, of trainings on "
    "data on disk; without it those in `listings.json`, of when records began to say it",
    "levels": '"normed": the raw levels of a residual stream get norms on their way to the head; before, they had none',
    "backbone revision": "number of the revision of the backbone's training; without it the first",
    "head revision": "likewise of the head",
    "backbone source": "digest of the code that makes the backbone (see below); without it the one in "
    "`bench/plan/sources.json`, of when records began to say it",
    "head source": "likewise of the head",
    "runtime": 'versions of what the runtime needs (or "missing"), and what of the CPU that it may choose kernels by; '
    "of torch nothing is said",
}
"""What inputs a record may have, and what they say."""
SETTLED = frozenset({"ok", "oom", "unsupported", "invalid"})
"""What measuring again would only repeat; a time-out or an error is tried again by the next run."""


REASON, SENTENCE = 20_000, 2_000
"""Most letters of a record's reason, and of another text among its values."""


@dataclass(frozen=True)
class Record:
    """One measurement.

    Attributes:
        measure: name of what was measured.
        version: meaning of its numbers.
        fields: the cell's fields that it depends on, and no others.
        inputs: digests and versions of what fields name (see `INPUTS`), so that what was edited is measured again.
        environment: id of the machine and software, described in ``environments.jsonl``.
        status: one of `STATUSES`.
        reason: why it is not "ok", in at most 20,000 letters; empty when it is.
        values: column -> number, or class -> number; None (null) where unknown, never 0. Some say more, see
            `bench.plan.measure.BESIDE`.
        samples: raw samples by name, in the unit that the name says.
        started: time at which its process started, ISO 8601, UTC.
        wall_s: seconds from the start of its process to its end.
    """

    measure: str
    version: int
    fields: Mapping[str, Any]
    inputs: Mapping[str, str]
    environment: str
    status: str
    reason: str = ""
    values: Mapping[str, Value] = field(default_factory=dict)
    samples: Mapping[str, Sequence[float]] = field(default_factory=dict)
    started: str = ""
    wall_s: float = 0.0

    @property
    def key(self) -> str:
        """What makes two records answers to the same question (on one machine)."""
        return question(self.measure, self.version, self.fields, self.inputs)

    @cached_property
    def memo(self) -> dict[Any, Any]:
        """What has been reckoned from its samples, by whoever may need it again; no part of the record."""
        return {}

    @property
    def company(self) -> str:
        """Why its figures count as taken in company, or "": nothing is claimed of them then."""
        return str(self.values.get(COMPANY, ""))

    @property
    def began(self) -> str:
        """Its place in the order of time: when it started, or when a record did that it follows."""
        return max(self.started, str(self.values.get(AFTER, "")))

    @property
    def crossed(self) -> str:
        """The matrix that crossed what cannot be had, where nobody asked for it in particular; else ""."""
        return str(self.values.get(CROSSED, ""))

    @property
    def standing(self) -> "Standing":
        """What `better` looks at."""
        return Standing(sys.intern(self.status), sys.intern(self.company), self.started, self.began)

    def line(self) -> str:
        """As one line of JSON, with its line feed."""
        stated = {part.name: getattr(self, part.name) for part in parts(self)}
        stated |= {name: dict(value) for name, value in stated.items() if isinstance(value, Mapping)}
        return json.dumps(stated, separators=(",", ":"), allow_nan=False) + "\n"


def sayable(text: str, most: int = REASON) -> str:
    """A text as a record has it: no longer than that (its beginning and end are kept), and no control characters."""
    return _cut(printable(_cut(text, most)), most)  # escapes are longer


def _cut(text: str, most: int) -> str:
    if len(text) <= most:
        return text
    gap = f" … ({len(text) - most} letters are left out) … "
    half = (most - len(gap)) // 2
    return text[:half] + gap + text[-half:]


class Standing(NamedTuple):
    """What of a record decides whether another one replaces it."""

    status: str
    company: str
    started: str
    began: str


def better(later: Record | Standing, earlier: Record | Standing) -> bool:
    """Whether the later of two answers to one question replaces the earlier one.

    What is settled replaces what is not, and what was settled before; but a figure in company does not take the place
    of one that was taken alone, nor a failure to take it again that of a figure in company. Later is what began later,
    whatever order lines have: the records of others join at the end of a file. What a run measures again by a clock
    that was set back says that it is later (`bench.plan.measure.AFTER`).
    """
    if later.started and earlier.started and later.began < earlier.began:
        return not better(earlier, later)
    if earlier.status == "ok" and earlier.company and later.status != "ok":
        return False
    if earlier.status == "ok" and not earlier.company and later.company:
        return False
    return later.status in SETTLED or earlier.status not in SETTLED


def question(measure: str, version: int, fields: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """The text that identifies a question: equal for equal measure, version, fields and inputs."""
    said = {name: value for name, value in fields.items() if SILENT.get(name) != value}
    return json.dumps([measure, version, said, dict(inputs)], sort_keys=True, separators=(",", ":"))


_NO_SAMPLES = msgspec.Raw(b"{}")


_Whole = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
"""Whole numbers of hundreds of digits would be no float in tables."""
_Number = float | _Whole
_Said = _Number | str | bool | dict[str, _Number | None] | None


class _Line(msgspec.Struct, forbid_unknown_fields=True):
    """`Record` as it is written. The samples, which are most of a line and which few readers want, stay bytes."""

    measure: str
    version: _Whole
    fields: dict[str, str | int]
    inputs: dict[str, str]
    environment: str
    status: str
    reason: str = ""
    values: dict[str, _Said] = {}
    samples: msgspec.Raw = _NO_SAMPLES
    started: str = ""
    wall_s: float = 0.0


_decode = msgspec.json.Decoder(_Line).decode
_samples: Callable[[Any], dict[str, list[Any]]] = msgspec.json.Decoder(dict[str, list[_Number | None]]).decode


def _read(line: bytes) -> _Line:
    """What a line says; names that would steer a terminal or be no text in tables are escaped (`printable`)."""
    if b"\\" not in line and line.isascii():  # nearly all are so, and it is soon seen
        return _decode(line)
    try:
        found = _decode(line)
    except msgspec.DecodeError as error:
        if "surrogate" not in str(error):
            raise
        found = _unpaired(line)
    for name in ("measure", "environment", "reason", "started"):
        setattr(found, name, printable(getattr(found, name)))
    found.fields, found.inputs = _escaped(found.fields, one_line), _escaped(found.inputs, one_line)
    found.values = _escaped(found.values, printable)
    return found


def _unpaired(line: bytes) -> _Line:
    """What a line with a name that is not UTF-8 says: Python writes half a surrogate, which msgspec does not read."""
    stated = json.loads(line, parse_constant=_no_number)
    if not isinstance(stated, dict):
        raise ValueError("it is no JSON object")  # noqa: TRY004 - all that is wrong with a line is a ValueError
    samples = json.dumps(stated.pop("samples", {}), allow_nan=False).encode()
    json.dumps(stated, allow_nan=False)  # 1e999 is infinite
    found = msgspec.convert(stated, _Line)
    found.samples = msgspec.Raw(samples)
    return found


def _escaped(value: Any, text: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return text(value)
    if isinstance(value, dict):
        return {one_line(name): _escaped(one, text) for name, one in value.items()}
    return value


_TYPES = {one.name: one.type for one in parts(Cell)}
_SHAPES: set[tuple[Any, ...]] = set()
"""Names and types of fields that have been found to be those of a cell: of a hundred thousand records a few."""


def _typed(fields: Mapping[str, Any], shape: tuple[Any, ...]) -> tuple[Any, ...]:
    """The shape of fields whose values are of the types that a cell has."""
    for name, value in fields.items():
        if (wanted := _TYPES.get(name, type(value))) is not type(value):
            raise ValueError(f"field {name} is {value!r:.40}, {getattr(wanted, '__name__', wanted)} is wanted")
    return shape


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no number of JSON")


def parse(line: str | bytes, where: str, later: Mapping[str, Sequence[float]] | None = None) -> Record:
    """A record from its line.

    Args:
        line: of JSON.
        where: for errors.
        later: the samples, where there are any, read once somebody looks at them; None: they are read at once.

    Raises:
        UserError: no JSON, or not a record's; names the place.
    """
    try:
        read = _read(line if isinstance(line, bytes) else line.encode())
        known = measures().get(read.measure)
        if (shape := (*read.fields, *map(type, read.fields.values()))) not in _SHAPES:
            _SHAPES.add(_typed(read.fields, shape))
        # Equal texts are one: a hundred thousand records have some hundred different ones.
        fields = {name: sys.intern(value) if type(value) is str else value for name, value in read.fields.items()}
        missing = LATER.keys() - fields.keys() if len(fields) != len(known.fields if known else ()) else ()
        if missing and known:
            fields = {name: LATER[name] for name in known.fields if name in missing} | fields
        record = Record(
            read.measure,
            read.version,
            fields,
            read.inputs,
            sys.intern(read.environment),
            sys.intern(read.status),
            read.reason,
            read.values,
            {} if read.samples == _NO_SAMPLES else _paired(_samples(read.samples)) if later is None else later,
            read.started,
            read.wall_s,
        )
        if later is not None and read.samples != _NO_SAMPLES and bytes(memoryview(read.samples)[:1]) != b"{":
            raise ValueError("samples are no JSON object")  # noqa: TRY301 - as all that is wrong with a line
    except (ValueError, RecursionError) as error:  # all that msgspec raises are some
        raise UserError(f"{where} is no record: {error}") from error
    if record.status not in STATUSES:
        raise UserError(f"{where}: status '{record.status}' is none of {', '.join(STATUSES)}")
    return record


def _paired(samples: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Series whose rounds are known, each with its rounds.

    Raises:
        ValueError: rounds are not those of a series.
    """
    for name, rounds in samples.items():
        timed = name.removesuffix("_round")
        if timed == name:
            continue
        series = samples.get(timed, ()) if timed not in _COUNTED else rounds
        if len(series) != len(rounds) or None in rounds or None in series:
            raise ValueError(f"{name} are not the rounds of {timed}")
        if timed.endswith("_ms") and not all(value > 0 for value in series):
            raise ValueError(f"a time of {timed} is not above 0")
    if "anchor_ms" in samples and "anchor_ms_round" not in samples:
        raise ValueError("anchor_ms has no rounds")
    return samples


_COUNTED = frozenset({"company", "disturbed"})
"""What has rounds and no series."""


class Stored(Mapping[str, Sequence[float]]):
    """Samples that stay in the file until they are looked at; their line has ``size`` bytes from ``start`` on.

    state: of the file when it was read, for what is remembered: a folder may be replaced while somebody looks at it.
    """

    def __init__(self, path: Path, start: int, size: int, state: tuple[int, int] = (0, 0)) -> None:
        self._place = path, start, size, state

    def __getitem__(self, name: str) -> Sequence[float]:
        return _stored(*self._place)[name]

    def __contains__(self, name: object) -> bool:
        return name in _stored(*self._place)

    def __iter__(self) -> Iterator[str]:
        return iter(_stored(*self._place))

    def __len__(self) -> int:
        return len(_stored(*self._place))


class _Sampled(msgspec.Struct):
    """What a line has samples in; what else it says is passed over."""

    samples: dict[str, list[_Number | None]] = {}


_sampled = msgspec.json.Decoder(_Sampled).decode


class _Opened:
    """A file that stays open for the next line, as long as somebody holds this."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDONLY)

    def read(self, start: int, size: int) -> bytes:
        return os.pread(self._file, size, start)

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            os.close(self._file)


@lru_cache(maxsize=8)
def _opened(path: Path, state: tuple[int, int]) -> _Opened:  # noqa: ARG001 - a key
    return _Opened(path)


@lru_cache(maxsize=64)  # who asks for one series asks for the next one
def _stored(path: Path, start: int, size: int, state: tuple[int, int]) -> dict[str, list[Any]]:
    try:
        line = _opened(path, state).read(start, size)
    except OSError as error:
        raise UserError(f"{path}, at byte {start}: samples cannot be read again ({error})") from error
    try:
        return _paired(_sampled(line).samples)
    except (ValueError, RecursionError):  # no more than `_read` reads, or nothing at all
        try:
            return _paired(_samples(_read(line).samples))
        except (ValueError, RecursionError) as error:
            remark(
                f"{path}: the record at byte {start} counts without its samples, which are none: {error}; "
                f"`densebench report --set-aside` moves it out of the way"
            )
            return {}
