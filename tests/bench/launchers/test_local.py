"""The local launcher with real processes, and measures that misbehave in every way a measurement can."""

import os
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from types import SimpleNamespace

import pytest

from bench import catalogue
from bench.launchers import _worker, local
from bench.launchers.contract import Finished, Job, Progress, Settings, Started
from bench.plan import matrix
from bench.plan.environment import describe
from bench.plan.measure import COMPANY, Column, Measure, Precision, measures
from tests.bench import misbehaving
from tests.bench.misbehaving import WAYS

pytestmark = pytest.mark.slow


def job(measure, *, exclusive=True, **axes):
    cells = matrix.load("default").override(
        {"backbone": ["vit_pico"], "head": ["linear"], "patch": ["16"], "resolution": ["64"], "batch": ["2"], **axes}
    )
    cell = next(iter(cells.cells(describe())))[0]
    column = Column("x", "", "x")
    return Job(Measure(measure, 1, ("backbone",), (column,), exclusive, 1.0), cell, None, measure)


BESIDE_OTHERS = Precision(target=0.05, budget_s=0.3, company="allow")
"""Tests run several at a time: nothing here is quiet, and nothing depends on it."""


def launch(tmp_path, jobs, timeout=60.0):
    settings = Settings(tmp_path / "cache", tmp_path / "pictures", timeout, precision=BESIDE_OTHERS)
    return list(local.launch(jobs, settings))


def test_real_measures_give_real_numbers(tmp_path):
    """One of each measure that takes seconds, in a process of its own each."""
    names = ("complexity", "latency", "training", "memory", "training_memory", "energy")
    jobs = [replace(job(name), measure=measures()[name], key=name) for name in names]
    events = launch(tmp_path, jobs)
    ended = {event.job.measure.name: event for event in events if isinstance(event, Finished)}
    assert {name: (event.status, event.reason) for name, event in ended.items()} == dict.fromkeys(names, ("ok", ""))
    assert ended["complexity"].values["tokens"] == 16
    # Closed form for a plain ViT: N patches · 3P²D + L (12 N D² + 2 N² D), with N one more for the class token.
    n, d, blocks = 17, 96, 4
    macs = 16 * 3 * 256 * d + blocks * (12 * n * d * d + 2 * n * n * d)
    assert ended["complexity"].values["backbone_gmacs"] == pytest.approx(macs / 1e9, rel=1e-3)
    latency = ended["latency"]
    samples = sorted(latency.samples["latency_ms"])
    assert samples[0] <= latency.values["latency_ms"] <= samples[-1]
    assert latency.values["images_per_s"] == pytest.approx(2e3 / latency.values["latency_ms"])
    # How long each takes beside the others depends on what else runs: only that it was timed is sure.
    assert all(
        latency.values[name] > 0 for name in ("backbone_ms", "head_ms", "post_ms", "end_to_end_ms", "traffic_mib")
    )
    assert latency.values["deviation"] == 0, "eager float32 on one machine is eager float32"
    if COMPANY in latency.values:
        assert latency.values["noise_floor_pct"] is None, "nothing is claimed of it"
    else:
        assert latency.values["noise_floor_pct"] > 0
    assert ended["training"].values["train_step_ms"] > 0
    assert 0 < ended["memory"].values["peak_mib"] < 200
    assert ended["memory"].values["reserved_mib"] is None, "unknown on a CPU, and not 0"
    assert ended["training_memory"].values["train_peak_mib"] > ended["memory"].values["peak_mib"]


@pytest.mark.parametrize("way", WAYS)
def test_a_bad_cell_becomes_a_row_and_the_next_one_runs(tmp_path, monkeypatch, way):
    monkeypatch.setattr(_worker, "_work", misbehaving.work)
    events = launch(tmp_path, [job(way), job("good")], timeout=8.0 if way == "hangs" else 60.0)
    ended = [event for event in events if isinstance(event, Finished)]
    assert [event.job.measure.name for event in ended] == [way, "good"]
    status, reason = WAYS[way]
    assert ended[0].status == status
    assert reason in ended[0].reason
    assert (ended[1].status, ended[1].values) == ("ok", {"x": 1.0})


def test_shared_jobs_run_side_by_side_and_exclusive_ones_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(_worker, "_work", misbehaving.work)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    jobs = [job("good", exclusive=False), job("good", exclusive=False), job("good"), job("good")]
    running = most = 0
    order = []
    for event in local.launch(jobs, Settings(tmp_path, tmp_path, 60.0)):
        if isinstance(event, Started):
            running += 1
            order.append(event.job.measure.exclusive)
            assert running == 1 or not event.job.measure.exclusive
        elif isinstance(event, Finished):
            running -= 1
        most = max(most, running)
    assert order == [False, False, True, True], "quick ones that share go first"
    assert most == 2


def test_what_runs_out_of_memory_beside_others_is_tried_once_more_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(_worker, "_work", misbehaving.work)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    jobs = [replace(job("wants_the_machine", exclusive=False), key=str(index)) for index in range(2)]
    jobs += [replace(job("starves_its_neighbour", exclusive=False), key=f"s{index}") for index in range(2)]
    jobs.append(job("out_of_memory", exclusive=False))
    ended = [one for one in local.launch(jobs, Settings(tmp_path, tmp_path, 60.0)) if isinstance(one, Finished)]
    assert sorted((one.job.measure.name, one.status) for one in ended) == [
        ("out_of_memory", "oom"),
        ("starves_its_neighbour", "ok"),
        ("starves_its_neighbour", "ok"),
        ("wants_the_machine", "ok"),
        ("wants_the_machine", "ok"),
    ]


def test_what_the_first_job_waits_for_the_server_of_workers_is_none_of_its_time(tmp_path, monkeypatch):
    """It loads torch, for seconds, or minutes from a slow disk; a process is started once it is done with that."""
    monkeypatch.setattr(_worker, "_work", misbehaving.work)
    loading = [0.0]
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + loading[0], sleep=time.sleep)
    start = ForkServerProcess.start

    def late(process):
        loading[0] += 1000
        start(process)

    monkeypatch.setattr(_worker, "time", clock)
    monkeypatch.setattr(ForkServerProcess, "start", late)
    (ended,) = (event for event in launch(tmp_path, [job("good")]) if isinstance(event, Finished))
    assert (ended.status, ended.values) == ("ok", {"x": 1.0})
    assert ended.wall_s < 1000


def test_on_a_system_without_forks_of_a_server_workers_are_spawned(tmp_path, monkeypatch):
    """And that does not tell which CPUs may be used: macOS."""
    assert (_worker._spawned("darwin"), _worker._spawned("linux")) == (True, False)
    monkeypatch.setattr(_worker, "_spawned", lambda: True)
    monkeypatch.setattr(_worker, "_work", misbehaving.work)
    monkeypatch.delattr(os, "sched_getaffinity")
    ended = [one for one in launch(tmp_path, [job("good")]) if isinstance(one, Finished)]
    assert [(one.status, one.values) for one in ended] == [("ok", {"x": 1.0})]


def test_closing_the_launcher_ends_its_workers(tmp_path, monkeypatch):
    monkeypatch.setattr(_worker, "_work", misbehaving.work)
    events = local.launch([job("hangs")], Settings(tmp_path, tmp_path, 60.0))
    pid = next(event.done for event in events if isinstance(event, Progress))
    os.kill(pid, 0)
    events.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def gone(pid, within=5.0):
    """Whether a process has ended, or does so soon."""
    until = time.monotonic() + within
    while time.monotonic() < until:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize(
    ("way", "status"), [("killed_with_a_child", "error"), ("hangs_with_a_child", "timeout"), ("leaves_a_child", "ok")]
)
def test_what_a_worker_has_started_ends_with_it(tmp_path, monkeypatch, way, status):
    monkeypatch.setattr(_worker, "_work", misbehaving.work)
    events = launch(tmp_path, [job(way)], timeout=5.0 if way == "hangs_with_a_child" else 60.0)
    (child,) = (event.done for event in events if isinstance(event, Progress) and event.stage == "a child")
    assert [event.status for event in events if isinstance(event, Finished)] == [status]
    assert gone(child)


def test_nothing_outlives_a_run_that_is_killed(tmp_path):
    """SIGKILL: nobody can tidy up, and worker and child hang; yet there are no orphans."""
    code = """
        from pathlib import Path
        from bench.launchers import _worker, local
        from tests.bench import misbehaving
        from tests.bench.launchers import test_local as tests
        _worker._work = misbehaving.work
        if __name__ == "__main__":
            for event in local.launch([tests.job("hangs_with_a_child")], tests.Settings(Path("c"), Path("p"), 60.0)):
                if isinstance(event, tests.Progress):
                    print(event.done, flush=True)
        """
    script = tmp_path / "hanging.py"
    script.write_text(textwrap.dedent(code))
    environment = {**os.environ, "PYTHONPATH": str(catalogue.ROOT)}
    with subprocess.Popen([sys.executable, script], cwd=tmp_path, env=environment, text=True, stdout=-1) as process:
        child, worker = int(process.stdout.readline()), int(process.stdout.readline())
        os.kill(worker, 0)
        process.kill()
    assert gone(worker)
    assert gone(child)
