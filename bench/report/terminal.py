"""How a table meets a terminal: which columns it has room for, and where its lines end. Names are never broken."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby, zip_longest
from operator import add, itemgetter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions
    from rich.segment import Segment

NO_BREAK = "\N{NO-BREAK SPACE}"
"""A space at which no line ends; it is printed as a usual one."""
FOLD = 16
"""Characters that a column that folds keeps at least: before others are left out, not fewer."""
INDENT = "    "


@dataclass(frozen=True)
class TableColumn:
    """One column; its widths are in terminal cells.

    title: stands on as many lines as its words need over the column's cells.
    cells: a text for each row; "" for nothing.
    importance: 0 is never left out; of the others the highest goes first.
    right: set to the right, as numbers are.
    named: says which row it is; where nothing else helps, such columns get a line of their own.
    joined: one space from the column before it instead of two.
    folds: a cell may take several lines, broken between words.
    """

    title: str
    cells: Sequence[str]
    importance: int = 0
    right: bool = False
    named: bool = False
    joined: bool = False
    folds: bool = False

    @cached_property
    def least(self) -> int:
        """The width that the column cannot do without."""
        if not self.folds:
            return self.full
        words = max((_length(word) for cell in self.cells for word in _words(cell)), default=0)
        return max(self._title, words, min(self.full, FOLD))

    @cached_property
    def full(self) -> int:
        """The width at which no cell folds."""
        return max(self._title, max(map(_length, self.cells), default=0))

    @property
    def gap(self) -> int:
        """Spaces from the column before it."""
        return 1 if self.joined else 2

    @property
    def _title(self) -> int:
        return max(map(_length, _words(self.title)), default=0)


@dataclass(frozen=True)
class TerminalTable:
    """A table that fits the console it is printed to.

    Where not all columns fit, the least important ones are left out, one after the other, and the caption says which.
    Where those that are never left out do not fit, the columns that name a row get a line above its numbers. Where that
    is too wide, too, lines are longer than the console: words stay whole.

    title: above the table. columns: each with a cell a row. headings: row -> what it and those below it have in common.
    notes: row -> text for a line of its own below it. caption: lines below the table. wide: nothing is left out and
    nothing folds, however wide the table gets.
    """

    title: str
    columns: Sequence[TableColumn]
    headings: Mapping[int, str] = field(default_factory=dict)
    notes: Mapping[int, str] = field(default_factory=dict)
    caption: Sequence[str] = ()
    wide: bool = False

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "Iterator[Segment]":
        """The lines for a console of this width."""
        from rich.control import strip_control_codes  # noqa: PLC0415, reading needs no rich
        from rich.segment import Segment  # noqa: PLC0415

        for style, group in groupby(self.lines(options.max_width), key=itemgetter(1)):
            lines = [line.expandtabs() for line, _ in group]
            # What has no style, which is nearly all of a large table, goes to the console in one piece.
            for text in lines if style else ["\n".join(lines)]:
                yield Segment(strip_control_codes(text), console.get_style(style) if style else None)
                yield Segment.line()

    def lines(self, width: int) -> Iterator[tuple[str, str]]:
        """Lines and their styles for a terminal of that many characters."""
        layout = _fitting(self.columns, None if self.wide else width)
        body = list(self._body(layout, width))
        yield from ((line, "italic") for line in wrap(self.title, width))
        yield "", ""
        head = list(layout.head())
        yield from ((line, "bold") for line in head)
        yield "─" * max(_length(line) for line in [*head, *(line for line, style in body if not style)]), ""
        yield from body
        yield "", ""
        for text in [*self.caption, *self._left_out(layout, width)]:
            yield from ((line, "") for line in wrap(text, width) if text)
        yield "", ""

    def _body(self, layout: "_Layout", width: int) -> Iterator[tuple[str, str]]:
        for index in range(max(len(column.cells) for column in self.columns)):
            if index in self.headings:
                if index:
                    yield "", ""
                yield from ((line, "bold") for line in wrap(self.headings[index], width))
            yield from ((line, "") for line in layout.row(index))
            if index in self.notes:
                yield from ((line, "dim") for line in wrap(self.notes[index], width, INDENT))

    def _left_out(self, layout: "_Layout", width: int) -> list[str]:
        kept = {id(column) for column in (*layout.above, *layout.columns)}
        gone = sorted((one for one in self.columns if id(one) not in kept), key=lambda one: one.importance)
        if not gone:
            return []
        titles = ", ".join(column.title for column in gone)
        return [f"Left out at a width of {width}: {titles}; --wide and --csv show all."]


@dataclass(frozen=True)
class _Layout:
    """Columns with their widths; `above` are those that have a line of their own over each row.

    room: width that names above numbers are broken to. fits: whether the columns keep to it.
    """

    columns: Sequence[TableColumn]
    widths: Sequence[int]
    above: Sequence[TableColumn]
    room: int | None
    fits: bool = True

    def head(self) -> Iterator[str]:
        """Titles, each at the foot of its column."""
        yield from self._named([column.title for column in self.above])
        titles = [wrap(column.title, width) for column, width in zip(self.columns, self.widths, strict=True)]
        height = max(map(len, titles), default=0)
        yield from self._beside([[""] * (height - len(lines)) + lines for lines in titles])

    def row(self, index: int) -> Iterator[str]:
        """The lines of one row."""
        yield from self._named([column.cells[index] for column in self.above])
        if index in self._folded:
            yield from self._beside(
                [
                    wrap(column.cells[index], width) if column.folds else [column.cells[index]]
                    for column, width in zip(self.columns, self.widths, strict=True)
                ]
            )
        else:
            yield from self._line([cells[index] for cells in self._cells])

    @cached_property
    def _folded(self) -> set[int]:
        """The rows of which a cell takes several lines."""
        return {
            index
            for column, width in zip(self.columns, self.widths, strict=True)
            if column.folds
            for index, cell in enumerate(column.cells)
            if len(wrap(cell, width)) > 1
        }

    @cached_property
    def _cells(self) -> Sequence[Sequence[str]]:
        """For each column its cells as wide as the column: all of one line, for rows that are not `_folded`."""
        return [
            [_padded(wrap(cell, width)[0] if column.folds else cell, column, width) for cell in column.cells]
            for column, width in zip(self.columns, self.widths, strict=True)
        ]

    def _named(self, texts: Sequence[str]) -> Iterator[str]:
        """Names in a line, two spaces apart; in several lines where they are too long."""
        whole = [re.sub(r"\s+", NO_BREAK, text) or "-" for text in texts]
        while whole and whole[-1] == "-":
            whole.pop()
        if whole:
            yield from wrap(f"{NO_BREAK} ".join(whole), self.room)

    def _beside(self, cells: Sequence[Sequence[str]]) -> Iterator[str]:
        for texts in zip_longest(*cells, fillvalue=""):
            yield from self._line([_padded(*one) for one in zip(texts, self.columns, self.widths, strict=True)])

    def _line(self, texts: Sequence[str]) -> Iterator[str]:
        """Texts as wide as their columns in a line; nothing where they are blank."""
        line = "".join(map(add, self._gaps, texts))
        if line.strip():
            yield _shown(line)

    @cached_property
    def _gaps(self) -> Sequence[str]:
        """What stands before each column."""
        start = INDENT if self.above else ""
        return [" " * column.gap if place else start for place, column in enumerate(self.columns)]


def wrap(text: str, width: int | None, indent: str = "") -> list[str]:
    """Lines of whole words, each no longer than `width` unless one word is; there is at least one."""
    lines: list[str] = []
    for word in _words(text):
        if lines and (width is None or _length(f"{lines[-1]} {word}") <= width):
            lines[-1] += f" {word}"
        else:
            lines.append(indent + word)
    return [_shown(line) for line in lines] or [""]


def changes(texts: Sequence[str]) -> dict[int, str]:
    """Row -> its text, where that is not the text of the row before it: headings."""
    return {index: text for index, text in enumerate(texts) if not index or text != texts[index - 1]}


def _fitting(columns: Sequence[TableColumn], width: int | None) -> _Layout:
    """The first that fits: all columns beside each other, fewer of them; names above numbers, fewer numbers."""
    if width is None:
        return _Layout(columns, [column.full for column in columns], (), None)
    layouts = [_layout(kept, width, stacked=stacked) for stacked in (False, True) for kept in _fewer(columns)]
    return next((layout for layout in layouts if layout.fits), layouts[-1])


def _fewer(columns: Sequence[TableColumn]) -> Iterator[Sequence[TableColumn]]:
    """All columns, then without the least important one (of equals the one furthest to the right), and so on."""
    kept = list(columns)
    yield tuple(kept)
    while any(column.importance for column in kept):
        kept.pop(max(range(len(kept)), key=lambda index: (kept[index].importance, index)))
        yield tuple(kept)


def _layout(columns: Sequence[TableColumn], width: int, *, stacked: bool) -> _Layout:
    above = [column for column in columns if stacked and column.named]
    beside = [column for column in columns if not (stacked and column.named)]
    needed = sum(column.least + (column.gap if place else 0) for place, column in enumerate(beside))
    spare = width - needed - (len(INDENT) if above else 0)
    return _Layout(beside, list(_widths(beside, spare)), above, width, spare >= 0)


def _widths(columns: Sequence[TableColumn], spare: int) -> Iterator[int]:
    """Each column as wide as it needs; what is to spare goes to those that fold."""
    for column in columns:
        more = max(0, min(spare, column.full - column.least))
        spare -= more
        yield column.least + more


def _padded(text: str, column: TableColumn, width: int) -> str:
    """A text as wide as its column."""
    space = " " * (width - _length(text))
    return space + text if column.right else text + space


def _length(text: str) -> int:
    """Width in a terminal, where some characters take two places and some none."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len  # noqa: PLC0415, reading needs no rich

    return cell_len(text)


def _words(text: str) -> list[str]:
    return [word for word in re.split(r"[ \t\r\n]+", text) if word]


def _shown(line: str) -> str:
    return line.rstrip().replace(NO_BREAK, " ")
