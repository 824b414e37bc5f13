"""What a latency is made of: backbone, head and decoding, as bars of models that run alike at one input size."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Any

from bench.plan.cell import DEFAULTS
from bench.report.pictures.common import Picture, file_name, headed, names, size
from bench.report.rows import Part, Table
from bench.report.style import COLOURS, GREY, HATCHES, canvas, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MEASURE, WHOLE = "latency", "end_to_end_ms"
PARTS = {"backbone_ms": "backbone", "head_ms": "head", "post_ms": "decoding"}
MOST = 20
"""Bars in one picture; the most expensive models are left out."""
_MODES = ("dtype", "compile", "padding", "memory_format")
_OWN = ("backbone", "patch", "head", "attention", "window")
_LONG = 4.0
"""Medians of all bars beyond which one is cut off, or it would leave no room to see the others."""


def pictures(table: Table) -> Iterator[Picture]:
    """One for all models that run alike, at each input size that has two of them."""
    groups: dict[tuple[Any, ...], list[Part]] = defaultdict(list)
    for part in {row.parts[MEASURE]: None for row in table.rows if MEASURE in row.parts}:
        own = all(part.fields[name] == part.records[0].fields[name] for name in ("backbone", "head"))
        if own and all(name in part.values for name in PARTS):
            groups[tuple(item for item in sorted(part.fields.items()) if item[0] not in _OWN)].append(part)
    for key, group in groups.items():
        fields = dict(key)
        mode = [fields[name] for name in _MODES if fields[name] != DEFAULTS[name]]
        name = file_name(table.task, table.dataset, size(fields), f"b{fields['batch']}", *mode, "parts")
        if len(group) > 1:
            yield Picture(name, partial(_draw, table, sorted(group, key=_total)))


def _total(part: Part) -> float:
    return sum(part.values[name].mean for name in PARTS)


def _draw(table: Table, group: Sequence[Part]) -> "Figure":
    shown = group[:MOST]
    called = names(shown, fold=False)
    drawing = canvas(1.5 + 0.26 * len(shown))
    axes = drawing.subplots()
    longest = max(_total(part) for part in shown if _total(part) <= _LONG * median(map(_total, shown)))
    end = 1.18 * longest
    starts = [0.0] * len(shown)
    places = list(range(len(shown)))
    for index, (column, title) in enumerate(PARTS.items()):
        widths = [part.values[column].mean for part in shown]
        axes.barh(
            places, widths, left=starts, height=0.7, color=COLOURS[index], hatch=HATCHES[index], edgecolor="white",
            linewidth=0.6, label=title,
        )  # fmt: skip
        starts = [start + width for start, width in zip(starts, widths, strict=True)]
    for place, part in enumerate(shown):
        _end(axes, place, part, end)
    axes.set_xlim(0, end)
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.set_yticks(places, called, fontsize=8)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=8)
    axes.set_xlabel("ms; figures: sum of the parts, each timed alone; bar |: image to prediction", fontsize=8)
    plain(axes, grid="x")
    axes.legend(ncols=3, loc="lower right", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=8)
    left = len(group) - len(shown)
    headed(drawing, "Parts of a latency", table, shown, f"the {left} slowest are not shown" if left else "")
    return drawing


def _end(axes: "Axes", place: int, part: Part, end: float) -> None:
    """The sum in figures behind the bar, and a mark where image to prediction ends."""
    total, whole = _total(part), part.values.get(WHOLE)
    sign = "≈ " if part.company else ""
    if whole is not None and whole.mean < end:
        axes.plot([whole.mean] * 2, [place - 0.42, place + 0.42], color="black", linewidth=1.2)
    if total > end:
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1.0}
        axes.text(0.995 * end, place, f"{sign}{_figure(total)} →", ha="right", va="center", fontsize=8, bbox=box)
        return
    right = max(total, whole.mean if whole is not None and whole.mean < end else 0.0)
    axes.annotate(
        f"{sign}{_figure(total)}",
        (right, place),
        (3, 0),
        textcoords="offset points",
        va="center",
        fontsize=8,
        color=GREY,
    )


def _figure(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
