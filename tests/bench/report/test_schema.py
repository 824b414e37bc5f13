"""The page on the files of results is what the code gives, and says what is in them."""

import json
import re
from dataclasses import fields

import pytest

from bench import catalogue
from bench.plan.cell import Cell
from bench.plan.environment import Environment
from bench.plan.measure import BESIDE, ROUNDS, measures
from bench.report import schema
from bench.store.record import INPUTS, Record


def test_the_committed_page_is_what_the_code_gives():
    assert schema.PAGE.read_text(encoding="utf-8") == schema.page(), "run `python -m bench.report.schema`"


@pytest.mark.parametrize("measure", schema._ours(), ids=lambda one: one.name)
def test_a_measure_says_what_its_columns_mean_and_of_no_others(measure):
    assert list(schema.columns(measure)) == [column.name for column in measure.columns]


@pytest.mark.parametrize("kind", [Record, Cell, Environment], ids=lambda one: one.__name__)
def test_every_field_has_a_meaning(kind):
    assert list(schema.section(kind.__doc__, "Attributes")) == [field.name for field in fields(kind)]


def test_what_committed_records_hold_is_on_the_page():
    def known(name, texts):
        return any(re.fullmatch(re.sub("SERIES|N(?=_)", r"\\w+", text), name) for text in texts)

    held: dict[str, dict[str, set[str]]] = {}
    for path in (catalogue.ROOT / "results").glob("*/records.jsonl"):
        for line in path.read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            names = held.setdefault(record["measure"], {"values": set(), "samples": set(), "inputs": set()})
            for kind, found in names.items():
                found |= set(record[kind])
    for name, found in held.items():
        measure = measures()[name]
        values = [*(column.name for column in measure.columns), *BESIDE, "train_unknown_company"]
        samples = [*schema.samples(measure), *(ROUNDS if measure.interleaved else {})]
        assert not [one for one in found["values"] if not known(one, values)]
        assert not [one for one in found["samples"] if not known(one, samples)]
        assert found["inputs"] <= set(INPUTS)
    assert len(held) > 5


def test_sections_of_a_docstring():
    doc = """Something.

    Columns:
        one: of a
            long line: with a colon.
        two: short.

    Raises:
        three: no.
    """
    assert schema.section(doc, "Columns") == {"one": "of a long line: with a colon.", "two": "short."}
    assert schema.section(doc, "Samples") == {}


def test_an_edited_page_is_noticed_and_made_again(tmp_path, capsys):
    page = tmp_path / "docs" / "results.md"
    assert schema.main(["--check"], page) == 1
    assert schema.main([], page) == 0
    assert schema.main(["--check"], page) == 0
    page.write_text(page.read_text() + "more\n")
    assert schema.main(["--check"], page) == 1
    assert "run `python -m bench.report.schema`" in capsys.readouterr().out
