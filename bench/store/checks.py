"""Whether what somebody else wrote is a record, an environment or a file that a record names.

A store trusts what it reads, for a run wrote it. What comes from elsewhere is looked at first, down to every number
and letter: tables, figures and the next run read it, and none of them may fail over it, or show what it is not.
"""

import io
import math
import re
import unicodedata
import zipfile
from collections.abc import Collection, Mapping
from dataclasses import MISSING, Field, fields
from datetime import datetime
from functools import cache
from typing import Any, get_args, get_origin

import msgspec
import numpy as np

from bench.errors import printable
from bench.plan import models
from bench.plan.cell import Cell
from bench.plan.environment import Environment, consistent
from bench.plan.measure import (
    AFTER,
    CANNOT,
    COMPANY,
    CROSSED,
    IMAGES,
    IMAGES_LOST,
    MODEL,
    MODEL_LOST,
    TEACHER,
    TRAINED,
    UNREPEATABLE,
    UNSUITED,
    Measure,
    measures,
)
from bench.stats.overlap import Overlaps
from bench.stats.precision import Detections
from bench.store import images
from bench.store.record import REASON, SENTENCE, STATUSES, Record

NAME = 300
"""Most letters of a name."""
CLASSES = 10_000
"""Most numbers of one column, one a class."""
UNPACKED = 256 * 2**20
"""Most bytes of what is kept of every image of one record."""
_WHOLE = 2**63
"""Whole numbers are below it, as in the columns of a data frame."""
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}")
_DIGEST = re.compile(rf"[0-9a-f]{{{models.DIGITS}}}")
_COMMIT = re.compile(r"[0-9a-f]{7,40}(\+changes)?|unknown")
_MARKUP = re.compile(r"[<>|`$]|\]\(")
_FORMULA = ("=", "+", "@")
_JOINERS = {"\u200c", "\u200d"}
"""What is not printable and belongs to words of some scripts."""
_TEXTS = (AFTER, CANNOT, COMPANY, CROSSED, IMAGES_LOST, MODEL_LOST, TRAINED, UNREPEATABLE, UNSUITED)
_DIGESTS = (IMAGES, MODEL, TEACHER)
_LEAST = {"patch": 1, "height": 1, "width": 1, "batch": 1}
_CELL = {field.name: field.type for field in fields(Cell)}


class Refused(Exception):
    """Something is not taken.

    Args:
        kind: why, in words that are the same for all that is refused for it.
        detail: what came, in short.
    """

    def __init__(self, kind: str, detail: object = "") -> None:
        super().__init__(kind)
        self.kind, self.detail = kind, printable(str(detail)[:80]).replace("\n", " ")


def document(line: bytes) -> dict[str, Any]:
    """What a line of JSON says.

    Raises:
        Refused: it is no JSON object, or has numbers that JSON does not know.
    """
    try:
        found = msgspec.json.decode(line)
    except RecursionError:
        raise Refused("is nested too deeply") from None
    except ValueError as error:
        raise Refused("is no JSON", error) from error
    if not isinstance(found, dict):
        raise Refused("is no JSON object", line[:40])
    return found


def environment(stated: Mapping[str, Any]) -> Environment:
    """The environment that a line describes.

    Raises:
        Refused: see `Refused.kind`.
    """
    found = _made(Environment, stated)
    for name, value in vars(found).items():
        items = [text for item in value.items() for text in item] if isinstance(value, dict) else value
        for text in items if isinstance(items, list) else [items]:
            if isinstance(text, str):
                _text(text, "a text", of=name)
                _unmarked(text, "a text", name)
    if not _COMMIT.fullmatch(found.git):
        raise Refused("git is no commit", found.git)
    if not consistent(found):
        raise Refused("its id is not the digest of what it says", found.id)
    return found


def record(stated: Mapping[str, Any]) -> Record:
    """The record that a line is, with the fields that the line has.

    A measure or a version of one that is not here is no reason to refuse it: tables leave such records out and count
    them, and they count where the measure is known. What it says must be a record all the same.

    Raises:
        Refused: see `Refused.kind`.
    """
    found = _made(Record, stated)
    if found.status not in STATUSES:
        raise Refused(f"its status is none of {', '.join(STATUSES)}", found.status)
    if not _WORD.fullmatch(found.measure) or not 0 <= found.version < _WHOLE:
        raise Refused("its measure or version is no name and number", f"{found.measure} {found.version}")
    if found.wall_s < 0:
        raise Refused("wall_s is no duration", found.wall_s)
    _time(found.started)
    _text(found.reason, "reason", REASON, lines=True)
    for name, text in found.inputs.items():
        _text(name, "the name of an input")
        _text(text, "an input", SENTENCE, of=name)
    measure = measures().get(found.measure)
    if measure is not None and measure.version != found.version:
        measure = None
    _fields(found, measure)
    _values(found, measure)
    _samples(found)
    return found


def kept(content: bytes, digest: str) -> Overlaps | Detections:
    """What a file keeps of every image.

    Raises:
        Refused: it is not the file of this digest, or none of the kind.
    """
    if images.digest_of(content) != digest:
        raise Refused("it has other bytes than its name says")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as packed:
            large = sum(member.file_size for member in packed.infolist()) > UNPACKED
        if large:
            raise Refused(f"it unpacks to more than {UNPACKED >> 20} MiB")  # noqa: TRY301, before it is unpacked
        with np.load(io.BytesIO(content)) as opened:
            arrays: dict[str, Any] = dict(opened)
        found = (Detections if "score" in arrays else Overlaps).from_arrays(arrays)
        for name in found.classes:
            _text(name, "the name of a class")
    except Refused:
        raise
    except Exception as error:
        raise Refused("it keeps nothing of images", f"{type(error).__name__}: {error}") from error
    return found


def agree(record: Record, found: Overlaps | Detections) -> None:
    """See that a record's figures are those that follow from what is kept of its images.

    Raises:
        Refused: one is not.
    """
    for name, value in record.values.items():
        several = {f"{name}[{key}]": one for key, one in value.items()} if isinstance(value, dict) else {name: value}
        for column, stated in several.items():
            if not isinstance(stated, int | float):
                continue
            try:
                figure = found.figure(column)
            except Exception as error:
                raise Refused("the file of its images cannot be read as such", f"{type(error).__name__}") from error
            if figure is not None and not math.isclose(float(figure[0]), stated, rel_tol=1e-6, abs_tol=1e-6):
                raise Refused("its figures are not those of its images", f"{column} {stated}, {float(figure[0])}")


@cache
def _known(kind: type[Any]) -> Mapping[str, Field[Any]]:
    return {field.name: field for field in fields(kind)}


def _made(kind: type[Any], stated: Mapping[str, Any]) -> Any:
    """An instance of a dataclass, all of whose fields are of the types that it declares."""
    known = _known(kind)
    if strange := sorted(stated.keys() - known.keys()):
        raise Refused("has a key that is not known here (is it of a newer densebench?)", ascii(strange[0]))
    required = {name for name, one in known.items() if one.default is MISSING and one.default_factory is MISSING}
    if missing := sorted(required - set(stated)):
        raise Refused("lacks a key", missing[0])
    for name, value in stated.items():
        if not _is(value, known[name].type):
            raise Refused("a key is of another type", _named(name, value))
    return kind(**stated)


_origin = cache(get_origin)


def _is(value: object, kind: Any) -> bool:
    """Whether a value of JSON is of a type as our dataclasses declare them."""
    if kind is str or kind is int:
        return type(value) is kind
    origin, inner = _origin(kind), get_args(kind)
    if origin is list:
        return isinstance(value, list) and all(_is(item, inner[0]) for item in value)
    if origin is not None:  # a mapping; of what, is looked at where it matters
        texts = inner[1:] == (str,)
        return isinstance(value, dict) and (not texts or all(isinstance(item, str) for item in value.values()))
    assert kind is float, "there are no others"
    return _numbers([value])


def _numbers(values: Collection[object]) -> bool:
    """Whether all are finite numbers, which true and false are not."""
    try:
        return {*map(type, values)} <= {int, float} and all(map(math.isfinite, values))  # pyright: ignore[reportArgumentType]
    except OverflowError:  # a whole number of hundreds of digits
        return False


def _time(text: str) -> None:
    try:
        if text:
            datetime.fromisoformat(text)
    except ValueError as error:
        raise Refused("started is no time (ISO 8601)", ascii(text)[:40]) from error


def _text(text: str, what: str, most: int = NAME, *, of: str = "", lines: bool = False) -> None:
    """See that a text is one: not too long, without what steers a terminal, and no formula of a spreadsheet.

    what: it is, the same for all of its kind. of: its name. lines: it may have several.
    """
    if len(text) <= most and text.isprintable() and not text.startswith(_FORMULA):
        return
    if len(text) > most:
        raise Refused(f"{what} has more than {most} letters", _named(of, text))
    if any(_steers(letter, lines) for letter in text):
        raise Refused(f"{what} has control characters", _named(of, text))
    if text.startswith(_FORMULA):
        raise Refused(f"{what} begins as a formula does", _named(of, text))


def _steers(letter: str, lines: bool) -> bool:
    if letter in _JOINERS or (lines and letter in "\n\t"):
        return False
    return unicodedata.category(letter) in {"Cc", "Cf", "Cs", "Zl", "Zp"}


def _unmarked(text: str, what: str, of: str) -> None:
    if _MARKUP.search(text):
        raise Refused(f"{what} has markup", _named(of, text))


def _named(name: str, value: object) -> str:
    """A name and what it has, in short and in letters that do no harm."""
    return f"{ascii(name)[1:-1][:40]} {ascii(value)[:40]}" if name else ascii(value)[:60]


def _fields(record: Record, measure: Measure | None) -> None:
    """A cell's fields by their types; of a measure that is not here it may have others."""
    for name, value in record.fields.items():
        kind = _CELL.get(name)
        if kind is None and (measure is not None or not _WORD.fullmatch(name)):
            raise Refused("has a field that no cell has", ascii(name)[:60])
        if type(value) not in ((str, int) if kind is None else (kind,)):
            raise Refused("a field is of another type", _named(name, value))
        if isinstance(value, str):
            _text(value, "a field", of=name)
            _unmarked(value, "a field", name)
        elif not _LEAST.get(name, 0 if kind else -_WHOLE) <= value < _WHOLE:
            raise Refused("a field is out of range", _named(name, value))


def _values(record: Record, measure: Measure | None) -> None:
    columns = {column.name for column in measure.columns} if measure else set()
    unsigned = {column.name for column in measure.columns if not column.signed} if measure else set()
    for name, value in record.values.items():
        _text(name, "the name of a value")
        if isinstance(value, dict):
            if len(value) > CLASSES:
                raise Refused(f"a value has more than {CLASSES} classes", _named(name, ""))
            for key, number in value.items():
                _text(key, "the name of a class")
                _number(number, name, least=0 if name in unsigned else None)
        elif not isinstance(value, str):
            _number(value, name, least=0 if name in unsigned else None)
        elif name in columns:
            raise Refused("a column is no number", _named(name, value))
        else:
            _text(value, "a value", SENTENCE, of=name, lines=True)
    for name in {*_TEXTS, *_DIGESTS} & set(record.values):
        value = record.values[name]
        if not isinstance(value, str) or (name in _DIGESTS and not _DIGEST.fullmatch(value)):
            raise Refused(f"a value is no {'digest' if name in _DIGESTS else 'text'}", _named(name, value))


def _number(value: object, name: str, least: float | None) -> None:
    """See that a value is a finite number, or None: not known."""
    if value is None:
        return
    if not _numbers([value]) or abs(value) >= _WHOLE:  # pyright: ignore[reportArgumentType]
        raise Refused("a value is no finite number", _named(name, value))
    if least is not None and value < least:  # pyright: ignore[reportOperatorIssue] - a number, above
        raise Refused("a column is negative", _named(name, value))


def _samples(record: Record) -> None:
    for name, series in record.samples.items():
        _text(name, "the name of a series")
        if not isinstance(series, list) or not _numbers(series):
            raise Refused("a series is not of finite numbers", name)
    for name, series in record.samples.items():
        timed = name.removesuffix("_round")
        if name in (timed, "company_round", "disturbed_round"):
            continue
        if len(record.samples.get(timed, ())) != len(series):
            raise Refused("rounds are not those of a series", name)
        if timed.endswith("_ms") and not all(value > 0 for value in record.samples[timed]):
            raise Refused("a time is not above 0", timed)
    if "anchor_ms" in record.samples and "anchor_ms_round" not in record.samples:
        raise Refused("rounds are not those of a series", "anchor_ms")
