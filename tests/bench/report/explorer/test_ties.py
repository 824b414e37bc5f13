"""What the explorer may not tell apart is what `compare` may not."""

from pathlib import Path

import pytest

from bench.plan.measure import measures
from bench.report.claims import claim
from bench.report.evidence import chance
from bench.report.explorer import ties
from bench.report.explorer.ties import Group, groups
from bench.report.rows import Table, read
from bench.stats.family import claimed, family
from tests.bench.records import make, write
from tests.bench.report.explorer.turns import model, turn

pytestmark = pytest.mark.usefixtures("known")

MODELS = [
    *model("best", [30.0, 32.0], 20.0),
    *model("close", [29.0, 31.0], 20.1),
    *model("far", [10.0, 11.0], 12.0),
    *model("quick", [12.0], 11.9),
]


def table(folder: Path, records: list) -> Table:
    (only,) = read(write(folder, records)).tables
    return only


def named(group: Group) -> dict[str, set[str]]:
    assert group.tied is not None
    names = [part.fields["backbone"] for part in group.parts]
    return {name: {names[place] for place in places} for name, places in zip(names, group.tied, strict=True)}


def test_accuracies_are_told_apart_as_ranks_are(tmp_path: Path) -> None:
    of = table(tmp_path, MODELS)
    group = next(one for one in groups(of) if one.recipe == "short")
    differ = claimed(chance("miou", of.noise["short"]), of.family.level)
    for one, places in zip(group.parts, group.tied or (), strict=True):
        expected = {at for at, other in enumerate(group.parts) if other is not one and not differ(one, other)}
        assert set(places) == expected
    found = named(group)
    assert found["best"] == {"close"}
    assert found["far"] == {"quick"}


def test_times_are_told_apart_by_their_rounds(tmp_path: Path) -> None:
    of = table(tmp_path, MODELS)
    group = next(one for one in groups(of) if one.recipe is None)
    measure = measures()["turns"]
    whole = family((group.parts, lambda one, other: claim(measure, one.records[0], other.records[0]).p))
    assert whole.pairs == 6
    for one, places in zip(group.parts, group.tied or (), strict=True):
        records = [part.records[0] for part in group.parts]
        told = {at for at, other in enumerate(records) if claim(measure, one.records[0], other).p <= whole.level}
        assert set(places) == set(range(len(records))) - told - {group.parts.index(one)}
    assert named(group) == {"best": {"close"}, "close": {"best"}, "far": {"quick"}, "quick": {"far"}}
    assert "2.0 to 2.0 %" in group.text


def test_accuracies_of_different_recipes_are_never_in_one_group(tmp_path: Path) -> None:
    of = table(tmp_path, [*model("a", [30.0], 20.0), *model("a", [30.0], 20.0, recipe="long")])
    found = [(one.recipe, len(one.parts)) for one in groups(of) if one.recipe is not None]
    assert found == [("long", 1), ("short", 1)]


def test_a_large_group_is_left_to_seed_noise_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ties, "LIMIT", 3)
    of = table(tmp_path, MODELS)
    accuracy, times = groups(of)
    noise = of.noise["short"]
    assert noise is not None
    assert (accuracy.tied, times.tied) == (None, None)
    assert accuracy.seed == pytest.approx(noise.difference(1, 1, of.family.level) / 2**0.5)
    assert noise.difference(2, 1, of.family.level) == pytest.approx(accuracy.seed * (1 / 2 + 1) ** 0.5)
    assert "more than 3 measurements images are not compared" in accuracy.text
    assert "intervals do not overlap" in times.text


def test_unknown_noise_is_said(tmp_path: Path) -> None:
    (group,) = groups(table(tmp_path, [make("accuracy", miou=1.0), make("accuracy", backbone="b", miou=2.0)]))
    assert group.seed is None
    assert "unknown" in group.text


def test_lighter_samples_give_the_same_claims(tmp_path: Path) -> None:
    record = turn(10.0, anchor="a")
    twice = {name: [value for value in values for _ in range(2)] for name, values in record.samples.items()}
    anchored = {"anchor_ms": [3.0, 5.0, 4.0], "anchor_ms_round": [0.0, 0.0, 1.0], "disturbed_round": [2.0]}
    of = table(tmp_path, [make("turns", samples=twice | anchored, **record.values)])  # pyright: ignore[reportArgumentType]
    light = ties._light(of.rows[0].parts["turns"].records[0], "turn_ms")
    assert light.samples["anchor_ms"] == (4.0, 4.0)
    assert 2.0 not in light.samples["turn_ms_round"]
    assert len(light.samples["turn_ms"]) == 11
