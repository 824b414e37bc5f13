"""Does it learn? The loss at both ends of a training, and the metric of the untrained model beside the trained one."""

from collections.abc import Iterable, Mapping
from typing import Any

from bench.report.rows import Row, Table, headline
from bench.stats.ranking import Stat

UNTRAINED = "untrained"
"""The recipe whose rows are the start that others are compared with."""
STEPS = 10
"""Over which the loss at both ends is averaged."""

ABOUT = f"""
Made by `densebench report` from `records.jsonl`; what is edited here is lost. Loss: mean of the first and of the last
{STEPS} steps of the training (losses of different heads are different functions). Metric: of the model with its initial
weights (recipe `{UNTRAINED}`), and after the training, on the validation split; means over seeds.
"""


def learning(machine: str, tables: Iterable[Table]) -> str:
    """Markdown; "" where no model was measured both untrained and trained."""
    parts = [text for table in tables if (text := _section(table))]
    if not parts:
        return ""
    return "\n".join([f"# Learning on {machine}", ABOUT, *parts])


def _section(table: Table) -> str:
    top = headline(table.task)
    if top is None:
        return ""
    measure, column = top
    start = {_same(row.fields): row for row in table.rows if row.fields.get("recipe") == UNTRAINED}
    lines = []
    for row in table.rows:
        before = start.get(_same(row.fields))
        trained = row.values.get(column.name)
        if before is None or before is row or trained is None or column.name not in before.values:
            continue
        losses = _losses(row, measure.name)
        if losses is None:
            continue
        first, last = losses
        name = (row.fields["backbone"], row.fields["patch"], row.fields["head"], row.input, row.fields["recipe"])
        cells = (*map(str, name), f"{first:.2f}", f"{last:.2f}", _text(before.values[column.name]), _text(trained))
        lines.append(f"| {' | '.join(cells)} |")
    if not lines:
        return ""
    head = "backbone | patch | head | input | recipe | loss at the start | at the end"
    title = f"{column.title} ({column.unit})"
    return "\n".join(
        [
            f"## {table.task} on {table.dataset}: {table.environment.title()}",
            "",
            f"| {head} | {title} untrained | trained |",
            "| --- | ---: | --- | ---: | --- | ---: | ---: | ---: | ---: |",
            *lines,
            "",
        ]
    )


def _losses(row: Row, measure: str) -> tuple[float, float] | None:
    """Mean loss at both ends of the trainings of a row; None where no record has any."""
    curves = [record.samples["loss"] for record in row.parts[measure].records if record.samples.get("loss")]
    if not curves:
        return None
    ends = [(curve[:STEPS], curve[-STEPS:]) for curve in curves]
    first, last = ([sum(part) / len(part) for part in side] for side in zip(*ends, strict=True))
    return sum(first) / len(first), sum(last) / len(last)


def _text(stat: Stat) -> str:
    return f"{stat.mean:.1f}"


def _same(fields: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """What the untrained and the trained model have in common: everything that accuracy depends on but the recipe."""
    names = ("backbone", "patch", "weights", "head", "height", "width", "dataset", "dtype", "attention", "device")
    return tuple((name, str(fields.get(name))) for name in (*names, "window", "resample", "padding"))
