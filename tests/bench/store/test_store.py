import gc
import json
from dataclasses import replace

import pytest

from bench.errors import UserError
from bench.store.record import Record, better, parse
from bench.store.store import RECORDS, Store, no_collection
from tests.bench.records import make

FIELDS = {"backbone": "vit_pico", "window": "keep", "padding": "refuse", "memory_format": "contiguous"}
RECORD = Record("latency", 1, FIELDS, {}, "here", "ok", values={"latency_ms": 1.5, "unknown": None})


def test_what_is_written_is_read_back(tmp_path):
    store = Store(tmp_path / "new" / "machine")
    with store.writing() as writer:
        writer.record(RECORD)
        writer.record(RECORD)
    assert store.records() == [RECORD, RECORD]
    assert store.records()[0].values["unknown"] is None


def test_a_record_from_before_a_field_existed_has_the_value_it_was_measured_with():
    old = replace(RECORD, fields={"backbone": "vit_pico"})
    assert parse(old.line(), "here") == RECORD
    assert parse(old.line(), "here").key == RECORD.key
    unknown = replace(old, measure="of another version")
    assert parse(unknown.line(), "here").fields == {"backbone": "vit_pico"}


def test_an_empty_store_has_no_records(tmp_path):
    assert Store(tmp_path / "nowhere").records() == []
    assert Store(tmp_path / "nowhere").environments() == {}


def test_a_torn_last_line_is_named_and_costs_only_itself(tmp_path):
    store = Store(tmp_path)
    whole = RECORD.line()
    (tmp_path / RECORDS).write_text(whole + whole[:30])
    with pytest.raises(UserError, match=r"records.jsonl, line 2 is cut off .* the 1 lines before it are whole"):
        store.records()
    with store.writing() as writer:
        assert len(writer.repaired) == 1
        assert RECORDS in writer.repaired[0]
        writer.record(RECORD)
    assert store.records() == [RECORD, RECORD]
    assert (tmp_path / "records.torn").read_text() == whole[:30] + "\n"


@pytest.mark.parametrize("cut", range(0, len(RECORD.line()), 17))
def test_cut_off_at_any_byte_the_store_goes_on(tmp_path, cut):
    store = Store(tmp_path)
    (tmp_path / RECORDS).write_text(RECORD.line() + RECORD.line()[:cut])
    with store.writing() as writer:
        writer.record(RECORD)
    assert store.records() == [RECORD, RECORD]


def test_a_broken_line_in_the_middle_names_file_and_line(tmp_path):
    (tmp_path / RECORDS).write_text(RECORD.line() + "{nonsense\n" + RECORD.line())
    with pytest.raises(UserError, match=r"records.jsonl, line 2 is no record"):
        Store(tmp_path).records()


def test_an_unknown_status_is_refused():
    line = json.dumps({**json.loads(RECORD.line()), "status": "fine"})
    with pytest.raises(UserError, match="status 'fine' is none of ok"):
        parse(line, "here")


def test_not_a_number_never_gets_into_the_store():
    with pytest.raises(ValueError, match="JSON compliant"):
        Record("m", 1, {}, {}, "e", "ok", values={"x": float("nan")}).line()


def test_two_runs_do_not_write_at_once(tmp_path):
    store = Store(tmp_path)
    with store.writing(), pytest.raises(UserError, match="another run is writing"), store.writing():
        pass
    with store.writing():
        pass


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(UserError, match="file/machine cannot be written to"),
        Store(tmp_path / "file/machine").writing(),
    ):
        pass


def test_equal_questions_have_equal_keys_whatever_the_order():
    one = Record("m", 1, {"a": 1, "b": 2}, {}, "e", "ok")
    other = Record("m", 1, {"b": 2, "a": 1}, {}, "f", "error")
    assert one.key == other.key
    assert one.key != Record("m", 2, {"a": 1, "b": 2}, {}, "e", "ok").key
    assert one.key != Record("m", 1, {"a": 1, "b": 2}, {"recipe": "x"}, "e", "ok").key


def test_a_full_disk_costs_the_line_and_not_the_store(tmp_path, monkeypatch):
    """Half a line would be glued to the next one and make the store unreadable."""
    store = Store(tmp_path)

    class Full:
        def __init__(self, file):
            self.file, self.name = file, file.name

        def write(self, data):
            if len(data) > 10:
                return self.file.write(data[:10])
            raise OSError(28, "No space left on device")

        def __getattr__(self, name):
            return getattr(self.file, name)

    with store.writing() as writer:
        writer.record(RECORD)
        whole = dict(writer._files)
        writer._files = {name: Full(file) for name, file in whole.items()}
        with pytest.raises(UserError, match=r"records.jsonl cannot be written to \(No space left"):
            writer.record(RECORD)
        writer._files = whole
        writer.record(RECORD)
    assert store.records() == [RECORD, RECORD]


def test_a_folder_in_the_place_of_the_records_is_named(tmp_path):
    (tmp_path / RECORDS).mkdir()
    with pytest.raises(UserError, match=r"records.jsonl cannot be read"), Store(tmp_path).writing():
        pass


@pytest.mark.parametrize(
    ("earlier", "later", "replaced"),
    [
        ({}, {}, True),
        ({}, {"company": "others"}, False),
        ({"company": "others"}, {}, True),
        ({"company": "others"}, {"company": "more of them"}, True),
        ({"company": "others"}, {"status": "invalid"}, False),
        ({"company": "others"}, {"status": "oom"}, False),
        ({}, {"status": "oom"}, True),
        ({"status": "invalid"}, {"company": "others"}, True),
        ({}, {"status": "error"}, False),
        ({"status": "timeout"}, {"status": "error"}, True),
    ],
)
def test_a_figure_in_company_takes_no_place_of_one_that_was_alone(earlier, later, replaced):
    one, other = (
        make("latency", given.get("status", "ok"), **{name: text for name, text in given.items() if name != "status"})
        for given in (earlier, later)
    )
    assert better(other, one) == replaced


def test_a_name_that_is_not_utf8_costs_no_store(tmp_path):
    """A reason may name a file whose name is bytes that are no text: Python writes half a surrogate."""
    strange = replace(RECORD, status="error", reason="DataError: /data/\udcff.jpg", samples={"loss": [1.0, 2.5]})
    with Store(tmp_path).writing() as writer:
        writer.record(RECORD)
        writer.record(strange)
    first, second = Store(tmp_path).records()
    assert (first, second) == (RECORD, strange)
    assert second.samples["loss"] == [1.0, 2.5]
    with pytest.raises(UserError, match="is no record"):
        parse(strange.line().replace("2.5", "NaN"), "here")


def test_what_began_earlier_replaces_nothing_wherever_it_stands():
    now, before = (replace(RECORD, started=text) for text in ("2026-02-01T00:00:00+00:00", "2026-01-01T00:00:00+00:00"))
    failed = replace(before, status="oom", values={})
    assert not better(failed, now), "joined from elsewhere, at the end of the file"
    assert not better(before, now)
    assert better(now, before)


def test_samples_are_those_of_the_file_that_was_read_whatever_lies_there_now(tmp_path):
    """A folder may be replaced, or go on growing, while somebody looks at it."""
    store, other = Store(tmp_path / "box"), Store(tmp_path / "other")
    for one, start in ((store, 1.0), (other, 5.0)):
        with one.writing() as writer:
            for step in range(2):
                writer.record(replace(RECORD, samples={"loss": [start + step] * 3}))
    before = store.records()
    assert before[0].samples == {"loss": [1.0] * 3}
    other.path.replace(store.path)
    now = store.records()
    assert [record.samples["loss"][0] for record in now] == [5.0, 6.0]
    assert before[1].samples["loss"][0] == 2.0
    with store.writing() as writer:
        writer.record(replace(RECORD, samples={"loss": [7.0]}))
    assert [record.samples["loss"][0] for record in store.records()] == [5.0, 6.0, 7.0]
    assert "loss" in now[0].samples
    assert "anchor_ms" not in now[0].samples


def test_cycles_are_looked_for_again_once_all_is_read(tmp_path):
    with Store(tmp_path).writing() as writer:
        writer.record(RECORD)
    with no_collection():
        assert not gc.isenabled()
        Store(tmp_path).records()
        assert not gc.isenabled(), "who was outside decides"
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0, "what is old is not out of reach"
