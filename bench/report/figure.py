"""A picture of a task's tables: cost against accuracy, with the rows that nothing beats joined by a line."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from bench.errors import UserError
from bench.plan import recipe
from bench.report import reach
from bench.report.compare import Point, Section, compare
from bench.report.rows import folders, read
from bench.report.style import COLOURS, MARKERS, canvas, plain, save
from bench.report.tables import label

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def figures(results: Path) -> list[Path]:
    """Draw ``<task>.png`` beside the tables of every machine that has both cost and accuracy; the PNGs drawn.

    Each has an SVG beside it. And ``reach.png`` where there is something for it, see `bench.report.reach`.

    Raises:
        UserError: as for `figure`.
    """
    drawn: list[Path] = []
    for folder in folders(results):
        tables = read(folder).tables
        for task in sorted({table.task for table in tables}):
            sections = compare(folder, task=task).sections
            if any(_trained(_context(point)[0], task) for one in sections for point in one.points):
                drawn.append(figure(folder, task, folder / f"{task}.png"))
        if (path := reach.draw(tables, folder / f"{reach.NAME}.png")) is not None:
            drawn.append(path)
    return drawn


def figure(results: Path, task: str, path: Path, *, cost: str = "latency_ms") -> Path:
    """Draw a machine's folder (or all of a results folder) as PNG and SVG: the same records give the same bytes.

    One panel an environment, data set, recipe and batch. Colour: family of the backbone; shape: head; label:
    backbone/patch, size of the input; bars: standard deviation over seeds; filled: Pareto-optimal; line: the Pareto
    front; pale, with a bar from left to right: taken in company, and where the undisturbed cost may be.

    Models that were not trained (a recipe of one step) are in the tables alone.

    Raises:
        UserError: no records of this task with cost and accuracy, or a file that cannot be written; names it.
    """
    sections = [section for section in compare(results, task=task, cost=cost).sections if section.points]
    if not sections:
        raise UserError(f"no records of {task} under {results} have both {cost} and accuracy: there is nothing to draw")
    # A latency of another batch and an accuracy of another training are no trade-off to look at in one picture.
    parts = [
        replace(section, points=tuple(point for point in section.points if _context(point) == context))
        for section in sections
        for context in sorted({_context(point) for point in section.points})
        if _trained(context[0], task)
    ]
    if not parts:
        raise UserError(f"all records of {task} under {results} are of untrained models: there is nothing to draw")
    points = [point for part in parts for point in part.points]
    colours = _assign([family(point) for point in points], COLOURS)
    markers = _assign([str(point.fields.get("head", "")) for point in points], MARKERS)
    drawing = canvas(4.8 * len(parts))
    panels = drawing.subplots(len(parts), 1, squeeze=False)[:, 0]
    for axes, section in zip(panels, parts, strict=True):
        _panel(axes, section, colours, markers)
    return save(drawing, path)


def family(point: Point) -> str:
    """Family of a point's backbone: its name up to the size (``vit`` of ``vit_pico``)."""
    return str(point.fields.get("backbone", "")).partition("_")[0]


def _assign(names: Sequence[str], choices: Sequence[str]) -> dict[str, str]:
    """Each name's choice, by alphabet; from the start again when they run out."""
    return {name: choices[index % len(choices)] for index, name in enumerate(sorted(set(names)))}


def _panel(axes: "Axes", section: Section, colours: dict[str, str], markers: dict[str, str]) -> None:
    axes.set_xscale("log")
    # A time says nothing without its batch, dtype and device.
    context = ", ".join(
        f"{name} {next(iter(values))}"
        for name in ("recipe", "batch", "dtype", "device", "threads")
        if len(values := {point.fields[name] for point in section.points if name in point.fields}) == 1
    )
    axes.set_xlabel(f"{label(section.cost)}: {section.cost.better} is better\n{context}")
    axes.set_ylabel(f"{label(section.value)}: {section.value.better} is better")
    axes.set_title(f"{section.task} on {section.dataset}\n{section.title}", fontsize=9, loc="left")
    plain(axes)
    front = [point for point in section.points if point.pareto]
    xs, ys = [point.cost.mean for point in front], [point.value.mean for point in front]
    # Between two rows of the front, the best that can be had is the cheaper one: a staircase.
    axes.plot(xs, ys, drawstyle="steps-post", color="#888888", linewidth=1.2, zorder=1)
    for point in section.points:
        colour = colours[family(point)]
        company = point.cost.company
        cost = point.cost.mean
        span = None if point.span is None else [[cost - point.span[0]], [point.span[1] - cost]]
        axes.errorbar(
            cost,
            point.value.mean,
            yerr=point.value.sd,
            xerr=span,
            fmt=markers[str(point.fields.get("head", ""))],
            color=colour,
            alpha=0.45 if company else 1,
            markerfacecolor=colour if point.pareto else "white",
            markersize=8,
            elinewidth=1,
            capsize=2,
        )
    axes.margins(0.12)
    _ticks(axes)
    _legend(axes, section, colours, markers)
    _labels(axes, section.points)


def _ticks(axes: "Axes") -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter  # noqa: PLC0415

    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _legend(axes: "Axes", section: Section, colours: dict[str, str], markers: dict[str, str]) -> None:
    from matplotlib.lines import Line2D  # noqa: PLC0415

    families = sorted({family(point) for point in section.points})
    heads = sorted({str(point.fields.get("head", "")) for point in section.points})
    entries = [Line2D([], [], color=colours[name], marker="o", linestyle="", label=name) for name in families]
    entries += [
        Line2D([], [], color="#444444", marker=markers[name], markerfacecolor="white", linestyle="", label=name)
        for name in heads
    ]
    entries.append(Line2D([], [], color="#888888", label="Pareto front (filled)"))
    if any(point.cost.company for point in section.points):
        entries.append(
            Line2D(
                [],
                [],
                color="#888888",
                marker="o",
                linestyle="-",
                alpha=0.45,
                markerfacecolor="white",
                label="taken in company",
            )
        )
    axes.legend(handles=entries, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=9)


def _labels(axes: "Axes", points: Sequence[Point]) -> None:
    """Name the points, the front first; a name that would cover another or a point is left out."""
    drawing = axes.get_figure(root=True)
    if drawing is None:
        return
    drawing.draw_without_rendering()
    scale = drawing.dpi / 72
    several = len({_size(point) for point in points}) > 1
    places = [axes.transData.transform((point.cost.mean, point.value.mean)) for point in points]
    taken = [(x - 5 * scale, y - 5 * scale, x + 5 * scale, y + 5 * scale) for x, y in places]
    frame = axes.get_window_extent()
    for point, (x, y) in sorted(zip(points, places, strict=True), key=lambda pair: not pair[0].pareto):
        text = f"{point.fields.get('backbone', '')}/{point.fields.get('patch', '')}"
        text += f" {_size(point)}" if several else ""
        width, height = 4.1 * len(text) * scale, 8 * scale
        span = width / scale
        offsets = [(8.0, -3.0), (-8 - span, -3.0), (-span / 2, 8.0), (-span / 2, -15.0)]
        # Nothing lies on the better side of the front: its names stand there, clear of the line.
        offsets = [(-4 - span, 6.0), (4.0, 6.0), *offsets] if point.pareto else offsets
        for dx, dy in offsets:
            left, low = x + dx * scale, y + dy * scale
            box = (left, low, left + width, low + height)
            inside = frame.x0 <= box[0] and box[2] <= frame.x1 and frame.y0 <= box[1] and box[3] <= frame.y1
            if inside and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                axes.annotate(
                    text,
                    (point.cost.mean, point.value.mean),
                    xytext=(dx, dy),
                    textcoords="offset points",
                    fontsize=7,
                    color="#222222",
                    bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.4},
                )
                break


def _overlap(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _context(point: Point) -> tuple[str, int]:
    return str(point.fields.get("recipe", "")), int(point.fields.get("batch", 0))


def _trained(name: str, task: str) -> bool:
    try:
        return recipe.load(name, task).steps > 1
    except UserError:  # it is no longer there
        return True


def _size(point: Point) -> str:
    height, width = point.fields.get("height", ""), point.fields.get("width", "")
    return str(height) if height == width else f"{height}x{width}"
