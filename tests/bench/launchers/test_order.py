"""Which jobs share a training, and in which order they go."""

from dataclasses import replace

import pytest

from bench.launchers._order import trained_once
from bench.launchers.contract import Finished, Job
from bench.plan.cell import Cell
from bench.plan.measure import measures
from bench.store.record import question
from tests.bench.records import CELL

VARY = ("runtime", "quantise", "seed")


def job(measure="accuracy", *, vary=VARY, inputs=None, **fields):
    cell, found = Cell(**{**CELL, **fields}), measures()[measure]
    said = {} if cell.runtime == "torch" else {"runtime": f"{cell.runtime} 1.0"}
    key = question(measure, found.version, cell.part(found.fields), {"recipe": "a", **said, **(inputs or {})})
    return Job(found, cell, None, key, vary)


def test_runtimes_and_quantisations_of_a_cell_have_one_training():
    plain = job()
    assert plain.training == plain.key, "as it was before there were runtimes"
    others = [job(runtime="openvino"), job(runtime="openvino", quantise="int8-static"), job(quantise="int8-weights")]
    assert {one.training for one in others} == {plain.key}
    assert len({one.key for one in (plain, *others)}) == 4
    for other in (job(seed=1), job(dtype="bf16"), job(inputs={"recipe": "b"})):
        assert other.training != plain.key
    latency = job("latency", runtime="openvino")
    assert latency.training == latency.key


@pytest.mark.parametrize(
    ("one", "shares"),
    [
        (job(), True),
        (job(vary=("seed",)), False),
        (job(vary=(), runtime="openvino"), True),
        (job(vary=(), quantise="int8-weights"), True),
        (job("latency"), False),
        (job("training"), False),
    ],
)
def test_weights_are_kept_where_others_may_take_them(one, shares):
    assert one.shares == shares


def test_who_takes_weights_comes_after_those_who_train():
    jobs = [job(seed=seed, runtime=runtime) for seed in (0, 1) for runtime in ("torch", "openvino")]
    timed = [job("latency"), job("latency", runtime="openvino")]
    assert trained_once([*timed, *jobs]) == [*timed, jobs[0], jobs[2], jobs[1], jobs[3]]
    alone = [replace(one, vary=()) for one in (jobs[0], jobs[2])]
    assert trained_once(alone) == alone


@pytest.mark.parametrize(
    ("fields", "status", "over"),
    [
        ({}, "ok", True),
        ({}, "invalid", True),
        ({}, "unsupported", True),
        ({}, "timeout", False),
        ({"runtime": "openvino"}, "ok", True),
        ({"runtime": "openvino"}, "unsupported", False),
        ({"quantise": "int8-weights"}, "invalid", False),
    ],
)
def test_what_a_runtime_cannot_do_ends_no_training(fields, status, over):
    assert Finished(job(**fields), status, "", "", 1.0).trained == over
