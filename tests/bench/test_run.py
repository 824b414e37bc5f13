"""The run: what is planned, kept, resumed and refused, with a launcher that measures nothing."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

from bench import catalogue, run
from bench.answers import Anchors
from bench.errors import UserError, forget_remarks, printable
from bench.launchers._order import first_look
from bench.launchers.contract import Finished, Settings, Started, anchor_digest
from bench.model import build, kept
from bench.plan import matrix, models, source
from bench.plan.case import resolve
from bench.plan.cell import Cell
from bench.plan.dataset import Roots, load
from bench.plan.environment import describe
from bench.plan.measure import AFTER, CANNOT, COMPANY, MODEL
from bench.report.rows import read
from bench.report.tables import report
from bench.store import states
from bench.store.record import Record, better
from bench.store.store import ENVIRONMENTS, Store
from tests.bench.data import fixtures
from tests.bench.data.fixtures import write_camvid
from tests.bench.records import CELL

HERE = replace(describe(), id="here", comparable="here", gpus=[], cores=2)
TEXT = """
question = "Which?"
[[grid]]
measure = ["memory", "complexity", "accuracy"]
backbone = ["vit_pico", "swin_pico"]
resolution = 64
head = "linear"
seed = [0, 1]
"""


@pytest.fixture
def question(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(TEXT)
    return matrix.load(str(path))


class Launcher:
    """Answers every job at once; ``script`` maps a measure to a status, ``stop_after`` interrupts."""

    def __init__(self, monkeypatch, *, script=None, stop_after=None, started="2026-01-01"):
        self.script, self.stop_after, self.jobs, self.closed = script or {}, stop_after, [], False
        self.started = started
        entry = SimpleNamespace(load=lambda: SimpleNamespace(launch=self.launch))
        real = catalogue.get
        monkeypatch.setattr(catalogue, "get", lambda kind, name: entry if kind == "launchers" else real(kind, name))

    def launch(self, jobs, settings):
        try:
            for job in jobs:
                if self.stop_after is not None and len(self.jobs) == self.stop_after:
                    raise KeyboardInterrupt
                self.jobs.append(job)
                yield Started(job)
                status = self.script.get(job.measure.name, "ok")
                values = {job.measure.columns[0].name: 1.0} if status == "ok" else {}
                if status == "nan":
                    status, values = "ok", {"x": {"class": float("nan")}}
                yield Finished(job, status, "" if status == "ok" else "because", self.started, 0.5, values)
        finally:
            self.closed = True


def settings(tmp_path):
    return Settings(tmp_path / "cache", tmp_path / "pictures", 60.0)


def go(question, store, tmp_path, **options):
    plan = run.plan(question, HERE, store, Roots(), **options)
    return plan, run.run(
        plan, store, settings(tmp_path), launcher="local", show=lambda event: None, say=lambda text: None
    )


def test_cells_that_agree_in_a_measures_fields_share_one_measurement(question, tmp_path):
    plan = run.plan(question, HERE, Store(tmp_path / "m"), Roots())
    count = {
        name: sum(p.job.measure.name == name for p in plan.planned) for name in ("memory", "complexity", "accuracy")
    }
    assert plan.cells == 4
    assert count == {"memory": 2, "complexity": 2, "accuracy": 4}, "a seed costs no second memory"


def test_the_same_command_again_does_only_what_is_missing(question, tmp_path, monkeypatch):
    store = Store(tmp_path / "m")
    launcher = Launcher(monkeypatch)
    _, summary = go(question, store, tmp_path)
    assert (len(summary.records), summary.missing, summary.failed) == (8, 0, {})
    assert len(launcher.jobs) == 8
    again = Launcher(monkeypatch)
    plan, summary = go(question, store, tmp_path)
    assert again.jobs == []
    assert plan.todo == []
    assert len(summary.records) == 8
    assert len(store.records()) == 8
    more = Launcher(monkeypatch)
    go(question.override({"seed": ["0", "2"]}), store, tmp_path)
    assert [(job.measure.name, job.cell.seed) for job in more.jobs] == [("accuracy", 2)] * 2


@pytest.mark.parametrize("cut", range(8))
def test_cut_off_anywhere_the_end_is_the_same(question, tmp_path, monkeypatch, cut):
    store = Store(tmp_path / "m")
    launcher = Launcher(monkeypatch, stop_after=cut)
    _, summary = go(question, store, tmp_path)
    assert summary.interrupted
    assert summary.missing == 8 - cut
    assert len(store.records()) == cut, "what was measured is kept"
    assert launcher.closed, "workers are ended"
    Launcher(monkeypatch)
    _, summary = go(question, store, tmp_path)
    assert not summary.interrupted
    assert len({record.key for record in store.records()}) == len(store.records()) == 8


def test_failures_are_rows_and_cost_the_others_nothing(question, tmp_path, monkeypatch):
    store = Store(tmp_path / "m")
    Launcher(monkeypatch, script={"memory": "error", "complexity": "unsupported"})
    _, summary = go(question, store, tmp_path)
    assert sorted(record.status for record in store.records()) == ["error"] * 2 + ["ok"] * 4 + ["unsupported"] * 2
    assert len(summary.missing_numbers) == 4
    assert {record.reason for record in summary.missing_numbers.values()} == {"because"}
    assert {record.measure for record in summary.failed.values()} == {"memory"}, "what cannot be had did not fail"
    again = Launcher(monkeypatch)
    go(question, store, tmp_path)
    assert {job.measure.name for job in again.jobs} == {"memory"}, "an error is tried again, unsupported is not"
    retry = Launcher(monkeypatch)
    go(question, store, tmp_path, retry=True)
    assert {job.measure.name for job in retry.jobs} == {"complexity"}


def test_a_lost_description_of_this_machine_is_written_again_and_nothing_is_measured_twice(
    question, tmp_path, monkeypatch, capsys
):
    store = Store(tmp_path / "m")
    Launcher(monkeypatch)
    go(question, store, tmp_path)
    known = store.environments()
    (store.folder / ENVIRONMENTS).unlink()
    again = Launcher(monkeypatch)
    go(question, store, tmp_path)
    assert again.jobs == []
    assert store.environments() == known
    (store.folder / ENVIRONMENTS).unlink()
    forget_remarks()
    elsewhere = run.plan(question, replace(HERE, id="later"), store, Roots())
    assert len(elsewhere.todo) == 8, "of unknown records nobody knows what machine they are of"
    assert "does not describe environment 'here', which 8 records name" in capsys.readouterr().err


def test_a_damaged_record_is_measured_again(question, tmp_path, monkeypatch):
    store = Store(tmp_path / "m")
    Launcher(monkeypatch)
    go(question, store, tmp_path)
    lines = store.path.read_text().splitlines(keepends=True)
    store.path.write_text("".join([*lines[:2], lines[2][10:], *lines[3:]]))
    again = Launcher(monkeypatch)
    _, summary = go(question, store, tmp_path)
    assert len(again.jobs) == 1
    assert (summary.missing, len(store.records())) == (0, 8)


class Shouting(Launcher):
    """A plug-in that gives more than anybody can read, and what steers a terminal."""

    def launch(self, jobs, settings):
        for event in super().launch(jobs, settings):
            if isinstance(event, Finished):
                values = {"class_iou": {"ro\udcffad\x1b": 1.0}, "said": "\x07" * 100_000}
                yield replace(event, status="error", reason="\x1b\udcff" + "x" * 10_000_000, values=values)
            else:
                yield event


def test_a_record_is_readable_whatever_a_plug_in_says(question, tmp_path, monkeypatch):
    store = Store(tmp_path / "m")
    Shouting(monkeypatch)
    _, summary = go(question, store, tmp_path)
    for record in (*store.records(), *summary.records.values()):
        assert len(record.line()) < 30_000
        assert record.reason.startswith(r"\x1b\udcffx")
        assert "letters are left out" in record.reason
        assert record.values["class_iou"] == {r"ro\udcffad\x1b": 1.0}


def test_weights_whose_name_no_table_can_show_are_refused_before_anything_is_measured(question, tmp_path):
    for name in ("w\udcff.pth", "w\x1b[31m.pth", "w\n| x.pth"):
        (tmp_path / name).touch()
        with pytest.raises(UserError, match="no table can show"):
            run.plan(question.override({"weights": [str(tmp_path / name)]}), HERE, Store(tmp_path / "m"), Roots())


@pytest.mark.parametrize("name", ["../../x", "a/b", "..", "", "/tmp", "a\x00"])
def test_a_machines_folder_is_in_the_results(tmp_path, name):
    with pytest.raises(UserError, match="is no plain name"):
        run.machine_folder(tmp_path, name, HERE)


def test_a_folder_that_is_there_may_be_called_as_it_is(tmp_path, question, monkeypatch):
    """Older versions, and other people, called them otherwise."""
    for name in ("my GPU box", "é", "-x"):
        with pytest.raises(UserError, match="is no plain name"):
            run.machine_folder(tmp_path, name, HERE)
        (tmp_path / name).mkdir()
        assert run.machine_folder(tmp_path, name, HERE) == tmp_path / name
    (tmp_path / "a file").touch()
    with pytest.raises(UserError, match="is no plain name"):
        run.machine_folder(tmp_path, "a file", HERE)
    with pytest.raises(UserError, match="is no plain name"):
        run.machine_folder(tmp_path, "x" * 5000, HERE)
    store = Store(tmp_path / "my GPU box")
    Launcher(monkeypatch)
    go(question, store, tmp_path)
    assert run.plan(question, HERE, store, Roots()).todo == []


def test_names_of_classes_that_are_no_text_are_escapes_from_the_start(tmp_path):
    root = fixtures.write_yolo(tmp_path / "own", names=r'["ro\ud800ad", "b\e[31mox"]')
    opened = load(catalogue.dataset("yolo"), task="detection", root=root, cache=tmp_path / "cache", split="val")
    assert all(printable(name) == name for name in opened.classes), opened.classes


def test_records_of_another_machine_are_no_answers(question, tmp_path, monkeypatch):
    store = Store(tmp_path / "m")
    Launcher(monkeypatch)
    go(question, store, tmp_path)
    elsewhere = run.plan(question, replace(HERE, id="there", comparable="there"), store, Roots())
    assert len(elsewhere.todo) == 8
    other_commit = run.plan(question, replace(HERE, id="later", comparable="here"), store, Roots())
    assert other_commit.todo == [], "another git state of the same machine is the same machine"


def test_an_edited_recipe_is_another_question(question, tmp_path, monkeypatch):
    store = Store(tmp_path / "m")
    Launcher(monkeypatch)
    go(question, store, tmp_path)
    monkeypatch.setattr(run.recipe, "digest", lambda name, task: "edited")
    assert {p.job.measure.name for p in run.plan(question, HERE, store, Roots()).todo} == {"accuracy"}


@pytest.fixture
def edit(tmp_path, monkeypatch):
    """Have the source of some backbones or heads be another than that of records that say none; give what it is."""
    real = source._table(source.TABLE)

    def edited(*names):
        table = {kind: {name: {} if name in names else one for name, one in real[kind].items()} for kind in real}
        path = tmp_path / f"{'_'.join(names)}.json"
        path.write_text(json.dumps(table))
        monkeypatch.setattr(source, "TABLE", path)
        kinds = {name: kind for kind in real for name in real[kind]}
        return [source.digest(catalogue.get(kinds[name], name)) for name in names]

    monkeypatch.setattr(source, "TABLE", tmp_path / "as it was.json")
    as_it_is = {
        kind: {name: {source.digest(entry): ""} for name, entry in catalogue.entries(kind).items()} for kind in real
    }
    source.TABLE.write_text(json.dumps(as_it_is))
    real = as_it_is
    return edited


def test_an_edited_backbone_or_head_is_measured_again_and_nothing_else(question, tmp_path, monkeypatch, edit):
    store = Store(tmp_path / "m")
    Launcher(monkeypatch)
    go(question, store, tmp_path)
    assert not any("source" in name for record in store.records() for name in record.inputs), "it goes without saying"
    before = source.TABLE
    (digest,) = edit("vit_pico")
    plan = run.plan(question, HERE, store, Roots())
    assert {planned.job.cell.backbone for planned in plan.todo} == {"vit_pico"}
    assert len(plan.todo) == 4
    go(question, store, tmp_path)
    assert {record.inputs.get("backbone source") for record in store.records()[8:]} == {digest}
    assert run.plan(question, HERE, store, Roots()).todo == []
    monkeypatch.setattr(source, "TABLE", before)
    assert run.plan(question, HERE, store, Roots()).todo == [], (
        "the edit was taken back: what was measured before counts"
    )
    (head,) = edit("linear")
    todo = run.plan(question, HERE, store, Roots()).todo
    assert len(todo) == 8
    assert {json.loads(planned.job.key)[-1]["head source"] for planned in todo} == {head}


def test_what_is_edited_while_it_is_measured_is_no_answer(question, tmp_path, monkeypatch, edit):
    store = Store(tmp_path / "m")
    launcher = Launcher(monkeypatch)
    real = launcher.launch

    def launch(jobs, settings):
        for index, event in enumerate(real(jobs, settings)):
            if index == 4:
                edit("swin_pico")
            yield event

    monkeypatch.setattr(launcher, "launch", launch)
    entry = SimpleNamespace(load=lambda: SimpleNamespace(launch=launch))
    known = catalogue.get
    monkeypatch.setattr(catalogue, "get", lambda kind, name: entry if kind == "launchers" else known(kind, name))
    go(question, store, tmp_path)
    lost = [record for record in store.records() if record.status != "ok"]
    assert lost
    assert {record.fields["backbone"] for record in lost} == {"swin_pico"}
    assert {record.status for record in lost} == {"error"}
    assert not any(record.values or source.of(record.inputs) for record in lost)
    assert "was edited while this ran" in lost[0].reason
    again = {planned.job.cell.backbone for planned in run.plan(question, HERE, store, Roots()).todo}
    assert again == {"swin_pico"}


def test_a_network_of_another_source_is_no_anchor(question, tmp_path, edit):
    asked = {"measure": ["latency"], "backbone": ["vit_pico"]}
    planned = run.plan(question.override(asked), HERE, Store(tmp_path / "m"), Roots()).planned
    (job,) = (one.job for one in planned if one.job.measure.name == "latency")
    record = Record("latency", job.measure.version, job.cell.part(job.measure.fields), {}, HERE.id, "ok", "", {})
    record = replace(record, values={"anchor": anchor_digest(record.key)})
    assert Anchors([record]).of([job])
    edit("linear")
    assert not Anchors([record]).of([job])


def test_a_task_without_labels_is_refused_for_each_cell(question, tmp_path, monkeypatch):
    root = tmp_path / "camvid"
    monkeypatch.setattr(run, "_CHECKED", {("camvid", "detection", root.resolve()): "camvid has no boxes"})
    root.mkdir()
    store = Store(tmp_path / "m")
    launcher = Launcher(monkeypatch)
    plan = run.plan(question.override({"head": ["fcos_pico"], "dataset": ["camvid"]}), HERE, store, Roots([str(root)]))
    summary = run.run(plan, store, settings(tmp_path), launcher="local", show=lambda e: None, say=lambda t: None)
    assert launcher.jobs == []
    assert {(r.status, r.reason) for r in summary.records.values()} == {("unsupported", "camvid has no boxes")}


def test_roots_name_the_instance(tmp_path):
    (tmp_path / "bccd").mkdir()
    (tmp_path / "camvid").mkdir()
    both = Roots([str(tmp_path)])
    assert both.resolve("voc:bccd") == ("voc:bccd", (tmp_path / "bccd").resolve())
    assert both.resolve("camvid") == ("camvid", (tmp_path / "camvid").resolve())
    assert both.resolve("scenes") == ("scenes", None)
    direct = Roots([str(tmp_path / "bccd")])
    assert direct.resolve("voc") == ("voc:bccd", (tmp_path / "bccd").resolve())
    named = Roots([f"cells={tmp_path / 'bccd'}"])
    assert named.resolve("voc:cells") == ("voc:cells", (tmp_path / "bccd").resolve())
    several = Roots([str(tmp_path / "camvid"), str(tmp_path / "bccd")])
    assert several.resolve("camvid") == ("camvid", (tmp_path / "camvid").resolve())
    assert several.resolve("voc:bccd") == ("voc:bccd", (tmp_path / "bccd").resolve())
    with pytest.raises(UserError, match=r"voc:else lies on disk .*no folder 'else' in"):
        both.resolve("voc:else")
    with pytest.raises(UserError, match="name it with --data-root"):
        Roots().resolve("camvid")
    with pytest.raises(UserError, match="is no folder"):
        Roots([str(tmp_path / "nowhere")])


def test_folders_with_an_equals_sign_are_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a=b", "bccd", "voc=bccd"):
        (tmp_path / name).mkdir()
    within = Roots([str(tmp_path / "a=b")])
    assert (within.parents, within.named) == ([tmp_path / "a=b"], {})
    named = Roots([f"cells={tmp_path / 'a=b'}"])
    assert (named.parents, named.named) == ([], {"cells": tmp_path / "a=b"})
    with pytest.raises(UserError, match=rf"{tmp_path}/no=folder is no folder"):
        Roots([str(tmp_path / "no=folder")])
    for nothing in ("cells=", "=bccd"):
        with pytest.raises(UserError, match=rf"--data-root {nothing}: {nothing} is no folder"):
            Roots([nothing])
    with pytest.raises(UserError, match=r"write ./voc=bccd for the one, voc=/.*/bccd for the other"):
        Roots(["voc=bccd"])
    assert Roots(["./voc=bccd"]).named == {}
    assert Roots([f"voc={tmp_path / 'bccd'}"]).resolve("voc") == ("voc:bccd", tmp_path / "bccd")


@pytest.mark.parametrize("instance", ["../../x", "..", ".", "/etc", "a/b"])
def test_an_instance_is_the_name_of_a_folder_and_leads_nowhere_else(tmp_path, instance):
    root = tmp_path / "data"
    for folder in (root / "a" / "b", tmp_path.parent / "x"):
        folder.mkdir(parents=True, exist_ok=True)
    for roots in (Roots([str(root)]), Roots([f"x={root}"]), Roots()):
        with pytest.raises(UserError, match="what follows the colon is the name of a folder and no path"):
            roots.resolve(f"coco:{instance}")


def test_time_left_follows_what_was_measured_and_what_runs(question, tmp_path):
    plan = run.plan(question.override({"measure": ["accuracy"]}), HERE, Store(tmp_path / "m"), Roots())
    first, *_ = (planned.job for planned in plan.planned)
    typical = first.measure.seconds
    assert run.seconds_left(plan, [], {}) == pytest.approx(4 * typical / 2), "two cores"
    done = Finished(first, "ok", "", "", 10.0)
    assert run.seconds_left(plan, [done], {}) == pytest.approx(3 * 10 / 2)
    assert run.seconds_left(replace(plan, nodes=3), [done], {}) == pytest.approx(3 * 10 / 2 / 3)
    # A quarter done after 5 s: 20 s in all, 15 left, and the three others like it.
    assert run.seconds_left(plan, [], {first.key: (5.0, 0.25)}) == pytest.approx((15 + 3 * 20) / 2)


def test_a_measure_that_gives_nan_is_an_error_of_its_own_cell(question, tmp_path, monkeypatch):
    store = Store(tmp_path / "m")
    Launcher(monkeypatch, script={"memory": "nan"})
    _, summary = go(question, store, tmp_path)
    assert len(summary.records) == 8
    assert {record.measure for record in summary.failed.values()} == {"memory"}
    assert all("cannot be stored" in record.reason for record in summary.failed.values())
    assert len(store.records()) == 8


def test_titles_tell_the_jobs_of_a_plan_apart(question, tmp_path):
    plan = run.plan(
        question.override({"dtype": ["fp32", "bf16"], "batch": ["1", "8"]}), HERE, Store(tmp_path / "m"), Roots()
    )
    titles = [planned.job.title() for planned in plan.planned]
    assert len(set(titles)) == len(titles)
    assert "accuracy vit_pico/16 linear 64x64 scenes dtype bf16 seed 1" in titles
    assert "memory vit_pico/16 linear 64x64 scenes batch 8 dtype fp32" in titles


def test_accuracy_of_one_device_is_no_answer_for_another(question, tmp_path):
    plan = run.plan(question.override({"device": ["cpu", "cuda"]}), HERE, Store(tmp_path / "m"), Roots())
    devices = {p.job.cell.device for p in plan.planned if p.job.measure.name == "accuracy"}
    assert devices == {"cpu", "cuda"}


def test_a_new_version_of_a_data_set_is_another_question(question, tmp_path, monkeypatch):
    store = Store(tmp_path / "m")
    Launcher(monkeypatch)
    go(question, store, tmp_path)
    entry = catalogue.dataset("scenes")
    changed = replace(entry, facts={**entry.facts, "version": 2})
    monkeypatch.setattr(catalogue, "dataset", lambda name: changed)
    assert len(run.plan(question, HERE, store, Roots()).todo) == 8


def test_a_latency_brings_the_limits_of_the_machine_along(question, tmp_path):
    plan = run.plan(question.override({"measure": ["latency"]}), HERE, Store(tmp_path / "m"), Roots())
    names = [planned.job.measure.name for planned in plan.planned]
    assert sorted(names) == ["latency", "latency", "roof"], "once for the machine, not once a cell"
    roof = next(planned.job for planned in plan.planned if planned.job.measure.name == "roof")
    assert roof.title() == "roof fp32 cpu 2"


def test_a_run_is_anchored_to_what_was_timed_before(question, tmp_path, monkeypatch):
    """Not to its own first cell: so that cells of two runs can be compared."""
    store = Store(tmp_path / "m")
    first = question.override({"measure": ["latency"], "backbone": ["swin_pico"]})
    planned = run.plan(first, HERE, store, Roots()).planned
    (job,) = (one.job for one in planned if one.job.measure.name == "latency")
    assert Anchors().of([job]) == {}
    fields = job.cell.part(job.measure.fields)
    record = Record("latency", job.measure.version, fields, {}, HERE.id, "ok", "", {"anchor": anchor_digest(job.key)})
    assert record.key == job.key
    second = run.plan(question.override({"measure": ["latency"], "resolution": ["96"]}), HERE, store, Roots())
    jobs = [one.job for one in second.planned if one.job.measure.name == "latency"]
    anchors = Anchors([record]).of(jobs)
    assert {kind: (one.key, one.cell.backbone, one.cell.size) for kind, one in anchors.items()} == {
        ("latency", "cpu"): (job.key, "swin_pico", (64, 64))
    }
    elsewhere = replace(record, values={"anchor": "of another"})
    assert Anchors([elsewhere]).of(jobs) == {}, "an anchor that has no record cannot be had again"


@pytest.mark.parametrize("then", [{}, {"levels": "normed"}], ids=["raw", "normed"])
def test_a_network_that_is_built_otherwise_today_is_no_anchor(then, question, tmp_path):
    """A Swin under DPT had no norms on its levels once, and no run can time that again."""
    asked = {"measure": ["latency"], "backbone": ["swin_pico"], "head": ["dpt_pico"]}
    planned = run.plan(question.override(asked), HERE, Store(tmp_path / "m"), Roots()).planned
    (job,) = (one.job for one in planned if one.job.measure.name == "latency")
    record = Record("latency", job.measure.version, job.cell.part(job.measure.fields), then, HERE.id, "ok", "", {})
    record = replace(record, values={"anchor": anchor_digest(record.key)})
    assert (record.key == job.key) == bool(then)
    assert bool(Anchors([record]).of([job])) == bool(then)


CROSSED = """
question = "Which?"
[[grid]]
measure = ["complexity"]
backbone = ["vit_pico", "hybrid_pico"]
patch = [16, 4]
resolution = 64
head = "linear"
[[grid]]
measure = ["complexity"]
backbone = "swin_pico"
patch = 4
resolution = 64
head = "linear"
"""


class Refusing(Launcher):
    """A hybrid with patch 4 is what cannot be had."""

    def launch(self, jobs, settings):
        for event in super().launch(jobs, settings):
            if isinstance(event, Finished) and (event.job.cell.backbone, event.job.cell.patch) == ("hybrid_pico", 4):
                yield replace(event, status="unsupported", reason="no such patch", values={CANNOT: "patch"})
            else:
                yield event


@pytest.fixture
def crossed(tmp_path):
    path = tmp_path / "crossed.toml"
    path.write_text(CROSSED)
    return matrix.load(str(path))


@pytest.mark.parametrize(
    ("axes", "left_out", "rows"),
    [
        ({}, {"hybrid_pico with patch 4": 1}, 0),
        ({"backbone": ["hybrid_pico"]}, {"hybrid_pico with patch 4": 1}, 0),
        ({"patch": ["4"]}, {}, 1),
        ({"backbone": ["hybrid_pico"], "patch": ["4"]}, {}, 1),
    ],
)
def test_what_a_matrix_only_crossed_is_left_out_and_what_was_asked_for_is_a_row(
    crossed, tmp_path, monkeypatch, axes, left_out, rows
):
    Refusing(monkeypatch)
    store = Store(tmp_path / "m")
    _, summary = go(crossed.override(axes), store, tmp_path)
    assert summary.left_out == left_out
    assert len(summary.missing_numbers) == rows
    assert summary.failed == {}
    again = Refusing(monkeypatch)
    _, resumed = go(crossed.override(axes), store, tmp_path)
    assert again.jobs == [], "that it cannot be had is known"
    assert resumed.left_out == left_out
    (tmp_path / "m" / "environments.jsonl").write_text(json.dumps(vars(HERE)) + "\n")
    found = [row for table in read(tmp_path / "m").tables for row in table.rows]
    refused = {row.fields["backbone"] for row in found if row.parts["complexity"].status != "ok"}
    assert refused == ({"hybrid_pico"} if rows else set()), "tables have rows of what was asked for"


def test_what_was_left_out_is_a_row_once_somebody_asks_for_it(crossed, tmp_path, monkeypatch):
    Refusing(monkeypatch)
    store = Store(tmp_path / "m")
    go(crossed, store, tmp_path)
    _, summary = go(crossed.override({"patch": ["4"]}), store, tmp_path)
    assert list(summary.missing_numbers) == ["complexity hybrid_pico/4 linear 64x64 scenes"]


def test_a_block_of_one_backbone_and_one_patch_asks_for_both(tmp_path):
    path = tmp_path / "one.toml"
    path.write_text(CROSSED)
    blocks = {ask.cell.backbone: ask.chosen for ask in matrix.load(str(path)).asks(HERE)}
    assert "patch" not in blocks["vit_pico"]
    assert "patch" in blocks["swin_pico"]
    assert "task" in blocks["swin_pico"], "which labels are needed is the head's choice"


def test_a_data_set_without_labels_for_a_head_of_the_matrix_is_left_out(tmp_path, monkeypatch):
    Launcher(monkeypatch)
    root = write_camvid(tmp_path / "camvid")
    asked = matrix.load("default").override({"dataset": ["camvid"], "backbone": ["vit_pico"], "measure": ["accuracy"]})
    store = Store(tmp_path / "m")
    plan = run.plan(asked, HERE, store, Roots([str(root)]))
    summary = run.run(plan, store, settings(tmp_path), launcher="local", show=lambda event: None, say=lambda text: None)
    assert summary.left_out == {"camvid with head fcos_pico": 2}, "two seeds"
    assert summary.missing_numbers == {}


def test_figures_in_company_are_taken_again_when_asked(question, tmp_path, monkeypatch):
    Launcher(monkeypatch)
    quiet, store = Store(tmp_path / "m"), Store(tmp_path / "n")
    go(question, quiet, tmp_path)
    with store.writing() as writer:
        writer.environment(vars(HERE))
        for record in quiet.records():
            if record.measure == "memory":
                writer.record(replace(record, values={**record.values, COMPANY: "others"}))

    def todo(**options):
        plan = run.plan(question, HERE, store, Roots(), **options)
        return sum(planned.job.measure.name == "memory" for planned in plan.todo)

    assert (todo(), todo(retry=True), todo(alone=True)) == (0, 2, 2)
    refused = Store(tmp_path / "o")
    with refused.writing() as writer:
        writer.environment(vars(HERE))
        for record in store.records():
            writer.record(replace(record, status="invalid", reason="others"))
    store = refused
    assert (todo(), todo(alone=True)) == (2, 0), "what --alone refused is taken without it"


def test_a_run_that_goes_on_shows_at_once_what_it_has(tmp_path, monkeypatch):
    store = Store(tmp_path / "m")
    plan = run.plan(matrix.load("default"), HERE, store, Roots())
    Launcher(monkeypatch, stop_after=20)
    quiet = {"launcher": "local", "show": lambda event: None, "say": lambda text: None}
    run.run(plan, store, settings(tmp_path), **quiet)
    launcher, looks = Launcher(monkeypatch), []
    plan = run.plan(matrix.load("default"), HERE, store, Roots())
    quiet["look"] = lambda records: looks.append((len(records), len(launcher.jobs)))
    run.run(plan, store, settings(tmp_path), **quiet)
    assert looks[0] == (20, 0)
    assert len(launcher.jobs) == len(plan.todo)


def test_the_cheapest_model_of_every_family_goes_first(tmp_path, monkeypatch):
    launcher = Launcher(monkeypatch)
    store = Store(tmp_path / "m")
    plan = run.plan(matrix.load("default"), HERE, store, Roots())
    looks = []
    run.run(
        plan,
        store,
        settings(tmp_path),
        launcher="local",
        show=lambda event: None,
        say=lambda text: None,
        look=lambda records: looks.append(len(records)),
    )
    first = launcher.jobs[: looks[0]]
    models = {
        (job.cell.backbone, job.cell.patch, job.cell.head, job.cell.height)
        for job in first
        if job.measure.name != "roof"
    }
    assert models == {
        (name, patch, "linear", 64)
        for name, patch in (("vit_pico", 8), ("deit_pico", 8), ("hybrid_pico", 8), ("swin_pico", 4))
    }
    assert {job.measure.name for job in first} == {"complexity", "latency", "memory", "accuracy", "roof"}
    assert len(launcher.jobs) == len(plan.planned), "the others follow, and nothing twice"
    assert looks[1:] == [*range(looks[0] + 1, len(plan.planned) + 1), len(plan.planned)]
    assert first_look([planned.job for planned in plan.planned][:6]) == [], "a short run has no use for it"


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A folder of own data in VOC's layout, and a cache of its own."""
    monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path / "cache"))
    return fixtures.write_voc(tmp_path / "own", train=30, val=4)


def on(question, root, store, **options):
    asked = question.override({"head": ["fcos_pico"], "dataset": ["voc:own"]})
    return run.plan(asked, HERE, store, Roots([str(root)]), **options)


def start(plan, store, tmp_path, **options):
    return run.run(
        plan, store, settings(tmp_path), launcher="local", show=lambda event: None, say=lambda text: None, **options
    )


def test_broken_files_are_a_list_before_anything_is_measured(question, own, tmp_path, monkeypatch):
    for index in (*range(22), 31):
        fixtures.truncate(own / "JPEGImages" / f"image_{index:03d}.jpg", 0.5)
    store = Store(tmp_path / "m")
    launcher = Launcher(monkeypatch)
    plan = on(question, own, store)
    with pytest.raises(UserError, match="voc:own: 23 of 34 images cannot be used, so nothing was measured") as error:
        start(plan, store, tmp_path)
    text = str(error.value)
    assert launcher.jobs == []
    assert store.records() == []
    assert text.count("cannot be read as an image") == 20
    assert "train: " in text
    assert text.endswith("and 3 more; `densebench data FOLDER` lists all")
    assert "--skip-broken leaves those of train out" in text


def test_what_does_not_train_is_measured_beside_broken_files(question, own, tmp_path, monkeypatch):
    fixtures.truncate(own / "JPEGImages" / "image_000.jpg", 0.5)
    store = Store(tmp_path / "m")
    launcher = Launcher(monkeypatch)
    start(on(question.override({"measure": ["complexity"]}), own, store), store, tmp_path)
    assert {job.measure.name for job in launcher.jobs} == {"complexity"}


def test_skipped_files_are_another_question_that_the_record_states(question, own, tmp_path, monkeypatch):
    store = Store(tmp_path / "m")
    Launcher(monkeypatch)
    start(on(question, own, store), store, tmp_path)
    assert on(question, own, store, skip_broken=True).todo == [], "nothing is broken, so nothing is skipped"
    for index in (3, 7):
        fixtures.truncate(own / "JPEGImages" / f"image_{index:03d}.jpg", 0.5)
    run._LEFT_OUT.clear()
    plan = on(question, own, store, skip_broken=True)
    assert {planned.job.measure.name for planned in plan.todo} == {"accuracy"}, "a latency does not depend on it"
    for planned in plan.todo:
        assert [path[-7:-4] for path in planned.job.without] == ["003", "007"]
    assert list(plan.notes) == ["voc:own"]
    launcher = Launcher(monkeypatch)
    start(plan, store, tmp_path)
    assert len(launcher.jobs) == len(plan.todo) > 0
    said = {record.inputs.get("dataset", "") for record in store.records() if record.measure == "accuracy"}
    assert len(said) == 2
    assert max(said).startswith("2 of 30 train images left out as broken (")
    assert on(question, own, store, skip_broken=True).todo == []


def test_what_is_judged_by_is_never_skipped(question, own, tmp_path):
    fixtures.truncate(own / "JPEGImages" / "image_002.jpg", 0.5)
    fixtures.truncate(own / "JPEGImages" / "image_031.jpg", 0.5)
    with pytest.raises(UserError, match=r"1 of 34 images cannot be used.* leaves images out of train alone") as error:
        on(question, own, Store(tmp_path / "m"), skip_broken=True)
    assert "val: " in str(error.value)
    assert "image_002" not in str(error.value)


def test_a_split_that_the_folder_does_not_state_is_in_every_record(question, own, tmp_path, monkeypatch):
    for name in ("train", "val"):
        (own / "ImageSets" / "Main" / f"{name}.txt").unlink()
    fixtures.write_list(own / "ImageSets" / "Main" / "default.txt", [f"image_{index:03d}" for index in range(34)])
    store = Store(tmp_path / "m")
    Launcher(monkeypatch)
    plan = on(question, own, store)
    start(plan, store, tmp_path)
    rule = "val is 20 % of the list ImageSets/Main/default.txt, by a hash of the names (seed 0)"
    assert plan.notes == {"voc:own": rule}
    assert {record.inputs.get("dataset") for record in store.records()} == {rule}
    assert on(question, own, store).todo == []


def test_a_folder_with_an_equals_sign_is_a_folder(tmp_path):
    folder = tmp_path / "run=3"
    folder.mkdir()
    assert Roots([str(folder)]).resolve("camvid") == ("camvid:run=3", folder.resolve())


def test_the_state_of_a_training_goes_when_it_is_recorded_and_stays_when_it_may_go_on(question, tmp_path, monkeypatch):
    store, question = Store(tmp_path / "m"), question.override({"measure": ["accuracy"], "seed": ["0"]})
    jobs = [planned.job for planned in run.plan(question, HERE, store, Roots()).planned]
    files = [states.path(tmp_path / "cache", job.key, HERE.id) for job in jobs]
    for status, left in (("timeout", 2), ("error", 2), ("oom", 2), ("ok", 0)):
        for file in files:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("x")
        launcher = Launcher(monkeypatch, script={"accuracy": status})
        go(question, store, tmp_path, retry=True)
        assert len(launcher.jobs) == 2
        assert sum(file.exists() for file in files) == left, status


def test_workers_are_told_which_environment_a_state_is_of(question, tmp_path, monkeypatch):
    told = []
    launcher = Launcher(monkeypatch)
    launch = launcher.launch
    launcher.launch = lambda jobs, settings: told.append(settings.environment) or launch(jobs, settings)
    entry = SimpleNamespace(load=lambda: SimpleNamespace(launch=launcher.launch))
    monkeypatch.setattr(
        catalogue, "get", lambda kind, name, real=catalogue.get: entry if kind == "launchers" else real(kind, name)
    )
    go(question, Store(tmp_path / "m"), tmp_path)
    assert set(told) == {HERE.id}


def test_what_was_trained_without_its_model_is_trained_again_where_models_are_kept(question, tmp_path, monkeypatch):
    store = Store(tmp_path / "m")
    Launcher(monkeypatch)
    go(question, store, tmp_path)
    plan = run.plan(question, HERE, store, Roots(), keep_models=True)
    assert {planned.job.measure.name for planned in plan.todo} == {"accuracy"}
    folder = store.folder / models.FOLDER
    folder.mkdir()
    (folder / f"{'a' * 16}.safetensors").write_text("x")
    records = [
        replace(record, values={**record.values, MODEL: "a" * 16}) if record.measure == "accuracy" else record
        for record in store.records()
    ]
    store.path.write_text("".join(record.line() for record in records))
    assert run.plan(question, HERE, store, Roots(), keep_models=True).todo == []


def test_a_cell_names_a_kept_model_in_full_and_its_digest_joins_the_record(question, tmp_path, monkeypatch):
    cell = Cell(**{**CELL, "recipe": "smoke", "height": 64, "width": 64})
    case = resolve(cell, cache=tmp_path / "cache")
    digest = kept.keep(build.of_case(case), case, tmp_path / "other" / models.FOLDER)
    axes = {"backbone": ["vit_pico"], "weights": [f"trained:{digest[:6]}"], "seed": ["0"], "recipe": ["probe"]}
    question = question.override(axes)
    store = Store(tmp_path / "m")
    Launcher(monkeypatch)
    plan, _ = go(question, store, tmp_path)
    path = tmp_path / "other" / models.FOLDER / f"{digest}.safetensors"
    for planned in plan.planned:
        assert (planned.job.cell.weights, planned.job.trained) == (f"trained:{digest}", path)
    assert {record.inputs["weights"] for record in store.records()} == {digest[:12]}
    path.unlink()
    with pytest.raises(UserError, match="no kept model begins with"):
        run.plan(question, HERE, store, Roots())


def dates(plan):
    """When the accuracies began that a plan has."""
    return {one.done.started for one in plan.planned if one.done is not None and one.done.measure == "accuracy"}


@pytest.mark.parametrize("first", ["error", "oom", "ok"])
def test_a_clock_that_was_set_back_hides_no_figure_and_has_nothing_measured_twice(
    question, tmp_path, monkeypatch, first
):
    """The first records are of 2031, by a wrong clock; what was measured since is later all the same."""
    store, options = Store(tmp_path / "m"), {"retry": True, "keep_models": first == "ok"}
    Launcher(monkeypatch, script={"accuracy": first}, started="2031-01-01T00:00:00+00:00")
    go(question, store, tmp_path)
    again = Launcher(monkeypatch, started="2026-05-01T00:00:00+00:00")
    _, summary = go(question, store, tmp_path, **options)
    assert {job.measure.name for job in again.jobs} == {"accuracy"}
    new = [record for record in store.records()[8:] if record.measure == "accuracy"]
    assert {record.started for record in new} == {"2026-05-01T00:00:00+00:00"}, "what the clock said"
    assert {record.values[AFTER] for record in new} == {"2031-01-01T00:00:00+00:00"}
    assert summary.failed == {}
    parts = [row.parts["accuracy"] for table in read(store.folder).tables for row in table.rows]
    shown = [record for part in parts for record in part.records]
    assert {(record.status, record.started) for record in shown} == {("ok", "2026-05-01T00:00:00+00:00")}
    plan = run.plan(question, HERE, store, Roots())
    assert plan.todo == []
    assert dates(plan) == {"2026-05-01T00:00:00+00:00"}
    # A third time, by a clock that goes on from there: nothing is lost to the one of 2031.
    Launcher(monkeypatch, started="2026-06-01T00:00:00+00:00")
    go(question, store, tmp_path, keep_models=True)
    assert dates(run.plan(question, HERE, store, Roots())) == {"2026-06-01T00:00:00+00:00"}


def test_the_order_of_time_is_that_of_clocks_where_none_was_set_back():
    early = Record("m", 1, {}, {}, "e", "ok", started="2026-01-01")
    late = replace(early, started="2026-02-01")
    assert better(late, early)
    assert not better(early, late), "of somebody else's, who measured before"
    assert better(replace(early, values={AFTER: "2026-02-01"}), late)


def test_figures_of_another_torch_or_driver_meet_in_no_table_and_answer_no_run(question, tmp_path, monkeypatch):
    store = Store(tmp_path / "results" / "m")
    Launcher(monkeypatch)
    go(question, store, tmp_path)
    packages = {**HERE.packages, "torch": "9.9.9"}
    others = (
        replace(HERE, id="torch", comparable="torch", packages=packages),
        replace(HERE, id="driver", comparable="driver", driver="999.1"),
    )
    for other in others:
        plan = run.plan(question, other, store, Roots())
        assert len(plan.todo) == 8, "nothing answers for it"
        with store.writing() as writer:
            writer.environment(vars(other))
            for record in store.records()[:8]:
                writer.record(replace(record, environment=other.id))
        assert run.plan(question, other, store, Roots()).todo == []
    reading = read(store.folder)
    assert len({table.environment.comparable for table in reading.tables}) == 3
    for table in reading.tables:
        ids = {one.environment for row in table.rows for part in row.parts.values() for one in part.records}
        assert len(ids) == 1, "no table mixes two"
    report(store.folder)
    text = (store.folder / "segmentation.md").read_text()
    assert "torch 9.9.9" in text
    assert f"torch {HERE.packages['torch']}" in text
