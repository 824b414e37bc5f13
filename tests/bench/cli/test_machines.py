"""A launcher that reaches several kinds of machines: each is planned and kept by itself."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from bench import catalogue, cli
from bench.errors import UserError
from bench.launchers.contract import Finished, Machine, Started
from bench.plan.environment import describe
from bench.store.store import Store

HERE = replace(describe(), gpus=[])
SMALL = replace(HERE, id="small", comparable="small", cpu="Small", cores=1)
LARGE = replace(HERE, id="large", comparable="large", cpu="Large", cores=8)
WORDS = ["--backbone", "vit_pico", "--head", "linear", "--patch", "16", "--resolution", "64", "--measure", "latency"]


@pytest.fixture
def cluster(monkeypatch, tmp_path):
    """Runs on a cluster that measures nothing, and what was launched there."""
    found = SimpleNamespace(
        kinds=[Machine(SMALL, ("a",)), Machine(LARGE, ("b", "c"))], launched=[], at={}, status={}, folder=tmp_path
    )

    def launch(jobs, settings):
        found.launched.append((settings.comparable, settings.address, {job.cell.threads for job in jobs}))
        for job in jobs:
            yield Started(job)
            status = found.status.get(settings.comparable, "ok")
            values = {job.measure.columns[0].name: 1.0} if status == "ok" else {}
            yield Finished(
                job,
                status,
                "" if status == "ok" else "because",
                "",
                0.5,
                values,
                environment=found.at.get(job.cell.threads),
            )

    module = SimpleNamespace(launch=launch, machines=lambda address: found.kinds)
    entry = SimpleNamespace(facts={"machines": True}, load=lambda: module)
    real = catalogue.get
    monkeypatch.setattr(
        catalogue, "get", lambda kind, name: entry if (kind, name) == ("launchers", "ray") else real(kind, name)
    )

    def run(*words):
        return cli.app(["run", "--launcher", "ray", "--results", str(tmp_path), *WORDS, *words], standalone_mode=False)

    found.run = run
    return found


def test_every_kind_of_machine_has_its_folder_and_its_own_plan(cluster, capsys):
    assert not cluster.run("--address", "there:1")
    assert {(kind, address) for kind, address, _ in cluster.launched} == {("small", "there:1"), ("large", "there:1")}
    assert {(kind, *threads) for kind, _, threads in cluster.launched} == {("small", 1), ("large", 8)}
    kept = {path.name: {one.environment for one in Store(path).records()} for path in cluster.folder.iterdir()}
    assert kept == {"small-1-cores": {"small"}, "large-8-cores": {"large"}}
    said = capsys.readouterr()
    assert "on 2 nodes: b, c (Large, 8 cores" in said.out
    assert "2 kinds of machines, measured one after the other: small-1-cores (a); large-8-cores (b, c)" in said.err


def test_one_kind_may_be_chosen_and_one_that_is_not_there_is_named(cluster):
    cluster.run("--machine", "large-8-cores")
    assert [path.name for path in cluster.folder.iterdir()] == ["large-8-cores"]
    with pytest.raises(UserError, match=r"no such kind of machines, but small-1-cores \(a\); large"):
        cluster.run("--machine", "medium")
    cluster.kinds = cluster.kinds[:1]
    cluster.run("--machine", "mine")
    assert {path.name for path in cluster.folder.iterdir()} == {"large-8-cores", "mine"}, "of one kind it is the name"


def test_what_can_show_one_machine_alone_wants_it_chosen(cluster, capsys):
    with pytest.raises(UserError, match="choose it with --machine"):
        cluster.run("--csv")
    with pytest.raises(UserError, match="choose it with --machine"):
        cluster.run("--dry-run", "--json")
    capsys.readouterr()
    cluster.run("--dry-run", "--json", "--machine", "small-1-cores")
    assert capsys.readouterr().out.startswith("[")
    assert not cluster.launched


def test_a_failure_on_one_kind_keeps_none_from_the_others(cluster):
    cluster.status["small"] = "error"
    assert cluster.run() == 1
    assert {one.status for one in Store(cluster.folder / "large-8-cores").records()} == {"ok"}


def test_a_record_says_on_which_node_it_was_made_where_nodes_differ_in_what_is_no_difference(cluster):
    cluster.kinds = cluster.kinds[:1]
    cluster.at = {1: replace(SMALL, id="twin", git="unknown")}
    cluster.run()
    store = Store(cluster.folder / "small-1-cores")
    assert {one.environment for one in store.records()} == {"twin"}
    assert set(store.environments()) == {"small", "twin"}
    cluster.launched.clear()
    cluster.run()
    assert not cluster.launched, "what a comparable node has measured is not measured again"


def test_an_address_is_of_a_cluster(cluster):
    with pytest.raises(UserError, match="--launcher local measures on this machine"):
        cli.app(["run", "--launcher", "local", "--address", "x:1", *WORDS], standalone_mode=False)
