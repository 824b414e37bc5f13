"""Errors that a user can act upon: printed as one message, without a traceback, with exit code 2."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """What was wanted, what came, and what to do."""


class DataError(UserError):
    """A data set on disk is missing, incomplete or broken; the message names the file."""


def unknown(kind: str, name: str, known: Iterable[str]) -> UserError:
    """The error for a name that does not exist: says what was probably meant, and what there is."""
    names = sorted(known)
    close = get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    return UserError(f"unknown {kind} '{name}': {hint}there is: {', '.join(names) or 'nothing'}")


def printable(text: str) -> str:
    """Text for a terminal: of what a file may be called, control characters and bytes that are no text as escapes."""
    shown = "".join(letter if letter.isprintable() or letter == "\n" else repr(letter)[1:-1] for letter in text)
    return shown.encode("utf-8", "backslashreplace").decode()
