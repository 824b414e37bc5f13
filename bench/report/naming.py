"""What rows are called in a terminal: what they share is said once, and how the models run is one column of words."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from bench.plan.cell import DEFAULTS, FIELDS
from bench.report.terminal import NO_BREAK, TableColumn, changes

IDENTITY = ("backbone", "patch", "head", "input")
"""What names a row in every table; other fields are shown where they vary."""
OTHERS = tuple(
    name for name in FIELDS if name not in {"backbone", "patch", "head", "height", "width", "dataset", "seed"}
)
"""The fields that are shown where they vary."""
_PLAIN = {"weights", "dtype", "compile", "attention", "device", "resample", "memory_format", "runtime", "quantise"}
"""Fields whose values say by themselves what they are of."""
_WORDS = {("compile", "default"): "compiled", ("padding", "pad"): "padded"}

Fields = Mapping[str, Any]


@dataclass(frozen=True)
class Naming:
    """How rows are told apart.

    columns: their names. headings: row -> text above it. fixed: fields of one value, unknown for some rows perhaps.
    usual: values that ``mode`` omits.
    """

    columns: tuple[TableColumn, ...]
    headings: Mapping[int, str]
    fixed: Fields
    usual: Fields

    def caption(self, said: Fields | None = None) -> list[str]:
        """Lines for a caption; what is `fixed` and was said before is left out."""
        fixed = dict(item for item in self.fixed.items() if item not in (said or {}).items())
        lines = {"Throughout: ": fixed, "mode says what is other than ": self.usual}
        return [
            start + ", ".join(_tied(f"{name} {value}") for name, value in found.items())
            for start, found in lines.items()
            if found
        ]


def naming(rows: Sequence[Fields], *, by: Sequence[str] = (), headed: Sequence[str] = ()) -> Naming:
    """Columns and headings that tell rows apart by their fields.

    Columns are backbone and patch, head and input size where they vary, and ``mode``: words for all other fields that
    vary, where their values are not those that a matrix takes by itself.

    Args:
        rows: fields of each row; what is unknown is not there.
        by: fields that have a column of their own, whether they vary or not, in place of backbone and patch.
        headed: fields that stand in headings where they vary; rows come in groups of them.
    """
    asked = list(dict.fromkeys("input" if name == "resolution" else name for name in by))
    known = {name: list(dict.fromkeys(_known(rows, name))) for name in (*IDENTITY, *OTHERS)}
    several = [name for name, values in known.items() if len(values) > 1]
    shown = asked or ["backbone", "patch"]
    shown += [name for name in IDENTITY if name in several and name not in shown]
    columns = [_column(rows, name) for name in _paired(shown)]
    above = [name for name in headed if name in several]
    texts = [", ".join(f"{name} {row[name]}" if name in row else f"no {name}" for name in above) for row in rows]
    mixed = [name for name in OTHERS if name in several and name not in {*shown, *above}]
    keys = [(*(column.cells[index] for column in columns), text) for index, text in enumerate(texts)]
    modes = _modes(rows, mixed, keys)
    if any(modes):
        columns.append(TableColumn("mode", modes, named=True, folds=True))
    return Naming(
        columns=tuple(columns),
        headings=changes(texts) if above else {},
        fixed={name: values[0] for name, values in known.items() if len(values) == 1 and name not in shown},
        usual={name: DEFAULTS[name] for name in mixed if DEFAULTS.get(name) in known[name]},
    )


def choices(fields: Fields, names: Iterable[str]) -> list[str]:
    """Texts of fields; ``input`` (or ``resolution``) is ``HxW``. Unknown ones are empty."""
    size = f"{fields['height']}x{fields['width']}" if "height" in fields else ""
    return [size if name in {"input", "resolution"} else str(fields.get(name, "")) for name in names]


def _known(rows: Iterable[Fields], name: str) -> Iterable[Any]:
    if name == "input":
        return (choices(row, [name])[0] for row in rows if "height" in row)
    return (row[name] for row in rows if name in row)


def _paired(names: Sequence[str]) -> list[str]:
    """Backbone and patch are one name where both are shown."""
    if not {"backbone", "patch"} <= set(names):
        return list(names)
    return ["backbone/patch" if name == "backbone" else name for name in names if name != "patch"]


def _column(rows: Sequence[Fields], name: str) -> TableColumn:
    cells = ["/".join(choices(row, name.split("/"))) for row in rows]
    numbers = "/" not in name and all(isinstance(row[name], int) for row in rows if name in row)
    return TableColumn(name, cells, right=numbers, named=True)


def _modes(rows: Sequence[Fields], names: Sequence[str], keys: Sequence[tuple[Any, ...]]) -> list[str]:
    """The words of each row; rows of the same key that would look the same say what they differ in."""
    texts = [" ".join(word for name in names if (word := _word(name, row.get(name)))) for row in rows]
    alike: dict[tuple[Any, ...], list[int]] = defaultdict(list)
    for index, text in enumerate(texts):
        alike[*keys[index], text].append(index)
    for group in alike.values():
        differing = [name for name in FIELDS if len({rows[index].get(name) for index in group}) > 1]
        for index in group:
            spelled = (_tied(f"{name} {rows[index].get(name, '?')}") for name in differing)
            texts[index] = " ".join([texts[index], *spelled]).strip(" ")
    return texts


def _word(name: str, value: Any) -> str:
    """What a value is called in a row; "" where it is unknown or what a matrix takes by itself."""
    if value is None or value == DEFAULTS.get(name):
        return ""
    text = PurePath(value).name if name == "weights" and "/" in value else str(value)
    return _WORDS.get((name, value)) or _tied(text if name in _PLAIN else f"{name} {text}")


def _tied(text: str) -> str:
    return text.replace(" ", NO_BREAK)
