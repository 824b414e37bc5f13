"""What several kinds of pictures need: names of rows, which rows to show, titles."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.plan.cell import DEFAULTS
from bench.plan.measure import Column
from bench.report.naming import OTHERS
from bench.report.rows import Part, Row, Table, order, vary

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_CONTEXT = ("head", "input", "recipe", "batch", "weights", "dtype", "device", "threads")
_LONG = 26
"""Letters of a name in one line."""
_UNSAID = {"batch", "threads", "limit_mib"}
"""Fields whose values do not say by themselves what they are of."""


@dataclass(frozen=True)
class Picture:
    """name: of the file, without its ending. draw: makes it."""

    name: str
    draw: Callable[[], "Figure"]


def file_name(*words: object) -> str:
    """Words joined for a file's name; what a file system may not like is a hyphen."""
    return "_".join(re.sub(r"[^\w.+=@-]+", "-", str(word)) for word in words if word not in ("", None))


def size(fields: Mapping[str, Any]) -> str:
    """Input: one number for a square, else height x width."""
    height, width = fields.get("height", ""), fields.get("width", "")
    return str(height) if height == width else f"{height}x{width}"


def trained(part: Part) -> bool:
    """Whether it learned for more than one step; what is not known counts as yes."""
    return any(len(record.samples.get("loss", (0, 0))) > 1 for record in part.records)


def family(recipe: str) -> str:
    """A recipe without the fields that were changed in it."""
    return recipe.partition("+")[0]


def best(parts: Iterable[Part], column: Column, count: int) -> list[Part]:
    """So many parts, best first: the best of every backbone, then the best of the rest."""
    sign = -1 if column.better == "lower" else 1
    ordered = sorted(parts, key=lambda part: (-sign * part.values[column.name].mean, order(part.fields)))
    firsts: dict[str, Part] = {}
    for part in ordered:
        firsts.setdefault(part.fields["backbone"], part)
    chosen = [*firsts.values(), *(part for part in ordered if part not in firsts.values())][:count]
    return [part for part in ordered if part in chosen]


def current(parts: Iterable[Part]) -> list[Part]:
    """These without trainings of an earlier revision (``NAME@1``) where the present one is there, too."""
    known = list(parts)

    def bare(part: Part) -> tuple[Any, ...]:
        cut = {name: str(part.fields.get(name, "")).partition("@")[0] for name in ("backbone", "head")}
        return tuple(sorted({**part.fields, **cut}.items()))

    def present(part: Part) -> bool:
        return not any("@" in str(part.fields.get(name, "")) for name in ("backbone", "head"))

    there = {bare(part) for part in known if present(part)}
    return [part for part in known if present(part) or bare(part) not in there]


def names(rows: Sequence[Part] | Sequence[Row], *, fold: bool = True, sizes: bool = True) -> list[str]:
    """What tells rows apart: backbone and patch (unless they are `shared` and something else differs), and the rest.

    Args:
        rows: what is named.
        fold: long names in several lines.
        sizes: name input sizes that differ.
    """
    several, _ = vary(rows, OTHERS)
    if len({size(row.fields) for row in rows}) == 1:
        sizes = False
    wanted = ["head"] if len({row.fields.get("head") for row in rows}) > 1 else []
    texts = []
    for row in rows:
        words = [f"{row.fields['backbone']}/{row.fields['patch']}", *(str(row.fields[name]) for name in wanted)]
        words += [size(row.fields)] if sizes else []
        texts.append(words + [word for name in several if (word := _word(name, row.fields.get(name, "")))])
    if shared(rows) and all(len(text) > 1 for text in texts):
        texts = [text[1:] for text in texts]
    return [folded(text) if fold else " ".join(text) for text in texts]


def headed(drawing: "Figure", what: str, table: Table, rows: Sequence[Part] | Sequence[Row], note: str = "") -> None:
    """Title: what is shown; below it what all rows share, the machine, and a note."""
    _, fixed = vary(rows, OTHERS)
    unusual = [name for name, value in fixed.items() if name not in _CONTEXT and value != DEFAULTS.get(name)]
    common = {name: {_value(row.fields, name) for row in rows} for name in (*_CONTEXT, *unusual)}
    said = [shared(rows)] + [_word(name, next(iter(values))) for name, values in common.items() if len(values) == 1]
    lines = [", ".join(word for word in said if word), table.environment.title(), note]
    drawing.suptitle(
        f"{what}: {table.task} on {table.dataset}\n" + "\n".join(line for line in lines if line),
        fontsize=9,
        x=0.01,
        ha="left",
    )


def shared(rows: Sequence[Part] | Sequence[Row]) -> str:
    """Backbone and patch where all have the same; else ""."""
    found = {f"{row.fields['backbone']}/{row.fields['patch']}" for row in rows}
    return found.pop() if len(found) == 1 else ""


def _value(fields: Mapping[str, Any], name: str) -> str:
    return size(fields) if name == "input" else str(fields.get(name, ""))


def _word(name: str, value: Any) -> str:
    text = str(value)
    if name == "recipe":
        return text.partition("+")[2] or text
    if name == "attention" and text == "auto":
        return ""
    return f"{name} {text}" if text and name in _UNSAID else text


def folded(words: Sequence[str]) -> str:
    """Words in as few lines as are not too long."""
    lines = [""]
    for word in words:
        for piece in _pieces(word):
            if lines[-1] and len(lines[-1]) + len(piece) >= _LONG:
                lines.append(piece)
            else:
                lines[-1] = f"{lines[-1]} {piece}".strip()
    return "\n".join(lines)


def _pieces(word: str) -> list[str]:
    """A word that is too long for a line, cut behind an underscore or a plus sign."""
    place = max(word.rfind("_", 0, _LONG), word.rfind("+", 0, _LONG)) + 1
    return [word] if len(word) <= _LONG or not place else [word[:place], *_pieces(word[place:])]
