"""Cells that take turns: real processes, measures that only say when they had the machine."""

from collections import defaultdict
from dataclasses import replace

import pytest

from bench.launchers import _worker, local
from bench.launchers.contract import Finished, Settings
from bench.plan.measure import Column
from tests.bench import misbehaving
from tests.bench.launchers.test_local import job

pytestmark = pytest.mark.slow


@pytest.fixture
def launch(tmp_path, monkeypatch):
    monkeypatch.setattr(_worker, "_work", misbehaving.work)

    def run(*names, group=12, timeout=60.0):
        jobs = []
        for index, name in enumerate(names):
            one = job(name)
            columns = (Column("x_ms", "ms", "x"), Column("noise_floor_pct", "%", "floor"))
            measure = replace(one.measure, name=name, interleaved="x_ms", columns=columns)
            # The launcher groups by the measure's name, which is the name of the function here: one for all.
            jobs.append(replace(one, measure=measure, key=f"{name} {index}"))
        events = local.launch(jobs, Settings(tmp_path, tmp_path, timeout, group))
        return {event.job.key: event for event in events if isinstance(event, Finished)}

    return run


def turns(tmp_path):
    found = defaultdict(list)
    for line in (tmp_path / "turns").read_text().splitlines():
        index, workers, pid = map(int, line.split())
        found[index].append((pid, workers))
    return found


def test_every_cell_has_its_turn_in_every_round(launch, tmp_path):
    ended = launch(*["takes_turns"] * 3)
    rounds = turns(tmp_path)
    order = [pid for pid, _ in rounds[0]]
    assert len(set(order)) == 4, "three cells, and one of them twice"
    assert {workers for _, workers in rounds[0]} == {4}
    orders = [[pid for pid, _ in rounds[index]] for index in range(8)]
    assert all(sorted(one) == sorted(order) for one in orders), "each once a round, ..."
    assert len(set(map(tuple, orders))) > 3, "... and never always after the same neighbour"
    assert [event.status for event in ended.values()] == ["ok"] * 3
    assert len({event.values["session"] for event in ended.values()}) == 1
    assert {event.values["noise_floor_pct"] for event in ended.values()} == {0.0}, "both saw the same drift"
    assert {event.values["cells"] for event in ended.values()} == {3}
    for event in ended.values():
        assert event.samples["anchor_ms"] == event.samples["twin_ms"] == [11.0 + index for index in range(8)]
        assert event.samples["anchor_ms_round"] == list(range(8))


def test_groups_are_tied_by_the_same_anchor(launch):
    ended = launch(*["takes_turns"] * 3, group=2)
    sessions = [event.values["session"] for event in ended.values()]
    assert sessions[0] == sessions[1] != sessions[2]
    assert len({event.values["anchor"] for event in ended.values()}) == 1
    assert all("anchor_ms" in event.samples for event in ended.values())


def test_what_needs_all_memory_is_tried_again_by_itself(launch, monkeypatch):
    """It says so only beside others: an `oom` of company would be a false one."""
    monkeypatch.setattr(local, "_slices", lambda jobs, size: iter([([], [list(jobs)])]))
    ended = launch("takes_turns", "wants_all_memory", "takes_turns")
    assert {key: event.status for key, event in ended.items()} == {
        "takes_turns 0": "ok",
        "takes_turns 2": "ok",
        "wants_all_memory 1": "ok",
    }
    assert ended["wants_all_memory 1"].values["cells"] == 1
    assert ended["wants_all_memory 1"].values["noise_floor_pct"] is None, "unknown, and not 0"


@pytest.mark.parametrize(
    ("bad", "status"), [("dies_in_its_turn", "error"), ("hangs_in_its_turn", "timeout"), ("refuses", "unsupported")]
)
def test_one_bad_cell_costs_the_others_of_its_group_nothing(launch, monkeypatch, bad, status):
    monkeypatch.setattr(local, "_slices", lambda jobs, size: iter([([], [list(jobs)])]))
    ended = launch("takes_turns", bad, "takes_turns", timeout=8.0 if status == "timeout" else 60.0)
    assert ended[f"{bad} 1"].status == status
    assert [ended[f"takes_turns {index}"].status for index in (0, 2)] == ["ok", "ok"]
    assert ended["takes_turns 0"].values["noise_floor_pct"] == 0.0


def test_waiting_for_a_turn_is_no_time_of_ones_own(launch):
    ended = launch(*["takes_turns"] * 3)
    assert all(event.wall_s < 5 for event in ended.values())


def test_slices_keep_what_belongs_together(monkeypatch):
    timed = [replace(job("latency").measure, interleaved="x_ms"), replace(job("training").measure, interleaved="x_ms")]
    jobs = []
    for index in range(5):
        jobs += [replace(job("memory"), key=f"m{index}")]
        jobs += [replace(job(one.name), measure=one, key=f"{one.name[0]}{index}") for one in timed]
    found = [
        ([one.key for one in alone], [[one.key for one in group] for group in groups])
        for alone, groups in local._slices(jobs, 2)
    ]
    assert found == [
        (["m0", "m1", "m2"], [["l0", "l1"], ["t0", "t1"]]),
        (["m3", "m4"], [["l2", "l3"], ["t2", "t3"]]),
        ([], [["l4"], ["t4"]]),
    ]


def test_idle_threads_soon_sleep_unless_the_user_has_said_how_they_wait():
    said = {"GOMP_SPINCOUNT": "7"}
    _worker._spin_less(said)
    assert said == {"GOMP_SPINCOUNT": "7", "KMP_BLOCKTIME": "2"}
    passive = {"OMP_WAIT_POLICY": "PASSIVE"}
    _worker._spin_less(passive)
    assert passive == {"OMP_WAIT_POLICY": "PASSIVE"}
