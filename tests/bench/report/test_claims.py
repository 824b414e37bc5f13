"""What may be claimed of two interleaved records."""

import math
import random
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from bench.plan.measure import CARD, COMPANY, NODE, Column, Measure
from bench.report.claims import SUPPOSED, TAILS, TWINS_DIFFER, UNLINKED, Unlinked, claim, processes
from bench.stats.family import ALPHA, family
from bench.stats.sampling import noise_floor
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


@pytest.mark.parametrize("place", [CARD, NODE])
def test_what_two_cards_or_nodes_differ_by_is_no_difference_of_cells(place):
    """One is slower by 15 %, as its anchor says; so a tenth more may be that card, too."""

    def on(card, one):
        return replace(one, values={**one.values, place: card})

    slower = record(1.1, session="t", drift=1.15)
    assert claim(MEASURE, on("GPU-a", slower), on("GPU-a", record(1.0))).different
    said = claim(MEASURE, on("GPU-b", slower), on("GPU-a", record(1.0)))
    assert said.floor == pytest.approx(0.01 * 2**0.5 + math.log(1.15), rel=0.05)
    assert not said.different
    far = record(1.3, session="t", drift=1.15)
    assert claim(MEASURE, on("GPU-b", far), on("GPU-a", record(1.0))).different


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


def twins(gap, *, session, floor=1.0):
    found = record(1.0, session=session, floor=floor, spread=0)
    other = [time * math.exp(gap) for time in found.samples["anchor_ms"]]
    samples = found.samples | {"twin_ms": other, "twin_ms_round": found.samples["anchor_ms_round"]}
    return replace(found, samples=samples)


def test_what_processes_differ_by_is_learnt_from_the_twins_of_all_sessions():
    low, high = TWINS_DIFFER
    seen = [twins(gap, session=str(index)) for index, gap in enumerate((0.03, -0.01, 0.02))]
    found = processes(MEASURE, [*seen, seen[0]])
    squares = SUPPOSED * 0.01**2 + 0.03**2 + 0.01**2 + 0.02**2
    assert found.sd == pytest.approx(math.sqrt(squares / (SUPPOSED + 3) / 2)), "each session counts once"
    assert found.freedom == TAILS, "long ones, however many sessions there are"
    for floor, supposed in ((0.1, low), (40.0, high), (None, high)):
        nothing = processes(MEASURE, [record(1.0, floor=floor)])
        assert (nothing.freedom, nothing.sd) == (TAILS, pytest.approx(supposed / 2**0.5))


def test_more_rounds_do_not_show_that_two_processes_are_two_cells():
    """Every round says so and the floor of one pair of twins, equal by chance, does not gainsay it."""
    seen = [twins(gap, session=str(index)) for index, gap in enumerate((0.03, -0.02, 0.04))]
    known = processes(MEASURE, seen)
    close, far = (
        claim(MEASURE, record(1 + gap, rounds=200), record(1.0, rounds=200), between=known) for gap in (0.02, 0.2)
    )
    assert close.ratio.beyond(close.floor) < 1e-9
    assert not close.different
    assert far.different


@pytest.mark.parametrize(("own", "spread", "rounds"), [(0.002, 0.02, 24), (0.01, 0.01, 40), (0.01, 0.14, 40)])
def test_of_200_tables_of_equal_times_at_most_one_in_twenty_claims_anything(own, spread, rounds):
    """Ten cells of a session; processes differ by ``own``, rounds by ``spread``, and five sessions were seen before."""
    generator = random.Random(rounds)

    def process():
        speed = generator.gauss(0, own)
        return [math.exp(speed + generator.gauss(0, spread)) for _ in range(rounds)]

    def session(name, cells):
        anchor, twin = process(), process()
        floor = 100 * noise_floor(dict(enumerate(anchor)), dict(enumerate(twin)))
        values = {"session": name, "anchor": "a", "noise_floor_pct": floor}
        index = {f"{series}_ms_round": list(range(rounds)) for series in ("turn", "anchor", "twin")}
        for _ in range(cells):
            samples = {"turn_ms": process(), "anchor_ms": anchor, "twin_ms": twin, **index}
            middle = sorted(samples["turn_ms"])[rounds // 2]
            yield Record("turns", 1, {}, {}, "here", "ok", "", values | {"turn_ms": middle}, samples)

    corrected = single = 0
    for _ in range(200):
        earlier = [one for name in range(5) for one in session(str(name), 1)]
        table = list(session("this", 10))
        known = processes(MEASURE, [*earlier, *table])
        pairs = {
            (one, other): claim(MEASURE, table[one], table[other], between=known).p
            for other in range(10)
            for one in range(other)
        }
        level = family((range(10), lambda *pair, pairs=pairs: pairs[pair])).level
        corrected += min(pairs.values()) <= level
        single += min(pairs.values()) <= ALPHA
    assert corrected <= 10, "5 % of 200"
    assert single > 10 or own < 0.01, "without the correction many do, where processes differ at all"


def test_what_is_found_in_arrays_to_be_no_difference_is_none():
    sessions = ({"session": "s"}, {"session": "t"}, {"session": "u", "anchor": "b"}, {"session": None, "anchor": ""})
    records = [
        record(factor, floor=floor, **session)
        for factor, floor, session in product((1.0, 1.04, 1.2, 1 + UNLINKED, 2.0), (1.0, None), sessions)
    ]
    bare = Record("turns", 1, {}, {}, "here", "ok", "", {"turn_ms": None}, {})
    records.append(bare)
    everything = np.arange(len(records))
    known = Unlinked(MEASURE, records, "turn_ms")
    refused = 0
    for place, one in enumerate(records):
        for other, may in zip(records, known.may_differ(place, everything), strict=True):
            refused += not may
            assert may or not claim(MEASURE, one, other).different
    assert refused > len(records) ** 2 / 4, "and that are many"
