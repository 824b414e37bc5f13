"""Time and memory over pixels, on logarithms, with the laws of `bench.report.laws` and their exponents."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from bench.report.laws import OF_BACKBONE, SWAPPING, Series, found
from bench.report.pictures.common import Picture, file_name, headed, names
from bench.report.rows import Table
from bench.report.style import COLOURS, MARKERS, canvas, plain
from bench.report.tables import label
from bench.stats.power import Law

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST = len(COLOURS)
"""Lines in one panel; those with the fewest sizes are left out."""


def pictures(table: Table) -> Iterator[Picture]:
    """One for all backbones that run alike under one head: a panel of time, one of memory."""
    groups: dict[tuple[Any, ...], list[Series]] = defaultdict(list)
    for laws in found([table]):
        for one in laws.series:
            if one.over == "pixels" and one.column.name in SWAPPING:
                groups[tuple(item for item in sorted(one.fields.items()) if item[0] not in OF_BACKBONE)].append(one)
    for key, group in groups.items():
        fields = dict(key)
        name = file_name(table.task, table.dataset, fields["head"], f"b{fields.get('batch', '')}", "scaling")
        yield Picture(name, partial(_draw, table, group))


def _draw(table: Table, group: Sequence[Series]) -> "Figure":
    panels = [[one for one in group if one.column.name == name] for name in SWAPPING]
    kept = _longest(group)  # the same in both panels, as there are so many styles
    panels = [[one for one in panel if _key(one) in kept] for panel in panels]
    panels = [sorted(panel, key=_key) for panel in panels if panel]
    firsts = [one.points[0].part for panel in panels for one in panel]
    called = {
        _key(one): name
        for one, name in zip(
            (one for panel in panels for one in panel), names(firsts, sizes=False, fold=False), strict=True
        )
    }
    styles = {key: (COLOURS[index], MARKERS[index]) for index, key in enumerate(sorted(called)[:MOST])}
    lines = max(len(panel) for panel in panels)
    drawing = canvas(4.3 + 0.28 * lines)
    for axes, panel in zip(drawing.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for one in panel:
            _line(axes, one, called[_key(one)], styles[_key(one)])
        _dress(axes, panel)
    left = len({_key(one) for one in group}) - len(called)
    notes = ["thick: y = a · x^b where it holds, with b and its 95 % interval; thin: from point to point"]
    notes += [f"{left} series of fewer sizes are not shown"] if left else []
    headed(
        drawing, "Growth with the input", table, [point.part for one in group for point in one.points], "; ".join(notes)
    )
    return drawing


def _longest(group: Sequence[Series]) -> set[tuple[str, ...]]:
    sizes: dict[tuple[str, ...], int] = defaultdict(int)
    for one in group:
        sizes[_key(one)] = max(sizes[_key(one)], len(one.points))
    return set(sorted(sizes, key=lambda key: (-sizes[key], key))[:MOST])


def _key(one: Series) -> tuple[str, ...]:
    return tuple(str(one.fields.get(name, "")) for name in OF_BACKBONE)


def _line(axes: "Axes", one: Series, name: str, style: tuple[str, str]) -> None:
    colour, marker = style
    xs, ys = one.xs(), [point.value for point in one.points]
    margins = [point.value * min(1.96 * point.error, 0.99) for point in one.points]
    axes.plot(xs, ys, color=colour, linewidth=0.8, alpha=0.35)
    start, law = one.laws()[-1]
    axes.errorbar(
        xs,
        ys,
        yerr=margins if any(margins) else None,
        fmt=marker,
        color=colour,
        markersize=5,
        elinewidth=0.8,
        capsize=2,
        label=f"{name}: {_said(one, start, law)}",
    )
    if law.verdict in ("holds", "unknown"):
        ends = [xs[start], xs[-1]]
        axes.plot(ends, [law.power.at(x) for x in ends], color=colour, linewidth=1.6)


def _said(one: Series, start: int, law: Law) -> str:
    power = law.power
    exponent = f"{power.exponent:.2f} ({power.low:.2f} to {power.high:.2f})"
    if law.verdict not in ("holds", "unknown"):
        return f"no power law, {law.bend.lower:.2f} to {law.bend.upper:.2f}"
    return exponent if start == 0 else f"{exponent} from {one.points[start].size} px"


def _dress(axes: "Axes", panel: Sequence[Series]) -> None:
    from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator  # noqa: PLC0415, slow to import

    axes.set_xscale("log")
    axes.set_yscale("log")
    sides = {round(point.pixels**0.5, 1) for one in panel for point in one.points}
    chosen = _apart(sorted(sides))
    axes.set_xticks([side**2 for side in chosen], [f"{side:g}²" for side in chosen], fontsize=8)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(labelsize=8)
    axes.set_xlabel("input (pixels)", fontsize=8)
    axes.set_title(label(panel[0].column), fontsize=9, loc="left")
    plain(axes)
    axes.legend(loc="upper left", bbox_to_anchor=(-0.08, -0.14), frameon=False, fontsize=8, borderaxespad=0.0)


def _apart(sides: Sequence[float], least: float = 1.25) -> list[float]:
    """Of these, in order, those that are far enough apart for their labels."""
    kept: list[float] = []
    for side in sides:
        if not kept or side >= least * kept[-1]:
            kept.append(side)
    return kept
