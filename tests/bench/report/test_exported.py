"""What tables say below of models that ran elsewhere than in torch."""

from types import SimpleNamespace

import pytest

from bench.plan.measure import CALIBRATION, DECODING
from bench.report.exported import sentences
from bench.report.rows import read
from tests.bench.records import make, write


def table(*records):
    part = [SimpleNamespace(records=[record]) for record in records]
    return [SimpleNamespace(rows=[SimpleNamespace(parts=dict(enumerate(part)))])]


def record(head="linear", measure="latency", quantise="none", **values):
    fields = {"backbone": "vit", "head": head, "runtime": "openvino", "quantise": quantise}
    return SimpleNamespace(measure=measure, fields=fields, values=values)


def test_nothing_is_said_of_what_ran_in_torch():
    assert sentences(table(record(), record(measure="accuracy", **{CALIBRATION: "64 images of train"}))) == []


def test_where_a_model_is_decoded_is_said_and_why_not_in_its_graph():
    (all_so,) = sentences(table(record(**{DECODING: "in the graph"})))
    assert all_so.endswith("; all are so.")
    rows = [record(**{DECODING: "in the graph"}), *(record(head, **{DECODING: "in torch: no NMS"}) for head in "ab")]
    _, named = sentences(table(*rows))
    assert named == "Decoded in torch: vit a openvino none, vit b openvino none: no NMS"


def test_times_of_int8_are_told_from_what_it_loses():
    (text,) = sentences(table(record(quantise="int8-static", **{CALIBRATION: "noise"})))
    assert "nobody trained, calibrated by noise" in text


@pytest.mark.usefixtures("known")
def test_records_as_they_are_read_have_what_is_named(tmp_path):
    write(tmp_path / "box", [make("turns", turn_ms=1.0, **{DECODING: "in torch: no NMS"})])
    _, named = sentences(read(tmp_path / "box").tables)
    assert named.startswith("Decoded in torch: ")
