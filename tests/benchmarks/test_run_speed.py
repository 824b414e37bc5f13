"""What a run costs beside its measurements: planning, and the fixed cost of a process a cell."""

import pytest

from bench import run
from bench.launchers import _worker, local
from bench.launchers.contract import Finished, Settings
from bench.plan import matrix
from bench.plan.dataset import Roots
from bench.plan.environment import describe
from bench.store.store import Store
from tests.bench import misbehaving
from tests.bench.launchers.test_local import job

pytestmark = pytest.mark.slow


def test_planning_hundreds_of_measurements(benchmark, tmp_path):
    here = describe()
    seeds = [str(seed) for seed in range(40)]
    question = matrix.load("default").override({"seed": seeds, "measure": ["accuracy"]})
    plan = benchmark(run.plan, question, here, Store(tmp_path), Roots())
    assert len(plan.todo) > 500


def test_fixed_cost_of_a_cell(benchmark, tmp_path, monkeypatch):
    """One measurement that does nothing, from start to its event, once the fork server stands."""
    monkeypatch.setattr(_worker, "_work", misbehaving.work)
    settings = Settings(tmp_path, tmp_path, 60.0)

    def cell():
        return [event for event in local.launch([job("good")], settings) if isinstance(event, Finished)]

    assert cell()[0].status == "ok"
    assert benchmark(cell)[0].status == "ok"
