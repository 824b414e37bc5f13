"""What the page of the explorer knows: the numbers of the records, and nothing else."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.plan.measure import COMPANY
from bench.report.explorer.data import data, view
from bench.report.rows import Reading, read
from bench.stats.sampling import interval, rounds_of
from bench.store.record import Record
from tests.bench.records import environment, make, matrix, write
from tests.bench.report.explorer.turns import model, turn

pytestmark = pytest.mark.usefixtures("known")


def known(folder: Path, records: list[Record], **given: Any) -> dict[str, Any]:
    return data([read(write(folder, records, **given))], ["box/pictures/"])


def measure(found: dict[str, Any], name: str) -> dict[str, Any]:
    return next(one for one in found["measures"] if one["name"] == name)


def test_a_mean_stands_with_its_spread_and_its_seeds(tmp_path: Path) -> None:
    records = [make("accuracy", seed=seed, miou=value) for seed, value in ((0, 40.0), (3, 43.0))]
    accuracy = measure(known(tmp_path / "box", records), "accuracy")
    assert accuracy["numbers"]["miou"] == [41.5]
    assert accuracy["spread"]["miou"][0] == [2, pytest.approx(2.1213, abs=1e-4)]
    assert accuracy["seeds"] == [[0, 3]]
    assert accuracy["pictures"] == {
        0: [f"scenes_vit_pico_p16_linear_128x128_short_seed{seed}.png" for seed in (0, 3)],
    }


def test_a_number_of_several_rows_is_stored_once(tmp_path: Path) -> None:
    records = [make("complexity", params_m=1.5), *(make("latency", batch=batch, latency_ms=5.0) for batch in (1, 2, 4))]
    found = known(tmp_path / "box", records)
    assert measure(found, "complexity")["at"] == [0, 0, 0]
    assert measure(found, "complexity")["numbers"]["params_m"] == [1.5]
    assert sorted(measure(found, "latency")["at"]) == [0, 1, 2]
    assert found["fields"]["batch"]["values"] == [1, 2, 4]


def test_a_time_has_the_interval_of_its_rounds(tmp_path: Path) -> None:
    record = turn(10.0)
    found = interval(list(rounds_of(record.samples, "turn_ms").values()))
    assert measure(known(tmp_path / "box", [record]), "turns")["ends"] == {"turn_ms": {0: [found.low, found.high]}}
    assert found.low < found.high


def test_a_time_in_company_has_no_confidence_interval(tmp_path: Path) -> None:
    records = [turn(10.0, **{COMPANY: "a neighbour", "turn_low_ms": 4.0, "turn_high_ms": 12.0})]
    found = known(tmp_path / "box", records)
    turns = measure(found, "turns")
    assert turns["company"] == {0: "a neighbour"}
    assert turns["ends"] == {"turn_ms": {0: [4.0, 12.0]}}
    assert found["groups"] == [], "nothing is claimed of it"
    bare = measure(known(tmp_path / "bare", [turn(10.0, **{COMPANY: "a neighbour"})]), "turns")
    assert "ends" not in bare, "what the undisturbed time may be is not known"


def test_what_failed_says_why(tmp_path: Path) -> None:
    records = [make("latency", status="oom", reason="no room"), make("complexity", params_m=1.0)]
    latency = measure(known(tmp_path / "box", records), "latency")
    assert latency["reason"] == {0: "no room"}
    assert [latency["status"]["values"][at] for at in latency["status"]["at"]] == ["oom"]
    assert latency["numbers"] == {}


def test_classes_are_lists_by_name(tmp_path: Path) -> None:
    records = [
        make("accuracy", backbone="a", miou=1.0, class_iou={"disc": 5.0, "ring": None}),
        make("accuracy", backbone="b", miou=2.0, class_iou={"disc": 6.0, "ring": 7.0}),
        make("accuracy", backbone="c", miou=3.0),
    ]
    classes = measure(known(tmp_path / "box", records), "accuracy")["classes"]["class_iou"]
    by_part = [dict(zip(classes["names"][at], values, strict=True)) if at >= 0 else None
               for at, values in zip(classes["at"], classes["values"], strict=True)]  # fmt: skip
    assert sorted(by_part, key=str) == sorted([{"disc": 5.0}, {"disc": 6.0, "ring": 7.0}, None], key=str)


def test_a_row_keeps_its_name_when_others_are_measured(tmp_path: Path) -> None:
    first = known(tmp_path / "one" / "box", model("a", [10.0], 5.0))
    more = known(tmp_path / "two" / "box", [*model("b", [30.0], 5.0), *model("a", [10.0], 5.0)])
    assert set(first["rows"]["id"]) < set(more["rows"]["id"])
    assert len(set(more["rows"]["id"])) == len(more["rows"]["id"])
    elsewhere = known(tmp_path / "one" / "other", model("a", [10.0], 5.0))
    assert not set(first["rows"]["id"]) & set(elsewhere["rows"]["id"])


def test_an_earlier_revision_has_no_picture_that_a_later_one_has_drawn_over(tmp_path: Path) -> None:
    reading = read(write(tmp_path / "box", [make("accuracy", miou=1.0)]))
    (part,) = (part for table in reading.tables for row in table.rows for part in row.parts.values())
    part.fields["backbone"] = "vit_pico@raw"  # pyright: ignore[reportIndexIssue]
    assert "pictures" not in measure(data([reading], [""]), "accuracy")


def first_view(*readings: Reading) -> dict[str, Any]:
    return view([table for reading in readings for table in reading.tables])


def test_the_first_view_is_where_most_rows_have_both_numbers(tmp_path: Path) -> None:
    def both(count: int, **cell: Any) -> list[Record]:
        names = [f"b{index}" for index in range(count)]
        scored = [make("accuracy", backbone=name, miou=10.0, **cell) for name in names]
        return scored + [make("latency", backbone=name, latency_ms=5.0, **cell) for name in names]

    one = read(write(tmp_path / "one", [*both(2), *both(3, recipe="long", dataset="camvid")]))
    bare = [make("accuracy", backbone=f"b{index}", miou=10.0) for index in range(9)]
    other = read(write(tmp_path / "other", bare))
    expected = {"machine": "one", "task": "segmentation", "dataset": "camvid", "recipe": "long", "batch": 8}
    assert first_view(one, other) == expected | {"x": "latency_ms", "y": "miou"}
    assert first_view(other)["machine"] == "other"
    assert first_view(other)["y"] == "miou"


def test_without_accuracies_two_other_numbers_are_on_show(tmp_path: Path) -> None:
    records = [make("latency", latency_ms=5.0), make("memory", peak_mib=3.0)]
    found = first_view(read(write(tmp_path / "box", records)))
    assert (found["x"], found["y"]) == ("latency_ms", "peak_mib")


def test_machines_and_environments_stay_apart(tmp_path: Path) -> None:
    described = [environment("here"), environment("there", cpu="Zen")]
    records = [make("complexity", params_m=1.0), make("complexity", environment="there", params_m=2.0)]
    first = read(write(tmp_path / "one", records, described))
    second = read(write(tmp_path / "two", [make("complexity", params_m=3.0)]))
    found = data([first, second], ["one/pictures/", "two/pictures/"])
    assert [(table["machine"], table["comparable"]) for table in found["tables"]] == [
        (0, "here"),
        (0, "there"),
        (1, "here"),
    ]
    assert measure(found, "complexity")["numbers"]["params_m"] == [1.0, 2.0, 3.0]


def test_the_same_records_give_the_same_object_in_the_same_order(tmp_path: Path) -> None:
    folder = write(tmp_path / "box", matrix(3, seeds=2))
    first, second = (json.dumps(data([read(folder)], ["p/"])) for _ in range(2))
    assert first == second


def test_times_of_several_sessions_are_ordered_at_one_speed_of_the_machine(tmp_path: Path) -> None:
    def timed(name: str, cost: float, session: str, drift: float) -> Record:
        record = turn(cost * drift, backbone=name, session=session, anchor="x")
        index = record.samples["turn_ms_round"]
        return replace(
            record, samples={**record.samples, "anchor_ms": [4 * drift] * len(index), "anchor_ms_round": index}
        )

    records = [timed("a", 10.0, "s", 1.5), timed("b", 12.0, "t", 1.0)]
    (measure,) = data([read(write(tmp_path / "box", records))], ["box/"])["measures"]
    first, second = (measure["standing"]["turn_ms"][place] for place in range(2))
    assert first < second, "as compare orders them"
    assert measure["numbers"]["turn_ms"] == [15.0, 12.0], "what was measured is shown"
    (measure,) = data([read(write(tmp_path / "calm", [turn(10.0)]))], ["calm/"])["measures"]
    assert "standing" not in measure
