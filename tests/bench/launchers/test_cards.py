"""Jobs on several made-up cards: real processes, each of which sees its card and leaves word of when it was at work."""

import os
import subprocess
import sys
import textwrap
from dataclasses import replace
from types import SimpleNamespace

import pytest

from bench import catalogue
from bench.launchers import _calibrate, _group, _worker, local
from bench.launchers._cards import Pool
from bench.launchers.contract import Finished, Said, Settings, Started
from bench.plan import cards
from bench.plan.measure import CARD, CARDS, CARDS_PCT, Column
from tests.bench import misbehaving, smi
from tests.bench.launchers.test_local import job
from tests.bench.smi import H100

pytestmark = pytest.mark.slow

FIRST, SECOND = "GPU-aa00000000", "GPU-ab00000000"
TWO = {FIRST: H100, SECOND: H100}
SLICED = {"GPU-cc00000000": H100.replace("Disabled", "Enabled")}
SLICES = [
    "GPU 0: NVIDIA H100 (UUID: GPU-cc00000000)",
    "  MIG 3g.40gb     Device  0: (UUID: MIG-11000000000)",
    "  MIG 3g.40gb     Device  1: (UUID: MIG-12000000000)",
]


@pytest.fixture
def launch(tmp_path, monkeypatch):
    monkeypatch.setattr(_worker, "_work", misbehaving.work)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    monkeypatch.setattr(_group, "_memory_free", lambda: 1.0)
    monkeypatch.setattr(_calibrate, "busy", lambda: 0.0)
    monkeypatch.delenv(cards.VISIBLE, raising=False)

    def run(jobs, found=TWO, group=12, **options):
        monkeypatch.setenv("PATH", smi.put(tmp_path / "smi", found, **options))
        (tmp_path / "cache").mkdir(exist_ok=True)
        return list(local.launch(jobs, Settings(tmp_path / "cache", tmp_path, 60.0, group)))

    return run


def made(name, count, *, device="cuda", exclusive=False, fields=("backbone", "device", "seed"), timed=False):
    columns = (Column("x_ms", "ms", "x"), Column("noise_floor_pct", "%", "floor"))
    found = []
    for index in range(count):
        one = job(name, exclusive=exclusive or timed, device=[device])
        measure = replace(one.measure, fields=fields)
        if timed:
            measure = replace(measure, interleaved="x_ms", columns=columns)
        found.append(replace(one, measure=measure, key=f"{name} {device} {index}"))
    return found


def ended(events):
    return [event for event in events if isinstance(event, Finished)]


def said(events):
    return [event.text for event in events if isinstance(event, Said)]


def most_at_once(events):
    running = most = 0
    for event in events:
        running += isinstance(event, Started) - isinstance(event, Finished)
        most = max(most, running)
    return most


def test_shared_jobs_run_on_all_cards_and_each_sees_its_own(launch):
    events = launch(made("says_what_it_sees", 4, fields=("backbone", "device")))
    values = [event.values for event in ended(events)]
    assert {one["seen"] for one in values} == {FIRST, SECOND}
    assert all(one[CARD] == one["seen"][:12] for one in values), "the record says on which"
    assert {one["check"] for one in values} == {"1"}, "asking for CUDA does not initialise it"
    assert most_at_once(events) == 2


def test_hidden_cards_are_not_used(launch, monkeypatch):
    monkeypatch.setenv(cards.VISIBLE, "1")
    events = launch(made("says_what_it_sees", 3))
    assert {event.values["seen"] for event in ended(events)} == {SECOND}


def test_an_index_counts_among_the_cards_that_are_used(launch):
    events = launch(made("says_what_it_sees", 2, device="cuda:1"))
    assert {event.values["seen"] for event in ended(events)} == {f"{FIRST},{SECOND}"}
    assert {event.values[CARD] for event in ended(events)} == {SECOND[:12]}
    assert most_at_once(events) == 1


def test_what_depends_on_no_device_runs_one_a_core(launch):
    events = launch(made("says_what_it_sees", 6, fields=("backbone",)))
    assert most_at_once(events) == 6
    assert not any(CARD in event.values for event in ended(events))


def test_trainings_share_a_card_where_memory_allows(launch):
    events = launch(made("trains", 4), free={FIRST: "72000, 80000", SECOND: "72000, 80000"})
    assert most_at_once(events) == 4
    assert {event.values["most"] for event in ended(events)} == {2}


@pytest.mark.parametrize("free", [{}, {FIRST: "40000, 80000", SECOND: "40000, 80000"}])
def test_and_not_where_it_does_not_or_where_that_is_not_known(launch, free):
    events = launch(made("trains", 3), free=free)
    assert most_at_once(events) == 2
    assert {event.values["most"] for event in ended(events)} == {1}


def test_a_training_that_runs_out_of_a_cards_memory_gets_one_to_itself(launch):
    events = launch(made("wants_a_card", 3), {FIRST: H100}, free={FIRST: "72000, 80000"})
    assert [event.status for event in ended(events)] == ["ok"] * 3
    assert most_at_once(events) > 1, "that is how it ran out of it"


@pytest.mark.parametrize(("reason", "place"), [("CUDA out of memory", SECOND), ("the kernel killed it", None)])
def test_who_ran_out_of_a_cards_memory_waits_for_a_card_and_else_for_the_machine(reason, place):
    first, second = (cards.Card(uuid, "H100", board=uuid) for uuid in TWO)
    here, there, late = made("trains", 3)
    running = [SimpleNamespace(job=one, card=first, trained=9) for one in (here, there, late)]
    company = local._Company(SimpleNamespace(running=running), Pool([first, second]))
    company.started()
    running.pop()
    out = Finished(late, "oom", reason, "", 1.0)
    assert company.again(out)
    found = company.next([late])
    assert (found and found[1].uuid) == place, "others are at work on the first card"
    running.clear()
    assert company.next([late])[0] == late
    assert not company.again(out), "once"


def test_slices_train_side_by_side_and_are_timed_one_by_one(launch):
    events = launch(made("says_what_it_sees", 2) + made("takes_turns", 4, timed=True), SLICED, group=2, listed=SLICES)
    trained = {event.values["seen"] for event in ended(events) if "seen" in event.values}
    assert trained == {"MIG-11000000000", "MIG-12000000000"}
    timed = [event.values for event in ended(events) if "seen" not in event.values]
    assert {one[CARD] for one in timed} == {"MIG-11000000"}
    assert not any(CARDS in one for one in timed)


def test_groups_are_timed_on_all_cards_at_once_where_that_disturbs_nobody(launch):
    events = launch(made("waits_for_nobody", 4, timed=True), group=2)
    assert said(events) == [
        "cells are timed on 2 GPUs at once: beside 1 more a pass takes +0.0 % of its time alone (noise floor 0.0 %)"
    ]
    found = ended(events)
    assert {(event.status, event.values[CARDS], event.values[CARDS_PCT]) for event in found} == {("ok", 2, 0.0)}
    sessions = {(event.values["session"], event.values[CARD]) for event in found}
    assert {card for _, card in sessions} == {FIRST[:12], SECOND[:12]}
    assert len(sessions) == 2, "a group stays on one card"
    assert len({event.values["anchor"] for event in found}) == 1, "and is tied to the other one"
    assert {event.values["noise_floor_pct"] for event in found} == {0.0}
    assert any(most for event in found for most in event.samples["crowd"]), "both were at work at a time"


def test_groups_are_timed_on_one_card_at_a_time_where_they_would_disturb_each_other(launch):
    events = launch(made("waits_for_the_host", 4, timed=True), group=2)
    (text,) = said(events)
    assert text.startswith("cells are timed on one GPU at a time: beside 1 more a pass takes +")
    found = ended(events)
    assert [event.status for event in found] == ["ok"] * 4
    assert not any(CARDS in event.values for event in found)
    assert {event.values[CARD] for event in found} == {FIRST[:12], SECOND[:12]}, "prepared on both"
    assert not any(most for event in found for most in event.samples["crowd"]), "nobody was at work beside another"


def test_on_a_loaded_host_cards_are_taken_one_at_a_time(launch, monkeypatch):
    monkeypatch.setattr(_calibrate, "busy", lambda: 7.5)
    events = launch(made("waits_for_nobody", 2, timed=True), group=1)
    assert said(events) == ["cells are timed on one GPU at a time: other processes keep 7.5 cores of the host busy"]
    assert not any(CARDS in event.values for event in ended(events))


def test_what_cannot_be_calibrated_is_timed_on_one_card_at_a_time(launch):
    events = launch(made("refuses", 4, timed=True), group=2)
    assert said(events) == [
        "cells are timed on one GPU at a time: whether they disturb each other could not be measured"
    ]
    assert [event.status for event in ended(events)] == ["unsupported"] * 4


def test_a_card_for_one_process_has_groups_of_one_and_no_noise_floor(launch):
    lone = {FIRST: H100.replace("Default", "Exclusive_Process")}
    events = launch(made("waits_for_nobody", 2, timed=True), lone)
    (text,) = said(events)
    assert "exclusive-process mode" in text
    found = [event.values for event in ended(events)]
    assert [one["cells"] for one in found] == [1, 1]
    assert [one["noise_floor_pct"] for one in found] == [None, None], "unknown, and not 0"
    assert [one["anchor"] for one in found] == [None, None]


def test_a_group_takes_what_fits_into_memory_when_all_are_in_their_turns(launch):
    """0.9 of it is free after each has given back its caches, and each needs 0.2 again in its turns: three, not 4."""
    events = launch(made("fills_memory_in_its_turns", 4, timed=True), {FIRST: H100})
    assert [event.values["cells"] for event in ended(events)] == [2, 2, 1, 1], "beside two of the anchor"


def test_what_is_preloaded_leaves_cuda_alone():
    """Initialised in the server, it could not be used in any worker."""
    code = """
        import torch
        asked = []
        def note(*_):
            asked.append(1)
            return 0
        torch._C._cuda_init = torch._C._cuda_getDeviceCount = note
        import bench.launchers.worker
        assert not asked, "CUDA was asked for"
        assert not torch.cuda.is_initialized()
        """
    lines = textwrap.dedent(code)
    env = {**os.environ, "PYTHONPATH": str(catalogue.ROOT), "PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
    done = subprocess.run([sys.executable, "-c", lines], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
