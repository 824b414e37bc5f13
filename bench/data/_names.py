"""Names, indices and colours of classes, in the files that annotation tools and people leave beside label maps.

===================================  ========================================================================
labelmap.txt                         ``name:r,g,b:parts:actions`` a line (CVAT), index = line
classes.txt, labels.txt, ...         ``name`` a line, or ``name r g b``, or ``index name``
classes.json, labelmap.json, ...     a list of names; index -> name; name -> index or colour; a list of objects with a
                                     name and an index or a colour; or one of these under "classes", "labels", "names"
class_dict.csv, _classes.csv         ``name,r,g,b``, or ``Pixel Value,Class`` (Roboflow), under a line of titles
===================================  ========================================================================
"""

import csv
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.data._listing import read_text
from bench.data.contract import IGNORE
from bench.data.images import Colour
from bench.errors import DataError

BORDER: Colour = (224, 224, 192)
"""The colour of palette entry 255 in VOC: the ignored seam around objects."""
_STEMS = ("classes", "labelmap", "label_map", "labels", "class_names", "names")
FILES = (
    "labelmap.txt",
    *(f"{stem}.txt" for stem in _STEMS if stem != "labelmap"),
    *(f"{stem}.json" for stem in _STEMS),
    "class_dict.csv",
    "_classes.csv",
    "classes.csv",
)
"""Where names are looked for, the first that is there counts."""
_KEYS = ("classes", "labels", "names", "categories", "class_names")
_RGB = re.compile(r"(.+?)[\s,:;]+(\d{1,3})[\s,;]+(\d{1,3})[\s,;]+(\d{1,3})")
_NUMBERED = re.compile(r"(\d+)\s*[\s:,;=]\s*(\S.*)")
_HEX = re.compile(r"#?([0-9a-fA-F]{2})([0-9a-fA-F]{2})([0-9a-fA-F]{2})")


@dataclass(frozen=True)
class Names:
    """Class names by index, and the index of each colour that is told; 255 for a colour to ignore."""

    classes: tuple[str, ...]
    colours: Mapping[Colour, int]


@dataclass(frozen=True)
class _Entry:
    """One class as a file has it; what is None is not told."""

    name: str
    index: int | None = None
    colour: Colour | None = None


def find(*folders: Path) -> Path | None:
    """The file of class names in one of the folders, or None."""
    return next((path for folder in folders for name in FILES if (path := folder / name).is_file()), None)


def read(path: Path) -> Names:
    """The classes that a file names.

    Raises:
        DataError: it is in none of the forms above; names the file and, where there is one, the line.
    """
    if path.name == "labelmap.txt":
        return labelmap(path)
    entries = _of_json(path) if path.suffix == ".json" else list(_of_lines(path))
    return _names(path, entries)


def labelmap(path: Path) -> Names:
    """CVAT's labelmap.txt."""
    entries: list[_Entry] = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig", errors="replace").splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        name, _, rest = line.partition(":")
        colour = rest.partition(":")[0].strip()
        known = {entry.name for entry in entries}
        if not name.strip() or name.strip() in known or not re.fullmatch(r"(\d+\s*,\s*\d+\s*,\s*\d+)?", colour):
            message = f"{path}: line {number}, '{line.strip()}': want one 'name:r,g,b:parts:actions' for each class"
            raise DataError(message)
        entries.append(_Entry(name.strip(), colour=_colour(path, colour.split(",")) if colour else None))
    return _names(path, entries)


def _names(path: Path, entries: Sequence[_Entry]) -> Names:
    indices = [number if entry.index is None else entry.index for number, entry in enumerate(entries)]
    if entries and sorted(indices) == list(range(1, len(entries) + 1)):
        # Whoever counts from 1 takes 0 for what has no name.
        entries, indices = [_Entry("background"), *entries], [0, *indices]
    if sorted(indices) != list(range(len(entries))):
        message = f"{path}: its indices are {sorted(indices)[:8]}...; want each of 0 to {len(entries) - 1} once"
        raise DataError(message)
    ordered = [entry for _, entry in sorted(zip(indices, entries, strict=True), key=lambda pair: pair[0])]
    classes = [entry.name for entry in ordered]
    if twice := {name for name in classes if classes.count(name) > 1}:
        message = f"{path}: names the class '{min(twice)}' more than once"
        raise DataError(message)
    colours = {entry.colour: index for index, entry in enumerate(ordered) if entry.colour is not None}
    if len(colours) < sum(entry.colour is not None for entry in ordered):
        message = f"{path}: gives one colour to two classes, which a coloured label map could not tell apart"
        raise DataError(message)
    if classes[-1:] == ["ignored"]:
        # Exports of VOC itself end with the seam around objects as if it were a class.
        classes.pop()
        colours = {colour: index if index < len(classes) else IGNORE for colour, index in colours.items()}
    if colours:
        colours.setdefault(BORDER, IGNORE)
    if not 0 < len(classes) <= IGNORE:
        message = f"{path}: names {len(classes)} classes; want 1 to {IGNORE}"
        raise DataError(message)
    return Names(tuple(classes), colours)


def _of_lines(path: Path) -> Iterable[_Entry]:
    lines = [line.strip() for line in read_text(path).splitlines() if line.strip() and not line.startswith("#")]
    if path.suffix == ".csv":
        yield from _of_table(path, lines)
    elif all(_RGB.fullmatch(line) for line in lines):
        for line in lines:
            name, *colour = _RGB.fullmatch(line).groups()  # pyright: ignore[reportOptionalMemberAccess] - asked above
            yield _Entry(name, colour=_colour(path, colour))
    else:
        numbered = [_NUMBERED.fullmatch(line) for line in lines]
        # "7 up" is a name; a file in which each line begins with its own number is numbered.
        if [int(match[1]) if match else None for match in numbered] == list(range(len(lines))):
            yield from (_Entry(match[2], int(match[1])) for match in numbered if match)
        else:
            yield from map(_Entry, lines)


def _of_table(path: Path, lines: Sequence[str]) -> Iterable[_Entry]:
    for number, row in enumerate(csv.reader(lines[1:], skipinitialspace=True), start=2):
        cells = [cell.strip() for cell in row]
        if len(cells) == 4 and cells[0]:
            yield _Entry(cells[0], colour=_colour(path, cells[1:]))
        elif len(cells) == 2 and cells[0].isdigit() and cells[1]:
            yield _Entry(cells[1], int(cells[0]))
        else:
            message = f"{path}: line {number}, '{lines[number - 1]}': want 'name,r,g,b' or 'index,name' for each class"
            raise DataError(message)


def _of_json(path: Path) -> list[_Entry]:
    try:
        content = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        message = f"{path}: cannot be read as JSON ({error})"
        raise DataError(message) from error
    if isinstance(content, dict):
        content = next((content[key] for key in _KEYS if isinstance(content.get(key), (list, dict))), content)
    pairs = content.items() if isinstance(content, dict) else enumerate(content if isinstance(content, list) else ())
    try:
        entries = [_entry(path, key, value) for key, value in pairs]
    except (KeyError, TypeError, ValueError, OverflowError, StopIteration) as error:
        message = (
            f"{path}: names no classes in a form that is known: want a list of names, or {{name: index or colour}}"
        )
        raise DataError(message) from error
    return entries


def _entry(path: Path, key: object, value: Any) -> _Entry:
    """One pair of JSON: key is a place in a list, an index as text, or a name."""
    if isinstance(value, dict):
        name = next(value[word] for word in ("name", "label", "title", "class") if word in value)
        place = next((value[word] for word in ("index", "value", "label_id", "id") if word in value), None)
        colour = next((value[word] for word in ("color", "colour", "rgb") if value.get(word)), None)
        return _Entry(_text(name), None if place is None else int(place), None if not colour else _colour(path, colour))
    if isinstance(value, str) and (isinstance(key, int) or str(key).isdigit()):
        return _Entry(_text(value), int(str(key)))
    if isinstance(value, int) and not isinstance(value, bool):
        return _Entry(_text(key), value)
    return _Entry(_text(key), colour=_colour(path, value))


def _text(name: object) -> str:
    if not isinstance(name, str) or not name.strip():
        raise ValueError(f"{name!r} is no name")
    return name.strip()


def _colour(path: Path, value: Any) -> Colour:
    """From three numbers, or text like #ff8000."""
    if isinstance(value, str) and (match := _HEX.fullmatch(value)):
        red, green, blue = (int(part, 16) for part in match.groups())
    else:
        red, green, blue = (int(part) for part in value)
    if not all(0 <= part <= 255 for part in (red, green, blue)):
        message = f"{path}: the colour {red},{green},{blue} is out of range; want 0 to 255 each"
        raise DataError(message)
    return red, green, blue
