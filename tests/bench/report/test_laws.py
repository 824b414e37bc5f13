"""Laws and crossings of made-up records whose exponents are known."""

import csv
import math
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest

from bench.plan.measure import COMPANY
from bench.report.laws import Laws, Series, found
from bench.report.rows import read
from bench.report.tables import report
from bench.store.record import Record
from tests.bench.records import write
from tests.bench.report.cells import SIZES, record, straight, timed


def laws(tmp_path: Path, records: list[Record]) -> Laws:
    (one,) = found(read(write(tmp_path / "box", records)).tables)
    return one


def series(tmp_path: Path, records: list[Record]) -> Series:
    return laws(tmp_path, records).series[0]


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_exponent_is_over_pixels(tmp_path):
    (_, one), *more = series(tmp_path, straight(1.2)).laws()
    assert more == []
    assert one.verdict == "holds"
    assert one.power.low < 1.2 < one.power.high
    assert one.power.exponent == pytest.approx(1.2, abs=0.01)


def test_sessions_of_a_slow_hour_are_levelled_by_the_anchor(tmp_path):
    slow = [timed(size, 10 * (size / 64) ** 2, session="t", drift=1.5) for size in SIZES[2:]]
    one = series(tmp_path, straight(1.0, sizes=SIZES[:2]) + slow)
    assert one.untied == 0
    ((_, law),) = one.laws()
    assert law.power.exponent == pytest.approx(1.0, abs=0.01), "the drift of 1.5 alone would make 1.1 of it"
    assert law.verdict == "holds"


def test_sessions_without_a_common_anchor_are_left_out_and_counted(tmp_path):
    loose = timed(512, 640.0, session="t", anchor="")
    one = series(tmp_path, [*straight(1.0, sizes=SIZES[:3], anchor=""), loose])
    assert [point.pixels for point in one.points] == [64**2, 128**2, 256**2]
    assert one.untied == 1
    report(tmp_path / "box")
    assert "1 of a session that nothing ties to the others" in (tmp_path / "box" / "laws.md").read_text("utf-8")


def test_what_was_taken_in_company_is_left_out_and_counted(tmp_path):
    crowded = timed(1024, 1e5)
    crowded = replace(crowded, values={**crowded.values, COMPANY: "others"})
    one = series(tmp_path, [*straight(1.0), crowded])
    assert (len(one.points), one.company) == (4, 1)
    assert one.laws()[0][1].power.exponent == pytest.approx(1.0, abs=0.02)


def test_an_overhead_is_seen_and_the_law_beyond_it_given(tmp_path):
    records = [timed(size, (size / 64) ** 2 + 1) for size in (32, 64, 128, 256, 512, 1024, 2048)]
    (start, whole), (later, beyond) = series(tmp_path, records).laws()
    assert (start, whole.verdict) == (0, "bends up")
    assert later >= 2
    assert beyond.verdict == "holds"
    assert beyond.power.exponent == pytest.approx(1.0, abs=0.05)
    assert whole.power.high < 1


def test_two_sizes_are_no_law(tmp_path):
    assert found(read(write(tmp_path / "box", straight(1.0, sizes=(64, 128)))).tables) == []


def test_what_differs_in_any_other_field_is_another_series(tmp_path):
    known = laws(tmp_path, straight(1.0) + straight(1.5, dtype="bf16") + straight(0.5, batch=8))
    assert len(known.series) == 3
    assert sorted(round(one.laws()[0][1].power.exponent, 1) for one in known.series) == [0.5, 1.0, 1.5]


def test_tokens_join_patch_sizes(tmp_path):
    records = []
    for patch in (8, 16):
        for size in (64, 128):
            tokens = (size // patch) ** 2
            records += [timed(size, float(tokens), patch=patch), record("complexity", size, patch=patch, tokens=tokens)]
    (one,) = laws(tmp_path, records).series
    assert one.over == "tokens"
    assert one.xs() == [16.0, 64.0, 64.0, 256.0]
    assert one.laws()[0][1].power.exponent == pytest.approx(1.0, abs=0.02)


def test_memory_is_exact(tmp_path):
    records = [record("memory", size, peak_mib=size**2 / 1e4 * (1 + size / 100)) for size in SIZES]
    one = series(tmp_path, records)
    assert {point.error for point in one.points} == {0.0}
    assert one.laws()[0][1].verdict == "bends up"


def test_a_crossing_is_interpolated_between_neighbours(tmp_path):
    records = straight(1.5, ms=4.0) + straight(1.0, ms=10.0, backbone="swin_pico", patch=4)
    (swap,) = laws(tmp_path, records).swaps
    assert swap.kind == "swaps"
    assert [point.size for point in swap.between] == ["128", "256"]
    assert math.sqrt(swap.at.value) == pytest.approx(160, rel=0.02), "4 (x / 64)^3 = 10 (x / 64)^2"
    assert 128 < math.sqrt(swap.at.low) < 160 < math.sqrt(swap.at.high) < 256


def test_sizes_that_are_not_told_apart_bracket_the_swap(tmp_path):
    records = straight(1.5, ms=5.0) + straight(1.0, ms=10.0, backbone="swin_pico", patch=4)
    (swap,) = laws(tmp_path, records).swaps
    assert (swap.kind, swap.at) == ("within", None)
    assert [point.size for point in swap.between] == ["64", "256"]
    assert [point.size for point in swap.unclear] == ["128"]


def test_two_that_cannot_be_told_apart_are_not_said_to_swap(tmp_path):
    # 1 % to and fro, which the noise floor of 2 % does not let anyone claim.
    fro = [
        timed(size, 10 * (size / 64) ** 2 * factor, backbone="swin_pico", patch=4)
        for size, factor in zip(SIZES, (0.99, 1.01, 0.99, 1.01), strict=True)
    ]
    (swap,) = laws(tmp_path, straight(1.0) + fro).swaps
    assert (swap.kind, swap.at) == ("not told apart", None)
    report(tmp_path / "box")
    assert "| not told apart |" in (tmp_path / "box" / "laws.md").read_text("utf-8")


def test_equal_memory_is_no_swap(tmp_path):
    records = [record("memory", size, peak_mib=float(size), backbone=name) for size in SIZES for name in ("a", "b")]
    known = laws(tmp_path, records)
    assert (known.swaps, known.kept) == ((), {"peak memory": 1})


def test_a_crossing_is_never_extrapolated(tmp_path):
    records = straight(1.5, ms=1.0) + straight(1.0, ms=10.0, backbone="swin_pico", patch=4)
    known = laws(tmp_path, records)
    assert known.swaps == (), "they would swap at 640 px, which nobody measured"
    assert known.kept == {"latency": 1}


def test_many_series_are_compared_in_pieces(tmp_path, monkeypatch):
    grown = {f"vit_{index}": (2 + index, 2 - index % 3 / 4) for index in range(7)}
    records = [
        record("memory", size, backbone=name, peak_mib=start * (size / 64) ** power)
        for name, (start, power) in grown.items()
        for size in SIZES
    ]

    def pairs(known: Laws) -> list[tuple[str, str]]:
        return [(swap.first.fields["backbone"], swap.second.fields["backbone"]) for swap in known.swaps]

    whole = laws(tmp_path, records)
    sizes = range(len(SIZES))
    figures = {name: [start * 2 ** (power * step) for step in sizes] for name, (start, power) in grown.items()}
    swapping = {
        frozenset((one, other))
        for one, other in combinations(grown, 2)
        if len({figures[one][step] > figures[other][step] for step in sizes}) > 1
    }
    assert {frozenset(pair) for pair in pairs(whole)} == swapping
    assert sum(whole.kept.values()) == 21 - len(swapping)
    assert 0 < len(swapping) < 21
    monkeypatch.setattr("bench.report.laws._AT_ONCE", 10)
    in_pieces = laws(tmp_path, records)
    assert (pairs(in_pieces), in_pieces.kept) == (pairs(whole), whole.kept)


def test_another_head_is_no_rival(tmp_path):
    records = straight(1.5, ms=4.0) + straight(1.0, ms=10.0, backbone="swin_pico", patch=4, head="upernet_pico")
    known = laws(tmp_path, records)
    assert (known.swaps, known.kept) == ((), {})


def test_exact_figures_swap_without_an_interval(tmp_path):
    records = [record("memory", size, peak_mib=size**3 / 1e5) for size in SIZES]
    records += [record("memory", size, peak_mib=size**2 / 500, backbone="swin_pico", patch=4) for size in SIZES]
    (swap,) = laws(tmp_path, records).swaps
    assert math.sqrt(swap.at.value) == pytest.approx(200)
    assert swap.at.low == swap.at.high == swap.at.value


def test_report_writes_checks_and_removes_the_tables(tmp_path):
    records = straight(1.5, ms=4.0) + straight(1.0, ms=10.0, backbone="swin_pico", patch=4)
    folder = write(tmp_path / "r" / "box", records)
    report(tmp_path / "r")
    names = ["crossings.csv", "laws.csv", "laws.md"]
    first = [(folder / name).read_bytes() for name in names]
    text = first[2].decode()
    assert "| latency | vit_pico | 16 | 64 to 512 px | 4 | 1.5" in text.replace("| linear ", "")
    assert "(128 to 256 measured)" in text
    (line,) = rows(folder / "crossings.csv")
    assert float(line["side"]) == pytest.approx(160, rel=0.02)
    exponents = sorted(float(line["exponent"]) for line in rows(folder / "laws.csv"))
    assert exponents == pytest.approx([1.0, 1.5], abs=0.02)
    write(folder, reversed(records))
    report(tmp_path / "r")
    assert [(folder / name).read_bytes() for name in names] == first, "whatever the order of the records"
    (folder / "laws.csv").write_text("edited", encoding="utf-8")
    assert [path.name for path in report(tmp_path / "r", check=True).differing] == ["laws.csv"]
    write(folder, records[:2])
    report(tmp_path / "r")
    assert not any((folder / name).exists() for name in names)


def test_the_order_of_fields_in_a_record_does_not_matter(tmp_path):
    records = straight(1.0)
    turned = [replace(one, fields=dict(reversed(list(one.fields.items())))) for one in records[::2]]
    (one,) = laws(tmp_path, turned + records[1::2]).series
    assert len(one.points) == 4
