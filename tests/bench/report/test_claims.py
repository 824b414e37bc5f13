"""What may be claimed of two interleaved records."""

import random
from dataclasses import replace

import pytest

from bench.plan.measure import COMPANY, Column, Measure
from bench.report.claims import UNLINKED, claim
from bench.store.record import Record

COLUMNS = (Column("turn_ms", "ms", "turn"), Column("noise_floor_pct", "%", "floor"))
MEASURE = Measure("turns", 1, ("backbone",), COLUMNS, exclusive=True, seconds=1.0, interleaved="turn_ms")


def record(factor, *, session="s", floor=1.0, anchor="a", drift=1.0, spread=0.002, rounds=12, seed=0):
    generator = random.Random(f"{factor} {session} {seed}")
    weather = [drift * (1 + index / 20) for index in range(rounds)]
    series = [10 * factor * weather[index] * generator.gauss(1, spread) for index in range(rounds)]
    anchored = [7 * weather[index] * generator.gauss(1, spread) for index in range(rounds)]
    values = {"turn_ms": sorted(series)[rounds // 2], "session": session, "noise_floor_pct": floor, "anchor": anchor}
    samples = {"turn_ms": series, "turn_ms_round": list(range(rounds))}
    if anchor:
        samples |= {"anchor_ms": anchored, "anchor_ms_round": list(range(rounds))}
    return Record("turns", 1, {}, {}, "here", "ok", "", values, samples)


def test_cells_of_a_session_are_compared_round_by_round():
    said = claim(MEASURE, record(1.1), record(1.0))
    assert said.ratio.value == pytest.approx(1.1, rel=0.005)
    assert said.different, "though each of the two drifted by half"
    assert not claim(MEASURE, record(1.1, floor=15.0), record(1.0)).different, "the larger floor of the two counts"
    assert not claim(MEASURE, record(1.0, seed=1), record(1.0)).different


def test_sessions_are_tied_by_their_anchor():
    """The machine was 1.4 times as slow in one of them; the anchor saw it, too."""
    said = claim(MEASURE, record(1.0, session="t", drift=1.4), record(1.1))
    assert said.floor == pytest.approx(0.01 * 2**0.5), "two pairs of processes"
    assert said.ratio.value == pytest.approx(1 / 1.1, rel=0.01)
    assert said.different
    assert said.ratio.low < said.ratio.value < said.ratio.high
    same = claim(MEASURE, record(1.0, session="t", drift=1.4), record(1.0))
    assert not same.different


def test_without_a_tie_only_what_is_far_apart_is_claimed():
    loose = {"session": "t", "anchor": "b"}
    said = claim(MEASURE, record(1.3, **loose), record(1.0))
    assert (said.ratio, said.different) == (None, False)
    assert claim(MEASURE, record(2 * (1 + UNLINKED), **loose), record(1.0)).different
    assert not claim(MEASURE, record(1.2, session="t", anchor=""), record(1.0, anchor="")).different


def test_with_an_unknown_floor_only_what_is_far_apart_is_claimed():
    said = claim(MEASURE, record(1.3, floor=None), record(1.0))
    assert (said.ratio, said.floor, said.different) == (None, None, False)
    assert claim(MEASURE, record(2 * (1 + UNLINKED), floor=None), record(1.0)).different


def test_a_record_without_rounds_is_only_far_apart_or_not():
    bare = Record("turns", 1, {}, {}, "here", "ok", "", {"turn_ms": 10.0}, {})
    assert not claim(MEASURE, bare, record(1.0)).different
    assert claim(MEASURE, bare, record(3.0)).different


def test_of_a_figure_in_company_nothing_is_claimed():
    crowded = record(3.0)
    crowded = replace(crowded, values={**crowded.values, COMPANY: "others"})
    assert claim(MEASURE, record(3.0), record(1.0)).different
    assert not claim(MEASURE, crowded, record(1.0)).different
    assert not claim(MEASURE, record(1.0), crowded).different
