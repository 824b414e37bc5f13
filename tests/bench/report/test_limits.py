"""Limits as people write them: units, what can be read in two ways, what contradicts itself."""

import pytest

from bench.errors import UserError
from bench.report import limits


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("max-latency", "20ms", 20.0),
        ("max-latency", "0.02 s", 20.0),
        ("max-latency", "500us", 0.5),
        ("max-memory", "2GiB", 2048.0),
        ("max-memory", "1GB", 1e9 / 2**20),
        ("max-params", "25M", 25.0),
        ("max-params", "0.3B", 300.0),
        ("max-energy", "500mJ", 0.5),
        ("min-images-per-s", "100", 100.0),
        ("min-images-per-s", "1e2/s", 100.0),
    ],
)
def test_a_unit_is_turned_into_that_of_the_column(name, text, value):
    found = limits.option(name, text)
    assert found.value == pytest.approx(value)
    assert found.bound == ("most" if name.startswith("max") else "least")
    assert found.holds(value)
    assert found.holds(value * 0.9) == (found.bound == "most")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("max-latency", "20", r"--max-latency 20: of what\? Say the unit, e.g. 20ms \(ns, us, µs, ms or s\)"),
        ("max-params", "25", r"of what\?"),
        ("max-memory", "2G", r"may be 2GB or 2GiB: say which"),
        ("max-latency", "2m", r"may be 2ms or 2min"),
        ("max-latency", "2GiB", r"unknown unit 'GiB'; latency is in ns"),
        ("max-latency", "fast", r"a number is wanted, e.g. 20ms, and 'fast' came"),
        ("max-latency", "nan", r"a number is wanted"),
        ("max-latency", "1e999ms", r"a number is wanted"),
    ],
)
def test_what_is_no_amount_is_refused(name, text, message):
    with pytest.raises(UserError, match=message):
        limits.option(name, text)


def test_an_expression_is_in_the_unit_of_its_column():
    found = limits.expression("latency_ms <= 20")
    assert (found.name, found.bound, found.value, str(found)) == ("latency_ms", "most", 20.0, "latency ≤ 20 ms")
    assert limits.expression("miou>=45").bound == "least"
    assert limits.expression("peak_mib<=1GiB").value == 1024
    assert limits.expression("class_iou[Pole]>=5%").name == "class_iou[Pole]"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("latency_ms<20", r"write latency_ms<=20"),
        ("latency<=20", r"unknown column 'latency': did you mean latency_ms"),
        ("tokens<=20", r"has no better or worse"),
        ("<=20", r"COLUMN<=VALUE or COLUMN>=VALUE is wanted"),
        ("latency_ms<=", r"COLUMN<=VALUE or COLUMN>=VALUE is wanted"),
    ],
)
def test_what_is_no_expression_is_refused(text, message):
    with pytest.raises(UserError, match=message):
        limits.expression(text)


def test_limits_that_contradict_each_other_are_refused():
    most, least = limits.expression("latency_ms<=10"), limits.expression("latency_ms>=20")
    with pytest.raises(UserError, match="contradict each other: no latency_ms is within both"):
        limits.checked([most, least])
    with pytest.raises(UserError, match="both limit latency_ms: give one of them"):
        limits.checked([most, limits.option("max-latency", "12ms")])
    assert limits.checked([most, most, limits.expression("latency_ms>=5")])[0] is most


def test_how_far_a_value_is_beyond():
    most, least = limits.expression("latency_ms<=10"), limits.expression("miou>=40")
    assert (most.excess(12), most.excess(9), least.excess(30)) == (pytest.approx(0.2), 0.0, pytest.approx(0.25))
