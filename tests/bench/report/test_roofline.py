"""Shares of a latency, with numbers that can be worked out by hand."""

from collections import Counter

import pytest

from bench.plan.measure import COMPANY
from bench.report import rows
from bench.report.roofline import roofline
from bench.store.record import Record
from tests.bench.records import write
from tests.bench.report.cells import record

# 5 GMACs x 4 images are 40 GFLOP: 20 ms at 2 TFLOP/s. 2^30 bytes at 100 x 2^30 a second: 10 ms. 100 x 30 µs: 3 ms.
KNOWN = {
    "gmacs": 5.0,
    "batch": 4,
    "latency_ms": 40.0,
    "traffic_mib": 1024.0,
    "operations": 100.0,
    "peak_tflops": 2.0,
    "copy_gbps": 2**30 / 1e9 * 100,
    "launch_us": 30.0,
}


def test_shares_are_the_time_that_each_limit_alone_would_take():
    found = roofline(**KNOWN)
    assert found.mfu_pct == pytest.approx(50)
    assert found.traffic_pct == pytest.approx(25)
    assert found.launches_pct == pytest.approx(7.5)
    assert found.bound == "arithmetic"


@pytest.mark.parametrize(
    ("changed", "bound"),
    [
        ({"peak_tflops": 8.0}, "memory traffic"),
        ({"traffic_mib": 2200.0}, "memory traffic"),
        ({"operations": 1000.0}, "launch overhead"),
        ({"launch_us": 300.0}, "launch overhead"),
        ({"copy_gbps": 1e9, "peak_tflops": 1e9}, "launch overhead"),
    ],
)
def test_the_bound_is_the_largest_share(changed, bound):
    assert roofline(**(KNOWN | changed)).bound == bound


def test_only_arithmetic_counts_images_for_traffic_and_operations_are_of_the_batch():
    one, eight = roofline(**(KNOWN | {"batch": 1})), roofline(**(KNOWN | {"batch": 8}))
    assert eight.mfu_pct == pytest.approx(8 * (one.mfu_pct or 0))
    assert (eight.traffic_pct, eight.launches_pct) == (one.traffic_pct, one.launches_pct)


@pytest.mark.parametrize(
    ("unknown", "share"),
    [
        ("gmacs", "mfu_pct"),
        ("peak_tflops", "mfu_pct"),
        ("traffic_mib", "traffic_pct"),
        ("copy_gbps", "traffic_pct"),
        ("operations", "launches_pct"),
        ("launch_us", "launches_pct"),
    ],
)
@pytest.mark.parametrize("value", [None, float("nan")])
def test_an_unknown_input_leaves_its_share_and_the_bound_unknown(unknown, share, value):
    found = roofline(**(KNOWN | {unknown: value}))
    assert found.bound == "?"
    shares = {name: getattr(found, name) for name in ("mfu_pct", "traffic_pct", "launches_pct")}
    assert [name for name, number in shares.items() if number is None] == [share]


@pytest.mark.parametrize("latency", [None, 0.0, -1.0])
def test_without_a_latency_nothing_is_known(latency):
    found = roofline(**(KNOWN | {"latency_ms": latency}))
    assert (found.mfu_pct, found.traffic_pct, found.launches_pct, found.bound) == (None, None, None, "?")


def test_no_operations_are_known_to_cost_nothing():
    found = roofline(**(KNOWN | {"operations": 0.0}))
    assert found.launches_pct == 0
    assert found.bound == "arithmetic"


def test_a_machine_can_do_the_best_that_was_measured_of_it():
    """A neighbour makes a later measurement slower; the machine is the same. Of one in company nothing is kept."""

    def measured(peak, copy, launch, start, company=""):
        values = {"peak_tflops": peak, "copy_gbps": copy, "launch_us": launch} | ({COMPANY: company} if company else {})
        fields = {"dtype": "fp32", "device": "cpu", "threads": 2}
        return Record("roof", 1, fields, {}, "here", "ok", "", values, {}, f"2026-01-0{start}")

    records = [measured(0.3, 20.0, 2.0, 1), measured(0.2, 21.0, 1.5, 2), measured(0.1, 19.0, 3.0, 3)]
    left_out: Counter[str] = Counter()
    (found,) = rows._current([*records, measured(9.0, 99.0, 0.1, 4, "a neighbour")], left_out)
    assert found.values == {"peak_tflops": 0.3, "copy_gbps": 21.0, "launch_us": 1.5}
    assert left_out.total() == 3
    (alone,) = rows._current([measured(9.0, 99.0, 0.1, 1, "a neighbour"), records[0]], left_out)
    assert alone.values["peak_tflops"] == 0.3


@pytest.mark.parametrize(
    ("mode", "launches_pct"),
    [
        ({"compile": "none", "device": "cuda"}, 75.0),
        ({"compile": "default", "device": "cuda"}, 75.0),
        ({"compile": "cudagraph", "device": "cuda"}, 0.05),
        ({"compile": "max-autotune", "device": "cuda:1"}, 0.05),
        ({"compile": "max-autotune", "device": "cpu"}, 75.0),  # there it records no graph
    ],
)
def test_a_recorded_pass_is_one_launch(tmp_path, mode, launches_pct):
    latency = {"latency_ms": 10.0, "operations": 1500, "traffic_mib": 10.0}
    folder = write(
        tmp_path / "box",
        [
            record("latency", 64, **latency, **mode),
            record("roof", 64, peak_tflops=1.0, copy_gbps=100.0, launch_us=5.0, **mode),
        ],
    )
    (row,) = rows.read(folder).tables[0].rows
    assert row.limits.launches_pct == pytest.approx(launches_pct)
