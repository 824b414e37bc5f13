"""How far does a backbone see? Steps until a far mark is made use of, by its distance from the object.

Rows are those of ``scenes:distance=D`` by a recipe with ``check_every`` and ``until`` (matrix `context`). A backbone
that was not trained long enough and one that cannot see the mark look alike at one distance; what tells them apart is
the row: who solves the near ones and not the far ones does not see so far.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.errors import UserError
from bench.report.rows import Row, Table
from bench.stats.ranking import Stat

NAME = "reach"
"""Of the table and of the picture."""
SOLVED, PAIR = "solved_step", "pair_accuracy"
_DISTANCE = re.compile(r"^scenes:distance=([\d.]+)$")
_SAME = ("backbone", "patch", "head", "height", "width", "weights", "recipe")
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")

ABOUT = """
Made by `densebench report` from `records.jsonl`; what is edited here is lost. Steps of training until the two classes
of `scenes` that look the same were first told apart as often as the recipe asks, by the distance between the object and
the mark that decides, in image sides; in brackets seeds, where there are several. "no (55 %)": not within the steps of
the recipe, and how often they were told apart at the end; 50 % is a guess.
"""


@dataclass(frozen=True)
class Curve:
    """One model and recipe. fields: what names it. points: distance -> the row measured there."""

    fields: Mapping[str, Any]
    points: Mapping[float, Row]

    @property
    def name(self) -> str:
        """Of its backbone and patch, and of the head."""
        return f"{self.fields['backbone']}/{self.fields['patch']} {self.fields['head']}"

    def solved(self, distance: float) -> Stat | None:
        """Steps until solved, if every seed did."""
        row = self.points[distance]
        found = row.values.get(SOLVED)
        seeds = row.values.get(PAIR)
        return found if found is not None and (seeds is None or found.n == seeds.n) else None

    def steps(self) -> int:
        """The most that any of its trainings took."""
        return max(
            len(record.samples.get("loss", ()))
            for row in self.points.values()
            for part in row.parts.values()
            for record in part.records
        )


def curves(tables: Iterable[Table]) -> list[Curve]:
    """All that was measured at two distances or more, in the order of the tables."""
    found: dict[tuple[Any, ...], dict[float, Row]] = defaultdict(dict)
    for table in tables:
        match = _DISTANCE.match(table.dataset)
        for row in table.rows if match else ():
            if any("solved_step" in record.values for part in row.parts.values() for record in part.records):
                assert match is not None, "of such a data set"
                found[tuple(row.fields.get(name) for name in _SAME)][float(match[1])] = row
    return [Curve(dict(zip(_SAME, key, strict=True)), points) for key, points in found.items() if len(points) > 1]


def reach(machine: str, tables: Iterable[Table]) -> str:
    """Markdown; "" where nothing of the kind was measured."""
    known = curves(tables)
    if not known:
        return ""
    distances = sorted({distance for curve in known for distance in curve.points})
    lines = [
        "| backbone | patch | head | input | recipe | " + " | ".join(f"{one:g}" for one in distances) + " |",
        "| --- | ---: | --- | ---: | --- |" + " ---: |" * len(distances),
    ]
    for curve in known:
        names = [str(curve.fields[name]) for name in ("backbone", "patch", "head")]
        names += [f"{curve.fields['height']}x{curve.fields['width']}", str(curve.fields["recipe"])]
        cells = [_cell(curve, one) if one in curve.points else "" for one in distances]
        lines.append(f"| {' | '.join([*names, *cells])} |")
    return "\n".join([f"# Reach on {machine}", ABOUT, *lines, ""])


def draw(tables: Iterable[Table], path: Path) -> Path | None:
    """Steps until solved over distance, a line a model, as a PNG; None where there is nothing to draw.

    An open marker at the top: not solved within the steps of the recipe.

    Raises:
        UserError: the file cannot be written; names it.
    """
    known = curves(tables)
    if not known:
        return None
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415, slow to import
    from matplotlib.figure import Figure  # noqa: PLC0415

    drawing = Figure(figsize=(7.5, 4.5), dpi=150, layout="constrained")
    FigureCanvasAgg(drawing)
    axes = drawing.subplots()
    most = max(curve.steps() for curve in known)
    wide = (max(max(curve.points) for curve in known) - min(min(curve.points) for curve in known)) / 100
    for index, curve in enumerate(known):
        colour = _COLOURS[index % len(_COLOURS)]
        there = sorted(curve.points)
        steps = {one: stat.mean for one in there if (stat := curve.solved(one)) is not None}
        axes.plot(list(steps), list(steps.values()), "o-", color=colour, linewidth=1.3, label=curve.name)
        # Beside one another: several models may fail at one distance.
        failed = [one + (index - (len(known) - 1) / 2) * wide for one in there if one not in steps]
        axes.plot(failed, [most * 1.12] * len(failed), "o", color=colour, fillstyle="none")
    axes.axhline(most, color="#888888", linewidth=0.8, linestyle=":")
    axes.annotate(f"not within {most} steps", (1, most), xycoords=("axes fraction", "data"), fontsize=8, ha="right",
                  va="top", color="#666666")  # fmt: skip
    axes.set_ylim(0, most * 1.22)
    axes.set_xlabel("distance of the mark from the object (image sides)")
    axes.set_ylabel("steps until the pair is told apart: lower is better")
    axes.set_title("How far a backbone sees: scenes, from random weights", fontsize=9, loc="left")
    axes.grid(linewidth=0.4, color="#dddddd")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False)
    try:
        drawing.savefig(path, format="png", metadata={"Software": None})
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}); name another folder with --results") from error
    return path


def _cell(curve: Curve, distance: float) -> str:
    solved = curve.solved(distance)
    row = curve.points[distance]
    if solved is None:
        pair = row.values.get(PAIR)
        return "no" if pair is None else f"no ({pair.mean:.0f} %)"
    seeds = f" ({solved.n})" if solved.n > 1 else ""
    return f"{solved.mean:.0f}{seeds}"
