"""What `bench.report.recommend` found, for a terminal and as JSON."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from bench.plan.cell import DEFAULTS
from bench.plan.measure import Column
from bench.report.again import command
from bench.report.choosing import column_of, stat_of
from bench.report.naming import naming
from bench.report.recommend import MOST_SEEDS, Answer, Choice, Gap, Miss
from bench.report.rows import Row, headline
from bench.report.standing import series_of
from bench.report.tables import COMPANY_NOTE, SPREAD, error_bar, label, margin_bar, number
from bench.report.terminal import TableColumn, TerminalTable
from bench.stats.ranking import Stat

if TYPE_CHECKING:
    from rich.console import RenderableType

SHOWN, SHOWN_MISSES, SHOWN_COMMANDS, SHOWN_OTHERS = 12, 5, 3, 4
"""Rows within the limits, rows beyond them, commands and other questions that a terminal shows; ``--json`` has all."""


def as_json(answer: Answer) -> dict[str, Any]:
    """In plain lists and dicts; what is unknown is None."""
    return {
        "machines": list(answer.machines),
        "task": answer.task,
        "dataset": answer.dataset,
        "recipe": answer.recipe,
        "batch": answer.batch,
        "objective": answer.objective.name,
        "cost": answer.cost.name,
        "limits": [{"column": one.name, "bound": one.bound, "value": one.value} for one in answer.limits],
        "seed_noise": answer.noise and asdict(answer.noise) | {"borrowed": answer.borrowed},
        "pick": answer.pick and _plain(answer, answer.pick),
        "choices": [_plain(answer, one) for one in answer.choices],
        "misses": [
            {
                "machine": one.machine,
                "fields": dict(one.row.fields),
                "beyond": {limit.name: share if math.isfinite(share) else None for limit, share in one.beyond.items()},
                "by_less_than_noise": one.near,
            }
            for one in answer.misses
        ],
        "lacking": {name: [dict(row.fields) for row in rows] for name, rows in answer.unknown.items()},
        "to_settle": _commands(answer),
        "others": [{"dataset": data, "recipe": recipe, "rows": n} for (data, recipe), n in answer.others.items()],
    }


def render(answer: Answer, *, wide: bool = False) -> "Iterator[RenderableType]":
    """For a terminal: the pick in a sentence, the rows that it was chosen from, and what would settle it."""
    from rich.text import Text  # noqa: PLC0415, --json needs no rich

    about = [answer.task, f"on {answer.dataset}", *([f"by recipe {answer.recipe}"] if answer.recipe else [])]
    batch = "" if answer.batch is None else f", batch {answer.batch}"
    yield Text(f"{' '.join(about)}{batch}: the best {answer.objective.title}{_within(answer)}", style="italic")
    for line in _sentences(answer):
        yield Text(line)
    if answer.choices:
        yield Text("")
        yield _table(answer, wide=wide)
    for line in _afterwards(answer):
        yield Text(line)


def _within(answer: Answer) -> str:
    return f" within {', '.join(map(str, answer.limits))}" if answer.limits else ""


def _sentences(answer: Answer) -> Iterator[str]:
    pick = answer.pick
    if pick is None:
        yield from _nothing(answer)
        return
    yield f"Take {_name(answer, pick.row)}: {_figures(answer, pick)}."
    best = answer.choices[0]
    tied = [one for one in answer.choices if one.tied]
    if len(tied) == 1:
        beaten = len(answer.choices) - 1
        yield f"It is better than all {beaten} others within the limits." if beaten else "Nothing else fits."
    elif pick is best:
        yield (
            f"It has the best figure; {_count(len(tied) - 1, 'other')} cannot be told apart from it, and none of them "
            f"is claimed to be cheaper in {answer.cost.title}."
        )
    else:
        yield (
            f"{_name(answer, best.row)} has the best figure ({_value(best.row, answer.objective)}); "
            f"{_count(len(tied) - 1, 'row')} cannot be told apart from it, and this is the cheapest of them "
            f"in {answer.cost.title}."
        )
    if pick.close:
        yield f"It is within {' and '.join(pick.close)} by less than its own interval: it may be beyond."
    yield from _noise(answer)


def _nothing(answer: Answer) -> Iterator[str]:
    yield f"Nothing fits{_within(answer)}."
    if answer.excluded:
        limit, count = max(answer.excluded.items(), key=lambda pair: pair[1])
        yield f"{limit} excludes most: {count} of {len(answer.misses)} rows."
    if answer.misses:
        yield f"The nearest is {_name(answer, answer.misses[0].row)}: {_beyond(answer.misses[0])}."


def _noise(answer: Answer) -> Iterator[str]:
    measure, _ = column_of(answer.objective.name)
    if "seed" not in measure.fields:
        return
    title, unit = answer.objective.title, answer.objective.unit
    if answer.noise is None:
        yield f"No {title} of {answer.task} has two seeds: ties are by images alone, and seeds may turn them."
    elif answer.borrowed:
        yield (
            f"No row here has two seeds; seed noise (sd {answer.noise.sd:.2f} {unit}) is that of other recipes "
            "and data sets."
        )


def _table(answer: Answer, *, wide: bool) -> TerminalTable:
    """The first rows, and those that are tied or on the front."""
    ranked = list(enumerate(answer.choices))
    shown = ranked if wide else [(at, one) for at, one in ranked if at < SHOWN or one is answer.pick]
    choices = [one for _, one in shown]
    named = naming([one.row.fields for one in choices])
    measure, _ = column_of(answer.objective.name)
    ratio = bool(series_of(measure, answer.objective.name))
    columns = [
        TableColumn("", ["→" if one is answer.pick else "=" if one.tied else "" for one in choices]),
        TableColumn("", ["*" if one.front else "" for one in choices]),
        *([TableColumn("machine", [one.machine for one in choices])] if len(answer.machines) > 1 else []),
        *named.columns,
        TableColumn(label(answer.objective), [_stat(one.row, answer.objective) for one in choices], right=True),
        TableColumn(SPREAD, [_bar(one.row, answer.objective) for one in choices], 2, joined=True),
        TableColumn("of the best" if ratio else "to the best", [_gap(one.gap, ratio=ratio) for one in choices], 1),
        *_sizes(answer, choices),
    ]
    left = len(answer.choices) - len(shown)
    legend = [
        f"→ the pick, = not told apart from the best, * nothing here is better and cheaper (by {answer.cost.name})",
        f"told apart: {answer.family.sentence()}",
        *([f"and {_count(left, 'row')} more within the limits (--wide, --json)"] if left else []),
    ]
    if any("≈" in cell for column in columns for cell in column.cells):
        legend.append(COMPANY_NOTE)
    title = f"{_count(len(answer.choices), 'row')} within the limits" if answer.limits else "rows"
    body = [column for column in columns if any(column.cells)]
    return TerminalTable(title, body, caption=[*answer.titles, *named.caption(), *legend], wide=wide)


def _sizes(answer: Answer, choices: Sequence[Choice]) -> Iterator[TableColumn]:
    """The columns that decide: what is limited, and the cost."""
    columns = dict.fromkeys([answer.cost, *(limit.column for limit in answer.limits)])
    for column in columns:
        if column == answer.objective:
            continue
        yield TableColumn(label(column), [_stat(one.row, column) for one in choices], right=True)
        measure, _ = column_of(column.name)
        if column.name == measure.interleaved:
            parts = [one.row.parts.get(measure.name) for one in choices]
            bars = [margin_bar(part.values.get(measure.margin)) if part else "" for part in parts]
            yield TableColumn("±", bars, 3, joined=True)


def _afterwards(answer: Answer) -> Iterator[str]:
    near = [one for one in answer.misses if one.near]
    if near:
        yield ""
        yield "Beyond a limit by less than noise, so that they may be within:"
        yield from (f"  {_name(answer, one.row)}: {_beyond(one)}" for one in near[:SHOWN_MISSES])
        if len(near) > SHOWN_MISSES:
            yield f"  and {len(near) - SHOWN_MISSES} more"
    if answer.ties and all(tie.seeds is None for tie in answer.ties):
        yield ""
        yield f"No number of seeds up to {MOST_SEEDS} would break the tie, as far as these images can tell."
    if lines := _commands(answer):
        yield ""
        yield "To know more:"
        for line in lines[:SHOWN_COMMANDS]:
            yield f"  {line['why']}:"
            yield f"    {line['command']}"
    if answer.others:
        yield ""
        found = sorted(answer.others.items(), key=lambda pair: -pair[1])
        texts = [
            f"{data} by {recipe or 'no recipe'} ({_count(n, 'row')})" for (data, recipe), n in found[:SHOWN_OTHERS]
        ]
        more = f" and {len(found) - SHOWN_OTHERS} more" if len(found) > SHOWN_OTHERS else ""
        yield f"Not asked about: {', '.join(texts)}{more}. Choose by --where dataset=... and --where recipe=..."


def _commands(answer: Answer) -> list[dict[str, str]]:
    """What could be measured to decide, the most useful first."""
    found = []
    measure, _ = column_of(answer.objective.name)
    ties = [tie for tie in answer.ties if tie.seeds is not None]
    if answer.pick is not None and ties:
        tie = min(ties, key=lambda one: one.seeds or 0)
        for row in (tie.choice.row, answer.pick.row):
            other = _name(answer, tie.choice.row if row is answer.pick.row else answer.pick.row)
            found.append(
                {
                    "why": f"about {tie.seeds} seeds each would tell {_name(answer, row)} from {other}",
                    "command": command(row.fields, [measure.name], range(tie.seeds or 0)),
                }
            )
    for name, rows in answer.unknown.items():
        owner, column = column_of(name)
        best = max(
            rows, key=lambda row: _mean(row, answer.objective) * (1 if answer.objective.better == "higher" else -1)
        )
        text = f"{_count(len(rows), 'row')} {'has' if len(rows) == 1 else 'have'} no {column.title}; the best of them"
        found.append({"why": text, "command": command(best.fields, [owner.name])})
    return [line for line in found if "@" not in line["command"]]  # of an earlier revision nothing can be measured


def _plain(answer: Answer, one: Choice) -> dict[str, Any]:
    columns = dict.fromkeys([answer.objective, answer.cost, *(limit.column for limit in answer.limits)])
    return {
        "machine": one.machine,
        "fields": dict(one.row.fields),
        "values": {column.name: stat.mean for column in columns if (stat := _known(one.row, column))},
        "sd": stat.sd if (stat := _known(one.row, answer.objective)) else None,
        "n": stat.n if stat else None,
        "gap": asdict(one.gap),
        "tied": one.tied,
        "pareto": one.front,
        "pick": one is answer.pick,
        "within_by_less_than_noise": list(one.close),
    }


def _name(answer: Answer, row: Row) -> str:
    """Backbone/patch head input, and what else tells it from the other rows within the limits."""
    fields = row.fields
    words = [f"{fields.get('backbone', '')}/{fields.get('patch', '')}", str(fields.get("head", "")), row.input]
    alike = [one.row.fields for one in answer.choices] + [one.row.fields for one in answer.misses]
    words += [
        str(fields[name]) if name in {"weights", "dtype", "device"} else f"{name} {fields[name]}"
        for name in ("weights", "batch", "dtype", "compile", "threads", "device")
        if fields.get(name, DEFAULTS[name]) != DEFAULTS[name] and len({other.get(name) for other in alike}) > 1
    ]
    return " ".join(word for word in words if word)


def _figures(answer: Answer, one: Choice) -> str:
    columns = dict.fromkeys([answer.objective, answer.cost, *(limit.column for limit in answer.limits)])
    return ", ".join(f"{column.title} {_value(one.row, column)}" for column in columns if _known(one.row, column))


def _value(row: Row, column: Column) -> str:
    return f"{_stat(row, column)} {'' if column.unit.startswith('1/') else column.unit}".rstrip()


def _beyond(miss: Miss) -> str:
    texts = (
        f"{limit.column.title} {_value(miss.row, limit.column)} ({100 * share:.1f} % beyond {limit})"
        for limit, share in miss.beyond.items()
    )
    return ", ".join(texts)


def _gap(gap: Gap, *, ratio: bool) -> str:
    if gap.value == 0 and gap.low is None:
        return ""
    value = f"x {gap.value:.2f}" if ratio else f"{gap.value:+.1f}"
    if gap.low is None or gap.high is None:
        return value
    ends = (f"{end:.2f}" if ratio else f"{end:+.1f}" for end in (gap.low, gap.high))
    return f"{value} ({' to '.join(ends)})"


def _known(row: Row, column: Column) -> Stat | None:
    return stat_of(row, column.name)


def _stat(row: Row, column: Column) -> str:
    return number(_known(row, column), column)


def _bar(row: Row, column: Column) -> str:
    top = headline(row.task)
    return error_bar(_known(row, column), column) if top and column.name == top[1].name else ""


def _mean(row: Row, column: Column) -> float:
    found = _known(row, column)
    assert found is not None, "only rows with the objective are candidates"
    return found.mean


def _count(number_: int, what: str) -> str:
    return f"{number_} {what}{'' if number_ == 1 else 's'}"
