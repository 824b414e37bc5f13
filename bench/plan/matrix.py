"""A matrix: a question as a TOML file whose grid blocks expand to cells.

::

    question = "Which patch size?"

    [[grid]]                        # the axes of a block multiply; blocks add
    measure = ["complexity", "latency"]
    backbone = ["vit_tiny", "deit_tiny"]
    patch = [8, 16]                 # left out, or "native": each backbone's native patch size
    resolution = [224, "384x640"]   # HxW in pixels; one number is a square
    head = "linear"

A block without ``measure`` takes complexity, latency, memory and accuracy, and whatever else does not wait to be asked.
"""

import itertools
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import catalogue
from bench.errors import UserError, shown, unknown
from bench.plan import recipe, toml, weights
from bench.plan.cell import (
    ATTENTION,
    COMPILE,
    DEFAULTS,
    DEVICES,
    DTYPES,
    FORMATS,
    PADDING,
    QUANTISE,
    RESAMPLING,
    WINDOWS,
    Cell,
)
from bench.plan.environment import Environment
from bench.plan.measure import measures

FOLDER = Path(__file__).resolve().parent.parent / "matrices"
LARGEST = 1 << 15
"""Pixels of a side; a larger number is a slip of the keyboard."""

MOST_CELLS = 100_000
"""Of a matrix: more are a slip, and would fill the memory before the first is measured."""

_REQUIRED = ("backbone", "resolution", "head")
AXES = (*_REQUIRED, *DEFAULTS, "measure")


@dataclass(frozen=True)
class Ask:
    """A cell of a matrix.

    measures: to take on it. chosen: axes whose values were meant for this backbone: named on the command line, or the
    only one in a block of one backbone. Others were crossed with it, whether it can have them or not.
    """

    cell: Cell
    measures: tuple[str, ...]
    chosen: frozenset[str]


@dataclass(frozen=True)
class Matrix:
    """The blocks of a matrix file, each a full dict of axis -> values; ``named``: axes that the user set instead."""

    name: str
    question: str
    blocks: tuple[Mapping[str, Sequence[Any]], ...]
    named: frozenset[str] = frozenset()

    def override(self, axes: Mapping[str, Sequence[Any]]) -> "Matrix":
        """The same question with other values on some axes, in every block.

        ``measure`` chooses among what a block measures: blocks that measure none of the named ones drop out, unless no
        block measures them, then all do.

        Raises:
            UserError: a value is impossible; names the option.
        """
        wanted = {axis: _values(axis, values, f"--{axis}") for axis, values in axes.items() if values}
        chosen = wanted.pop("measure", None)
        blocks = [{**block, **wanted} for block in self.blocks]
        if chosen is not None:
            kept = [{**b, "measure": [m for m in b["measure"] if m in chosen]} for b in blocks]
            kept = [block for block in kept if block["measure"]]
            blocks = kept or [{**block, "measure": chosen} for block in blocks]
        return Matrix(self.name, self.question, tuple(blocks), self.named | wanted.keys())

    @property
    def embedded(self) -> bool:
        """Whether no block asks for a data set on disk."""
        names = {name for block in self.blocks for name in block["dataset"]}
        return not any(catalogue.dataset(name).facts["root"] for name in names)

    @property
    def devices(self) -> frozenset[str]:
        """Devices that are asked for, "auto" as such."""
        return frozenset(device for block in self.blocks for device in block["device"])

    def on(self, dataset: str, tasks: Collection[str]) -> "Matrix":
        """The same question on one data set; heads of tasks that it has no labels for drop out.

        Raises:
            UserError: none are left.
        """
        kept: list[Mapping[str, Sequence[Any]]] = []
        for block in self.blocks:
            heads = [head for head in block["head"] if catalogue.get("heads", head).facts["task"] in tasks]
            if heads:
                kept.append({**block, "head": heads, "dataset": [dataset]})
        if not kept:
            raise UserError(
                f"data set {dataset} has labels for {', '.join(sorted(tasks))}, which no head asked for does"
            )
        return Matrix(self.name, self.question, tuple(kept), self.named | {"dataset"})

    def cells(self, environment: Environment) -> Iterator[tuple[Cell, tuple[str, ...]]]:
        """Every cell with the measures to take on it, no choice left open; a cell may come several times."""
        return ((ask.cell, ask.measures) for ask in self.asks(environment))

    def asks(self, environment: Environment) -> Iterator[Ask]:
        """Every cell as it was asked for, no choice left open; a cell may come several times.

        Raises:
            UserError: they are more than `MOST_CELLS`; none has been made by then.
        """
        self._refuse_many()
        axes = [axis for axis in AXES if axis != "measure"]
        for block in self.blocks:
            chosen = self._chosen(block)
            for values in itertools.product(*(block[axis] for axis in axes)):
                choice = dict(zip(axes, values, strict=True))
                height, width = choice.pop("resolution")
                if choice["patch"] is None:
                    choice["patch"] = catalogue.get("backbones", choice["backbone"]).facts["patch"]
                if choice["device"] == "auto":
                    choice["device"] = "cuda" if environment.gpus else "cpu"
                choice["threads"] = choice["threads"] or environment.cores
                yield Ask(Cell(height=height, width=width, **choice), tuple(block["measure"]), chosen)

    def _refuse_many(self) -> None:
        counts = [
            math.prod(len(values) for axis, values in block.items() if axis != "measure") for block in self.blocks
        ]
        if (count := sum(counts)) <= MOST_CELLS:
            return
        largest = self.blocks[counts.index(max(counts))]
        axis = max((axis for axis in largest if axis != "measure"), key=lambda one: len(largest[one]))
        raise UserError(
            f"matrix {self.name} has {count:,} cells, and one run plans up to {MOST_CELLS:,}; divide it into runs with "
            f"fewer values of an axis each, such as --{axis.replace('_', '-')}, which has {len(largest[axis]):,} (they "
            "may share a results folder)"
        )

    def _chosen(self, block: Mapping[str, Sequence[Any]]) -> frozenset[str]:
        """The axes whose values somebody chose for the backbones of a block, and did not only cross with them."""
        one = len(block["backbone"]) == 1 and "backbone" not in self.named
        chosen = self.named | {axis for axis, values in block.items() if one and len(values) == 1}
        # Which labels a data set has to have is the head's choice.
        return chosen | {"task"} if "head" in chosen else chosen


def names() -> list[str]:
    """The matrices that come with densebench."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def question(name: str) -> str:
    """The question that a matrix answers, of several sentences the first."""
    return catalogue.first_sentence(load(name).question)


def load(name: str) -> Matrix:
    """A matrix by its name, or from a file (a path that ends in ``.toml``).

    Raises:
        UserError: no such matrix, no TOML, an unknown key (with a suggestion), or an impossible value; names the file
            and the key.
    """
    path = Path(name) if name.endswith(".toml") else FOLDER / f"{name}.toml"
    if not name.endswith(".toml") and name not in names():
        raise unknown("matrix", name, names())
    document = toml.read(path, "matrix")
    if strange := sorted(set(document) - {"question", "grid"}):
        raise UserError(f"{path}: {unknown('key', strange[0], ['question', 'grid'])}")
    if not isinstance(document.get("question"), str):
        raise UserError(f"{path}: key 'question' is missing: say in a sentence what the matrix answers")
    grid = document.get("grid")
    if not isinstance(grid, list) or not grid or not all(isinstance(block, dict) for block in grid):
        raise UserError(f"{path}: there is no [[grid]] block; a matrix needs at least one")
    blocks = tuple(
        _block(_beside(block, path.parent), f"{path}, [[grid]] {number}") for number, block in enumerate(grid, 1)
    )
    return Matrix(path.stem, document["question"], blocks)


def _beside(block: Mapping[str, Any], folder: Path) -> Mapping[str, Any]:
    """Recipe files that a matrix file names lie beside it, unless there is none there."""

    def found(value: Any) -> Any:
        if isinstance(value, str) and value.endswith(recipe.ENDING):
            with suppress(OSError, ValueError):  # no file is called so
                return str(folder / value) if (folder / value).is_file() else value
        return value

    given = block.get("recipe")
    if given is None:
        return block
    return {**block, "recipe": [found(value) for value in given] if isinstance(given, list) else found(given)}


def _block(block: Mapping[str, Any], where: str) -> Mapping[str, Sequence[Any]]:
    for key in block:
        if key not in AXES:
            raise UserError(f"{where}: {unknown('key', key, AXES)}")
    for key in _REQUIRED:
        if key not in block:
            raise UserError(f"{where}: key '{key}' is missing")
    usual = [name for name, measure in measures().items() if not measure.asked]
    full = {"measure": usual, **DEFAULTS, **block}
    return {axis: _values(axis, full[axis], f"{where}, {axis}") for axis in AXES}


def _values(axis: str, given: Any, where: str) -> list[Any]:
    listed = list(given) if isinstance(given, (list, tuple)) else [given]
    if not listed:
        raise UserError(f"{where}: the list is empty; give at least one value")
    return list(dict.fromkeys(_value(axis, value, where) for value in listed))


def _value(axis: str, value: Any, where: str) -> Any:
    try:
        return _CHECKS[axis](value)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise UserError(f"a name is wanted, {shown(value)} came")
    return value


def _one_of(kind: str, value: Any, known: Sequence[str]) -> Any:
    if value not in known:
        raise unknown(kind, str(value), known)
    return value


def _number(value: Any, least: int, most: int) -> int:
    if isinstance(value, bool) or not re.fullmatch(r"[+-]?\d{1,20}", str(value)) or not least <= int(value) <= most:
        raise UserError(f"a whole number from {least} to {most} is wanted, {shown(value)} came")
    return int(value)


def _resolution(value: Any) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,20})(?:[xX](\d{1,20}))?", str(value))
    if not match or isinstance(value, bool):
        raise UserError(f"a resolution like 224 or 384x640 (height x width, in pixels) is wanted, {shown(value)} came")
    height = int(match[1])
    width = int(match[2] or match[1])
    if not (1 <= height <= LARGEST and 1 <= width <= LARGEST):
        raise UserError(f"a side has 1 to {LARGEST} pixels, {shown(value)} came")
    return height, width


def _known(kind: str) -> Callable[[Any], str]:
    return lambda value: catalogue.get(kind, _text(value)).name


def _dataset(value: Any) -> str:
    catalogue.dataset(_text(value))
    return value


def _recipe(value: Any) -> str:
    return recipe.check(_text(value))


def _device(value: Any) -> str:
    kind, colon, index = _text(value).partition(":")
    _one_of("device", kind, DEVICES)
    if colon and not re.fullmatch("[0-9]{1,4}", index):
        raise UserError(f"a device like cuda or cuda:1 is wanted, {shown(value)} came")
    return value


def _measure(value: Any) -> str:
    return _one_of("measure", value, tuple(measures()))


_CHECKS: dict[str, Callable[[Any], Any]] = {
    "backbone": _known("backbones"),
    "head": _known("heads"),
    "measure": _measure,
    "dataset": _dataset,
    "recipe": _recipe,
    "resolution": _resolution,
    "patch": lambda value: None if value is None or value == "native" else _number(value, 1, LARGEST),
    "batch": lambda value: _number(value, 1, 1 << 20),
    "threads": lambda value: _number(value, 0, 1 << 12),
    "seed": lambda value: _number(value, 0, 2**32 - 1),
    "device": _device,
    "weights": weights.check,
    "dtype": lambda value: _one_of("dtype", value, DTYPES),
    "compile": lambda value: _one_of("compile", value, COMPILE),
    "runtime": _known("runtimes"),
    "quantise": lambda value: _one_of("quantise", value, tuple(QUANTISE)),
    "attention": lambda value: _one_of("attention", value, ATTENTION),
    "window": lambda value: _one_of("window policy", value, WINDOWS),
    "resample": lambda value: _one_of("resampling", value, RESAMPLING),
    "padding": lambda value: _one_of("padding", value, PADDING),
    "memory_format": lambda value: _one_of("memory format", value, FORMATS),
    "limit_mib": lambda value: _number(value, 0, 1 << 30),
}
"""Axis -> what makes a value of it, or says what is wrong with it."""
