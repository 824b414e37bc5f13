"""Errors that a user can act upon: printed as one message, without a traceback, with exit code 2."""

import re
import sys
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

_STEERING = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_LONGEST = 200
"""Letters of an unknown name that a message repeats."""
_REMARKED: set[str] = set()


class UserError(Exception):
    """What was wanted, what came, and what to do."""


class DataError(UserError):
    """A data set on disk is missing, incomplete or broken; the message names the file."""


def unknown(kind: str, name: str, known: Iterable[str]) -> UserError:
    """The error for a name that does not exist: says what was probably meant, and what there is."""
    names = sorted(known)
    if len(name) > _LONGEST:
        name = f"{name[:_LONGEST]}… ({len(name)} letters)"
    close = get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    return UserError(f"unknown {kind} '{name}': {hint}there is: {', '.join(names) or 'nothing'}")


def printable(text: str) -> str:
    """Text that neither steers a terminal nor fails to be written: of what a file or class may be called, escapes.

    Control characters but line feeds, marks that turn the direction of writing, and bytes that are no text are escaped.
    """
    return text if text.isascii() and text.isprintable() else _STEERING.sub(lambda found: ascii(found[0])[1:-1], text)


def one_line(text: str) -> str:
    """A name as it is shown: `printable`, and without line feeds, which would end a row of a table."""
    return printable(text).replace("\n", "\\n")


def shown(value: object, most: int = 100) -> str:
    """What came, for a message: as Python writes it, and no longer than that."""
    text = repr(value)
    return text if len(text) <= most else f"{text[:most]}… ({len(text)} letters)"


def at_home(text: str | Path) -> Path:
    """A path as a user wrote it, its ~ replaced.

    Raises:
        UserError: nobody knows where that home is.
    """
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise UserError(f"{text}: whose home that is, is not known; write the whole path") from error


def remark(text: str) -> None:
    """A sentence on stderr about what was passed over; the same one once a verb, however often it is come across."""
    if text not in _REMARKED:
        _REMARKED.add(text)
        sys.stderr.write(f"{printable(text)}\n")


def forget_remarks() -> None:
    """Another verb begins, which says what it comes across itself."""
    _REMARKED.clear()
