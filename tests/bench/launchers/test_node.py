"""A node's process: the same events as the local launcher's, files with them, and no trace of what carries them."""

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from bench.launchers import _agent, _node, local
from bench.launchers._agent import Agent, Ended
from bench.launchers.contract import Finished, Progress, Settings, Started
from bench.plan import listing, matrix
from bench.plan.dataset import Roots
from bench.plan.environment import describe
from bench.plan.measure import IMAGES, MODEL
from bench.run import plan
from bench.store.store import Store
from tests.bench.data.fixtures import WRITERS
from tests.bench.launchers.test_bundles import job


@pytest.fixture
def agent():
    found = Agent()
    yield found
    found.close()


def planned(tmp_path, **axes):
    """Jobs as a run plans them."""
    usual = {"backbone": ["vit_pico"], "head": ["linear"], "patch": ["16"], "resolution": ["64"], "recipe": ["smoke"]}
    asked = matrix.load("default").override({**usual, "seed": ["0"], **axes})
    return [one.job for one in plan(asked, describe(), Store(tmp_path / "store"), Roots()).todo]


def figures(ended):
    """What does not depend on how busy the machine is."""
    timed = {"train_s", "data_wait_pct"}
    return {one.job.key: (one.status, {name: one.values[name] for name in {*one.values} - timed}) for one in ended}


@pytest.mark.slow
def test_who_asks_no_more_ends_what_runs_and_nothing_is_left(tmp_path, agent, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    ours = Agent()
    jobs = planned(tmp_path, measure=["accuracy"], recipe=["short"])
    stream = ours.run(jobs, Settings(tmp_path / "cache", tmp_path / "a/b/pictures", 600.0), tmp_path, tmp_path)
    while not any(isinstance(event, Progress) for event in next(stream).events):
        pass
    assert list(tmp_path.glob("densebench-*"))
    session = [int(pid) for pid in children(ours._process.pid)]
    ours.close()
    until = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in session) and time.monotonic() < until:
        time.sleep(0.1)
    assert session
    assert not any(Path(f"/proc/{pid}").exists() for pid in session)
    assert not list(tmp_path.glob("densebench-*"))


def children(pid):
    """All that a process has started, and what that has."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [*found, *(one for child in found for one in children(child))]


@pytest.mark.slow
def test_a_node_sends_what_the_local_launcher_tells_and_the_files_with_it(tmp_path, agent, monkeypatch):
    monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path / "cache"))
    jobs = planned(tmp_path, measure=["complexity", "accuracy"])
    folder = tmp_path / "results" / "here"
    settings = Settings(
        tmp_path / "cache", folder / "pictures", 120.0, images=folder / "images", models=folder / "models"
    )
    batches = list(agent.run(jobs, settings, tmp_path / "results", tmp_path))
    ended = [event for batch in batches for event in batch.events if isinstance(event, Finished)]
    here = [event for event in local.launch(jobs, settings) if isinstance(event, Finished)]
    assert figures(ended) == figures(here)
    assert all(one.environment == describe() for one in ended)
    (trained,) = (one for one in ended if one.job.measure.trains)
    files = {(kind, name): content for batch in batches for kind, name, content in batch.files}
    written = {(path.parent.name, path.name): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert files == written, "pictures, images and models, byte for byte"
    assert ("images", f"{trained.values[IMAGES]}.npz") in files
    assert ("models", f"{trained.values[MODEL]}.safetensors") in files


def test_what_ray_sets_in_its_workers_is_neither_measured_nor_described(monkeypatch):
    raylet = "4711"
    monkeypatch.setenv("RAY_RAYLET_PID", raylet)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(_agent, "_started_with", lambda pid: {"CUDA_VISIBLE_DEVICES": "1"} if pid == raylet else {})
    clean = _agent._clean()
    assert "OMP_NUM_THREADS" not in clean
    assert clean["CUDA_VISIBLE_DEVICES"] == "1", "as the node was started"
    started = {"LD_PRELOAD": "/ray/libjemalloc.so", "RAY_LD_PRELOAD_ON_WORKERS": "0", "MKL_NUM_THREADS": "2"}
    monkeypatch.setattr(_agent, "_started_with", lambda pid: started)
    assert "LD_PRELOAD" not in _agent._clean(), "the allocator of Ray's server"
    assert _agent._clean()["MKL_NUM_THREADS"] == "2"
    monkeypatch.setenv("MKL_CBWR", "COMPATIBLE")
    assert "MKL_CBWR" not in _agent._clean(), "nor what else changes speed"


def test_the_variables_of_another_process_are_read(monkeypatch):
    assert _agent._started_with(str(os.getpid())).get("PATH") == os.environ["PATH"]
    assert _agent._started_with("") == {}


def test_an_agent_that_dies_says_what_its_process_said_last(agent):
    with pytest.raises(Ended, match=r"exit code 1 \|.*TypeError"):
        agent.ask("look", "too", "many", "arguments")


def test_the_process_ends_with_whoever_asks(agent):
    agent.ask("about")
    pid = agent._process.pid
    agent._process.stdin.close()
    agent._process.wait(30)
    assert not Path(f"/proc/{pid}").exists()


def test_a_data_set_may_lie_elsewhere_on_a_node_but_has_to_be_the_same(tmp_path, monkeypatch):
    ours, theirs = tmp_path / "ours" / "voc", tmp_path / "theirs" / "voc"
    for root in (ours, theirs):
        WRITERS["voc"](root)
    name = ("voc", "segmentation", ours)
    wanted = _node.Needs(Path.cwd(), ((*name, listing.digest(*name, kept=tmp_path / "cache")),))
    assert _node.look(wanted) == ""
    ours.rename(tmp_path / "gone")
    assert f"it has no folder {ours}" in _node.look(wanted)
    monkeypatch.setenv(_node.VARIABLE, str(theirs.parent))
    assert _node.here(ours) == theirs
    assert _node.look(wanted) == ""
    monkeypatch.setenv(_node.VARIABLE, f"/nowhere{os.pathsep}{theirs}")
    assert _node.here(ours) == theirs, "or the folder itself"
    moved = _node._mapped(replace(job("x"), root=ours, without=(str(ours / "JPEGImages" / "a.jpg"),)))
    assert (moved.root, moved.without) == (theirs, (str(theirs / "JPEGImages" / "a.jpg"),))
    next((theirs / "JPEGImages").iterdir()).unlink()
    assert f"data set voc in {theirs} has other files" in _node.look(wanted)


def test_weights_in_a_file_have_to_be_there_and_the_same(tmp_path):
    weights = tmp_path / "w.safetensors"
    weights.write_bytes(b"weights")
    one = job("x")
    one = replace(one, cell=replace(one.cell, weights=str(weights)), measure=replace(one.measure, fields=("weights",)))
    wanted = _node.needs([one])
    assert _node.look(wanted) == ""
    weights.write_bytes(b"others.")
    assert f"no file {weights}, or another one" in _node.look(wanted)


def test_of_steps_that_come_fast_the_last_one_is_sent(monkeypatch):
    a, b = job("a"), job("b")
    steps = [Progress(a, "training", done, 9) for done in range(9)]
    sent = list(_node._together([Started(a), *steps, Progress(b, "training", 1, 9), Finished(a, "ok", "", "", 1.0)]))
    assert [len(batch) for batch in sent] == [1, 3]
    assert [event.done for event in sent[1][:2]] == [8, 1]
