"""What a run shows: lines and an early table in a pipe, a table that grows in a terminal, and what it says at last."""

import io
from dataclasses import replace
from types import SimpleNamespace

import pytest
from rich.console import Console

from bench import display
from bench.cli import run as verb
from bench.cli import shared
from bench.display import Display, missing
from bench.launchers.contract import Finished, Progress, Said, Started
from bench.plan import matrix
from bench.plan.dataset import Roots
from bench.plan.environment import describe
from bench.plan.measure import CANNOT
from bench.run import Summary, plan
from bench.store.record import Record
from bench.store.store import Store

HERE = replace(describe(), gpus=[], cores=2)


@pytest.fixture
def planned(tmp_path):
    axes = {"backbone": ["vit_pico", "hybrid_pico"], "head": ["linear"], "measure": ["complexity"]}
    return plan(matrix.load("default").override(axes), HERE, Store(tmp_path / "none"), Roots())


def ended(planned, job, **changes):
    values = {"gmacs": 1.5, "params_m": 2.0, "tokens": 16}
    event = Finished(job, "ok", "", "2026-01-01", 0.5, values)
    event = replace(event, **changes)
    fields = job.cell.part(job.measure.fields)
    record = Record(job.measure.name, job.measure.version, fields, {}, HERE.id, event.status, event.reason)
    return event, replace(record, values=event.values)


def shown(planned, tmp_path, *, terminal):
    """A display, its console's text so far, and a function that ends the next job."""
    console = Console(file=io.StringIO(), width=100, force_terminal=terminal)
    screen = Display(planned, console, tmp_path / "box")
    records = []

    def end(index, **changes):
        job = planned.planned[index].job
        screen.show(Started(job))
        event, record = ended(planned, job, **changes)
        screen.show(event)
        records.append(record)
        screen.look(records)

    return screen, console.file, end


def test_in_a_pipe_there_is_one_early_table(planned, tmp_path):
    _, text, end = shown(planned, tmp_path, terminal=False)
    for index in range(3):
        end(index)
    output = text.getvalue()
    assert output.count("so far:") == 1
    assert output.count("[1/") == output.count("[2/") == output.count("[3/") == 1
    table = output[output.index("so far:") : output.index("[2/")]
    assert "vit_pico/16" in table
    assert "1.500" in table


def test_in_a_terminal_the_table_grows_below_the_bar(planned, tmp_path, monkeypatch):
    now = iter(range(0, 10_000, 10))
    monkeypatch.setattr(display, "time", SimpleNamespace(monotonic=lambda: float(next(now))))
    screen, _, end = shown(planned, tmp_path, terminal=True)
    end(0)
    sizes = [sum(len(table.columns[0].cells) for table in screen.tables)]
    end(1)
    sizes.append(sum(len(table.columns[0].cells) for table in screen.tables))
    assert sizes == [1, 2]
    bar, *rest = screen.__rich__().renderables
    assert bar is screen.bar
    assert rest[-1] is screen.tables[-1]


def test_what_a_matrix_only_crossed_is_no_line_of_its_own(planned, tmp_path):
    _, text, end = shown(planned, tmp_path, terminal=False)
    crossed = next(
        i for i, one in enumerate(planned.planned) if (one.job.cell.backbone, one.job.cell.patch) == ("hybrid_pico", 4)
    )
    end(crossed, status="unsupported", reason="no such patch", values={CANNOT: "patch"})
    assert "no such patch" not in text.getvalue()
    end(0, status="unsupported", reason="no such device", values={})
    assert "no such device" in text.getvalue()


def record(status="ok", patch=5, **values):
    fields = {"backbone": "vit_pico", "patch": patch, "head": "linear"}
    return Record("complexity", 1, fields, {}, "here", status, "" if status == "ok" else f"{status}, because", values)


CROSSED = {str(patch): record("unsupported", patch, cannot="patch", crossed="mine") for patch in range(8)}
CROWDED = {"a": record(company="others"), "b": record()}


@pytest.mark.parametrize(
    ("records", "strict", "code", "said"),
    [
        ({"a": record()}, False, 0, ()),
        ({"a": record("unsupported")}, False, 0, ("unsupported: a: unsupported, because",)),
        ({"a": record("unsupported")}, True, 1, ("1 of 1 measurements have no number",)),
        ({"a": record("oom"), "b": record()}, False, 1, ("oom: a: oom, because", "1 of 2 measurements")),
        ({"a": record("invalid")}, False, 1, ("invalid: a",)),
        (CROSSED, True, 0, ("(8 measurements): vit_pico with patch 0,", "patch 5 and 2 more (unsupported, because)")),
        (CROWDED, True, 0, ("1 of 2 measurements were taken while other", "--retry")),
    ],
)
def test_how_a_run_ends(tmp_path, monkeypatch, capsys, records, strict, code, said):
    console = Console(file=io.StringIO(), width=200)
    for file in (verb, shared):
        monkeypatch.setattr(file, "err", lambda: console)
    monkeypatch.setattr("bench.report.tables.write", lambda reading: SimpleNamespace(written=(), unchanged=()))
    monkeypatch.setattr("bench.report.rows.read", lambda folder: SimpleNamespace(tables=()))
    (tmp_path / "records.jsonl").touch()  # as a run leaves it
    ending = verb._after(tmp_path, Summary(records, 0), measured=False, strict=strict, wide=False, as_csv=False)
    assert ending == code
    text = console.file.getvalue()
    assert all(words in text for words in said), text


def test_the_line_of_a_training_says_loss_and_waiting(planned, tmp_path):
    screen, text, _ = shown(planned, tmp_path, terminal=True)
    job = planned.planned[0].job
    screen.show(Started(job))
    screen.show(Progress(job, "training", 120, 400, "loss 0.83, waiting 2 %"))
    (line,) = [str(one) for one in screen.__rich__().renderables if "training" in str(one)]
    assert f"{job.title()}: training 120/400 loss 0.83, waiting 2 %, " in line
    screen.show(Said(job, "its state is damaged"))
    assert "its state is damaged" in " ".join(text.getvalue().split())


def test_what_every_cell_says_is_shown_once(planned, tmp_path):
    screen, text, _ = shown(planned, tmp_path, terminal=False)
    for one in planned.planned:
        screen.show(Said(one.job, "pictures cannot be written"))
    assert text.getvalue().count("pictures cannot be written") == 1


def without(status, reason):
    return Record("complexity", 1, {}, {}, "e", status, reason)


def test_of_many_measurements_without_a_number_the_first_of_each_reason_are_named():
    many = {f"patch {n}": without("unsupported", f"{n} does not divide {64 + n}") for n in range(20_000)}
    said = list(missing({**many, "this": without("error", "it broke")}))
    assert said == [
        *(("unsupported", f"unsupported: patch {n}: {n} does not divide {64 + n}") for n in range(3)),
        ("unsupported", "unsupported: and 19,997 more for this reason"),
        ("error", "error: this: it broke"),
    ]


def test_of_many_reasons_the_first_are_told_and_no_measurement_is_forgotten():
    words = [f"{first}{second}" for first in "abcdefghij" for second in "abcdefghij"]
    records = {f"{word}{n}": without("error" if n else "oom", word) for word in words for n in range(2)}
    said = [text for _, text in missing(records)]
    assert said[:2] == ["oom: aa0: aa", "error: aa1: aa"]
    assert said[12:] == [
        "oom: and 94 more for 94 other reasons, which their records have",
        "error: and 94 more for 94 other reasons, which their records have",
    ]


def test_a_few_are_told_as_ever():
    records = {str(n): without("oom", "too large") for n in range(3)}
    assert [text for _, text in missing(records)] == [f"oom: {n}: too large" for n in range(3)]
    assert list(missing({})) == []
