"""What a measure's file states, read without importing it."""

from pathlib import Path

import pytest

from bench.errors import UserError
from bench.plan.cell import FIELDS
from bench.plan.measure import SETS, _parse, measures

FACTS = {"version": 1, "fields": ["@model", "batch"], "exclusive": True, "seconds": 1.0, "columns": []}


def test_a_set_of_fields_stands_for_its_members():
    fields = _parse("mine", FACTS, Path("mine.py"), "").fields
    assert set(fields) == {*SETS["@model"], "batch"}
    assert list(fields) == [field for field in FIELDS if field in fields], "in one order: it is part of every key"


@pytest.mark.parametrize("word", ["@modle", "colour"])
def test_what_is_no_field_is_named(word):
    with pytest.raises(UserError, match=rf"in mine\.py: {word}: no such field of Cell, nor one of @model, @mode"):
        _parse("mine", FACTS | {"fields": ["batch", word]}, Path("mine.py"), "")


def test_a_fact_that_is_missing_is_named():
    with pytest.raises(UserError, match=r"'mine' in mine\.py: 'exclusive'"):
        _parse("mine", {name: fact for name, fact in FACTS.items() if name != "exclusive"}, Path("mine.py"), "")


def test_no_field_is_left_out_of_a_model_or_its_mode():
    """What two different models have in common must not be all that a key holds."""
    assert set(SETS["@model"]) & set(SETS["@mode"]) == set()
    of_time = set(measures()["latency"].fields)
    assert of_time == {*SETS["@model"], *SETS["@mode"], *SETS["@runtime"], "batch"}
    assert set(FIELDS) - of_time == {"recipe", "seed", "resample", "limit_mib"}
