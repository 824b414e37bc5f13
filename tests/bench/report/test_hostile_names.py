"""Names that others chose, in each output: they are shown, and nothing in them is obeyed."""

import csv
import io
import re

import pytest
from rich.console import Console

from bench.report.compare import compare
from bench.report.figure import figures
from bench.report.pictures import draw
from bench.report.rows import read
from bench.report.tables import report, summary_table
from tests.bench.records import environment, make, write

HOSTILE = {
    "markup": "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "pipe": "a | b || c",
    "newline": "first\n# second\n| x | y |",
    "path": "../../../outside",
    "formula": '=HYPERLINK("http://x","y")',
    "command": "@SUM(1+1)*cmd|' /C calc'!A0",
    "escape": "\x1b]0;title\x07\x1b[2J\x1b[31mred",
    "link": "![x](http://example.com/x.png) [y](javascript:alert(1)) `code` **bold**",
    "rich": "[bold red]x[/] [link=http://example.com]y[/link]",
    "direction": "abc\u202edcba",
    "math": r"$\frac{$ \input{/etc/passwd}",
    "quote": "\"',;\t",
}


def records(name):
    """Two sizes of a model, of which one could not be timed, under a name in every place that has one."""
    named = {"backbone": name, "dataset": name, "recipe": name}
    return [
        one
        for size in (64, 128)
        for one in (
            make("accuracy", **named, height=size, width=size, miou=40.0 + size / 10, class_iou={name: 5.0}),
            make("latency", backbone=name, dataset=name, height=size, width=size, latency_ms=5.25, images_per_s=15.0),
            make("memory", backbone=name, dataset=name, height=size, width=size, status="error", reason=name),
        )
    ]


@pytest.fixture(params=HOSTILE)
def folder(request, tmp_path, known):
    """Of a machine whose records have such names; its processor has one, too."""
    name = HOSTILE[request.param]
    return write(tmp_path / "results" / "box", records(name), [environment("here", cpu=name)])


def below(folder):
    return {path for path in folder.parent.parent.rglob("*") if path.is_file()}


def test_in_markdown_a_row_is_a_row_and_nothing_is_markup(folder):
    report(folder)
    lines = (folder / "segmentation.md").read_text().splitlines()
    tables = [line for line in lines if line.startswith("|")]
    assert len(tables) >= 4
    columns = [len(re.findall(r"(?<!\\)\|", line)) for line in tables]
    assert len(set(columns)) <= 3, "of the tables that there are"
    text = "\n".join(lines)
    assert "<script" not in text
    assert "<img" not in text
    assert not re.search(r"(?<!\\)!\[|(?<!\\)\]\((?:http|javascript)", text)
    assert not [line for line in lines if line.startswith("# second")]
    assert not [letter for letter in text if not letter.isprintable() and letter not in "\n\xa0"]


def test_in_csv_a_row_is_a_row_and_nothing_is_a_formula(folder):
    report(folder)
    rows = list(csv.reader(io.StringIO((folder / "segmentation.csv").read_text(), newline="")))
    assert len(rows) == 3
    assert {len(row) for row in rows} == {len(rows[0])}
    assert not [cell for row in rows for cell in row if cell[:1] in set("=+@\t\r")]
    assert not [cell for row in rows for cell in row if re.match(r"-(?![\d.]+$)", cell)]
    found = compare(folder.parent).as_csv()
    assert not [cell for row in csv.reader(io.StringIO(found)) for cell in row if cell[:1] in set("=+@\t\r")]


def test_on_a_terminal_a_line_is_a_line_and_nothing_steers_it(folder):
    for table in read(folder).tables:
        console = Console(file=io.StringIO(), width=300)
        console.print(summary_table(table, wide=True))
        said = console.file.getvalue()
        assert not [letter for letter in said if not letter.isprintable() and letter not in "\n\xa0"]
        assert not [line for line in said.splitlines() if line.startswith("# second")]


def test_pictures_are_drawn_and_lie_where_they_belong(folder):
    before = below(folder)
    assert figures(folder.parent)
    assert draw(folder.parent)
    report(folder)
    new = below(folder) - before
    assert new
    assert all(path.is_relative_to(folder) for path in new)
    for path in new:
        assert re.fullmatch(r"[\w.+=@-]+", path.name), path.name
