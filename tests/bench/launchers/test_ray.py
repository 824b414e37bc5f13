"""The Ray launcher on a real cluster of two nodes on this machine, one of which is killed in the middle."""

import subprocess
import sys
from dataclasses import replace

import pytest

from bench import run
from bench.errors import UserError
from bench.launchers import _cluster, ray
from bench.launchers.contract import Finished, Settings
from bench.plan import matrix
from bench.plan.dataset import Roots
from bench.plan.environment import describe
from bench.store.store import Store

cluster_utils = pytest.importorskip("ray.cluster_utils", reason="Ray is not installed: pip install -e '.[ray]'")


@pytest.fixture(scope="module")
def cluster():
    patch = pytest.MonkeyPatch()
    patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    patch.setenv("RAY_memory_monitor_refresh_ms", "0")
    made = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    made.workers = [made.add_node(num_cpus=1) for _ in range(2)]
    yield made
    _cluster._connected(made.address).shutdown()
    _cluster._connected.cache_clear()
    made.shutdown()
    patch.undo()


def figures(records):
    """What does not depend on how busy the machine is."""
    timed = {"train_s", "data_wait_pct"}
    return {
        key: (one.status, {name: one.values[name] for name in {*one.values} - timed}) for key, one in records.items()
    }


@pytest.mark.slow
def test_with_a_node_lost_in_the_middle_the_records_are_those_of_the_local_launcher(cluster, tmp_path):
    question = matrix.load("default").override(
        {
            "backbone": ["vit_pico", "hybrid_pico", "deit_pico"],
            "head": ["linear"],
            "patch": ["native"],
            "resolution": ["64"],
            "measure": ["complexity", "accuracy"],
            "recipe": ["smoke"],
            "seed": ["0"],
        }
    )
    (kind,) = ray.machines(cluster.address)
    assert kind.environment.comparable == describe().comparable, "what Ray sets in its workers is no part of it"
    assert len(kind.nodes) == 2

    def measured(launcher, environment, show=lambda event: None):
        store = Store(tmp_path / launcher)
        plan = run.plan(question, environment, store, Roots())
        settings = Settings(
            tmp_path / "cache",
            store.folder / "pictures",
            120.0,
            images=store.folder / "images",
            address=cluster.address,
        )
        summary = run.run(plan, store, settings, launcher=launcher, show=show, say=lambda text: None)
        assert not summary.failed
        return store

    def kill(event):
        if isinstance(event, Finished) and len(cluster.workers) == 2:
            cluster.remove_node(cluster.workers.pop(), allow_graceful=False)

    there = measured("ray", kind.environment, kill)
    here = measured("local", describe())
    found, wanted = ({one.key: one for one in store.records()} for store in (there, here))
    assert len(cluster.workers) == 1
    assert len(there.records()) == len(found), "one record each"
    assert figures(found) == figures(wanted)
    files = [sorted((path.name, path.read_bytes()) for path in one.folder.glob("images/*")) for one in (there, here)]
    assert files[0] == files[1]
    assert len(files[0]) == 3
    assert sorted(path.name for path in there.folder.glob("pictures/*")) == sorted(
        path.name for path in here.folder.glob("pictures/*")
    )
    (described,) = there.environments().values()
    assert replace(described, id="", git="") == replace(describe(), id="", git="")


def test_without_ray_and_without_a_cluster_the_user_hears_what_to_do(monkeypatch):
    _cluster._connected.cache_clear()
    with pytest.raises(UserError, match=r"no Ray cluster answers at 127\.0\.0\.1:1 .*docs/cluster\.md"):
        ray.machines("127.0.0.1:1")
    with pytest.raises(UserError, match="one of Ray's client"):
        ray.machines("ray://somewhere:10001")


def test_without_the_extra_the_user_hears_what_to_install():
    script = (
        "import sys; sys.modules['ray'] = None\n"
        "from bench.launchers import ray\n"
        "from bench.errors import UserError\n"
        "try: ray.machines('')\n"
        "except UserError as error: print(error)"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "pip install 'densebench[ray]'" in found.stdout
