"""What verbs share: options that several have, how their values are read, and the two streams that they write to."""

import os
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from shutil import get_terminal_size
from textwrap import wrap
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.errors import UserError, printable

if TYPE_CHECKING:
    from rich.console import Console

# Piped output has no width of its own; the usual 80 columns would fold a table's words.
_WIDTH = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 120

Results = Annotated[Path, typer.Option(help="folder of results")]
Json = Annotated[bool, typer.Option("--json", help="machine-readable output")]
Wide = Annotated[bool, typer.Option("--wide", help="tables of every column, however wide")]
Csv = Annotated[bool, typer.Option("--csv", help="rows of every column as CSV, instead of tables")]


@cache
def out() -> "Console":
    """Where results go; rich takes a while to import, and JSON does not need it."""
    return _console()


@cache
def err() -> "Console":
    """Where words about the work go, so that a pipe gets results alone."""
    return _console(stderr=True)


def _console(*, stderr: bool = False) -> "Console":
    from rich.console import Console

    class Shown(Console):
        """Names, paths and reasons are the user's: nothing in them steers a terminal."""

        def render_str(self, text: str, **how: Any) -> Any:
            return super().render_str(printable(text), **how)

    # Nor is anything in them markup.
    return Shown(stderr=stderr, markup=False, width=_WIDTH)


def folded(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Lines of a table whose last column is folded into what the others leave of the width.

    It waits for nothing, where rich is imported for longer than names are looked for.
    """
    firsts = list(zip(head, *rows, strict=True))[:-1]
    widths = [max(map(len, column)) + 2 for column in firsts]
    room = max(20, (_WIDTH or get_terminal_size().columns) - sum(widths))
    for *cells, last in (head, *rows):
        start = "".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        for part in wrap(last, room, break_long_words=False, break_on_hyphens=False) or [""]:
            yield f"{start}{part}".rstrip()
            start = " " * len(start)


def say(text: str) -> None:
    """One remark beside the results."""
    err().print(text, style="yellow", soft_wrap=True)


def axis(what: str, *names: str) -> Any:
    """The option of an axis of the matrix."""
    return typer.Option(*names, help=f"{what}; comma-separated, or the option repeated", show_default=False)


def split(values: list[str]) -> list[str]:
    """Comma-separated values of an option that may be repeated."""
    return [part.strip() for value in values for part in value.split(",") if part.strip()]


def filters(texts: list[str]) -> dict[str, list[str]]:
    """Axis -> values, of ``AXIS=VALUE[,VALUE]``."""
    found: dict[str, list[str]] = {}
    for text in texts:
        name, equals, values = text.partition("=")
        if not equals or not values:
            raise UserError(f"--where {text}: AXIS=VALUE[,VALUE] is wanted, e.g. --where head=linear,upernet")
        found.setdefault(name, []).extend(split([values]))
    return found


def one_of(**forms: bool) -> None:
    """Refuse two forms of the same output."""
    if len(asked := [f"--{name}" for name, wanted in forms.items() if wanted]) > 1:
        raise UserError(f"{' and '.join(asked)} exclude each other; give one of them")
