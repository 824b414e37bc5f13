"""Published figures: counted again, row by row, and the committed table is what is counted."""

from dataclasses import replace
from pathlib import Path

import pytest

from bench.errors import UserError
from bench.report import published
from bench.report.published import Checked, as_csv, load, markdown
from bench.verify import PARTS, check

ROWS = load()
QUICK = {"vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "UPerNet Swin-T"}
COMMITTED = Path(__file__).resolve().parents[2] / "results" / "verify.csv"


def row(name="vit_tiny_patch16_224", **change):
    return next(one for one in ROWS if one.model == name).model_copy(update=change)


@pytest.mark.parametrize(
    "one", [pytest.param(one, marks=() if one.model in QUICK else pytest.mark.slow, id=one.model) for one in ROWS]
)
def test_published_figures_are_reproduced_or_explained(one):
    checked = check(one)
    assert checked.verdict == ("explained" if one.explained else "reproduced"), (checked.params, checked.gmacs)
    # Parameters have no excuse: an explanation is about the MACs.
    assert abs(checked.params_off) <= max(published.PARAMS_WITHIN, one.params_step / 2 / one.params)
    line = as_csv([checked]).splitlines()[1]
    assert line in COMMITTED.read_text().splitlines(), "run `densebench verify` and commit what it writes"


def test_every_row_says_where_it_is_from_and_models_are_named_once():
    assert all(one.source and one.convention for one in ROWS)
    assert len({one.model for one in ROWS}) == len(ROWS)
    assert {part for one in ROWS for part in one.parts} <= set(PARTS)


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        ({}, "reproduced"),
        ({"params": 1.0051}, "differs"),
        ({"params": 1.0049}, "reproduced"),
        ({"gmacs": 1.011}, "differs"),
        ({"gmacs": 0.991}, "reproduced"),
    ],
)
def test_the_verdict_is_as_strict_as_it_says(change, verdict):
    one = row()
    exact = Checked(one, one.params, one.gmacs)
    off = replace(exact, **{name: getattr(exact, name) * factor for name, factor in change.items()})
    assert off.verdict == verdict
    assert replace(off, published=row(explained="because")).verdict == verdict.replace("differs", "explained")


def test_a_rounded_figure_is_met_by_what_rounds_to_it():
    one = row(params=60_000_000, params_step=1_000_000, gmacs=945.0, gmacs_step=1.0)
    assert Checked(one, 60_480_000, 945.0).verdict == "reproduced"
    assert Checked(one, 60_510_000, 945.0).verdict == "differs"


def test_a_model_without_published_macs_is_judged_by_its_parameters():
    one = row(gmacs=None)
    assert Checked(one, one.params, 1.0).verdict == "reproduced"
    assert "|  |" in markdown([Checked(one, one.params, 1.0)])


def test_an_unknown_part_is_an_error_with_a_suggestion():
    with pytest.raises(UserError, match="did you mean classifier"):
        check(row(parts=("clasifier",)))


def test_the_table_shows_as_many_digits_as_the_source():
    one = row(params=60_000_000, params_step=1_000_000, gmacs=38.6, gmacs_step=0.1)
    text = markdown([Checked(one, 59_900_000, 38.5)])
    assert "| 60 | 59.900 | -0.17 | 38.6 | 38.500 | -0.26 | reproduced |" in text
