"""Which files a training saw: other data under the same name are another question, and older records keep counting."""

import os
import shutil
from dataclasses import replace

import pytest

from bench.errors import UserError, forget_remarks
from bench.plan import listing
from bench.report.rows import read
from bench.store import listings
from bench.store.merge import merge
from bench.store.store import RECORDS, Store
from tests.bench.test_run import HERE, Launcher, on, own, question, start

__all__ = ["own", "question"]  # fixtures
DETECTION = "detection", "voc:own"


@pytest.fixture
def older(question, own, tmp_path, monkeypatch):
    """A store whose trainings are of before records said which files they saw."""
    store = Store(tmp_path / "results" / "m")
    Launcher(monkeypatch)
    start(on(question, own, store), store, tmp_path)
    records = [replace(one, inputs={k: v for k, v in one.inputs.items() if k != "files"}) for one in store.records()]
    store.path.write_text("".join(record.line() for record in records))
    return store


def accuracies(records):
    return [record for record in records if record.measure == "accuracy"]


def todo(plan):
    return {planned.job.measure.name for planned in plan.todo}


def replace_data(root):
    """Other pictures under the same names."""
    for path in (root / "JPEGImages").iterdir():
        path.write_bytes(path.read_bytes() + b"\0")


def test_a_training_says_which_files_it_saw_and_nothing_else_does(question, own, tmp_path, monkeypatch):
    store = Store(tmp_path / "m")
    Launcher(monkeypatch)
    plan = on(question, own, store)
    start(plan, store, tmp_path)
    said = {record.measure: record.inputs.get("files") for record in store.records()}
    assert said.pop("accuracy") == listing.digest("voc:own", "detection", own, tmp_path / "cache")
    assert set(said.values()) == {None}
    assert on(question, own, store).todo == []
    assert not (store.folder / listings.FILE).exists(), "they all say it"


def test_other_data_under_the_same_name_are_trained_on_again(question, own, tmp_path, monkeypatch):
    store = Store(tmp_path / "m")
    Launcher(monkeypatch)
    start(on(question, own, store), store, tmp_path)
    replace_data(own)
    assert todo(on(question, own, store)) == {"accuracy"}, "what does not train does not care"
    start(on(question, own, store), store, tmp_path)
    assert on(question, own, store).todo == []
    assert len({record.inputs["files"] for record in accuracies(store.records())}) == 2
    reading = read(store.folder)
    parts = [part for table in reading.tables for row in table.rows for part in row.parts.values()]
    now = {record.inputs["files"] for part in parts for record in accuracies(part.records)}
    assert now == {listing.digest("voc:own", "detection", own, tmp_path / "cache")}, "no table mixes the two"


def test_what_changes_no_number_is_no_other_data(own, tmp_path):
    def now(root=own, kept=tmp_path / "cache"):
        return listing.digest("voc:own", "detection", root, kept)

    before = now()
    for path in own.rglob("*"):
        os.utime(path, (1, 1))
    (own / "README").write_text("mine")
    (own / ".DS_Store").write_text("x")
    (own / "JPEGImages" / "of_no_split.jpg").write_bytes(b"x")
    assert now() == before
    copy = shutil.copytree(own, tmp_path / "elsewhere" / "copy")
    assert now(copy) == before, "a copy is the same data"
    lists = own / "ImageSets" / "Main"
    train, val = (lists / "train.txt").read_text(), (lists / "val.txt").read_text()
    first = train.splitlines()[0]
    (lists / "train.txt").write_text(train.replace(f"{first}\n", ""))
    assert (fewer := now()) != before
    (lists / "val.txt").write_text(f"{first}\n{val}")
    assert now() not in (before, fewer), "from train to val"


def test_older_records_keep_counting_and_from_then_on_other_data_are_told(question, own, older, tmp_path, monkeypatch):
    plan = on(question, own, older)
    assert plan.todo == []
    assert not (older.folder / listings.FILE).exists(), "a plan alone writes nothing"
    launcher = Launcher(monkeypatch)
    start(plan, older, tmp_path)
    assert launcher.jobs == []
    now = listing.digest("voc:own", "detection", own, tmp_path / "cache")
    assert listings.read(older.folder) == {DETECTION: now}
    assert on(question, own, older).todo == []
    replace_data(own)
    assert todo(on(question, own, older)) == {"accuracy"}
    start(on(question, own, older), older, tmp_path)
    assert listings.read(older.folder) == {DETECTION: now}, "what older ones saw stays what it was"
    assert on(question, own, older).todo == []


def test_a_row_may_have_seeds_that_say_their_files_and_older_ones_that_do_not(
    question, own, older, tmp_path, monkeypatch
):
    Launcher(monkeypatch)
    start(on(question.override({"seed": ["2"]}), own, older), older, tmp_path)
    said = [record.inputs.get("files") for record in accuracies(older.records())]
    assert None in said
    assert len(set(said)) == 2
    reading = read(older.folder)
    seeds = {
        row.fields["backbone"]: len(row.parts["accuracy"].records) for table in reading.tables for row in table.rows
    }
    assert seeds == {"swin_pico": 3, "vit_pico": 3}
    assert reading.left_out == {}


def test_a_failure_of_today_does_not_hide_an_older_figure(question, own, older, tmp_path):
    record = accuracies(older.records())[0]
    now = listing.digest("voc:own", "detection", own, tmp_path / "cache")
    failed = replace(record, inputs={**record.inputs, "files": now}, status="error", values={}, started="2026-02-01")
    with older.writing() as writer:
        writer.record(failed)
    assert on(question, own, older).todo == []
    parts = [row.parts["accuracy"] for table in read(older.folder).tables for row in table.rows]
    assert [one.status for part in parts for one in part.records] == ["ok"] * 4


def test_a_damaged_list_stops_no_table_and_no_run_forgets_it(question, own, older, capsys):
    path = older.folder / listings.FILE
    for text in ("[1]", "{", '{"detection": {"voc:own": 3}}', "[" * 100_000, '{"detection": {"voc:own": "../../x"}}'):
        path.write_text(text)
        forget_remarks()
        assert read(older.folder).tables
        assert "listings.json, which says what files older trainings saw, cannot be read" in capsys.readouterr().err
        with pytest.raises(UserError, match=r"listings\.json, .* restore it, or remove it"):
            on(question, own, older)


def test_what_goes_without_saying_elsewhere_is_said_after_a_merge(question, own, older, tmp_path, monkeypatch):
    Launcher(monkeypatch)
    start(on(question, own, older), older, tmp_path)  # it is stated now
    stated = listings.read(older.folder)
    theirs, mine = older.folder, tmp_path / "mine"
    # An environment's id has to be the digest of what it says, which that of these tests is not.
    monkeypatch.setattr("bench.store.checks.environment", lambda document: HERE)
    (done,) = merge([theirs], mine)
    assert done.taken == len(older.records())
    merged = Store(mine / "m")
    assert {record.inputs.get("files") for record in accuracies(merged.records())} == set(stated.values())
    (again,) = merge([theirs], mine)
    assert (again.taken, again.there) == (0, done.taken)
    copy = shutil.copytree(theirs, tmp_path / "copy" / "m")
    (same,) = merge([copy], older.folder.parent)
    assert same.taken == 0, "a copy of one's own is there already"
    (copy / listings.FILE).write_text('{"detection": {"voc:own": "0123456789ab"}}')
    (others,) = merge([copy], older.folder.parent)
    assert others.taken == len(accuracies(older.records())) / 2, "trainings on other files are others"
    (copy / listings.FILE).unlink()
    (copy / listings.FILE).symlink_to(copy / RECORDS)
    (refused,) = merge([copy], older.folder.parent)
    assert [one.file for one in refused.refused.values()] == [listings.FILE]


def test_files_are_asked_for_in_parts_and_none_is_lost(own, tmp_path, monkeypatch):
    def now():
        return listing.digest("voc:own", "detection", own, tmp_path / "cache")

    whole = now()
    monkeypatch.setattr(listing, "_PART", 3)
    assert now() == whole
    (last,) = (path for path in own.rglob("image_033.xml"))
    last.write_text(last.read_text() + " ")
    assert now() != whole
