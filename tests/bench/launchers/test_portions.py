"""In which order jobs go, without a process."""

from dataclasses import replace
from itertools import product

import pytest

from bench.launchers.contract import Job
from bench.launchers.local import _portions, _quick
from bench.plan import matrix
from bench.plan.environment import describe
from bench.plan.measure import measures

SIZES = [64, 96, 128, 160]


@pytest.fixture(scope="module")
def jobs():
    """Three measures of four cells, in the order of a plan."""
    asked = {"backbone": ["vit_pico"], "head": ["linear"], "patch": ["16"], "resolution": ["64"], "batch": ["2"]}
    cell = next(iter(matrix.load("default").override(asked).cells(describe())))[0]
    names = ["complexity", "latency", "accuracy"]
    return [
        Job(measures()[name], replace(cell, height=size, width=size), None, f"{size} {name}")
        for size, name in product(SIZES, names)
    ]


def on(device, jobs, **fields):
    return [replace(job, cell=replace(job.cell, device=device, **fields)) for job in jobs]


def test_on_a_card_all_of_some_cells_comes_before_anything_of_the_next(jobs):
    portions = _portions(on("cuda", jobs), 3)
    assert [len(portion) for portion in portions] == [9, 3]
    assert [job.key for portion in portions for job in portion] == [job.key for job in jobs]


def test_on_a_cpu_what_is_quick_of_all_cells_comes_first(jobs):
    assert _portions(jobs, 3) == [jobs]


def test_a_cell_that_comes_again_later_stays_with_its_own(jobs):
    moved = on("cuda", [*jobs[1:], jobs[0]])
    assert [{job.cell.height for job in portion} for portion in _portions(moved, 2)] == [{64, 96}, {128, 160}]


@pytest.mark.parametrize(
    ("compiled", "first"), [("none", True), ("cudagraph", True), ("default", False), ("max-autotune", False)]
)
def test_the_memory_of_what_has_to_be_compiled_waits_for_the_latency_that_compiles_it(jobs, compiled, first):
    memory = replace(jobs[0], measure=measures()["memory"])
    assert [_quick(job) for job in on("cpu", [memory], compile=compiled)] == [first]
    assert _quick(jobs[0]), "a count compiles nothing"
