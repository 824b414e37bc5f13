"""Patch size by resolution: what accuracy and time are where both vary, a row of two grids a backbone."""

import math
import textwrap
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from bench.plan.measure import Column
from bench.report.pictures.common import Picture, file_name, folded, headed, size, trained
from bench.report.rows import Part, Table, columns, headline
from bench.report.style import GREY, SEQUENTIAL, canvas
from bench.report.tables import label, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TIME = "latency_ms"
MOST = 6
"""Backbones in one picture; those with the fewest cells are left out."""
CELLS = 3
"""Fewest measurements of a grid; they differ in patch and in size."""
_PLACE = ("patch", "height", "width")
_OWN = ("backbone", *_PLACE)


@dataclass(frozen=True)
class Grid:
    """Of one backbone: (patch, size) -> measurement; a size is (height, width)."""

    backbone: str
    cells: Mapping[tuple[int, tuple[int, int]], Part]

    @property
    def crossed(self) -> bool:
        """Whether it shows anything of both."""
        patches, sizes = ({place[axis] for place in self.cells} for axis in (0, 1))
        return len(self.cells) >= CELLS and len(patches) > 1 and len(sizes) > 1


@dataclass(frozen=True)
class Grids:
    """Grids of one column under equal fields but backbone, patch and input size."""

    column: Column
    fields: Mapping[str, Any]
    grids: Mapping[str, Grid]


def pictures(table: Table) -> Iterator[Picture]:
    """For every head the largest set of grids of accuracy, with that of times that goes with it best."""
    top = headline(table.task)
    timed = next(((measure, column) for measure, column in columns(table.task) if column.name == TIME), None)
    scores = _grids(table, top[0].name, top[1]) if top else []
    times = _grids(table, timed[0].name, timed[1]) if timed else []
    heads = {str(one.fields["head"]) for one in (*scores, *times)}
    for head in sorted(heads):
        score = _largest([one for one in scores if one.fields["head"] == head], {})
        time = _largest([one for one in times if one.fields["head"] == head], score.fields if score else {})
        both = [one for one in (score, time) if one and any(grid.crossed for grid in one.grids.values())]
        if both:
            yield Picture(file_name(table.task, table.dataset, head, "grid"), partial(_draw, table, both))


def _grids(table: Table, measure: str, column: Column) -> list[Grids]:
    groups: dict[tuple[Any, ...], dict[str, dict[tuple[int, tuple[int, int]], Part]]] = defaultdict(dict)
    found = {row.parts[measure]: None for row in table.rows if measure in row.parts}
    for part in found:
        if column.name in part.values and (column.name == TIME or trained(part)):
            key = tuple(item for item in sorted(part.fields.items()) if item[0] not in _OWN)
            grid = groups[key].setdefault(str(part.fields["backbone"]), {})
            grid[part.fields["patch"], (part.fields["height"], part.fields["width"])] = part
    return [
        Grids(column, dict(key), {name: Grid(name, cells) for name, cells in sorted(group.items())})
        for key, group in groups.items()
    ]


def _largest(found: Sequence[Grids], beside: Mapping[str, Any]) -> Grids | None:
    """The one that agrees with these fields in most, then the one with the most cells in grids that cross."""

    def place(one: Grids) -> tuple[int, int, int, str]:
        agreed = sum(one.fields.get(name) == value for name, value in beside.items())
        crossed = sum(len(grid.cells) for grid in one.grids.values() if grid.crossed)
        return agreed, crossed, sum(len(grid.cells) for grid in one.grids.values()), str(sorted(one.fields.items()))

    return max(found, key=place, default=None)


def _draw(table: Table, shown: Sequence[Grids]) -> "Figure":
    names = _chosen(shown)
    backbones = sorted(names[:MOST])
    grids = {name: [one.grids.get(name, Grid(name, {})) for one in shown] for name in backbones}
    patches = {name: sorted({patch for grid in both for patch, _ in grid.cells}) for name, both in grids.items()}
    sizes = sorted({area for both in grids.values() for grid in both for _, area in grid.cells}, key=_area)
    heights = [len(patches[name]) for name in grids]
    drawing = canvas(1.5 + 0.3 * sum(heights) + 0.12 * len(grids))
    panels = drawing.subplots(len(grids), len(shown), squeeze=False, sharex=True, height_ratios=heights)
    for place, one in enumerate(shown):
        norm = _norm(one.column, [part for both in grids.values() for part in both[place].cells.values()])
        for line, name in enumerate(grids):
            _panel(panels[line, place], one.column, grids[name][place], patches[name], sizes, norm)
        panels[0, place].set_title(_title(one), fontsize=9)
        panels[-1, place].set_xlabel("input (px)", fontsize=8)
    for line, name in enumerate(grids):
        panels[line, 0].set_ylabel(folded([name]), fontsize=8, rotation=0, ha="right", va="center")
    parts = [part for both in grids.values() for grid in both for part in grid.cells.values()]
    notes = ["down: patch size in px; bright: better; dot: not measured"]
    notes += [f"{len(names) - MOST} backbones of fewer cells are not shown"] if len(names) > MOST else []
    headed(drawing, "Patch size by resolution", table, parts, "; ".join(notes))
    return drawing


def _chosen(shown: Sequence[Grids]) -> list[str]:
    """The backbones of which any grid shows both, those with the most cells first."""
    crossed = {name for one in shown for name, grid in one.grids.items() if grid.crossed}
    counts = {name: max(len(one.grids[name].cells) for one in shown if name in one.grids) for name in crossed}
    return sorted(counts, key=lambda name: (-counts[name], name))


_TITLE = 44
"""Characters that are as wide as a grid."""


def _area(area: tuple[int, int]) -> tuple[int, tuple[int, int]]:
    return area[0] * area[1], area


def _title(one: Grids) -> str:
    """On lines of the width of its grid: a recipe that was changed from the command line has a long name."""
    own = [f"{name} {one.fields[name]}" for name in ("recipe", "batch") if name in one.fields]
    words = ", ".join([f"{label(one.column)}: {one.column.better} is better", *own]).replace("+", "+ ")
    return "\n".join(textwrap.wrap(words, _TITLE)).replace("+ ", "+")


def _norm(column: Column, parts: Sequence[Part]) -> Callable[[float], float]:
    """Value -> 0 (the worst of these) to 1 (the best); of times by their logarithm."""
    scale = math.log if column.name == TIME else float
    known = [scale(part.values[column.name].mean) for part in parts] or [0.0]
    low, high = min(known), max(known)

    def place(value: float) -> float:
        share = (scale(value) - low) / (high - low) if high > low else 0.5
        return 1 - share if column.better == "lower" else share

    return place


def _panel(
    axes: "Axes",
    column: Column,
    grid: Grid,
    patches: Sequence[int],
    sizes: Sequence[tuple[int, int]],
    norm: Callable[[float], float],
) -> None:
    from matplotlib import colormaps  # noqa: PLC0415, slow to import
    from matplotlib.patches import Rectangle  # noqa: PLC0415

    for (patch, area), part in sorted(grid.cells.items()):
        x, y = sizes.index(area), patches.index(patch)
        stat = part.values[column.name]
        shade = norm(stat.mean)
        axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=colormaps[SEQUENTIAL](shade), edgecolor="white"))
        text = number(stat, column).replace("\N{NO-BREAK SPACE}", "")
        axes.text(x, y, text, ha="center", va="center", fontsize=8, color="black" if shade > 0.5 else "white")
    for x in range(len(sizes)):
        for y in range(len(patches)):
            if (patches[y], sizes[x]) not in grid.cells:
                axes.text(x, y, "·", ha="center", va="center", fontsize=8, color=GREY)
    axes.set_xlim(-0.5, len(sizes) - 0.5)
    axes.set_ylim(len(patches) - 0.5, -0.5)
    axes.set_xticks(range(len(sizes)), [size({"height": h, "width": w}) for h, w in sizes], fontsize=8)
    axes.set_yticks(range(len(patches)), [str(patch) for patch in patches], fontsize=8)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
