import gc
import json
import re
from dataclasses import replace

import pytest

from bench.errors import UserError, forget_remarks
from bench.store.record import REASON, Record, better, parse, sayable
from bench.store.store import ENVIRONMENTS, RECORDS, Store, no_collection
from tests.bench.records import environment, make

FIELDS = {"backbone": "vit_pico", "window": "keep", "padding": "refuse", "memory_format": "contiguous"}
FIELDS |= {"runtime": "torch", "quantise": "none"}
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


def test_a_torn_last_line_is_named_and_costs_only_itself(tmp_path, capsys):
    store = Store(tmp_path)
    whole = RECORD.line()
    (tmp_path / RECORDS).write_text(whole + whole[:30])
    assert store.records() == [RECORD]
    assert re.search(r"records\.jsonl: 1 damaged line is left out: line 2 is cut off", capsys.readouterr().err)
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


STATED = json.loads(RECORD.line())
DAMAGED = {
    "no JSON": "{nonsense",
    "a list": "[1, 2]",
    "a text": '"latency"',
    "a list with half a surrogate": r'["\udcff"]',
    "a text with half a surrogate": r'"\udcff"',
    "nested": "[" * 100_000,
    "bytes": b"\xff\xfe\x00",
    "empty": "{}",
    "a number as measure": json.dumps({**STATED, "measure": 5}),
    "fields as a list": json.dumps({**STATED, "fields": []}),
    "a number as backbone": json.dumps({**STATED, "fields": {**FIELDS, "backbone": 5}}),
    "a text as patch": json.dumps({**STATED, "fields": {**FIELDS, "patch": "16"}}),
    "a fraction as patch": json.dumps({**STATED, "fields": {**FIELDS, "patch": 16.5}}),
    "nothing as batch": json.dumps({**STATED, "fields": {**FIELDS, "batch": None}}),
    "values as a text": json.dumps({**STATED, "values": "none"}),
    "a value as a list": json.dumps({**STATED, "values": {"latency_ms": [1.0]}}),
    "not a number": json.dumps({**STATED, "values": {"latency_ms": float("nan")}}),
    "infinite": json.dumps({**STATED, "values": {"latency_ms": float("inf")}}),
    "infinite in digits": RECORD.line().strip().replace("1.5", "1e999"),
    "infinite beside half a surrogate": RECORD.line().strip().replace("1.5", r'1e999,"x":"\udcff"'),
    "hundreds of digits": RECORD.line().strip().replace("1.5", "1" + "0" * 400),
    "hundreds of digits of a class": RECORD.line().strip().replace("1.5", '{"road":1' + "0" * 400 + "}"),
    "a version of hundreds of digits": json.dumps({**STATED, "version": 10**400}),
    "samples as a list": json.dumps({**STATED, "samples": [1.0]}),
    "a status": json.dumps({**STATED, "status": "fine"}),
    "an unknown key": json.dumps({**STATED, "more": 1}),
}


@pytest.mark.parametrize("line", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_line_in_the_middle_is_named_and_costs_only_itself(tmp_path, capsys, line):
    broken = line if isinstance(line, bytes) else line.encode()
    whole = RECORD.line().encode()
    store = Store(tmp_path)
    store.path.write_bytes(whole + broken + b"\n" + whole)
    forget_remarks()
    for _ in range(2):
        assert store.records() == [RECORD, RECORD]
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1, "once, not at each reading"
    assert re.match(r".*records\.jsonl: 1 damaged line is left out: line 2.* `densebench report --set-aside`", said)
    assert len(said) < 1000
    assert store.set_aside() == [f"{store.path}: 1 damaged line moved to records.damaged"]
    assert store.path.read_bytes() == whole + whole
    assert (tmp_path / "records.damaged").read_bytes() == broken + b"\n"
    assert store.set_aside() == []
    forget_remarks()
    assert store.records() == [RECORD, RECORD]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "samples",
    [
        '{"a_ms":[1.0],"a_ms_round":[1,2]}',
        '{"a_ms":[1.0],"a_ms_round":[null]}',
        '{"anchor_ms":[1.0]}',
        '{"loss":"none"}',
        '{"loss":[NaN]}',
        '{"loss":[1e999]}',
        '{"loss":[[1]]}',
        "{1}",
    ],
)
def test_samples_that_are_none_cost_the_samples_alone(tmp_path, capsys, samples):
    """They are read once somebody looks at them, which would be too late to leave the record out."""
    store = Store(tmp_path)
    store.path.write_text(RECORD.line().replace('"samples":{}', f'"samples":{samples}') + RECORD.line())
    forget_remarks()
    for record in store.records():
        assert dict(record.samples) == {}
    assert "records.jsonl" in capsys.readouterr().err
    store.set_aside()
    assert store.path.read_text() == RECORD.line()


def test_many_damaged_lines_are_one_sentence(tmp_path, capsys):
    (tmp_path / RECORDS).write_text("nonsense\n" * 1000)
    forget_remarks()
    assert Store(tmp_path).records() == []
    (said,) = capsys.readouterr().err.splitlines()
    assert "1000 damaged lines are left out: line 1 is no record" in said
    assert "and 995 more" in said


@pytest.mark.parametrize("line", ["nonsense", "[]", '"x"', "{}", '{"id":[1]}', '{"cores":"two"}', "[" * 100_000])
def test_a_line_that_describes_no_environment_is_named_and_costs_only_itself(tmp_path, capsys, line):
    here = json.dumps(vars(environment("here")))
    stated = {**json.loads(here), **json.loads(line)} if line.startswith('{"') else None
    broken = json.dumps(stated) if stated else line
    (tmp_path / ENVIRONMENTS).write_text(f"{here}\n{broken}\n")
    forget_remarks()
    assert Store(tmp_path).environments() == {"here": environment("here")}
    assert "environments.jsonl: 1 damaged line is left out: line 2 describes no environment" in capsys.readouterr().err
    Store(tmp_path).set_aside()
    assert (tmp_path / ENVIRONMENTS).read_text() == f"{here}\n"


def test_a_reason_is_as_long_as_can_be_read_and_begins_and_ends_as_it_did():
    text = "start " + "x" * 1_000_000 + " end"
    cut = sayable(text)
    assert len(cut) <= REASON
    assert cut.startswith("start x")
    assert cut.endswith("x end")
    assert "letters are left out" in cut
    assert len(sayable("\x1b" * 1_000_000)) <= REASON
    assert sayable("as it is\nin lines") == "as it is\nin lines"
    assert sayable(cut) == cut


def test_an_unknown_status_is_refused():
    line = json.dumps({**json.loads(RECORD.line()), "status": "fine"})
    with pytest.raises(UserError, match="status 'fine' is none of ok"):
        parse(line, "here")


def test_not_a_number_never_gets_into_the_store():
    with pytest.raises(ValueError, match="JSON compliant"):
        Record("m", 1, {}, {}, "e", "ok", values={"x": float("nan")}).line()


def test_two_runs_do_not_write_at_once(tmp_path):
    store = Store(tmp_path)
    with store.writing(), pytest.raises(UserError, match=r"another run .* is writing to"), store.writing():
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
    assert first == RECORD
    assert second == replace(strange, reason=r"DataError: /data/\udcff.jpg"), "escaped, so that it can be shown"
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
