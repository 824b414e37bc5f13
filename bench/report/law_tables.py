"""``laws.md``, ``laws.csv`` and ``crossings.csv``: what `bench.report.laws` finds, as tables."""

import csv
import io
import math
from collections.abc import Iterable, Sequence
from typing import Any

from bench.plan.cell import FIELDS
from bench.report.laws import OF_BACKBONE, OVER, Laws, Series, Swap, found
from bench.report.naming import OTHERS, choices
from bench.report.rows import Table, vary
from bench.report.sheet import texts_only
from bench.stats.power import DISTINCT, LEAST, NEAR, Law

FILES = ("crossings.csv", "laws.csv", "laws.md")
MOST = 100
"""Swaps in a Markdown table; the CSV has them all."""
_NAMED = tuple(name for name in FIELDS if name not in ("height", "width", "recipe", "seed", "limit_mib"))
_HEAD = ("exponent", "95 % CI", "growth", "deviation (%)", "lower half", "upper half", "law")

ABOUT = f"""
Made by `densebench report` from `records.jsonl`; what is edited here is lost. y = a · x^b: ordinary least squares on
logarithms, over at least {DISTINCT} sizes. 95 % CI: of b, from the scatter of the points (Student's t) or from their
intervals and noise floors, whichever is wider. Deviation: root mean square and largest, of the points from the line.
Lower and upper half: the exponent of either half of the points, with 95 % of what their intervals and noise floors
leave open.

Law: *bends* where the halves differ beyond their errors (a constant overhead flattens the small end, a second term
steepens the large one), *scatters* where a point is off the line beyond its error, else *holds*; exact figures (memory,
MACs) may differ by {LEAST:g} in exponent and {100 * NEAR:g} % off the line. A law that does not hold has a second row,
from the smallest size on from which at least {DISTINCT} points follow one; it is chosen for that, so its interval
promises a little too much. An exponent is of the sizes that it is fitted to, and of no others. Method:
`bench/report/laws.py`, `bench/stats/power.py`.
"""


def texts(machine: str, tables: Iterable[Table]) -> dict[str, str]:
    """File name -> text; nothing where there is nothing to fit and no pair to compare."""
    known = found(tables)
    if not known:
        return {}
    made = {"laws.md": _markdown(machine, known)}
    if any(one.series for one in known):
        made["laws.csv"] = _csv([line for one in known for line in _laws(one)])
    if any(one.swaps for one in known):
        made["crossings.csv"] = _csv([line for one in known for line in _crossings(one)])
    return made


def _markdown(machine: str, known: Sequence[Laws]) -> str:
    blocks = [f"# Laws on {machine}", ABOUT.strip()]
    for one in known:
        blocks.append(f"## {one.table.task} on {_cell(one.table.dataset)}: {_cell(one.table.environment.title())}")
        compared = [series for swap in one.swaps for series in (swap.first, swap.second)]
        parts = [point.part for series in (*one.series, *compared) for point in series.points]
        several, fixed = vary(parts, OTHERS)
        if fixed:
            blocks.append("Throughout: " + ", ".join(_cell(f"{name} {value}") for name, value in fixed.items()) + ".")
        for over in OVER:
            blocks += _law_table([series for series in one.series if series.over == over], over, several)
        blocks += _swap_table(one.swaps, several)
        blocks += _kept(one)
        blocks += _left_out(one.series)
    return "\n\n".join(blocks) + "\n"


def _law_table(known: Sequence[Series], over: str, several: Sequence[str]) -> list[str]:
    if not known:
        return []
    named = [name for name in ("backbone", "patch", "head", *several) if name not in OVER[over]]
    head = ["figure", *named, over, "points", *_HEAD]
    body = [
        [one.column.title, *choices(one.fields, named), *_range(one, start), *_figures(law)]
        for one in known
        for start, law in one.laws()
    ]
    title = "pixels, at one patch size" if over == "pixels" else "tokens, over patch and input sizes"
    return [f"### Over {title}", _lines(head, body)]


def _range(one: Series, start: int) -> list[str]:
    """From where to where: inputs as sides, or numbers of tokens; and how many points."""
    chosen = one.points[start:]
    if one.over == "pixels":
        return [f"{chosen[0].size} to {chosen[-1].size} px", str(len(chosen))]
    return [f"{chosen[0].tokens:.0f} to {chosen[-1].tokens:.0f}", str(len(chosen))]


def _figures(law: Law) -> list[str]:
    power, bend = law.power, law.bend
    return [
        f"{power.exponent:.2f}",
        f"{power.low:.2f} to {power.high:.2f}",
        law.growth,
        f"{100 * power.rms:.1f}, {100 * power.worst:.1f}",
        _half(bend.lower, bend.margin(bend.lower_error)),
        _half(bend.upper, bend.margin(bend.upper_error)),
        law.verdict,
    ]


def _half(exponent: float, margin: float) -> str:
    if margin == 0:
        return f"{exponent:.2f}"
    return f"{exponent:.2f} ± {f'{margin:.2f}' if math.isfinite(margin) else '?'}"


def _swap_table(swaps: Sequence[Swap], several: Sequence[str]) -> list[str]:
    if not swaps:
        return []
    shown = [name for name in several if name not in OF_BACKBONE]
    running = [name for name in several if name in OF_BACKBONE]
    body = [
        [
            swap.first.column.title,
            *choices(swap.first.fields, ["head", *shown]),
            *(_named(one, running) for one in (swap.first, swap.second)),
            *_where(swap),
        ]
        for swap in swaps[:MOST]
    ]
    head = ["figure", "head", *shown, "smaller at small inputs", "smaller at large inputs", "swap (px)", "95 % CI (px)"]
    blocks = ["### Where two backbones swap", _lines([*head, "swap (pixels)"], body)]
    return [*blocks, f"{len(swaps) - MOST} more are in `crossings.csv`."] if len(swaps) > MOST else blocks


def _kept(one: Laws) -> list[str]:
    said = ", ".join(f"{title}: {count}" for title, count in one.kept.items())
    return [f"Pairs under one head whose order is the same at all sizes that both have: {said}."] if said else []


def _named(one: Series, running: Sequence[str]) -> str:
    """Backbone/patch, and how it runs where that varies."""
    words = [str(one.fields[name]) for name in running if name in one.fields]
    return " ".join([f"{one.fields['backbone']}/{one.fields['patch']}", *words])


def _where(swap: Swap) -> list[str]:
    """Side of a square, its interval, and pixels."""
    if swap.between is None:
        return ["not told apart", "", ""]
    left, right = (point.size for point in swap.between)
    if swap.at is None:
        unclear = ", ".join(point.size for point in swap.unclear)
        return [f"between {left} and {right}", f"not told apart at {unclear}" if unclear else "", ""]
    value, *ends = (f"{math.sqrt(one):.0f}" for one in (swap.at.value, swap.at.low, swap.at.high))
    interval = "exact at the sizes beside it" if swap.at.low == swap.at.high else f"{ends[0]} to {ends[1]}"
    return [value, f"{interval} ({left} to {right} measured)", f"{swap.at.value:.0f}"]


def _left_out(known: Sequence[Series]) -> list[str]:
    """Measurements that no law has, by reason: each counted once, as a law over pixels."""
    counted = [one for one in known if one.over == "pixels"]
    found_ = {
        "taken in company": sum(one.company for one in counted),
        "of a session that nothing ties to the others": sum(one.untied for one in counted),
    }
    said = "; ".join(f"{count} {reason}" for reason, count in found_.items() if count)
    return [f"Left out of these series: {said}."] if said else []


def _laws(one: Laws) -> list[dict[str, Any]]:
    lines = []
    for series in one.series:
        for start, law in series.laws():
            power, bend, chosen = law.power, law.bend, series.points[start:]
            xs = series.xs()[start:]
            lines.append(
                _about(one)
                | {"figure": series.column.name, "over": series.over}
                | {name: series.fields.get(name, "") for name in _NAMED}
                | {"from": xs[0], "to": xs[-1], "points": power.points, "distinct": power.distinct, "whole": start == 0}
                | {"exponent": power.exponent, "exponent_low": power.low, "exponent_high": power.high}
                | {"constant": power.constant, "unit": series.column.unit, "growth": law.growth}
                | {"rms_pct": 100 * power.rms, "worst_pct": 100 * power.worst}
                | {"lower": bend.lower, "lower_margin": bend.margin(bend.lower_error)}
                | {"upper": bend.upper, "upper_margin": bend.margin(bend.upper_error), "verdict": law.verdict}
                | {"sessions": len({str(point.record.values.get("session", "")) for point in chosen})}
                | {"in_company": series.company, "untied": series.untied}
            )
    return lines


def _crossings(one: Laws) -> list[dict[str, Any]]:
    lines = []
    for swap in one.swaps:
        common = {name: value for name, value in swap.first.fields.items() if name not in OF_BACKBONE}
        between = swap.between or (None, None)
        at = swap.at
        lines.append(
            _about(one)
            | {"figure": swap.first.column.name}
            | {f"first_{name}": swap.first.fields.get(name, "") for name in OF_BACKBONE}
            | {f"second_{name}": swap.second.fields.get(name, "") for name in OF_BACKBONE}
            | {name: common.get(name, "") for name in _NAMED if name not in OF_BACKBONE}
            | {"kind": swap.kind}
            | {name: "" if end is None else end.pixels for name, end in zip(("after", "before"), between, strict=True)}
            | {"not_told_apart": " ".join(str(point.pixels) for point in swap.unclear)}
            | {"pixels": "" if at is None else at.value}
            | {"pixels_low": "" if at is None else at.low, "pixels_high": "" if at is None else at.high}
            | {"side": "" if at is None else math.sqrt(at.value)}
        )
    return lines


def _about(one: Laws) -> dict[str, Any]:
    table = one.table
    return {
        "environment": table.environment.comparable,
        "machine": table.machine,
        "task": table.task,
    }


def _csv(lines: Sequence[dict[str, Any]]) -> str:
    file = io.StringIO()
    writer = csv.DictWriter(file, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(dict(zip(line, texts_only(list(line.values())), strict=True)) for line in lines)
    return file.getvalue()


def _lines(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    """A Markdown table; numbers to the right."""
    rows = [[_cell(text) for text in line] for line in body]
    right = [all(not line[index] or line[index][0].isdigit() for line in rows) for index in range(len(head))]
    lines = [list(head), ["---:" if number else "---" for number in right], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(text: str) -> str:
    """What stands in a cell: no bar ends it, no star or tick changes it."""
    return " ".join("".join(f"\\{one}" if one in "|*`\\" else one for one in text).split())
