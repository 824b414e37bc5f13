"""How far does a backbone see? Steps until a far mark is made use of, by its distance from the object.

Rows are those of ``scenes:distance=D`` by a recipe with ``check_every`` and ``until`` (matrix `context`). A backbone
that was not trained long enough and one that cannot see the mark look alike at one distance; what tells them apart is
the row: who solves the near ones and not the far ones does not see so far.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.plan.measure import LIMIT
from bench.report.rows import Part, Table
from bench.report.style import COLOURS, canvas, plain, save
from bench.stats.ranking import Stat

NAME = "reach"
"""Of the table and of the picture."""
SOLVED, PAIR = "solved_step", "pair_accuracy"
_DISTANCE = re.compile(r"^scenes:distance=(\d*\.?\d+)$")

ABOUT = """
Made by `densebench report` from `records.jsonl`; what is edited here is lost. Steps of training until the two classes
of `scenes` that look the same were first told apart as often as the recipe asks, by the distance between the object and
the mark that decides, in image sides; in brackets seeds, where there are several. "no (55 %)": not within the steps of
the recipe, and how often they were told apart at the end; 50 % is a guess.
"""


@dataclass(frozen=True)
class Curve:
    """One model, recipe and environment.

    fields: of the training, but for the data set and the seed. points: distance -> what was measured there. name: of
    the fields that differ among the curves, backbone and patch first.
    """

    fields: Mapping[str, Any]
    points: Mapping[float, Part]
    name: str = ""

    def solved(self, distance: float) -> Stat | None:
        """Steps until solved, if every seed did."""
        part = self.points[distance]
        found = part.values.get(SOLVED)
        return found if found is not None and found.n == len(part.records) else None

    def limit(self) -> int:
        """The most steps that its recipe allows."""
        limits = (record.values.get(LIMIT) for part in self.points.values() for record in part.records)
        return max((one for one in limits if isinstance(one, int)), default=0)


def curves(tables: Iterable[Table]) -> list[Curve]:
    """All that was measured at two distances or more, in the order of the tables."""
    found: dict[tuple[Any, ...], dict[float, Part]] = defaultdict(dict)
    for table in tables:
        match = _DISTANCE.match(table.dataset)
        parts = {id(part): part for row in table.rows for part in row.parts.values()} if match else {}
        for part in parts.values():
            if match is not None and any(SOLVED in record.values for record in part.records):
                same = tuple(item for item in sorted(part.fields.items()) if item[0] != "dataset")
                found[(table.environment.comparable, *same)][float(match[1])] = part
    known = [Curve(dict(same), points) for (_, *same), points in found.items() if len(points) > 1]
    texts = [{name: str(value) for name, value in curve.fields.items()} for curve in known]
    varying = [name for name in (texts[0] if texts else ()) if len({text.get(name) for text in texts}) > 1]
    others = [name for name in varying if name not in ("backbone", "patch")]
    return [
        replace(curve, name=" ".join([f"{text['backbone']}/{text['patch']}", *(text.get(name, "") for name in others)]))
        for curve, text in zip(known, texts, strict=True)
    ]


def reach(machine: str, tables: Iterable[Table]) -> str:
    """Markdown; "" where nothing of the kind was measured."""
    known = curves(tables)
    if not known:
        return ""
    distances = sorted({distance for curve in known for distance in curve.points})
    lines = [
        "| backbone | patch | head | input | weights | recipe | " + " | ".join(f"{one:g}" for one in distances) + " |",
        "| --- | ---: | --- | ---: | --- | --- |" + " ---: |" * len(distances),
    ]
    for curve in known:
        names = [str(curve.fields[name]) for name in ("backbone", "patch", "head")]
        names += [
            f"{curve.fields['height']}x{curve.fields['width']}",
            *(str(curve.fields[one]) for one in ("weights", "recipe")),
        ]
        cells = [_cell(curve, one) if one in curve.points else "" for one in distances]
        lines.append(f"| {' | '.join([*names, *cells])} |")
    return "\n".join([f"# Reach on {machine}", ABOUT, *lines, ""])


def draw(tables: Iterable[Table], path: Path) -> Path | None:
    """Steps until solved over distance, a line a model, as PNG and SVG; None where there is nothing to draw.

    An open marker at the top: not solved within the steps of the recipe.

    Raises:
        UserError: the file cannot be written; names it.
    """
    known = curves(tables)
    if not known:
        return None
    drawing = canvas(4.5, width=7.5)
    axes = drawing.subplots()
    most = max(curve.limit() for curve in known)
    wide = (max(max(curve.points) for curve in known) - min(min(curve.points) for curve in known)) / 100
    for index, curve in enumerate(known):
        colour = COLOURS[index % len(COLOURS)]
        there = sorted(curve.points)
        steps = {one: stat.mean for one in there if (stat := curve.solved(one)) is not None}
        axes.plot(list(steps), list(steps.values()), "o-", color=colour, linewidth=1.3, label=curve.name)
        # Beside one another: several models may fail at one distance.
        failed = [one + (index - (len(known) - 1) / 2) * wide for one in there if one not in steps]
        axes.plot(failed, [most * 1.12] * len(failed), "o", color=colour, fillstyle="none")
    limits = sorted({curve.limit() for curve in known})
    allowed = f"{limits[0]}" if len(limits) == 1 else f"the {limits[0]} to {limits[-1]}"
    axes.axhline(most, color="#888888", linewidth=0.8, linestyle=":")
    text = f"above: not within {allowed} steps of the recipe"
    axes.annotate(
        text, (1, most), xycoords=("axes fraction", "data"), fontsize=8, ha="right", va="top", color="#666666"
    )
    axes.set_ylim(0, most * 1.22)
    axes.set_xlabel("distance of the mark from the object (image sides)")
    axes.set_ylabel("steps until the pair is told apart: lower is better")
    axes.set_title("How far a backbone sees: scenes", fontsize=9, loc="left")
    plain(axes)
    axes.legend(fontsize=8, frameon=False)
    return save(drawing, path)


def _cell(curve: Curve, distance: float) -> str:
    solved = curve.solved(distance)
    if solved is None:
        pair = curve.points[distance].values.get(PAIR)
        return "no" if pair is None else f"no ({pair.mean:.0f} %)"
    seeds = f" ({solved.n})" if solved.n > 1 else ""
    return f"{solved.mean:.0f}{seeds}"
