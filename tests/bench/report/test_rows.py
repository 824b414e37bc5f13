"""Records to rows: joins, seeds, noise, ranks, and what is left out."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.errors import UserError, forget_remarks
from bench.plan.measure import Column
from bench.report import rows
from bench.report.evidence import chance
from bench.report.rows import Reading, Row, columns, folders, noise, rank, read
from bench.stats.family import ALPHA, claimed
from bench.stats.ranking import Noise, Stat
from bench.store.record import Record
from tests.bench.records import environment, forget, make, write

pytestmark = pytest.mark.usefixtures("known")


def _read(tmp_path: Path, *records: Record, environments: Any = ()) -> Reading:
    return read(write(tmp_path / "results" / "box", records, environments))


def _rows(reading: Reading) -> list[Row]:
    return [row for table in reading.tables for row in table.rows]


def test_every_measure_of_a_cell_meets_in_one_row(tmp_path: Path) -> None:
    records = [make("latency", latency_ms=5.0), make("complexity", params_m=1.5), make("accuracy", miou=40.0)]
    (row,) = _rows(_read(tmp_path, *records))
    assert row.values == {"latency_ms": Stat(5.0, None, 1), "params_m": Stat(1.5, None, 1), "miou": Stat(40.0, None, 1)}
    assert row.task == "segmentation"
    assert "seed" not in row.fields
    assert row.fields["recipe"] == "short"
    assert row.fields["threads"] == 1


def test_two_batches_two_seeds_and_a_failed_one(tmp_path: Path) -> None:
    records = [
        make("latency", batch=1, latency_ms=2.0),
        make("latency", batch=8, latency_ms=9.0),
        make("accuracy", seed=0, miou=40.0, class_iou={"disc": 50.0, "ring": None}),
        make("accuracy", seed=1, miou=42.0, class_iou={"disc": 54.0, "ring": 1.0}),
        make("accuracy", seed=2, status="error", reason="boom"),
    ]
    first, second = _rows(_read(tmp_path, *records))
    assert (first.fields["batch"], first.values["latency_ms"].mean) == (1, 2.0)
    assert (second.fields["batch"], second.values["latency_ms"].mean) == (8, 9.0)
    for row in (first, second):
        assert row.values["miou"] == Stat(41.0, 2**0.5, 2)
        assert row.values["class_iou[disc]"] == Stat(52.0, 8**0.5, 2)
        assert row.values["class_iou[ring]"] == Stat(1.0, None, 1)
        assert row.parts["accuracy"].status == "ok+error"
        assert row.parts["accuracy"].reason == "seed 2: boom"
    assert first.parts["accuracy"] is second.parts["accuracy"]


def test_what_has_no_partner_keeps_what_goes_with_it(tmp_path: Path) -> None:
    """Latency in bf16 has no accuracy, but its parameters are known; the order of measures must not lose them."""
    records = [
        make("accuracy", dtype="fp32", miou=40.0),
        make("complexity", params_m=1.5),
        make("latency", dtype="bf16", latency_ms=3.0),
        make("latency", dtype="fp32", latency_ms=5.0),
        make("complexity", backbone="alone", params_m=7.0),
    ]
    found = {(row.fields["backbone"], row.fields.get("dtype")): row.values for row in _rows(_read(tmp_path, *records))}
    assert set(found) == {("vit_pico", "fp32"), ("vit_pico", "bf16"), ("alone", None)}
    assert set(found["vit_pico", "fp32"]) == {"miou", "params_m", "latency_ms"}
    assert set(found["vit_pico", "bf16"]) == {"params_m", "latency_ms"}
    assert found["vit_pico", "bf16"]["latency_ms"].mean == 3.0
    assert set(found["alone", None]) == {"params_m"}


def test_unknown_and_failed_numbers_are_absent(tmp_path: Path) -> None:
    records = [make("latency", status="invalid", reason="throttled", latency_ms=5.0), make("complexity", params_m=None)]
    (row,) = _rows(_read(tmp_path, *records))
    assert row.values == {}
    assert row.parts["latency"].status == "invalid"


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        (("ok", "error"), 1.0),
        (("error", "ok"), 2.0),
        (("ok", "ok"), 2.0),
        (("ok", "oom"), None),
        (("error", "timeout"), None),
    ],
)
def test_the_last_settled_record_wins(tmp_path: Path, statuses: tuple[str, ...], expected: float | None) -> None:
    records = [make("latency", status=status, latency_ms=float(index)) for index, status in enumerate(statuses, 1)]
    reading = _read(tmp_path, *records)
    (row,) = _rows(reading)
    stat = row.values.get("latency_ms")
    assert (stat.mean if stat else None) == expected
    if expected is None:
        assert row.parts["latency"].status == statuses[1]
    assert list(reading.left_out.values()) == [1]


def test_an_edited_recipe_leaves_its_old_records_out(tmp_path: Path) -> None:
    old = [make("accuracy", seed=seed, miou=10.0, inputs={"recipe": "old"}) for seed in (0, 1)]
    reading = _read(tmp_path, *old, make("accuracy", seed=0, miou=30.0, inputs={"recipe": "new"}))
    (row,) = _rows(reading)
    assert row.values["miou"] == Stat(30.0, None, 1)
    assert list(reading.left_out.values()) == [2]


def test_an_edited_backbone_leaves_all_that_was_measured_of_it_out_and_nothing_else(tmp_path: Path) -> None:
    now = {"backbone source": "new"}
    records = [
        make("accuracy", seed=0, miou=10.0),
        make("latency", latency_ms=5.0),
        make("latency", backbone="other", latency_ms=6.0),
        make("accuracy", seed=0, miou=30.0, inputs=now),
        make("complexity", params_m=1.0, inputs=now),
    ]
    reading = _read(tmp_path, *records)
    found = {row.fields["backbone"]: {name: stat.mean for name, stat in row.values.items()} for row in _rows(reading)}
    assert found == {"vit_pico": {"miou": 30.0, "params_m": 1.0}, "other": {"latency_ms": 6.0}}
    assert sum(reading.left_out.values()) == 2


def test_of_a_file_that_nobody_knows_the_state_counts_that_was_said_last(tmp_path: Path) -> None:
    """Also where it had been said before another."""
    states = ["one", "other", "one"]
    records = [
        make("accuracy", recipe="mine", seed=seed, inputs={"recipe": state}, miou=40.0)
        for seed, state in enumerate(states)
    ]
    reading = _read(tmp_path, *records)
    (row,) = _rows(reading)
    assert [record.fields["seed"] for record in row.parts["accuracy"].records] == [0, 2]
    assert sum(reading.left_out.values()) == 1


@pytest.mark.parametrize("last", ["old", "new"])
def test_of_an_edited_file_todays_state_counts_wherever_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: str
) -> None:
    """What was merged from elsewhere stands last and need not be newer."""
    monkeypatch.setattr("bench.plan.recipe.digest", lambda name, task: f"{name} for {task} today")
    monkeypatch.setattr("bench.plan.source.digest", lambda entry: f"{entry.name} today")
    today = {"recipe": "short for segmentation today", "head source": "linear today"}
    old = make("accuracy", miou=10.0, inputs={"recipe": "before"})
    new = make("accuracy", miou=30.0, inputs=today)
    (row,) = _rows(_read(tmp_path, *([new, old] if last == "old" else [old, new])))
    assert row.values["miou"].mean == 30.0


def test_costs_of_another_source_do_not_stand_beside_an_earlier_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.catalogue.training_revisions", lambda fields: {"backbone": 2})
    earlier = make("accuracy", miou=10.0)
    for inputs, expected in (({}, {"miou", "latency_ms"}), ({"backbone source": "new"}, {"miou"})):
        rows = _rows(_read(tmp_path, earlier, make("latency", latency_ms=5.0, inputs=inputs)))
        (trained,) = (row for row in rows if row.fields["backbone"] == "vit_pico@1")
        assert set(trained.values) == expected


def test_old_versions_gone_measures_and_gone_heads_are_counted(tmp_path: Path) -> None:
    reading = _read(
        tmp_path,
        make("latency", version=0, latency_ms=1.0),
        make("latency", version=0, batch=2, latency_ms=1.0),
        make("energy", joule=3.0),
        make("complexity", head="gone", params_m=1.0),
        make("complexity", params_m=2.0),
    )
    assert [row.values["params_m"].mean for row in _rows(reading)] == [2.0]
    assert sorted(reading.left_out.values()) == [1, 1, 2]
    assert reading.left_out["of an older version of their measure"] == 2


def test_only_comparable_environments_meet(tmp_path: Path) -> None:
    described = [environment("a", "x"), environment("b", "x"), environment("c", "y")]
    records = [
        make("latency", environment="a", latency_ms=1.0),
        make("complexity", environment="b", params_m=1.0),
        make("accuracy", environment="c", miou=9.0),
    ]
    first, second = _read(tmp_path, *records, environments=described).tables
    assert [set(row.values) for row in first.rows] == [{"latency_ms", "params_m"}]
    assert [set(row.values) for row in second.rows] == [{"miou"}]
    assert first.code == ("git-a", "git-b")


def test_records_of_an_environment_that_is_not_described_are_counted_and_named(tmp_path: Path, capsys) -> None:
    forget_remarks()
    lost = [make("latency", environment="nowhere", batch=batch) for batch in (1, 2)]
    reading = _read(tmp_path, *lost, make("latency", latency_ms=1.0))
    assert len(reading.tables) == 1
    assert reading.left_out["of an environment that environments.jsonl does not describe"] == 2
    said = capsys.readouterr().err
    assert "environments.jsonl does not describe environment 'nowhere', which 2 records name" in said
    assert "densebench merge" in said
    assert "densebench run" in said


def test_no_records_says_where_and_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"results.*records\.jsonl; run `densebench run` first"):
        folders(tmp_path / "results")


def test_seed_noise_is_pooled(tmp_path: Path) -> None:
    """Variances 2 (two seeds) and 1 (three seeds): s² = (1 · 2 + 2 · 1) / 3."""
    scores = {"a": (40.0, 42.0), "b": (30.0, 31.0, 32.0), "c": (20.0,)}
    records = [make("accuracy", backbone=name, seed=i, miou=m) for name, ms in scores.items() for i, m in enumerate(ms)]
    # A part that is in two rows counts once.
    records += [make("latency", backbone="a", batch=batch, latency_ms=1.0) for batch in (1, 8)]
    (table,) = _read(tmp_path, *records).tables
    found = table.noise["short"]
    assert found == Noise((4 / 3) ** 0.5, 3)
    assert found is not None
    assert found.difference(2, 1) == pytest.approx(3.182 * (4 / 3) ** 0.5 * 1.5**0.5, rel=1e-3)
    assert noise([], "miou") is None


def test_ties_are_with_the_best_of_the_group(tmp_path: Path) -> None:
    means = {"a": 40.0, "b": 39.2, "c": 38.9, "d": 30.0}
    records = [make("accuracy", backbone=name, miou=mean) for name, mean in means.items()]
    (table,) = _read(tmp_path, *records).tables
    parts = {row.fields["backbone"]: row.parts["accuracy"] for row in table.rows}
    stats = {part: part.values["miou"] for part in parts.values()}
    column = Column("miou", "%", "mIoU", "higher")
    # Least difference 2.23 · s · √2 = 1: b ties with a, c with b but not with a.
    ranks = rank(stats, column, claimed(chance("miou", Noise(1 / (2.23 * 2**0.5), 10)), ALPHA))
    assert [str(ranks[parts[name]]) for name in "abcd"] == ["1=", "1=", "3", "4"]
    unknown = rank(stats, column, claimed(chance("miou", None), ALPHA))
    assert [str(unknown[parts[name]]) for name in "abcd"] == ["1", "2", "3", "4"]
    lower = rank(stats, replace(column, better="lower"), claimed(chance("miou", None), ALPHA))
    assert [str(lower[parts[name]]) for name in "abcd"] == ["4", "3", "2", "1"]


def test_ranks_are_of_measurements_within_a_recipe(tmp_path: Path) -> None:
    records = [
        make("accuracy", backbone="a", miou=40.0),
        make("accuracy", backbone="b", miou=30.0),
        make("accuracy", backbone="c", miou=50.0, recipe="long"),
        make("latency", backbone="a", batch=1, latency_ms=1.0),
        make("latency", backbone="a", batch=8, latency_ms=2.0),
        make("latency", backbone="d", latency_ms=2.0),
    ]
    (table,) = _read(tmp_path, *records).tables
    found = [(row.fields["backbone"], str(table.ranks.get(row, ""))) for row in table.rows]
    # One measurement in two rows is no tie, and takes one place.
    assert found == [("c", "1"), ("a", "1"), ("a", "1"), ("b", "2"), ("d", "")]


def test_a_new_measure_is_a_new_file(tmp_path: Path, known: Path) -> None:
    column = {"name": "energy_j", "unit": "J", "title": "energy", "better": "lower"}
    facts = {"version": 1, "fields": ["backbone", "head"], "exclusive": False, "seconds": 1.0, "columns": [column]}
    (known / "measures" / "energy.py").write_text(f"CATALOGUE = { ({'energy': facts})!r}\n", encoding="utf-8")
    forget()
    energy = replace(make("energy", energy_j=3.0), fields={"backbone": "vit_pico", "head": "linear"})
    rows = _rows(_read(tmp_path, energy, make("latency", latency_ms=1.0), make("latency", batch=2, latency_ms=2.0)))
    assert [row.values["energy_j"].mean for row in rows] == [3.0, 3.0]


def test_two_measures_with_one_column_are_refused(known: Path) -> None:
    text = (known / "measures" / "memory.py").read_text(encoding="utf-8").replace("peak_mib", "latency_ms")
    (known / "measures" / "memory.py").write_text(text, encoding="utf-8")
    forget()
    with pytest.raises(UserError, match="both have a column 'latency_ms'"):
        columns()


def test_a_recipe_has_a_digest_for_each_task(tmp_path: Path) -> None:
    """What one task's table of a recipe says is nothing to the other's records."""
    mask = make("accuracy", miou=30.0, inputs={"recipe": "of masks"})
    box = make("accuracy", head="fcos", ap=20.0, inputs={"recipe": "of boxes"})
    reading = _read(tmp_path, mask, box)
    assert not reading.left_out
    assert sorted(name for row in _rows(reading) for name in row.values) == ["ap", "miou"]


def test_what_is_said_of_a_data_set_replaces_what_was_said_before(tmp_path: Path) -> None:
    """Of one measure and task alone: a latency does not say which images a training left out."""
    said = {"dataset": "3 of 90 train images left out as broken (abc)"}
    records = [
        make("accuracy", seed=0, miou=40.0),
        make("accuracy", seed=1, miou=41.0, inputs=said),
        make("latency", latency_ms=5.0),
        make("accuracy", head="fcos", ap=7.0),
    ]
    reading = _read(tmp_path, *records)
    by_head = {row.fields["head"]: row for row in _rows(reading)}
    assert by_head["linear"].values["miou"] == Stat(41.0, None, 1), "trained on other images, so no second seed"
    assert by_head["linear"].values["latency_ms"].mean == 5.0
    assert by_head["fcos"].values["ap"].mean == 7.0
    assert reading.left_out == {
        "from before a file that they name (a recipe, a data set, a backbone, a head) was edited": 1
    }
    mended = _read(tmp_path, *records, make("accuracy", seed=0, miou=42.0))
    assert {row.fields["head"]: row for row in _rows(mended)}["linear"].values["miou"] == Stat(42.0, None, 1)


def test_what_quantises_is_no_other_version_of_the_runtime() -> None:
    """Both stand in the table; of two versions of one of them the later counts."""

    def timed(quantise: str, versions: str) -> Record:
        cell = {"runtime": "openvino", "quantise": quantise}
        made = make("latency", latency_ms=1.0, inputs={"runtime": versions})
        return replace(made, fields={**made.fields, **cell})

    plain, narrow = timed("none", "openvino 1"), timed("int8-static", "openvino 1, nncf 3")
    assert rows._edited([plain, narrow]) == [False, False]
    assert rows._edited([plain, narrow, timed("none", "openvino 2")]) == [True, False, False]
