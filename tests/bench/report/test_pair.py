"""Two rows side by side: which ones are meant, and what may be claimed of each column."""

import json
from types import SimpleNamespace

import pytest
from rich.console import Console

from bench.errors import UserError
from bench.report.pair import _plainness, pair
from tests.bench.records import make, write

pytestmark = pytest.mark.usefixtures("known")


def timed(name, ms, **given):
    rounds = [float(index) for index in range(12)]
    samples = {"turn_ms": [ms * (1 + 0.01 * (index % 3)) for index in rounds], "turn_ms_round": rounds}
    values = {"turn_ms": ms, "turn_ci_pct": 5.0, "noise_floor_pct": 2.0, "session": "s"}
    return make("turns", backbone=name, samples=samples, **values, **given)


def records():
    found = []
    for name, (size, ms, scores) in {"a": (2.0, 10.0, (30.0, 32.0)), "b": (1.0, 12.0, (31.0, 32.0))}.items():
        found += [make("complexity", backbone=name, params_m=size), timed(name, ms)]
        found += [make("accuracy", backbone=name, seed=seed, miou=score) for seed, score in enumerate(scores)]
    return found


def test_every_column_says_what_may_be_claimed(tmp_path):
    write(tmp_path / "box", records())
    found = pair(tmp_path, "a/16", "b/16")
    assert found.differ == {"backbone": ("a", "b")}
    lines = {line.column.name: line for line in found.lines}
    assert set(lines) == {"miou", "params_m", "turn_ms"}, "no interval of an interval, nothing without a better way"
    assert (lines["params_m"].change, lines["params_m"].better) == (0.5, "second")
    turn = lines["turn_ms"]
    assert (turn.change, turn.better, turn.basis) == (pytest.approx(1.2), "first", "12 rounds")
    assert turn.low == pytest.approx(1.2)
    # s² = (2 + 0.5) / 2, two means of two seeds: 4.30 · 1.12 · 1 = 4.8.
    miou = lines["miou"]
    assert (miou.change, miou.claimed, miou.better) == (0.5, False, "")
    assert (miou.low, miou.high) == (pytest.approx(0.5 - 4.8, abs=0.05), pytest.approx(0.5 + 4.8, abs=0.05))


def test_what_is_quantised_is_meant_only_where_it_is_said_though_more_is_known_of_it():
    def row(backbone, quantise, **known):
        fields = {"backbone": backbone, "runtime": "openvino", "quantise": quantise}
        return SimpleNamespace(fields=fields, parts={"turns": SimpleNamespace(values=known)})

    plain = [row(name, "none", turn_ms=1) for name in "ab"]
    narrow = [row(name, "int8-static", turn_ms=1, miou=2) for name in "ab"]
    assert _plainness((None, *plain)) < _plainness((None, *narrow))


def test_the_order_turns_the_ratio_over(tmp_path):
    write(tmp_path / "box", records())
    there, back = (pair(tmp_path, *words) for words in (("a", "b"), ("b", "a")))
    for one, other in zip(there.lines, back.lines, strict=True):
        assert one.change is not None
        assert other.change == pytest.approx(1 / one.change if one.ratio else -one.change)
        assert {one.better, other.better} in ({""}, {"first", "second"})


def test_a_figure_in_company_is_not_claimed(tmp_path):
    disturbed = timed("c", 30.0, company="somebody was there")
    write(tmp_path / "box", [*records(), disturbed])
    (line,) = (line for line in pair(tmp_path, "a", "c").lines if line.column.name == "turn_ms")
    assert (line.change, line.claimed, line.better) == (None, None, "")


def test_of_several_pairs_the_one_that_differs_least_is_meant(tmp_path):
    both = [make("latency", backbone=name, batch=batch, latency_ms=batch) for name in "ab" for batch in (1, 8)]
    write(tmp_path / "box", both)
    assert pair(tmp_path, "a batch=8", "b").second.fields["batch"] == 8
    assert pair(tmp_path, "a", "b").first.fields["batch"] == 1, "what a matrix takes by itself"
    assert pair(tmp_path, "a batch=8", "a batch=1").differ == {"batch": (8, 1)}


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ("vit_picco", "b", r"no row has the word 'vit_picco': .*words are values of fields, or field=value"),
        ("a head=fcos", "b", r"no row has the word 'head=fcos': did you mean .*head=linear"),
        ("a b", "b", "no row has all of 'a b'; each of its words is of some row"),
        ("a", "a", "no row 'a' agrees with a row 'a'"),
    ],
)
def test_rows_that_are_not_there_are_said(first, second, message, tmp_path):
    write(tmp_path / "box", records())
    with pytest.raises(UserError, match=message):
        pair(tmp_path, first, second)


def test_machines_are_not_mixed_and_have_to_be_named(tmp_path):
    for name in ("one", "two"):
        write(tmp_path / name, records())
    with pytest.raises(UserError, match=r"2 pairs of rows .*: say machine=... of the first, one of one, two"):
        pair(tmp_path, "a", "b")
    assert pair(tmp_path, "a", "b", machine="two").table.machine == "two"
    assert pair(tmp_path, "machine=one a", "b").table.machine == "one"


def test_what_is_printed_is_what_was_found(tmp_path):
    write(tmp_path / "box", records())
    found = pair(tmp_path, "a", "b")
    console = Console(width=120, markup=False)
    with console.capture() as capture:
        console.print(found.render())
    said = capture.get()
    assert "x 1.2 (1.2 to 1.2)" in said
    assert "They differ in backbone (a, b)" in said
    plain = found.as_json()
    assert json.loads(json.dumps(plain))["first"]["backbone"] == "a"
    assert {one["column"]: one["better"] for one in plain["columns"]}["turn_ms"] == "first"
