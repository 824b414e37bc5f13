"""Tables at the widths that people have: whole names, no line too long, and what is left out is said."""

import io
import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from bench import catalogue
from bench.plan.measure import measures
from bench.report import compare as comparing
from bench.report import tables
from bench.report.naming import naming
from bench.report.rows import Table, columns, read
from bench.report.terminal import NO_BREAK, TableColumn, TerminalTable, wrap
from bench.store.record import COMPANY
from tests.bench.records import make, write

COMMITTED = catalogue.ROOT / "results" / "two-core-epyc"
WIDTHS = (80, 100, 120, 200)

_NAME = st.from_regex(r"[a-z][a-z_0-9]{0,24}(/[0-9]{1,2})?", fullmatch=True)
_WORDS = st.lists(st.from_regex(r"[a-z_]{1,13}", fullmatch=True), max_size=4).map(" ".join)
_NUMBER = st.sampled_from(["", "3.14", "1091.38", "≈ 12.5", "0.0006"])


def _text(table: object, width: int) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(table, soft_wrap=True)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def _left_out(text: str) -> list[str]:
    said = " ".join(text.split()).partition("Left out at a width of ")[2].partition(": ")[2].partition("; --wide")[0]
    return said.split(", ") if said else []


@st.composite
def _tables(draw: st.DrawFn) -> TerminalTable:
    count = draw(st.integers(1, 4))

    def cells(texts: st.SearchStrategy[str]) -> list[str]:
        return draw(st.lists(texts, min_size=count, max_size=count))

    found = [TableColumn(title, cells(_NAME), named=True) for title in ("backbone/patch", "head")]
    found.append(TableColumn("mode", cells(_WORDS), named=True, folds=True))
    # Eight numbers that are never left out fit 80 characters.
    for index, importance in enumerate(draw(st.lists(st.integers(0, 9), min_size=1, max_size=8))):
        title = f"column {index} (ms)"
        found.append(TableColumn(title, cells(_NUMBER), importance, right=True, joined=draw(st.booleans())))
    return TerminalTable("some table", found, {0: "the first rows"}, {0: "oom: it was too much"}, ["what it means"])


@given(_tables(), st.sampled_from([60, *WIDTHS]))
@settings(max_examples=200, deadline=None)
def test_names_stay_whole_and_what_goes_is_the_least_important(table: TerminalTable, width: int) -> None:
    text = _text(table, width)
    lines, words = text.splitlines(), text.split()
    assert max(map(len, lines)) <= max(width, 80)
    left_out = _left_out(text)
    by_title = {column.title: column for column in table.columns}
    kept = [column for title, column in by_title.items() if title not in left_out]
    assert all(column.importance <= by_title[title].importance for title in left_out for column in kept)
    assert all(by_title[title].importance for title in left_out)
    for column in kept:
        if column.named:
            assert {word for cell in column.cells for word in cell.split()} <= set(words)
        else:
            assert all(any(cell in line for line in lines) for cell in column.cells)
    if left_out:
        wide = _text(TerminalTable(table.title, table.columns, wide=True), 500)
        assert max(map(len, wide.splitlines())) > width - 20, "a folded mode saves less"
    assert {"oom: it was too much", "the first rows", "what it means"} <= {line.strip() for line in lines}


@given(_tables())
@settings(max_examples=50, deadline=None)
def test_wide_has_every_column_on_one_line_a_row(table: TerminalTable) -> None:
    text = _text(TerminalTable(table.title, table.columns, wide=True), 40)
    assert "Left out" not in text
    lines = [line.split() for line in text.splitlines()]
    for index in range(len(table.columns[0].cells)):
        row = [word for column in table.columns for word in column.cells[index].split()]
        assert row in lines


@given(st.lists(_NAME | _WORDS).map("  ".join), st.integers(1, 60))
def test_text_is_wrapped_at_words_alone(text: str, width: int) -> None:
    lines = wrap(text, width)
    assert [word for line in lines for word in line.split()] == text.split()
    assert all(len(line) <= width or " " not in line for line in lines)
    assert all(len(f"{one} {two.split()[0]}") > width for one, two in itertools.pairwise(lines))


def test_a_terminal_gets_each_heading_in_its_style_and_nothing_that_steers_it() -> None:
    names = ["plain", "ta\tb", "bell\a and\rreturn"]
    column = TableColumn("name", names, named=True)
    table = TerminalTable("some\atitle", [column], {0: "one two"}, {1: "a note"}, wide=True)
    console = Console(file=io.StringIO(), width=5, force_terminal=True, color_system="standard", _environ={})
    console.print(table, soft_wrap=True)
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().splitlines() == [
        "\x1b[3msometitle\x1b[0m", "", "\x1b[1mname\x1b[0m", "─" * 16, "\x1b[1mone\x1b[0m", "\x1b[1mtwo\x1b[0m",
        "plain", "ta      b", "\x1b[2m    a\x1b[0m", "\x1b[2m    note\x1b[0m", "bell andreturn", "", "",
    ]  # fmt: skip


def test_numbers_are_set_to_the_right_whatever_they_start_with() -> None:
    column = TableColumn("latency (ms)", ["9.1", "≈ 10.2", ""], right=True)
    lines = _text(TerminalTable("t", [TableColumn("backbone", ["a", "b", "c"], named=True), column]), 80).splitlines()
    assert lines[2:5] == ["          latency", "backbone     (ms)", "─" * 17]
    assert lines[5:8] == ["a             9.1", "b          ≈ 10.2", "c"]


def test_wide_characters_take_two_places() -> None:
    found = [TableColumn("weights", ["网络.pth", "a"], named=True), TableColumn("AP", ["1.0", "2.0"], right=True)]
    assert _text(TerminalTable("t", found), 80).splitlines()[4:6] == ["网络.pth  1.0", "a         2.0"]


def test_what_is_too_long_for_its_row_stands_above_its_numbers() -> None:
    names = ["timm:vit_large_patch14_reg4_dinov2.lvd142m/14", "vit_pico/16"]
    found = [
        TableColumn("backbone/patch", names, named=True),
        TableColumn("head", ["faster_rcnn_pico", "linear"], named=True),
        TableColumn("mode", ["", "bf16 compiled channels_last"], named=True, folds=True),
        TableColumn("latency (ms)", ["1091.38", "4.70"], right=True),
        TableColumn("mIoU (%)", ["26.0", "14.5"], right=True),
        TableColumn("MFU (%)", ["25", "38"], 1, right=True),
    ]
    assert _text(TerminalTable("t", found), 70).splitlines()[2:] == [
        "backbone/patch  head  mode",
        "    latency  mIoU  MFU",
        "       (ms)   (%)  (%)",
        "─" * 63,
        f"{names[0]}  faster_rcnn_pico",
        "    1091.38  26.0   25",
        "vit_pico/16  linear  bf16 compiled channels_last",
        "       4.70  14.5   38",
        "",
        "",
    ]


@pytest.mark.usefixtures("known")
def test_figures_taken_in_company_stand_with_the_others(tmp_path: Path) -> None:
    records = [make("accuracy", backbone=name, miou=30.0) for name in ("a", "b")]
    records += [make("latency", backbone="a", latency_ms=9.1)]
    records += [make("latency", backbone="b", latency_ms=10.2, **{COMPANY: "1.0 cores busy"})]
    write(tmp_path / "box", records)
    (table,) = read(tmp_path / "box").tables
    for shown in (tables.summary_table(table), comparing.compare(tmp_path).render()):
        text = _text(shown, 80)
        quiet, beside = (line for line in text.splitlines() if line[:10].split()[-1:] in (["a/16"], ["b/16"]))
        assert quiet.index("9.1") == beside.index("0.2")
        assert "≈ 10.2" in beside
        assert tables.COMPANY_NOTE in " ".join(text.split())


@pytest.fixture(scope="module")
def committed() -> Sequence[Table]:
    return read(COMMITTED).tables


@pytest.fixture(scope="module")
def compared() -> comparing.Comparison:
    return comparing.compare(COMMITTED)


def _identified(fields: Sequence[Mapping[str, Any]], text: str) -> None:
    """Every row has a line of its own with all of its names whole; how a model runs may go on in the next one."""
    lines = [line.split() for line in text.splitlines()]
    named = naming(fields, headed=["recipe", "batch"])
    width = max(map(len, text.splitlines()))
    narrow = False
    for index in range(len(fields)):
        words = {word for column in named.columns for word in column.cells[index].split()}
        # Names of a package and of an architecture of timm together leave no room for figures in a narrow terminal.
        if sum(len(word) + 2 for word in words) > width - 25:
            narrow = True
            continue
        folded = {word for column in named.columns if column.folds for word in column.cells[index].split()}
        assert any(
            words - folded <= set(line) and words <= {*line, *after}
            for line, after in zip(lines, [*lines[1:], []], strict=True)
        ), words
    if narrow:
        return
    wanted = Counter(f"{row['backbone']}/{row['patch']}" for row in fields)
    assert Counter(word for line in lines for word in line[:2] if word in wanted) == wanted


@pytest.mark.parametrize("width", WIDTHS)
def test_the_committed_results_fit_at_the_end_of_a_run(committed: Sequence[Table], width: int) -> None:
    for table in committed:
        summary = tables.summary_table(table)
        text = _text(summary, width)
        assert max(map(len, text.splitlines())) <= width
        _identified([row.fields for row in table.rows], text)
        by_importance = sorted(summary.columns, key=lambda column: column.importance)
        optional = [column.title.replace(NO_BREAK, " ") for column in by_importance if column.importance]
        left_out = _left_out(text)
        assert left_out == optional[len(optional) - len(left_out) :]
        assert width < 200 or not left_out
        shown = text.partition("─")[0].split()
        assert {"rank", "latency", "mIoU" if table.task == "segmentation" else "AP"} <= set(shown)


def test_the_order_of_importance_is_as_stated(committed: Sequence[Table]) -> None:
    labels = {column.name: tables.label(column) for _, column in columns()}
    stated = [labels.get(name, name) for name in tables.IMPORTANCE]
    for table in committed:
        found = sorted(tables.summary_table(table).columns, key=lambda column: column.importance)
        optional = [column.title for column in found if column.importance]
        assert optional == [title for title in stated if title in optional]
        assert {column.title for column in found if not column.importance and not column.named} == {
            "latency (ms)",
            "mIoU (%)" if table.task == "segmentation" else "AP (%)",
        }


@pytest.mark.parametrize("width", WIDTHS)
def test_the_committed_results_fit_where_they_are_compared(compared: comparing.Comparison, width: int) -> None:
    stated = [title.replace(NO_BREAK, " ") for title in comparing.IMPORTANCE]
    for section in compared.sections:
        text = _text(comparing.Comparison((), (section,)).render(), width)
        assert max(map(len, text.splitlines())) <= width
        points, _, lacking = text.partition(f"{section.task} on {section.dataset}, without")
        _identified([point.fields for point in section.points], points)
        if section.lacking:
            _identified([lack.fields for lack in section.lacking], lacking)
            assert all(lack.reason in " ".join(lacking.split()) for lack in section.lacking)
        left_out = _left_out(text)
        assert left_out == stated[len(stated) - len(left_out) :]
        assert width < 120 or not left_out


def test_wide_tables_of_the_committed_results_have_everything(
    committed: Sequence[Table], compared: comparing.Comparison
) -> None:
    for table in committed:
        head = " ".join(_text(tables.summary_table(table, wide=True), 80).partition("─")[0].split())
        known = {name for row in table.rows for name in row.values}
        shown = {column.title for _, column in columns(table.task) if column.table and column.name in known}
        assert len(shown) > 15
        assert all(word in head.split() for title in shown for word in title.split()), head
    for section in compared.sections:
        text = _text(comparing.Comparison((), (section,)).render(wide=True), 80)
        assert "Left out" not in text
        if not section.points:
            continue
        assert Counter(text.partition("─")[0].split()) >= Counter(
            ["latency", "±", "95", "%", "CI", "cost", "rank", "±", "sd", "(seeds)", "rank"]
        )


def test_a_csv_of_both_tasks_has_the_columns_of_both(committed: Sequence[Table]) -> None:
    head, *body = tables.as_csv(committed).splitlines()
    names = head.split(",")
    assert {"miou", "ap", "latency_ms", "status_latency"} <= set(names)
    assert len(names) == len(set(names))
    assert len(body) == sum(len(table.rows) for table in committed)
    assert all(column.name in names for one in measures().values() for column in one.columns if column.table)
