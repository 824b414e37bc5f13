"""Cost against value: the Pareto front, choices, and rows that lack a number."""

import csv
import io
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from bench.errors import UserError
from bench.report.compare import compare
from bench.report.standing import pareto
from bench.store.record import Record
from bench.store.store import Store
from tests.bench.records import environment, make, matrix, write

pytestmark = pytest.mark.usefixtures("known")

_FEW = st.integers(0, 6).map(float)


@given(st.lists(st.tuples(_FEW, _FEW), max_size=30))
@settings(max_examples=200, deadline=None)
def test_the_front_is_what_nothing_beats(points: list[tuple[float, float]]) -> None:
    def beaten(cost: float, value: float) -> bool:
        return any(c <= cost and v >= value and (c, v) != (cost, value) for c, v in points)

    assert pareto(points) == [not beaten(*point) for point in points]


def _results(tmp_path: Path) -> Path:
    found = {"a": (1.0, 20.0), "b": (2.0, 30.0), "c": (3.0, 29.0), "d": (4.0, 40.0), "e": (2.0, 25.0)}
    records = [
        make("latency", backbone=name, latency_ms=cost, images_per_s=8000 / cost) for name, (cost, _) in found.items()
    ]
    records += [make("accuracy", backbone=name, miou=value) for name, (_, value) in found.items()]
    records += [
        make("latency", backbone="f", status="oom", reason="too big"),
        make("accuracy", backbone="f", miou=60.0),
    ]
    records += [make("latency", backbone="g", latency_ms=1.0)]
    write(tmp_path / "results" / "box", records)
    return tmp_path / "results"


@pytest.mark.parametrize("cost", ["latency_ms", "images_per_s"])
def test_rows_are_sorted_by_cost_and_the_front_is_marked(tmp_path: Path, cost: str) -> None:
    (section,) = compare(_results(tmp_path), cost=cost).as_json()
    found = [(row["fields"]["backbone"], row["pareto"], row["rank"]) for row in section["rows"]]
    assert found == [("a", True, 5), ("b", True, 2), ("e", False, 4), ("c", False, 3), ("d", True, 1)]
    reasons = {row["fields"]["backbone"]: row["reason"] for row in section["lacking"]}
    assert set(reasons) == {"f", "g"}
    assert "oom (too big)" in reasons["f"]
    assert reasons["g"] == "no miou: not measured" if cost == "latency_ms" else "no miou: not measured" in reasons["g"]


def test_a_row_within_seed_noise_of_the_front_is_said_to_be_near(tmp_path: Path) -> None:
    scores = {"a": (30.0, 32.0), "b": (29.9, 30.1), "c": (10.0, 10.0)}
    records = [make("accuracy", backbone=name, seed=i, miou=m) for name, ms in scores.items() for i, m in enumerate(ms)]
    records += [make("latency", backbone=name, latency_ms=float(i)) for i, name in enumerate(scores, 1)]
    write(tmp_path / "results" / "box", records)
    (section,) = compare(tmp_path / "results").as_json()
    found = [(row["pareto"], row["near"], row["rank"], row["tied"]) for row in section["rows"]]
    # s² = (2 + 0.02 + 0) / 3, least difference of two seeds each 3.18 · 0.82 · 1 = 2.6.
    assert found == [(True, False, 1, True), (False, True, 1, True), (False, False, 3, False)]
    assert (section["rows"][0]["sd"], section["rows"][0]["n"]) == (pytest.approx(2**0.5), 2)


def test_batches_have_fronts_of_their_own_where_cost_depends_on_them(tmp_path: Path) -> None:
    records = [make("accuracy", miou=40.0), make("complexity", params_m=2.0)]
    records += [make("latency", batch=batch, latency_ms=float(batch)) for batch in (1, 8)]
    write(tmp_path / "results" / "box", records)
    (timed,) = compare(tmp_path / "results").as_json()
    assert [(row["fields"]["batch"], row["pareto"]) for row in timed["rows"]] == [(1, True), (8, True)]
    (counted,) = compare(tmp_path / "results", cost="params_m").as_json()
    assert len(counted["rows"]) == 1
    assert "batch" not in counted["rows"][0]["fields"]


def test_filters_and_classes(tmp_path: Path) -> None:
    write(tmp_path / "results" / "box", matrix(3))
    where = {"resolution": ["128"], "head": ["linear", "upernet"], "patch": ["8"]}
    (section,) = compare(tmp_path / "results", where=where, value="class_iou[disc]").as_json()
    assert section["task"] == "segmentation"
    assert len(section["rows"]) == 6
    assert {(row["fields"]["height"], row["fields"]["patch"]) for row in section["rows"]} == {(128, 8)}
    tasks = [section["value"] for section in compare(tmp_path / "results").as_json()]
    assert tasks == ["ap", "miou"]


def test_machines_and_environments_have_sections_of_their_own(tmp_path: Path) -> None:
    here, there = environment("here"), environment("there", cpu="Other CPU")
    records = []
    for name in ("here", "there"):
        records += [make("accuracy", environment=name, miou=4.0), make("latency", environment=name, latency_ms=1.0)]
    write(tmp_path / "results" / "one", records, [here, there])
    write(tmp_path / "results" / "two", records[:2], [here])
    found = [(section["machine"], section["environment"]) for section in compare(tmp_path / "results").as_json()]
    assert found == [("one", "there"), ("one", "here"), ("two", "here")]
    assert all(len(section["rows"]) == 1 for section in compare(tmp_path / "results").as_json())
    assert len(compare(tmp_path / "results", machine="two").sections) == 1


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"cost": "latency"}, r"unknown column 'latency': did you mean latency_ms"),
        ({"value": "miuo"}, r"unknown column 'miuo': did you mean miou"),
        ({"cost": "tokens"}, r"column 'tokens' has no better or worse; choose one of .*latency_ms"),
        ({"where": {"bakbone": ["a"]}}, r"unknown axis 'bakbone': did you mean backbone"),
        ({"where": {"resolution": ["129"]}}, r"unknown resolution '129x129': did you mean 128x128"),
        ({"by": ["seed"]}, r"unknown axis 'seed'"),
        ({"machine": "bx"}, r"unknown machine 'bx': did you mean box"),
        ({"task": "detection"}, r"unknown task 'detection'"),
        ({"value": "ap"}, r"no records under .* match"),
    ],
)
def test_what_does_not_exist_is_named(tmp_path: Path, choice: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        compare(_results(tmp_path), **choice)  # pyright: ignore[reportArgumentType]


def test_no_records_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="run `densebench run` first"):
        compare(tmp_path)


def test_fields_are_shown_where_they_vary(tmp_path: Path) -> None:
    results = _results(tmp_path)
    write(
        results / "box",
        [*matrix(1), make("latency", dtype="bf16", latency_ms=3.0), make("accuracy", dtype="bf16", miou=1.0)],
    )

    def text(**choice: list[str]) -> str:
        console = Console(file=io.StringIO(), width=160)
        console.print(compare(results, task="segmentation", **choice).render())  # pyright: ignore[reportArgumentType]
        assert isinstance(console.file, io.StringIO)
        return console.file.getvalue()

    def head(text: str) -> list[str]:
        return text.partition("─")[0].split()

    assert "mode" in head(text())
    assert "bf16" in text().split()
    assert "threads" not in head(text())
    assert "Throughout: weights random, batch 8," in text()
    assert "threads" in head(text(by=["backbone", "threads"]))
    assert "seed noise is unknown" in text()


def test_csv_has_what_json_has(tmp_path: Path) -> None:
    comparison = compare(_results(tmp_path))
    rows = list(csv.DictReader(io.StringIO(comparison.as_csv())))
    (section,) = comparison.as_json()
    assert len(rows) == len(section["rows"]) + len(section["lacking"]) == 7
    for row, expected in zip(rows, section["rows"], strict=False):
        flat = {**expected.pop("fields"), **expected}
        assert {name: row[name] for name in flat} == {
            name: "" if value is None else str(value) for name, value in flat.items()
        }
        assert (row["machine"], row["cost_column"], row["value_column"]) == ("box", "latency_ms", "miou")
    assert [(row["backbone"], row["cost"], row["pareto"]) for row in rows[5:]] == [("f", "", ""), ("g", "", "")]
    assert rows[5]["reason"] == "no latency_ms: oom (too big)"
    assert "seed" not in rows[0]


def test_groups_that_are_ranked_apart_stand_apart(tmp_path: Path) -> None:
    records = [make("accuracy", miou=40.0), make("accuracy", recipe="untrained", miou=1.0)]
    records += [make("latency", batch=batch, latency_ms=float(batch)) for batch in (1, 8)]
    write(tmp_path / "box", records)
    console = Console(file=io.StringIO(), width=80)
    console.print(compare(tmp_path).render())
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    groups = [f"recipe {recipe}, batch {batch}" for recipe in ("short", "untrained") for batch in (1, 8)]
    assert [line for line in lines if line.startswith("recipe ")] == groups
    assert sum(line.startswith("* vit_pico/16") for line in lines) == 4
    assert "mode" not in " ".join(lines)


def test_a_class_that_no_row_has_is_named_with_those_there_are(tmp_path: Path) -> None:
    write(
        tmp_path / "box",
        [make("accuracy", miou=1.0, class_iou={"ring": 5.0, "disc": 9.0}), make("latency", latency_ms=1.0)],
    )
    with pytest.raises(UserError, match=r"unknown column 'class_iou\[rong\]': did you mean class_iou\[ring\]"):
        compare(tmp_path, value="class_iou[rong]")
    with pytest.raises(UserError, match=r"unknown column 'class_iou': .*class_iou\[disc\], class_iou\[ring\]"):
        compare(tmp_path, value="class_iou")
    with pytest.raises(UserError, match=r"unknown column 'miou\[ring\]'"):
        compare(tmp_path, value="miou[ring]")
    (section,) = compare(tmp_path, value="class_iou[ring]").sections
    assert [point.value.mean for point in section.points] == [5.0]


def _turn(name: str, cost: float, floor: float | None = 2.0, session: str = "s", part: float = 1.0) -> Record:
    """Twelve rounds of a drifting machine; costs scatter by a tenth of a per cent."""
    series = [cost * (1 + index / 10) * (1 + (index * 7 % 5 - 2) / 1000) for index in range(12)]
    samples = {"turn_ms": series, "turn_ms_round": [float(index) for index in range(12)]}
    values = {"turn_ms": cost, "turn_ci_pct": 0.4, "part_ms": part, "noise_floor_pct": floor, "session": session}
    return make("turns", backbone=name, samples=samples, **values)


def test_costs_within_the_noise_floor_share_a_rank_and_decide_nothing(tmp_path: Path) -> None:
    found = {"a": (10.0, 20.0), "b": (10.1, 30.0), "c": (11.0, 29.0), "d": (14.0, 40.0)}
    records = [_turn(name, cost) for name, (cost, _) in found.items()]
    records += [make("accuracy", backbone=name, miou=value) for name, (_, value) in found.items()]
    write(tmp_path / "results" / "box", records)
    comparison = compare(tmp_path / "results", cost="turn_ms")
    (section,) = comparison.as_json()
    ranks = [(row["fields"]["backbone"], row["cost_rank"], row["cost_tied"]) for row in section["rows"]]
    assert ranks == [("a", 1, True), ("b", 1, True), ("c", 3, False), ("d", 4, False)]
    assert section["noise_floor_pct"] == 2.0
    assert [row["cost_margin_pct"] for row in section["rows"]] == [0.4] * 4
    # b beats c by more than the floor; nothing that may be claimed keeps a off the front, and it is on it anyway.
    assert [(row["pareto"], row["near"]) for row in section["rows"]] == [
        (True, False),
        (True, False),
        (False, False),
        (True, False),
    ]
    out = Console(file=io.StringIO(), width=140)
    out.print(comparison.render())
    assert "10.1 ± 0.4 %" in out.file.getvalue()
    said = " ".join(out.file.getvalue().split())
    assert "no difference may be claimed (noise floor of the sessions: 2.0 %)" in said


def test_a_row_that_is_beaten_by_less_than_the_floor_is_near(tmp_path: Path) -> None:
    records = [_turn("a", 10.0), _turn("b", 10.1), make("accuracy", backbone="a", miou=30.0)]
    records.append(make("accuracy", backbone="b", miou=29.0))
    write(tmp_path / "results" / "box", records)
    (section,) = compare(tmp_path / "results", cost="turn_ms").as_json()
    assert [(row["pareto"], row["near"]) for row in section["rows"]] == [(True, False), (False, True)]


@pytest.mark.parametrize(("floor", "session"), [(None, "s"), (2.0, "another")])
def test_without_a_floor_or_a_tie_nothing_is_claimed(tmp_path: Path, floor: float | None, session: str) -> None:
    records = [_turn("a", 10.0), _turn("b", 13.0, floor, session)]
    records += [make("accuracy", backbone=name, miou=30.0) for name in "ab"]
    write(tmp_path / "results" / "box", records)
    (section,) = compare(tmp_path / "results", cost="turn_ms").as_json()
    assert [row["cost_tied"] for row in section["rows"]] == [True, True]


def test_a_part_is_judged_by_rounds_of_its_own(tmp_path: Path) -> None:
    def with_part(name: str, part: float) -> Record:
        record = _turn(name, 10.0, part=part)
        series = [part * drift / 10 for drift in record.samples["turn_ms"]]
        return replace(record, samples={**record.samples, "part_ms": series, "part_ms_round": list(range(12))})

    records = [with_part("a", 1.0), with_part("b", 1.01), with_part("c", 1.1)]
    records += [make("accuracy", backbone=name, miou=30.0) for name in "abc"]
    write(tmp_path / "results" / "box", records)
    (section,) = compare(tmp_path / "results", cost="part_ms").as_json()
    assert [row["cost_rank"] for row in section["rows"]] == [1, 1, 3]
    assert [row["cost_margin_pct"] for row in section["rows"]] == [None] * 3


def test_a_timed_value_is_ranked_by_what_may_be_claimed(tmp_path: Path) -> None:
    records = [_turn("a", 10.0), _turn("b", 10.1), _turn("c", 12.0)]
    records += [make("memory", backbone=name, peak_mib=float(i)) for i, name in enumerate("cba")]
    write(tmp_path / "results" / "box", records)
    (section,) = compare(tmp_path / "results", cost="peak_mib", value="turn_ms").as_json()
    found = {row["fields"]["backbone"]: (row["rank"], row["near"]) for row in section["rows"]}
    assert found == {"a": (1, False), "b": (1, False), "c": (3, False)}


def test_what_was_taken_in_company_has_a_sign_and_no_place(tmp_path: Path) -> None:
    """It would be the cheapest and the best of all; neither is claimed, and nobody's place changes by it."""
    records = list(Store(_results(tmp_path) / "box").records())
    alone = compare(tmp_path / "results").as_json()[0]["rows"]
    records += [
        make("latency", backbone="x", latency_ms=0.5, images_per_s=16000.0, company="others kept 1.0 cores busy"),
        make("accuracy", backbone="x", miou=90.0),
    ]
    write(tmp_path / "results" / "box", records)
    found = compare(tmp_path / "results")
    crowded, *others = found.as_json()[0]["rows"]
    assert crowded["fields"]["backbone"] == "x"
    assert (crowded["cost_in_company"], crowded["cost_rank"], crowded["pareto"], crowded["near"]) == (
        True,
        None,
        False,
        False,
    )
    same = ("fields", "pareto", "near", "cost_rank")
    assert [[row[key] for key in same] for row in others] == [[row[key] for key in same] for row in alone]
    console = Console(file=io.StringIO(), width=120)
    console.print(found.render())
    text = console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]
    assert "≈ 0.5" in text
    assert "no claim is made of it" in " ".join(text.split())


def test_rows_stand_in_the_order_that_is_claimed_of_them(tmp_path: Path) -> None:
    """Sessions of a machine that was slower from one to the next: what the anchor says counts, not milliseconds."""
    true = {"a": 10.0, "b": 12.0, "c": 14.5, "d": 17.0, "e": 20.0, "f": 26.0}
    drifts = {"s": 1.5, "t": 1.0}

    def timed(name: str, session: str) -> Record:
        drift = drifts[session]
        record = _turn(name, true[name] * drift, session=session)
        anchor = [5 * drift * (1 + index / 10) for index in range(12)]
        samples = {**record.samples, "anchor_ms": anchor, "anchor_ms_round": record.samples["turn_ms_round"]}
        return replace(record, samples=samples, values={**record.values, "anchor": "x"})

    records = [timed(name, "st"[index % 2]) for index, name in enumerate(true)]
    records += [make("accuracy", backbone=name, miou=30.0 + index) for index, name in enumerate(true)]
    write(tmp_path / "results" / "box", records)
    comparison = compare(tmp_path / "results", cost="turn_ms")
    (section,) = comparison.as_json()
    assert [row["fields"]["backbone"] for row in section["rows"]] == list(true)
    assert [row["cost_rank"] for row in section["rows"]] == [1, 2, 3, 4, 5, 6]
    assert [row["pareto"] for row in section["rows"]] == [True] * 6
    costs = [row["cost"] for row in section["rows"]]
    assert costs != sorted(costs), "they are shown as they were measured"
    (only,) = comparison.sections
    assert only.drifts
    (rates,) = compare(tmp_path / "results", cost="miou", value="turn_ms").as_json()
    assert {row["fields"]["backbone"]: row["rank"] for row in rates["rows"]} == dict(
        zip(true, range(1, 7), strict=True)
    )
