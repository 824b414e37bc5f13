"""Accuracy of each class, and of small, medium and large objects, of the rows of one recipe."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from statistics import fmean
from typing import TYPE_CHECKING

from bench.plan.measure import Column
from bench.report.pictures.common import Picture, best, current, family, file_name, headed, names, trained
from bench.report.rows import Part, Table, columns, headline
from bench.report.style import COLOURS, GREY, canvas, plain
from bench.report.tables import label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIZES = {
    "segmentation": ("miou_small", "miou_medium", "miou_large", "boundary_miou"),
    "detection": ("ap_small", "ap_medium", "ap_large"),
}
CLASSES, MODELS, ROWS = 20, 4, 12
"""Most classes of a model, most models with classes, most models with sizes."""


def pictures(table: Table) -> Iterator[Picture]:
    """For every recipe, changed fields of it included: one of sizes where two models have them, one of classes."""
    top = headline(table.task)
    if top is None:
        return
    measure, column = top
    groups: dict[str, list[Part]] = defaultdict(list)
    for part in current({row.parts[measure.name]: None for row in table.rows if measure.name in row.parts}):
        if column.name in part.values and trained(part):
            groups[family(str(part.fields.get("recipe", "")))].append(part)
    known = {column.name: column for _, column in columns(table.task)}
    for recipe, group in sorted(groups.items()):
        name = (table.task, table.dataset, recipe)
        sized = [known[one] for one in SIZES.get(table.task, ()) if one in known and _having(group, one)]
        if sized and len(rows := [part for part in group if sized[0].name in part.values]) > 1:
            yield Picture(file_name(*name, "sizes"), partial(_sizes, table, column, sized, rows, len(group)))
        for one in measure.columns:
            if rows := [part for part in group if _classes(part, one)]:
                yield Picture(file_name(*name, one.name), partial(_of_classes, table, column, one, rows))


def _having(group: Sequence[Part], name: str) -> bool:
    return any(name in part.values for part in group)


def _classes(part: Part, column: Column) -> list[str]:
    start = f"{column.name}["
    return [name[len(start) : -1] for name in part.values if name.startswith(start)]


def _sizes(table: Table, top: Column, shown: Sequence[Column], group: Sequence[Part], there: int) -> "Figure":
    rows = best(group, top, ROWS)
    called = names(rows)
    lines = max(name.count("\n") + 1 for name in called)
    drawing = canvas(1.35 + (0.16 + 0.15 * lines) * len(rows))
    panels = drawing.subplots(1, len(shown) + 1, squeeze=False, sharey=True)[0]
    end = 1.25 * max(part.values[one.name].mean for one in (top, *shown) for part in rows if one.name in part.values)
    for index, (axes, column) in enumerate(zip(panels, (top, *shown), strict=True)):
        _bars(
            axes, [part.values[column.name].mean if column.name in part.values else None for part in rows], index, end
        )
        axes.set_title(label(column), fontsize=8, loc="left")
    panels[0].set_yticks(range(len(rows)), called, fontsize=8)
    left, without = len(group) - len(rows), there - len(group)
    notes = [f"best of every backbone, then of all; not shown: {left}"] if left else []
    notes += [f"without these columns: {without}"] if without else []
    headed(drawing, "By size", table, rows, "; ".join(notes))
    return drawing


def _of_classes(table: Table, top: Column, column: Column, group: Sequence[Part]) -> "Figure":
    rows = best(group, top, MODELS)
    found = list(dict.fromkeys(name for part in rows for name in _classes(part, column)))
    values = {name: [_value(part, column, name) for part in rows] for name in found}

    def spread(name: str) -> float:
        known = [one for one in values[name] if one is not None]
        return max(known) - min(known)

    kept = sorted(found, key=lambda name: (-spread(name), name))[:CLASSES]
    kept.sort(key=lambda name: (-fmean(one for one in values[name] if one is not None), name))
    drawing = canvas(1.5 + 0.2 * len(kept))
    panels = drawing.subplots(1, len(rows), squeeze=False, sharey=True)[0]
    end = 1.25 * max(one for name in kept for one in values[name] if one is not None)
    for index, (axes, name) in enumerate(zip(panels, names(rows), strict=True)):
        _bars(axes, [values[one][index] for one in kept], index, max(end, 1.0))
        axes.set_title(name, fontsize=8, loc="left")
        axes.set_xlabel(f"{label(column)}, mean {rows[index].values[top.name].mean:.1f}", fontsize=8)
    panels[0].set_yticks(range(len(kept)), [name if len(name) < 24 else f"{name[:22]}…" for name in kept], fontsize=8)
    notes = [f"the {len(kept)} of {len(found)} classes that differ most"] if len(kept) < len(found) else []
    left = len(group) - len(rows)
    notes += [f"best of every backbone, then of all; not shown: {left}"] if left else []
    headed(drawing, f"{column.title} of each class", table, rows, "; ".join(notes))
    return drawing


def _value(part: Part, column: Column, name: str) -> float | None:
    stat = part.values.get(f"{column.name}[{name}]")
    return None if stat is None else stat.mean


def _bars(axes: "Axes", values: Sequence[float | None], index: int, end: float) -> None:
    """Horizontal bars with their figures; what is not known has a question mark and no bar."""
    axes.barh(range(len(values)), [one or 0.0 for one in values], height=0.68, color=COLOURS[index % len(COLOURS)])
    for place, one in enumerate(values):
        text = "?" if one is None else f"{one:.1f}"
        axes.annotate(
            text, (one or 0.0, place), (3, 0), textcoords="offset points", va="center", fontsize=8, color=GREY
        )
    axes.set_xlim(0, end)
    axes.set_ylim(len(values) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=8)
    plain(axes, grid="x")
