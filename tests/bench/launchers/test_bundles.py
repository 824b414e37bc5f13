"""Which jobs a node gets, and what becomes of those of a lost one."""

from dataclasses import replace

import pytest

from bench.launchers._bundles import RETRIES, Bundles
from bench.launchers.contract import Job
from bench.plan.cell import Cell
from bench.plan.measure import Measure
from tests.bench import records

CELL = Cell(**records.CELL)


@pytest.fixture
def jobs():
    return lambda name, count, **facts: [job(f"{name}{index}", name, **facts) for index in range(count)]


def job(key, name="m", *, exclusive=False, interleaved="", seconds=10.0, device="cpu"):
    measure = Measure(name, 1, ("backbone",), (), exclusive, seconds, interleaved=interleaved)
    return Job(measure, replace(CELL, device=device), None, key)


SLOTS = {"cpu": 4, "cuda": 1}


def taken(bundles, nodes=2):
    found = []
    while bundle := bundles.take(nodes, SLOTS):
        found.append([job.key for job in bundle])
    return found


def test_the_order_is_that_of_the_local_launcher_and_groups_stay_together(jobs):
    asked = [
        *jobs("train", 2),
        *jobs("timed", 5, exclusive=True, interleaved="t_ms"),
        *jobs("alone", 2, exclusive=True),
        *jobs("quick", 3, seconds=1.0),
    ]
    assert taken(Bundles(asked, group=3)) == [
        ["quick0", "quick1", "quick2"],
        ["timed0", "timed1", "timed2"],
        ["alone0"],
        ["alone1"],
        ["timed3", "timed4"],
        ["train0", "train1"],
    ]


def test_bundles_shrink_to_what_a_node_runs_at_a_time(jobs):
    sizes = [len(bundle) for bundle in taken(Bundles(jobs("train", 64), 16))]
    assert sum(sizes) == 64
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == 16
    assert min(sizes[:-1]) == 4
    on_gpus = [len(bundle) for bundle in taken(Bundles(jobs("train", 8, device="cuda:0"), 16))]
    assert on_gpus[-1] == 1


def test_a_node_with_several_cards_gets_a_group_for_each_and_leaves_the_others_their_share(jobs):
    def sizes(nodes, cards, device="cuda:0"):
        bundles = Bundles(jobs("timed", 12, exclusive=True, interleaved="t_ms", device=device), group=3)
        found = []
        while bundle := bundles.take(nodes, {"cpu": 4, "cuda": cards}):
            found.append(len(bundle))
        return found

    assert sizes(1, 8) == [12], "of one launcher, which slices them as the local one does"
    assert sizes(1, 2) == [6, 6]
    assert sizes(2, 8) == [6, 3, 3]
    assert sizes(4, 8) == [3, 3, 3, 3]
    assert sizes(1, 8, "cpu") == [3, 3, 3, 3]


def test_a_lost_group_is_tried_again_as_one_and_then_each_by_itself(jobs):
    bundles = Bundles(jobs("timed", 3, exclusive=True, interleaved="t_ms"), 16)
    bundle = bundles.take(1, SLOTS)
    assert bundles.put_back(bundle, ["timed0", "timed1"], "a") == []
    bundle = bundles.take(1, SLOTS)
    assert [one.key for one in bundle] == ["timed0", "timed1", "timed2"]
    assert bundles.put_back(bundle, ["timed0", "timed1"], "b") == []
    assert taken(bundles) == [["timed2"], ["timed0"], ["timed1"]]
    assert bundles.losses == {"timed0": ["a", "b"], "timed1": ["a", "b"]}


def test_a_job_is_given_up_after_so_many_nodes_and_one_that_only_waited_never(jobs):
    bundles = Bundles(jobs("train", 2), 16)
    for time in range(RETRIES + 1):
        bundle = bundles.left
        while bundles.take(1, SLOTS):
            pass
        given_up = bundles.put_back(bundle, ["train0"], f"node{time}")
        assert [one.key for one in given_up] == (["train0"] if time == RETRIES else [])
    assert [one.key for one in bundles.left] == ["train1"]
    assert bundles.losses == {"train0": ["node0", "node1", "node2"]}
