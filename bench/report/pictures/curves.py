"""The loss in the course of trainings, a panel a head: losses of different heads are different functions."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from statistics import fmean
from typing import TYPE_CHECKING

from bench.plan.measure import Column
from bench.report.pictures.common import Picture, best, current, family, file_name, headed, names, shared, trained
from bench.report.rows import Part, Table, headline
from bench.report.style import COLOURS, MARKERS, canvas, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST, HEADS = 5, 6
"""Lines of a panel, and panels of a picture: heads with the most models."""
WINDOWS = 30
"""Into so many means a curve is smoothed."""


def pictures(table: Table) -> Iterator[Picture]:
    """One for every recipe, changed fields of it included, by which two models or more were trained."""
    top = headline(table.task)
    if top is None:
        return
    measure, column = top
    groups: dict[str, dict[str, list[Part]]] = defaultdict(lambda: defaultdict(list))
    for part in current({row.parts[measure.name]: None for row in table.rows if measure.name in row.parts}):
        if column.name in part.values and trained(part) and curve(part):
            groups[family(str(part.fields["recipe"]))][str(part.fields["head"])].append(part)
    for recipe, heads in sorted(groups.items()):
        if sum(map(len, heads.values())) > 1:
            yield Picture(file_name(table.task, table.dataset, recipe, "loss"), partial(_draw, table, column, heads))


def curve(part: Part) -> list[float]:
    """Loss of each step, the mean over seeds, as far as all of them went; empty where no record has it."""
    known = [record.samples["loss"] for record in part.records if record.samples.get("loss")]
    return [fmean(step) for step in zip(*known, strict=False)]


def smoothed(values: Sequence[float]) -> tuple[list[float], list[float]]:
    """(steps, means) of at most `WINDOWS` equal stretches, each at its middle."""
    length = max(1, -(-len(values) // WINDOWS))
    starts = range(0, len(values), length)
    means = [fmean(values[start : start + length]) for start in starts]
    return [start + (len(values[start : start + length]) + 1) / 2 for start in starts], means


def _draw(table: Table, column: Column, heads: Mapping[str, Sequence[Part]]) -> "Figure":
    shown = sorted(sorted(heads, key=lambda head: (-len(heads[head]), head))[:HEADS])
    across = min(len(shown), 2)
    down = -(-len(shown) // across)
    drawing = canvas(0.9 + 2.9 * down)
    panels = drawing.subplots(down, across, squeeze=False).ravel()
    for axes, head in zip(panels, shown, strict=False):
        _panel(axes, head, best(heads[head], column, MOST))
    for axes in panels[len(shown) :]:
        axes.set_visible(False)
    rows = [part for head in shown for part in heads[head]]
    notes = [f"means of {WINDOWS} stretches and over seeds; pale: every step"]
    if any(len(group) > MOST for group in heads.values()) or len(heads) > len(shown):
        notes.append("the best of every backbone, then of all; others are not shown")
    headed(drawing, "Loss", table, rows, "; ".join(notes))
    return drawing


def _panel(axes: "Axes", head: str, rows: Sequence[Part]) -> None:
    ends = []
    for index, (part, name) in enumerate(zip(rows, names(rows, fold=False), strict=True)):
        values = curve(part)
        steps, means = smoothed(values)
        colour = COLOURS[index]
        axes.plot(range(1, len(values) + 1), values, color=colour, linewidth=0.4, alpha=0.25)
        axes.plot(
            steps,
            means,
            color=colour,
            marker=MARKERS[index],
            markevery=(index, 5),
            markersize=4,
            linewidth=1.4,
            label=name,
        )
        ends += means
    # A first step far above all others would leave no room for them.
    low, high = min(ends), max(ends)
    axes.set_ylim(max(0.0, low - 0.1 * (high - low)), high + 0.1 * (high - low or 1.0))
    alike = shared(rows) if len(rows) > 1 else ""
    axes.set_title(f"{head}, {alike}" if alike else head, fontsize=9, loc="left")
    axes.set_xlabel("step", fontsize=8)
    axes.set_ylabel("loss", fontsize=8)
    axes.tick_params(labelsize=8)
    plain(axes)
    axes.legend(frameon=False, fontsize=8)
